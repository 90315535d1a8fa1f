//! EndpointSlices as the switch sees them: where a Service's ports lead.
//!
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>. The ports are numbers here already:
//! whoever writes a slice has looked up a Service's named target ports in its pods.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{self, EndpointSlice};
use serde::Serialize;

use super::address::refused_address_class;
use super::fault::Fault;
use super::name::{NodeName, PodKey, check_label, check_subdomain};
use super::object::namespace_of;
use super::service::{PROXY_NAME, PROXY_NAME_LABEL, Protocol, ServiceFault, ServiceKey};

/// The label that names the Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the switch knows of an EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SliceRecord {
    /// `metadata.name`.
    pub name: String,
    /// The Service it belongs to.
    pub service: ServiceKey,
    /// Whether `addressType` is IPv6, else IPv4.
    pub is_ipv6: bool,
    /// `ports` with a number.
    pub ports: Vec<SlicePort>,
    /// `endpoints` with an address.
    pub endpoints: Vec<Endpoint>,
}

/// A port that every endpoint of a slice has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlicePort {
    /// `name`: that of the Service's port.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// The first of `addresses`; all lead to the same, and the first is the one that counts, as in kube-proxy.
    pub address: IpAddr,
    /// `conditions.ready`; absent means ready.
    pub ready: bool,
    /// `conditions.serving`; absent means the same as ready.
    pub serving: bool,
    /// `conditions.terminating`; absent means not.
    pub terminating: bool,
    /// `hostname`, by which DNS knows it.
    pub hostname: Option<String>,
    /// `nodeName`.
    pub node_name: Option<NodeName>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<String>,
    /// `hints.forZones`.
    pub for_zones: Vec<String>,
    /// `targetRef`, where that is a Pod.
    pub pod: Option<PodKey>,
}

impl SliceRecord {
    /// Reads an EndpointSlice object, with what is wrong about parts of it.
    ///
    /// # Errors
    /// [`Fault`] if it makes no sense by itself, or is rightly not used.
    pub fn read(slice: &EndpointSlice) -> Result<(Self, Vec<Fault>), Fault> {
        let metadata = &slice.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let named = |field| move |error| Fault::Name { field, error };
        check_subdomain(&name).map_err(named("metadata.name"))?;
        let label = |label: &str| metadata.labels.as_ref().and_then(|labels| labels.get(label));
        if let Some(proxy) = label(PROXY_NAME_LABEL).filter(|proxy| *proxy != PROXY_NAME) {
            return Err(ServiceFault::OtherProxy(proxy.clone()).into());
        }
        let Some(service) = label(SERVICE_NAME).filter(|name| !name.is_empty()) else {
            return Err(ServiceFault::NoServiceName.into());
        };
        let service = ServiceKey::new(namespace_of(metadata), service.clone())
            .map_err(named("metadata.labels[kubernetes.io/service-name]"))?;
        let is_ipv6 = match slice.address_type.as_str() {
            "IPv4" => false,
            "IPv6" => true,
            "FQDN" => return Err(ServiceFault::Fqdn.into()),
            other => {
                return Err(ServiceFault::Word {
                    field: "addressType".to_owned(),
                    value: other.to_owned(),
                    wanted: "IPv4, IPv6, FQDN",
                }
                .into());
            }
        };
        let mut faults = Vec::new();
        let record = Self {
            name,
            service,
            is_ipv6,
            ports: read_ports(slice)?,
            endpoints: read_endpoints(slice, is_ipv6, &mut faults)?,
        };
        Ok((record, faults))
    }
}

/// The ports with a number. One without means all ports, which a Service's port cannot lead to.
fn read_ports(slice: &EndpointSlice) -> Result<Vec<SlicePort>, Fault> {
    let mut ports = Vec::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        let Some(number) = port.port.filter(|number| *number != 0) else {
            continue;
        };
        let text = port.protocol.as_deref();
        let protocol = Protocol::read(text).ok_or_else(|| ServiceFault::Word {
            field: format!("ports[{index}].protocol"),
            value: text.unwrap_or_default().to_owned(),
            wanted: Protocol::WORDS,
        })?;
        ports.push(SlicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol,
            port: u16::try_from(number)
                .map_err(|_| ServiceFault::port(format!("ports[{index}].port"), number))?,
        });
    }
    Ok(ports)
}

fn read_endpoints(
    slice: &EndpointSlice,
    is_ipv6: bool,
    faults: &mut Vec<Fault>,
) -> Result<Vec<Endpoint>, Fault> {
    let mut endpoints = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let Some(text) = endpoint.addresses.first() else {
            continue;
        };
        let field = || format!("endpoints[{index}].addresses[0]");
        let address: Option<IpAddr> = text.parse().ok();
        let Some(address) = address.filter(|address| address.is_ipv6() == is_ipv6) else {
            faults.push(
                ServiceFault::EndpointAddress {
                    field: field(),
                    value: text.clone(),
                    wanted: if is_ipv6 { "IPv6" } else { "IPv4" },
                }
                .into(),
            );
            continue;
        };
        match refused_address_class(address) {
            Some(class) => faults.push(
                ServiceFault::RefusedEndpoint {
                    field: field(),
                    address,
                    class,
                }
                .into(),
            ),
            None => endpoints.push(read_endpoint(endpoint, address)?),
        }
    }
    Ok(endpoints)
}

fn read_endpoint(endpoint: &v1::Endpoint, address: IpAddr) -> Result<Endpoint, Fault> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let for_nodes = hints
        .and_then(|hints| hints.for_nodes.as_deref())
        .unwrap_or_default();
    let for_zones = hints
        .and_then(|hints| hints.for_zones.as_deref())
        .unwrap_or_default();
    let node_name = endpoint.node_name.as_deref().filter(|name| !name.is_empty());
    let target = endpoint.target_ref.as_ref();
    let pod = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    Ok(Endpoint {
        address,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        // One that cannot be a label of a name is none.
        hostname: endpoint
            .hostname
            .clone()
            .filter(|hostname| check_label(hostname).is_ok()),
        node_name: node_name
            .map(NodeName::new)
            .transpose()
            .map_err(|error| Fault::Name {
                field: "endpoints[].nodeName",
                error,
            })?,
        for_nodes: for_nodes.iter().map(|node| node.name.clone()).collect(),
        for_zones: for_zones.iter().map(|zone| zone.name.clone()).collect(),
        // Only shown, so one that cannot be is left out.
        pod: pod.and_then(|pod| PodKey::new(pod.namespace.clone()?, pod.name.clone()?).ok()),
    })
}
