//! Services as the switch sees them: which addresses and ports lead to them, and under which rules.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/service/> and the API's own documentation.

mod balancer;
mod fault;
mod read;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize, Serializer};

use super::name::{NameError, ObjectId, PodKey, check_label};

pub use balancer::{BalancerWish, CLASS_PREFIX, SHARING_KEY, WANTED_ADDRESSES, WANTED_POOL};
pub use fault::ServiceFault;

/// What the label `service.kubernetes.io/service-proxy-name` must say, if it is there, for a Service to be ours.
pub const PROXY_NAME: &str = "millrace";
/// The label that leaves a Service to the proxy it names.
pub(super) const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Seconds for which a client keeps its endpoint, where the Service does not say: the API's default.
pub const AFFINITY_DEFAULT_S: u32 = 10_800;
/// Most seconds for which a client may keep its endpoint: the API's bound.
pub const AFFINITY_MAX_S: u32 = 86_400;

/// Namespace and name of a Service, written `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    namespace: String,
    name: String,
}

impl ServiceKey {
    /// Takes a namespace and a name, both DNS-1123 labels.
    ///
    /// # Errors
    /// [`NameError`] for the first of the two that breaks its rule.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Result<Self, NameError> {
        let (namespace, name) = (namespace.into(), name.into());
        check_label(&namespace)?;
        check_label(&name)?;
        Ok(Self { namespace, name })
    }

    /// `metadata.namespace`.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a pod's host ports are called where Services are: by a word behind the pod's name that no Service can have in
    /// its own, since it has capitals.
    #[must_use]
    pub fn of_host_ports(pod: &PodKey, at: Option<IpAddr>) -> Self {
        let at = at.map(|address| format!("@{address}")).unwrap_or_default();
        Self {
            namespace: pod.namespace().to_owned(),
            name: format!("{}.hostPorts{at}", pod.name()),
        }
    }

    /// What the node's own resolver is called where Services are: a name that no Service can have, since it has a dot.
    #[must_use]
    pub fn of_resolver() -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: "kube-dns.millrace".to_owned(),
        }
    }

    /// The object's identity.
    #[must_use]
    pub fn object_id(&self) -> ObjectId {
        ObjectId {
            kind: "Service".to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for ServiceKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// `protocol` of a Service's or an endpoint's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// `TCP`.
    Tcp,
    /// `UDP`.
    Udp,
    /// `SCTP`.
    Sctp,
}

impl Protocol {
    /// The protocols that there are, for a person.
    pub const WORDS: &'static str = "TCP, UDP, SCTP";

    /// Reads the field; one that is absent or empty means TCP.
    #[must_use]
    pub fn read(text: Option<&str>) -> Option<Self> {
        match text.unwrap_or_default() {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// What kind of Service it is, and what of it is programmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ServiceKind {
    /// `ClusterIP` with an address.
    ClusterIp,
    /// `clusterIP: None`: DNS gives out the endpoints, nothing is programmed.
    Headless,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ExternalName`: DNS gives out this name, nothing is programmed.
    ExternalName(String),
    /// No object of the API: the host ports of a pod, at addresses of its node, which stand among the external ones.
    HostPort,
}

impl ServiceKind {
    /// `spec.type`.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::ClusterIp | Self::Headless => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName(_) => "ExternalName",
            Self::HostPort => "HostPort",
        }
    }
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// `name`, by which the endpoints' port is found; empty if the Service has one port without a name.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `nodePort`, if one is allocated.
    pub node_port: Option<u16>,
}

/// What the switch knows of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceRecord {
    /// `metadata.namespace` and `metadata.name`.
    pub key: ServiceKey,
    /// What kind of Service it is.
    pub kind: ServiceKind,
    /// `spec.clusterIPs`, at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` of mode `VIP`.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Those of [`Self::load_balancer_ips`] that stand in no status, but were given by this program.
    pub assigned_ips: Vec<IpAddr>,
    /// As [`Self::load_balancer_ips`], of mode `Proxy`: never short-circuited.
    pub proxied_ips: Vec<IpAddr>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_s: Option<u32>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<IpNet>,
    /// `spec.healthCheckNodePort`, where it counts.
    pub health_check_node_port: Option<u16>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// The label `service.kubernetes.io/service-proxy-name`, if it is there.
    pub proxy_name: Option<String>,
    /// What it asks of whoever gives out addresses, where it is of type LoadBalancer.
    pub wish: Option<Box<BalancerWish>>,
}

impl ServiceRecord {
    /// Whether anything is programmed for it.
    #[must_use]
    pub fn is_programmed(&self) -> bool {
        let is_ours = self.proxy_name.as_deref().is_none_or(|name| name == PROXY_NAME);
        let has_address = match self.kind {
            ServiceKind::ClusterIp | ServiceKind::NodePort | ServiceKind::LoadBalancer => {
                !self.cluster_ips.is_empty()
            }
            ServiceKind::HostPort => !self.external_ips.is_empty(),
            ServiceKind::Headless | ServiceKind::ExternalName(_) => false,
        };
        is_ours && has_address
    }

    /// Whether it has backends of this family: those of its cluster IPs; host ports have none, and those of their own.
    #[must_use]
    pub fn has_family(&self, is_ipv6: bool) -> bool {
        let addresses = match self.kind {
            ServiceKind::HostPort => &self.external_ips,
            _ => &self.cluster_ips,
        };
        addresses.iter().any(|address| address.is_ipv6() == is_ipv6)
    }

    /// Whether it can be called from outside the cluster.
    #[must_use]
    pub fn is_external(&self) -> bool {
        let has_node_port = self.ports.iter().any(|port| port.node_port.is_some());
        has_node_port || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Everything that leads to it.
    pub fn claims(&self) -> impl Iterator<Item = Claim> + '_ {
        let addresses = || {
            let cluster = self
                .cluster_ips
                .iter()
                .map(|address| (VipKind::Cluster, *address));
            let external = self
                .external_ips
                .iter()
                .map(|address| (VipKind::External, *address));
            let balancer = self.load_balancer_ips.iter();
            cluster
                .chain(external)
                .chain(balancer.map(|address| (VipKind::LoadBalancer, *address)))
        };
        self.ports.iter().flat_map(move |port| {
            let of_addresses = addresses().map(|(kind, address)| Claim::Vip {
                kind,
                address,
                protocol: port.protocol,
                port: port.port,
            });
            let of_nodes = port.node_port.map(|node_port| Claim::NodePort {
                protocol: port.protocol,
                port: node_port,
            });
            of_addresses.chain(of_nodes)
        })
    }
}

/// As what a Service has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VipKind {
    /// `spec.clusterIPs`.
    Cluster,
    /// `spec.externalIPs`.
    External,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
}

impl VipKind {
    /// The field that it stands in.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Cluster => "spec.clusterIPs",
            Self::External => "spec.externalIPs",
            Self::LoadBalancer => "status.loadBalancer.ingress",
        }
    }
}

/// What one Service alone can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Claim {
    /// A virtual address with a port.
    Vip {
        /// As what; two claims of different kinds collide all the same.
        kind: VipKind,
        /// The address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
    /// A port of every node.
    NodePort {
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
    },
}

impl Claim {
    /// The address; `None` for a node port.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match *self {
            Self::Vip { address, .. } => Some(address),
            Self::NodePort { .. } => None,
        }
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match *self {
            Self::Vip { protocol, .. } | Self::NodePort { protocol, .. } => protocol,
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip {
                kind,
                address,
                protocol,
                port,
            } => write!(f, "{}: {address} {protocol} {port}", kind.field()),
            Self::NodePort { protocol, port } => write!(f, "nodePort {protocol} {port}"),
        }
    }
}
