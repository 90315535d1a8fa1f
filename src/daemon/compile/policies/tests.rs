#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use millrace_dataplane::table::policy::{Query, Ruling};
use millrace_dataplane::wire::IpProtocol;

use super::*;
use crate::objects::manifests::{self, Syntax};
use crate::objects::{Entry, NodeName};

const NODES: &str = "---
{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDR: 10.244.1.0/24}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-b, labels: {rack: r2}}, spec: {podCIDR: 10.244.2.0/24}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
";

fn pod(name: &str, ip: &str, labels: &str) -> String {
    let node = if ip.starts_with("10.244.1.") {
        "node-a"
    } else {
        "node-b"
    };
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}, spec: {{nodeName: {node}}}, status: {{podIP: {ip}}}}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n"
    )
}

fn cluster_policy(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {{name: {name}}}, spec: {spec}}}\n"
    )
}

fn store(text: &str) -> Store {
    let found = manifests::read(&PathBuf::from("x.yaml"), Syntax::Yaml, text.as_bytes());
    let entries = found
        .into_iter()
        .map(|found| Entry::read(found.origin, &found.object.unwrap()).unwrap().0);
    Store::build(&NodeName::new("node-a").unwrap(), entries.collect(), Vec::new())
}

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

/// The ports of the pods `p2`, `p3`, ... at `10.244.1.2`, `.3`, ...
fn ports(numbers: &[u16]) -> Vec<LocalPort> {
    let ports = numbers.iter().map(|number| LocalPort {
        id: port(*number),
        pod: PodKey::new("shop", format!("p{number}")).unwrap(),
        addresses: vec![format!("10.244.1.{number}").parse().unwrap()],
    });
    ports.collect()
}

/// Brings a compiler up to date; answers the ports whose answers have to be found again.
fn update(compiler: &mut PolicyCompiler, text: &str, numbers: &[u16]) -> Vec<usize> {
    compiler.update(&PolicyInputs {
        store: &store(&format!("{NODES}{text}")),
        ports: &ports(numbers),
        node_addresses: &["10.244.1.1".parse().unwrap()],
    });
    let changes = compiler.take_changes();
    let mut changed: Vec<usize> = (0..PortId::LIMIT)
        .filter_map(PortId::new)
        .filter(|port| changes.contains(&SubjectId::policy(*port)))
        .inspect(|port| {
            assert!(
                changes.contains(&SubjectId::port(*port)),
                "what goes there rests on its port"
            )
        })
        .map(PortId::index)
        .collect();
    changed.sort_unstable();
    assert_eq!(changes.len(), changed.len() * 2);
    changed
}

fn compiler() -> PolicyCompiler {
    PolicyCompiler::new(HashKey::from_words([1, 2, 3]), 1)
}

fn judge(compiler: &PolicyCompiler, from: &str, to: &str, tcp_port: u16) -> (Ruling, Ruling) {
    let judgement = compiler.table().judge(&Query {
        source: from.parse().unwrap(),
        destination: to.parse().unwrap(),
        protocol: IpProtocol::TCP,
        port: tcp_port,
    });
    (judgement.egress, judgement.ingress)
}

fn name(compiler: &PolicyCompiler, ruling: Ruling) -> String {
    let rule = ruling.rule().and_then(|rule| compiler.name(rule));
    rule.map_or_else(|| format!("{ruling:?}"), ToString::to_string)
}

#[test]
fn what_decides_is_named() {
    let mut compiler = compiler();
    let text = pod("p2", "10.244.1.2", "app: web")
        + &pod("p3", "10.244.1.3", "app: db")
        + &policy("deny", "{podSelector: {}, policyTypes: [Ingress]}")
        + &policy(
            "allow",
            "{podSelector: {matchLabels: {app: db}}, ingress: [{ports: [{port: 1}]}, {from: [{podSelector: {matchLabels: {app: web}}}]}]}",
        )
        + &cluster_policy(
            "guard",
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{name: no-telnet, action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 23}}}]}]}",
        );
    update(&mut compiler, &text, &[2, 3]);
    for (from, to, tcp_port, egress, ingress) in [
        (
            "10.244.1.2",
            "10.244.1.3",
            80,
            "NotIsolated",
            "NetworkPolicy shop/allow, ingress rule 1",
        ),
        (
            "10.244.1.2",
            "10.244.1.3",
            1,
            "NotIsolated",
            "NetworkPolicy shop/allow, ingress rule 0",
        ),
        (
            "10.244.1.2",
            "10.244.1.3",
            23,
            "NotIsolated",
            "ClusterNetworkPolicy guard, ingress rule 0 (no-telnet)",
        ),
        (
            "10.244.1.3",
            "10.244.1.2",
            80,
            "NotIsolated",
            "NetworkPolicy shop/deny, which isolates the pod for ingress",
        ),
        (
            "192.0.2.9",
            "10.244.1.3",
            80,
            "Elsewhere",
            "NetworkPolicy shop/allow, which isolates the pod for ingress",
        ),
        ("10.244.1.1", "10.244.1.3", 23, "Elsewhere", "Node"),
    ] {
        let (out, into) = judge(&compiler, from, to, tcp_port);
        assert_eq!(
            (name(&compiler, out).as_str(), name(&compiler, into).as_str()),
            (egress, ingress),
            "{from} {to}"
        );
    }
    let rows = compiler.rows();
    let of = |policy: &str| rows.iter().find(|row| row.policy.ends_with(policy)).unwrap();
    assert_eq!((of("/deny").pods, of("/allow").pods, of("guard").pods), (2, 1, 2));
    assert_eq!(of("/allow").rules.len(), 3, "two rules, and what no rule allows");
    assert_eq!(of("/allow").rules[1].peers, "shop/app=web");
}

#[test]
fn only_whom_a_change_concerns_is_judged_again() {
    let mut compiler = compiler();
    let base = pod("p2", "10.244.1.2", "app: web")
        + &pod("p3", "10.244.1.3", "app: db")
        + &pod("p4", "10.244.1.4", "app: none");
    let guard = policy(
        "guard",
        "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
    );
    let all = [2, 3, 4];
    assert_eq!(update(&mut compiler, &base, &all), [2, 3, 4], "new ports");
    assert_eq!(update(&mut compiler, &base, &all), [0; 0]);
    let text = base.clone() + &guard;
    assert_eq!(update(&mut compiler, &text, &all), [3], "a policy comes");
    assert_eq!(update(&mut compiler, &text, &all), [0; 0]);
    let other = policy("other", "{podSelector: {matchLabels: {app: nobody}}}");
    assert_eq!(
        update(&mut compiler, &(text.clone() + &other), &all),
        [0; 0],
        "one that selects nobody"
    );
    assert_eq!(update(&mut compiler, &text, &all), [0; 0]);
    let bystander = text.clone() + &pod("q", "10.244.2.9", "app: none");
    assert_eq!(
        update(&mut compiler, &bystander, &all),
        [0; 0],
        "a pod that no rule means"
    );
    let client = bystander.clone() + &pod("r", "10.244.2.10", "app: web");
    assert_eq!(
        update(&mut compiler, &client, &all),
        [3],
        "a pod that a rule means, alike or not"
    );
    let unlabelled = bystander.clone() + &pod("r", "10.244.2.10", "app: none");
    assert_eq!(
        update(&mut compiler, &unlabelled, &all),
        [3],
        "it loses the label"
    );
    assert_eq!(update(&mut compiler, &bystander, &all), [0; 0], "it goes");
    let moved = text.replace("app: none", "app: db");
    assert_eq!(
        update(&mut compiler, &moved, &all),
        [4],
        "a pod comes under the policy"
    );
    assert_eq!(update(&mut compiler, &moved, &[2, 3]), [4], "its port goes");
    assert_eq!(update(&mut compiler, &base, &[2, 3]), [3], "the policy goes");
}

#[test]
fn a_pod_of_which_nothing_is_known_is_closed_where_a_policy_may_mean_it() {
    let mut compiler = compiler();
    let p3 = pod("p3", "10.244.1.3", "app: db");
    update(&mut compiler, &p3, &[2, 3]);
    let to_unknown = |compiler: &PolicyCompiler| judge(compiler, "10.244.1.3", "10.244.1.2", 80).1;
    assert_eq!(
        to_unknown(&compiler),
        Ruling::NotIsolated,
        "no policy can mean it"
    );
    let guarded = p3.clone() + &policy("guard", "{podSelector: {matchLabels: {app: web}}}");
    assert_eq!(update(&mut compiler, &guarded, &[2, 3]), [2]);
    assert_eq!(to_unknown(&compiler), Ruling::Deny(RuleId::UNKNOWN_POD));
    assert_eq!(
        judge(&compiler, "10.244.1.2", "10.244.1.3", 80).0,
        Ruling::Deny(RuleId::UNKNOWN_POD)
    );
    assert_eq!(judge(&compiler, "10.244.1.1", "10.244.1.2", 80).1, Ruling::Node);
    // Its object comes, as yet without an address: the port knows that.
    let known =
        guarded + &pod("p2", "10.244.1.2", "app: other").replace("podIP: 10.244.1.2", "phase: Pending");
    assert_eq!(update(&mut compiler, &known, &[2, 3]), [2]);
    assert_eq!(to_unknown(&compiler), Ruling::NotIsolated);
    assert_eq!(
        judge(&compiler, "10.244.1.2", "10.244.1.3", 80),
        (Ruling::NotIsolated, Ruling::NotIsolated)
    );
}

#[test]
fn counters_outlive_a_change_and_not_their_policy() {
    let mut compiler = compiler();
    let pods = pod("p2", "10.244.1.2", "app: web") + &pod("p3", "10.244.1.3", "app: db");
    let guard = |port: u16| {
        policy(
            "guard",
            &format!("{{podSelector: {{}}, ingress: [{{ports: [{{port: {port}}}]}}]}}"),
        )
    };
    let count = |compiler: &PolicyCompiler| -> Vec<u64> {
        compiler
            .rows()
            .iter()
            .flat_map(|row| &row.rules)
            .map(|rule| rule.connections)
            .collect()
    };
    let call = |compiler: &PolicyCompiler, tcp_port| {
        let judgement = compiler.table().judge(&Query {
            source: "10.244.1.2".parse().unwrap(),
            destination: "10.244.1.3".parse().unwrap(),
            protocol: IpProtocol::TCP,
            port: tcp_port,
        });
        compiler.table().counts().judged(0, &judgement);
    };
    update(&mut compiler, &(pods.clone() + &guard(80)), &[2, 3]);
    call(&compiler, 80);
    call(&compiler, 80);
    call(&compiler, 81);
    assert_eq!(
        count(&compiler),
        [2, 1],
        "allowed by the rule, forbidden by the isolation"
    );
    update(&mut compiler, &(pods.clone() + &guard(81)), &[2, 3]);
    call(&compiler, 81);
    assert_eq!(count(&compiler), [3, 1]);
    update(&mut compiler, &pods, &[2, 3]);
    update(&mut compiler, &(pods + &guard(80)), &[2, 3]);
    assert_eq!(count(&compiler), [0, 0], "another policy of the same name");
}

#[test]
fn nodes_that_a_rule_means_are_followed() {
    let mut compiler = compiler();
    let text = pod("p2", "10.244.1.2", "app: web")
        + &cluster_policy(
            "nodes",
            "{tier: Admin, priority: 1, subject: {namespaces: {}}, egress: [{action: Deny, to: [{nodes: {matchLabels: {rack: r2}}}]}]}",
        );
    update(&mut compiler, &text, &[2]);
    let (egress, _) = judge(&compiler, "10.244.1.2", "192.0.2.2", 80);
    assert!(matches!(egress, Ruling::Deny(_)), "{egress:?}");
    let nodes = NODES.replace("192.0.2.2", "192.0.2.3");
    compiler.update(&PolicyInputs {
        store: &store(&(nodes + &text)),
        ports: &ports(&[2]),
        node_addresses: &["10.244.1.1".parse().unwrap()],
    });
    assert_eq!(
        judge(&compiler, "10.244.1.2", "192.0.2.2", 80).0,
        Ruling::NotIsolated
    );
    assert!(matches!(
        judge(&compiler, "10.244.1.2", "192.0.2.3", 80).0,
        Ruling::Deny(_)
    ));
}

#[test]
fn nothing_is_left_of_what_is_gone() {
    let mut compiler = compiler();
    for round in 0..20_u32 {
        let text = pod("p2", "10.244.1.2", &format!("app: web, round: r{round}"))
            + &pod("q", "10.244.2.9", &format!("round: r{round}"))
            + &policy(
                &format!("p{round}"),
                &format!(
                    "{{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{round: r{round}}}}}}}]}}]}}"
                ),
            );
        update(&mut compiler, &text, &[2]);
        let memory = compiler.memory();
        assert_eq!(
            (memory.rule_sets, memory.identities, memory.selectors),
            (1, 2, 1),
            "round {round}"
        );
    }
    update(&mut compiler, "", &[]);
    let memory = compiler.memory();
    assert_eq!((memory.rule_sets, memory.identities, memory.selectors), (0, 0, 0));
    assert!(
        compiler.numbers.end() <= 8,
        "numbers are used again: {}",
        compiler.numbers.end()
    );
}

#[test]
fn more_rules_than_there_may_be_close_the_pod() {
    let mut compiler = compiler();
    let rules: Vec<String> = (0..millrace_dataplane::table::policy::RuleSet::RULES_MAX)
        .map(|_| "{}".to_owned())
        .collect();
    let text = pod("p2", "10.244.1.2", "app: web")
        + &policy(
            "huge",
            &format!("{{podSelector: {{}}, ingress: [{}]}}", rules.join(",")),
        );
    update(&mut compiler, &text, &[2]);
    assert_eq!(
        judge(&compiler, "192.0.2.9", "10.244.1.2", 80).1,
        Ruling::Deny(RuleId::UNKNOWN_POD)
    );
    assert_eq!(compiler.warnings().len(), 1);
    assert!(
        compiler.warnings()[0].starts_with("Pod shop/p2 is cut off: 8193 rules for one pod"),
        "{:?}",
        compiler.warnings()
    );
}
