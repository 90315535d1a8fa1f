//! Many flows from one pod to an address that several machines have, each of which says who it is.

use std::cell::Cell;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use millrace_tools::lab::Namespace;

use crate::rig::{PATIENCE, await_that};

/// How long an answer may take before it is asked for again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long one may be under way before it counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(2);

/// A machine that answers every datagram with its letter and what the datagram was.
pub(super) struct Answerer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    pub(super) fn start(namespace: &Namespace, at: SocketAddr, letter: u8) -> Self {
        let socket = namespace.within(|| UdpSocket::bind(at)).unwrap().unwrap();
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut bytes = [0; 64];
            while !told.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                    let answer = [&[letter], &bytes[..len]].concat();
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One flow of datagrams.
pub(super) struct Flow {
    socket: UdpSocket,
    /// Of its last question, which the answer repeats: so a late one is known.
    number: Cell<u32>,
}

impl Flow {
    pub(super) fn open(from: &Namespace, to: SocketAddr) -> Self {
        let any: SocketAddr = match to.ip() {
            IpAddr::V4(_) => "0.0.0.0:0".parse().unwrap(),
            IpAddr::V6(_) => "[::]:0".parse().unwrap(),
        };
        let socket = from.within(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        Self {
            socket,
            number: Cell::new(0),
        }
    }

    /// Who answers; the first datagrams may be lost while a next hop is looked for.
    pub(super) fn ask(&self) -> u8 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(letter) = self.ask_once(AGAIN) {
                return letter;
            }
            assert!(Instant::now() < deadline, "nobody answers {:?}", self.socket);
        }
    }

    /// Who answers one datagram, if it is answered.
    fn ask_once(&self, patience: Duration) -> Option<u8> {
        let deadline = Instant::now() + patience;
        self.number.set(self.number.get() + 1);
        let question = self.number.get().to_be_bytes();
        // An ICMP error of an earlier datagram shows here.
        if self.socket.send(&question).is_err() {
            return None;
        }
        let mut answer = [0; 64];
        while Instant::now() < deadline {
            match self.socket.recv(&mut answer) {
                Ok(len) if answer[1..len] == question => return Some(answer[0]),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        None
    }
}

/// Who answers each of them.
pub(super) fn ask_all(flows: &[Flow]) -> Vec<u8> {
    flows.iter().map(Flow::ask).collect()
}

/// Flows that go on, one datagram of each after the other, while something happens to their ways.
pub(super) struct Talk {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Heard>,
}

/// What flows that went on have heard.
pub(super) struct Heard {
    /// The flows themselves.
    pub(super) flows: Vec<Flow>,
    /// For each the letters that answered; the same many times in a row is here once.
    pub(super) letters: Vec<Vec<u8>>,
    /// Datagrams that were sent, and those of them that nobody answered.
    pub(super) asked: u64,
    pub(super) lost: u64,
}

impl Talk {
    pub(super) fn start(flows: Vec<Flow>) -> Self {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            let letters = vec![Vec::new(); flows.len()];
            let mut heard = Heard {
                flows,
                letters,
                asked: 0,
                lost: 0,
            };
            while !told.load(Ordering::Relaxed) {
                heard.round();
                count.fetch_add(1, Ordering::Relaxed);
            }
            heard
        });
        Self { stop, rounds, thread }
    }

    /// Waits until each flow has asked once more from now on.
    pub(super) fn await_round(&self) {
        let goal = self.rounds.load(Ordering::Relaxed) + 2;
        await_that("each flow to ask once more", || {
            assert!(!self.thread.is_finished(), "the talk has ended");
            self.rounds.load(Ordering::Relaxed) >= goal
        });
    }

    pub(super) fn end(self) -> Heard {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Heard {
    fn round(&mut self) {
        for (flow, letters) in self.flows.iter().zip(&mut self.letters) {
            self.asked += 1;
            match flow.ask_once(LOST_AFTER) {
                Some(letter) if letters.last() == Some(&letter) => {}
                Some(letter) => letters.push(letter),
                None => self.lost += 1,
            }
        }
    }
}
