//! A bridge's pipeline: the stages of a frame's walk through a bridged network, in order.
//!
//! `admit` (or `decap`, from the wire), `learn`, then for what is not known to be anywhere the storm's limit and `suppress`,
//! and `exit`. What goes to everybody is copied by the worker, which asks for one destination after another.

mod admit;
mod decap;
mod exit;
mod lane;
mod learn;
mod suppress;

use millrace_dataplane::clock::cycles;
use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::fdb::Station;
use millrace_dataplane::table::{
    HashKey, Listeners, Location, Member, NetworkId, NodeTables, PortFacts, Segment, Tick,
};
use millrace_dataplane::verdict::{Audience, Cast, DropReason, Exit, PuntDetail, Verdict};
use millrace_dataplane::wire::{Ethernet, MacAddr};
use millrace_dataplane::worker::{BATCH_MAX, Lesson};

use self::admit::admit;
use self::decap::open;
use self::exit::{to_port, to_remote};
use self::lane::{Lane, Plain};
use self::learn::Lessons;
use self::suppress::{audience, suppress};
use crate::bridging::Bridging;
use crate::encap::Wrapper;

pub(crate) use self::decap::network_of;

/// Where a bridge's batch comes in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entrance<'t> {
    /// By the port of a member.
    Member(PortId, &'t PortFacts, &'t Member),
    /// From the wire, each in the tunnel of a segment.
    Wire,
}

/// What one worker has of all bridged networks.
#[derive(Debug)]
pub(crate) struct Bridge {
    bridging: Bridging,
    wrapper: Wrapper,
    lessons: Lessons,
    halves: [Half; BATCH_MAX],
    has_lane: bool,
}

/// Where a frame of the batch at hand is, between the two halves of its walk.
#[derive(Debug, Clone, Copy)]
enum Half {
    /// On the lane.
    Plain(Plain),
    Walking(Step),
    /// Its walk has ended already.
    Over(Exit),
}

/// A frame between the two halves of its walk: what the first one found.
#[derive(Debug, Clone, Copy)]
struct Step {
    network: NetworkId,
    from: Location,
    mac: MacAddr,
    source: Station,
    /// `None` for a group's.
    destination: Option<Station>,
}

impl Bridge {
    pub(crate) fn new(bridging: Bridging, key: HashKey, worker: usize) -> Self {
        Self {
            // Another one than the node's own pipeline, which sends between the same two addresses.
            wrapper: Wrapper::new(key, !worker),
            bridging,
            lessons: Lessons::new(),
            halves: [Half::Over(Exit::Drop(DropReason::PortGone)); BATCH_MAX],
            has_lane: true,
        }
    }

    /// Takes no frame onto the lane from now on.
    pub(crate) fn walk_every_stage(&mut self) {
        self.has_lane = false;
    }

    /// Walks a batch: while one frame's stations are fetched from memory, others are read.
    pub(crate) fn process(
        &mut self,
        tables: &NodeTables,
        entrance: Entrance<'_>,
        frames: &mut [Frame],
        verdicts: &mut Vec<Verdict>,
        now: Tick,
    ) {
        self.lessons.begin();
        let lane = Lane::of(tables, entrance).filter(|_| self.has_lane);
        for batch in frames.chunks_mut(BATCH_MAX) {
            batch.iter().for_each(Frame::prefetch);
            self.enter_all(tables, entrance, lane.as_ref(), batch);
            self.finish_all(tables, lane.as_ref(), batch, verdicts, now);
        }
    }

    /// The first half: takes each frame onto the lane, or else finds out which network it is in, from where, and which
    /// stations it is about.
    #[inline(never)]
    fn enter_all(
        &mut self,
        tables: &NodeTables,
        entrance: Entrance<'_>,
        lane: Option<&Lane<'_>>,
        batch: &mut [Frame],
    ) {
        let bridging = &self.bridging;
        for (frame, half) in batch.iter_mut().zip(&mut self.halves) {
            *half = match lane.and_then(|lane| lane.read(&bridging.fdb, frame)) {
                Some(plain) => Half::Plain(plain),
                None => enter(bridging, tables, entrance, frame).map_or_else(Half::Over, Half::Walking),
            };
        }
    }

    /// The second half: pushes the verdict about each.
    #[inline(never)]
    fn finish_all(
        &mut self,
        tables: &NodeTables,
        lane: Option<&Lane<'_>>,
        batch: &mut [Frame],
        verdicts: &mut Vec<Verdict>,
        now: Tick,
    ) {
        for (place, frame) in batch.iter_mut().enumerate() {
            let Some(half) = self.halves.get(place) else { break };
            let verdict = match (half, lane) {
                (Half::Plain(plain), Some(lane)) => match lane.go(&self.bridging.fdb, plain, frame, now) {
                    Some(port) => Verdict::Forward(port),
                    None => {
                        let step = lane.step(plain);
                        self.finish(tables, &step, frame, now)
                    }
                },
                (Half::Walking(step), _) => {
                    let step = *step;
                    self.finish(tables, &step, frame, now)
                }
                (Half::Over(exit), _) => Verdict::from(*exit),
                // INVARIANT: only a lane reads what is plain.
                (Half::Plain(_), None) => Verdict::Drop(DropReason::PortGone),
            };
            verdicts.push(verdict);
        }
    }

    /// The second half of the walk of a frame that is not on the lane.
    #[inline(never)]
    fn finish(&mut self, tables: &NodeTables, step: &Step, frame: &mut Frame, now: Tick) -> Verdict {
        self.settle(tables, step, frame, now)
            .unwrap_or_else(Verdict::from)
    }

    /// `learn`, and where it goes.
    #[inline]
    fn settle(
        &mut self,
        tables: &NodeTables,
        step: &Step,
        frame: &mut Frame,
        now: Tick,
    ) -> Result<Verdict, Exit> {
        let segment = tables
            .networks
            .segment(step.network)
            .ok_or(DropReason::PortGone)?;
        self.learn(segment, step, now)?;
        match self.known(tables, segment, step, frame)? {
            Some(port) => Ok(Verdict::Forward(port)),
            None => self.flood(segment, step, frame),
        }
    }

    /// `learn`: a station that is where it is known to be was seen; one that is not is told to the slow path.
    #[inline]
    fn learn(&mut self, segment: &Segment, step: &Step, now: Tick) -> Result<(), Exit> {
        let fdb = &self.bridging.fdb;
        match fdb.find(step.source) {
            Some(entry) if entry.location() == step.from => fdb.refresh(&entry, now),
            // It was given to somebody else. So a node's own frames that come back go no further either.
            Some(entry) if entry.is_static() => return Err(DropReason::SpoofedMac.into()),
            Some(_) | None => {
                if segment.learns_from(step.from) {
                    let lesson = Lesson {
                        network: step.network,
                        mac: step.mac,
                        location: step.from,
                    };
                    self.lessons.note(lesson, step.source.hash());
                }
            }
        }
        Ok(())
    }

    /// `lookup` and `exit` of a frame to one station that is known; the port it leaves by, or `None` if it goes to everybody.
    #[inline]
    fn known(
        &mut self,
        tables: &NodeTables,
        segment: &Segment,
        step: &Step,
        frame: &mut Frame,
    ) -> Result<Option<PortId>, Exit> {
        let Some(entry) = step
            .destination
            .and_then(|station| self.bridging.fdb.find(station))
        else {
            return Ok(None);
        };
        match (step.from, entry.location()) {
            (from, to) if from == to => Err(DropReason::BridgeHairpin.into()),
            (Location::Remote(_), Location::Remote(_)) => Err(DropReason::BridgeSplitHorizon.into()),
            (_, Location::Switch) => Err(DropReason::NotForUs.into()),
            // Who has left the network meanwhile is not known any more.
            (_, Location::Port(port)) => match tables.networks.member(port) {
                Some(member) if member.tag(step.network).is_some() => {
                    to_port(tables, step.network, port, frame).map(Some)
                }
                Some(_) | None => Ok(None),
            },
            (_, Location::Remote(remote)) => match segment.remote(remote) {
                Some(exit) => to_remote(&mut self.wrapper, segment, exit, frame).map(Some),
                None => Ok(None),
            },
        }
    }

    /// The storm's limit, `suppress`, and then to everybody.
    #[inline(never)]
    fn flood(&mut self, segment: &Segment, step: &Step, frame: &Frame) -> Result<Verdict, Exit> {
        if let Some(limit) = segment.storm
            && !self.bridging.storms.may_pass(step.from, limit, cycles())
        {
            return Err(DropReason::BridgeStorm.into());
        }
        if step.destination.is_none()
            && let Some(reason) = suppress(segment, Ethernet::parse(frame.bytes())?)
        {
            return Err(Exit::Punt(reason, PuntDetail::Segment(step.network, step.from)));
        }
        let audience = match Ethernet::parse(frame.bytes())?.destination() {
            group if segment.snoops && group.is_multicast() && !group.is_broadcast() => {
                Audience::Listeners(group)
            }
            _ => Audience::Everybody,
        };
        Ok(Verdict::Replicate(step.to(audience)))
    }

    /// Sends a frame of the slow path's as if it had come from there, past `learn`, the storm's limit and `suppress`.
    pub(crate) fn originate(
        &mut self,
        tables: &NodeTables,
        (network, from): (NetworkId, Location),
        frame: &mut Frame,
    ) -> Result<Verdict, Exit> {
        let step = self.bridging.step(frame, network, from)?;
        let segment = tables.networks.segment(network).ok_or(DropReason::PortGone)?;
        match self.known(tables, segment, &step, frame)? {
            Some(port) => Ok(Verdict::Forward(port)),
            None => Ok(Verdict::Replicate(step.to(audience(segment, frame)))),
        }
    }

    /// See [`Pipeline::finish_copy`](millrace_dataplane::worker::Pipeline::finish_copy).
    pub(crate) fn finish_copy(
        &mut self,
        tables: &NodeTables,
        frame: &mut Frame,
        cast: Cast,
        place: usize,
    ) -> Result<PortId, Exit> {
        let segment = tables
            .networks
            .segment(cast.network)
            .ok_or(DropReason::PortGone)?;
        let exits = tables.networks.exits(cast.network);
        // The tables may have changed since the place was found: who sent it gets it back in no case.
        match exits.get(place) {
            Some((port, _)) if cast.from == Location::Port(*port) => Err(DropReason::BridgeHairpin.into()),
            Some((port, _)) => to_port(tables, cast.network, *port, frame),
            None if matches!(cast.from, Location::Remote(_)) => Err(DropReason::BridgeSplitHorizon.into()),
            None => {
                let exit = segment
                    .remotes
                    .get(place - exits.len())
                    .ok_or(DropReason::PortGone)?;
                to_remote(&mut self.wrapper, segment, exit, frame)
            }
        }
    }

    /// The next lesson of the last batch.
    #[inline]
    pub(crate) fn lesson(&mut self) -> Option<Lesson> {
        self.lessons.next()
    }
}

/// The first half of a frame's walk: which network it is in, from where, and which stations it is about.
#[inline]
fn enter(
    bridging: &Bridging,
    tables: &NodeTables,
    entrance: Entrance<'_>,
    frame: &mut Frame,
) -> Result<Step, Exit> {
    let (network, from) = match entrance {
        Entrance::Member(port, facts, member) => (admit(facts, member, frame)?, Location::Port(port)),
        Entrance::Wire => open(tables, frame)?,
    };
    bridging.step(frame, network, from)
}

impl Step {
    /// The frame, to several.
    #[inline]
    const fn to(&self, audience: Audience) -> Cast {
        Cast {
            network: self.network,
            from: self.from,
            audience,
        }
    }
}

impl Bridging {
    #[inline]
    fn step(&self, frame: &Frame, network: NetworkId, from: Location) -> Result<Step, Exit> {
        let ethernet = Ethernet::parse(frame.bytes())?;
        let (mac, destination) = (ethernet.source(), ethernet.destination());
        let source = self.fdb.station(network, mac);
        self.fdb.prefetch(source);
        let destination = (!destination.is_multicast()).then(|| {
            let destination = self.fdb.station(network, destination);
            self.fdb.prefetch(destination);
            destination
        });
        Ok(Step {
            network,
            from,
            mac,
            source,
            destination,
        })
    }
}

/// See [`Pipeline::destination`](millrace_dataplane::worker::Pipeline::destination): ports first, and then other nodes, unless
/// the frame comes from one (split horizon).
pub(crate) fn destination(
    tables: &NodeTables,
    listeners: &Listeners,
    cast: Cast,
    from: usize,
) -> Option<usize> {
    let only = match cast.audience {
        Audience::Everybody => None,
        Audience::Listeners(group) => listeners.lookup(cast.network, group),
        Audience::Ipv4Queriers => listeners.queriers(cast.network, true),
        Audience::Ipv6Queriers => listeners.queriers(cast.network, false),
    };
    let is_meant = |location: Location| {
        location != cast.from && only.is_none_or(|only| only.binary_search(&location).is_ok())
    };
    let exits = tables.networks.exits(cast.network);
    let ports = exits.iter().enumerate().skip(from);
    if let Some((place, _)) = ports
        .into_iter()
        .find(|(_, (port, _))| is_meant(Location::Port(*port)))
    {
        return Some(place);
    }
    if matches!(cast.from, Location::Remote(_)) {
        return None;
    }
    let remotes = &tables.networks.segment(cast.network)?.remotes;
    let others = remotes.iter().enumerate().skip(from.saturating_sub(exits.len()));
    let found = others
        .into_iter()
        .find(|(_, exit)| cast.audience.is_all_nodes() || is_meant(Location::Remote(exit.remote())));
    found.map(|(place, _)| exits.len() + place)
}
