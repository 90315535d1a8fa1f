//! A made-up cluster: manifests of its nodes, Namespaces, pods and policies.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::Context as _;
use millrace::daemon::compile::policies::LocalPort;
use millrace::objects::Store;
use millrace_dataplane::port::PortId;

/// Pods of the cluster.
pub(super) const PODS: u32 = 5_000;
/// Namespaces that they are spread over.
pub(super) const NAMESPACES: u32 = 500;
/// Policies, as many in each Namespace.
pub(super) const POLICIES: u32 = 2_000;
/// Pods of each node; this one is the first.
const PODS_PER_NODE: u32 = 250;
/// Pods in one manifest.
const PER_FILE: u32 = 50;
/// Rules of the one pod that has many.
pub(super) const MANY_RULES: u32 = 1_000;
/// Rules of one of its policies.
const RULES_PER_POLICY: u32 = 100;

/// The address of a pod.
pub(super) fn address(pod: u32) -> Ipv4Addr {
    let (node, place) = (pod / PODS_PER_NODE, pod % PODS_PER_NODE);
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 2).to_bits() + node * 256 + place)
}

/// Writes all manifests.
pub(super) fn write_manifests(folder: &Path) -> anyhow::Result<()> {
    let mut nodes = String::new();
    for node in 0..PODS.div_ceil(PODS_PER_NODE) {
        // Writing to a string cannot fail.
        let _ = write!(
            nodes,
            "---\n{{apiVersion: v1, kind: Node, metadata: {{name: node-{node}}}, spec: {{podCIDR: 10.244.{node}.0/24}}}}\n"
        );
    }
    write(folder, "nodes", &nodes)?;
    let mut namespaces = String::new();
    for space in 0..NAMESPACES {
        let _ = write!(
            namespaces,
            "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: space-{space}, labels: {{team: team-{}}}}}}}\n",
            space % 20
        );
    }
    write(folder, "namespaces", &namespaces)?;
    (0..PODS / PER_FILE).try_for_each(|file| write_pods(folder, file, 0))?;
    write_policies(folder, 0)
}

/// Writes one file of pods again, in which the labels of the first have changed. `version` tells a later one from an
/// earlier.
pub(super) fn write_pods(folder: &Path, file: u32, version: u32) -> anyhow::Result<()> {
    let mut text = String::new();
    let first = file * PER_FILE;
    for pod in first..first + PER_FILE {
        let app = if pod == first { pod + version } else { pod } / NAMESPACES % 5;
        // One of five has a label that no other has, as a StatefulSet's pods do.
        let own = if pod % 5 == 0 {
            format!(", pod-name: pod-{pod}")
        } else {
            String::new()
        };
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{pod}\n  namespace: space-{}\n  \
             labels: {{app: app-{app}, tier: tier-{}, pod-template-hash: h{app}{own}}}\nspec:\n  nodeName: node-{}\n  \
             containers:\n  - {{name: main, ports: [{{name: http, containerPort: 80{:02}, protocol: TCP}}]}}\n\
             status: {{podIP: {}}}\n",
            pod % NAMESPACES,
            pod % 3,
            pod / PODS_PER_NODE,
            app,
            address(pod),
        );
    }
    write(folder, &format!("pods-{file:04}"), &text)
}

/// Writes the policies of every Namespace; `version` tells a later one of the first Namespace from an earlier.
pub(super) fn write_policies(folder: &Path, version: u32) -> anyhow::Result<()> {
    let each = POLICIES / NAMESPACES;
    let mut text = String::new();
    for space in 0..NAMESPACES {
        for number in 0..each {
            let port = 80 + if space == 0 { version } else { 0 };
            let spec = match number % 4 {
                0 => "{podSelector: {}, policyTypes: [Ingress, Egress]}".to_owned(),
                1 => format!(
                    "{{podSelector: {{matchLabels: {{app: app-1}}}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: app-0}}}}}}], ports: [{{port: http}}, {{port: {port}}}]}}]}}"
                ),
                2 => format!(
                    "{{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{team: team-{}}}}}, podSelector: {{matchLabels: {{tier: tier-1}}}}}}, {{ipBlock: {{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}}}]}}]}}",
                    space % 20
                ),
                _ => "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: space-1}}}], ports: [{port: 53, protocol: UDP}]}, {to: [{podSelector: {}}]}]}".to_owned(),
            };
            let _ = write!(
                text,
                "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: policy-{number}, namespace: space-{space}}}, spec: {spec}}}\n"
            );
        }
    }
    write(folder, "policies", &text)
}

/// Writes policies with many rules for the pods of the last Namespace that has pods on this node: each with peers and ports
/// of its own.
pub(super) fn write_many_rules(folder: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for policy in 0..MANY_RULES / RULES_PER_POLICY {
        let _ = write!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: many-{policy}, namespace: space-{}}}\n\
             spec:\n  podSelector: {{}}\n  ingress:\n",
            many_rules_pod()
        );
        for rule in policy * RULES_PER_POLICY..(policy + 1) * RULES_PER_POLICY {
            let peer = match rule % 3 {
                0 => format!(
                    "{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: space-{}}}}}}}",
                    rule % NAMESPACES
                ),
                1 => format!("{{ipBlock: {{cidr: 198.18.{}.0/26}}}}", rule % 256),
                _ => format!(
                    "{{ipBlock: {{cidr: 10.{}.0.0/16, except: [10.{}.128.0/20]}}}}",
                    rule % 256,
                    rule % 256
                ),
            };
            let first = 1_000 + rule * 16;
            let _ = writeln!(
                text,
                "  - {{from: [{peer}], ports: [{{port: {first}, endPort: {}}}, {{port: {first}, protocol: UDP}}]}}",
                first + 40
            );
        }
    }
    write(folder, "many-rules", &text)
}

/// The pod of this node that has many rules, and the number of its Namespace.
pub(super) const fn many_rules_pod() -> u32 {
    PODS_PER_NODE - 1
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.join(format!("{name}.yaml"));
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// This node's ports: one for each of its pods.
pub(super) fn ports(store: &Store) -> Vec<LocalPort> {
    let numbers = (2..PortId::LIMIT).filter_map(PortId::new);
    let ports = store.own_pods().zip(numbers).map(|(pod, id)| LocalPort {
        id,
        pod: pod.key.clone(),
        addresses: pod.ips.clone(),
    });
    ports.collect()
}

/// The addresses that pods know this node by.
pub(super) fn node_addresses() -> [IpAddr; 2] {
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(10, 244, 0, 1)].map(IpAddr::V4)
}
