//! Policies that nobody wrote, over a cluster that keeps changing: what the switches say must be what the oracle says.
//!
//! One switch per node lives through all steps of a run, so that what is changed is compared, and what is made anew.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use serde_json::{Value, json};

use super::oracle::{Sent, is_allowed};
use super::switch::Switches;
use super::world::{Placement, SENT, ends, objects};

/// Runs that are always repeated; what a new one finds is added here.
pub(super) const SEEDS: [u64; 12] = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233];
/// Sets of policies of one run, each a change of the one before.
const STEPS: usize = 24;
/// Packets that are asked about in each step.
const PACKETS: usize = 400;
/// Pairs of policies and packets that all runs together come to at least.
const PAIRS_MIN: usize = 100_000;

/// Numbers that look random (xorshift64*), the same for the same seed.
pub(super) struct Random(u64);

impl Random {
    /// The numbers of a run.
    pub(super) fn of_seed(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % limit
    }

    pub(super) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(super) fn of<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len())]
    }

    /// Up to `most` of what is made.
    fn some(&mut self, most: usize, make: fn(&mut Self) -> Value) -> Vec<Value> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn pod_selector(&mut self) -> Value {
        self.selector(&[
            ("pod", &["a", "b", "c"]),
            ("app", &["web", "db"]),
            ("tier", &["front"]),
            ("env", &["prod", "test"]),
        ])
    }

    fn namespace_selector(&mut self) -> Value {
        self.selector(&[
            ("ns", &["x", "y", "z"]),
            ("team", &["red", "blue"]),
            ("kubernetes.io/metadata.name", &["x", "z"]),
            ("trusted", &["yes"]),
        ])
    }

    fn selector(&mut self, labels: &[(&str, &[&str])]) -> Value {
        let mut selector = json!({});
        if self.one_in(2) {
            let (key, values) = *self.of(labels);
            selector["matchLabels"] = json!({key: self.of(values)});
        }
        if self.one_in(3) {
            let (key, values) = *self.of(labels);
            let value = *self.of(values);
            selector["matchExpressions"] = match self.below(4) {
                0 => json!([{"key": key, "operator": "In", "values": [value, "other"]}]),
                1 => json!([{"key": key, "operator": "NotIn", "values": [value]}]),
                2 => json!([{"key": key, "operator": "Exists"}]),
                _ => json!([{"key": key, "operator": "DoesNotExist"}]),
            };
        }
        selector
    }

    fn network(&mut self) -> &'static str {
        self.of::<&'static str>(&[
            "0.0.0.0/0",
            "::/0",
            "10.244.0.0/16",
            "10.244.1.0/24",
            "10.244.1.20/31",
            "10.244.2.10/32",
            "198.51.100.0/24",
            "192.0.2.0/30",
            "128.0.0.0/1",
            "fd00:1::/32",
            "fd00:1::20/127",
            "fd00::/8",
            "2001:db8::/32",
            "2001:db8:1::7/128",
        ])
    }

    fn block(&mut self) -> Value {
        let cidr = self.network();
        let net: ipnet::IpNet = cidr.parse().unwrap();
        let except: Vec<&str> = (0..self.below(4))
            .map(|_| self.network())
            .filter(|hole| net.contains(&hole.parse::<ipnet::IpNet>().unwrap()))
            .collect();
        json!({"ipBlock": {"cidr": cidr, "except": except}})
    }

    fn peer(&mut self) -> Value {
        match self.below(4) {
            0 => json!({"podSelector": self.pod_selector()}),
            1 => json!({"namespaceSelector": self.namespace_selector()}),
            2 => json!({"namespaceSelector": self.namespace_selector(), "podSelector": self.pod_selector()}),
            _ => self.block(),
        }
    }

    fn port(&mut self) -> Value {
        let mut port = json!({});
        if self.one_in(2) {
            port["protocol"] = json!(self.of(&["TCP", "UDP", "SCTP"]));
        }
        match self.below(4) {
            0 => {}
            1 => port["port"] = json!(self.of(&["web", "alt", "dns", "sig", "none"])),
            2 => port["port"] = json!(self.of(&[80, 81])),
            _ => {
                port["port"] = json!(self.of(&[1, 80, 81]));
                port["endPort"] = json!(self.of(&[81, 82, 65_535]));
            }
        }
        port
    }

    fn rule(&mut self, peers: &str) -> Value {
        let mut rule = json!({});
        if !self.one_in(4) {
            rule[peers] = self.some(3, Self::peer).into();
        }
        if self.one_in(2) {
            rule["ports"] = self.some(3, Self::port).into();
        }
        rule
    }

    pub(super) fn network_policy(&mut self, name: usize) -> Value {
        let mut spec = json!({"podSelector": self.pod_selector()});
        if !self.one_in(3) {
            spec["ingress"] = self.some(3, |random| random.rule("from")).into();
        }
        if self.one_in(2) {
            spec["egress"] = self.some(3, |random| random.rule("to")).into();
        }
        if self.one_in(2) {
            spec["policyTypes"] = self
                .of(&[
                    json!(["Ingress"]),
                    json!(["Egress"]),
                    json!(["Ingress", "Egress"]),
                ])
                .clone();
        }
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": self.of(&["x", "y", "z"]), "name": format!("p{name}")}, "spec": spec,
        })
    }

    fn cluster_pods(&mut self) -> Value {
        if self.one_in(2) {
            json!({"namespaces": self.namespace_selector()})
        } else {
            json!({"pods": {"namespaceSelector": self.namespace_selector(), "podSelector": self.pod_selector()}})
        }
    }

    fn cluster_peer(&mut self) -> Value {
        match self.below(5) {
            0 => json!({"networks": [self.network(), self.network()]}),
            1 => json!({"nodes": self.selector(&[("rack", &["r1", "r2"]), ("node", &["node-a", "node-c"])])}),
            _ => self.cluster_pods(),
        }
    }

    fn cluster_protocol(&mut self) -> Value {
        let port = if self.one_in(2) {
            json!({"destinationPort": {"number": self.of(&[80, 81])}})
        } else {
            json!({"destinationPort": {"range": {"start": self.of(&[1, 80]), "end": self.of(&[81, 65_535])}}})
        };
        match self.below(4) {
            0 => json!({"tcp": port}),
            1 => json!({"udp": port}),
            2 => json!({"sctp": port}),
            _ => json!({"destinationNamedPort": self.of(&["web", "dns", "none"])}),
        }
    }

    fn cluster_rule(&mut self, peers: &str, peer: fn(&mut Self) -> Value) -> Value {
        let list: Vec<Value> = (0..=self.below(2)).map(|_| peer(self)).collect();
        let mut rule = json!({"action": self.of(&["Accept", "Deny", "Pass"]), peers: list});
        if self.one_in(2) {
            let protocols: Vec<Value> = (0..=self.below(2)).map(|_| self.cluster_protocol()).collect();
            rule["protocols"] = protocols.into();
        }
        rule
    }

    fn cluster_policy(&mut self, name: usize) -> Value {
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": format!("c{name}")},
            "spec": {
                "tier": self.of(&["Admin", "Baseline"]),
                // A few priorities, so that some are equal: the name decides then, here and there.
                "priority": self.below(3),
                "subject": self.cluster_pods(),
                "ingress": self.some(3, |random| random.cluster_rule("from", Self::cluster_pods)),
                "egress": self.some(3, |random| random.cluster_rule("to", Self::cluster_peer)),
            },
        })
    }

    /// Changes the cluster in one or a few places.
    pub(super) fn change(&mut self, cluster: &mut Vec<Value>, number: usize) {
        let is_policy = |object: &Value| object["kind"].as_str().unwrap().ends_with("Policy");
        for change in 0..=self.below(3) {
            let name = number * 8 + change;
            let policies: Vec<usize> = (0..cluster.len())
                .filter(|place| is_policy(&cluster[*place]))
                .collect();
            match self.below(8) {
                0..=2 => cluster.push(self.network_policy(name)),
                3 => cluster.push(self.cluster_policy(name)),
                // No more than a few at a time, or nothing ever passes.
                4 | 5 if !policies.is_empty() => {
                    cluster.remove(*self.of(&policies));
                }
                6 => {
                    let labels = json!({
                        "pod": self.of(&["a", "b", "c"]), "app": self.of(&["web", "db", "other"]),
                        "env": self.of(&["prod", "test"]),
                    });
                    let pods: Vec<usize> = (0..cluster.len())
                        .filter(|place| cluster[*place]["kind"] == "Pod")
                        .collect();
                    let pod = *self.of(&pods);
                    cluster[pod]["metadata"]["labels"] = labels;
                }
                _ => {
                    let labels = json!({"ns": self.of(&["x", "y", "z"]), "team": self.of(&["red", "blue"]), "trusted": "yes"});
                    let spaces: Vec<usize> = (0..cluster.len())
                        .filter(|place| cluster[*place]["kind"] == "Namespace")
                        .collect();
                    let space = *self.of(&spaces);
                    cluster[space]["metadata"]["labels"] = labels;
                }
            }
            if policies.len() > 7 {
                cluster.remove(policies[0]);
            }
        }
    }
}

/// One run; answers how many pairs were compared, and how many of the packets passed.
fn run(seed: u64) -> (usize, usize) {
    let mut random = Random::of_seed(seed);
    let placement = *random.of(&[Placement::Spread, Placement::Together]);
    let mut cluster = objects(placement);
    let mut switches = Switches::new();
    let (mut pairs, mut passed) = (0, 0);
    for step in 0..STEPS {
        random.change(&mut cluster, step);
        switches.update(&cluster);
        let families = [ends(&cluster, false), ends(&cluster, true)];
        for _ in 0..PACKETS {
            let ends = random.of(&families);
            let ((from_name, from), (to_name, to)) = (random.of(ends), random.of(ends));
            let sent: Sent<'_> = *random.of(&SENT);
            let expected = is_allowed(&cluster, *from, *to, sent);
            assert_eq!(
                switches.is_allowed(from.address, to.address, sent),
                expected,
                "seed {seed}, step {step}: {from_name} ({}) -> {to_name} ({}) {sent:?}: {:?}\n{}",
                from.address,
                to.address,
                switches.judge(from.address, to.address, sent),
                serde_json::to_string_pretty(&cluster).unwrap()
            );
            pairs += 1;
            passed += usize::from(expected);
        }
    }
    (pairs, passed)
}

/// Has random policies judged, by these seeds and one that nobody has seen yet: `run` answers how many pairs it asked about, and
/// how many of them passed.
pub(super) fn judge_all(
    seeds: impl IntoIterator<Item = u64>,
    pairs_min: usize,
    run: impl Fn(u64) -> (usize, usize),
) {
    let new = RandomState::new().hash_one("seed");
    println!("new seed: {new}");
    let (mut pairs, mut passed) = (0, 0);
    for seed in seeds.into_iter().chain([new]) {
        let (of_run, allowed) = run(seed);
        pairs += of_run;
        passed += allowed;
    }
    assert!(pairs >= pairs_min, "{pairs} pairs");
    let share = passed * 100 / pairs;
    println!("{pairs} pairs, {share} % pass");
    assert!(
        (10..=90).contains(&share),
        "{share} % pass: policies that say nothing are no test"
    );
}

#[test]
fn random_policies_as_the_oracle_says() {
    judge_all(SEEDS, PAIRS_MIN, run);
}
