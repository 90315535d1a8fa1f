//! TCP: bulk transfers by `iperf3`, and bare connections.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::super::{LabError, Namespace};
use super::iperf::{self, Ends};

/// When a transfer is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// After so many seconds.
    Seconds(u32),
    /// After so many bytes.
    Bytes(u64),
}

/// A transfer from a client to a server.
#[derive(Clone, Copy, Debug)]
pub struct TcpTransfer<'a> {
    /// Where the client is, which sends.
    pub from: &'a Namespace,
    /// Where the server is.
    pub to: &'a Namespace,
    /// The server's address.
    pub address: IpAddr,
    /// How much to send.
    pub amount: Amount,
    /// How long the whole may take.
    pub timeout: Duration,
}

/// What came of a transfer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpReport {
    /// Payload received, in bytes.
    pub received_bytes: u64,
    /// Rate at the receiver, in bits of payload per second.
    pub bits_per_second: f64,
    /// Segments sent again.
    pub retransmits: u64,
}

/// Transfers data over one connection. The server is started for this transfer alone and is gone afterwards.
///
/// # Errors
/// [`LabError::Output`] with iperf3's own words if the connection failed or broke.
pub fn tcp_transfer(transfer: &TcpTransfer<'_>) -> Result<TcpReport, LabError> {
    let amount = match transfer.amount {
        Amount::Seconds(seconds) => ["-t".to_owned(), seconds.to_string()],
        Amount::Bytes(bytes) => ["-n".to_owned(), bytes.to_string()],
    };
    let words = amount.each_ref().map(String::as_str);
    let ends = Ends {
        from: transfer.from,
        to: transfer.to,
        address: transfer.address,
    };
    iperf::run(ends, &words, transfer.timeout, parse)
}

/// Reads iperf3's report.
fn parse(report: &Value) -> Result<TcpReport, String> {
    Ok(TcpReport {
        received_bytes: iperf::whole(report, "/end/sum_received/bytes")?,
        bits_per_second: iperf::float(report, "/end/sum_received/bits_per_second")?,
        retransmits: iperf::whole(report, "/end/sum_sent/retransmits")?,
    })
}

/// Opens a connection from inside a namespace. It stays usable outside.
///
/// # Errors
/// [`LabError::Io`] if it does not come about within `timeout`.
pub fn tcp_connect(from: &Namespace, to: SocketAddr, timeout: Duration) -> Result<TcpStream, LabError> {
    let connected = from.within(|| TcpStream::connect_timeout(&to, timeout))?;
    connected.map_err(LabError::io(format!("connect from {} to {to}", from.name())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_receivers() {
        let text = r#"{"end":{"sum_sent":{"bits_per_second":9e9,"retransmits":7},
                       "sum_received":{"bytes":125000000,"bits_per_second":1e9}}}"#;
        let expected = TcpReport {
            received_bytes: 125_000_000,
            bits_per_second: 1e9,
            retransmits: 7,
        };
        assert_eq!(parse(&iperf::understand(text).unwrap()).unwrap(), expected);
    }

    #[test]
    fn a_report_without_a_rate_is_none() {
        let report = iperf::understand(r#"{"end":{"sum_received":{"bytes":1}}}"#).unwrap();
        assert_eq!(
            parse(&report).unwrap_err(),
            "no /end/sum_received/bits_per_second in the report"
        );
    }
}
