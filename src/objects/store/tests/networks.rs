use super::*;
use crate::objects::{NetworkKey, PodKey};

const NODE: &str =
    "---\n{apiVersion: v1, kind: Node, metadata: {name: node-a}, spec: {podCIDRs: [10.244.1.0/24]}}\n";

fn network(name: &str, vni: u32, subnets: &str) -> String {
    format!(
        "---\n{{apiVersion: k8s.cni.cncf.io/v1, kind: NetworkAttachmentDefinition, metadata: {{name: {name}, namespace: shop}}, spec: {{config: '{{\"type\": \"millrace-cni\", \"network\": {{\"kind\": \"bridged\", \"vni\": {vni}, \"subnets\": [{subnets}]}}}}'}}}}\n"
    )
}

fn routed(name: &str, vni: u32) -> String {
    network(
        name,
        vni,
        r#""10.9.0.0/16"], "nodeBlocks": {"node-a": ["10.9.1.0/24"]}, "gateways": ["10.9.0.1""#,
    )
    .replace("bridged", "routed")
}

fn policy(name: &str, networks: &str) -> String {
    format!(
        "---\n{{apiVersion: k8s.cni.cncf.io/v1beta1, kind: MultiNetworkPolicy, metadata: {{name: {name}, namespace: shop, annotations: {{k8s.v1.cni.cncf.io/policy-for: '{networks}'}}}}, spec: {{podSelector: {{}}}}}}\n"
    )
}

fn attached(name: &str, created: &str, status: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-01-02T03:04:{created}Z', annotations: {{k8s.v1.cni.cncf.io/network-status: '{status}'}}}}, spec: {{nodeName: node-a}}}}\n"
    )
}

#[test]
fn a_policy_is_told_where_it_is_not_in_force() {
    let blue = network("blue", 7, r#""10.9.0.0/16""#);
    let red = routed("red", 8);
    let store = store(&format!(
        "{NODE}{blue}{red}{}{}",
        policy("a", "blue"),
        policy("b", "lab/red, blue, red")
    ));
    let told: Vec<String> = outcome(&store).1;
    assert_eq!(
        told,
        [
            "warning MultiNetworkPolicy shop/a: annotation k8s.v1.cni.cncf.io/policy-for: network shop/blue is bridged, where no policy is in force; name routed networks only",
            "warning MultiNetworkPolicy shop/b: annotation k8s.v1.cni.cncf.io/policy-for: there is no network lab/red; it would be a NetworkAttachmentDefinition of type millrace-cni with `\"kind\": \"routed\"`",
            "warning MultiNetworkPolicy shop/b: annotation k8s.v1.cni.cncf.io/policy-for: network shop/blue is bridged, where no policy is in force; name routed networks only",
        ]
    );
    assert_eq!(store.policies().len(), 2);
}

#[test]
fn an_address_in_a_network_is_one_pods() {
    let text = [
        NODE.to_owned(),
        network("blue", 7, r#""10.9.0.0/16""#),
        network("any", 8, ""),
        routed("red", 9),
        attached("late", "09", r#"[{"name": "shop/blue", "ips": ["10.9.1.5", "10.9.1.6"]}, {"name": "lab/none", "ips": ["10.9.1.5"]}]"#),
        attached("early", "05", r#"[{"name": "shop/blue", "ips": ["10.9.1.5", "10.8.1.5"]}, {"name": "shop/any", "ips": ["10.9.1.5"]}, {"name": "shop/red", "ips": ["10.9.1.5", "10.9.2.5"]}]"#),
    ]
    .concat();
    let store = store(&text);
    let ips = |pod: &str, network: &str| -> Vec<String> {
        let pod = store.pod(&PodKey::new("shop", pod).unwrap()).unwrap();
        let ips = pod.ips_in(&network.parse::<NetworkKey>().unwrap());
        ips.iter().map(ToString::to_string).collect()
    };
    assert_eq!(ips("early", "shop/blue"), ["10.9.1.5"]);
    assert_eq!(
        ips("early", "shop/any"),
        ["10.9.1.5"],
        "another network's is another address"
    );
    assert_eq!(ips("early", "shop/red"), ["10.9.1.5"], "another node's block");
    assert_eq!(ips("late", "shop/blue"), ["10.9.1.6"]);
    assert_eq!(
        ips("late", "lab/none"),
        ["10.9.1.5"],
        "nothing is known of that one"
    );
    assert_eq!(
        outcome(&store).1,
        [
            "warning Pod shop/early: annotation k8s.v1.cni.cncf.io/network-status: 10.8.1.5 is in none of the subnets of network shop/blue, so policies there do not know it",
            "warning Pod shop/early: annotation k8s.v1.cni.cncf.io/network-status: 10.9.2.5 is in none of the nodeBlocks of node-a in network shop/red, so policies there do not know it",
            "warning Pod shop/late: annotation k8s.v1.cni.cncf.io/network-status: 10.9.1.5 in network shop/blue is that of Pod shop/early, which came first and keeps it",
        ]
    );
}
