//! What is kept in mind of packets that come in pieces: the ports, which only the first piece has and by which all must
//! go, and which parts have passed, so that none is said twice.
//!
//! As with the kernel's reassembly, a piece that only repeats what has passed is dropped, and one that overlaps it, or
//! says another end, takes all that is still to come of its packet with it (RFC 5722; Linux does so for IPv4 too). A
//! packet whose pieces have all passed is forgotten, so its identifier can be used again at once. Bounded in space and
//! time: under a flood of pieces the oldest packet gives way, and what comes of it later is as if its first had not passed.

use std::net::IpAddr;

use millrace_dataplane::table::flow::TcpSegment;
use millrace_dataplane::table::{HashKey, NetworkId, Tick};
use millrace_dataplane::verdict::DropReason;
use millrace_dataplane::wire::{Fragment, IpProtocol, Ports};

use crate::packet::{Addresses, Packet, halves};

/// How many packets are remembered at once: sets of [`WAYS`].
const SETS: usize = 128;
/// Packets in one set; the oldest gives way.
const WAYS: usize = 4;
/// How long a packet is remembered after the first piece that came of it, in seconds: as long as Linux waits for the
/// rest of a packet (`net.ipv4.ipfrag_time`).
const TIMEOUT_S: u32 = 30;
/// Parts of a packet, with gaps between them, that are told apart. In order there is one.
const SPANS: usize = 8;

/// What all pieces of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Whole {
    network: NetworkId,
    source: IpAddr,
    destination: IpAddr,
    /// In IPv6 it is no part of what tells packets apart (RFC 8200 section 4.5).
    protocol: Option<IpProtocol>,
    id: u32,
}

/// A part of a packet, in bytes of what was fragmented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u16,
    /// After its last byte.
    pub(crate) end: u16,
}

/// What the first piece of a packet says of all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct First {
    pub(crate) protocol: IpProtocol,
    pub(crate) ports: Option<Ports>,
    /// Its TCP segment as far as this piece holds it, and where that ends.
    pub(crate) segment: Option<(TcpSegment, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    whole: Whole,
    since: Tick,
    first: Option<First>,
    /// What has passed, in no order; none of them touches another.
    spans: [Option<Span>; SPANS],
    /// Where the packet ends, once the last piece has passed.
    end: Option<u16>,
    /// Whether a piece contradicted another.
    is_spoilt: bool,
}

/// What was known of a packet before a piece came.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    /// What its first piece said, if that has passed.
    pub(crate) first: Option<First>,
    /// After the last byte that has passed.
    pub(crate) end: u16,
}

/// The packets in pieces that one worker has in mind.
#[derive(Debug)]
pub(crate) struct Pieces {
    key: HashKey,
    sets: [[Option<Entry>; WAYS]; SETS],
}

impl First {
    /// The segment as a piece that ends there has it longer; `None` if it is no TCP, or not longer.
    pub(crate) fn reaching(&self, end: u16) -> Option<TcpSegment> {
        let (segment, own_end) = self.segment?;
        let more = u32::from(end).checked_sub(own_end).filter(|more| *more > 0)?;
        Some(TcpSegment {
            payload_len: segment.payload_len.saturating_add(more),
            ..segment
        })
    }
}

impl Pieces {
    pub(crate) fn new(key: HashKey) -> Self {
        Self {
            key,
            sets: [[None; WAYS]; SETS],
        }
    }

    /// Whether a piece may pass beside those that have.
    ///
    /// # Errors
    /// [`DropReason::FragmentOverlap`], [`DropReason::FragmentScattered`].
    pub(crate) fn judge(
        &mut self,
        (network, packet, fragment): (NetworkId, &Packet, Fragment),
        span: Span,
        now: Tick,
    ) -> Result<Known, DropReason> {
        let Some(entry) = self.find(&Whole::of(network, packet, fragment), now) else {
            return Ok(Known::default());
        };
        if entry.is_spoilt {
            return Err(DropReason::FragmentOverlap);
        }
        let passed = entry.spans.iter().flatten();
        if passed
            .clone()
            .any(|other| other.start <= span.start && span.end <= other.end)
        {
            return Err(DropReason::FragmentOverlap);
        }
        let end = passed.clone().map(|other| other.end).max().unwrap_or(0);
        let overlaps = passed
            .clone()
            .any(|other| span.start < other.end && other.start < span.end);
        let contradicts = match entry.end {
            Some(end) => span.end > end || !fragment.more,
            None => !fragment.more && span.end < end,
        };
        if overlaps || contradicts {
            entry.is_spoilt = true;
            return Err(DropReason::FragmentOverlap);
        }
        let is_next_to_one = passed
            .clone()
            .any(|other| other.end == span.start || span.end == other.start);
        if !is_next_to_one && entry.spans.iter().all(Option::is_some) {
            return Err(DropReason::FragmentScattered);
        }
        Ok(Known {
            first: entry.first,
            end,
        })
    }

    /// Keeps in mind that a piece has passed, which [`Self::judge`] let; `first` is what it says if it is the first.
    pub(crate) fn note(
        &mut self,
        (network, packet, fragment): (NetworkId, &Packet, Fragment),
        span: Span,
        first: Option<First>,
        now: Tick,
    ) {
        let whole = Whole::of(network, packet, fragment);
        let place = self.place(&whole);
        let Some(slot) = self
            .sets
            .get_mut(place)
            .and_then(|set| slot_for(set, &whole, now))
        else {
            return;
        };
        let known = slot.take().filter(|entry| entry.is(&whole, now));
        let mut entry = known.unwrap_or(Entry::new(whole, now));
        entry.first = first.or(entry.first);
        entry.end = if fragment.more { entry.end } else { Some(span.end) };
        entry.add(span);
        *slot = (!entry.is_complete()).then_some(entry);
    }

    /// What is remembered of a packet.
    fn find(&mut self, whole: &Whole, now: Tick) -> Option<&mut Entry> {
        let place = self.place(whole);
        let mut known = self.sets.get_mut(place)?.iter_mut().flatten();
        known.find(|entry| entry.is(whole, now))
    }

    fn place(&self, whole: &Whole) -> usize {
        let protocol = whole.protocol.map_or(0, |protocol| u64::from(protocol.0));
        let last = u64::from(whole.network.number()) << 48 | u64::from(whole.id) << 8 | protocol;
        let hash = match (whole.source, whole.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ([a, b], [c, d]) = (halves(source), halves(destination));
                self.key.hash([a, b, c, d, last])
            }
            (source, destination) => self.key.hash([bits(source) << 32 | bits(destination), last]),
        };
        // INVARIANT: the remainder is below SETS.
        #[allow(clippy::cast_possible_truncation)]
        let place = (hash % SETS as u64) as usize;
        place
    }
}

/// An IPv4 address as a number.
fn bits(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(_) => 0,
    }
}

/// The place in a set that a packet has, or gets: a free one, or that of the oldest.
fn slot_for<'s>(
    set: &'s mut [Option<Entry>; WAYS],
    whole: &Whole,
    now: Tick,
) -> Option<&'s mut Option<Entry>> {
    set.iter_mut().max_by_key(|slot| match slot {
        Some(entry) if entry.is(whole, now) => (true, 0),
        Some(entry) => (false, now.since(entry.since)),
        None => (false, u32::MAX),
    })
}

impl Entry {
    fn new(whole: Whole, now: Tick) -> Self {
        Self {
            whole,
            since: now,
            first: None,
            spans: [None; SPANS],
            end: None,
            is_spoilt: false,
        }
    }

    /// Whether it is this packet's, and not too old.
    fn is(&self, whole: &Whole, now: Tick) -> bool {
        self.whole == *whole && now.since(self.since) <= TIMEOUT_S
    }

    /// Adds what has passed, and joins it with what it touches.
    fn add(&mut self, span: Span) {
        let mut joined = span;
        for slot in &mut self.spans {
            if let Some(other) = *slot
                && (other.end == joined.start || joined.end == other.start)
            {
                joined = Span {
                    start: other.start.min(joined.start),
                    end: other.end.max(joined.end),
                };
                *slot = None;
            }
        }
        if let Some(free) = self.spans.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(joined);
        }
    }

    fn is_complete(&self) -> bool {
        let mut passed = self.spans.iter().flatten();
        let one = passed.next();
        passed.next().is_none() && one.is_some_and(|span| span.start == 0 && Some(span.end) == self.end)
    }
}

impl Whole {
    fn of(network: NetworkId, packet: &Packet, fragment: Fragment) -> Self {
        let is_v4 = matches!(packet.addresses, Addresses::V4 { .. });
        Self {
            network,
            source: packet.addresses.source(),
            destination: packet.addresses.destination(),
            protocol: is_v4.then_some(packet.protocol),
            id: fragment.id,
        }
    }
}
