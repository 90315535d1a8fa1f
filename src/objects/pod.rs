//! Pods as the switch sees them: where they run and which addresses they have.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use serde::Serialize;

use super::attachment::NetworkKey;
use super::fault::Fault;
use super::name::{NodeName, PodKey, check_subdomain};
use super::network_status::{self, NETWORK_STATUS, NetworkAddresses};
use super::node::read_address;
use super::object::namespace_of;
use super::policy::PolicyFault;
use super::selector::Labels;
use super::service::Protocol;

/// `status.phase` of pods whose containers have ended and whose addresses are free again.
const FINISHED_PHASES: [&str; 2] = ["Succeeded", "Failed"];

/// What the switch knows of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PodRecord {
    /// `metadata.namespace` and `metadata.name`.
    pub key: PodKey,
    /// `spec.nodeName`; `None` until the pod is scheduled.
    pub node_name: Option<NodeName>,
    /// `status.podIPs`, at most one per family; empty until the pod has an address.
    pub ips: Vec<IpAddr>,
    /// `spec.hostNetwork`: the pod has the node's own address.
    pub host_network: bool,
    /// `metadata.labels`, by which policies select pods.
    pub labels: Labels,
    /// The ports of its containers that have a name, in ascending order.
    pub named_ports: Vec<NamedPort>,
    /// Its addresses in networks beside the cluster's own, by its annotation `k8s.v1.cni.cncf.io/network-status`.
    pub networks: Box<[NetworkAddresses]>,
}

/// A port of a container that has a name, by which policies mean it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct NamedPort {
    /// `name`.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `containerPort`.
    pub port: u16,
}

impl PodRecord {
    /// Reads a Pod object, with what is only worth a warning; `None` for one that has ended, whose addresses may long be
    /// another's.
    ///
    /// # Errors
    /// [`Fault`] if any part of it makes no sense by itself; conflicts with other objects are the store's to
    /// find.
    pub fn read(pod: &Pod) -> Result<(Option<Self>, Vec<Fault>), Fault> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = namespace_of(&pod.metadata);
        check_subdomain(name).map_err(|error| Fault::Name {
            field: "metadata.name",
            error,
        })?;
        let key = PodKey::new(namespace, name).map_err(|error| Fault::Name {
            field: "metadata.namespace",
            error,
        })?;
        let node_name = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .filter(|name| !name.is_empty());
        let node_name = node_name
            .map(NodeName::new)
            .transpose()
            .map_err(|error| Fault::Name {
                field: "spec.nodeName",
                error,
            })?;
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref())
            .unwrap_or_default();
        if FINISHED_PHASES.contains(&phase) {
            return Ok((None, Vec::new()));
        }
        let ips = pod.status.as_ref().map(read_ips).transpose()?.unwrap_or_default();
        let host_network = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.host_network)
            .unwrap_or(false);
        let named_ports = pod.spec.as_ref().map(read_named_ports).transpose()?;
        let annotations = pod.metadata.annotations.as_ref();
        let status = annotations.and_then(|annotations| annotations.get(NETWORK_STATUS));
        let (networks, faults) = status.map(|text| network_status::read(text)).unwrap_or_default();
        let record = Self {
            key,
            node_name,
            ips,
            host_network,
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            named_ports: named_ports.unwrap_or_default(),
            networks: networks.into(),
        };
        Ok((Some(record), faults))
    }

    /// Its addresses in a network beside the cluster's own.
    #[must_use]
    pub fn ips_in(&self, network: &NetworkKey) -> &[IpAddr] {
        let known = self.networks.iter().find(|known| known.network == *network);
        known.map(|known| known.ips.as_slice()).unwrap_or_default()
    }
}

/// The named ports of all containers that go on running beside one another: init containers too, some of which do.
fn read_named_ports(spec: &PodSpec) -> Result<Vec<NamedPort>, Fault> {
    let mut named = Vec::new();
    let groups = [
        ("containers", Some(&spec.containers)),
        ("initContainers", spec.init_containers.as_ref()),
    ];
    for (group, containers) in groups {
        for (place, container) in containers.into_iter().flatten().enumerate() {
            for (index, port) in container.ports.iter().flatten().enumerate() {
                let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) else {
                    continue;
                };
                let field = |field: &str| format!("spec.{group}[{place}].ports[{index}].{field}");
                let protocol = Protocol::read(port.protocol.as_deref()).ok_or_else(|| PolicyFault::Word {
                    field: field("protocol"),
                    value: port.protocol.clone().unwrap_or_default(),
                    wanted: Protocol::WORDS,
                })?;
                let number = u16::try_from(port.container_port)
                    .ok()
                    .filter(|number| *number != 0);
                named.push(NamedPort {
                    name: name.clone(),
                    protocol,
                    port: number.ok_or_else(|| PolicyFault::Port {
                        field: field("containerPort"),
                        value: i64::from(port.container_port),
                        least: 1,
                    })?,
                });
            }
        }
    }
    named.sort_unstable();
    named.dedup();
    Ok(named)
}

/// `status.podIPs`, or `status.podIP` where the former is absent.
fn read_ips(status: &PodStatus) -> Result<Vec<IpAddr>, Fault> {
    let single = status.pod_ip.as_deref().filter(|text| !text.is_empty());
    let several = status.pod_ips.as_deref().unwrap_or_default();
    if let (Some(single), Some(first)) = (single, several.first())
        && single != first.ip
    {
        return Err(Fault::PodIpMismatch {
            single: single.to_owned(),
            first: first.ip.clone(),
        });
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for (index, ip) in several.iter().enumerate() {
        ips.push(read_address(&format!("status.podIPs[{index}]"), &ip.ip, "IP")?);
    }
    if let (true, Some(single)) = (ips.is_empty(), single) {
        ips.push(read_address("status.podIP", single, "IP")?);
    }
    for (index, second) in ips.iter().enumerate() {
        let before = ips.iter().take(index);
        if let Some(first) = before
            .into_iter()
            .find(|first| first.is_ipv4() == second.is_ipv4())
        {
            return Err(Fault::PodIpFamilyTwice {
                first: *first,
                second: *second,
            });
        }
    }
    Ok(ips)
}
