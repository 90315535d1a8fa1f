//! The command's side of the admin socket: blocking, one request at a time.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::protocol::{CaptureLine, Failure, LINE_MAX_BYTES, Request, Response};

/// How long an answer may take. The daemon gives up earlier, and says so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a capture waits for a packet before it reports [`CaptureEvent::Quiet`].
const QUIET_AFTER: Duration = Duration::from_millis(100);
/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no daemon answers at {}: start one with `millrace run --config FILE`, or name its socket with --socket",
        .path.display()
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket is another user's.
    #[error("no permission to open {}: run as root, or as the user that runs the daemon", .path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// Connecting failed in another way.
    #[error("cannot connect to {}: {source}", .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Sending failed.
    #[error("cannot send the request to the daemon: {0}")]
    Send(#[source] io::Error),
    /// Receiving failed.
    #[error("cannot read the daemon's answer: {0}")]
    Receive(#[source] io::Error),
    /// No answer within the time there is.
    #[error("the daemon did not answer within {} s: see its log", ANSWER_TIMEOUT.as_secs())]
    NoAnswer,
    /// The daemon hung up.
    #[error("the daemon closed the connection: it stopped, see its log")]
    Closed,
    /// A line without end.
    #[error("the daemon sent a line of more than {LINE_MAX_BYTES} bytes: is it of the same version?")]
    TooLong,
    /// A line that makes no sense.
    #[error("the daemon's answer is not understood ({0}): is it of the same version?")]
    NotUnderstood(#[source] serde_json::Error),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::failed(error.to_string())
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
}

impl Client {
    /// Connects to the daemon's socket at `path`.
    ///
    /// # Errors
    /// [`ClientError`]: nobody is there, or not for us.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let path_owned = || path.to_owned();
        let stream = UnixStream::connect(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path: path_owned() }
            }
            io::ErrorKind::PermissionDenied => ClientError::Permission { path: path_owned() },
            _ => ClientError::Connect {
                path: path_owned(),
                source,
            },
        })?;
        let bound = |source| ClientError::Connect {
            path: path_owned(),
            source,
        };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(bound)?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(bound)?;
        Ok(Self {
            lines: Lines {
                stream,
                bytes: Vec::new(),
                start: 0,
            },
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the daemon says, or why it could not be asked.
    pub fn request(&mut self, request: &Request) -> Result<serde_json::Value, Failure> {
        let mut line = serde_json::to_vec(request).map_err(ClientError::NotUnderstood)?;
        line.push(b'\n');
        // A daemon that refuses the connection says why and closes it, maybe before it has read anything.
        let sent = self.lines.stream.write_all(&line);
        let answer = match (self.lines.next::<Response>(), sent) {
            (Ok(Step::Line(response)), _) => response,
            (_, Err(error)) => return Err(ClientError::Send(error).into()),
            (Ok(Step::Quiet), Ok(())) => return Err(ClientError::NoAnswer.into()),
            (Ok(Step::End), Ok(())) => return Err(ClientError::Closed.into()),
            (Err(error), Ok(())) => return Err(error.into()),
        };
        match answer {
            Response::Ok(value) => Ok(value),
            Response::Error(failure) => Err(failure),
        }
    }

    /// Begins to capture at `port`; also gives what the daemon says of the port.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn capture(mut self, port: &str) -> Result<(serde_json::Value, CaptureStream), Failure> {
        let begun = self.request(&Request::Capture {
            port: port.to_owned(),
        })?;
        self.lines
            .stream
            .set_read_timeout(Some(QUIET_AFTER))
            .map_err(ClientError::Receive)?;
        Ok((
            begun,
            CaptureStream {
                lines: self.lines,
                given: false,
            },
        ))
    }
}

/// What a running capture brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureEvent {
    /// A line from the daemon.
    Line(CaptureLine),
    /// All that came has been given out, or nothing came for a moment: time to flush, and to see whether to
    /// go on.
    Quiet,
}

/// A running capture; dropping it ends it. The iterator ends when the daemon ends the capture.
#[derive(Debug)]
pub struct CaptureStream {
    lines: Lines,
    /// Whether a line was given out since the last [`CaptureEvent::Quiet`].
    given: bool,
}

impl Iterator for CaptureStream {
    type Item = Result<CaptureEvent, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.given && !self.lines.has_line() {
            self.given = false;
            return Some(Ok(CaptureEvent::Quiet));
        }
        match self.lines.next() {
            Ok(Step::Line(line)) => {
                self.given = true;
                Some(Ok(CaptureEvent::Line(line)))
            }
            Ok(Step::Quiet) => Some(Ok(CaptureEvent::Quiet)),
            Ok(Step::End) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// A stream cut into lines of JSON.
#[derive(Debug)]
struct Lines {
    stream: UnixStream,
    /// What was read; before `start` it has been given out.
    bytes: Vec<u8>,
    start: usize,
}

enum Step<T> {
    Line(T),
    /// The read timed out or a signal came; what was read of a line is kept.
    Quiet,
    End,
}

impl Lines {
    /// Whether a line can be had without reading.
    fn has_line(&self) -> bool {
        self.bytes.get(self.start..).unwrap_or_default().contains(&b'\n')
    }

    fn next<T: DeserializeOwned>(&mut self) -> Result<Step<T>, ClientError> {
        let mut searched = self.start;
        loop {
            let unsearched = self.bytes.get(searched..).unwrap_or_default();
            if let Some(length) = unsearched.iter().position(|byte| *byte == b'\n') {
                let end = searched + length;
                let line = self.bytes.get(self.start..end).unwrap_or_default();
                let parsed = serde_json::from_slice(line).map_err(ClientError::NotUnderstood);
                self.start = end + 1;
                return parsed.map(Step::Line);
            }
            self.bytes.drain(..self.start);
            self.start = 0;
            searched = self.bytes.len();
            if searched > LINE_MAX_BYTES {
                return Err(ClientError::TooLong);
            }
            if let Some(step) = self.fill()? {
                return Ok(step);
            }
        }
    }

    /// Reads once; a step instead of bytes when there are none.
    fn fill<T>(&mut self) -> Result<Option<Step<T>>, ClientError> {
        let before = self.bytes.len();
        self.bytes.resize(before + READ_BYTES, 0);
        let room = self.bytes.get_mut(before..).unwrap_or_default();
        let read = self.stream.read(room);
        self.bytes
            .truncate(before + read.as_ref().map_or(0, |count| *count));
        match read {
            Ok(0) => Ok(Some(Step::End)),
            Ok(_) => Ok(None),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                    Ok(Some(Step::Quiet))
                }
                // Closed with something of ours unread: the end as well.
                io::ErrorKind::ConnectionReset => Ok(Some(Step::End)),
                _ => Err(ClientError::Receive(error)),
            },
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
