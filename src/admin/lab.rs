//! An admin server over a real socket, with a control task that answers as the tests need it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use base64::Engine as _;
use serde_json::json;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::protocol::{
    CaptureDirection, CaptureLine, CapturedPacket, Failure, LINE_MAX_BYTES, Request, Response,
};
use super::server::{AdminServer, Answer, Call, Limits};

/// Length of an answer that a socket does not hold at once.
pub(crate) const SLOW_ANSWER_BYTES: usize = 2 << 20;

/// What the control task saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests.
    pub(crate) requests: AtomicU64,
    /// Captures that ended because the client hung up.
    pub(crate) hung_up: AtomicU64,
    /// Copies that `flood` could not hand over.
    pub(crate) lost: AtomicU64,
}

/// A running server; dropping it stops control, upon which the server ends.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    pub(crate) seen: Arc<Seen>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Lab {
    pub(crate) fn start(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("millrace.sock");
        let seen = Arc::<Seen>::default();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let control_seen = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let server = AdminServer::bind(&path).unwrap().with_limits(limits);
                let (calls, received) = mpsc::channel(4);
                ready.send(()).unwrap();
                let control = control(received, control_seen, stopped);
                let (served, ()) = tokio::join!(server.serve(calls), control);
                served.unwrap();
            });
        });
        is_ready.recv().unwrap();
        Self {
            folder,
            seen,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("millrace.sock")
    }

    /// Lets everybody connect, as nobody ought to do.
    pub(crate) fn open_to_all(&self) {
        for (path, mode) in [(self.folder.path().to_owned(), 0o755), (self.path(), 0o666)] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        }
    }

    /// Stops control, and waits until the server has ended.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(
                joined.is_ok() || std::thread::panicking(),
                "the server's thread panicked"
            );
        }
    }
}

/// A UDP packet, told apart from others by `number`, which is its source port.
pub(crate) fn packet(number: u16, direction: CaptureDirection, comment: &str) -> CapturedPacket {
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    builder
        .ipv4([10, 244, 1, 7], [10, 244, 2, 8], 64)
        .udp(number, 53)
        .write(&mut bytes, b"hello")
        .unwrap();
    CapturedPacket {
        time_ns: 1_700_000_000_123_456_789 + u64::from(number),
        direction,
        comment: comment.to_owned(),
        data: base64::engine::general_purpose::STANDARD.encode(bytes),
    }
}

async fn control(mut calls: mpsc::Receiver<Call>, seen: Arc<Seen>, mut stopped: oneshot::Receiver<()>) {
    let mut never_answered = Vec::new();
    loop {
        let (request, reply) = tokio::select! {
            _ = &mut stopped => return,
            call = calls.recv() => match call {
                Some(call) => call,
                None => return,
            },
        };
        seen.requests.fetch_add(1, Ordering::Relaxed);
        let answer = match request {
            Request::Stats => Answer::Once(Response::Ok(json!({"node": "node-a"}))),
            Request::Detach { pod } => Answer::Once(Response::Error(Failure::wrong(format!("no pod {pod}")))),
            // More than a socket holds.
            Request::ShowRoutes => Answer::Once(Response::Ok(json!("x".repeat(SLOW_ANSWER_BYTES)))),
            // As large as an answer may be, less some room for what is around it.
            Request::ShowPorts => Answer::Once(Response::Ok(json!("x".repeat(LINE_MAX_BYTES - 100)))),
            Request::ShowPeers => Answer::Once(Response::Ok(json!("x".repeat(LINE_MAX_BYTES)))),
            Request::ShowNeighbours => continue,
            Request::Capture { port } => capture(&port, Arc::clone(&seen)),
            Request::Health
            | Request::ShowWorkers
            | Request::ShowServices(_)
            | Request::ShowLoadBalancers
            | Request::ShowPolicies
            | Request::ShowDns
            | Request::Explain(_)
            | Request::ExplainFrame(_)
            | Request::ExplainPacket(_)
            | Request::Denied
            | Request::ShowFlows(_)
            | Request::Attach(_)
            | Request::Verify(_)
            | Request::Release(_)
            | Request::Retain(_)
            | Request::Join(_)
            | Request::Part(_)
            | Request::NetworkFacts { .. }
            | Request::ShowNetworks
            | Request::ShowFdb(_)
            | Request::ShowNode
            | Request::Leave => {
                never_answered.push(reply);
                continue;
            }
        };
        // The client may have gone meanwhile.
        let _ = reply.send(answer);
    }
}

fn capture(port: &str, seen: Arc<Seen>) -> Answer {
    let (lines, received) = mpsc::channel(16);
    match port {
        "absent" => return Answer::Capture(Response::Error(Failure::failed("no port absent")), received),
        "eth1" => tokio::spawn(some(lines)),
        "flood" => tokio::spawn(flood(lines, seen)),
        _ => tokio::spawn(async move {
            lines.closed().await;
            seen.hung_up.fetch_add(1, Ordering::Relaxed);
        }),
    };
    Answer::Capture(
        Response::Ok(json!({"port": "uplink", "interface": port})),
        received,
    )
}

/// A handful of packets, then the end.
async fn some(lines: mpsc::Sender<CaptureLine>) {
    for number in 1..=4 {
        let (direction, comment) = match number % 2 {
            0 => (CaptureDirection::Sent, "from default/web-0"),
            _ => (CaptureDirection::Received, "drop no_route"),
        };
        let _ = lines
            .send(CaptureLine::Packet(packet(number, direction, comment)))
            .await;
    }
    let _ = lines.send(CaptureLine::Lost(3)).await;
}

/// Packets without end, as fast as they go; those that find no room are lost.
async fn flood(lines: mpsc::Sender<CaptureLine>, seen: Arc<Seen>) {
    let packet = packet(1, CaptureDirection::Received, "forward to eth1");
    loop {
        match lines.try_send(CaptureLine::Packet(packet.clone())) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                seen.lost.fetch_add(1, Ordering::Relaxed);
            }
            Err(TrySendError::Closed(_)) => {
                seen.hung_up.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}
