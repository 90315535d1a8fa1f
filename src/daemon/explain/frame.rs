//! `millrace explain --network`: where a frame between two stations of a bridged network would go.

use millrace_dataplane::clock;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::fdb::{Entry, Fdb};
use millrace_dataplane::table::{Guard, Location, Member, NetworkId, NodeTables, RemoteExit, Segment, Tick};
use millrace_dataplane::verdict::DropReason;
use millrace_dataplane::wire::MacAddr;

use crate::admin::protocol::{ExplainFrame, ExplainedStage, Explanation, Failure};
use crate::daemon::Daemon;
use crate::daemon::compile::networks::ServedNetwork;
use crate::daemon::stations::Places;

/// Places that a frame for everybody goes to and that are named; of others there is the number.
const NAMED_MAX: usize = 16;

impl Daemon {
    /// Explains a frame, by the tables in force.
    pub(in crate::daemon) fn explain_frame(&self, ask: &ExplainFrame) -> Result<Explanation, Failure> {
        let mut all = self.networks.networks.iter();
        let served = all.find(|served| served.record.key.to_string() == ask.network);
        let served = served.ok_or_else(|| {
            Failure::wrong(format!(
                "there is no network {}; `millrace show networks` has all of them",
                ask.network
            ))
        })?;
        let view = View {
            served,
            tables: &self.tables,
            fdb: &self.bridging.fdb,
            places: &self.places(),
            now: clock::now(),
        };
        Ok(view.explain(mac(&ask.from)?, mac(&ask.to)?))
    }
}

fn mac(text: &str) -> Result<MacAddr, Failure> {
    text.parse()
        .map_err(|_| Failure::wrong(format!("{text} is no MAC address, such as 02:00:00:00:00:01")))
}

/// What an explanation rests on.
struct View<'a> {
    served: &'a ServedNetwork,
    tables: &'a NodeTables,
    fdb: &'a Fdb,
    places: &'a Places,
    now: Tick,
}

/// What the stages have said so far.
#[derive(Default)]
struct Said(Vec<ExplainedStage>);

impl Said {
    fn say(&mut self, stage: &str, answer: impl Into<String>) {
        self.0.push(ExplainedStage {
            stage: stage.to_owned(),
            answer: answer.into(),
        });
    }
}

impl View<'_> {
    fn explain(&self, from: MacAddr, to: MacAddr) -> Explanation {
        let mut said = Said::default();
        let allowed = match self.network() {
            Ok((network, segment)) => {
                said.say("network", self.network_words(segment));
                match self.walk(network, segment, (from, to), &mut said) {
                    Ok(()) => true,
                    Err(reason) => {
                        said.say("dropped", format!("{reason}: {}", reason.meaning()));
                        false
                    }
                }
            }
            Err(reason) => {
                said.say(
                    "network",
                    format!("{}: not served, {reason}", self.served.record.key),
                );
                false
            }
        };
        Explanation {
            allowed,
            stages: said.0,
        }
    }

    fn network(&self) -> Result<(NetworkId, &Segment), String> {
        let network = self.served.id.filter(|_| self.served.fault.is_none());
        let found = network.and_then(|id| Some((id, self.tables.networks.segment(id)?)));
        found.ok_or_else(|| {
            let fault = self.served.fault.clone();
            fault.unwrap_or_else(|| "its tables are not made yet".to_owned())
        })
    }

    fn network_words(&self, segment: &Segment) -> String {
        let record = &self.served.record;
        format!(
            "{}: VNI {} at UDP port {}, packets of {} bytes at most between nodes",
            record.key,
            record.vni.get(),
            record.port,
            segment.mtu
        )
    }

    /// The stages in the order of the workers'.
    fn walk(
        &self,
        network: NetworkId,
        segment: &Segment,
        (from, to): (MacAddr, MacAddr),
        said: &mut Said,
    ) -> Result<(), DropReason> {
        let sender = self.fdb.lookup(network, from);
        said.say("from", format!("{from}: {}", self.station(sender.as_ref())));
        let at = sender.map(|entry| entry.location());
        if !from.is_unicast() {
            return Err(DropReason::BridgeSource);
        }
        let [group @ .., last] = to.octets();
        if group == [0x01, 0x80, 0xc2, 0, 0] && last < 0x10 {
            return Err(DropReason::BridgeReserved);
        }
        self.admit(network, segment, at, from, said)?;
        said.say("learn", learn_words(segment, sender.as_ref()));
        if to.is_multicast() {
            let kind = if to.is_broadcast() {
                "a broadcast"
            } else {
                "a multicast"
            };
            said.say("lookup", format!("{to}: {kind}"));
            return self.flood(network, segment, at, Some(to), said);
        }
        let receiver = self.fdb.lookup(network, to);
        said.say("lookup", format!("{to}: {}", self.station(receiver.as_ref())));
        match (at, receiver.map(|entry| entry.location())) {
            (Some(from), Some(to)) if from == to => Err(DropReason::BridgeHairpin),
            (Some(Location::Remote(_)), Some(Location::Remote(_))) => Err(DropReason::BridgeSplitHorizon),
            (_, Some(Location::Switch)) => Err(DropReason::NotForUs),
            (_, Some(Location::Port(port))) if self.tag(network, port).is_some() => {
                said.say("exit", self.port_words(network, port));
                Ok(())
            }
            (_, Some(Location::Remote(remote))) if segment.remote(remote).is_some() => {
                let exit = segment.remote(remote).ok_or(DropReason::PortGone)?;
                said.say("exit", self.remote_words(segment, exit));
                exit.outer().map(|_| ()).ok_or(DropReason::BridgeUnresolved)
            }
            // Who has left the network is not known any more.
            (_, None | Some(_)) => self.flood(network, segment, at, None, said),
        }
    }

    fn station(&self, entry: Option<&Entry>) -> String {
        let Some(entry) = entry else {
            return "not known".to_owned();
        };
        let kind = if entry.is_static() { "static" } else { "learned" };
        let (at, age) = (self.places.words(entry.location()), entry.age(self.now));
        format!("at {at}, {kind}, seen {age} s ago")
    }

    /// What the sender's place makes of its frames.
    fn admit(
        &self,
        network: NetworkId,
        segment: &Segment,
        at: Option<Location>,
        from: MacAddr,
        said: &mut Said,
    ) -> Result<(), DropReason> {
        match at {
            None => said.say(
                "admit",
                "where it comes in is not known, so no port's guard is asked",
            ),
            Some(Location::Switch) => said.say("admit", "the switch itself"),
            Some(Location::Remote(remote)) => {
                said.say("admit", "out of the tunnel, from one of the network's peers");
                segment.remote(remote).ok_or(DropReason::TunnelUnknownPeer)?;
            }
            Some(Location::Port(port)) => match self.tables.networks.member(port) {
                Some(Member::Access { guard, .. }) => {
                    said.say("admit", guard_words(guard));
                    if guard.mac.is_some_and(|only| only != from) {
                        return Err(DropReason::SpoofedMac);
                    }
                }
                Some(Member::Trunk { .. }) => {
                    let tag = self.tag(network, port).ok_or(DropReason::VlanTagged)?;
                    said.say("admit", format!("a trunk, any station may send {tag}"));
                }
                None => return Err(DropReason::PortGone),
            },
        }
        Ok(())
    }

    /// To everybody, or to a group.
    fn flood(
        &self,
        network: NetworkId,
        segment: &Segment,
        at: Option<Location>,
        group: Option<MacAddr>,
        said: &mut Said,
    ) -> Result<(), DropReason> {
        let limit = match self.served.record.bridge().and_then(|bridge| bridge.storm_limit) {
            Some(limit) => format!("{limit} frames a second from one port or node, what is more is dropped"),
            None => "any number".to_owned(),
        };
        said.say("storm-limit", limit);
        if group.is_some() && segment.suppresses {
            said.say(
                "suppress",
                "ARP and neighbour discovery are answered here for stations whose address is known, and go no further",
            );
        }
        let exits = self.tables.networks.exits(network).iter();
        let ports = exits.map(|(port, _)| Location::Port(*port));
        let remotes = segment
            .remotes
            .iter()
            .map(RemoteExit::remote)
            .map(Location::Remote);
        // What comes out of a tunnel goes into none.
        let is_tunnelled = matches!(at, Some(Location::Remote(_)));
        let remotes = remotes.filter(|_| !is_tunnelled);
        let all: Vec<Location> = ports.chain(remotes).filter(|to| Some(*to) != at).collect();
        if all.is_empty() {
            return Err(DropReason::BridgeAlone);
        }
        let named = all.iter().take(NAMED_MAX);
        let mut names: Vec<String> = named.map(|to| self.everybody_words(segment, *to)).collect();
        if let Some(more) = all.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
            names.push(format!("{more} more"));
        }
        let whom = match group {
            Some(group) if segment.snoops && !group.is_broadcast() => {
                "to those who asked for the group, if anybody has, of"
            }
            Some(_) => "to everybody:",
            None => "to everybody, until it is learned where it is:",
        };
        said.say("flood", format!("{whom} {}", names.join(", ")));
        Ok(())
    }

    fn everybody_words(&self, segment: &Segment, to: Location) -> String {
        let words = self.places.words(to);
        let Location::Remote(remote) = to else {
            return words;
        };
        match segment.remote(remote).and_then(RemoteExit::outer) {
            Some(_) => words,
            None => format!("{words} (unresolved)"),
        }
    }

    /// How a frame of the network is told at a port; `None` if that is not in it.
    fn tag(&self, network: NetworkId, port: PortId) -> Option<String> {
        let tag = self.tables.networks.member(port)?.tag(network)?;
        Some(match tag {
            Some(vlan) => format!("with VLAN {}", vlan.number()),
            None => "without a tag".to_owned(),
        })
    }

    fn port_words(&self, network: NetworkId, port: PortId) -> String {
        let tag = self.tag(network, port).unwrap_or_default();
        let mtu = self.tables.ports.get(port).map(|facts| facts.mtu);
        let mtu = mtu.map_or_else(String::new, |mtu| format!(", packets of {mtu} bytes at most"));
        format!("{} {tag}{mtu}", self.places.words(Location::Port(port)))
    }

    fn remote_words(&self, segment: &Segment, exit: &RemoteExit) -> String {
        let words = self.places.words(Location::Remote(exit.remote()));
        let mut named = self.served.remotes.iter();
        let next_hop = named
            .find(|named| named.id == exit.remote())
            .map(|named| named.next_hop);
        let next_hop = next_hop.map_or_else(String::new, |address| format!(", next hop {address}"));
        let state = if exit.outer().is_some() {
            ""
        } else {
            " (unresolved)"
        };
        let tunnel = segment.tunnel.map_or_else(String::new, |tunnel| {
            format!(" by VXLAN {} to UDP port {}", tunnel.vni, tunnel.port)
        });
        format!("{words}{tunnel}{next_hop}{state}")
    }
}

fn guard_words(guard: &Guard) -> String {
    let macs = guard
        .mac
        .map_or_else(|| "any MAC address".to_owned(), |mac| format!("{mac} alone"));
    if guard.sources.is_empty() {
        return format!("its port takes {macs}, and any address");
    }
    let sources: Vec<String> = guard.sources.iter().map(ToString::to_string).collect();
    format!("its port takes {macs}, and no address but {}", sources.join(", "))
}

fn learn_words(segment: &Segment, sender: Option<&Entry>) -> &'static str {
    match sender {
        Some(entry) if entry.is_static() => "it was given: from anywhere else its frames are dropped",
        Some(_) => "it was learned: heard elsewhere it moves there",
        None if segment.learns_from_remotes => "it is learned where it is heard",
        None => "it is learned where it is heard, if that is a port of this node",
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
