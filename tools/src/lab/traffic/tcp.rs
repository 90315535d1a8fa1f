//! TCP: bulk transfers by `iperf3`, and bare connections.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::super::command::{Process, wait_until};
use super::super::{LabError, Namespace};

/// The first port a transfer's server listens on; iperf3's own default.
const FIRST_PORT: u16 = 5201;
/// How many ports are used in turn, so that transfers side by side never share one.
const PORTS: u16 = 1000;
/// How long iperf3's client tries to connect, in milliseconds.
const CONNECT_TIMEOUT_MS: &str = "3000";
/// How long a server may take to listen.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to end after its one client.
const SERVER_END: Duration = Duration::from_secs(5);
/// The state LISTEN in `/proc/net/tcp` (include/net/tcp_states.h).
const LISTEN: &str = "0A";

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);

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
    pub address: Ipv4Addr,
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
    let port = FIRST_PORT + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % PORTS;
    let (address, port_word) = (transfer.address.to_string(), port.to_string());
    let log = tempfile::NamedTempFile::new().map_err(LabError::io("make a file for iperf3's output"))?;
    let mut line = transfer.to.command("iperf3");
    line.args(["-s", "-1", "-B", &address, "-p", &port_word]);
    let mut server = Process::spawn(line, log.path())?;
    wait_until(
        &format!("iperf3 listening on {address}:{port}"),
        LISTEN_TIMEOUT,
        || {
            server.check_running()?;
            listens(transfer.to, port)
        },
    )?;

    let amount = match transfer.amount {
        Amount::Seconds(seconds) => ["-t".to_owned(), seconds.to_string()],
        Amount::Bytes(bytes) => ["-n".to_owned(), bytes.to_string()],
    };
    let mut words = vec![
        "-c",
        &address,
        "-p",
        &port_word,
        "-J",
        "--connect-timeout",
        CONNECT_TIMEOUT_MS,
    ];
    words.extend(amount.iter().map(String::as_str));
    let finished = transfer.from.complete("iperf3", &words, transfer.timeout)?;
    let report = parse(&finished.stdout).map_err(|problem| LabError::Output {
        command: finished.command.clone(),
        problem,
    })?;
    finished.success()?;
    // The client is content; a server that lingers is ended when it is dropped.
    let _ = server.wait(SERVER_END);
    Ok(report)
}

/// Reads iperf3's JSON report.
fn parse(text: &str) -> Result<TcpReport, String> {
    let report: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        return Err(error.to_owned());
    }
    let field = |path: &str| {
        report
            .pointer(path)
            .ok_or_else(|| format!("no {path} in the report"))
    };
    let whole = |path: &str| {
        field(path)?
            .as_u64()
            .ok_or_else(|| format!("{path} is not a number"))
    };
    let rate = "/end/sum_received/bits_per_second";
    Ok(TcpReport {
        received_bytes: whole("/end/sum_received/bytes")?,
        bits_per_second: field(rate)?
            .as_f64()
            .ok_or_else(|| format!("{rate} is not a number"))?,
        retransmits: whole("/end/sum_sent/retransmits")?,
    })
}

/// Whether anyone in the namespace listens on a TCP port.
fn listens(namespace: &Namespace, port: u16) -> Result<bool, LabError> {
    let tables = namespace.within(|| {
        let read = |table: &str| match fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            other => other,
        };
        Ok(read("tcp")? + &read("tcp6")?)
    })?;
    let tables = tables.map_err(LabError::io(format!("read the sockets of {}", namespace.name())))?;
    Ok(tables.lines().any(|line| is_listener(line, port)))
}

/// Whether a line of `/proc/net/tcp` is a listening socket on `port`.
fn is_listener(line: &str, port: u16) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let (local, state) = (words.next(), words.nth(1));
    state == Some(LISTEN) && local.is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
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
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_failure_is_told_in_iperfs_words() {
        let rows = [
            (
                r#"{"end":{},"error":"unable to connect: No route to host"}"#,
                "unable to connect: No route to host",
            ),
            (
                r#"{"end":{"sum_received":{"bytes":1}}}"#,
                "no /end/sum_received/bits_per_second in the report",
            ),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text).unwrap_err(), expected);
        }
        assert!(parse("iperf3: not JSON").is_err());
    }

    #[test]
    fn only_listeners_on_the_port_count() {
        let listener = "   0: 0200000A:1451 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1";
        let connected = "   1: 0200000A:1451 0300000A:9999 01 00000000:00000000 00:00000000 00000000 0 0 1 1";
        assert!(is_listener(listener, 5201));
        assert!(!is_listener(listener, 5202));
        assert!(!is_listener(connected, 5201));
        assert!(!is_listener("  sl  local_address rem_address   st", 5201));
    }
}
