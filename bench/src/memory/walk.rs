//! The walks that are measured.

use anyhow::{Context, bail};
use clap::ValueEnum;
use millrace_dataplane::frame::{Frame, NoRoom};
use millrace_dataplane::wire::{eth, ipip, vxlan};
use millrace_tools::pktgen::{Wrapping, recognise};

use super::family::Family;
use super::scene::{Overlay, POD_A, POD_B, PORTS, Size, UPLINK};

/// Bytes that a VXLAN push adds to a frame.
const VXLAN_GROWTH: usize = vxlan::PUSH_LEN_IPV4;
/// Bytes that an IPIP push adds to a frame.
const IPIP_GROWTH: usize = ipip::PUSH_LEN - eth::HEADER_LEN;

/// How many Services there are, where there are few, and where there are many.
const FEW_SERVICES: u32 = 10;
const MANY_SERVICES: u32 = 10_000;
/// Services that are called, so that both cases have the same flows.
const CALLED_SERVICES: u32 = 8;
/// As many live flows as a node may have.
pub(super) const MANY_FLOWS: u32 = 1_000_000;
/// Policies of an isolated pod.
const POLICIES: u32 = 10;

/// A packet's way through the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Walk {
    /// From one pod to another on the same node
    Forward,
    /// From one port of a bridged network to another, between known stations
    Bridge,
    /// From a pod into a VXLAN tunnel
    VxlanPush,
    /// The same in a routed network beside the cluster's own
    Routed,
    /// From a VXLAN tunnel to a pod
    VxlanPull,
    /// From a pod into an IP-in-IP tunnel
    IpipPush,
    /// From an IP-in-IP tunnel to a pod
    IpipPull,
    /// From a pod to one of ten Services, whose backends are behind a VXLAN tunnel
    Service,
    /// The same among ten thousand Services
    ServiceOfMany,
    /// As `service`, while an endpoint of another Service, or another pod's label, changes a hundred times a second
    ServiceChurn,
    /// From one pod to another on the same node, both isolated by policies that let the connection through
    Policy,
    /// From an isolated pod to a Service, through its policy, whose backends are behind a VXLAN tunnel
    ChainOut,
    /// The same among ten thousand Services
    ChainOutOfMany,
    /// The answer to `chain-out`: out of the tunnel, back to the isolated pod
    ChainBack,
    /// The first packet of a connection of that kind, among ten thousand Services
    NewConnections,
    /// From a pod to the world, under the node's address
    Masquerade,
    /// `forward` of IPv6
    Forward6,
    /// `vxlan-push` of IPv6
    VxlanPush6,
    /// `vxlan-pull` of IPv6
    VxlanPull6,
    /// `service` of IPv6
    Service6,
    /// `policy` of IPv6
    Policy6,
    /// `chain-out` of IPv6
    ChainOut6,
    /// `chain-back` of IPv6
    ChainBack6,
}

/// What the switch does to a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// From pod to pod.
    Local,
    /// From a pod into a tunnel.
    Push,
    /// From a tunnel to a pod.
    Pull,
    /// From a pod to a Service, whose backends are behind a tunnel.
    Call,
    /// From a pod to the world.
    Leave,
}

impl Walk {
    /// Its name in the summary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Bridge => "bridge",
            Self::VxlanPush => "vxlan-push",
            Self::Routed => "routed",
            Self::VxlanPull => "vxlan-pull",
            Self::IpipPush => "ipip-push",
            Self::IpipPull => "ipip-pull",
            Self::Service => "service",
            Self::ServiceOfMany => "service-10000",
            Self::ServiceChurn => "service-churn",
            Self::Policy => "policy",
            Self::ChainOut => "chain-out",
            Self::ChainOutOfMany => "chain-out-10000",
            Self::ChainBack => "chain-back",
            Self::NewConnections => "new-connections",
            Self::Masquerade => "masquerade",
            Self::Forward6 => "forward6",
            Self::VxlanPush6 => "vxlan-push6",
            Self::VxlanPull6 => "vxlan-pull6",
            Self::Service6 => "service6",
            Self::Policy6 => "policy6",
            Self::ChainOut6 => "chain-out6",
            Self::ChainBack6 => "chain-back6",
        }
    }

    /// The family of its packets inside the underlay.
    pub(super) fn family(self) -> Family {
        match self {
            Self::Forward6
            | Self::VxlanPush6
            | Self::VxlanPull6
            | Self::Service6
            | Self::Policy6
            | Self::ChainOut6
            | Self::ChainBack6 => Family::V6,
            _ => Family::V4,
        }
    }

    /// The walk that has to be taken before, whose answers take this one.
    pub(super) fn answers(self) -> Option<Self> {
        match self {
            Self::ChainBack => Some(Self::ChainOut),
            Self::ChainBack6 => Some(Self::ChainOut6),
            _ => None,
        }
    }

    /// Which tunnel the node and its peers use.
    pub(super) fn overlay(self) -> Overlay {
        match self {
            Self::IpipPush | Self::IpipPull => Overlay::Ipip,
            _ => Overlay::Vxlan,
        }
    }

    /// What the packet is to the switch: where it comes in and leaves, and what is done to it.
    pub(super) fn kind(self) -> Kind {
        match self {
            Self::Forward | Self::Bridge | Self::Forward6 | Self::Policy | Self::Policy6 => Kind::Local,
            Self::VxlanPush | Self::Routed | Self::VxlanPush6 | Self::IpipPush => Kind::Push,
            Self::VxlanPull | Self::VxlanPull6 | Self::IpipPull | Self::ChainBack | Self::ChainBack6 => {
                Kind::Pull
            }
            Self::Service
            | Self::Service6
            | Self::ServiceOfMany
            | Self::ServiceChurn
            | Self::ChainOut
            | Self::ChainOut6
            | Self::ChainOutOfMany
            | Self::NewConnections => Kind::Call,
            Self::Masquerade => Kind::Leave,
        }
    }

    /// Whether the pods at its ends are isolated, and the rules of their policies that let it through.
    pub(super) fn is_policed(self) -> bool {
        matches!(
            self,
            Self::Policy
                | Self::Policy6
                | Self::ChainOut
                | Self::ChainOut6
                | Self::ChainOutOfMany
                | Self::ChainBack
                | Self::ChainBack6
                | Self::NewConnections
        )
    }

    /// How many Services the node has.
    pub(super) fn services(self) -> u32 {
        match self {
            Self::Service
            | Self::Service6
            | Self::ServiceChurn
            | Self::ChainOut
            | Self::ChainOut6
            | Self::ChainBack
            | Self::ChainBack6 => FEW_SERVICES,
            Self::ServiceOfMany | Self::ChainOutOfMany | Self::NewConnections => MANY_SERVICES,
            _ => 0,
        }
    }

    /// How large its node is.
    pub(super) fn size(self) -> Size {
        Size {
            services: self.services(),
            called: CALLED_SERVICES,
            policies: POLICIES,
            ports: PORTS,
            workers: 1,
        }
    }

    /// The numbers of flows that it is measured with.
    pub(super) fn flows(self) -> &'static [u32] {
        match self {
            Self::Masquerade | Self::Bridge => &[1, 65_536],
            Self::NewConnections | Self::ServiceChurn => &[MANY_FLOWS],
            _ => &[1, 65_536, MANY_FLOWS],
        }
    }

    /// The lengths of frames that it is measured with, for so many flows.
    pub(super) fn frame_lens(self, flows: u32) -> &'static [usize] {
        let lens = self.family().frame_lens();
        if flows == MANY_FLOWS { &lens[..1] } else { lens }
    }

    /// Whether its ports are in a bridged network.
    pub(super) fn is_bridged(self) -> bool {
        self == Self::Bridge
    }

    /// Whether its ports are in a routed network beside the cluster's own.
    pub(super) fn is_second(self) -> bool {
        self == Self::Routed
    }

    /// Whether each packet is the first of its connection.
    pub(super) fn opens(self) -> bool {
        self == Self::NewConnections
    }

    /// Whether something changes while it is measured that none of its packets has to do with.
    pub(super) fn churns(self) -> bool {
        self == Self::ServiceChurn
    }

    /// The port it begins at.
    pub(super) fn ingress(self) -> u16 {
        match self.kind() {
            Kind::Local | Kind::Push | Kind::Call | Kind::Leave => POD_A,
            Kind::Pull => UPLINK,
        }
    }

    /// The port it ends at.
    pub(super) fn egress(self) -> u16 {
        match self.kind() {
            Kind::Local => POD_B,
            Kind::Push | Kind::Call | Kind::Leave => UPLINK,
            Kind::Pull => POD_A,
        }
    }

    /// Moves a frame's bounds back to where they were before the walk; its bytes are not touched.
    pub(super) fn undo(self, frame: &mut Frame) -> Result<(), NoRoom> {
        match (self.kind(), self.overlay()) {
            (Kind::Local | Kind::Leave, _) => Ok(()),
            (Kind::Push | Kind::Call, Overlay::Vxlan) => frame.pull(VXLAN_GROWTH),
            (Kind::Push | Kind::Call, Overlay::Ipip) => frame.pull(IPIP_GROWTH),
            (Kind::Pull, Overlay::Vxlan) => frame.push::<VXLAN_GROWTH>().map(|_| ()),
            (Kind::Pull, Overlay::Ipip) => frame.push::<IPIP_GROWTH>().map(|_| ()),
        }
    }

    /// Bytes that it adds to a frame, if it adds any.
    pub(super) fn growth(self) -> usize {
        match (self.kind(), self.overlay()) {
            (Kind::Push | Kind::Call, Overlay::Vxlan) => VXLAN_GROWTH,
            (Kind::Push | Kind::Call, Overlay::Ipip) => IPIP_GROWTH,
            (Kind::Local | Kind::Leave | Kind::Pull, _) => 0,
        }
    }

    /// Makes sure that a packet left as this walk has to leave it: how it is wrapped, its length, its checksums.
    pub(super) fn check(self, before: usize, packet: &[u8]) -> anyhow::Result<()> {
        let found = recognise(packet).context("what left is not what came in")?;
        let (wrapping, len) = match (self.kind(), self.overlay()) {
            (Kind::Local | Kind::Leave, _) => (Wrapping::Plain, before),
            (Kind::Push | Kind::Call, Overlay::Vxlan) => (Wrapping::Vxlan, before + self.growth()),
            (Kind::Push | Kind::Call, Overlay::Ipip) => (Wrapping::Ipip, before + self.growth()),
            (Kind::Pull, Overlay::Vxlan) => (Wrapping::Plain, before - VXLAN_GROWTH),
            (Kind::Pull, Overlay::Ipip) => (Wrapping::Plain, before - IPIP_GROWTH),
        };
        if (found.wrapping, packet.len(), found.is_intact) != (wrapping, len, true) {
            bail!(
                "{} bytes left as {found:?}; {wrapping:?} of {len} bytes, intact, would be right",
                packet.len()
            );
        }
        Ok(())
    }
}
