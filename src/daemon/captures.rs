//! Captures: copies of what passes a port, as lines for whoever asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use millrace_dataplane::capture::{Captured, Direction};
use millrace_dataplane::port::PortId;
use millrace_dataplane::verdict::Verdict;
use millrace_dataplane::worker::WorkerHandle;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::Daemon;
use super::explain::Reasons;
use super::fabric::Queue;
use crate::admin::protocol::{CaptureDirection, CaptureLine, CapturedPacket, Failure, Response};
use crate::admin::server::Answer;

/// Packets that may wait for a capture's client.
const CAPTURE_LINES: usize = 256;
/// How long a capture waits for a packet before it looks whether its client is still there.
const CAPTURE_PAUSE: Duration = Duration::from_millis(200);

impl Daemon {
    /// Taps a port; a thread of its own turns the copies into lines until the client hangs up.
    pub(super) fn capture(&mut self, name: &str) -> Answer {
        // One whose client has just gone no longer counts, though its thread may not have noticed yet: the new tap
        // takes the place of its own.
        let running = self.capture.as_ref().and_then(mpsc::WeakSender::upgrade);
        if running.is_some_and(|lines| !lines.is_closed()) {
            let reason = "another capture is running; there is one at a time";
            return Answer::Once(Response::Error(Failure::failed(reason)));
        }
        let Some((id, port)) = self.ports.iter().find(|(_, port)| port.is_called(name)) else {
            let names: Vec<_> = self.ports.iter().map(|(_, port)| port.name()).collect();
            return Answer::Once(Response::Error(Failure::wrong(format!(
                "there is no port {name}; there are {}",
                names.join(", ")
            ))));
        };
        let copies = match self.fabric.tap(id) {
            Ok(copies) => copies,
            Err(error) => return Answer::Once(Response::Error(Failure::failed(error.to_string()))),
        };
        let (lines_in, lines) = mpsc::channel(CAPTURE_LINES);
        let names: BTreeMap<PortId, String> = self.ports.iter().map(|(id, port)| (id, port.name())).collect();
        let workers = self.fabric.workers().to_vec();
        let reasons = self.follow_reasons();
        self.capture = Some(lines_in.downgrade());
        // Each worker takes its tap off at the next packet that nobody takes.
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || forward_copies(&copies, &lines_in, (&names, &reasons), &workers));
        match thread {
            Ok(_) => Answer::Capture(
                Response::Ok(json!({ "port": port.name(), "interface": port.interface })),
                lines,
            ),
            Err(error) => Answer::Once(Response::Error(Failure::failed(error.to_string()))),
        }
    }
}

/// Turns copies into lines until nobody takes them.
fn forward_copies(
    copies: &Receiver<Captured>,
    lines: &mpsc::Sender<CaptureLine>,
    (names, reasons): (&BTreeMap<PortId, String>, &watch::Receiver<Option<Arc<Reasons>>>),
    workers: &[WorkerHandle<Queue>],
) {
    let lost = || {
        workers
            .iter()
            .map(|worker| worker.stats().capture_lost())
            .sum::<u64>()
    };
    let before = lost();
    let mut told = before;
    while !lines.is_closed() {
        let line = match copies.recv_timeout(CAPTURE_PAUSE) {
            Ok(copy) => {
                // Taken out, so that nobody waits for this thread to let go.
                let reasons = reasons.borrow().clone();
                Some(CaptureLine::Packet(describe(&copy, names, reasons.as_deref())))
            }
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if line.is_some_and(|line| lines.blocking_send(line).is_err()) {
            break;
        }
        let now = lost();
        if now > told {
            told = now;
            if lines.blocking_send(CaptureLine::Lost(now - before)).is_err() {
                break;
            }
        }
    }
}

fn describe(copy: &Captured, names: &BTreeMap<PortId, String>, reasons: Option<&Reasons>) -> CapturedPacket {
    let name = |id: &PortId| names.get(id).cloned().unwrap_or_else(|| format!("port {id}"));
    let (direction, comment) = match &copy.direction {
        Direction::Received(verdict) => (
            CaptureDirection::Received,
            match verdict {
                Verdict::Forward(to) => format!("forward to {}", name(to)),
                Verdict::Drop(reason) => format!("drop {reason}: {}", reason.meaning()),
                Verdict::Punt(reason, _) => format!("punt {reason}: {}", reason.meaning()),
                Verdict::Replicate(cast) => {
                    format!("replicate to everybody in bridged network {}", cast.network)
                }
            },
        ),
        Direction::Sent(Some(from)) => (CaptureDirection::Sent, format!("sent, came in at {}", name(from))),
        Direction::Sent(None) => (CaptureDirection::Sent, "sent, originated by the switch".into()),
    };
    let verdict = match &copy.direction {
        Direction::Received(verdict) => Some(verdict),
        Direction::Sent(_) => None,
    };
    let reason = reasons.and_then(|reasons| reasons.of_packet(copy.port, copy.packet.bytes(), verdict));
    let comment = match reason {
        Some(reason) => format!("{comment}; {reason}"),
        None => comment,
    };
    CapturedPacket {
        time_ns: nanoseconds(copy.time),
        direction,
        comment,
        data: base64::engine::general_purpose::STANDARD.encode(copy.packet.bytes()),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
