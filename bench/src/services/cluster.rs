//! A made-up cluster: manifests of so many Services, and what of this node they are compiled with.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::Context as _;
use millrace::config::Config;
use millrace::daemon::compile::services::{HostListens, ServiceInputs};
use millrace::objects::Store;

/// Endpoints of each Service.
pub(super) const ENDPOINTS: u32 = 5;
/// Services in one manifest.
const PER_FILE: u32 = 64;
/// Nodes that the endpoints are spread over; this one is the first.
const NODES: u32 = 250;
/// The first cluster IP less one.
const CLUSTER_IPS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 0);
/// This node's address.
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The cluster IP of a Service.
pub(super) fn cluster_ip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(CLUSTER_IPS.to_bits() + 1 + service)
}

/// An endpoint's address: one of the pods of one of the nodes. `moved` tells a later version from an earlier.
fn endpoint(service: u32, number: u32, moved: u32) -> (Ipv4Addr, u32) {
    let pod = service * ENDPOINTS + number + moved * 7;
    let node = pod % NODES;
    let address = Ipv4Addr::new(10, 244, 0, 0).to_bits() + node * 256 + 2 + (pod / NODES) % 250;
    (Ipv4Addr::from_bits(address), node)
}

/// Writes the manifests of this node and of `services` Services, several to a file.
pub(super) fn write_manifests(folder: &Path, services: u32) -> anyhow::Result<()> {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: node-0}\nspec: {podCIDR: 10.244.0.0/24}\n";
    fs::write(folder.join("nodes.yaml"), node).context("writing a manifest")?;
    (0..services.div_ceil(PER_FILE)).try_for_each(|file| write_file(folder, services, file, 0))
}

/// Writes one file again, in which the endpoints of its first Service have moved.
pub(super) fn write_file(folder: &Path, services: u32, file: u32, moved: u32) -> anyhow::Result<()> {
    let mut text = String::new();
    let first = file * PER_FILE;
    for service in first..services.min(first + PER_FILE) {
        let moved = if service == first { moved } else { 0 };
        manifest(&mut text, service, moved);
    }
    let path = folder.join(format!("services-{file:04}.yaml"));
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn manifest(text: &mut String, service: u32, moved: u32) {
    let endpoints = (0..ENDPOINTS).map(|number| {
        let (address, node) = endpoint(service, number, moved);
        format!(
            "  - addresses: [{address}]\n    conditions: {{ready: true, serving: true, terminating: false}}\n    \
             nodeName: node-{node}\n    targetRef: {{kind: Pod, namespace: bench, name: pod-{service}-{number}}}\n"
        )
    });
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: service-{service}\n  namespace: bench\n  \
         creationTimestamp: \"2026-01-{:02}T00:00:00Z\"\nspec:\n  type: ClusterIP\n  clusterIP: {ip}\n  \
         clusterIPs: [{ip}]\n  ports:\n  - {{name: http, port: 80, protocol: TCP, targetPort: 8080}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: service-{service}-abcde\n  \
         namespace: bench\n  labels: {{kubernetes.io/service-name: service-{service}}}\naddressType: IPv4\n\
         ports:\n- {{name: http, port: 8080, protocol: TCP}}\nendpoints:\n{}",
        1 + service % 28,
        endpoints.collect::<String>(),
        ip = cluster_ip(service),
    );
}

/// A node file; the folder it names is not used.
pub(super) fn config() -> anyhow::Result<Config> {
    let text = "[node]\nname = \"node-0\"\nmanifests = \"m\"\n[uplink]\ninterface = \"eth1\"\n[workers]\ncores = [0]\n";
    Ok(Config::parse(text, Path::new("bench.toml"))?)
}

/// Calls `with` with what Services are compiled from.
pub(super) fn inputs<T>(store: &Store, with: impl FnOnce(&ServiceInputs<'_>) -> T) -> T {
    with(&ServiceInputs {
        services: store.services(),
        node: store.own_name(),
        zone: None,
        own_addresses: &[NODE],
        uplink_addresses: &[NODE],
        gateways: &[IpAddr::V4(Ipv4Addr::new(10, 244, 0, 1))],
        node_addresses: &HashSet::from([NODE]),
        fail_safe_ports: &[22],
        listens: HostListens(&|_, _, _| Ok(false)),
        host_ports: &[],
        resolver: None,
    })
}
