//! Ranges of ports and addresses that must not collide.

use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::wire::IpProtocol;

use super::facts::Facts;
use super::report::Finding;
use crate::config::{Config, PortRange};
use crate::kernel::{KernelState, Link, Scope};

/// Interfaces on which a cluster's own addresses are: those of flannel, Calico, kube-proxy and Cilium.
const CLUSTER_INTERFACES: [&str; 9] = [
    "flannel",
    "cni",
    "cali",
    "tunl",
    "vxlan.calico",
    "kube-",
    "cilium",
    "veth",
    "docker",
];

pub(super) fn judge(facts: &Facts, config: &Config) -> Vec<Finding> {
    vec![
        source_nat(facts, config),
        node_ports(facts, config),
        health_port(facts, config),
        service_cidrs(facts, config),
        pod_cidrs(facts, config),
    ]
}

fn overlap(range: PortRange, (first, last): (u16, u16)) -> bool {
    range.first() <= last && first <= range.last()
}

/// The daemon does not start where the kernel gives out ports of this range.
fn source_nat(facts: &Facts, config: &Config) -> Finding {
    const CHECK: &str = "snat-ports";
    let range = config.services.snat_ports;
    let given_out = match &facts.ports.given_out {
        Ok(given_out) => *given_out,
        Err(why) => return Finding::unseen(CHECK, why),
    };
    let (first, last) = given_out;
    if overlap(range, given_out) {
        return Finding::fail(
            CHECK,
            format!("source NAT's {range} overlap net.ipv4.ip_local_port_range, {first}-{last}"),
            format!(
                "sysctl -w net.ipv4.ip_local_port_range=\"{first} {}\", or choose other [services] snat-ports",
                range.first().saturating_sub(1)
            ),
        );
    }
    if let Some(port) = listened(facts, range) {
        return Finding::warn(
            CHECK,
            format!("a program of the node listens on port {port}, which is of source NAT's {range}"),
            "move it: what comes to that port by the uplink may be the switch's",
        );
    }
    Finding::ok(
        CHECK,
        format!("{range}, apart from the kernel's own {first}-{last}"),
    )
}

fn node_ports(facts: &Facts, config: &Config) -> Finding {
    const CHECK: &str = "node-ports";
    let range = config.services.node_port_range;
    let snat = config.services.snat_ports;
    if overlap(range, (snat.first(), snat.last())) {
        return Finding::fail(
            CHECK,
            format!("[services] node-port-range {range} overlaps snat-ports {snat}"),
            "choose other snat-ports",
        );
    }
    if let Some(port) = listened(facts, range) {
        return Finding::warn(
            CHECK,
            format!("a program of the node listens on port {port}, which is of the node ports' {range}"),
            "move it, or keep that port from Services: one that asks for it is refused while the program listens",
        );
    }
    match &facts.ports.given_out {
        Ok((first, last)) if overlap(range, (*first, *last)) => {
            let kept_back = facts.ports.reserved.as_ref().is_ok_and(|reserved| {
                (range.first()..=range.last())
                    .all(|port| reserved.contains(port) || port < *first || port > *last)
            });
            if kept_back {
                return Finding::ok(CHECK, format!("{range}, kept back from the kernel's own"));
            }
            Finding::warn(
                CHECK,
                format!(
                    "{range} overlap net.ipv4.ip_local_port_range, {first}-{last}: the node's own connections may use them"
                ),
                format!("sysctl -w net.ipv4.ip_local_reserved_ports={range}, beside what is there"),
            )
        }
        Ok(_) => Finding::ok(CHECK, range.to_string()),
        Err(why) => Finding::unseen(CHECK, why),
    }
}

/// The lowest port of a range that a program of the node takes packets on.
fn listened(facts: &Facts, range: PortRange) -> Option<u16> {
    let listening = facts.ports.listening.as_ref().ok()?;
    let own: Vec<IpAddr> = node_addresses(facts);
    (range.first()..=range.last()).find(|port| {
        let protocols = [IpProtocol::TCP, IpProtocol::UDP];
        own.iter().any(|address| {
            protocols
                .iter()
                .any(|protocol| listening.is_taken(*address, *protocol, *port))
        })
    })
}

/// Addresses of the uplink.
fn node_addresses(facts: &Facts) -> Vec<IpAddr> {
    let Ok(Some(uplink)) = &facts.uplink else {
        return Vec::new();
    };
    let addresses = facts.network.addresses_of(uplink.link.ifindex);
    addresses.map(|address| address.address.addr()).collect()
}

fn health_port(facts: &Facts, config: &Config) -> Finding {
    const CHECK: &str = "health-port";
    let port = config.services.health_port.get();
    let number = u16::try_from(port).unwrap_or_default();
    if number == 0 {
        return Finding::ok(CHECK, "none, as the node file says");
    }
    let listening = match &facts.ports.listening {
        Ok(listening) => listening,
        Err(why) => return Finding::unseen(CHECK, why.to_string()),
    };
    let taken = node_addresses(facts)
        .into_iter()
        .any(|address| listening.is_taken(address, IpProtocol::TCP, number));
    if taken && !facts.daemon_runs {
        return Finding::warn(
            CHECK,
            format!("a program of the node listens on {port}, as kube-proxy does"),
            "stop kube-proxy on this node (docs/migrate.md), or choose another [services] health-port",
        );
    }
    Finding::ok(CHECK, port.to_string())
}

/// Whether an interface is a cluster's own, this switch's or another's.
fn is_of_a_cluster(link: &Link, config: &Config) -> bool {
    let host_port = &config.host_port.name;
    link.loopback
        || link.name == host_port.kernel_side().as_str()
        || CLUSTER_INTERFACES
            .iter()
            .any(|prefix| link.name.starts_with(prefix))
}

/// A subnet that the node is on and that overlaps one of these, with the interface.
fn subnet_within<'a>(
    network: &'a KernelState,
    config: &Config,
    cidrs: &[IpNet],
) -> Option<(IpNet, &'a str, IpNet)> {
    network.addresses().find_map(|address| {
        let link = network.link(address.ifindex)?;
        if address.scope != Scope::Universe || is_of_a_cluster(link, config) {
            return None;
        }
        let subnet = address.address.trunc();
        let cidr = cidrs
            .iter()
            .find(|cidr| cidr.contains(&subnet) || subnet.contains(*cidr))?;
        Some((subnet, link.name.as_str(), *cidr))
    })
}

fn service_cidrs(facts: &Facts, config: &Config) -> Finding {
    const CHECK: &str = "service-cidrs";
    let cidrs = &config.services.cidrs;
    let text = cidrs
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    match subnet_within(&facts.network, config, cidrs) {
        Some((subnet, interface, cidr)) => Finding::fail(
            CHECK,
            format!("{cidr} overlaps {subnet}, on which the node is by {interface}"),
            "name the cluster's own in [services] cidrs (the API server's --service-cluster-ip-range), or give the node another subnet",
        ),
        None => Finding::ok(CHECK, text),
    }
}

fn pod_cidrs(facts: &Facts, config: &Config) -> Finding {
    const CHECK: &str = "pod-cidrs";
    let cidrs = match &facts.pod_cidrs {
        Ok(cidrs) => cidrs,
        Err(why) => return Finding::unseen(CHECK, why),
    };
    if let Some((subnet, interface, cidr)) = subnet_within(&facts.network, config, cidrs) {
        return Finding::fail(
            CHECK,
            format!("pods' {cidr} overlaps {subnet}, on which the node is by {interface}"),
            "give the node, or the cluster's pods, another subnet",
        );
    }
    let services = &config.services.cidrs;
    let both = cidrs.iter().find_map(|cidr| {
        let other = services
            .iter()
            .find(|other| cidr.contains(*other) || other.contains(cidr))?;
        Some((cidr, other))
    });
    match both {
        Some((cidr, other)) => Finding::fail(
            CHECK,
            format!("pods' {cidr} overlaps the Services' {other}"),
            "name the cluster's own prefixes in [services] cidrs",
        ),
        None => {
            let count = cidrs.len();
            Finding::ok(
                CHECK,
                format!("{count} known, apart from the node's subnets and the Services'"),
            )
        }
    }
}
