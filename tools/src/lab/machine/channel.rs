//! The talk between a lab and the guest in its virtual machine: a line of JSON each way over a virtio serial port, which
//! has nothing to do with the NIC under test.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::command::wait_until;
use super::super::{LabError, interrupt};

/// The port's name, by which the guest finds it.
pub(super) const PORT: &str = "millrace.control";
/// How long QEMU may take to make its end of the port.
const OPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a read goes on before the interrupt flag is looked at again.
const BEAT: Duration = Duration::from_millis(50);
/// How much longer than its order says an answer may take to come: the machine is emulated, by a program that may have to
/// wait for a processor itself.
const SLACK: Duration = Duration::from_secs(60);

/// What the guest is told to do.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Order {
    /// Run a program and answer with what it wrote and how it ended.
    Run {
        /// Program and arguments.
        words: Vec<String>,
        /// When to kill it, in milliseconds.
        timeout_ms: u64,
    },
    /// Start a program that runs on, its output appended to a file.
    Spawn {
        /// Program and arguments.
        words: Vec<String>,
        /// The file.
        log: String,
    },
    /// Read a file.
    Read {
        /// The file.
        path: String,
    },
    /// Write a file, in one step, and make the folders above it.
    Write {
        /// The file.
        path: String,
        /// Its contents.
        text: String,
    },
}

/// What the guest answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// The guest runs: the first line, before any order.
    Ready,
    /// A program ended; the raw status is that of `wait`.
    Ended {
        /// How.
        status: i32,
        /// Its standard output.
        stdout: String,
        /// Its standard error.
        stderr: String,
    },
    /// A program was started.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// A file was read.
    Text {
        /// Its contents; bytes that are not UTF-8 are replaced. A file that is not there has none.
        text: Option<String>,
    },
    /// A file was written.
    Written,
    /// It could not be done.
    Failed {
        /// Why.
        problem: String,
    },
}

/// Why no answer came.
#[derive(Debug)]
pub(super) enum Silence {
    /// The lab was interrupted.
    Interrupted,
    /// What else, in words.
    Broken(String),
}

/// The lab's end of the port.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// What was read and is no whole line yet.
    rest: Vec<u8>,
}

impl Channel {
    /// Connects to the socket that QEMU makes for the port; `alive` fails if QEMU has ended.
    pub(super) fn connect(
        socket: &Path,
        mut alive: impl FnMut() -> Result<(), LabError>,
    ) -> Result<Self, LabError> {
        let mut stream = None;
        wait_until("the control port of the virtual machine", OPEN_TIMEOUT, || {
            alive()?;
            stream = UnixStream::connect(socket).ok();
            Ok(stream.is_some())
        })?;
        let action = || format!("use {}", socket.display());
        let missing = || io::Error::from(io::ErrorKind::NotConnected);
        let stream = stream.ok_or_else(missing).map_err(LabError::io(action()))?;
        stream
            .set_read_timeout(Some(BEAT))
            .map_err(LabError::io(action()))?;
        Ok(Self {
            stream,
            rest: Vec::new(),
        })
    }

    /// Gives an order and waits for the answer.
    pub(super) fn ask(&mut self, order: &Order) -> Result<Answer, Silence> {
        let patience = match order {
            Order::Run { timeout_ms, .. } => Duration::from_millis(*timeout_ms),
            Order::Spawn { .. } | Order::Read { .. } | Order::Write { .. } => Duration::ZERO,
        };
        let mut line = serde_json::to_vec(order).map_err(|error| Silence::Broken(error.to_string()))?;
        line.push(b'\n');
        self.stream
            .write_all(&line)
            .map_err(|error| Silence::Broken(format!("the control port takes nothing: {error}")))?;
        self.answer(patience + SLACK)
    }

    /// Waits for a line from the guest.
    pub(super) fn answer(&mut self, patience: Duration) -> Result<Answer, Silence> {
        let deadline = Instant::now() + patience;
        let mut buffer = [0; 1 << 16];
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| {
                    let line = String::from_utf8_lossy(&line).into_owned();
                    Silence::Broken(format!("the guest said {line:?}: {error}"))
                });
            }
            if interrupt::raised() {
                return Err(Silence::Interrupted);
            }
            if Instant::now() >= deadline {
                return Err(Silence::Broken(format!(
                    "the guest said nothing for {} s",
                    patience.as_secs()
                )));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Silence::Broken("the control port was closed".to_owned())),
                Ok(count) => self
                    .rest
                    .extend_from_slice(buffer.get(..count).unwrap_or_default()),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(Silence::Broken(format!("the control port: {error}"))),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A channel to a guest that sends these pieces, one for each order it reads.
    fn against(pieces: &'static [&'static [&'static str]]) -> (tempfile::TempDir, Channel) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let mut lines = BufReader::new(listener.accept().unwrap().0);
            for answer in pieces {
                lines.read_line(&mut String::new()).unwrap();
                for piece in *answer {
                    lines.get_mut().write_all(piece.as_bytes()).unwrap();
                    thread::sleep(Duration::from_millis(20));
                }
            }
        });
        let channel = Channel::connect(&socket, || Ok(())).unwrap();
        (folder, channel)
    }

    fn order() -> Order {
        Order::Run {
            words: vec!["true".to_owned()],
            timeout_ms: 1000,
        }
    }

    #[test]
    fn an_answer_may_come_in_pieces() {
        let (_folder, mut channel) = against(&[&["{\"started\":", "{\"pid\":7}}\n"], &["\"written\"\n"]]);
        assert_eq!(channel.ask(&order()).unwrap(), Answer::Started { pid: 7 });
        assert_eq!(channel.ask(&order()).unwrap(), Answer::Written);
    }

    #[test]
    fn nonsense_and_an_end_are_told_apart() {
        let (_folder, mut channel) = against(&[&["hello\n"]]);
        let broken = |answer: Result<Answer, Silence>| match answer.unwrap_err() {
            Silence::Broken(problem) => problem,
            Silence::Interrupted => String::new(),
        };
        assert!(broken(channel.ask(&order())).contains("hello"));
        assert!(broken(channel.answer(Duration::from_secs(5))).contains("closed"));
    }

    #[test]
    fn a_silent_guest_is_not_waited_for_forever() {
        let (_folder, mut channel) = against(&[&[]]);
        let started = Instant::now();
        assert!(channel.answer(Duration::from_millis(100)).is_err());
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
