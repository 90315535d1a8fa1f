//! Where a packet goes: exactly one exit each, and every exit has a name and a counter.
//!
//! On every run `received + originated = transmitted + dropped + punted` (see [`crate::stats`]).

use std::net::IpAddr;

use serde::Serialize;

use crate::port::PortId;
use crate::table::{Location, NetworkId};
use crate::wire::{IpProtocol, MacAddr, Malformed};

/// What became of a packet. A `match` on it lists every exit; there is no catch-all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it out of this port.
    Forward(PortId),
    /// Forget it, and count why.
    Drop(DropReason),
    /// Hand a copy to the slow-path thread, with what it needs to know.
    Punt(PuntReason, PuntDetail),
    /// Send a copy to each of several destinations, which the pipeline names one after another.
    Replicate(Cast),
}

/// A frame that goes to several in a bridged network, but not to whoever it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cast {
    /// The network.
    pub network: NetworkId,
    /// Where the frame comes from, and does not go.
    pub from: Location,
    /// Whom it is for.
    pub audience: Audience,
}

/// Whom a frame is for that goes to several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// Everybody.
    Everybody,
    /// Those who listen to this group, as far as that is known.
    Listeners(MacAddr),
    /// Those who ask for listeners to IPv4's groups, as far as they are known, and all other nodes.
    Ipv4Queriers,
    /// The same for IPv6.
    Ipv6Queriers,
}

impl Audience {
    /// Whether all other nodes hear it in any case. What hosts say of groups each has to know for what its own stations send: no
    /// node hands on what comes from another.
    #[inline]
    #[must_use]
    pub const fn is_all_nodes(self) -> bool {
        match self {
            Self::Everybody | Self::Ipv4Queriers | Self::Ipv6Queriers => true,
            Self::Listeners(_) => false,
        }
    }
}

/// A walk that ends before the last stage: the packet is dropped or punted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// See [`Verdict::Drop`].
    Drop(DropReason),
    /// See [`Verdict::Punt`].
    Punt(PuntReason, PuntDetail),
}

impl From<Exit> for Verdict {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Drop(reason) => Verdict::Drop(reason),
            Exit::Punt(reason, detail) => Verdict::Punt(reason, detail),
        }
    }
}

impl From<DropReason> for Exit {
    fn from(reason: DropReason) -> Self {
        Exit::Drop(reason)
    }
}

impl From<Malformed> for Exit {
    fn from(malformed: Malformed) -> Self {
        Exit::Drop(DropReason::from(malformed))
    }
}

/// What the slow path has to know beside the packet itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PuntDetail {
    /// The packet says it all.
    Nothing,
    /// The largest IP packet, in bytes, that fits the way out (RFC 1191).
    Mtu(u16),
    /// Whose link address is missing, and on which port.
    NextHop(PortId, IpAddr),
    /// What will be answered, and by whom, once the packet has left under this node's address.
    Answers(Awaited, IpAddr),
    /// The frame is in this bridged network, and came from there. It has neither tag nor tunnel any more.
    Segment(NetworkId, Location),
}

/// What tells answers to source NAT, which come to an address of the node's own, from the node's, where there is no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Awaited {
    /// The identifier of an echo.
    Echo(u16),
    /// A protocol without ports, in which nobody else talks with the remote.
    Protocol(IpProtocol),
}

/// Declares an enum of reasons with a stable name, a one-line meaning, and a dense index for counters.
macro_rules! reasons {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[doc = $doc:literal])+ $variant:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[repr(u8)]
        $vis enum $name { $($(#[doc = $doc])+ #[serde(rename = $text)] $variant,)+ }

        impl $name {
            /// Every reason, in the order of [`Self::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason's name in counters, JSON and captures. Names never change their meaning.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// One line for a person: what happened.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The reason's place in an array of counters, `0..COUNT`.
            #[inline]
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

reasons! {
    /// Why a packet was dropped: one counter each.
    pub enum DropReason {
        /// Shorter than an Ethernet header.
        EthernetTruncated => "ethernet_truncated",
        /// Carries a VLAN tag that is not this port's, or none although this port has one; or a second one.
        VlanTagged => "vlan_tagged",
        /// An EtherType that this port does not carry; on an uplink ARP is one, since the kernel answers it.
        EtherTypeUnknown => "ether_type_unknown",
        /// The destination MAC address is not this port's, or a packet from the wire is for nobody behind the switch.
        NotForUs => "not_for_us",
        /// The source MAC address is not the one this port was given.
        SpoofedMac => "spoofed_mac",
        /// The source IP address is not one this port was given.
        SpoofedAddress => "spoofed_address",
        /// An ARP packet cut short or of an unknown kind.
        ArpMalformed => "arp_malformed",
        /// An ARP packet that claims another's address (gratuitous or reply).
        ArpSpoofed => "arp_spoofed",
        /// An IPv4 header cut short.
        Ipv4Truncated => "ipv4_truncated",
        /// An IPv4 header whose version or length fields contradict the packet.
        Ipv4Malformed => "ipv4_malformed",
        /// The IPv4 header checksum is wrong.
        Ipv4Checksum => "ipv4_checksum",
        /// An IPv6 header cut short or whose fields contradict the packet.
        Ipv6Malformed => "ipv6_malformed",
        /// An IPv6 extension-header chain that is too long, cut short, or out of order.
        Ipv6ExtensionChain => "ipv6_extension_chain",
        /// A UDP, TCP or ICMP header cut short or whose length contradicts the packet.
        TransportMalformed => "transport_malformed",
        /// A source address that no packet may carry here: loopback, multicast, broadcast, unspecified.
        MartianSource => "martian_source",
        /// A destination address that is never forwarded: loopback, multicast, broadcast, link-local, unspecified.
        MartianDestination => "martian_destination",
        /// A tunnel packet cut short, without the VXLAN I flag, or longer than the packet in it.
        TunnelMalformed => "tunnel_malformed",
        /// A tunnel packet that came as IP fragments; the outer packet must fit the underlay.
        TunnelFragment => "tunnel_fragment",
        /// A VXLAN packet over IPv6 without a UDP checksum, which IPv6 demands (RFC 8200 section 8.1).
        TunnelNoChecksum => "tunnel_no_checksum",
        /// A tunnel packet from an address that is no known node.
        TunnelUnknownPeer => "tunnel_unknown_peer",
        /// A tunnel packet of a kind that this peer does not use, or to an address that is no endpoint of ours.
        TunnelWrongKind => "tunnel_wrong_kind",
        /// A VXLAN packet of another network (VNI).
        TunnelWrongVni => "tunnel_wrong_vni",
        /// A VXLAN packet whose inner destination MAC address is not ours.
        TunnelWrongMac => "tunnel_wrong_mac",
        /// An inner source address that does not belong to the node that sent the tunnel packet.
        TunnelSpoofedAddress => "tunnel_spoofed_address",
        /// An inner packet that is neither IPv4 nor IPv6.
        TunnelInnerUnknown => "tunnel_inner_unknown",
        /// Outer header says congestion experienced, inner header cannot carry it (RFC 6040).
        TunnelEcn => "tunnel_ecn",
        /// An untunnelled packet from the wire that claims a pod's or the overlay's address.
        PlainFromOverlay => "plain_from_overlay",
        /// A pod sent a tunnel packet to a node's address.
        PodTunnel => "pod_tunnel",
        /// No route to the destination.
        NoRoute => "no_route",
        /// The route to the destination says: drop.
        Blackhole => "blackhole",
        /// The packet would go back out of the uplink it came from.
        UplinkHairpin => "uplink_hairpin",
        /// The packet needs a larger frame than there is.
        NoRoom => "no_room",
        /// The exit port has left, or has no queue on this worker.
        PortGone => "port_gone",
        /// The exit port's transmit ring is full.
        TransmitRingFull => "transmit_ring_full",
        /// A packet of the switch's own that would need the slow path again: no route, next hop unknown, or too big.
        OriginatedStuck => "originated_stuck",
        /// The slow-path queue is full.
        SlowPathFull => "slow_path_full",
        /// An IPv6 router solicitation, which the switch does not answer, or a neighbour message that is not on its own link.
        Icmpv6NotTaken => "icmpv6_not_taken",
        /// An IPv6 router advertisement: nobody behind a port of the switch is a router (CVE-2020-10749).
        RouterAdvertisement => "router_advertisement",
        /// An IPv6 redirect: nobody behind a port of the switch knows a better way than the switch.
        RouterRedirect => "router_redirect",
        /// A neighbour message from an address, or about one, that this port was not given.
        NeighbourSpoofed => "neighbour_spoofed",
        /// The worker that has a queue of the exit port takes packets of other workers no faster.
        HandoverFull => "handover_full",
        /// The worker that has its flow in the place of a drowned one takes packets no faster.
        SpreadFull => "spread_full",
        /// To an address of the Service CIDRs that belongs to no Service.
        ServiceUnknownAddress => "service_unknown_address",
        /// From an address outside the Service's `loadBalancerSourceRanges`.
        ServiceSourceRange => "service_source_range",
        /// The Service's traffic policy is `Local`, and its endpoints are all on other nodes.
        ServiceNoLocalEndpoint => "service_no_local_endpoint",
        /// No source port, or ICMP id, was found free within the bounds of the search.
        SnatExhausted => "snat_exhausted",
        /// It would leave the cluster and has neither ports nor an echo's id, and `masquerade-protocols` lacks its protocol.
        MasqueradeProtocol => "masquerade_protocol",
        /// Another pod talks with this remote in this protocol without ports; nothing would tell their answers apart.
        MasqueradeTaken => "masquerade_taken",
        /// The flow table has no room for another connection.
        FlowTableFull => "flow_table_full",
        /// The pod has as many connections open as one pod may.
        FlowPodCap => "flow_pod_cap",
        /// Other workers claimed or changed the same connection again and again.
        FlowRaced => "flow_raced",
        /// A TCP segment outside the windows of its connection.
        TcpWindow => "tcp_window",
        /// A TCP segment that begins no connection and belongs to none, or whose flags make no sense.
        TcpInvalid => "tcp_invalid",
        /// An ICMP error about a packet of no connection, where only one about a connection may pass.
        IcmpUnrelated => "icmp_unrelated",
        /// A later fragment of a packet whose first fragment has not passed, or passed too long ago.
        FragmentUnknown => "fragment_unknown",
        /// A fragment of no bytes, of a length that none but the last may have, or beyond the largest packet.
        FragmentMalformed => "fragment_malformed",
        /// A first fragment without the whole header of its transport, or a later one that reaches into it (RFC 1858).
        FragmentTiny => "fragment_tiny",
        /// A fragment that says anew what another one of its packet has said, and all of that packet after it (RFC 5722).
        FragmentOverlap => "fragment_overlap",
        /// A fragment of a packet with more gaps at once than are kept in mind.
        FragmentScattered => "fragment_scattered",
        /// A fragment of an SCTP packet whose ports have to change, which its checksum over all fragments forbids.
        FragmentChecksum => "fragment_checksum",
        /// The policies of the pod that sends it do not allow the connection; `millrace denied` tells which.
        PolicyEgress => "policy_denied_egress",
        /// The policies of the pod to which it goes do not allow the connection; `millrace denied` tells which.
        PolicyIngress => "policy_denied_ingress",
        /// The pod that sends it sends more than its bandwidth; `millrace show ports` has that.
        BandwidthEgress => "bandwidth_egress",
        /// More is sent to the pod than its bandwidth; `millrace show ports` has that.
        BandwidthIngress => "bandwidth_ingress",
        /// A frame of a bridged network whose source address no station can have: a group's, or zero.
        BridgeSource => "bridge_source",
        /// To a group address of the link itself, 01:80:c2:00:00:00 to 0f, which no bridge forwards (IEEE 802.1Q 8.6.3).
        BridgeReserved => "bridge_reserved",
        /// The station it is for is where it came from.
        BridgeHairpin => "bridge_hairpin",
        /// Out of one tunnel of a bridged network for another: every node sends to every other one itself.
        BridgeSplitHorizon => "bridge_split_horizon",
        /// Beyond what may be flooded from where it came from.
        BridgeStorm => "bridge_storm",
        /// Nobody else is in the bridged network.
        BridgeAlone => "bridge_alone",
        /// Larger than the port of a bridged network, or its tunnel, takes.
        BridgeTooBig => "bridge_too_big",
        /// The link address of the next hop towards another node of a bridged network is not known yet.
        BridgeUnresolved => "bridge_unresolved",
        /// A route leads it on into another network, from where it may not go: out of a network that it was routed into already.
        NetworkTransit => "network_transit",
    }
}

reasons! {
    /// Why a packet went to the slow-path thread: one counter each.
    pub enum PuntReason {
        /// An ARP request or reply.
        Arp => "arp",
        /// An IPv6 neighbour solicitation.
        NeighbourSolicitation => "neighbour_solicitation",
        /// The TTL or hop limit ran out; an ICMP time exceeded is due.
        TimeExceeded => "time_exceeded",
        /// The packet does not fit the way out; an ICMP fragmentation needed is due.
        PacketTooBig => "packet_too_big",
        /// No route; an ICMP destination unreachable is due.
        Unreachable => "unreachable",
        /// The next hop's link address is not known yet.
        NeighbourUnresolved => "neighbour_unresolved",
        /// Addressed to the switch itself: an echo to the gateway, for instance.
        ToSwitch => "to_switch",
        /// The Service has no endpoint, or its address no such port; a reset or port unreachable is due.
        ServiceReject => "service_reject",
        /// The first echo request with an id of our choice: the uplink's steering has to know it before the reply.
        EchoId => "echo_id",
        /// The first packet of a protocol without ports to a remote: the uplink's steering has to know before the answer.
        Portless => "portless",
        /// A TCP segment to an endpoint that its Service no longer has; a reset is due.
        EndpointGone => "endpoint_gone",
        /// An IPv6 neighbour advertisement for everybody in a bridged network.
        NeighbourAdvertisement => "neighbour_advertisement",
        /// A report or query of group membership (IGMP, MLD) in a bridged network.
        GroupMembership => "group_membership",
    }
}

impl PuntReason {
    /// Whether a packet that has waited in the slow path may go there once more for this. Only for what nothing that
    /// comes back from there asks for again, so that no packet goes round.
    #[must_use]
    pub const fn may_follow_a_wait(self) -> bool {
        matches!(self, Self::EchoId | Self::Portless)
    }
}

impl From<Malformed> for DropReason {
    /// Which counter a lie in a header belongs to. Several lies of one header share a counter.
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::EthernetTruncated => Self::EthernetTruncated,
            Malformed::VlanTruncated | Malformed::VlanTooDeep => Self::VlanTagged,
            Malformed::ArpTruncated | Malformed::ArpUnsupported => Self::ArpMalformed,
            Malformed::Ipv4Truncated => Self::Ipv4Truncated,
            Malformed::Ipv4Version | Malformed::Ipv4HeaderLength | Malformed::Ipv4TotalLength => {
                Self::Ipv4Malformed
            }
            Malformed::Ipv4Checksum => Self::Ipv4Checksum,
            Malformed::Ipv6Truncated | Malformed::Ipv6Version | Malformed::Ipv6PayloadLength => {
                Self::Ipv6Malformed
            }
            Malformed::Ipv6ExtensionTruncated
            | Malformed::Ipv6ExtensionOrder
            | Malformed::Ipv6ExtensionChain => Self::Ipv6ExtensionChain,
            Malformed::PortsTruncated
            | Malformed::UdpTruncated
            | Malformed::UdpLength
            | Malformed::TcpTruncated
            | Malformed::TcpDataOffset
            | Malformed::IcmpTruncated
            | Malformed::IcmpChecksum
            | Malformed::IcmpNeighbour
            | Malformed::IcmpMembership => Self::TransportMalformed,
            Malformed::IpipInnerLength | Malformed::VxlanTruncated | Malformed::VxlanFlags => {
                Self::TunnelMalformed
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_lie_in_a_header_is_counted_under_that_header() {
        for malformed in Malformed::ALL {
            let (lie, reason) = (malformed.name(), DropReason::from(malformed).name());
            let header = lie.split('_').next().unwrap();
            let counted_as = match header {
                "ports" | "udp" | "tcp" | "icmp" => "transport",
                "vxlan" | "ipip" => "tunnel",
                other => other,
            };
            assert!(reason.starts_with(counted_as), "{lie} is counted as {reason}");
        }
    }

    #[test]
    fn names_are_unique_and_indices_dense() {
        let names: HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert!(!reason.meaning().is_empty());
        }
        for (i, reason) in PuntReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
        }
    }
}
