//! Servers on every place of a stage, which tell who they are and whom they see.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use millrace_tools::lab::Lab;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::family::Family;
use crate::places::{HOSTS, PODS, Place, SERVED};
use crate::set::Protocol;
use crate::stage::namespace;

/// How often the servers look whether they are to end.
const BEAT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// What a server saw of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The server, by its place.
    pub(crate) at: &'static str,
    /// The server's port.
    pub(crate) port: u16,
    /// Who called, as the server sees it.
    pub(crate) source: SocketAddr,
}

/// What was heard, by protocol and the port that the client really has (it writes it into each request).
type Book = Arc<Mutex<HashMap<(Protocol, u16), Heard>>>;

/// The servers of a stage. Dropping them ends them.
pub(crate) struct Servers {
    book: Book,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// Listens on every place.
    pub(crate) fn start(lab: &Lab) -> Self {
        let mut room = Room::default();
        for place in PODS.iter().chain(&HOSTS) {
            namespace(lab, place.name).within(|| room.listen(place)).unwrap();
        }
        let (book, stop) = (Book::default(), Arc::new(AtomicBool::new(false)));
        let (log, seen) = (Arc::clone(&book), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                room.serve(&log);
            }
        });
        Self {
            book,
            stop,
            thread: Some(thread),
        }
    }

    /// Takes out what was heard of a call.
    pub(crate) fn heard(&self, protocol: Protocol, source_port: u16) -> Option<Heard> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.remove(&(protocol, source_port))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

/// Where a server is.
type At = (&'static str, u16);

/// Everything that the servers' thread holds.
#[derive(Default)]
struct Room {
    tcp: Vec<(At, TcpListener)>,
    udp: Vec<(At, UdpSocket)>,
    guests: Vec<(At, TcpStream)>,
}

impl Room {
    fn listen(&mut self, place: &Place) {
        let all = Family::BOTH.map(|family| SERVED.map(|port| (family, port)));
        for (family, port) in all.into_iter().flatten() {
            let (at, address) = ((place.name, port), (family.of(place.address), port));
            let tcp = TcpListener::bind(address).unwrap();
            tcp.set_nonblocking(true).unwrap();
            self.tcp.push((at, tcp));
            let udp = UdpSocket::bind(address).unwrap();
            udp.set_nonblocking(true).unwrap();
            self.udp.push((at, udp));
        }
    }

    /// Waits for something to do, and does it.
    fn serve(&mut self, book: &Book) {
        let descriptors = || {
            let tcp = self.tcp.iter().map(|(_, socket)| socket.as_fd());
            let udp = self.udp.iter().map(|(_, socket)| socket.as_fd());
            tcp.chain(udp)
                .chain(self.guests.iter().map(|(_, stream)| stream.as_fd()))
        };
        let mut watched: Vec<PollFd<'_>> = descriptors()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        // A signal only means another round.
        let _ = poll(&mut watched, Some(&BEAT));
        let ready: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(watched);
        let (listeners, rest) = ready.split_at(self.tcp.len());
        let (sockets, streams) = rest.split_at(self.udp.len());
        let mut open = streams.iter();
        self.guests
            .retain_mut(|(at, stream)| !open.next().unwrap() || answer(*at, stream, book));
        for ((at, socket), _) in self.udp.iter().zip(sockets).filter(|(_, ready)| **ready) {
            exchange(*at, socket, book);
        }
        for ((at, listener), _) in self.tcp.iter().zip(listeners).filter(|(_, ready)| **ready) {
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                self.guests.push((*at, stream));
            }
        }
    }
}

/// Writes down a request, and says what to answer.
fn note(at: At, protocol: Protocol, request: &[u8], source: SocketAddr, book: &Book) -> Option<String> {
    let token = u16::from_be_bytes(*request.last_chunk()?);
    let heard = Heard {
        at: at.0,
        port: at.1,
        source,
    };
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    book.insert((protocol, token), heard);
    Some(format!("{} {} {source}\n", at.0, at.1))
}

/// Answers a request on a connection, and returns whether the connection goes on.
fn answer(at: At, stream: &mut TcpStream, book: &Book) -> bool {
    let mut request = [0; 64];
    let length = match stream.read(&mut request) {
        Ok(length) if length > 0 => length,
        _ => return false,
    };
    let peer = stream.peer_addr();
    let answer = peer
        .ok()
        .and_then(|peer| note(at, Protocol::Tcp, &request[..length], peer, book));
    answer.is_some_and(|answer| stream.write_all(answer.as_bytes()).is_ok())
}

/// Answers datagrams. An error that comes back concerns an earlier one alone.
fn exchange(at: At, socket: &UdpSocket, book: &Book) {
    let mut request = [0; 64];
    while let Ok((length, peer)) = socket.recv_from(&mut request) {
        if let Some(answer) = note(at, Protocol::Udp, &request[..length], peer, book) {
            let _ = socket.send_to(answer.as_bytes(), peer);
        }
    }
}
