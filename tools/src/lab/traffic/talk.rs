//! Talk on many flows at once between two programs: every flow has a port of its own, so that whoever spreads flows over
//! queues has something to spread, and every byte that comes back is looked at.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::{LabError, interrupt};
use super::udp::{self, UdpExchange, UdpReport};

/// How long a connection or an answer may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Packets of this size fit through a tunnel on an Ethernet of 1500 bytes.
const PACKET_BYTES: u32 = 1450;
/// Bytes written or read at a time.
const PIECE: usize = 16 << 10;

/// What is to be said.
#[derive(Clone, Copy, Debug)]
pub struct Talk {
    /// How many connections at once, and then how many UDP sockets.
    pub flows: u32,
    /// Bytes over each connection, each way.
    pub bytes: usize,
    /// Datagrams on each UDP socket, each way, of sizes up to what a tunnel carries.
    pub datagrams: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TalkReport {
    /// Connections over which every byte came back as it was sent.
    pub connections: u32,
    /// What went wrong with the others.
    pub problems: Vec<String>,
    /// Datagrams sent.
    pub datagrams_sent: u32,
    /// Datagrams that came back as they were sent, once.
    pub datagrams_intact: u32,
    /// Answers that were changed, or came again.
    pub datagrams_wrong: u32,
}

impl TalkReport {
    /// Whether all that was to be said came back.
    #[must_use]
    pub fn is_whole(&self, talk: &Talk) -> bool {
        let datagrams = talk.flows * talk.datagrams;
        self.connections == talk.flows
            && (self.datagrams_sent, self.datagrams_intact) == (datagrams, datagrams)
            && self.datagrams_wrong == 0
    }

    /// The report as a line of JSON.
    ///
    /// # Errors
    /// None that such a report can cause.
    pub fn to_json(&self) -> Result<String, LabError> {
        serde_json::to_string(self).map_err(|error| Self::unreadable(&error))
    }

    /// Reads [`to_json`](Self::to_json)'s line.
    pub fn from_json(line: &str) -> Result<Self, LabError> {
        serde_json::from_str(line).map_err(|error| Self::unreadable(&error))
    }

    fn unreadable(error: &serde_json::Error) -> LabError {
        LabError::Output {
            command: "millrace-guest talk".to_owned(),
            problem: error.to_string(),
        }
    }
}

/// Sends back whatever comes to `at`, over TCP and UDP, for as long as the program lives.
///
/// # Errors
/// If the address cannot be had, or a connection cannot be accepted.
pub fn echo(at: SocketAddr) -> Result<(), LabError> {
    let action = || LabError::io(format!("listen on {at}"));
    let listener = TcpListener::bind(at).map_err(action())?;
    let socket = UdpSocket::bind(at).map_err(action())?;
    thread::spawn(move || udp::echo(&socket, &AtomicBool::new(false)));
    for stream in listener.incoming() {
        let stream = stream.map_err(action())?;
        thread::spawn(move || send_back(stream));
    }
    Ok(())
}

/// Sends back what a connection says until it ends, well or not: the other side knows what it misses.
fn send_back(mut stream: TcpStream) {
    let mut piece = vec![0; PIECE];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        let Some(said) = piece.get(..count) else { return };
        if stream.write_all(said).is_err() {
            return;
        }
    }
}

/// Talks to an [`echo`].
///
/// # Errors
/// If a socket cannot be made. A connection that fails, or a datagram that is lost, is in the report.
pub fn talk(to: SocketAddr, talk: &Talk) -> Result<TalkReport, LabError> {
    let mut report = TalkReport::default();
    thread::scope(|scope| {
        let start = |flow| scope.spawn(move || converse(to, flow, talk.bytes));
        let flows: Vec<_> = (0..talk.flows).map(start).collect();
        for flow in flows {
            match flow.join() {
                Ok(Ok(())) => report.connections += 1,
                Ok(Err(error)) => report.problems.push(error.to_string()),
                Err(_) => report.problems.push("a flow's thread panicked".to_owned()),
            }
        }
    });
    for _ in 0..talk.flows {
        let one = exchange(to, talk.datagrams).map_err(LabError::io(format!("talk to {to}")))?;
        report.datagrams_sent += one.sent;
        report.datagrams_intact += one.intact;
        report.datagrams_wrong += one.damaged + one.repeated;
    }
    Ok(report)
}

/// One connection: says `bytes` bytes and hears them all back.
fn converse(to: SocketAddr, flow: u32, bytes: usize) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let said = saying(flow, bytes);
    let mut speaker = stream.try_clone()?;
    let mut heard = vec![0; bytes];
    thread::scope(|scope| {
        let speaking = scope.spawn(|| speaker.write_all(&said));
        let hearing = stream.read_exact(&mut heard);
        let spoken = speaking
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the speaker panicked")));
        spoken.and(hearing)
    })?;
    if heard == said {
        Ok(())
    } else {
        let place = heard.iter().zip(&said).take_while(|(a, b)| a == b).count();
        Err(io::Error::other(format!(
            "byte {place} of flow {flow} came back changed"
        )))
    }
}

/// What a flow says: no two flows the same, and no piece like the one before.
fn saying(flow: u32, bytes: usize) -> Vec<u8> {
    let step = |state: u32| state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    let states = std::iter::successors(Some(step(flow)), |state| Some(step(*state)));
    states.map(|state| state.to_be_bytes()[0]).take(bytes).collect()
}

/// Datagrams from a port of their own.
fn exchange(to: SocketAddr, count: u32) -> io::Result<UdpReport> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let what = UdpExchange {
        count,
        ..UdpExchange::up_to(PACKET_BYTES)
    };
    udp::exchange(&socket, &what, interrupt::raised)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TALK: Talk = Talk {
        flows: 3,
        bytes: 50_000,
        datagrams: 4,
    };

    #[test]
    fn an_echo_gives_all_back() {
        // An address that is free now and taken by nobody else within a moment.
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        thread::spawn(move || echo(at));
        for _ in 0..100 {
            if TcpStream::connect(at).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let report = talk(at, &TALK).unwrap();
        assert!(report.is_whole(&TALK), "{report:?}");
        assert_eq!(TalkReport::from_json(&report.to_json().unwrap()).unwrap(), report);
    }

    #[test]
    fn changed_bytes_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut said = vec![0; 1000];
            stream.read_exact(&mut said).unwrap();
            said[700] ^= 1;
            stream.write_all(&said).unwrap();
        });
        let error = converse(at, 0, 1000).unwrap_err().to_string();
        assert!(error.contains("byte 700"), "{error}");
    }

    #[test]
    fn nobody_there_is_in_the_report() {
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let only_connections = Talk { datagrams: 0, ..TALK };
        let report = talk(at, &only_connections).unwrap();
        assert_eq!((report.connections, report.problems.len()), (0, 3), "{report:?}");
        assert!(!report.is_whole(&only_connections));
    }
}
