//! Bridged networks, as far as they need thought: where stations are, who has which address, and who listens to which group.
//!
//! Workers tell what they see and do not know ([`Lesson`]), and hand over ARP, neighbour discovery and group membership where
//! a segment says so. What is learned from them is in the forwarding database, which workers look stations up in.

mod bindings;
mod moves;
mod read;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::table::fdb::{Fdb, Learnt, Refusal};
use millrace_dataplane::table::{Location, Member, NetworkId, Networks, NodeTables, Tick};
use millrace_dataplane::wire::{Ethernet, MacAddr};
use millrace_dataplane::worker::{Injection, Lesson, Origin, Way};
use tracing::warn;

use super::stats::SlowPathStats;
use bindings::{Binding, Bindings};
use moves::{Move, Moves};
use read::Question;

/// How often something that takes long may be done because of a packet.
const LOOK: Duration = Duration::from_secs(1);
/// Turns of [`Segments::tick`] in which the whole forwarding database is looked through for stations to forget.
const AGEING_TURNS: usize = 32;

/// Whether what is done so often at most may be done again.
fn is_due(last: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= LOOK);
    if is_due {
        *last = Some(now);
    }
    is_due
}

/// When something happens: for what forgets by itself, and for the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) tick: Tick,
}

/// What is known about bridged networks beside the tables.
#[derive(Debug)]
pub(super) struct Segments {
    fdb: Arc<Fdb>,
    /// The networks that all of this is about.
    networks: Arc<Networks>,
    moves: Moves,
    heard: Bindings,
    /// Who was given which address.
    given: HashMap<(NetworkId, IpAddr), MacAddr>,
}

impl Segments {
    pub(super) fn new(fdb: Arc<Fdb>) -> Self {
        Self {
            fdb,
            networks: Arc::default(),
            moves: Moves::default(),
            heard: Bindings::default(),
            given: HashMap::new(),
        }
    }

    /// Takes in that other networks are in force: what was learned where there is nobody any more is forgotten.
    pub(super) fn follow(&mut self, tables: &NodeTables) {
        if Arc::ptr_eq(&self.networks, &tables.networks) {
            return;
        }
        self.networks = Arc::clone(&tables.networks);
        let networks = &self.networks;
        // What was given is the control plane's.
        self.fdb.write().forget_all(|network, entry| {
            !entry.is_static() && !is_there(networks, network, entry.location())
        });
        self.given.clear();
        for (_, member) in networks.members() {
            if let Member::Access { network, guard } = member
                && let Some(mac) = guard.mac
            {
                let addresses = guard.sources.iter().map(|address| ((*network, *address), mac));
                self.given.extend(addresses);
            }
        }
    }

    /// Learns where a station is.
    pub(super) fn learn(&mut self, lesson: Lesson, stats: &SlowPathStats, now: Now) {
        let Lesson {
            network,
            mac,
            location,
        } = lesson;
        let learns = |location| {
            let segment = self.networks.segment(network);
            segment.is_some_and(|segment| segment.learns_from(location))
        };
        // The worker may have had older tables.
        if !learns(location) || !is_there(&self.networks, network, location) {
            return stats.stations_stale.add(1);
        }
        let known = self.fdb.lookup(network, mac);
        let moves = known.filter(|entry| entry.location() != location && !entry.is_static());
        if let Some(entry) = moves {
            match self.moves.note((network, mac), now.at) {
                Move::Takes => {}
                Move::Stays => return stats.moves_refused.add(1),
                Move::Pins => {
                    warn!(
                        "{mac} of network {network} comes from {} and {} in turn, and is left where it is for {} s: a loop, or two stations with one address",
                        Told(entry.location()),
                        Told(location),
                        moves::PINNED.as_secs()
                    );
                    return stats.moves_refused.add(1);
                }
            }
        }
        let learnt = self.fdb.write().learn(network, mac, location, now.tick);
        match learnt {
            Learnt::New => stats.stations_learned.add(1),
            Learnt::Same => {}
            Learnt::Moved { .. } => stats.stations_moved.add(1),
            Learnt::Refused(Refusal::NoStation | Refusal::Static) => stats.stations_refused.add(1),
            Learnt::Refused(Refusal::PortFull | Refusal::NetworkFull | Refusal::TableFull) => {
                stats.stations_no_room.add(1);
            }
        }
    }

    /// What becomes of a frame of ARP or neighbour discovery: an answer to who asks, if it is known, else it goes on to
    /// everybody, as if it had come in now.
    pub(super) fn hear(
        &mut self,
        frame: &[u8],
        (network, from): (NetworkId, Location),
        stats: &SlowPathStats,
        now: Now,
    ) -> Injection {
        // Its sender may be unknown yet, and the answer is to reach it; one that moved says so by such a frame.
        if let Ok(ethernet) = Ethernet::parse(frame) {
            let lesson = Lesson {
                network,
                mac: ethernet.source(),
                location: from,
            };
            self.learn(lesson, stats, now);
        }
        let heard = read::read(frame);
        if let Some(claim) = heard.claim {
            let read::Claim {
                address,
                mac,
                is_router,
            } = claim;
            self.heard.note(network, address, mac, is_router, now.at);
        }
        let answer = heard
            .question
            .and_then(|question| self.answer(&question, (network, from), now));
        match answer {
            Some(packet) => {
                stats.discovery_suppressed.add(1);
                inject(network, Location::Switch, packet)
            }
            None => {
                stats.discovery_passed.add(1);
                inject(network, from, PacketCopy::new(frame))
            }
        }
    }

    /// The answer to a question, if it is known who is asked for and that it is still there.
    fn answer(
        &self,
        question: &Question,
        (network, from): (NetworkId, Location),
        now: Now,
    ) -> Option<PacketCopy> {
        let (mac, is_router) = self.who_has(network, question.target(), now.at)?;
        let is_at = self.fdb.lookup(network, mac)?.location();
        // Whoever hears the answer learns from it where the station is: of another node's stations only that node may say
        // so to others. Who is asked for on its own side of a port hears the question there.
        let may_answer = match from {
            Location::Port(_) => is_at != from,
            Location::Remote(_) => matches!(is_at, Location::Port(_)),
            Location::Switch => false,
        };
        if may_answer {
            question.answer(mac, is_router)
        } else {
            None
        }
    }

    fn who_has(&self, network: NetworkId, address: IpAddr, now: Instant) -> Option<(MacAddr, Option<bool>)> {
        if let Some(mac) = self.given.get(&(network, address)) {
            return Some((*mac, Some(false)));
        }
        let Binding { mac, is_router, .. } = self.heard.lookup(network, address, now)?;
        Some((mac, is_router))
    }

    /// Forgets stations that are silent, and what has been long ago. Called some times a second.
    pub(super) fn tick(&mut self, stats: &SlowPathStats, now: Now) {
        self.moves.forget_old(now.at);
        self.heard.forget_old(now.at);
        let mut writer = self.fdb.write();
        let places = writer.places().div_ceil(AGEING_TURNS);
        let aged = writer.age(now.tick, places);
        stats.stations_aged.add(aged as u64);
    }

    /// Whether there are bridged networks, so that [`Self::tick`] has something to do.
    pub(super) fn is_any(&self) -> bool {
        self.networks.iter().next().is_some()
    }
}

/// Whether frames of a network may come from there.
fn is_there(networks: &Networks, network: NetworkId, location: Location) -> bool {
    match location {
        Location::Switch => false,
        Location::Port(port) => networks
            .member(port)
            .is_some_and(|member| member.tag(network).is_some()),
        Location::Remote(remote) => {
            let segment = networks.segment(network);
            segment.is_some_and(|segment| segment.remote(remote).is_some())
        }
    }
}

/// A frame that goes through a network as if it came from there.
fn inject(network: NetworkId, from: Location, packet: PacketCopy) -> Injection {
    Injection {
        way: Way::Walk(Origin::Bridged { network, from }),
        packet,
    }
}

/// A location, for a person.
struct Told(Location);

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Location::Switch => f.write_str("the switch"),
            Location::Port(port) => write!(f, "port {port}"),
            Location::Remote(remote) => write!(f, "remote {remote}"),
        }
    }
}

#[cfg(test)]
mod tests;
