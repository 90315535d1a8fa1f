//! The walks that are measured, and the packets that take them.

use std::net::Ipv4Addr;

use anyhow::{Context, bail, ensure};
use clap::ValueEnum;
use millrace_dataplane::frame::{Frame, NoRoom};
use millrace_dataplane::wire::{Vni, eth, ipip, vxlan};
use millrace_tools::pktgen::{
    AddressRange, FlowSpace, Flows, Link, Outer, PortRange, Shape, Template, Tunnel, Wrapping, recognise,
};

use super::scene::{
    Overlay, PEERS, POD_A, POD_B, PORTS, Size, UPLINK, VNI, local_pod, pod_address, service_address,
    station_mac, switch_mac, tunnel_mac, underlay_address, underlay_mac,
};

/// Bytes that a VXLAN push adds to a frame.
const VXLAN_GROWTH: usize = vxlan::PUSH_LEN_IPV4;
/// Bytes that an IPIP push adds to a frame.
const IPIP_GROWTH: usize = ipip::PUSH_LEN - eth::HEADER_LEN;

/// The first source port of the flows.
const FIRST_PORT: u16 = 1024;
/// The UDP destination ports of the flows: discard, and the next.
const DESTINATION_PORTS: (u16, u16) = (9, 10);
/// Those between two pods, who have one address each: enough of them for all flows.
const LOCAL_PORTS: (u16, u16) = (9, 24);
/// How many Services there are, where there are few, and where there are many.
const FEW_SERVICES: u32 = 10;
const MANY_SERVICES: u32 = 10_000;
/// Services that are called, so that both cases have the same flows.
const CALLED_SERVICES: u32 = 8;
/// As many live flows as a node may have.
pub(super) const MANY_FLOWS: u32 = 1_000_000;
/// Policies of an isolated pod.
const POLICIES: u32 = 10;
/// The first address of the world that pods call.
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 0, 0);
/// The number that every packet's mark says.
const RUN: u16 = 1;

/// A packet's way through the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Walk {
    /// From one pod to another on the same node
    Forward,
    /// From a pod into a VXLAN tunnel
    VxlanPush,
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
}

/// What the switch does to a packet.
#[derive(Debug, Clone, Copy)]
enum Kind {
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
    /// Every walk.
    pub(crate) const ALL: [Self; 14] = [
        Self::Forward,
        Self::VxlanPush,
        Self::VxlanPull,
        Self::IpipPush,
        Self::IpipPull,
        Self::Service,
        Self::ServiceOfMany,
        Self::ServiceChurn,
        Self::Policy,
        Self::ChainOut,
        Self::ChainOutOfMany,
        Self::ChainBack,
        Self::NewConnections,
        Self::Masquerade,
    ];

    /// Its name in the summary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::VxlanPush => "vxlan-push",
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
        }
    }

    /// The walk that has to be taken before, whose answers take this one.
    pub(super) fn answers(self) -> Option<Self> {
        (self == Self::ChainBack).then_some(Self::ChainOut)
    }

    /// Which tunnel the node and its peers use.
    pub(super) fn overlay(self) -> Overlay {
        match self {
            Self::IpipPush | Self::IpipPull => Overlay::Ipip,
            _ => Overlay::Vxlan,
        }
    }

    /// What the packet is to the switch: where it comes in and leaves, and what is done to it.
    fn kind(self) -> Kind {
        match self {
            Self::Forward | Self::Policy => Kind::Local,
            Self::VxlanPush | Self::IpipPush => Kind::Push,
            Self::VxlanPull | Self::IpipPull | Self::ChainBack => Kind::Pull,
            Self::Service
            | Self::ServiceOfMany
            | Self::ServiceChurn
            | Self::ChainOut
            | Self::ChainOutOfMany
            | Self::NewConnections => Kind::Call,
            Self::Masquerade => Kind::Leave,
        }
    }

    /// Whether the pods at its ends are isolated, and the rules of their policies that let it through.
    pub(super) fn is_policed(self) -> bool {
        matches!(
            self,
            Self::Policy | Self::ChainOut | Self::ChainOutOfMany | Self::ChainBack | Self::NewConnections
        )
    }

    /// How many Services the node has.
    pub(super) fn services(self) -> u32 {
        match self {
            Self::Service | Self::ServiceChurn | Self::ChainOut | Self::ChainBack => FEW_SERVICES,
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
            Self::Masquerade => &[1, 65_536],
            Self::NewConnections | Self::ServiceChurn => &[MANY_FLOWS],
            _ => &[1, 65_536, MANY_FLOWS],
        }
    }

    /// The lengths of frames that it is measured with, for so many flows.
    pub(super) fn frame_lens(self, flows: u32) -> &'static [usize] {
        if flows == MANY_FLOWS { &[64] } else { &[64, 1500] }
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

    /// What the packets of this walk look like before it: `flows` flows, dealt evenly to the templates.
    pub(super) fn templates(
        self,
        frame_len: usize,
        flows: u32,
        called: u32,
    ) -> anyhow::Result<Vec<Template>> {
        let from_pod = |space| -> anyhow::Result<Vec<Template>> {
            let link = Link {
                source: station_mac(POD_A),
                destination: switch_mac(POD_A),
            };
            let shape = Shape {
                link,
                outer: None,
                flows: Flows::new(space, flows)?,
                frame_len,
                run: RUN,
            };
            Ok(vec![Template::new(&shape)?])
        };
        match self.kind() {
            Kind::Local => {
                let (first, last) = LOCAL_PORTS;
                from_pod(FlowSpace {
                    destination_ports: PortRange::new(first, last).context("no ports")?,
                    ..space(&local_pod(POD_A).into(), &local_pod(POD_B).into())?
                })
            }
            Kind::Push => {
                // The peers' pod networks lie one behind the other.
                let networks = Addresses(pod_address(1, 0), u32::from(PEERS) << u8::BITS);
                from_pod(space(&local_pod(POD_A).into(), &networks)?)
            }
            Kind::Call => {
                let addresses = Addresses(service_address(0), called);
                from_pod(space(&local_pod(POD_A).into(), &addresses)?)
            }
            Kind::Leave => {
                // So few ports to each address that the node's own range suffices for all of them.
                let (ports, addresses) = (1000, 1024);
                let space = FlowSpace {
                    sources: AddressRange::one(local_pod(POD_A)),
                    destinations: AddressRange::starting_at(WORLD, addresses),
                    source_ports: PortRange::new(FIRST_PORT, FIRST_PORT + ports - 1).context("no ports")?,
                    destination_ports: PortRange::one(DESTINATION_PORTS.0),
                };
                from_pod(space)
            }
            Kind::Pull => {
                let peers = if flows == 1 { 1 } else { PEERS };
                ensure!(
                    flows.is_multiple_of(u32::from(peers)),
                    "{flows} flows cannot be dealt to {peers} peers"
                );
                (1..=peers)
                    .map(|peer| self.sent_by_peer(peer, frame_len, flows / u32::from(peers)))
                    .collect()
            }
        }
    }

    /// What a peer sends us.
    fn sent_by_peer(self, peer: u8, frame_len: usize, flows: u32) -> anyhow::Result<Template> {
        let tunnel = match self.overlay() {
            Overlay::Ipip => Tunnel::Ipip,
            Overlay::Vxlan => Tunnel::Vxlan {
                inner: Link {
                    source: tunnel_mac(peer),
                    destination: tunnel_mac(0),
                },
                vni: Vni::try_from(VNI)?,
                port: vxlan::LINUX_PORT,
            },
        };
        let outer = Outer {
            source: underlay_address(peer),
            destination: underlay_address(0),
            tunnel,
        };
        // Its pods are .2 and up.
        let pods = Addresses(pod_address(peer, 2), 200);
        let shape = Shape {
            link: Link {
                source: underlay_mac(peer),
                destination: underlay_mac(0),
            },
            outer: Some(outer),
            flows: Flows::new(space(&pods, &local_pod(POD_A).into())?, flows)?,
            frame_len,
            run: RUN,
        };
        Ok(Template::new(&shape)?)
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

/// So many addresses from the first on.
struct Addresses(Ipv4Addr, u32);

impl From<Ipv4Addr> for Addresses {
    fn from(address: Ipv4Addr) -> Self {
        Self(address, 1)
    }
}

fn space(sources: &Addresses, destinations: &Addresses) -> anyhow::Result<FlowSpace> {
    let (first, last) = DESTINATION_PORTS;
    Ok(FlowSpace {
        sources: AddressRange::starting_at(sources.0, sources.1),
        destinations: AddressRange::starting_at(destinations.0, destinations.1),
        source_ports: PortRange::new(FIRST_PORT, u16::MAX).context("no ports")?,
        destination_ports: PortRange::new(first, last).context("no ports")?,
    })
}
