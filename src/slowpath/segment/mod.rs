//! Bridged networks, as far as they need thought: where stations are, who has which address, and who listens to which group.
//!
//! Workers tell what they see and do not know ([`Lesson`]), and hand over ARP, neighbour discovery and group membership where
//! a segment says so. What is learned from them is in the forwarding database, which workers look stations up in.

mod bindings;
mod groups;
mod moves;
mod read;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::table::fdb::{Fdb, Learnt, Refusal};
use millrace_dataplane::table::{
    Listeners, Location, Member, NetworkId, Networks, NodeTables, Publisher, Tick,
};
use millrace_dataplane::wire::{EtherType, Ethernet, Ipv4, Ipv6, MacAddr, Membership};
use millrace_dataplane::worker::{Injection, Lesson, Origin, Way};
use tracing::warn;

use super::stats::SlowPathStats;
use bindings::{Binding, Bindings};
use groups::Groups;
use moves::{Move, Moves};
use read::Question;

/// How often something that takes long may be done because of a packet.
const LOOK: Duration = Duration::from_secs(1);
/// Turns of [`Segments::tick`] in which the whole forwarding database is looked through for stations to forget.
const AGEING_TURNS: usize = 32;
/// How soon after one another workers are told who listens: each time it is all of it.
const TELL: Duration = Duration::from_millis(100);

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

/// Where what is learned about bridged networks is put, for workers.
#[derive(Debug)]
pub struct Learned {
    /// Where stations are.
    pub fdb: Arc<Fdb>,
    /// Who listens to which group.
    pub listeners: Publisher<Listeners>,
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
    groups: Groups,
    listeners: Publisher<Listeners>,
    /// When workers were told last who listens, and whether that has changed since.
    told: Option<Instant>,
    is_news: bool,
}

impl Segments {
    pub(super) fn new(Learned { fdb, listeners }: Learned) -> Self {
        Self {
            fdb,
            listeners,
            groups: Groups::default(),
            told: None,
            is_news: false,
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
                if moves.is_some() {
                    self.moves.undo((network, mac));
                }
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

    /// What becomes of a message about who listens to which group: it goes on, and is remembered.
    pub(super) fn overhear(
        &mut self,
        frame: &[u8],
        (network, from): (NetworkId, Location),
        stats: &SlowPathStats,
        now: Now,
    ) -> Injection {
        if let Some((membership, is_ipv4)) = membership(frame) {
            stats.memberships.add(1);
            self.is_news |= self.groups.hear(network, from, (membership, is_ipv4), now.at);
            self.tell(now.at);
        }
        inject(network, from, PacketCopy::new(frame))
    }

    /// Tells workers who listens, if that is news and they have not been told just now.
    fn tell(&mut self, now: Instant) {
        let is_due = self
            .told
            .is_none_or(|told| now.saturating_duration_since(told) >= TELL);
        if self.is_news && is_due {
            self.listeners.publish(self.groups.listeners());
            (self.told, self.is_news) = (Some(now), false);
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
        // so to others. Who is asked for on its own side of a port hears the question there. And an answer to who is not known
        // where it asks (there may be no room for more) goes to everybody, or elsewhere.
        let asks_where_it_is = || {
            let asker = self.fdb.lookup(network, question.asker());
            asker.is_some_and(|asker| asker.location() == from)
        };
        let may_answer = match from {
            Location::Port(_) if matches!(is_at, Location::Remote(_)) => asks_where_it_is(),
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
        self.is_news |= self.groups.forget_old(now.at);
        self.tell(now.at);
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

/// What a frame says about who listens to which group, and whether to IPv4's, if it does.
fn membership(frame: &[u8]) -> Option<(Membership<'_>, bool)> {
    let ethernet = Ethernet::parse(frame).ok()?;
    match ethernet.ether_type() {
        EtherType::IPV4 => {
            let ip = Ipv4::parse(ethernet.payload()).ok()?;
            Some((Membership::parse_v4(&ip).ok()??, true))
        }
        EtherType::IPV6 => {
            let ip = Ipv6::parse(ethernet.payload()).ok()?;
            Some((Membership::parse_v6(&ip).ok()??, false))
        }
        _ => None,
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
