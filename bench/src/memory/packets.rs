//! The packets that take a walk, as they are before it.

use std::net::Ipv4Addr;

use anyhow::{Context, ensure};
use millrace_dataplane::wire::{Vni, vxlan};
use millrace_tools::pktgen::{
    AddressRange, FlowSpace, Flows, Link, Outer, PortRange, Shape, Template, Tunnel,
};

use super::scene::{
    Overlay, PEERS, POD_A, POD_B, VNI, station_mac, switch_mac, tunnel_mac, underlay_address, underlay_mac,
};
use super::walk::{Kind, Walk};

/// The first source port of the flows.
const FIRST_PORT: u16 = 1024;
/// The UDP destination ports of the flows: discard, and the next.
const DESTINATION_PORTS: (u16, u16) = (9, 10);
/// Those between two pods, who have one address each: enough of them for all flows.
const LOCAL_PORTS: (u16, u16) = (9, 24);
/// The first address of the world that pods call.
const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 0, 0);
/// The number that every packet's mark says.
const RUN: u16 = 1;

impl Walk {
    /// What the packets of this walk look like before it: `flows` flows, dealt evenly to the templates.
    pub(super) fn templates(
        self,
        frame_len: usize,
        flows: u32,
        called: u32,
    ) -> anyhow::Result<Vec<Template>> {
        let family = self.family();
        let pod_a = AddressRange::one(family.local_pod(POD_A));
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
                    ..space(pod_a, AddressRange::one(family.local_pod(POD_B)))?
                })
            }
            Kind::Push => {
                // The peers' pod networks lie one behind the other.
                let networks =
                    AddressRange::starting_at(family.pod_address(1, 0), u32::from(PEERS) << u8::BITS);
                from_pod(space(pod_a, networks)?)
            }
            Kind::Call => {
                let addresses = AddressRange::starting_at(family.service_address(0), called);
                from_pod(space(pod_a, addresses)?)
            }
            Kind::Leave => {
                // So few ports to each address that the node's own range suffices for all of them.
                let (ports, addresses) = (1000, 1024);
                let space = FlowSpace {
                    sources: pod_a,
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
        let pods = AddressRange::starting_at(self.family().pod_address(peer, 2), 200);
        let pod_a = AddressRange::one(self.family().local_pod(POD_A));
        let shape = Shape {
            link: Link {
                source: underlay_mac(peer),
                destination: underlay_mac(0),
            },
            outer: Some(outer),
            flows: Flows::new(space(pods, pod_a)?, flows)?,
            frame_len,
            run: RUN,
        };
        Ok(Template::new(&shape)?)
    }
}

fn space(sources: AddressRange, destinations: AddressRange) -> anyhow::Result<FlowSpace> {
    let (first, last) = DESTINATION_PORTS;
    Ok(FlowSpace {
        sources,
        destinations,
        source_ports: PortRange::new(FIRST_PORT, u16::MAX).context("no ports")?,
        destination_ports: PortRange::new(first, last).context("no ports")?,
    })
}
