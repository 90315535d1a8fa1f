//! A generator with both its ends open, for one run after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use millrace_dataplane::clock;
use millrace_dataplane::xdp::XdpMode;

use super::cable::CableEnd;
use super::error::PktgenError;
use super::latency::Latency;
use super::link::{Binding, ReceiveEnd, SendEnd};
use super::marker::Runs;
use super::order::Share;
use super::outcome::{Outcome, Sample};
use super::promiscuous::Promiscuous;
use super::rate::Rate;
use super::receiver::{Listening, Received, Receiver};
use super::sender::{Job, Sender, Sent};
use super::setup::{Entry, Exit, Sending, Setup, check};
use super::sink::Sink;
use super::steering::Steering;

/// How often a run looks whether it is over.
const BEAT: Duration = Duration::from_millis(20);
/// How far apart the points of a run's curve are.
const SAMPLE: Duration = Duration::from_secs(1);
/// How long a run waits for what comes besides, a duplicate say, when everything has arrived.
const AFTERMATH: Duration = Duration::from_millis(50);

/// One run.
#[derive(Debug, Clone, Copy)]
pub struct Trial {
    /// How fast all threads together send.
    pub rate: Rate,
    /// How long.
    pub duration: Duration,
    /// How many packets at most.
    pub packets: Option<u64>,
    /// How long packets may be under way after the last one was sent.
    pub drain: Duration,
}

/// How a run is going.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Since its beginning.
    pub elapsed: Duration,
    /// How long it is to last.
    pub duration: Duration,
    /// What was sent.
    pub sent: Option<u64>,
    /// What arrived.
    pub received: Option<Received>,
    /// The newest rates.
    pub rates: Option<Sample>,
}

/// Told how a run is going, every now and then.
pub type Watch<'a> = &'a mut dyn FnMut(&Progress);

/// A counting end at work.
enum Counter {
    Verified(Receiver),
    Steered { sink: Sink, before: u64 },
}

/// A generator with its ends open. Dropping it leaves interfaces as they were.
pub struct Session {
    send: Option<Sending>,
    /// The threads' ends; none where one is lost.
    ends: Vec<SendEnd>,
    counter: Option<Counter>,
    /// How both ends were opened.
    opened: Vec<String>,
    next_run: u16,
    _promiscuous: Option<Promiscuous>,
    _driver: Option<Steering>,
}

impl Session {
    /// Opens both ends.
    ///
    /// # Errors
    /// [`PktgenError`] says what is missing or wrong; nothing is left behind.
    pub fn open(setup: Setup) -> Result<Self, PktgenError> {
        check(&setup)?;
        let (mut opened, receive) = (Vec::new(), setup.receive.as_ref());
        let way_out = match &setup.send {
            Some(send) => WayOut::open(&send.exit, receive, &mut opened)?,
            None => WayOut::default(),
        };
        let promiscuous = match receive {
            Some(Entry::Interface(Listening { place, .. }) | Entry::Drop(place, _))
                if setup.is_promiscuous =>
            {
                Some(Promiscuous::enter(place)?)
            }
            _ => None,
        };
        let counter = match receive {
            None => None,
            Some(Entry::Interface(listening)) => {
                let receiver = Receiver::listen(listening, None)?;
                if let Some(how) = receiver.opened() {
                    let (place, bound, attached) = (&listening.place, how.bound, how.attached);
                    opened.push(format!(
                        "{place} receives in {bound} mode, its XDP program {attached}"
                    ));
                }
                Some(Counter::Verified(receiver))
            }
            Some(Entry::Drop(place, mode)) => Some(Counter::Steered {
                sink: Sink::attach(place, *mode)?,
                before: 0,
            }),
            Some(Entry::Memory) => {
                let ends = way_out.far.into_iter().map(ReceiveEnd::in_memory).collect();
                let cores: Vec<_> = setup.memory_core.into_iter().collect();
                Some(Counter::Verified(Receiver::read(ends, &cores, None)?))
            }
        };
        Ok(Self {
            send: setup.send,
            ends: way_out.ends,
            counter,
            opened,
            next_run: fresh_run(),
            _promiscuous: promiscuous,
            _driver: way_out.driver,
        })
    }

    /// A generator whose ends were opened elsewhere.
    ///
    /// # Errors
    /// [`PktgenError`] without a thread.
    pub fn with_ends(
        send: Sending,
        ends: Vec<SendEnd>,
        receive: Vec<ReceiveEnd>,
    ) -> Result<Self, PktgenError> {
        Ok(Self {
            send: Some(send),
            ends,
            counter: Some(Counter::Verified(Receiver::read(receive, &[], None)?)),
            opened: Vec::new(),
            next_run: fresh_run(),
            _promiscuous: None,
            _driver: None,
        })
    }

    /// The mean length of what is sent, in bytes; 0 where nothing is.
    #[must_use]
    pub fn mean_len(&self) -> f64 {
        self.send.as_ref().map_or(0.0, |send| send.traffic.mean_len())
    }

    /// Runs once: to the end of its time, to its last packet, or until `stop` is raised.
    ///
    /// # Errors
    /// [`PktgenError`] when a thread cannot start or panicked.
    pub fn run(
        &mut self,
        trial: &Trial,
        stop: &AtomicBool,
        watch: Watch<'_>,
    ) -> Result<Outcome, PktgenError> {
        let senders = self.start(trial)?;
        let (samples, elapsed) = self.attend(trial, &senders, stop, watch)?;
        senders.iter().for_each(Sender::ask_to_stop);
        let is_sending = !senders.is_empty();
        let mut sent = Sent::default();
        for sender in senders {
            let (part, end) = sender.finish()?;
            self.ends.push(end);
            sent = Sent {
                packets: sent.packets + part.packets,
                bytes: sent.bytes + part.bytes,
                unmarked: sent.unmarked + part.unmarked,
                refused: sent.refused + part.refused,
                device_errors: sent.device_errors + part.device_errors,
                active_ns: sent.active_ns.max(part.active_ns),
            };
        }
        if is_sending {
            self.drain(&sent, trial.drain)?;
        }
        let received = self.received()?;
        let latency = match &self.counter {
            Some(Counter::Verified(receiver)) if is_sending => Latency::of(&receiver.latency()),
            _ => None,
        };
        let is_steered = matches!(self.counter, Some(Counter::Steered { .. }));
        let outcome = Outcome {
            ends: self.opened.clone(),
            latency,
            samples,
            ..Outcome::of(
                trial.rate.packets_per_second(self.mean_len()),
                is_sending.then_some(sent),
                received,
                is_steered,
                elapsed,
            )
        };
        Ok(outcome)
    }

    fn start(&mut self, trial: &Trial) -> Result<Vec<Sender>, PktgenError> {
        // INVARIANT: an interface has far fewer queues.
        let of = u16::try_from(self.ends.len()).unwrap_or(u16::MAX);
        let first = self.next_run;
        self.next_run = first.wrapping_add(of.max(1));
        match &mut self.counter {
            Some(Counter::Verified(receiver)) => {
                // Who only receives cannot know the run.
                receiver.reopen(self.send.as_ref().map(|_| Runs { first, count: of }));
            }
            Some(Counter::Steered { sink, before }) => *before = sink.packets()?,
            None => {}
        }
        let Some(send) = &self.send else {
            return Ok(Vec::new());
        };
        let mut senders = Vec::new();
        for (number, end) in (0..of).zip(self.ends.drain(..)) {
            let share = Share {
                number: u32::from(number),
                of: u32::from(of),
            };
            let job = Job {
                traffic: send.traffic.share(share),
                order: send.order,
                share,
                run: first.wrapping_add(number),
                rate: trial.rate,
                packets: trial.packets.map(|packets| part(packets, share)),
                batch: send.batch,
                core: send.cores.get(usize::from(number)).copied(),
            };
            senders.push(Sender::launch(end, job)?);
        }
        Ok(senders)
    }

    /// Waits for the end, and notes how it goes.
    fn attend(
        &self,
        trial: &Trial,
        senders: &[Sender],
        stop: &AtomicBool,
        watch: Watch<'_>,
    ) -> Result<(Vec<Sample>, Duration), PktgenError> {
        let began = Instant::now();
        let mut samples: Vec<Sample> = Vec::new();
        let (mut at, mut sent_before, mut received_before) = (began, 0, 0);
        loop {
            let elapsed = began.elapsed();
            let left = trial.duration.saturating_sub(elapsed);
            let is_done = !senders.is_empty() && senders.iter().all(Sender::is_done);
            if left.is_zero() || is_done || stop.load(Ordering::Relaxed) {
                return Ok((samples, elapsed));
            }
            if at.elapsed() >= SAMPLE {
                let sent = senders.iter().map(|sender| sender.sent().packets).sum();
                let received = self.received()?;
                let arrived = received.map_or(0, |received| received.packets);
                let seconds = at.elapsed().as_secs_f64();
                let sample = Sample::between(elapsed, seconds, sent - sent_before, arrived - received_before);
                (at, sent_before, received_before) = (Instant::now(), sent, arrived);
                samples.push(sample);
                watch(&Progress {
                    elapsed,
                    duration: trial.duration,
                    sent: (!senders.is_empty()).then_some(sent),
                    received,
                    rates: Some(sample),
                });
            }
            thread::sleep(left.min(BEAT));
        }
    }

    /// Waits until everything has arrived, or what has not by now will not any more.
    fn drain(&self, sent: &Sent, patience: Duration) -> Result<(), PktgenError> {
        let began = Instant::now();
        loop {
            let elapsed = began.elapsed();
            let arrived = match self.received()? {
                None => return Ok(()),
                Some(received) => match &self.counter {
                    Some(Counter::Steered { .. }) => received.packets >= sent.packets,
                    _ => received.distinct + received.unplaced >= sent.packets - sent.unmarked,
                },
            };
            if elapsed >= patience || (arrived && elapsed >= AFTERMATH) {
                return Ok(());
            }
            thread::sleep(BEAT.min(patience - elapsed));
        }
    }

    fn received(&self) -> Result<Option<Received>, PktgenError> {
        Ok(match &self.counter {
            None => None,
            Some(Counter::Verified(receiver)) => Some(receiver.received()),
            Some(Counter::Steered { sink, before }) => Some(Received {
                packets: sink.packets()?.saturating_sub(*before),
                ..Received::default()
            }),
        })
    }
}

/// Where packets leave, opened.
#[derive(Default)]
struct WayOut {
    ends: Vec<SendEnd>,
    /// Where they arrive, of wires in memory.
    far: Vec<CableEnd>,
    /// A program that is there for the driver only.
    driver: Option<Steering>,
}

impl WayOut {
    /// Says in `opened` how.
    fn open(exit: &Exit, receive: Option<&Entry>, opened: &mut Vec<String>) -> Result<Self, PktgenError> {
        let mut way = Self::default();
        match exit {
            Exit::Interface {
                place,
                queues,
                binding,
            } => {
                let facts = place.facts()?;
                // A driver makes queues ready for zero-copy only while a program is attached.
                let receives_too = matches!(receive, Some(Entry::Interface(to)) if to.place == *place);
                if *binding != Binding::Copy && !receives_too {
                    way.driver = Some(Steering::attach(place, facts, XdpMode::Auto, &[])?);
                }
                for queue in queues {
                    let interface = (place.interface.as_str(), facts.ifindex);
                    let (end, mode) = place.within(|| SendEnd::bind(interface, *queue, *binding))??;
                    opened.push(format!("{place} sends by queue {queue} in {mode} mode"));
                    way.ends.push(end);
                }
            }
            Exit::Memory { threads } => {
                for _ in 0..(*threads).max(1) {
                    if !matches!(receive, Some(Entry::Memory)) {
                        way.ends.push(SendEnd::in_memory(CableEnd::open_ended()));
                        continue;
                    }
                    let (near, far) = CableEnd::pair();
                    way.ends.push(SendEnd::in_memory(near));
                    way.far.push(far);
                }
            }
        }
        Ok(way)
    }
}

/// What one of several senders sends of so many packets.
fn part(packets: u64, share: Share) -> u64 {
    let (number, of) = (u64::from(share.number), u64::from(share.of.max(1)));
    packets / of + u64::from(number < packets % of)
}

/// A number for a run that the last one most likely had not.
fn fresh_run() -> u16 {
    // INVARIANT: masked to 16 bits.
    #[allow(clippy::cast_possible_truncation)]
    let run = (clock::cycles() >> 16 & 0xffff) as u16;
    run
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
