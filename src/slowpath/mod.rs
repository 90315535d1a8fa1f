//! The slow path: packets that need thought, on a thread of their own.
//!
//! Workers hand over copies of packets that they cannot answer or send on by themselves ([`Punt`]): ARP and neighbour
//! solicitations, packets
//! that an ICMP error is due for, packets to the switch itself, and packets whose next hop's link address is not
//! known. [`SlowPath`] decides about them: it is plain logic without a thread, a channel or a clock. [`spawn`] runs it
//! between the workers and the control plane.
//!
//! Everything here is bounded: the packets that wait, the requests to the control plane, the ICMP errors in a second.
//! What is beyond a bound is dropped and counted ([`SlowPathStats`]).
#![forbid(unsafe_code)]

mod actions;
mod arp;
mod complaint;
mod compose;
mod hold;
mod neighbour;
mod onward;
mod original;
mod rate;
mod segment;
mod speak;
mod stats;
mod thread;
mod to_switch;

use std::time::Instant;

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::clock;
use millrace_dataplane::table::{HashKey, NodeTables, Role, Target};
use millrace_dataplane::verdict::{Awaited, PuntDetail, PuntReason};
use millrace_dataplane::worker::{Injection, Lesson, Origin, Punt, Way};

pub use actions::{Actions, NeighbourRequest, SteerRequest};
use complaint::Complaint;
use hold::{Held, HoldTable};
use onward::{NextHop, Of, Onward, onward, send_back, send_on, whereabouts};
use original::Original;
pub(crate) use rate::Limiter;
pub use segment::Learned;
use segment::{Now, Segments};
use stats::Silence;
pub use stats::{SharedSlowPathStats, SlowPathStats};
pub use thread::{Feeds, SlowPathError, SlowPathEvent, spawn};

/// What the slow path may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowPathConfig {
    /// ICMP errors and TCP resets that may be sent in a second; none if it is zero.
    pub icmp_errors_per_second: usize,
}

/// The decisions about punted packets, and the packets that wait for one.
#[derive(Debug)]
pub struct SlowPath {
    limiter: Limiter,
    holds: HoldTable,
    segments: Segments,
    /// Identification of the last IPv4 packet made here.
    id: u16,
    stats: SharedSlowPathStats,
}

impl SlowPath {
    /// A slow path in which nothing waits yet. What it learns about bridged networks goes to workers by `learned`.
    #[must_use]
    pub fn new(config: SlowPathConfig, learned: Learned) -> Self {
        Self {
            limiter: Limiter::new(config.icmp_errors_per_second, HashKey::random()),
            holds: HoldTable::default(),
            segments: Segments::new(learned),
            id: 0,
            stats: SharedSlowPathStats::default(),
        }
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> &SharedSlowPathStats {
        &self.stats
    }

    /// Whether any packet waits here, or anything is learned, so that [`Self::tick`] has something to do.
    #[must_use]
    pub fn is_keeping(&self) -> bool {
        self.holds.len() > 0 || self.segments.is_any()
    }

    /// Takes in where a station of a bridged network was seen.
    pub fn learn(&mut self, lesson: Lesson, now: Instant) {
        self.segments.learn(lesson, &self.stats, moment(now));
    }

    /// Decides about one packet, with the newest `tables`.
    pub fn handle(&mut self, punt: &Punt, tables: &NodeTables, now: Instant) -> Actions {
        self.stats.punts.add(1);
        self.decide(punt, tables, now).unwrap_or_else(|silence| {
            self.stats.silent(silence);
            Actions::default()
        })
    }

    /// Sends on what no longer has to wait, now that there are new tables: worker and packet, in the order in which
    /// packets for one next hop came.
    pub fn tables_changed(&mut self, tables: &NodeTables) -> Vec<(usize, Injection)> {
        self.segments.follow(tables);
        let released = self.holds.release(|held| {
            // What waits in a network that is gone waits in vain, and expires.
            let (network, destination) = held.towards;
            let of = Of::network(tables, held.network).and_then(|_| Of::network(tables, network));
            of.is_some_and(|of| onward(of, destination) == Onward::Clear)
        });
        self.stats.released.add(released.len() as u64);
        released
            .into_iter()
            .map(|held| (held.worker, send_on((held.ingress, held.network), &held.packet)))
            .collect()
    }

    /// Forgets packets that have waited too long, and tells their senders: worker and ICMP error. Forgets what was learned
    /// long ago.
    pub fn tick(&mut self, tables: &NodeTables, now: Instant) -> Vec<(usize, Injection)> {
        self.segments.tick(&self.stats, moment(now));
        let expired = self.holds.expire(now);
        self.stats.held_expired.add(expired.len() as u64);
        let mut errors = Vec::new();
        for held in expired {
            let told = Of::network(tables, held.network)
                .ok_or(Silence::PortGone)
                .and_then(|of| Ok((of.tables, Original::parse(&held.packet)?)))
                .and_then(|(tables, original)| {
                    self.complain(&original, Complaint::HostUnreachable, tables, now)
                });
            match told {
                Ok(injection) => errors.push((held.worker, injection)),
                Err(silence) => self.stats.silent(silence),
            }
        }
        errors
    }

    /// A packet whose answers are to be steered has not got through to the control plane, and is dropped: the next one of
    /// its flow asks again.
    pub fn steer_lost(&mut self, awaited: Awaited) {
        self.stats.steering(awaited).1.add(1);
    }

    /// A request has not got through to the control plane: the next packet to this neighbour makes another.
    pub fn request_lost(&mut self, request: NeighbourRequest) {
        self.stats.neighbour_requests_lost.add(1);
        self.holds.unask((request.port, request.address));
    }

    fn decide(&mut self, punt: &Punt, tables: &NodeTables, now: Instant) -> Result<Actions, Silence> {
        if let PuntDetail::Segment(network, from) = punt.detail {
            let (frame, from, now) = (punt.packet.bytes(), (network, from), moment(now));
            let injection = if punt.reason == PuntReason::GroupMembership {
                self.segments.overhear(frame, from, &self.stats, now)
            } else {
                self.segments.hear(frame, from, &self.stats, now)
            };
            return Ok(Actions::from(injection));
        }
        // All that is said about a packet is said in its network.
        let of = Of::network(tables, punt.network).ok_or(Silence::PortGone)?;
        let tables = of.tables;
        let read = || Original::parse(punt.packet.bytes());
        let injection = match punt.reason {
            PuntReason::Arp => {
                let packet = arp::answer(tables, punt.ingress, punt.packet.bytes())?;
                send_back(punt.ingress, packet, &self.stats.arp_replies)
            }
            PuntReason::NeighbourSolicitation => {
                let packet = neighbour::answer(tables, punt.ingress, punt.packet.bytes())?;
                send_back(punt.ingress, packet, &self.stats.neighbour_advertisements)
            }
            PuntReason::ToSwitch => {
                let original = read()?;
                let id = self.next_id();
                self.speak(
                    to_switch::answer(of, &original, id)?,
                    (&original, punt.network),
                    now,
                )?
            }
            PuntReason::ServiceReject | PuntReason::EndpointGone => {
                let original = read()?;
                self.speak(to_switch::refuse(&original)?, (&original, punt.network), now)?
            }
            PuntReason::NeighbourAdvertisement | PuntReason::GroupMembership => {
                return Err(Silence::NeighbourIgnored);
            }
            PuntReason::EchoId | PuntReason::Portless => return self.announce(punt),
            PuntReason::NeighbourUnresolved => return self.wait(punt, &read()?, of, now),
            PuntReason::TimeExceeded => self.complain(&read()?, Complaint::TimeExceeded, tables, now)?,
            PuntReason::PacketTooBig => {
                let PuntDetail::Mtu(mtu) = punt.detail else {
                    return Err(Silence::Malformed);
                };
                self.complain(&read()?, Complaint::TooBig { mtu }, tables, now)?
            }
            PuntReason::Unreachable => {
                let original = read()?;
                let leading = of.leading_to(original.destination);
                let target = leading.and_then(|tables| tables.routes.lookup(original.destination));
                let complaint = match target {
                    // Such a route says that the destination would be there if anyone was.
                    Some(Target::Unreachable) => Complaint::HostUnreachable,
                    _ => Complaint::NoRoute,
                };
                self.complain(&original, complaint, tables, now)?
            }
        };
        Ok(Actions::from(injection))
    }

    /// Has the control plane tell the uplink's steering of answers to come; it sends the packet on afterwards.
    fn announce(&mut self, punt: &Punt) -> Result<Actions, Silence> {
        let PuntDetail::Answers(awaited, remote) = punt.detail else {
            return Err(Silence::Malformed);
        };
        self.stats.steering(awaited).0.add(1);
        let request = SteerRequest {
            awaited,
            remote,
            worker: punt.worker,
            injection: Injection {
                way: Way::Walk(Origin::Steered {
                    port: punt.ingress,
                    network: punt.network,
                }),
                packet: PacketCopy::new(punt.packet.bytes()),
            },
        };
        Ok(Actions {
            steer: Some(request),
            ..Actions::default()
        })
    }

    /// Holds a packet until its next hop's link address is known, and sees to it that someone finds it out.
    fn wait(
        &mut self,
        punt: &Punt,
        original: &Original<'_>,
        of: Of<'_>,
        now: Instant,
    ) -> Result<Actions, Silence> {
        let tables = of.tables;
        let Some(ingress) = tables.ports.get(punt.ingress) else {
            return Err(Silence::PortGone);
        };
        let PuntDetail::NextHop(port, address) = punt.detail else {
            return Err(Silence::Malformed);
        };
        // These may be newer tables than those that the worker had.
        let (towards, way) = whereabouts(of, original.destination, (port, address));
        let (next_hop, mtu) = match way {
            Onward::Waits { next_hop, mtu } => (next_hop, mtu),
            Onward::Clear => {
                self.stats.released.add(1);
                return Ok(Actions::from(send_on(
                    (punt.ingress, punt.network),
                    punt.packet.bytes(),
                )));
            }
            Onward::Nowhere => {
                return self
                    .complain(original, Complaint::NoRoute, tables, now)
                    .map(Actions::from);
            }
        };
        // The worker asks for a way first and for the rest afterwards, and a packet from here it does not send back.
        // The host's own packets have not been forwarded yet, so nothing is taken off their TTL.
        if ingress.role != Role::Host && original.hops <= 1 {
            return self
                .complain(original, Complaint::TimeExceeded, tables, now)
                .map(Actions::from);
        }
        if original.bytes.len() > usize::from(mtu) {
            return self
                .complain(original, Complaint::TooBig { mtu }, tables, now)
                .map(Actions::from);
        }
        let held = Held {
            worker: punt.worker,
            ingress: punt.ingress,
            network: punt.network,
            towards,
            packet: punt.packet.bytes().into(),
        };
        let is_held = self.holds.hold(next_hop, held, now);
        let counter = if is_held {
            &self.stats.held
        } else {
            &self.stats.hold_full
        };
        counter.add(1);
        Ok(Actions {
            request: self.ask(next_hop, now),
            ..Actions::default()
        })
    }

    fn ask(&mut self, next_hop: NextHop, now: Instant) -> Option<NeighbourRequest> {
        self.holds.ask(next_hop, now).then(|| {
            self.stats.neighbour_requests.add(1);
            NeighbourRequest {
                port: next_hop.0,
                address: next_hop.1,
            }
        })
    }
}

fn moment(at: Instant) -> Now {
    Now {
        at,
        tick: clock::now(),
    }
}

#[cfg(test)]
mod tests;
