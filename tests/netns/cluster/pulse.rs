//! Talk that goes on while other things happen: one request after another, each answered and looked at.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use millrace_tools::lab::{Namespace, Process, Signal};

use crate::rig::{PATIENCE, await_that};

/// Between two requests.
const BEAT: Duration = Duration::from_millis(2);
/// How long a datagram may be under way before it counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// The longest that a conversation may stand still on a machine with nothing else to do: TCP asks again after 200 ms.
const STANDSTILL: Duration = Duration::from_millis(500);
/// Bytes of a request over TCP: several segments.
const REQUEST: usize = 8000;

/// What became of a pulse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beats {
    pub(crate) answered: u64,
    pub(crate) lost: u64,
    pub(crate) longest_silence: Duration,
}

impl Beats {
    /// Nothing was lost, and nothing stood still for longer than the machine itself gives reason to: `machine` is what
    /// became of a conversation over the loopback meanwhile.
    pub(crate) fn assert_steady(self, machine: Self, what: &str) {
        self.assert_steady_but_for(0, machine, what);
    }

    /// The same, where something else than the switch may have lost this many.
    pub(crate) fn assert_steady_but_for(self, lost: u64, machine: Self, what: &str) {
        assert!(
            self.lost <= lost,
            "{what}: {} lost of {} requests",
            self.lost,
            self.answered
        );
        // What is lost is waited for.
        let waited = LOST_AFTER * u32::try_from(self.lost).unwrap_or(u32::MAX);
        let bound = STANDSTILL + waited + 4 * machine.longest_silence;
        assert!(
            self.longest_silence < bound,
            "{what}: {:?} without an answer, of {} answers; the machine: {machine:?}",
            self.longest_silence,
            self.answered
        );
    }
}

/// A conversation between two namespaces. Dropping it ends it.
pub(crate) struct Pulse {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    client: Option<JoinHandle<Beats>>,
    server: Option<JoinHandle<()>>,
}

impl Pulse {
    /// One connection over TCP, held the whole time. A byte that is wrong, or a connection that ends, is a panic.
    pub(crate) fn tcp(from: &Namespace, to: &Namespace, at: SocketAddrV4) -> Self {
        let listener = to.within(|| TcpListener::bind(at)).unwrap().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; REQUEST];
            while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
        });
        let connect = || TcpStream::connect_timeout(&at.into(), PATIENCE);
        let mut stream = from
            .within(connect)
            .unwrap()
            .unwrap_or_else(|error| panic!("{at}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::start(Some(server), move |number| {
            let request: Vec<u8> = (0..REQUEST).map(|place| (place as u64 ^ number) as u8).collect();
            let mut answer = vec![0; REQUEST];
            stream
                .write_all(&request)
                .and_then(|()| stream.read_exact(&mut answer))
                .unwrap_or_else(|error| {
                    panic!("the connection to {at} broke after {number} requests: {error}")
                });
            assert!(
                request == answer,
                "bytes were changed on the way to {at} and back"
            );
            true
        })
    }

    /// A conversation over a namespace's loopback, as the measure of the machine.
    pub(crate) fn of_machine(namespace: &Namespace) -> Self {
        Self::udp(namespace, namespace, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7999))
    }

    /// Datagrams, each echoed.
    pub(crate) fn udp(from: &Namespace, to: &Namespace, at: SocketAddrV4) -> Self {
        let stop_server = to.within(|| UdpSocket::bind(at)).unwrap().unwrap();
        stop_server
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let socket = from.within(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.connect(at).unwrap();
        socket.set_read_timeout(Some(LOST_AFTER)).unwrap();
        let mut pulse = Self::start(None, move |number| ask(&socket, number));
        let stop = Arc::clone(&pulse.stop);
        pulse.server = Some(thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = stop_server.recv_from(&mut bytes) {
                    let _ = stop_server.send_to(&bytes[..length], from);
                }
            }
        }));
        pulse
    }

    /// Calls `beat` with the request's number until told to stop; it says whether there was an answer.
    fn start(server: Option<JoinHandle<()>>, mut beat: impl FnMut(u64) -> bool + Send + 'static) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let client = thread::spawn(move || {
            let mut beats = Beats {
                answered: 0,
                lost: 0,
                longest_silence: Duration::ZERO,
            };
            let mut last = Instant::now();
            for number in 0.. {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                if beat(number) {
                    beats.answered += 1;
                    beats.longest_silence = beats.longest_silence.max(last.elapsed());
                    last = Instant::now();
                    count.store(beats.answered, Ordering::Relaxed);
                } else {
                    beats.lost += 1;
                }
                thread::sleep(BEAT);
            }
            beats.longest_silence = beats.longest_silence.max(last.elapsed());
            beats
        });
        Self {
            stop,
            answered,
            client: Some(client),
            server,
        }
    }

    /// Waits for `count` more answers: the talk goes on.
    pub(crate) fn await_answers(&self, what: &str, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        await_that(what, || {
            let ended = self.client.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "{what}: the talk has ended");
            self.answered.load(Ordering::Relaxed) >= goal
        });
    }

    /// Ends the talk, and says how it went.
    pub(crate) fn end(mut self) -> Beats {
        self.stop.store(true, Ordering::Relaxed);
        let beats = self
            .client
            .take()
            .unwrap()
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Some(server) = self.server.take() {
            server.join().unwrap();
        }
        beats
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends `bytes` over a connection of its own and as many back, and looks at each of them.
pub(crate) fn transfer(from: &Namespace, to: &Namespace, at: SocketAddrV4, bytes: usize) {
    let listener = to.within(|| TcpListener::bind(at)).unwrap().unwrap();
    let connect = || TcpStream::connect_timeout(&at.into(), PATIENCE);
    let near = from
        .within(connect)
        .unwrap()
        .unwrap_or_else(|error| panic!("{at}: {error}"));
    let far = listener.accept().unwrap().0;
    for (mut sender, mut receiver) in [(&near, &far), (&far, &near)] {
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        sender.set_write_timeout(Some(PATIENCE)).unwrap();
        let said: Vec<u8> = (0..bytes).map(|place| (place % 251) as u8).collect();
        let mut heard = vec![0; bytes];
        thread::scope(|scope| {
            // What it cannot send shows at the other end.
            scope.spawn(|| sender.write_all(&said));
            receiver
                .read_exact(&mut heard)
                .unwrap_or_else(|error| panic!("{at}: {error}"));
        });
        assert!(
            heard == said,
            "bytes were changed on the way between {} and {at}",
            from.name()
        );
    }
}

/// One datagram there and back.
fn ask(socket: &UdpSocket, number: u64) -> bool {
    // An ICMP error of an earlier datagram shows here; it is lost as any other.
    let _ = socket.send(&number.to_be_bytes());
    let mut answer = [0; 2048];
    loop {
        match socket.recv(&mut answer) {
            Ok(length) if answer[..length] == number.to_be_bytes() => return true,
            // A late answer to an earlier one.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return false,
        }
    }
}

/// A `ping` that runs on.
pub(crate) struct Pings {
    process: Process,
    log: tempfile::NamedTempFile,
}

impl Pings {
    /// An echo request every 10 ms.
    pub(crate) fn start(from: &Namespace, to: Ipv4Addr) -> Self {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut line = from.command("ping");
        line.args(["-n", "-q", "-i", "0.01", &to.to_string()]);
        Self {
            process: Process::spawn(line, log.path()).unwrap(),
            log,
        }
    }

    /// Ends it; how many requests were sent, and how many answered.
    pub(crate) fn end(mut self) -> (u64, u64) {
        self.process.signal(Signal::INT).unwrap();
        self.process.wait(PATIENCE).unwrap();
        let text = std::fs::read_to_string(self.log.path()).unwrap();
        let line = text
            .lines()
            .find(|line| line.contains(" packets transmitted, "))
            .unwrap_or_else(|| panic!("{text}"));
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}
