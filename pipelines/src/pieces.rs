//! The ports of packets that come in pieces: only the first piece has them, and all must go the same way.
//!
//! Bounded in space and time. A later piece whose first has not passed is told so; whether it may pass without ports is
//! for others to say.

use std::net::IpAddr;

use millrace_dataplane::table::{HashKey, Tick};
use millrace_dataplane::wire::{Fragment, IpProtocol, Ports};

use crate::packet::{Addresses, Packet, halves};

/// How many packets are remembered at once: sets of [`WAYS`].
const SETS: usize = 128;
/// Packets in one set; the oldest gives way.
const WAYS: usize = 4;
/// How long a packet is remembered after its first piece, in seconds: as long as Linux waits for the rest of a packet
/// (`net.ipv4.ipfrag_time`).
const TIMEOUT_S: u32 = 30;

/// What all pieces of one packet have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Whole {
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    id: u32,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    whole: Whole,
    ports: Ports,
    seen: Tick,
}

/// The packets in pieces that one worker has in mind.
#[derive(Debug)]
pub(crate) struct Pieces {
    key: HashKey,
    sets: [[Option<Entry>; WAYS]; SETS],
}

impl Pieces {
    pub(crate) fn new(key: HashKey) -> Self {
        Self {
            key,
            sets: [[None; WAYS]; SETS],
        }
    }

    /// Remembers the ports of a first piece, for as long as the rest may be on its way.
    #[cold]
    pub(crate) fn remember(&mut self, packet: &Packet, fragment: Fragment, now: Tick) {
        let Some(ports) = packet.ports else { return };
        let whole = Whole::of(packet, fragment);
        let new = Entry {
            whole,
            ports,
            seen: now,
        };
        let set = &mut self.sets[self.place(packet, fragment)];
        let age = |entry: &Option<Entry>| entry.map_or(u32::MAX, |entry| now.since(entry.seen));
        let same = |entry: &Option<Entry>| entry.is_some_and(|entry| entry.whole == whole);
        let (mut oldest, mut greatest) = (0, 0);
        for (way, entry) in set.iter().enumerate() {
            let age = if same(entry) { u32::MAX } else { age(entry) };
            if age >= greatest {
                (oldest, greatest) = (way, age);
            }
            if same(entry) {
                break;
            }
        }
        if let Some(entry) = set.get_mut(oldest) {
            *entry = Some(new);
        }
    }

    /// The ports of the packet that a later piece belongs to.
    #[cold]
    pub(crate) fn recall(&self, packet: &Packet, fragment: Fragment, now: Tick) -> Option<Ports> {
        let whole = Whole::of(packet, fragment);
        let set = &self.sets[self.place(packet, fragment)];
        let mut known = set.iter().flatten();
        let entry = known.find(|entry| entry.whole == whole)?;
        (now.since(entry.seen) <= TIMEOUT_S).then_some(entry.ports)
    }

    fn place(&self, packet: &Packet, fragment: Fragment) -> usize {
        let last = u64::from(fragment.id) << 8 | u64::from(packet.protocol.0);
        let hash = match packet.addresses {
            Addresses::V4 { source, destination } => {
                let addresses = u64::from(source.to_bits()) << 32 | u64::from(destination.to_bits());
                self.key.hash([addresses, last])
            }
            Addresses::V6 { source, destination } => {
                let ([a, b], [c, d]) = (halves(source), halves(destination));
                self.key.hash([a, b, c, d, last])
            }
        };
        // INVARIANT: the remainder is below SETS.
        #[allow(clippy::cast_possible_truncation)]
        let place = (hash % SETS as u64) as usize;
        place
    }
}

impl Whole {
    fn of(packet: &Packet, fragment: Fragment) -> Self {
        Self {
            source: packet.addresses.source(),
            destination: packet.addresses.destination(),
            protocol: packet.protocol,
            id: fragment.id,
        }
    }
}
