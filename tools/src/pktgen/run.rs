//! A timed run from one interface to another, and its report.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::PktgenError;
use super::receiver::{Received, Receiver, ReceiverOptions};
use super::sender::{Sender, SenderOptions, Sent};
use super::sink::Sink;
use super::template::Template;

/// How long packets may be under way after the last one was sent.
const UNDER_WAY: Duration = Duration::from_millis(200);
/// How often the run looks whether it is over.
const BEAT: Duration = Duration::from_millis(20);

/// How arriving packets are counted.
#[derive(Debug, Clone)]
pub enum Counting {
    /// Each is looked into.
    Verified(ReceiverOptions),
    /// They are counted and dropped in the kernel, whatever they are.
    Steered(ReceiverOptions),
}

/// What a run does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is sent, and how.
    pub send: Option<(Template, SenderOptions)>,
    /// How arriving packets are counted.
    pub receive: Option<Counting>,
    /// How long rates are not yet measured.
    pub warm_up: Duration,
    /// How long they are.
    pub duration: Duration,
}

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// How long rates were measured, in seconds.
    pub seconds: f64,
    /// What was sent in all.
    pub sent: Option<Sent>,
    /// Packets sent per second, while measured.
    pub sent_per_second: Option<f64>,
    /// What arrived in all. Counted in the kernel, only the number of packets is known.
    pub received: Option<Received>,
    /// Packets received per second, while measured.
    pub received_per_second: Option<f64>,
    /// Packets sent that never arrived.
    pub lost: Option<u64>,
    /// The same as a share of those sent.
    pub loss: Option<f64>,
}

/// A counting end at work.
enum Counter {
    Verified(Receiver),
    Steered(Sink),
}

impl Counter {
    fn start(counting: &Counting) -> Result<Self, PktgenError> {
        Ok(match counting {
            Counting::Verified(options) => Self::Verified(Receiver::start(options)?),
            Counting::Steered(options) => Self::Steered(Sink::attach(&options.place, options.mode)?),
        })
    }

    fn read(&self) -> Result<Received, PktgenError> {
        Ok(match self {
            Self::Verified(receiver) => receiver.received(),
            Self::Steered(sink) => Received {
                packets: sink.packets()?,
                ..Received::default()
            },
        })
    }

    fn stop(self) -> Result<Received, PktgenError> {
        match self {
            Self::Verified(receiver) => receiver.stop(),
            Self::Steered(_) => self.read(),
        }
    }
}

/// What both ends say at one moment.
struct Reading {
    at: Instant,
    sent: u64,
    received: u64,
}

impl Reading {
    fn take(sender: Option<&Sender>, counter: Option<&Counter>) -> Result<Self, PktgenError> {
        let sent = sender.map_or(0, |sender| sender.sent().packets);
        let received = counter
            .map(Counter::read)
            .transpose()?
            .map_or(0, |received| received.packets);
        Ok(Self {
            at: Instant::now(),
            sent,
            received,
        })
    }
}

/// Runs a plan to its end, or until `stop` is raised.
///
/// # Errors
/// [`PktgenError`] when an end cannot start; what was started is stopped.
pub fn run(plan: Plan, stop: &AtomicBool) -> Result<Report, PktgenError> {
    let counter = plan.receive.as_ref().map(Counter::start).transpose()?;
    let sender = plan
        .send
        .map(|(template, options)| Sender::start(template, &options))
        .transpose()?;
    wait(plan.warm_up, sender.as_ref(), stop);
    let first = Reading::take(sender.as_ref(), counter.as_ref())?;
    wait(plan.duration, sender.as_ref(), stop);
    let last = Reading::take(sender.as_ref(), counter.as_ref())?;
    let sent = sender.map(Sender::stop).transpose()?;
    if sent.is_some() && counter.is_some() {
        thread::sleep(UNDER_WAY);
    }
    let received = counter.map(Counter::stop).transpose()?;
    Ok(report(&first, &last, sent, received))
}

/// Waits for `duration`, for the last packet to be sent, or for `stop`.
fn wait(duration: Duration, sender: Option<&Sender>, stop: &AtomicBool) {
    let deadline = Instant::now() + duration;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || stop.load(Ordering::Relaxed) || sender.is_some_and(Sender::is_done) {
            return;
        }
        thread::sleep(left.min(BEAT));
    }
}

// INVARIANT: counts of packets are far below 2^52, so that nothing is lost.
#[allow(clippy::cast_precision_loss)]
fn report(first: &Reading, last: &Reading, sent: Option<Sent>, received: Option<Received>) -> Report {
    let seconds = last.at.duration_since(first.at).as_secs_f64();
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds.max(f64::MIN_POSITIVE);
    let lost = sent
        .zip(received)
        .map(|(sent, received)| sent.packets.saturating_sub(received.packets));
    Report {
        seconds,
        sent,
        sent_per_second: sent.map(|_| rate(first.sent, last.sent)),
        received,
        received_per_second: received.map(|_| rate(first.received, last.received)),
        lost,
        loss: sent
            .zip(lost)
            .map(|(sent, lost)| lost as f64 / (sent.packets.max(1)) as f64),
    }
}

impl fmt::Display for Report {
    /// One line for a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} s", self.seconds)?;
        if let (Some(sent), Some(rate)) = (self.sent, self.sent_per_second) {
            write!(
                f,
                "; sent {} packets, {} bytes ({rate:.0} packets/s)",
                sent.packets, sent.bytes
            )?;
        }
        if let (Some(received), Some(rate)) = (self.received, self.received_per_second) {
            write!(
                f,
                "; received {} packets, {} bytes ({rate:.0} packets/s)",
                received.packets, received.bytes
            )?;
            let counts = [
                ("in VXLAN", received.vxlan),
                ("in IP-in-IP", received.ipip),
                ("corrupt", received.corrupt),
                ("reordered", received.reordered),
                ("of others", received.strangers),
                ("overrun here", received.overrun),
            ];
            for (what, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
                write!(f, ", {count} {what}")?;
            }
        }
        if let (Some(lost), Some(loss)) = (self.lost, self.loss) {
            write!(f, "; lost {lost} ({:.3} %)", loss * 100.0)?;
        }
        Ok(())
    }
}
