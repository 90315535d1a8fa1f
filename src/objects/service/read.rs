//! From a Service object to a record that is sound in itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{self, Service, ServiceSpec};

use super::{
    AFFINITY_DEFAULT_S, AFFINITY_MAX_S, BalancerWish, PROXY_NAME_LABEL, Protocol, ServiceFault, ServiceKey,
    ServiceKind, ServicePort, ServiceRecord,
};
use crate::objects::address::refused_address_class;
use crate::objects::fault::Fault;
use crate::objects::object::namespace_of;

/// `clusterIP` of a headless Service.
const HEADLESS: &str = "None";

impl ServiceRecord {
    /// Reads a Service object, with what is wrong or worth a warning about parts of it.
    ///
    /// # Errors
    /// [`Fault`] if it makes no sense by itself; conflicts with other objects are the store's to find.
    pub fn read(service: &Service) -> Result<(Self, Vec<Fault>), Fault> {
        let metadata = &service.metadata;
        let name = metadata.name.as_deref().unwrap_or_default();
        let key = ServiceKey::new(namespace_of(metadata), name).map_err(|error| Fault::Name {
            field: "metadata.name",
            error,
        })?;
        let none = ServiceSpec::default();
        let spec = service.spec.as_ref().unwrap_or(&none);
        let mut faults = Vec::new();
        let cluster_ips = read_cluster_ips(spec, &mut faults)?;
        let kind = read_kind(spec, cluster_ips.is_none())?;
        let ports = read_ports(spec, &kind)?;
        let (load_balancer_ips, proxied_ips) = match kind {
            ServiceKind::LoadBalancer => read_ingress(service, &mut faults)?,
            _ => Default::default(),
        };
        let external_local = is_local(
            spec.external_traffic_policy.as_deref(),
            "spec.externalTrafficPolicy",
        )?;
        let labels = metadata.labels.as_ref();
        let addresses = cluster_ips.as_deref().unwrap_or_default();
        let wish = (kind == ServiceKind::LoadBalancer)
            .then(|| Box::new(BalancerWish::read(service, spec, addresses, &mut faults)));
        let record = Self {
            cluster_ips: cluster_ips.unwrap_or_default(),
            external_ips: read_external_ips(spec, &mut faults)?,
            load_balancer_ips,
            assigned_ips: Vec::new(),
            proxied_ips,
            ports,
            internal_local: is_local(
                spec.internal_traffic_policy.as_deref(),
                "spec.internalTrafficPolicy",
            )?,
            external_local,
            affinity_s: read_affinity(spec)?,
            source_ranges: read_source_ranges(spec)?,
            health_check_node_port: match kind {
                ServiceKind::LoadBalancer if external_local => {
                    read_port("spec.healthCheckNodePort", spec.health_check_node_port)?
                }
                _ => None,
            },
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            proxy_name: labels.and_then(|labels| labels.get(PROXY_NAME_LABEL)).cloned(),
            wish,
            key,
            kind,
        };
        record.note(&mut faults);
        Ok((record, faults))
    }

    /// Says what of a sound Service is not programmed, or is open.
    fn note(&self, faults: &mut Vec<Fault>) {
        if let Some(name) = self
            .proxy_name
            .as_deref()
            .filter(|name| *name != super::PROXY_NAME)
        {
            faults.push(ServiceFault::OtherProxy(name.to_owned()).into());
            return;
        }
        let has_refused = !faults.is_empty();
        match self.kind {
            ServiceKind::Headless | ServiceKind::ExternalName(_) => return,
            _ if self.cluster_ips.is_empty() && !has_refused => faults.push(ServiceFault::NoClusterIp.into()),
            _ => {}
        }
        let is_open = |address: &&IpAddr| {
            let mut ranges = self.source_ranges.iter();
            !self.source_ranges.is_empty() && !ranges.any(|range| range.addr().is_ipv4() == address.is_ipv4())
        };
        let open = self.load_balancer_ips.iter().filter(is_open);
        faults.extend(open.map(|address| Fault::from(ServiceFault::OpenFamily { address: *address })));
    }
}

fn word(field: impl Into<String>, value: &str, wanted: &'static str) -> Fault {
    ServiceFault::Word {
        field: field.into(),
        value: value.to_owned(),
        wanted,
    }
    .into()
}

fn read_kind(spec: &ServiceSpec, is_headless: bool) -> Result<ServiceKind, Fault> {
    const WANTED: &str = "ClusterIP, NodePort, LoadBalancer, ExternalName";
    match spec.type_.as_deref().unwrap_or_default() {
        "ExternalName" => Ok(ServiceKind::ExternalName(
            spec.external_name.clone().unwrap_or_default(),
        )),
        "" | "ClusterIP" | "NodePort" | "LoadBalancer" if is_headless => Ok(ServiceKind::Headless),
        "" | "ClusterIP" => Ok(ServiceKind::ClusterIp),
        "NodePort" => Ok(ServiceKind::NodePort),
        "LoadBalancer" => Ok(ServiceKind::LoadBalancer),
        other => Err(word("spec.type", other, WANTED)),
    }
}

/// `spec.clusterIPs`, or `spec.clusterIP` where the former is absent; `None` for a headless Service.
fn read_cluster_ips(spec: &ServiceSpec, faults: &mut Vec<Fault>) -> Result<Option<Vec<IpAddr>>, Fault> {
    let single = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let several = spec.cluster_ips.as_deref().unwrap_or_default();
    if let (Some(single), Some(first)) = (single, several.first())
        && single != first
    {
        let (single, first) = (single.to_owned(), first.clone());
        return Err(ServiceFault::ClusterIpMismatch { single, first }.into());
    }
    let texts: Vec<&str> = if several.is_empty() {
        single.into_iter().collect()
    } else {
        several.iter().map(String::as_str).collect()
    };
    if texts.first() == Some(&HEADLESS) {
        return Ok(None);
    }
    let ips = read_vips("spec.clusterIPs", texts.into_iter(), faults)?;
    for (index, second) in ips.iter().enumerate() {
        let mut before = ips.iter().take(index);
        if let Some(first) = before.find(|first| first.is_ipv4() == second.is_ipv4()) {
            return Err(ServiceFault::ClusterIpFamilyTwice {
                first: *first,
                second: *second,
            }
            .into());
        }
    }
    Ok(Some(ips))
}

fn read_external_ips(spec: &ServiceSpec, faults: &mut Vec<Fault>) -> Result<Vec<IpAddr>, Fault> {
    let texts = spec.external_ips.iter().flatten().map(String::as_str);
    read_vips("spec.externalIPs", texts, faults)
}

/// Addresses of ingress points, those of mode `VIP` and those of mode `Proxy`. Names are for DNS.
fn read_ingress(service: &Service, faults: &mut Vec<Fault>) -> Result<(Vec<IpAddr>, Vec<IpAddr>), Fault> {
    const FIELD: &str = "status.loadBalancer.ingress";
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status
        .and_then(|status| status.ingress.as_deref())
        .unwrap_or_default();
    let of_mode = |is_proxy: bool| {
        let of_mode = ingress
            .iter()
            .filter(move |point| (point.ip_mode.as_deref() == Some("Proxy")) == is_proxy);
        of_mode.filter_map(|point| point.ip.as_deref().filter(|ip| !ip.is_empty()))
    };
    for point in ingress {
        match point.ip_mode.as_deref() {
            None | Some("" | "VIP" | "Proxy") => {}
            Some(other) => return Err(word(format!("{FIELD}[].ipMode"), other, "VIP, Proxy")),
        }
    }
    let vips = read_vips(FIELD, of_mode(false), faults)?;
    let proxied = read_vips(FIELD, of_mode(true), &mut Vec::new())?;
    Ok((vips, proxied))
}

/// Reads virtual addresses. One of a class that is never a Service's is left out and reported; text that is no address
/// refuses the whole.
fn read_vips<'a>(
    field: &str,
    texts: impl Iterator<Item = &'a str>,
    faults: &mut Vec<Fault>,
) -> Result<Vec<IpAddr>, Fault> {
    let mut ips = Vec::new();
    for (index, text) in texts.enumerate() {
        let field = || format!("{field}[{index}]");
        let address: IpAddr = text.parse().map_err(|_| Fault::Address {
            field: field(),
            value: text.to_owned(),
            wanted: "IP",
        })?;
        match refused_address_class(address) {
            Some(class) => faults.push(
                ServiceFault::RefusedVip {
                    field: field(),
                    address,
                    class,
                }
                .into(),
            ),
            None if ips.contains(&address) => {}
            None => ips.push(address),
        }
    }
    Ok(ips)
}

fn read_ports(spec: &ServiceSpec, kind: &ServiceKind) -> Result<Vec<ServicePort>, Fault> {
    let specs = spec.ports.as_deref().unwrap_or_default();
    let needs_ports = match kind {
        // Nothing is programmed for these, and nothing about them is refused.
        ServiceKind::ExternalName(_) => return Ok(Vec::new()),
        ServiceKind::Headless => false,
        ServiceKind::ClusterIp
        | ServiceKind::NodePort
        | ServiceKind::LoadBalancer
        | ServiceKind::HostPort => true,
    };
    if specs.is_empty() && needs_ports {
        return Err(ServiceFault::NoPorts.into());
    }
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    let mut ports = Vec::new();
    for (index, spec) in specs.iter().enumerate() {
        let port = read_service_port(index, spec, kind)?;
        if !names.insert(port.name.clone()) {
            let name = port.name;
            return Err(ServiceFault::PortName { index, name }.into());
        }
        if !numbers.insert((port.protocol, port.port)) {
            return Err(ServiceFault::PortTwice {
                index,
                protocol: port.protocol,
                port: port.port,
            }
            .into());
        }
        ports.push(port);
    }
    Ok(ports)
}

fn read_service_port(index: usize, spec: &v1::ServicePort, kind: &ServiceKind) -> Result<ServicePort, Fault> {
    let field = |name: &str| format!("spec.ports[{index}].{name}");
    let text = spec.protocol.as_deref();
    let protocol = Protocol::read(text)
        .ok_or_else(|| word(field("protocol"), text.unwrap_or_default(), Protocol::WORDS))?;
    let port = u16::try_from(spec.port).ok().filter(|port| *port != 0);
    Ok(ServicePort {
        name: spec.name.clone().unwrap_or_default(),
        protocol,
        port: port.ok_or_else(|| ServiceFault::port(field("port"), spec.port))?,
        node_port: match kind {
            ServiceKind::NodePort | ServiceKind::LoadBalancer => {
                read_port(&field("nodePort"), spec.node_port)?
            }
            ServiceKind::ClusterIp
            | ServiceKind::Headless
            | ServiceKind::ExternalName(_)
            | ServiceKind::HostPort => None,
        },
    })
}

/// A port that may be absent, or 0 for not allocated.
fn read_port(field: &str, number: Option<i32>) -> Result<Option<u16>, Fault> {
    match number {
        None | Some(0) => Ok(None),
        Some(number) => match u16::try_from(number) {
            Ok(port) => Ok(Some(port)),
            Err(_) => Err(ServiceFault::port(field, number).into()),
        },
    }
}

/// Whether a traffic policy is `Local`.
fn is_local(policy: Option<&str>, field: &'static str) -> Result<bool, Fault> {
    match policy.unwrap_or_default() {
        "" | "Cluster" => Ok(false),
        "Local" => Ok(true),
        other => Err(word(field, other, "Cluster, Local")),
    }
}

fn read_affinity(spec: &ServiceSpec) -> Result<Option<u32>, Fault> {
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "" | "None" => return Ok(None),
        "ClientIP" => {}
        other => return Err(word("spec.sessionAffinity", other, "None, ClientIP")),
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config.and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let Some(seconds) = seconds else {
        return Ok(Some(AFFINITY_DEFAULT_S));
    };
    match u32::try_from(seconds) {
        Ok(timeout_s) if (1..=AFFINITY_MAX_S).contains(&timeout_s) => Ok(Some(timeout_s)),
        Ok(_) | Err(_) => Err(ServiceFault::affinity(seconds).into()),
    }
}

fn read_source_ranges(spec: &ServiceSpec) -> Result<Vec<IpNet>, Fault> {
    let texts = spec.load_balancer_source_ranges.iter().flatten().enumerate();
    texts
        .map(|(index, text)| match text.trim().parse::<IpNet>() {
            Ok(range) => Ok(range.trunc()),
            Err(_) => Err(ServiceFault::SourceRange {
                index,
                value: text.clone(),
            }
            .into()),
        })
        .collect()
}
