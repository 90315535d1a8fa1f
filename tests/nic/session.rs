//! A TCP connection with the machine's own kernel, over the NIC under test, that is never at rest.

use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use millrace_tools::lab::Namespace;
use millrace_tools::lab::traffic::tcp_connect;

use crate::rig::{PATIENCE, Rig};

/// Bytes of a request: several segments.
const REQUEST: usize = 6000;
/// Between two requests.
const BEAT: Duration = Duration::from_millis(5);

/// The connection, with a thread of its own that talks over it. Dropping it ends the talk.
pub(crate) struct Session {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Session {
    /// Connects to an echo.
    pub(crate) fn open(from: &Namespace, at: SocketAddrV4) -> Self {
        let mut stream = tcp_connect(from, at.into(), PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let talk = move || {
            let mut heard = vec![0; REQUEST];
            while !told.load(Ordering::Relaxed) {
                let number = count.load(Ordering::Relaxed);
                let said = vec![number.to_be_bytes()[7]; REQUEST];
                let exchanged = stream
                    .write_all(&said)
                    .and_then(|()| stream.read_exact(&mut heard));
                exchanged.map_err(|error| format!("after {number} answers: {error}"))?;
                if heard != said {
                    return Err(format!("answer {number} was changed"));
                }
                count.fetch_add(1, Ordering::Relaxed);
                thread::sleep(BEAT);
            }
            Ok(())
        };
        Self {
            stop,
            answered,
            thread: Some(thread::spawn(talk)),
        }
    }

    /// Waits for so many more answers: the connection lives.
    pub(crate) fn await_answers(&self, rig: &Rig, when: &str, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        let what = format!("{count} answers of the machine's own kernel {when}");
        rig.await_answer(&what, || {
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!ended, "{what}: the connection has ended");
            Ok(self.answered.load(Ordering::Relaxed) >= goal)
        });
    }

    /// Ends the talk; a connection that broke, or an answer that was changed, is a panic.
    pub(crate) fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join().unwrap();
        ended.unwrap_or_else(|problem| panic!("the connection with the machine's own kernel: {problem}"));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
