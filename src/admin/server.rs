//! The daemon's side of the admin socket.
//!
//! Each client has a task of its own: it reads a line, hands the request to the control task over a bounded
//! queue, and writes the answer. Nothing here waits for a client except that client's own task, so one that
//! is slow, silent or gone holds up neither the others nor control.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::listen::{BindError, Listener};
use super::protocol::{CaptureLine, Failure, LINE_MAX_BYTES, Request, Response};

/// How long to wait before the next try when a connection cannot be accepted (no file descriptor left).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Lines of a capture that go into one write.
const CAPTURE_BATCH: usize = 64;
/// Longest part of an error about a request that is sent back, in characters.
const COMPLAINT_MAX_CHARS: usize = 300;

/// What control answers.
#[derive(Debug)]
pub enum Answer {
    /// One line, and the next request may come.
    Once(Response),
    /// One line, then, if it is [`Response::Ok`], the lines of a capture until either side ends it: control
    /// by dropping the sender, the client by hanging up, upon which sending fails.
    Capture(Response, mpsc::Receiver<CaptureLine>),
}

/// A request on its way to control, with the way back.
pub type Call = (Request, oneshot::Sender<Answer>);

/// Bounds on what clients may use up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Clients at once.
    pub clients: usize,
    /// Longest request line, in bytes without the newline.
    pub request_bytes: usize,
    /// How long a client may take to send a whole request.
    pub idle: Duration,
    /// How long control may take for an answer.
    pub answer: Duration,
    /// How long a client may take to receive an answer. Lines of a capture are not bound by it: a client that
    /// does not take them loses them.
    pub send: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 64,
            request_bytes: 1 << 20,
            idle: Duration::from_secs(60),
            answer: Duration::from_secs(30),
            send: Duration::from_secs(10),
        }
    }
}

/// The admin socket, listening. Its file goes away when this is dropped.
#[derive(Debug)]
pub struct AdminServer {
    listener: Listener,
    limits: Limits,
    owner_uid: u32,
}

impl AdminServer {
    /// Listens at `path`, see [`Listener::bind`]; clients are heard once [`Self::serve`] runs.
    ///
    /// # Errors
    /// [`BindError`], with what stands in the way.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let listener = Listener::bind(path)?;
        let owner_uid = rustix::process::geteuid().as_raw();
        Ok(Self {
            listener,
            limits: Limits::default(),
            owner_uid,
        })
    }

    /// The same with other bounds.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Serves clients until control drops its end of `calls`, or the future is dropped; either ends every
    /// connection and every capture.
    ///
    /// # Errors
    /// The listening socket cannot be given to the runtime.
    pub async fn serve(self, calls: mpsc::Sender<Call>) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.socket()?)?;
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                () = calls.closed() => return Ok(()),
                Some(_) = clients.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.admit(stream, &mut clients, &calls),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection to the admin socket");
                        sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }

    /// Starts a client's task, or tells the client why not.
    fn admit(&self, stream: UnixStream, clients: &mut JoinSet<()>, calls: &mpsc::Sender<Call>) {
        while clients.try_join_next().is_some() {}
        let refusal = match self.check_peer(&stream) {
            Err(failure) => failure,
            Ok(()) if clients.len() >= self.limits.clients => Failure::failed(format!(
                "{} clients are connected to the daemon, which is the most it takes: end one of them",
                clients.len()
            )),
            Ok(()) => {
                let client = Client {
                    calls: calls.clone(),
                    limits: self.limits,
                };
                clients.spawn(async move {
                    // An error here means that the client is gone or does not listen; nobody is left to tell.
                    let _ = client.converse(stream).await;
                });
                return;
            }
        };
        tracing::warn!(
            reason = refusal.message,
            "refused a connection to the admin socket"
        );
        refuse(stream, refusal);
    }

    /// The file's mode already keeps others out; this holds also when somebody changed it.
    fn check_peer(&self, stream: &UnixStream) -> Result<(), Failure> {
        let uid = match stream.peer_cred() {
            Ok(credentials) => credentials.uid(),
            Err(error) => return Err(Failure::failed(format!("cannot tell who is asking: {error}"))),
        };
        if uid == 0 || uid == self.owner_uid {
            return Ok(());
        }
        let owner = self.owner_uid;
        Err(Failure::failed(format!(
            "user {uid} may not speak to the daemon: ask as root or as user {owner}"
        )))
    }
}

/// Says one line to a client whose connection ends here.
fn refuse(stream: UnixStream, failure: Failure) {
    use std::io::Write as _;
    // One short line into an empty socket buffer: it fits, and if not, the client sees the end of the stream.
    if let (Ok(line), Ok(mut stream)) = (encode(&Response::Error(failure)), stream.into_std()) {
        let _ = stream.write_all(&line);
    }
}

/// What a client's task has.
struct Client {
    calls: mpsc::Sender<Call>,
    limits: Limits,
}

impl Client {
    async fn converse(&self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut reader = BufReader::new(read);
        loop {
            let bound = self.limits.request_bytes;
            let answer = match timeout(self.limits.idle, read_line(&mut reader, bound)).await {
                Ok(Ok(Heard::End)) => return Ok(()),
                Ok(Ok(Heard::Line(line))) => match parse(&line) {
                    Ok(request) => self.ask(request).await,
                    Err(failure) => Answer::Once(Response::Error(failure)),
                },
                Ok(Ok(Heard::TooLong)) => {
                    let failure = Failure::wrong(format!("the request is longer than {bound} bytes"));
                    return self.say(&mut write, &Response::Error(failure)).await;
                }
                Ok(Err(error)) => return Err(error),
                Err(_elapsed) => {
                    let seconds = self.limits.idle.as_secs();
                    let failure = Failure::failed(format!("no request came for {seconds} s: connect again"));
                    return self.say(&mut write, &Response::Error(failure)).await;
                }
            };
            match answer {
                Answer::Once(response) => self.say(&mut write, &response).await?,
                Answer::Capture(response @ Response::Error(_), _) => self.say(&mut write, &response).await?,
                Answer::Capture(response, lines) => {
                    self.say(&mut write, &response).await?;
                    return stream_capture(&mut reader, &mut write, lines).await;
                }
            }
        }
    }

    /// Asks control, within bounds.
    async fn ask(&self, request: Request) -> Answer {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.calls.send((request, reply)).await.ok()?;
            answer.await.ok()
        };
        let failure = match timeout(self.limits.answer, asked).await {
            Ok(Some(answer)) => return answer,
            Ok(None) => Failure::failed("the daemon is stopping: ask again when it runs"),
            Err(_elapsed) => Failure::failed(format!(
                "the daemon was too busy to answer within {} s; it may still do what was asked",
                self.limits.answer.as_secs()
            )),
        };
        Answer::Once(Response::Error(failure))
    }

    /// Sends one answer, within bounds.
    async fn say(&self, write: &mut (impl AsyncWrite + Unpin), response: &Response) -> io::Result<()> {
        let line = match encode(response)? {
            line if line.len() <= LINE_MAX_BYTES => line,
            line => encode(&Response::Error(Failure::failed(format!(
                "the answer has {} bytes, and {LINE_MAX_BYTES} is the most that is sent",
                line.len()
            ))))?,
        };
        timeout(self.limits.send, write.write_all(&line))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

/// Sends a capture's lines until the client hangs up or control ends it.
async fn stream_capture(
    reader: &mut BufReader<OwnedReadHalf>,
    write: &mut (impl AsyncWrite + Unpin),
    mut lines: mpsc::Receiver<CaptureLine>,
) -> io::Result<()> {
    let mut batch = Vec::with_capacity(CAPTURE_BATCH);
    let mut bytes = Vec::new();
    loop {
        tokio::select! {
            heard = reader.fill_buf() => match heard?.len() {
                0 => return Ok(()),
                // Nothing can be asked during a capture; what is said anyway is not heard.
                said => reader.consume(said),
            },
            count = lines.recv_many(&mut batch, CAPTURE_BATCH) => {
                if count == 0 {
                    return Ok(());
                }
                bytes.clear();
                for line in batch.drain(..) {
                    serde_json::to_writer(&mut bytes, &line)?;
                    bytes.push(b'\n');
                }
                write.write_all(&bytes).await?;
            }
        }
    }
}

/// What came from a client.
enum Heard {
    /// A line, without its newline.
    Line(Vec<u8>),
    /// More bytes than a line may have.
    TooLong,
    /// The client hung up.
    End,
}

/// Reads one line of at most `bound` bytes; the last one of a stream needs no newline.
async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), bound: usize) -> io::Result<Heard> {
    let mut line = Vec::new();
    // One more for the newline.
    let most = u64::try_from(bound).unwrap_or(u64::MAX).saturating_add(1);
    let read = reader.take(most).read_until(b'\n', &mut line).await?;
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Heard::Line(line));
    }
    Ok(match read {
        0 => Heard::End,
        _ if line.len() > bound => Heard::TooLong,
        _ => Heard::Line(line),
    })
}

fn parse(line: &[u8]) -> Result<Request, Failure> {
    serde_json::from_slice(line).map_err(|error| {
        // The error quotes the request, which may be long.
        let reason: String = error.to_string().chars().take(COMPLAINT_MAX_CHARS).collect();
        Failure::wrong(format!(
            "not a request: {reason}; one looks like {{\"request\":\"stats\"}}"
        ))
    })
}

fn encode(response: &Response) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
