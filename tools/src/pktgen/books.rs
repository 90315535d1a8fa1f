//! What a receiving end writes down: how many packets of each stream came, which, in which order, whole or not, and how
//! long they were under way.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::marker::{Runs, elapsed_ns};
use super::recognise::{Recognised, Wrapping, recognise_of};
use super::sequence::{Arrival, Tracker};

/// Significant digits of a latency.
const DIGITS: u8 = 3;
/// The longest latency that is told apart, in nanoseconds.
const LONGEST_NS: u64 = 1 << 39;
/// Streams that are kept apart where any run counts; those beyond are strangers.
const STREAMS_MAX: usize = 256;

/// Flows that are told apart: as many as a [`Recognised::flow`] has values.
const FLOWS: usize = 1 << u16::BITS;

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Received {
    /// Packets of the run, duplicates and corrupt ones included.
    pub packets: u64,
    /// Their bytes, from the (outer) Ethernet header on.
    pub bytes: u64,
    /// Those among them that came in VXLAN.
    pub vxlan: u64,
    /// Those among them that came in IP-in-IP.
    pub ipip: u64,
    /// Those among them with a wrong checksum or a broken header somewhere.
    pub corrupt: u64,
    /// Those among the corrupt whose sequence number cannot be believed.
    pub unplaced: u64,
    /// Those among them that came after a later one of the same stream and queue (RFC 4737 section 3.3).
    pub reordered: u64,
    /// Those among the reordered that came after a later one of their own flow, too; flows are told apart by a hash of
    /// 16 bits of addresses and ports. A device with several queues keeps the order of a flow, not that between flows.
    pub reordered_in_flow: u64,
    /// How many sequence numbers behind the next expected the latest of the reordered was.
    pub reordered_by_max: u64,
    /// Those among them whose sequence number had arrived already.
    pub duplicates: u64,
    /// Those so much too late that nobody knows any more whether they had.
    pub too_old: u64,
    /// Different sequence numbers that arrived.
    pub distinct: u64,
    /// Sequence numbers below the highest that arrived which did not.
    pub gaps: u64,
    /// Packets of anyone else.
    pub strangers: u64,
    /// Packets the socket had no room for.
    pub overrun: u64,
}

/// One packet that was looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    len: usize,
    found: Option<Recognised>,
}

/// Looks at a packet. The costly half, done without a lock.
#[inline]
pub(crate) fn look(packet: &[u8], runs: Option<Runs>) -> Seen {
    Seen {
        len: packet.len(),
        found: recognise_of(packet, runs),
    }
}

/// One sender's packets of one run.
#[derive(Debug)]
struct Stream {
    run: u16,
    tracker: Tracker,
    /// The next number expected, by queue.
    expected: Vec<u64>,
    /// The same by flow.
    expected_in_flow: Box<[u64]>,
}

/// The books of one run.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) runs: Option<Runs>,
    counts: Received,
    streams: Vec<Stream>,
    latency: Histogram<u64>,
}

impl Books {
    /// Empty books for these runs; `None` for any.
    pub(crate) fn new(runs: Option<Runs>) -> Self {
        // INVARIANT: the bounds make sense, and so do three digits.
        let latency = Histogram::new_with_bounds(1, LONGEST_NS, DIGITS);
        Self {
            runs,
            counts: Received::default(),
            streams: Vec::new(),
            latency: latency
                .unwrap_or_else(|_| Histogram::new(DIGITS).unwrap_or_else(|_| unreachable!("three digits"))),
        }
    }

    /// Writes down what came by a queue, read at `now`.
    pub(crate) fn note(&mut self, queue: usize, seen: &[Seen], now: u64) {
        for packet in seen {
            match packet.found {
                Some(found) => self.count(queue, packet.len, &found, now),
                None => self.counts.strangers += 1,
            }
        }
    }

    fn count(&mut self, queue: usize, len: usize, found: &Recognised, now: u64) {
        let run = found.marker.run;
        // Of books that were opened meanwhile, or a run too many: nobody asked for it.
        if self
            .runs
            .is_some_and(|runs| found.is_credible && !runs.contains(run))
        {
            self.counts.strangers += 1;
            return;
        }
        let counts = &mut self.counts;
        counts.packets += 1;
        counts.bytes += len as u64;
        match found.wrapping {
            Wrapping::Plain | Wrapping::Other => {}
            Wrapping::Vxlan => counts.vxlan += 1,
            Wrapping::Ipip => counts.ipip += 1,
        }
        counts.corrupt += u64::from(!found.is_intact);
        if !found.is_credible {
            counts.unplaced += 1;
            return;
        }
        let Some((arrival, late_in_flow)) = self.arrive(queue, found) else {
            return;
        };
        match arrival {
            Arrival::First { late_by } => {
                let counts = &mut self.counts;
                counts.reordered += u64::from(late_by > 0);
                counts.reordered_in_flow += u64::from(late_by > 0 && late_in_flow);
                counts.reordered_by_max = counts.reordered_by_max.max(late_by);
                self.latency
                    .saturating_record(elapsed_ns(found.marker.time, now).max(1));
            }
            Arrival::Duplicate => self.counts.duplicates += 1,
            Arrival::TooOld => self.counts.too_old += 1,
        }
    }

    /// Notes an arrival; answers what it was, and whether a later packet of the same flow was there before.
    fn arrive(&mut self, queue: usize, found: &Recognised) -> Option<(Arrival, bool)> {
        let (run, sequence) = (found.marker.run, found.marker.sequence);
        let place = match self.streams.iter().position(|stream| stream.run == run) {
            Some(place) => place,
            None if self.streams.len() < STREAMS_MAX => {
                self.streams.push(Stream {
                    run,
                    tracker: Tracker::default(),
                    expected: Vec::new(),
                    expected_in_flow: vec![0; FLOWS].into_boxed_slice(),
                });
                self.streams.len() - 1
            }
            None => return None,
        };
        let stream = self.streams.get_mut(place)?;
        if stream.expected.len() <= queue {
            stream.expected.resize(queue + 1, 0);
        }
        let expected = stream.expected.get_mut(queue)?;
        let arrival = stream.tracker.note(sequence, expected);
        let in_flow = stream.expected_in_flow.get_mut(usize::from(found.flow))?;
        let late_in_flow = sequence < *in_flow;
        if matches!(arrival, Arrival::First { .. }) {
            *in_flow = (*in_flow).max(sequence + 1);
        }
        Some((arrival, late_in_flow))
    }

    /// What came so far.
    pub(crate) fn read(&self) -> Received {
        let sum = |of: fn(&Tracker) -> u64| self.streams.iter().map(|stream| of(&stream.tracker)).sum();
        Received {
            distinct: sum(Tracker::distinct),
            gaps: sum(Tracker::gaps),
            ..self.counts
        }
    }

    /// How long packets were under way, each counted once, in nanoseconds.
    pub(crate) fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }
}
