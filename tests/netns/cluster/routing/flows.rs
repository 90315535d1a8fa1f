//! Many flows from one pod to an address that several machines have, each of which says who it is.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use millrace_tools::lab::Namespace;

use crate::rig::PATIENCE;

/// How long an answer may take before it is asked for again.
const AGAIN: Duration = Duration::from_millis(200);

/// A machine that answers every datagram with its letter.
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
                if let Ok((_, from)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(&[letter], from);
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
        Self { socket }
    }

    /// Who answers; the first datagrams may be lost while a next hop is looked for.
    pub(super) fn ask(&self) -> u8 {
        let deadline = Instant::now() + PATIENCE;
        let mut answer = [0; 64];
        loop {
            let _ = self.socket.send(b"?");
            if matches!(self.socket.recv(&mut answer), Ok(1)) {
                return answer[0];
            }
            assert!(Instant::now() < deadline, "nobody answers {:?}", self.socket);
        }
    }
}

/// Who answers each of them.
pub(super) fn ask_all(flows: &[Flow]) -> Vec<u8> {
    flows.iter().map(Flow::ask).collect()
}
