//! Nodes as the switch sees them: pod CIDRs, addresses, and flannel's lease.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use serde::Serialize;

use super::address::{UnicastMac, refused_address_class, refused_class};
use super::calico::{Block, CalicoNode, Encapsulation, GATEWAY_V4, GATEWAY_V6};
use super::fault::Fault;
use super::flannel::{self, Backend, Family, FlannelLease, VxlanLease};
use super::name::NodeName;
use super::selector::Labels;

/// Longest IPv4 prefix of a pod CIDR: the tunnel address, the gateway and two pods.
const LONGEST_PREFIX_V4: u8 = 30;
/// Longest IPv6 prefix of a pod CIDR, for the same reason.
const LONGEST_PREFIX_V6: u8 = 126;
/// `type` of a Node's address that its peers may use.
const INTERNAL_IP: &str = "InternalIP";

/// The label that names a node's zone.
const ZONE: &str = "topology.kubernetes.io/zone";
/// The taint by which the cluster autoscaler says that it is about to delete a node.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What the switch knows of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeRecord {
    /// `metadata.name`.
    pub name: NodeName,
    /// IPv4 addresses of its pods.
    pub pod_cidr_v4: Option<Ipv4Net>,
    /// IPv6 addresses of its pods.
    pub pod_cidr_v6: Option<Ipv6Net>,
    /// `status.addresses` of type `InternalIP`, in their order.
    pub internal_ips: Vec<IpAddr>,
    /// What the operator wants published instead of the address that the node found.
    pub public_ip_overwrite_v4: Option<Ipv4Addr>,
    /// As [`Self::public_ip_overwrite_v4`], for IPv6.
    pub public_ip_overwrite_v6: Option<Ipv6Addr>,
    /// flannel's lease; `None` if the node does not take part.
    pub lease: Option<FlannelLease>,
    /// What Calico's annotations say of it.
    pub calico: Option<CalicoNode>,
    /// In a Calico cluster what it has of the pools' addresses, its own blocks first; `None` in any other.
    pub blocks: Option<Vec<Block>>,
    /// The label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// `metadata.labels`, by which policies select nodes.
    pub labels: Labels,
    /// Whether the node is about to go: it is being deleted, or a cluster autoscaler says that it will be.
    pub is_leaving: bool,
}

impl NodeRecord {
    /// Reads a Node object, with what is only worth a warning.
    ///
    /// # Errors
    /// [`Fault`] if any part of it makes no sense by itself; conflicts with other objects are the store's to
    /// find.
    pub fn read(node: &Node) -> Result<(Self, Vec<Fault>), Fault> {
        let name = node.metadata.name.clone().unwrap_or_default();
        let name = NodeName::new(name).map_err(|error| Fault::Name {
            field: "metadata.name",
            error,
        })?;
        let mut warnings = Vec::new();
        let (pod_cidr_v4, pod_cidr_v6) = match &node.spec {
            Some(spec) => read_cidrs(spec, &mut warnings)?,
            None => (None, None),
        };
        let none = BTreeMap::new();
        let annotations = Annotations(node.metadata.annotations.as_ref().unwrap_or(&none));
        let record = Self {
            name,
            pod_cidr_v4,
            pod_cidr_v6,
            internal_ips: read_internal_ips(node)?,
            public_ip_overwrite_v4: annotations.address(flannel::PUBLIC_IP_OVERWRITE, "IPv4")?,
            public_ip_overwrite_v6: annotations.address(flannel::PUBLIC_IPV6_OVERWRITE, "IPv6")?,
            lease: annotations.lease()?,
            calico: CalicoNode::read(|name| annotations.get(name))?,
            blocks: None,
            zone: node
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(ZONE))
                .cloned(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            is_leaving: is_leaving(node),
        };
        Ok((record, warnings))
    }

    /// The pod CIDRs of both families: `spec.podCIDRs`, or Calico's blocks.
    pub fn pod_cidrs(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.pod_cidr_v4.map(IpNet::V4);
        let spec = v4.into_iter().chain(self.pod_cidr_v6.map(IpNet::V6));
        let blocks = self.blocks.iter().flatten().filter(|block| !block.is_borrowed);
        let is_flannels = self.blocks.is_none();
        let spec = spec.filter(move |_| is_flannels);
        spec.chain(blocks.map(|block| block.cidr))
    }

    /// The addresses of its pods: [`Self::pod_cidrs`], and single ones that are borrowed from other nodes' blocks.
    pub fn pod_prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        let borrowed = self.blocks.iter().flatten().filter(|block| block.is_borrowed);
        self.pod_cidrs().chain(borrowed.map(|block| block.cidr))
    }

    /// Whether an address may be that of one of its pods.
    #[must_use]
    pub fn owns_pod_address(&self, address: IpAddr) -> bool {
        self.pod_prefixes().any(|cidr| cidr.contains(&address))
    }

    /// The node's own addresses in the overlay, from which the host talks to pods: the first address of each pod CIDR, in a
    /// Calico cluster those of its annotations.
    pub fn tunnel_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let is_flannels = self.blocks.is_none();
        let first = self
            .pod_cidrs()
            .filter(move |_| is_flannels)
            .map(|cidr| cidr.network());
        let calico = self.calico.iter().filter(move |_| !is_flannels);
        first.chain(calico.flat_map(CalicoNode::tunnel_addresses))
    }

    /// From which address the host talks to pods: its own in the overlay, or, in a Calico cluster where it has none, its own.
    #[must_use]
    pub fn overlay_source(&self, is_ipv4: bool) -> Option<IpAddr> {
        let is_of_family = |address: &IpAddr| address.is_ipv4() == is_ipv4;
        let family = if is_ipv4 { Family::V4 } else { Family::V6 };
        let own = || self.blocks.as_ref().and_then(|_| self.calico_address(family));
        self.tunnel_addresses().find(is_of_family).or_else(own)
    }

    /// The same towards addresses of one of Calico's pools: its address on the device of that tunnel, where nothing is wrapped
    /// the node's own, so that answers come back the same way.
    #[must_use]
    pub fn source_towards(&self, pool: Encapsulation, is_ipv4: bool) -> Option<IpAddr> {
        let calico = self.calico.as_ref();
        let family = if is_ipv4 { Family::V4 } else { Family::V6 };
        let own = match (pool, family) {
            (Encapsulation::Plain, _) => self.calico_address(family),
            (Encapsulation::Ipip { .. }, _) => calico.and_then(|calico| calico.ipip_address).map(IpAddr::V4),
            (Encapsulation::Vxlan { .. }, Family::V4) => {
                calico.and_then(|calico| calico.vxlan_address).map(IpAddr::V4)
            }
            (Encapsulation::Vxlan { .. }, Family::V6) => {
                calico.and_then(|calico| calico.vxlan_address_v6).map(IpAddr::V6)
            }
        };
        own.or_else(|| self.overlay_source(is_ipv4))
    }

    /// The gateways of its pods: the second address of each pod CIDR; in a Calico cluster the same ones on every node.
    pub fn gateway_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let is_flannels = self.blocks.is_none();
        let second = self.pod_cidrs().filter(move |_| is_flannels).map(gateway_of);
        let has_v6 = || {
            self.pod_prefixes()
                .chain(self.tunnel_addresses().map(IpNet::from))
        };
        let v6 = (!is_flannels && has_v6().any(|net| net.addr().is_ipv6())).then_some(GATEWAY_V6);
        let v4 = (!is_flannels).then_some(IpAddr::V4(GATEWAY_V4));
        second.chain(v4).chain(v6.map(IpAddr::V6))
    }

    /// Its address in a Calico cluster: the annotated one, else its first `InternalIP` of that family.
    #[must_use]
    pub fn calico_address(&self, family: Family) -> Option<IpAddr> {
        let annotated = self.calico.as_ref().and_then(|calico| calico.address(family));
        let internal = || self.internal_ips.iter().copied();
        annotated.or_else(|| internal().find(|address| address.is_ipv4() == (family == Family::V4)))
    }

    /// The addresses at which it takes tunnel packets: those of the lease, in a Calico cluster its own.
    pub fn public_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let lease = self.lease.as_ref().filter(|_| self.blocks.is_none());
        let v4 = lease.and_then(|lease| lease.public_ip_v4).map(IpAddr::V4);
        let v6 = lease.and_then(|lease| lease.public_ip_v6).map(IpAddr::V6);
        let families = [Family::V4, Family::V6]
            .into_iter()
            .filter(|_| self.blocks.is_some());
        let calico = families.filter_map(|family| self.calico_address(family));
        v4.into_iter().chain(v6).chain(calico)
    }

    /// The VXLAN endpoint that the node published for a family of pods.
    #[must_use]
    pub fn vxlan(&self, family: Family) -> Option<VxlanLease> {
        match (&self.lease.as_ref()?.backend, family) {
            (Backend::Vxlan { v4, .. }, Family::V4) => *v4,
            (Backend::Vxlan { v6, .. }, Family::V6) => *v6,
            (Backend::Ipip | Backend::Unknown(_), _) => None,
        }
    }

    /// The VtepMAC for a family of pods: the published one, else the derived one. For the own node, that is
    /// what to publish, so that a MAC once published is kept.
    #[must_use]
    pub fn vtep_mac_or_derived(&self, family: Family) -> UnicastMac {
        let published = match &self.blocks {
            None => self.vxlan(family).map(|lease| lease.vtep_mac),
            Some(_) => self.calico.as_ref().and_then(|calico| calico.mac(family)),
        };
        published.unwrap_or_else(|| flannel::derive_vtep_mac(&self.name, family))
    }
}

/// Whether load balancers should send no new connections to a node, by kube-proxy's rule (KEP-3836).
fn is_leaving(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_some() || taints.into_iter().any(|taint| taint.key == TO_BE_DELETED)
}

/// The second address of a pod CIDR, the gateway of its pods.
#[must_use]
pub fn gateway_of(cidr: IpNet) -> IpAddr {
    match cidr {
        // Pod CIDRs leave at least two host bits, so this never leaves the CIDR.
        IpNet::V4(net) => IpAddr::V4(Ipv4Addr::from_bits(net.network().to_bits() | 1)),
        IpNet::V6(net) => IpAddr::V6(Ipv6Addr::from_bits(net.network().to_bits() | 1)),
    }
}

/// `spec.podCIDRs`, or `spec.podCIDR` where the former is absent: at most one per family.
fn read_cidrs(
    spec: &NodeSpec,
    warnings: &mut Vec<Fault>,
) -> Result<(Option<Ipv4Net>, Option<Ipv6Net>), Fault> {
    let single = spec.pod_cidr.as_deref().filter(|text| !text.is_empty());
    let several = spec.pod_cidrs.as_deref().unwrap_or_default();
    if let (Some(single), Some(first)) = (single, several.first())
        && single != first
    {
        return Err(Fault::CidrMismatch {
            single: single.to_owned(),
            first: first.clone(),
        });
    }
    let mut texts: Vec<(String, &str)> = several
        .iter()
        .enumerate()
        .map(|(index, text)| (format!("spec.podCIDRs[{index}]"), text.as_str()))
        .collect();
    if let (true, Some(single)) = (texts.is_empty(), single) {
        texts.push(("spec.podCIDR".to_owned(), single));
    }
    let (mut v4, mut v6) = (None, None);
    for (field, text) in texts {
        let second = read_cidr(&field, text, warnings)?;
        let first = match second {
            IpNet::V4(net) => v4.replace(net).map(IpNet::V4),
            IpNet::V6(net) => v6.replace(net).map(IpNet::V6),
        };
        if let Some(first) = first {
            return Err(Fault::CidrFamilyTwice { first, second });
        }
    }
    Ok((v4, v6))
}

fn read_cidr(field: &str, text: &str, warnings: &mut Vec<Fault>) -> Result<IpNet, Fault> {
    let field = field.to_owned();
    let Ok(read) = IpNet::from_str(text) else {
        return Err(Fault::Cidr {
            field,
            value: text.to_owned(),
        });
    };
    let cidr = read.trunc();
    let longest = if cidr.network().is_ipv4() {
        LONGEST_PREFIX_V4
    } else {
        LONGEST_PREFIX_V6
    };
    if cidr.prefix_len() > longest {
        return Err(Fault::CidrTooSmall { field, cidr, longest });
    }
    if let Some(class) = refused_class(cidr) {
        return Err(Fault::CidrRefused { field, cidr, class });
    }
    if cidr != read {
        warnings.push(Fault::CidrHostBits {
            field,
            value: text.to_owned(),
            cidr,
        });
    }
    Ok(cidr)
}

fn read_internal_ips(node: &Node) -> Result<Vec<IpAddr>, Fault> {
    let addresses = node
        .status
        .as_ref()
        .and_then(|status| status.addresses.as_deref())
        .unwrap_or_default();
    let internal = addresses
        .iter()
        .enumerate()
        .filter(|(_, address)| address.type_ == INTERNAL_IP);
    internal
        .map(|(index, address)| read_address(&format!("status.addresses[{index}]"), &address.address, "IP"))
        .collect()
}

/// Reads an address that a node or a pod may have.
///
/// # Errors
/// [`Fault::Address`] or [`Fault::RefusedAddress`].
pub(super) fn read_address<A>(field: &str, text: &str, wanted: &'static str) -> Result<A, Fault>
where
    A: FromStr + Into<IpAddr> + Copy,
{
    let address: A = text.parse().map_err(|_| Fault::Address {
        field: field.to_owned(),
        value: text.to_owned(),
        wanted,
    })?;
    match refused_address_class(address.into()) {
        Some(class) => Err(Fault::RefusedAddress {
            field: field.to_owned(),
            address: address.into(),
            class,
        }),
        None => Ok(address),
    }
}

/// A Node's annotations.
struct Annotations<'a>(&'a BTreeMap<String, String>);

impl Annotations<'_> {
    /// An annotation's value; an empty one counts as absent.
    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    fn address<A>(&self, name: &str, wanted: &'static str) -> Result<Option<A>, Fault>
    where
        A: FromStr + Into<IpAddr> + Copy,
    {
        self.get(name)
            .map(|text| read_address(name, text, wanted))
            .transpose()
    }

    fn vxlan(&self, annotation: &'static str) -> Result<Option<VxlanLease>, Fault> {
        // flannel leaves the literal `null` behind for a family that it does not carry.
        let text = self
            .get(annotation)
            .filter(|text| text.trim() != flannel::BACKEND_DATA_IPIP);
        text.map(flannel::decode_backend_data)
            .transpose()
            .map_err(|error| Fault::BackendData { annotation, error })
    }

    fn lease(&self) -> Result<Option<FlannelLease>, Fault> {
        if self.get(flannel::KUBE_SUBNET_MANAGER) != Some("true") {
            return Ok(None);
        }
        let backend = match self.get(flannel::BACKEND_TYPE).unwrap_or_default() {
            flannel::BACKEND_VXLAN => Backend::Vxlan {
                v4: self.vxlan(flannel::BACKEND_DATA)?,
                v6: self.vxlan(flannel::BACKEND_V6_DATA)?,
            },
            flannel::BACKEND_IPIP => Backend::Ipip,
            other => Backend::Unknown(other.to_owned()),
        };
        Ok(Some(FlannelLease {
            public_ip_v4: self.address(flannel::PUBLIC_IP, "IPv4")?,
            public_ip_v6: self.address(flannel::PUBLIC_IPV6, "IPv6")?,
            backend,
        }))
    }
}
