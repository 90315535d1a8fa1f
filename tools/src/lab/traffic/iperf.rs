//! `iperf3`: one server for one client, and its report.

use std::fs;
use std::io;
use std::net::IpAddr;
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

/// Between whom a transfer is.
#[derive(Clone, Copy, Debug)]
pub struct Ends<'a> {
    /// Where the client is, which sends.
    pub from: &'a Namespace,
    /// Where the server is.
    pub to: &'a Namespace,
    /// The server's address.
    pub address: IpAddr,
}

/// What a transfer over several streams sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// TCP, so many connections.
    Tcp {
        /// The connections.
        streams: u32,
    },
    /// UDP, one flow, as fast as the client sends.
    Udp {
        /// Payload of each datagram, in bytes.
        payload: u32,
    },
}

/// What came of a [`bulk_transfer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BulkReport {
    /// Payload that the receiver got per second, in bits.
    pub bits_per_second: f64,
    /// Payload that the client sent per second, in bits.
    pub sent_bits_per_second: f64,
}

/// Sends as much as goes for so many seconds.
///
/// # Errors
/// [`LabError::Output`] with iperf3's own words if a connection failed or broke.
pub fn bulk_transfer(
    ends: Ends<'_>,
    load: Load,
    seconds: u32,
    timeout: Duration,
) -> Result<BulkReport, LabError> {
    let seconds = seconds.to_string();
    let number = match load {
        Load::Tcp { streams } => streams.to_string(),
        Load::Udp { payload } => payload.to_string(),
    };
    let mut words = vec!["-t", &seconds];
    match load {
        Load::Tcp { .. } => words.extend(["-P", &number]),
        Load::Udp { .. } => words.extend(["-u", "-b", "0", "-l", &number]),
    }
    run(ends, &words, timeout, parse)
}

fn parse(report: &Value) -> Result<BulkReport, String> {
    Ok(BulkReport {
        bits_per_second: float(report, "/end/sum_received/bits_per_second")?,
        sent_bits_per_second: float(report, "/end/sum_sent/bits_per_second")?,
    })
}

/// Runs a server and a client with these words, and reads the client's report. The server is started for this transfer
/// alone and is gone afterwards.
pub(super) fn run<T>(
    ends: Ends<'_>,
    words: &[&str],
    timeout: Duration,
    read: impl FnOnce(&Value) -> Result<T, String>,
) -> Result<T, LabError> {
    let port = FIRST_PORT + NEXT_PORT.fetch_add(1, Ordering::Relaxed) % PORTS;
    let (address, port_word) = (ends.address.to_string(), port.to_string());
    let log = tempfile::NamedTempFile::new().map_err(LabError::io("make a file for iperf3's output"))?;
    let mut line = ends.to.command("iperf3");
    line.args(["-s", "-1", "-B", &address, "-p", &port_word]);
    let mut server = Process::spawn(line, log.path())?;
    wait_until(
        &format!("iperf3 listening on {address}:{port}"),
        LISTEN_TIMEOUT,
        || {
            server.check_running()?;
            listens(ends.to, port)
        },
    )?;
    let mut all = vec!["-c", &address, "-p", &port_word, "-J"];
    all.extend(["--connect-timeout", CONNECT_TIMEOUT_MS]);
    all.extend(words);
    let finished = ends.from.complete("iperf3", &all, timeout)?;
    let report = understand(&finished.stdout).and_then(|report| read(&report));
    let report = report.map_err(|problem| LabError::Output {
        command: finished.command.clone(),
        problem,
    })?;
    finished.success()?;
    // The client is content; a server that lingers is ended when it is dropped.
    let _ = server.wait(SERVER_END);
    Ok(report)
}

/// Reads iperf3's JSON report, if it is not one of a failure.
pub(super) fn understand(text: &str) -> Result<Value, String> {
    let report: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    match report.get("error").and_then(Value::as_str) {
        Some(error) => Err(error.to_owned()),
        None => Ok(report),
    }
}

fn field<'a>(report: &'a Value, path: &str) -> Result<&'a Value, String> {
    report
        .pointer(path)
        .ok_or_else(|| format!("no {path} in the report"))
}

pub(super) fn whole(report: &Value, path: &str) -> Result<u64, String> {
    field(report, path)?
        .as_u64()
        .ok_or_else(|| format!("{path} is not a number"))
}

pub(super) fn float(report: &Value, path: &str) -> Result<f64, String> {
    field(report, path)?
        .as_f64()
        .ok_or_else(|| format!("{path} is not a number"))
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_bulk_transfer_tells_what_was_sent_and_what_came() {
        let text = r#"{"end":{"sum":{"bits_per_second":9e9},"sum_sent":{"bits_per_second":9e9},
                       "sum_received":{"bytes":1,"bits_per_second":2e9}}}"#;
        let expected = BulkReport {
            bits_per_second: 2e9,
            sent_bits_per_second: 9e9,
        };
        assert_eq!(parse(&understand(text).unwrap()).unwrap(), expected);
    }

    #[test]
    fn a_failure_is_told_in_iperfs_words() {
        let failed = r#"{"end":{},"error":"unable to connect: No route to host"}"#;
        assert_eq!(
            understand(failed).unwrap_err(),
            "unable to connect: No route to host"
        );
        assert!(understand("iperf3: not JSON").is_err());
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
