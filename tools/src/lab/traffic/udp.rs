//! UDP: an echo server, and an exchange that checks every byte both ways.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::{LabError, Namespace, interrupt};

/// Larger than any datagram.
const BUFFER: usize = 65_536;
/// How often a server that hears nothing looks whether it is to end.
const SERVER_BEAT: Duration = Duration::from_millis(50);
/// Bytes of the sequence number every datagram starts with.
const SEQUENCE_BYTES: usize = 4;
/// Datagrams that are longer than a page lie in several, and each counts whole against the receive buffer that a socket
/// is given unless it asks for more: more of 9000 bytes at once than [`FEW`] would be lost by the receiving kernel.
const LONG: usize = 4096;
/// How many short ones may be on their way.
const MANY: usize = 8;
/// How many long ones.
const FEW: usize = 4;
/// Bytes of IPv4 and UDP header.
const UDP_HEADERS_V4: u32 = 28;

/// A server in a namespace that sends every datagram back to where it came from. Dropping it ends it.
#[derive(Debug)]
pub struct UdpEcho {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Starts a server on `address`, on a port of the kernel's choice. It answers from that very address.
    pub fn start(namespace: &Namespace, address: IpAddr) -> Result<Self, LabError> {
        let action = || format!("serve UDP on {address} in {}", namespace.name());
        let socket = bind(namespace, address).map_err(LabError::io(action()))?;
        let address = socket.local_addr().map_err(LabError::io(action()))?;
        socket
            .set_read_timeout(Some(SERVER_BEAT))
            .map_err(LabError::io(action()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("udp-echo".to_owned())
            .spawn(move || echo(&socket, &seen));
        let thread = thread.map_err(LabError::io("start a thread"))?;
        Ok(Self {
            address,
            stop,
            thread: Some(thread),
        })
    }

    /// Where the server is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Binds a socket inside a namespace.
fn bind(namespace: &Namespace, address: IpAddr) -> io::Result<UdpSocket> {
    namespace
        .within(|| UdpSocket::bind((address, 0)))
        .map_err(io::Error::other)?
}

/// The server's loop. An error on one datagram (an ICMP error that came back, say) concerns that one alone.
pub(super) fn echo(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; BUFFER];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
        }
    }
}

/// What to send.
#[derive(Clone, Debug)]
pub struct UdpExchange {
    /// How many datagrams.
    pub count: u32,
    /// Bytes of payload of the largest; sizes between it and the smallest take turns.
    pub largest: usize,
    /// How many may be on their way at once.
    pub window: usize,
    /// How long to wait for an answer before all that are on their way are given up.
    pub patience: Duration,
}

impl UdpExchange {
    /// As [`up_to`](Self::up_to), for packets to this address.
    #[must_use]
    pub fn up_to_at(target: IpAddr, mtu: u32) -> Self {
        Self::up_to(mtu.saturating_sub(super::ping::more_than_v4(target)))
    }

    /// A few hundred datagrams, the largest of which fill an IPv4 packet of exactly `mtu` bytes.
    #[must_use]
    pub fn up_to(mtu: u32) -> Self {
        let largest = usize::try_from(mtu.saturating_sub(UDP_HEADERS_V4)).unwrap_or(usize::MAX);
        Self {
            count: 200,
            largest,
            window: if largest > LONG { FEW } else { MANY },
            patience: Duration::from_secs(2),
        }
    }

    /// The length of a datagram, in bytes: the first is of the largest size, the others vary.
    fn length(&self, sequence: u32) -> usize {
        let spread = self.largest.saturating_sub(SEQUENCE_BYTES).max(1);
        // A prime step visits sizes all over the range, odd ones too.
        let step = usize::try_from(sequence).unwrap_or(0) * 97 % spread;
        self.largest.max(SEQUENCE_BYTES) - step
    }

    /// The bytes of a datagram: its number, then a pattern that differs from datagram to datagram.
    fn datagram(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = sequence.to_be_bytes().to_vec();
        let [_, _, high, low] = sequence.to_be_bytes();
        let pattern = (0..=u8::MAX)
            .cycle()
            .map(|byte| byte.wrapping_mul(31) ^ low ^ high.rotate_left(3));
        bytes.extend(pattern.take(self.length(sequence) - SEQUENCE_BYTES));
        bytes
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UdpReport {
    /// Datagrams sent.
    pub sent: u32,
    /// Datagrams that came back once, byte for byte.
    pub intact: u32,
    /// Datagrams that came back with other bytes, or that were never sent.
    pub damaged: u32,
    /// Datagrams that came back again.
    pub repeated: u32,
    /// Payload per second each way, in bits.
    pub bits_per_second: f64,
}

impl UdpReport {
    /// Whether everything that was sent came back once and unchanged.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.sent == self.intact && self.damaged == 0 && self.repeated == 0
    }
}

/// Sends datagrams from inside a namespace to an echo server, and compares what comes back.
///
/// # Errors
/// [`LabError::Io`] if the kernel refuses to send, or hands over an ICMP error.
pub fn udp_exchange(from: &Namespace, to: SocketAddr, what: &UdpExchange) -> Result<UdpReport, LabError> {
    let action = || format!("exchange UDP from {} with {to}", from.name());
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let socket = bind(from, any).map_err(LabError::io(action()))?;
    socket
        .connect(to)
        .and_then(|()| socket.set_read_timeout(Some(what.patience)))
        .map_err(LabError::io(action()))?;
    let report = exchange(&socket, what, interrupt::raised).map_err(LabError::io(action()))?;
    interrupt::check()?;
    Ok(report)
}

/// Keeps a window of datagrams on their way until all came back or patience ends.
pub(super) fn exchange(
    socket: &UdpSocket,
    what: &UdpExchange,
    stop: impl Fn() -> bool,
) -> io::Result<UdpReport> {
    let mut report = UdpReport::default();
    let mut missing = BTreeSet::new();
    let mut buffer = vec![0; BUFFER];
    let mut bits = 0.0;
    let started = Instant::now();
    while (report.sent < what.count || !missing.is_empty()) && !stop() {
        while report.sent < what.count && missing.len() < what.window.max(1) {
            socket.send(&what.datagram(report.sent))?;
            missing.insert(report.sent);
            report.sent += 1;
        }
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if is_timeout(&error) => break,
            Err(error) => return Err(error),
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        match identify(bytes, what, report.sent) {
            None => report.damaged += 1,
            Some(sequence) if missing.remove(&sequence) => {
                report.intact += 1;
                bits += f64::from(u32::try_from(length).unwrap_or(u32::MAX)) * 8.0;
            }
            Some(_) => report.repeated += 1,
        }
        if report.damaged + report.repeated > what.count {
            // Whoever sends this is no echo server, and need not ever end.
            break;
        }
    }
    report.bits_per_second = bits / started.elapsed().as_secs_f64().max(f64::EPSILON);
    Ok(report)
}

/// The number of a datagram that was sent and came back unchanged.
fn identify(bytes: &[u8], what: &UdpExchange, sent: u32) -> Option<u32> {
    let sequence = u32::from_be_bytes(*bytes.first_chunk()?);
    (sequence < sent && what.datagram(sequence) == bytes).then_some(sequence)
}

/// Whether a read ended for want of a datagram.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A server on the loopback that answers datagram by datagram with what `answer` makes of it.
    fn against(answer: impl Fn(u32, &[u8]) -> Vec<Vec<u8>> + Send + 'static) -> UdpReport {
        let what = UdpExchange {
            patience: Duration::from_millis(200),
            ..UdpExchange::up_to(1450)
        };
        let (server, client) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        client.connect(server.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(what.patience)).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let serving = thread::spawn(move || {
            let mut buffer = [0; 2048];
            let mut number = 0;
            while let Ok((length, from)) = server.recv_from(&mut buffer) {
                for bytes in answer(number, &buffer[..length]) {
                    server.send_to(&bytes, from).unwrap();
                }
                number += 1;
            }
        });
        let report = exchange(&client, &what, || false).unwrap();
        serving.join().unwrap();
        report
    }

    #[test]
    fn a_faithful_echo_is_whole() {
        let report = against(|_, bytes| vec![bytes.to_vec()]);
        assert!(report.is_whole(), "{report:?}");
        assert_eq!((report.sent, report.intact), (200, 200));
        assert!(report.bits_per_second > 0.0);
    }

    #[test]
    fn loss_damage_and_repeats_are_told_apart() {
        let lossy = against(|number, bytes| if number == 3 { vec![] } else { vec![bytes.to_vec()] });
        assert_eq!(
            (lossy.intact, lossy.damaged, lossy.is_whole()),
            (lossy.sent - 1, 0, false),
            "{lossy:?}"
        );

        let damaging = against(|number, bytes| {
            let mut bytes = bytes.to_vec();
            if number == 3 {
                *bytes.last_mut().unwrap() ^= 1;
            }
            vec![bytes]
        });
        assert_eq!(
            (damaging.damaged, damaging.is_whole()),
            (1, false),
            "{damaging:?}"
        );

        let repeating = against(|number, bytes| vec![bytes.to_vec(); if number == 3 { 2 } else { 1 }]);
        assert_eq!(
            (repeating.repeated, repeating.is_whole()),
            (1, false),
            "{repeating:?}"
        );
    }

    #[test]
    fn sizes_start_with_the_largest_and_vary() {
        let what = UdpExchange::up_to(1450);
        let lengths: Vec<usize> = (0..what.count)
            .map(|sequence| what.datagram(sequence).len())
            .collect();
        assert_eq!(lengths[0], 1422);
        assert!(
            lengths
                .iter()
                .all(|length| (SEQUENCE_BYTES..=1422).contains(length)),
            "{lengths:?}"
        );
        assert!(lengths.iter().collect::<BTreeSet<_>>().len() > 150);
        assert!(lengths.iter().any(|length| length % 2 == 1) && lengths.iter().min() < Some(&100));
        let tiny = UdpExchange { largest: 0, ..what };
        assert_eq!(tiny.datagram(9).len(), SEQUENCE_BYTES);
    }
}
