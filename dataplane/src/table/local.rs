//! What this node itself is: its addresses and the ends of its tunnels.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use super::{Lpm, Prefix};
use crate::port::PortId;
use crate::wire::{IpProtocol, MacAddr, Vni};

/// What kind of tunnel ends at an [`Endpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointKind {
    /// VXLAN (RFC 7348).
    Vxlan {
        /// The only network that is taken.
        vni: Vni,
        /// The UDP port that it is taken on.
        port: u16,
        /// The inner destination MAC address that is taken: our tunnel device's own.
        mac: MacAddr,
    },
    /// IP-in-IP (RFC 2003).
    Ipip,
}

/// Our end of the tunnels of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Endpoint {
    /// The address in the underlay that tunnel packets are sent to.
    pub local: IpAddr,
    /// What kind of tunnel packets.
    #[serde(flatten)]
    pub kind: EndpointKind,
}

/// What packets of one family are given as their source, by the way they leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SourceAddresses<A> {
    /// Towards a pod of this node or its own network stack: the pods' gateway.
    pub gateway: Option<A>,
    /// Through a tunnel: this node's own address in the overlay.
    pub overlay: Option<A>,
    /// By the uplink: this node's address there.
    pub uplink: Option<A>,
}

impl<A> Default for SourceAddresses<A> {
    fn default() -> Self {
        Self {
            gateway: None,
            overlay: None,
            uplink: None,
        }
    }
}

/// This node, as the pipeline has to know it.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// The node's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Every node's addresses in the underlay, ours and all peers'. No pod may send tunnel packets to one.
    pub node_addresses: HashSet<IpAddr>,
    /// Our ends of the tunnels.
    pub endpoints: Vec<Endpoint>,
    /// The UDP ports of the tunnels of networks beside the cluster's own, as far as these are its tables.
    pub second_ports: Vec<u16>,
    /// The addresses that the switch itself has: the pods' gateways.
    pub gateways: Vec<IpAddr>,
    /// The prefixes of this node's pods.
    pub pod_prefixes: Vec<Prefix>,
    /// The prefixes of all nodes' pods.
    pub pod_networks: Lpm<()>,
    /// What source NAT gives to IPv4 packets.
    pub sources_v4: SourceAddresses<Ipv4Addr>,
    /// What source NAT gives to IPv6 packets.
    pub sources_v6: SourceAddresses<Ipv6Addr>,
    /// Whether pods that leave the cluster do so under this node's address.
    pub masquerade: bool,
    /// Prefixes whose pods do not even so: those of Calico's pools without `natOutgoing`.
    pub unmasqueraded: Vec<Prefix>,
    /// Protocols without ports in which they may do so: the node itself does not use them.
    pub masquerade_protocols: Vec<IpProtocol>,
    /// The first and the last port, or ICMP id, that source NAT gives to what leaves by the uplink: the node's own
    /// network stack leaves them alone.
    pub uplink_ports: (u16, u16),
    /// Whether a TCP connection to an endpoint that its Service no longer has is reset.
    pub resets_removed_endpoints: bool,
    /// Whether connections through tunnels are told the largest segment that fits.
    pub clamps_mss: bool,
    /// The port to the underlay.
    pub uplink: Option<PortId>,
    /// The port to this node's own network stack.
    pub host: Option<PortId>,
}

impl Local {
    /// Whether `address` is one of the node's own.
    #[inline]
    #[must_use]
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether `address` lies in the prefix of this node's pods.
    #[inline]
    #[must_use]
    pub fn is_local_pod(&self, address: IpAddr) -> bool {
        self.pod_prefixes.iter().any(|prefix| prefix.contains(address))
    }

    /// Whether `address` is that of any node's pod.
    #[inline]
    #[must_use]
    pub fn is_pod(&self, address: IpAddr) -> bool {
        self.pod_networks.lookup(address).is_some()
    }

    /// Whether a pod with the address `source` leaves the cluster, where `destination` lies, under this node's address.
    #[inline]
    #[must_use]
    pub fn masquerades(&self, source: IpAddr, destination: IpAddr) -> bool {
        let keeps_its_own = || self.unmasqueraded.iter().any(|prefix| prefix.contains(source));
        self.masquerade && !self.is_pod(destination) && !keeps_its_own()
    }

    /// Whether packets of this protocol without ports belong to connections, one between any two addresses.
    #[inline]
    #[must_use]
    pub fn follows(&self, protocol: IpProtocol) -> bool {
        self.masquerade_protocols.contains(&protocol)
    }

    /// Whether VXLAN is taken on this UDP port, on any of our addresses.
    #[inline]
    #[must_use]
    pub fn has_vxlan_port(&self, udp_port: u16) -> bool {
        self.endpoints
            .iter()
            .any(|end| matches!(end.kind, EndpointKind::Vxlan { port, .. } if port == udp_port))
    }

    /// Whether another node may take what comes to this UDP port for a tunnel packet, of this network or of another.
    #[inline]
    #[must_use]
    pub fn is_tunnel_port(&self, udp_port: u16) -> bool {
        self.has_vxlan_port(udp_port) || self.second_ports.contains(&udp_port)
    }

    /// The end of a VXLAN tunnel at this address and UDP port: its network and MAC address.
    #[inline]
    #[must_use]
    pub fn vxlan_endpoint(&self, address: IpAddr, udp_port: u16) -> Option<(Vni, MacAddr)> {
        self.endpoints.iter().find_map(|end| match end.kind {
            EndpointKind::Vxlan { vni, port, mac } if end.local == address && port == udp_port => {
                Some((vni, mac))
            }
            EndpointKind::Vxlan { .. } | EndpointKind::Ipip => None,
        })
    }

    /// Whether IP-in-IP tunnels end at this address.
    #[inline]
    #[must_use]
    pub fn is_ipip_endpoint(&self, address: Ipv4Addr) -> bool {
        self.endpoints
            .iter()
            .any(|end| end.kind == EndpointKind::Ipip && end.local == address)
    }
}
