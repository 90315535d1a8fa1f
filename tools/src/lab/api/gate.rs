//! A gate on the underlay: who comes to it comes to another address, of this machine's own network.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::{LabError, Namespace};

/// How often it is looked whether it is to end, and for who comes.
const BEAT: Duration = Duration::from_millis(5);
/// How long the other side may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Whoever goes through. Dropping it closes it, and cuts all connections.
#[derive(Debug)]
pub(super) struct Gate {
    passage: Arc<Passage>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Passage {
    is_over: AtomicBool,
    is_shut: AtomicBool,
    /// Both ends of all connections there ever were.
    streams: Mutex<Vec<TcpStream>>,
}

impl Passage {
    fn cut(&self) {
        for stream in self
            .streams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
        {
            // One that has ended needs no cutting.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Gate {
    /// Opens it at an address in a namespace.
    pub(super) fn open(namespace: &Namespace, at: SocketAddr, to: SocketAddr) -> Result<Self, LabError> {
        let listen = || {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true).map(|()| listener)
        };
        let action = || format!("listen at {at} in {}", namespace.name());
        let listener = namespace.within(listen)?.map_err(LabError::io(action()))?;
        let passage = Arc::new(Passage::default());
        let seen = Arc::clone(&passage);
        let thread = thread::Builder::new()
            .name("gate".to_owned())
            .spawn(move || accept(&listener, to, &seen));
        Ok(Self {
            passage,
            thread: Some(thread.map_err(LabError::io("start a thread"))?),
        })
    }

    /// Has nobody come through any more, or again.
    pub(super) fn set_shut(&self, is_shut: bool) {
        self.passage.is_shut.store(is_shut, Ordering::SeqCst);
        if is_shut {
            self.passage.cut();
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.passage.is_over.store(true, Ordering::SeqCst);
        self.passage.cut();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Its loop: two threads for each connection, all of which end with it.
fn accept(listener: &TcpListener, to: SocketAddr, passage: &Passage) {
    thread::scope(|scope| {
        while !passage.is_over.load(Ordering::SeqCst) {
            match listener.accept() {
                // Who is not let through sees that by himself.
                Ok(_) if passage.is_shut.load(Ordering::SeqCst) => {}
                Ok((stream, _)) => {
                    let _ = thread::Builder::new().spawn_scoped(scope, move || pass(&stream, to, passage));
                }
                Err(_) => thread::sleep(BEAT),
            }
        }
        // Who came through just now.
        passage.cut();
    });
}

/// Passes on what both sides say until one of them ends.
fn pass(here: &TcpStream, to: SocketAddr, passage: &Passage) -> io::Result<()> {
    here.set_nonblocking(false)?;
    let there = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)?;
    {
        let mut streams = passage.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if passage.is_over.load(Ordering::SeqCst) || passage.is_shut.load(Ordering::SeqCst) {
            return Ok(());
        }
        streams.push(here.try_clone()?);
        streams.push(there.try_clone()?);
    }
    thread::scope(|scope| {
        let there = &there;
        let _ = thread::Builder::new().spawn_scoped(scope, move || carry(here, there));
        carry(there, here);
    });
    Ok(())
}

fn carry(mut from: &TcpStream, mut to: &TcpStream) {
    // However it ends, both directions end with it.
    let _ = io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A gate before a server that says everything once more, in this namespace.
    fn gate() -> (SocketAddr, Gate) {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        thread::spawn(move || {
            for stream in server.incoming().flatten() {
                thread::spawn(move || io::copy(&mut &stream, &mut &stream));
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let at = listener.local_addr().unwrap();
        let passage = Arc::new(Passage::default());
        let seen = Arc::clone(&passage);
        let thread = thread::spawn(move || accept(&listener, to, &seen));
        let thread = Some(thread);
        (at, Gate { passage, thread })
    }

    fn is_answered(stream: &mut TcpStream) -> bool {
        let mut answer = [0; 5];
        stream.write_all(b"hello").is_ok() && stream.read_exact(&mut answer).is_ok() && &answer == b"hello"
    }

    #[test]
    fn who_is_let_through_is_answered_and_cut_off_when_it_shuts() {
        let (at, gate) = gate();
        let mut first = TcpStream::connect(at).unwrap();
        assert!(is_answered(&mut first));
        gate.set_shut(true);
        assert!(!is_answered(&mut first));
        assert!(!is_answered(&mut TcpStream::connect(at).unwrap()));
        gate.set_shut(false);
        let mut second = TcpStream::connect(at).unwrap();
        assert!(is_answered(&mut second));
        drop(gate);
        assert!(!is_answered(&mut second));
    }
}
