//! Who has which address: everything about a node that follows from its number.
//!
//! | | node N |
//! |---|---|
//! | name | `node-a`, `node-b`, … |
//! | underlay | 192.0.2.N/24 (RFC 5737, for documentation) |
//! | pods | 10.244.N.0/24, flannel's customary network |
//! | tunnel address | the pod network's .0, as flannel gives it to `flannel.1` |
//! | pods' gateway | the pod network's .1 |
//!
//! In a lab of both families ([`Families::Dual`]) besides, and with the same last numbers: underlay 2001:db8::N/64 (RFC
//! 3849), pods fd00:N::/64.
//!
//! In a lab with Calico's objects ([`Network::Calico`]) each node has a pool of its own for each family, with one block.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::LabError;

/// Length of the underlay's and of each pod network's prefix, in bits.
pub const PREFIX_LENGTH: u8 = 24;
/// The overlay's VXLAN network identifier, flannel's default.
pub const VNI: u32 = 1;
/// The overlay's UDP destination port, flannel's default on Linux.
pub const VXLAN_PORT: u16 = 8472;
/// The same two as Calico has them by default.
pub const VNI_CALICO: u32 = 4096;
/// IANA's port (RFC 7348 section 5).
pub const VXLAN_PORT_CALICO: u16 = 4789;
/// Length of the prefixes of IPv6 in the underlay and the pod networks, in bits.
pub const PREFIX_LENGTH_V6: u8 = 64;
/// Bytes a VXLAN tunnel over IPv6 adds to a packet.
pub const VXLAN_OVERHEAD_V6: u32 = 70;
/// Bytes a VXLAN tunnel over IPv4 adds to a packet: outer IPv4, UDP, VXLAN and inner Ethernet (RFC 7348 section 5).
pub const VXLAN_OVERHEAD: u32 = 50;
/// The node's interface on the underlay.
pub const UPLINK: &str = "eth1";

/// The most nodes a lab has: one for each letter.
const MOST_NODES: u8 = 26;
/// The first pod's host number in a pod network; .0 is the tunnel's, .1 the gateway's.
const FIRST_POD: u8 = 2;
/// The last host number in a pod network; .255 would be its broadcast address.
const LAST_POD: u8 = 254;
/// The first host number on the underlay that is no node's.
const FIRST_GUEST: u8 = 100;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// Which families of IP a lab has, in the underlay and in its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Families {
    /// IPv4 alone.
    #[default]
    V4,
    /// Both: IPv6 pods' packets travel over the IPv6 underlay, as flannel's do.
    Dual,
}

/// Whose objects tell the nodes of a lab of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Network {
    /// flannel's: annotations of Nodes. Everyone is reached by VXLAN.
    #[default]
    Flannel,
    /// Calico's: IPv4 pods of Millrace nodes are in pools whose packets travel in IPIP, all others in pools of VXLAN. A stock
    /// node knows VXLAN alone, since its kernel may lack IPIP, and sends to everyone so.
    Calico,
}

impl Network {
    /// The overlay's VXLAN network identifier, as by default.
    #[must_use]
    pub fn vni(self) -> u32 {
        match self {
            Self::Flannel => VNI,
            Self::Calico => VNI_CALICO,
        }
    }

    /// The overlay's UDP destination port, as by default on Linux.
    #[must_use]
    pub fn vxlan_port(self) -> u16 {
        match self {
            Self::Flannel => VXLAN_PORT,
            Self::Calico => VXLAN_PORT_CALICO,
        }
    }
}

/// In what packets to a node's IPv4 pods travel; those to IPv6 pods are always in VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tunnel {
    /// VXLAN (RFC 7348).
    Vxlan,
    /// IP in IP (RFC 2003).
    Ipip,
}

/// A node's number in its lab, from 1, and with it its name and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodePlan {
    number: u8,
    families: Families,
    network: Network,
    tunnel: Tunnel,
}

/// What a node has of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlanV6 {
    number: u8,
}

impl PlanV6 {
    /// The address on the underlay, flannel's `public-ipv6`.
    #[must_use]
    pub fn underlay_address(self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, self.number.into())
    }

    /// The MAC of the tunnel's end, flannel's `VtepMAC` of `backend-v6-data`.
    #[must_use]
    pub fn vtep_mac(self) -> Mac {
        Mac([2, 0, 0, 0, 3, self.number])
    }

    /// The pod network's address with this host number; that of a pod is its IPv4 address's.
    #[must_use]
    pub fn pod_address(self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.number.into(), 0, 0, 0, 0, 0, host.into())
    }

    /// The pod network.
    #[must_use]
    pub fn pod_cidr(self) -> String {
        format!("{}/{PREFIX_LENGTH_V6}", self.tunnel_address())
    }

    /// The node's own address in the overlay.
    #[must_use]
    pub fn tunnel_address(self) -> Ipv6Addr {
        self.pod_address(0)
    }

    /// The pods' default gateway.
    #[must_use]
    pub fn gateway(self) -> Ipv6Addr {
        self.pod_address(1)
    }
}

impl NodePlan {
    /// The plan of the node with the given place in the lab, counted from 0.
    ///
    /// # Errors
    /// [`LabError::Unfit`] if there is no letter left to name the node.
    pub fn of(place: usize) -> Result<Self, LabError> {
        match u8::try_from(place) {
            Ok(place) if place < MOST_NODES => Ok(Self {
                number: place + 1,
                families: Families::V4,
                network: Network::Flannel,
                tunnel: Tunnel::Vxlan,
            }),
            _ => {
                let rule = "a lab has room for 26 nodes";
                Err(LabError::Unfit {
                    what: "node",
                    value: place.to_string(),
                    rule,
                })
            }
        }
    }

    /// The same node in a lab of these families.
    #[must_use]
    pub fn with(self, families: Families) -> Self {
        Self { families, ..self }
    }

    /// The same node in a lab of Calico's objects, its IPv4 pods behind such a tunnel.
    #[must_use]
    pub fn in_calico(self, tunnel: Tunnel) -> Self {
        Self {
            network: Network::Calico,
            tunnel,
            ..self
        }
    }

    /// Whose objects describe it.
    #[must_use]
    pub fn network(self) -> Network {
        self.network
    }

    /// In what packets to its IPv4 pods travel.
    #[must_use]
    pub fn tunnel(self) -> Tunnel {
        self.tunnel
    }

    /// What it has of IPv6, if the lab has that.
    #[must_use]
    pub fn v6(self) -> Option<PlanV6> {
        (self.families == Families::Dual).then_some(PlanV6 { number: self.number })
    }

    /// The letter that tells this node's things from another's.
    #[must_use]
    pub fn letter(self) -> char {
        char::from(b'a' + self.number - 1)
    }

    /// `metadata.name` of the Node object.
    #[must_use]
    pub fn name(self) -> String {
        format!("node-{}", self.letter())
    }

    /// The address on the underlay, flannel's `public-ip`.
    #[must_use]
    pub fn underlay_address(self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number)
    }

    /// The MAC of the uplink.
    #[must_use]
    pub fn uplink_mac(self) -> Mac {
        Mac([2, 0, 0, 0, 0, self.number])
    }

    /// The MAC of the tunnel's end, flannel's `VtepMAC`.
    #[must_use]
    pub fn vtep_mac(self) -> Mac {
        Mac([2, 0, 0, 0, 1, self.number])
    }

    /// The MAC of a stock node's bridge. Without one of its own a bridge takes the lowest of its ports' and changes it
    /// as pods come, and the pods already there would hold a stale neighbour.
    #[must_use]
    pub fn bridge_mac(self) -> Mac {
        Mac([2, 0, 0, 0, 2, self.number])
    }

    /// An address of the pod network.
    fn pod_network_address(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, self.number, host)
    }

    /// `spec.podCIDR` of the Node object.
    #[must_use]
    pub fn pod_cidr(self) -> String {
        format!("{}/{PREFIX_LENGTH}", self.tunnel_address())
    }

    /// The node's own address in the overlay.
    #[must_use]
    pub fn tunnel_address(self) -> Ipv4Addr {
        self.pod_network_address(0)
    }

    /// The pods' default gateway.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.pod_network_address(1)
    }

    /// The lowest pod address that is not among those `taken`.
    ///
    /// # Errors
    /// [`LabError::Unfit`] if all are taken.
    pub fn free_pod_address(self, taken: &[Ipv4Addr]) -> Result<Ipv4Addr, LabError> {
        let mut addresses = (FIRST_POD..=LAST_POD).map(|host| self.pod_network_address(host));
        addresses
            .find(|address| !taken.contains(address))
            .ok_or_else(|| LabError::Unfit {
                what: "pod",
                value: format!("number {}", taken.len() + 1),
                rule: "a node has room for 253 pods",
            })
    }
}

/// The underlay addresses of the guest (a machine that is no node) with the given place in the lab, counted from 0; that of
/// IPv6 counts in a lab that has it.
pub(crate) fn guest_addresses(place: usize) -> Result<(Ipv4Addr, Ipv6Addr), LabError> {
    match u8::try_from(place)
        .ok()
        .and_then(|place| FIRST_GUEST.checked_add(place))
    {
        Some(host) if host <= LAST_POD => Ok((
            Ipv4Addr::new(192, 0, 2, host),
            PlanV6 { number: host }.underlay_address(),
        )),
        _ => {
            let rule = "an underlay has room for 155 guests";
            Err(LabError::Unfit {
                what: "guest",
                value: place.to_string(),
                rule,
            })
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_third_node_has_the_documented_addresses() {
        let plan = NodePlan::of(2).unwrap();
        assert_eq!(plan.name(), "node-c");
        assert_eq!(plan.underlay_address().to_string(), "192.0.2.3");
        assert_eq!(plan.pod_cidr(), "10.244.3.0/24");
        assert_eq!(plan.tunnel_address().to_string(), "10.244.3.0");
        assert_eq!(plan.gateway().to_string(), "10.244.3.1");
        assert_eq!(plan.vtep_mac().to_string(), "02:00:00:00:01:03");
        assert_eq!(plan.v6(), None);
        let v6 = plan.with(Families::Dual).v6().unwrap();
        assert_eq!(v6.underlay_address().to_string(), "2001:db8::3");
        assert_eq!(v6.pod_cidr(), "fd00:3::/64");
        assert_eq!(v6.pod_address(9).to_string(), "fd00:3::9");
        assert_eq!(v6.vtep_mac().to_string(), "02:00:00:00:03:03");
    }

    #[test]
    fn a_pod_address_is_used_again_once_free() {
        let plan = NodePlan::of(0).unwrap();
        let address = |host| Ipv4Addr::new(10, 244, 1, host);
        assert_eq!(plan.free_pod_address(&[]).unwrap(), address(2));
        assert_eq!(
            plan.free_pod_address(&[address(2), address(4)]).unwrap(),
            address(3)
        );
        let all: Vec<Ipv4Addr> = (2..=254).map(address).collect();
        assert!(plan.free_pod_address(&all).is_err());
    }

    #[test]
    fn the_alphabet_is_the_limit() {
        assert_eq!(NodePlan::of(25).unwrap().name(), "node-z");
        assert!(NodePlan::of(26).is_err());
        let (v4, v6) = guest_addresses(154).unwrap();
        assert_eq!(
            (v4.to_string(), v6.to_string()),
            ("192.0.2.254".into(), "2001:db8::fe".into())
        );
        assert!(guest_addresses(155).is_err());
    }
}
