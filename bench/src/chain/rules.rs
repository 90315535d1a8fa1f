//! The cluster as nftables rules: Services the way kube-proxy's nftables mode has them, policies as chains that are found by
//! verdict maps.
//!
//! Of kube-proxy (kubernetes/kubernetes, `pkg/proxy/nftables`) the structure is kept: from each hook the same jumps, one map
//! from address, protocol and port to a Service's chain, there the mark for callers from outside the cluster and a choice by
//! `numgen`, and a chain for each endpoint with its own mark, for a pod that calls itself, and the NAT. Kubernetes has no
//! nftables of its own for policies. Here what belongs to a known connection is accepted first, as every implementation
//! does; else the pod's address leads to the chain of its policies, each of which is a chain with sets for its peers. All
//! policies are there, though an agent would leave out those that select no pod of its node.

use std::fmt::Write as _;

use millrace_tools::lab::plan::NodePlan;
use serde_json::json;

use super::cluster::{
    BACKENDS, Cluster, GROUPS, OPEN_PORTS, POD_NETWORKS, Policy, SERVICE_CIDR, SERVICE_PORT, SHOP, Service,
    backend, group, own_ports,
};
use crate::arms::Ruleset;

/// The tables' families and names.
const SERVICES: &str = "ip kube-proxy";
const POLICIES: &str = "ip network-policy";
/// The mark of what is to be masqueraded, kube-proxy's own.
const MARK: &str = "0x4000";
/// The mark of what a policy of its sender allows, and how it is taken off.
const ALLOWED: &str = "0x10000";
const ALL_BUT_ALLOWED: &str = "0xfffeffff";
/// From address, protocol and port, and from protocol and port, to what becomes of it.
const FRONTS: &str = "type ipv4_addr . inet_proto . inet_service : verdict";
const NODE_PORTS: &str = "type inet_proto . inet_service : verdict";
/// What of it is looked up.
const LOOKUP: &str = "ip daddr . meta l4proto . th dport vmap";
const PORT_LOOKUP: &str = "ip daddr @nodeport-ips meta l4proto . th dport vmap";

/// The kube-proxy chains with a hook, and their rules.
const HOOKS: [(&str, &str, &[&str]); 8] = [
    (
        "filter-prerouting-pre-dnat",
        "filter hook prerouting priority -110",
        &["ct state new jump firewall-check"],
    ),
    (
        "filter-output-pre-dnat",
        "filter hook output priority -110",
        &["ct state new jump firewall-check"],
    ),
    (
        "filter-forward",
        "filter hook forward priority 0",
        &[
            "ct state new jump service-endpoints-check",
            "ct state new jump cluster-ips-check",
        ],
    ),
    (
        "filter-input",
        "filter hook input priority 0",
        &[
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump service-endpoints-check",
        ],
    ),
    (
        "filter-output",
        "filter hook output priority 0",
        &[
            "ct state new jump service-endpoints-check",
            "ct state new jump cluster-ips-check",
        ],
    ),
    (
        "nat-prerouting",
        "nat hook prerouting priority -100",
        &["jump services"],
    ),
    ("nat-output", "nat hook output priority -100", &["jump services"]),
    (
        "nat-postrouting",
        "nat hook postrouting priority 100",
        &["jump masquerading"],
    ),
];

/// The rules, for `nft -f`, on a node with this pod.
pub(super) fn ruleset(cluster: Cluster, node: NodePlan, pod: &str) -> Ruleset {
    let mut writer = Writer::default();
    writer.base(node);
    let services: Vec<Service> = cluster.services().collect();
    for service in &services {
        writer.service(service);
    }
    writer.fronts(&services);
    writer.policies(cluster, pod);
    Ruleset {
        counts: json!({
            "chains": writer.chains,
            "rules": writer.rules,
            "map_elements": writer.elements,
        }),
        text: writer.text,
    }
}

#[derive(Debug, Default)]
struct Writer {
    text: String,
    chains: u32,
    rules: u32,
    elements: usize,
}

impl Writer {
    fn line(&mut self, line: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn chain(&mut self, table: &str, name: &str, hook: Option<&str>) {
        let hook = hook.map_or(String::new(), |hook| format!(" {{ type {hook}; }}"));
        self.line(&format!("add chain {table} {name}{hook}"));
        self.chains += 1;
    }

    fn rule(&mut self, table: &str, chain: &str, rule: &str) {
        self.line(&format!("add rule {table} {chain} {rule}"));
        self.rules += 1;
    }

    /// A map or set, and what is in it.
    fn collection(&mut self, table: &str, (kind, name, what): (&str, &str, &str), elements: &[String]) {
        self.line(&format!("add {kind} {table} {name} {{ {what}; }}"));
        self.elements += elements.len();
        if !elements.is_empty() {
            self.line(&format!(
                "add element {table} {name} {{ {} }}",
                elements.join(", ")
            ));
        }
    }

    /// What does not depend on any Service.
    fn base(&mut self, node: NodePlan) {
        self.line(&format!("add table {SERVICES}"));
        let own = vec![node.underlay_address().to_string()];
        self.collection(SERVICES, ("set", "nodeport-ips", "type ipv4_addr"), &own);
        for (name, what) in [
            ("firewall-ips", FRONTS),
            ("no-endpoint-services", FRONTS),
            ("no-endpoint-nodeports", NODE_PORTS),
            ("service-nodeports", NODE_PORTS),
            ("service-ips", FRONTS),
        ] {
            self.collection(SERVICES, ("map", name, what), &[]);
        }
        self.collection(SERVICES, ("set", "cluster-ips", "type ipv4_addr"), &[]);
        for (name, hook, _) in HOOKS {
            self.chain(SERVICES, name, Some(hook));
        }
        let inner: [(&str, Vec<String>); 8] = [
            (
                "cluster-ips-check",
                vec![
                    "ip daddr @cluster-ips reject".to_owned(),
                    format!("ip daddr {SERVICE_CIDR} drop"),
                ],
            ),
            ("firewall-check", vec![format!("{LOOKUP} @firewall-ips")]),
            ("mark-for-masquerade", vec![format!("mark set mark or {MARK}")]),
            (
                "masquerading",
                vec![
                    format!("mark and {MARK} == 0 return"),
                    format!("mark set mark xor {MARK}"),
                    "masquerade fully-random".to_owned(),
                ],
            ),
            (
                "nodeport-endpoints-check",
                vec![format!("{PORT_LOOKUP} @no-endpoint-nodeports")],
            ),
            ("reject-chain", vec!["reject".to_owned()]),
            (
                "services",
                vec![
                    format!("{LOOKUP} @service-ips"),
                    format!("{PORT_LOOKUP} @service-nodeports"),
                ],
            ),
            (
                "service-endpoints-check",
                vec![format!("{LOOKUP} @no-endpoint-services")],
            ),
        ];
        for (name, _) in &inner {
            self.chain(SERVICES, name, None);
        }
        for (name, rules) in &inner {
            for rule in rules {
                self.rule(SERVICES, name, rule);
            }
        }
        for (name, _, rules) in HOOKS {
            for rule in rules {
                self.rule(SERVICES, name, rule);
            }
        }
    }

    /// A Service's chain, and those of its endpoints.
    fn service(&mut self, service: &Service) {
        let chain = chain_of(service);
        let protocol = service.protocol.to_lowercase();
        let mut choices = Vec::new();
        for (number, (pod, port)) in service.endpoints.iter().enumerate() {
            let address = backend(*pod);
            let endpoint = format!(
                "endpoint-{SHOP}/{}/{protocol}/main__{address}/{port}",
                service.name
            );
            self.chain(SERVICES, &endpoint, None);
            self.rule(
                SERVICES,
                &endpoint,
                &format!("ip saddr {address} jump mark-for-masquerade"),
            );
            self.rule(
                SERVICES,
                &endpoint,
                &format!("meta l4proto {protocol} dnat to {address}:{port}"),
            );
            choices.push(format!("{number} : goto {endpoint}"));
        }
        self.chain(SERVICES, &chain, None);
        let address = service.address;
        self.rule(
            SERVICES,
            &chain,
            &format!("ip daddr {address} ip saddr != {POD_NETWORKS} jump mark-for-masquerade"),
        );
        self.elements += choices.len();
        self.rule(
            SERVICES,
            &chain,
            &format!(
                "numgen random mod {} vmap {{ {} }}",
                choices.len(),
                choices.join(", ")
            ),
        );
    }

    /// What leads to the Services' chains.
    fn fronts(&mut self, services: &[Service]) {
        let fronts: Vec<String> = services
            .iter()
            .map(|service| {
                let protocol = service.protocol.to_lowercase();
                format!(
                    "{} . {protocol} . {SERVICE_PORT} : goto {}",
                    service.address,
                    chain_of(service)
                )
            })
            .collect();
        let addresses: Vec<String> = services
            .iter()
            .map(|service| service.address.to_string())
            .collect();
        for (name, elements) in [("service-ips", fronts), ("cluster-ips", addresses)] {
            self.elements += elements.len();
            self.line(&format!(
                "add element {SERVICES} {name} {{ {} }}",
                elements.join(", ")
            ));
        }
    }

    /// The policies, on a node with this pod.
    fn policies(&mut self, cluster: Cluster, pod: &str) {
        self.line(&format!("add table {POLICIES}"));
        let addresses = |pods: Vec<u32>| -> Vec<String> {
            pods.into_iter().map(|pod| backend(pod).to_string()).collect()
        };
        let addresses_only = "type ipv4_addr";
        let transports = ["tcp", "udp"].map(str::to_owned);
        self.collection(POLICIES, ("set", "transports", "type inet_proto"), &transports);
        let all = addresses((0..BACKENDS).collect());
        self.collection(POLICIES, ("set", "backends", addresses_only), &all);
        self.collection(POLICIES, ("set", "lab", addresses_only), &[pod.to_owned()]);
        for number in 0..GROUPS {
            let members = addresses(group(number).collect());
            let name = format!("group-{number}");
            self.collection(POLICIES, ("set", &name, addresses_only), &members);
        }
        // What a pod may send, and what it may be sent: chains of its policies, and of whatever remains.
        for name in ["out-lab", "in-lab"] {
            self.chain(POLICIES, name, None);
        }
        for number in 0..GROUPS {
            self.chain(POLICIES, &format!("in-group-{number}"), None);
        }
        for policy in cluster.policies() {
            self.policy(policy);
        }
        let is_allowed = format!("meta mark and {ALLOWED} == {ALLOWED} return");
        for (chain, rule) in [
            ("out-lab", is_allowed.as_str()),
            ("out-lab", "drop"),
            ("in-lab", "drop"),
        ] {
            self.rule(POLICIES, chain, rule);
        }
        let mut ingress = vec![format!("{pod} : goto in-lab")];
        for number in 0..GROUPS {
            // Who is selected by no policy may be called by anybody.
            if cluster.policies().any(|policy| is_about(policy, number)) {
                self.rule(POLICIES, &format!("in-group-{number}"), "drop");
                ingress.extend(group(number).map(|pod| format!("{} : goto in-group-{number}", backend(pod))));
            }
        }
        let verdicts = "type ipv4_addr : verdict";
        self.collection(
            POLICIES,
            ("map", "egress", verdicts),
            &[format!("{pod} : jump out-lab")],
        );
        self.collection(POLICIES, ("map", "ingress", verdicts), &ingress);
        self.chain(POLICIES, "forward", Some("filter hook forward priority 10"));
        let forget = format!("meta mark set meta mark and {ALL_BUT_ALLOWED}");
        for rule in [
            "ct state established,related accept",
            "ip saddr vmap @egress",
            forget.as_str(),
            "ip daddr vmap @ingress",
        ] {
            self.rule(POLICIES, "forward", rule);
        }
    }

    /// A policy's chain, one for each way it is about.
    fn policy(&mut self, policy: Policy) {
        let (first, last) = OPEN_PORTS;
        let open = format!("meta l4proto @transports th dport {first}-{last}");
        let allow = format!("meta mark set meta mark or {ALLOWED}");
        let mut chain = |pods: &str, name: &str, rules: &[String]| {
            self.chain(POLICIES, name, None);
            for rule in rules {
                self.rule(POLICIES, name, rule);
            }
            self.rule(POLICIES, pods, &format!("jump {name}"));
        };
        match policy {
            Policy::Backends => {
                chain(
                    "out-lab",
                    "policy-lab/backends/out",
                    &[format!("ip daddr @backends {open} {allow}")],
                );
            }
            Policy::Own { number, group } => {
                let (in_port, out_port) = own_ports(number);
                let name = format!("policy-lab/own-{number}");
                let out = format!("ip daddr @group-{group} tcp dport {out_port} {allow}");
                let into = format!("ip saddr @group-{group} tcp dport {in_port} accept");
                chain("out-lab", &format!("{name}/out"), &[out]);
                chain("in-lab", &format!("{name}/in"), &[into]);
            }
            Policy::Shop { number, group, from } => {
                let port = own_ports(number).0;
                chain(
                    &format!("in-group-{group}"),
                    &format!("policy-{SHOP}/shop-{number}/in"),
                    &[
                        format!("ip saddr @lab {open} accept"),
                        format!("ip saddr @group-{from} tcp dport {port} accept"),
                    ],
                );
            }
        }
    }
}

fn is_about(policy: Policy, number: u32) -> bool {
    matches!(policy, Policy::Shop { group, .. } if group == number)
}

fn chain_of(service: &Service) -> String {
    let protocol = service.protocol.to_lowercase();
    format!("service-{SHOP}/{}/{protocol}/main", service.name)
}
