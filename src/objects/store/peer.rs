//! Other nodes, as far as packets to their pods are concerned.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::objects::calico::{Block, Encapsulation};
use crate::objects::fault::Fault;
use crate::objects::flannel::{Backend, Family, VxlanLease};
use crate::objects::node::NodeRecord;

/// A node to which there is a tunnel, with what the tunnel needs for one family of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer<'a> {
    /// The node.
    pub node: &'a NodeRecord,
    /// Addresses of its pods.
    pub pod_cidr: IpNet,
    /// Where its tunnel packets go: the outer destination.
    pub public_ip: IpAddr,
    /// The kind of tunnel.
    pub tunnel: PeerTunnel,
    /// Whether packets go there as they are if the node is on one's own subnet.
    pub is_plain_if_near: bool,
}

/// The kind of a peer's tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerTunnel {
    /// VXLAN with the peer's inner Ethernet destination.
    Vxlan(VxlanLease),
    /// IP-in-IP.
    Ipip,
    /// None: where the node is on one's own subnet packets go there as they are, else the kernel's routes lead there.
    None,
}

impl<'a> Peer<'a> {
    /// Takes a node of a Calico cluster as a peer, for a block of its.
    ///
    /// # Errors
    /// [`Fault`] with what keeps it from being one.
    pub fn of_block(node: &'a NodeRecord, family: Family, block: &Block) -> Result<Self, Fault> {
        if block.cidr.addr().is_ipv4() != (family == Family::V4) {
            return Err(Fault::Incomplete("block of that family"));
        }
        let vxlan = || {
            PeerTunnel::Vxlan(VxlanLease {
                vni: None,
                vtep_mac: node.vtep_mac_or_derived(family),
            })
        };
        let (tunnel, is_plain_if_near) = match block.encapsulation {
            Encapsulation::Plain => (PeerTunnel::None, true),
            Encapsulation::Ipip { cross_subnet } => (PeerTunnel::Ipip, cross_subnet),
            Encapsulation::Vxlan { cross_subnet } => (vxlan(), cross_subnet),
        };
        Ok(Self {
            node,
            pod_cidr: block.cidr,
            public_ip: node.calico_address(family).ok_or_else(Fault::no_node_address)?,
            tunnel,
            is_plain_if_near,
        })
    }

    /// Takes a node as a peer for a family of pods.
    ///
    /// # Errors
    /// [`Fault`] with what keeps it from being one.
    pub fn of(node: &'a NodeRecord, family: Family) -> Result<Self, Fault> {
        let lease = node.lease.as_ref().ok_or(Fault::NotManaged)?;
        // An underlay of the overlay's own family, as flannel builds it.
        let (pod_cidr, public_ip) = match family {
            Family::V4 => (
                node.pod_cidr_v4.map(IpNet::V4),
                lease.public_ip_v4.map(IpAddr::V4),
            ),
            Family::V6 => (
                node.pod_cidr_v6.map(IpNet::V6),
                lease.public_ip_v6.map(IpAddr::V6),
            ),
        };
        let tunnel = match &lease.backend {
            Backend::Vxlan { .. } => {
                PeerTunnel::Vxlan(node.vxlan(family).ok_or_else(Fault::no_backend_data)?)
            }
            Backend::Ipip if family == Family::V4 => PeerTunnel::Ipip,
            Backend::Ipip => return Err(Fault::Incomplete("IPv6 in its ipip backend")),
            Backend::Unknown(name) => return Err(Fault::UnknownBackend(name.clone())),
        };
        let pod_cidr = pod_cidr.ok_or(Fault::Incomplete("spec.podCIDRs"))?;
        let public_ip = public_ip.ok_or_else(Fault::no_public_ip)?;
        Ok(Self {
            node,
            pod_cidr,
            public_ip,
            tunnel,
            is_plain_if_near: false,
        })
    }
}
