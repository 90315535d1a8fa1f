//! What a packet must bear to take the lane, at the port it comes in at: found once for a batch.

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::table::{Endpoint, EndpointKind, NetworkId, NodeTables, PortFacts, Role};
use millrace_dataplane::wire::{EtherType, MacAddr, Vni, eth};

use crate::connections::Context;
use crate::decap::takes_tunnels_at;
use crate::limit::is_from_us;

/// How many UDP ports of tunnels a node may have that still uses the lane.
const TUNNEL_PORTS: usize = 4;

/// What comes in at a port, as far as the lane takes it.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(super) link: Link,
    pub(super) entrance: Entrance,
    /// The network that all of it is in.
    pub(super) network: NetworkId,
    /// Whether packets come from this node itself ([`is_from_us`]).
    pub(super) is_from_us: bool,
    /// TCP and UDP checksums may be half computed.
    pub(super) finish_checksums: bool,
    /// The UDP ports of tunnels, those of other networks too, to which no pod may send at a node. Nobody's is 0.
    pub(super) tunnel_ports: [u16; TUNNEL_PORTS],
}

/// Who sends.
#[derive(Debug)]
pub(super) enum Entrance {
    /// A pod, from this address.
    Pod(Ipv4Addr),
    /// The node's own network stack.
    Host,
    /// Another node, through a tunnel to one of our ends (of each kind the first, if there are several), or anybody, as it
    /// is.
    Wire {
        vxlan: Option<VxlanEnd>,
        ipip: Option<Ipv4Addr>,
    },
}

/// Our end of a VXLAN tunnel.
#[derive(Debug)]
pub(super) struct VxlanEnd {
    pub(super) local: Ipv4Addr,
    pub(super) port: u16,
    pub(super) vni: Vni,
    /// What the inner Ethernet header must be.
    pub(super) inner: Link,
}

/// An Ethernet header that is expected, as two words that overlap: bytes 0 to 7, and 6 to 13.
#[derive(Debug)]
pub(super) struct Link {
    wanted: [u64; 2],
    masks: [u64; 2],
}

impl Link {
    /// IPv4 to `to`, from `from` or anybody.
    fn new(to: MacAddr, from: Option<MacAddr>) -> Self {
        let header = |to, from, ether_type| {
            let mut header = [0; eth::HEADER_LEN];
            eth::emit(&mut header, to, from, ether_type);
            words(&header)
        };
        let all = MacAddr::BROADCAST;
        let anybody = if from.is_some() { all } else { MacAddr::ZERO };
        Self {
            wanted: header(to, from.unwrap_or(MacAddr::ZERO), EtherType::IPV4),
            masks: header(all, anybody, EtherType(u16::MAX)),
        }
    }

    #[inline(always)]
    pub(super) fn fits(&self, header: &[u8; eth::HEADER_LEN]) -> bool {
        let [first, last] = words(header);
        (first ^ self.wanted[0]) & self.masks[0] | (last ^ self.wanted[1]) & self.masks[1] == 0
    }
}

#[inline(always)]
fn words(header: &[u8; eth::HEADER_LEN]) -> [u64; 2] {
    // INVARIANT: the header has 14 bytes, so both words are there.
    let first = header.first_chunk().unwrap_or(&[0; 8]);
    let last = header.last_chunk().unwrap_or(&[0; 8]);
    [u64::from_ne_bytes(*first), u64::from_ne_bytes(*last)]
}

impl Gate {
    /// Whether what comes in here may be in a tunnel.
    pub(crate) fn is_wire(&self) -> bool {
        matches!(self.entrance, Entrance::Wire { .. })
    }

    /// The gate of a port; `None` if nothing that comes in there takes the lane.
    pub(crate) fn of(cx: &Context<'_>, ingress: &PortFacts) -> Option<Self> {
        let local = &*cx.tables.local;
        let (from, entrance) = match ingress.role {
            Role::Pod => (Some(ingress.peer_mac), Entrance::Pod(first_v4(&ingress.sources)?)),
            Role::Host => (Some(ingress.peer_mac), Entrance::Host),
            Role::Uplink => (None, wire(cx.tables)),
            Role::Segment => return None,
        };
        let ports = local.endpoints.iter().filter_map(|end| match end.kind {
            EndpointKind::Vxlan { port, .. } => Some(port),
            EndpointKind::Ipip => None,
        });
        let tunnel_ports = distinct(ports.chain(local.second_ports.iter().copied()))?;
        Some(Self {
            link: Link::new(ingress.mac, from),
            entrance,
            network: cx.network(),
            is_from_us: is_from_us(cx.entry),
            finish_checksums: ingress.finish_checksums,
            tunnel_ports,
        })
    }
}

/// The ports, each once; `None` if there are too many.
fn distinct(ports: impl Iterator<Item = u16>) -> Option<[u16; TUNNEL_PORTS]> {
    let mut found = [0; TUNNEL_PORTS];
    let mut count = 0;
    for port in ports {
        if !found.contains(&port) {
            *found.get_mut(count)? = port;
            count += 1;
        }
    }
    Some(found)
}

fn first_v4(sources: &[IpAddr]) -> Option<Ipv4Addr> {
    sources.iter().find_map(|source| match source {
        IpAddr::V4(v4) => Some(*v4),
        IpAddr::V6(_) => None,
    })
}

/// What comes from the wire.
fn wire(tables: &NodeTables) -> Entrance {
    let ends = &tables.local.endpoints;
    let ours = || ends.iter().filter(|end| takes_tunnels_at(tables, end.local));
    Entrance::Wire {
        vxlan: ours().find_map(vxlan),
        ipip: ours().find_map(|end| match (end.kind, end.local) {
            (EndpointKind::Ipip, IpAddr::V4(local)) => Some(local),
            (EndpointKind::Ipip | EndpointKind::Vxlan { .. }, _) => None,
        }),
    }
}

fn vxlan(end: &Endpoint) -> Option<VxlanEnd> {
    match (end.kind, end.local) {
        (EndpointKind::Vxlan { vni, port, mac }, IpAddr::V4(local)) => Some(VxlanEnd {
            local,
            port,
            vni,
            inner: Link::new(mac, None),
        }),
        (EndpointKind::Ipip | EndpointKind::Vxlan { .. }, _) => None,
    }
}
