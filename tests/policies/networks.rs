//! Policies of networks beside the cluster's own, random ones: in each network what the switches say must be what the oracle says,
//! whatever there is in the others. Pods come to the networks and leave them, and have addresses there that are other pods' in
//! the cluster's own.

use std::net::IpAddr;

use millrace::daemon::compile::policies::{LocalPort, PolicyCompilers};
use millrace::objects::{NetworkKey, PodRecord};
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::HashKey;
use serde_json::{Value, json};

use super::oracle::{End, Sent, both_allow, isolated, namespace};
use super::random::{Random, SEEDS, judge_all};
use super::switch::{query, store};
use super::world::{NODES, Placement, SENT, objects};

const NETWORKS: [&str; 2] = ["x/blue", "y/red"];
/// Sets of policies of one run, each a change of the one before.
const STEPS: usize = 20;
/// Packets that are asked about in each network in each step.
const PACKETS: usize = 200;
/// Pairs of policies and packets that all runs together come to at least.
const PAIRS_MIN: usize = 50_000;
/// The switch's own addresses, the same ones on every node.
const GATEWAYS: [&str; 2] = ["10.244.0.1", "fd00::1"];
/// What is in a network and no pod, and what comes from another.
const STRANGERS: [[&str; 2]; 2] = [["10.244.1.77", "fd00:1::77"], ["198.51.100.7", "2001:db8:1::7"]];
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

impl Random {
    /// A MultiNetworkPolicy.
    fn multi_policy(&mut self, name: usize) -> Value {
        let mut policy = self.network_policy(name);
        policy["apiVersion"] = "k8s.cni.cncf.io/v1beta1".into();
        policy["kind"] = "MultiNetworkPolicy".into();
        let names = *self.of(&[
            "blue",
            "x/blue",
            "red",
            "y/red, x/blue",
            "x/blue,z/none",
            " red , x/blue",
        ]);
        policy["metadata"]["annotations"] = json!({"k8s.v1.cni.cncf.io/policy-for": names});
        policy
    }

    /// Lets some pods come to the networks, and some leave them.
    fn attach(&mut self, cluster: &mut [Value], moves: usize) {
        let is_pod = |object: &Value| object["kind"] == "Pod" && object["spec"]["hostNetwork"] != true;
        let pods: Vec<usize> = (0..cluster.len()).filter(|at| is_pod(&cluster[*at])).collect();
        for _ in 0..moves {
            let (at, network) = (self.below(pods.len()), self.below(NETWORKS.len()));
            // The address that another pod has in the cluster's own network, each network its own way.
            let other = pods[(at + 2 + 3 * network) % pods.len()];
            let ips: Vec<Value> = cluster[other]["status"]["podIPs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|ip| ip["ip"].clone())
                .collect();
            let pod = &mut cluster[pods[at]];
            let mut status = status(pod);
            let before = status.len();
            status.retain(|entry| entry["name"] != NETWORKS[network]);
            if status.len() == before {
                let ips = if self.one_in(4) { &ips[..1] } else { &ips[..] };
                status.push(json!({"name": NETWORKS[network], "interface": "net1", "ips": ips}));
            }
            pod["metadata"]["annotations"] = json!({STATUS: Value::from(status).to_string()});
        }
    }

    /// Changes the policies of networks in one or a few places.
    fn change_networks(&mut self, cluster: &mut Vec<Value>, number: usize) {
        for change in 0..=self.below(3) {
            let is_multi = |object: &Value| object["kind"] == "MultiNetworkPolicy";
            let there: Vec<usize> = (0..cluster.len()).filter(|at| is_multi(&cluster[*at])).collect();
            if there.len() > 9 || (there.len() > 2 && self.one_in(3)) {
                cluster.remove(*self.of(&there));
            } else {
                cluster.push(self.multi_policy(1000 + number * 8 + change));
            }
        }
    }
}

/// What a Pod says of its interfaces.
fn status(pod: &Value) -> Vec<Value> {
    let text = pod["metadata"]["annotations"][STATUS].as_str();
    text.map(|text| serde_json::from_str(text).unwrap())
        .unwrap_or_default()
}

/// Everyone in a network. What is no pod has no node yet.
fn ends<'o>(network: &str, cluster: &'o [Value], is_v6: bool) -> Vec<End<'o>> {
    let mut ends = Vec::new();
    for pod in cluster.iter().filter(|object| object["kind"] == "Pod") {
        let status = status(pod);
        let entry = status.iter().find(|entry| entry["name"] == network);
        let ips = entry.and_then(|entry| entry["ips"].as_array()).cloned();
        if let Some(ip) = ips.unwrap_or_default().get(usize::from(is_v6)) {
            ends.push(End {
                address: ip.as_str().unwrap().parse().unwrap(),
                pod: Some(pod),
                node: pod["spec"]["nodeName"].as_str().unwrap(),
            });
        }
    }
    let others = STRANGERS.iter().chain([&GATEWAYS]);
    let has = |ends: &[End<'_>], address: IpAddr| ends.iter().any(|end| end.address == address);
    for addresses in others {
        let address = addresses[usize::from(is_v6)].parse().unwrap();
        assert!(!has(&ends, address), "{address} is a pod's");
        ends.push(End {
            address,
            pod: None,
            node: "",
        });
    }
    ends
}

/// Whether a connection may be opened in a network, `NAMESPACE/NAME`: MultiNetworkPolicies count, those that name it.
fn is_allowed_in(network: &str, objects: &[Value], from: End<'_>, to: End<'_>, sent: Sent<'_>) -> bool {
    let counts = |policy: &Value| {
        let names = policy["metadata"]["annotations"]["k8s.v1.cni.cncf.io/policy-for"].as_str();
        policy["kind"] == "MultiNetworkPolicy"
            && names.unwrap().split(',').any(|name| {
                let name = name.trim();
                name == network || format!("{}/{name}", namespace(policy)) == network
            })
    };
    both_allow(from, to, |direction, pod, peer| {
        isolated(objects, counts, direction, pod, peer, to, sent).unwrap_or(true)
    })
}

/// The switches of all nodes.
struct Switches(Vec<PolicyCompilers>);

impl Switches {
    fn new() -> Self {
        let key = HashKey::from_words([1, 2, 3]);
        Self(NODES.iter().map(|_| PolicyCompilers::new(key, 1)).collect())
    }

    fn update(&mut self, cluster: &[Value]) {
        let gateways = GATEWAYS.map(|address| address.parse().unwrap());
        for (node, compilers) in NODES.iter().zip(&mut self.0) {
            let store = store(node, cluster);
            for network in NETWORKS {
                let network: NetworkKey = network.parse().unwrap();
                // A pod's port has a number of its own, whoever comes and goes.
                let port = |(number, pod): (u16, &PodRecord)| LocalPort {
                    id: PortId::new(number).unwrap(),
                    pod: pod.key.clone(),
                    addresses: pod.ips_in(&network).to_vec(),
                };
                let ports = (1..).zip(store.own_pods()).map(port);
                let ports: Vec<LocalPort> = ports.filter(|port| !port.addresses.is_empty()).collect();
                compilers.networks.update_one(&network, &store, &ports, &gateways);
            }
            assert_eq!(
                compilers.networks.of(&"z/none".parse().unwrap()).map(|_| ()),
                None
            );
        }
    }

    /// Whether a packet passes the switches of both ends.
    fn is_allowed(&self, network: &NetworkKey, from: IpAddr, to: IpAddr, sent: Sent<'_>) -> bool {
        let query = query(from, to, sent);
        self.0
            .iter()
            .all(|compilers| compilers.networks.table(network).judge(&query).denied().is_none())
    }
}

/// One run; answers how many pairs were compared, and how many of the packets passed.
fn run(seed: u64) -> (usize, usize) {
    let mut random = Random::of_seed(seed);
    let mut cluster = objects(*random.of(&[Placement::Spread, Placement::Together]));
    random.attach(&mut cluster, 12);
    let mut switches = Switches::new();
    let (mut pairs, mut passed) = (0, 0);
    for step in 0..STEPS {
        // Labels change with it, and policies of the cluster's own network come, which are nothing to the others.
        random.change(&mut cluster, step);
        random.change_networks(&mut cluster, step);
        let moves = random.below(3);
        random.attach(&mut cluster, moves);
        switches.update(&cluster);
        let mut fresh = Switches::new();
        fresh.update(&cluster);
        for network in NETWORKS {
            let families = [false, true].map(|is_v6| ends(network, &cluster, is_v6));
            let key: NetworkKey = network.parse().unwrap();
            for _ in 0..PACKETS {
                let ends = random.of(&families);
                let (mut from, mut to) = (*random.of(ends), *random.of(ends));
                // A gateway is the node of whoever talks with it.
                let is_gateway = |end: End<'_>| GATEWAYS.contains(&end.address.to_string().as_str());
                if is_gateway(from) {
                    from.node = to.node;
                } else if is_gateway(to) {
                    to.node = from.node;
                }
                let sent: Sent<'_> = *random.of(&SENT);
                let expected = is_allowed_in(network, &cluster, from, to, sent);
                for (switches, made) in [(&switches, "changed"), (&fresh, "made anew")] {
                    assert_eq!(
                        switches.is_allowed(&key, from.address, to.address, sent),
                        expected,
                        "seed {seed}, step {step}, {network}: {} -> {} {sent:?}, tables {made}\n{}",
                        from.address,
                        to.address,
                        serde_json::to_string_pretty(&cluster).unwrap()
                    );
                }
                pairs += 1;
                passed += usize::from(expected);
            }
        }
    }
    (pairs, passed)
}

#[test]
fn random_policies_of_networks_as_the_oracle_says() {
    judge_all(SEEDS, PAIRS_MIN, run);
}
