//! Echo requests, by the stock `ping`.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use super::super::{LabError, Namespace};

/// Bytes of IPv4 and ICMP header in an echo request without options.
const ECHO_HEADERS_V4: u32 = 28;
/// Bytes of an IPv6 header that one of IPv4 without options has not.
const MORE_IN_V6: u32 = 20;
/// How long the command may outlast the wait for the last answer.
const SLACK: Duration = Duration::from_secs(5);

/// What to send.
#[derive(Clone, Debug)]
pub struct Ping {
    /// How many requests.
    pub count: u32,
    /// Bytes of payload.
    pub payload: u32,
    /// Whether to set "don't fragment", and not to fragment at the source either.
    pub dont_fragment: bool,
    /// Between two requests.
    pub interval: Duration,
    /// How long to wait for each answer.
    pub patience: Duration,
}

impl Default for Ping {
    /// Three requests of the usual size in quick succession.
    fn default() -> Self {
        let (interval, patience) = (Duration::from_millis(10), Duration::from_secs(2));
        Self {
            count: 3,
            payload: 56,
            dont_fragment: false,
            interval,
            patience,
        }
    }
}

impl Ping {
    /// Requests that fill a packet to this address of exactly `mtu` bytes and must not be fragmented.
    #[must_use]
    pub fn full_size_to(target: IpAddr, mtu: u32) -> Self {
        Self::full_size(mtu.saturating_sub(more_than_v4(target)))
    }

    /// Requests that fill an IPv4 packet of exactly `mtu` bytes and must not be fragmented.
    #[must_use]
    pub fn full_size(mtu: u32) -> Self {
        let payload = mtu.saturating_sub(ECHO_HEADERS_V4);
        Self {
            payload,
            dont_fragment: true,
            ..Self::default()
        }
    }
}

/// How many bytes more the header of a packet to this address has than one of IPv4.
pub(super) fn more_than_v4(target: IpAddr) -> u32 {
    if target.is_ipv6() { MORE_IN_V6 } else { 0 }
}

/// What came back.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Answers received.
    pub received: u32,
    /// Round-trip time of each answer, in milliseconds, in the order they came.
    pub round_trips_ms: Vec<f64>,
    /// What `ping` said of the rest: ICMP errors, local ones, and answers that came twice.
    pub complaints: Vec<String>,
}

/// Pings `target` from inside a namespace.
///
/// Each request is a `ping` of its own: one that has heard some answers waits for the rest only twice as long as the
/// slowest of those took (iputils' `__schedule_exit`), which on a busy machine is too short.
///
/// # Errors
/// [`LabError::Output`] if `ping` ended without its closing count, as for an address it does not take.
pub fn ping(from: &Namespace, target: IpAddr, what: &Ping) -> Result<PingReport, LabError> {
    let mut all = PingReport::default();
    for number in 0..what.count {
        if number > 0 {
            thread::sleep(what.interval);
        }
        let one = ping_once(from, target, what)?;
        all.sent += one.sent;
        all.received += one.received;
        all.round_trips_ms.extend(one.round_trips_ms);
        all.complaints.extend(one.complaints);
    }
    Ok(all)
}

fn ping_once(from: &Namespace, target: IpAddr, what: &Ping) -> Result<PingReport, LabError> {
    let (payload, target) = (what.payload.to_string(), target.to_string());
    let patience = format!("{:.3}", what.patience.as_secs_f64());
    let mut words = vec!["-n", "-c", "1", "-s", &payload, "-W", &patience];
    words.extend(what.dont_fragment.then_some(["-M", "do"]).into_iter().flatten());
    words.push(&target);
    let finished = from.complete("ping", &words, what.patience + SLACK)?;
    // Status 1 means that the answer is missing, which the report tells.
    parse(&finished.stdout, &finished.stderr).ok_or_else(|| LabError::Output {
        command: finished.command,
        problem: format!("{}{}", finished.stdout, finished.stderr)
            .trim()
            .to_owned(),
    })
}

/// Reads what iputils' ping prints; nothing if the closing count is missing.
fn parse(stdout: &str, stderr: &str) -> Option<PingReport> {
    let mut report = PingReport::default();
    let mut counted = false;
    for line in stdout.lines().chain(stderr.lines()).map(str::trim) {
        if let Some((sent, rest)) = line.split_once(" packets transmitted, ") {
            report.sent = sent.parse().ok()?;
            report.received = rest.split(' ').next()?.parse().ok()?;
            counted = true;
        } else if line.ends_with("(DUP!)") {
            report.complaints.push(line.to_owned());
        } else if let Some(time) = line.split("time=").nth(1) {
            report.round_trips_ms.push(time.split(' ').next()?.parse().ok()?);
        } else if line.starts_with("From ") || line.starts_with("ping: ") {
            report.complaints.push(line.to_owned());
        }
    }
    counted.then_some(report)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_and_timed() {
        let text = "PING 10.244.2.2 (10.244.2.2) 56(84) bytes of data.\n\
                    64 bytes from 10.244.2.2: icmp_seq=1 ttl=62 time=0.215 ms\n\
                    64 bytes from 10.244.2.2: icmp_seq=2 ttl=62 time=12 ms\n\n\
                    --- 10.244.2.2 ping statistics ---\n\
                    2 packets transmitted, 2 received, 0% packet loss, time 10ms\n\
                    rtt min/avg/max/mdev = 0.215/6.1/12/5.9 ms\n";
        let report = parse(text, "").unwrap();
        assert_eq!((report.sent, report.received), (2, 2));
        assert_eq!(report.round_trips_ms, [0.215, 12.0]);
        assert!(report.complaints.is_empty());
    }

    #[test]
    fn errors_are_kept() {
        let text = "PING 10.244.2.2 (10.244.2.2) 2000(2028) bytes of data.\n\
                    From 10.244.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1450)\n\n\
                    --- 10.244.2.2 ping statistics ---\n\
                    2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 10ms\n";
        let report = parse(text, "ping: local error: message too long, mtu=1450\n").unwrap();
        assert_eq!((report.sent, report.received), (2, 0));
        assert_eq!(
            report.complaints,
            [
                "From 10.244.1.1 icmp_seq=1 Frag needed and DF set (mtu = 1450)",
                "ping: local error: message too long, mtu=1450"
            ]
        );
    }

    #[test]
    fn a_repeated_answer_is_a_complaint_and_no_answer() {
        let text = "64 bytes from 10.244.2.2: icmp_seq=1 ttl=62 time=0.2 ms\n\
                    64 bytes from 10.244.2.2: icmp_seq=1 ttl=62 time=0.3 ms (DUP!)\n\
                    1 packets transmitted, 1 received, +1 duplicates, 0% packet loss, time 0ms\n";
        let report = parse(text, "").unwrap();
        assert_eq!(
            (
                report.received,
                report.round_trips_ms.len(),
                report.complaints.len()
            ),
            (1, 1, 1)
        );
    }

    #[test]
    fn no_count_is_no_report() {
        assert_eq!(parse("", "ping: connect: Network is unreachable\n"), None);
        assert_eq!(parse("x packets transmitted, 2 received", ""), None);
    }

    #[test]
    fn full_size_fills_the_packet() {
        let ping = Ping::full_size(1450);
        assert_eq!((ping.payload, ping.dont_fragment), (1422, true));
        let target = "fd00:2::2".parse().unwrap();
        assert_eq!(Ping::full_size_to(target, 1430).payload, 1382);
    }
}
