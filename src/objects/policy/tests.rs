use super::*;
use crate::objects::fault::Fault;
use crate::objects::object::Object;

/// Reads a policy from its YAML spec: the record and what is said about it.
fn read(kind: &str, spec: &str) -> Result<(PolicyRecord, Vec<String>), String> {
    let api_version = if kind == "NetworkPolicy" {
        "networking.k8s.io/v1"
    } else {
        ClusterNetworkPolicy::API_VERSION
    };
    let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: p}}\nspec: {spec}\n");
    let tree = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let object = Object::from_tree(tree).map_err(|fault| fault.reason.to_string())?;
    let read = match &object {
        Object::NetworkPolicy(policy) => PolicyRecord::read_network_policy(policy),
        Object::ClusterNetworkPolicy(policy) => PolicyRecord::read_cluster(policy),
        other => panic!("{other:?}"),
    };
    let (record, faults) = read.map_err(|fault| fault.to_string())?;
    Ok((record, faults.iter().map(Fault::to_string).collect()))
}

/// Reads a MultiNetworkPolicy: the networks that it is for, and what is said about it.
fn read_multi(metadata: &str) -> (PolicyRecord, Vec<String>) {
    let text = format!(
        "apiVersion: k8s.cni.cncf.io/v1beta1\nkind: MultiNetworkPolicy\nmetadata: {{name: p, namespace: shop{metadata}}}\nspec: {{podSelector: {{}}, egress: [{{to: [{{ipBlock: {{cidr: 10.9.0.0/16}}}}]}}]}}\n"
    );
    let tree: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    // Both versions say the same.
    let mut newer = tree.clone();
    newer["apiVersion"] = MULTI_API_VERSIONS[0].into();
    let [older, newer] = [tree, newer].map(|tree| match Object::from_tree(tree) {
        Ok(Object::MultiNetworkPolicy(policy)) => PolicyRecord::read_multi(&policy).unwrap(),
        other => panic!("{other:?}"),
    });
    assert_eq!(older, newer);
    (newer.0, newer.1.iter().map(Fault::to_string).collect())
}

#[test]
fn a_policy_of_networks_is_a_network_policy_for_those_it_names() {
    for (text, networks, faults) in [
        ("blue", &["shop/blue"][..], &[][..]),
        ("lab/red, blue,shop/blue , ,", &["lab/red", "shop/blue"], &[]),
        (
            "Blue, lab/red/x, lab/red",
            &["lab/red"],
            &[
                "annotation k8s.v1.cni.cncf.io/policy-for: `Blue` is no network's name; write it as NAMESPACE/NAME, or as NAME for one in the policy's own namespace",
                "annotation k8s.v1.cni.cncf.io/policy-for: `lab/red/x` is no network's name",
            ],
        ),
        (
            " ",
            &[],
            &[
                "annotation k8s.v1.cni.cncf.io/policy-for: it names no network, so the policy is in force nowhere",
            ],
        ),
    ] {
        let annotations = format!(", annotations: {{k8s.v1.cni.cncf.io/policy-for: '{text}'}}");
        let (record, said) = read_multi(&annotations);
        let named: Vec<String> = record.networks.iter().map(ToString::to_string).collect();
        assert_eq!(named, networks, "{text}");
        assert_eq!(said.len(), faults.len(), "{said:?}");
        for (said, fault) in said.iter().zip(faults) {
            assert!(said.starts_with(fault), "{said}");
        }
        assert_eq!(record.key.to_string(), "MultiNetworkPolicy shop/p");
        assert!(record.isolates() && !record.is_for(None));
        for network in ["shop/blue", "lab/red"] {
            let is_for = record.is_for(Some(&network.parse().unwrap()));
            assert_eq!(is_for, networks.contains(&network), "{text} {network}");
        }
        // As of a NetworkPolicy: ingress always, egress because there is a rule.
        assert_eq!(record.ingress, Some(Vec::new()));
        assert_eq!(record.egress.map(|rules| rules.len()), Some(1));
    }
    let (record, said) = read_multi("");
    assert_eq!((record.networks.len(), said.len()), (0, 1));
    let (record, _) = read("NetworkPolicy", "{podSelector: {}}").unwrap();
    assert!(record.is_for(None) && !record.is_for(Some(&"shop/blue".parse().unwrap())));
}

/// The only ingress rule of a NetworkPolicy, and what is said about it.
fn ingress(rule: &str) -> (PolicyRule, Vec<String>) {
    let (record, faults) = read(
        "NetworkPolicy",
        &format!("{{podSelector: {{}}, ingress: [{rule}]}}"),
    )
    .unwrap();
    let [rule] = record.ingress.as_deref().unwrap() else {
        panic!("{record:?}")
    };
    (rule.clone(), faults)
}

/// The only egress rule of a ClusterNetworkPolicy, and what is said about it.
fn cluster_egress(rule: &str) -> (PolicyRule, Vec<String>) {
    let spec = format!("{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, egress: [{rule}]}}");
    let (record, faults) = read("ClusterNetworkPolicy", &spec).unwrap();
    assert_eq!(record.ingress, None, "no rule, no word");
    let [rule] = record.egress.as_deref().unwrap() else {
        panic!("{record:?}")
    };
    (rule.clone(), faults)
}

#[test]
fn everyone_and_no_one_are_two_things() {
    for (rule, peers) in [
        ("{}", None),
        ("{from: []}", None),
        ("{from: null}", None),
        ("{from: [{}]}", Some(0)),
        ("{from: [{podSelector: {}}]}", Some(1)),
        ("{from: [{podSelector: null}]}", Some(0)),
    ] {
        assert_eq!(ingress(rule).0.peers.map(|peers| peers.len()), peers, "{rule}");
    }
    for (rule, ports) in [
        ("{}", None),
        ("{ports: []}", None),
        ("{ports: [{port: 0}]}", Some(0)),
        ("{ports: [{}]}", Some(1)),
    ] {
        assert_eq!(ingress(rule).0.ports.map(|ports| ports.len()), ports, "{rule}");
    }
}

#[test]
fn a_faulty_peer_or_port_matches_nothing_and_is_named() {
    for (rule, expected) in [
        (
            "{from: [{}]}",
            "spec.ingress[0].from[0]: it must name at least one of podSelector, namespaceSelector, ipBlock; it matches no one",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}",
            "spec.ingress[0].from[0]: it must name ipBlock alone",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0}}]}",
            "spec.ingress[0].from[0].ipBlock.cidr: `10.0.0.0` is no CIDR",
        ),
        (
            "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1/16]}}]}",
            "spec.ingress[0].from[0].ipBlock.except[0]: `10.1/16` is no CIDR, write it as in 192.0.2.0/24; the whole ipBlock matches no one",
        ),
        (
            "{from: [{namespaceSelector: {matchExpressions: [{key: a, operator: Is}]}}]}",
            "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0]: operator `Is` is none of In",
        ),
        (
            "{from: [{podSelector: {matchExpressions: [{key: a, operator: In}]}}]}",
            "spec.ingress[0].from[0].podSelector.matchExpressions[0]: operator `In` needs at least one value",
        ),
    ] {
        let (rule, faults) = ingress(rule);
        assert_eq!(rule.peers, Some(Vec::new()), "{expected}");
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:?}");
    }
    for (port, expected) in [
        (
            "{port: 0}",
            "spec.ingress[0].ports[0].port: 0 is not within 1..=65535",
        ),
        (
            "{port: 65536}",
            "spec.ingress[0].ports[0].port: 65536 is not within",
        ),
        ("{port: -1}", "spec.ingress[0].ports[0].port: -1 is not within"),
        (
            "{port: 80, endPort: 79}",
            "spec.ingress[0].ports[0].endPort: 79 is not within 80..=65535",
        ),
        (
            "{port: web, endPort: 79}",
            "spec.ingress[0].ports[0]: endPort needs a port by number",
        ),
        (
            "{endPort: 79}",
            "spec.ingress[0].ports[0]: endPort needs a port by number",
        ),
        (
            "{port: 80, protocol: ICMP}",
            "spec.ingress[0].ports[0].protocol: `ICMP` is none of TCP, UDP, SCTP",
        ),
        (
            "{port: Web}",
            "spec.ingress[0].ports[0].port: `Web` is no port's name",
        ),
        (
            "{port: '80'}",
            "spec.ingress[0].ports[0].port: `80` is no port's name",
        ),
        (
            "{port: a--b}",
            "spec.ingress[0].ports[0].port: `a--b` is no port's name",
        ),
        (
            "{port: more-than-fifteen}",
            "spec.ingress[0].ports[0].port: `more-than-fifteen` is no port's name",
        ),
    ] {
        let (rule, faults) = ingress(&format!("{{ports: [{port}]}}"));
        assert_eq!(rule.ports, Some(Vec::new()), "{expected}");
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:?}");
    }
}

#[test]
fn what_stands_beside_a_fault_is_in_force() {
    let (rule, faults) = ingress("{from: [{}, {podSelector: {}}], ports: [{port: 0}, {port: 80}]}");
    assert_eq!(
        (rule.peers.unwrap().len(), rule.ports.unwrap().len(), faults.len()),
        (1, 1, 2)
    );
    let (rule, faults) =
        ingress("{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16, 10.1.0.0/16]}}]}");
    let [PolicyPeer::Block { except, .. }] = &rule.peers.as_deref().unwrap() else {
        panic!("{rule:?}")
    };
    assert_eq!(except.len(), 1);
    assert_eq!(
        faults,
        [
            "spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/16 does not lie within 10.0.0.0/8, so it excepts nothing"
        ]
    );
}

#[test]
fn directions_are_what_policy_types_say() {
    for (spec, ingress, egress) in [
        ("{}", true, false),
        ("{egress: []}", true, false),
        ("{egress: [{}]}", true, true),
        ("{policyTypes: []}", true, false),
        ("{policyTypes: [], egress: [{}]}", true, true),
        ("{policyTypes: [Egress]}", false, true),
        ("{policyTypes: [Ingress], egress: [{}]}", true, false),
        ("{policyTypes: [Ingress, Egress]}", true, true),
        // Nobody can tell which was meant.
        ("{policyTypes: [ingress]}", true, true),
    ] {
        let (record, _) = read("NetworkPolicy", spec).unwrap();
        assert_eq!(
            (record.ingress.is_some(), record.egress.is_some()),
            (ingress, egress),
            "{spec}"
        );
    }
    let (_, faults) = read("NetworkPolicy", "{policyTypes: [Ingress, Exgress]}").unwrap();
    assert_eq!(
        faults,
        ["spec.policyTypes[1]: `Exgress` is none of Ingress, Egress; both count"]
    );
}

#[test]
fn a_policy_for_nobody_knows_whom_is_refused() {
    let subject = "{tier: Admin, priority: 1, subject: {namespaces: {}}}";
    for (kind, spec, expected) in [
        (
            "NetworkPolicy",
            "{podSelector: {matchExpressions: [{key: a, operator: Has}]}}".to_owned(),
            "spec.podSelector.matchExpressions[0]: operator `Has`",
        ),
        (
            "NetworkPolicy",
            "{podSelector: []}".to_owned(),
            "spec.podSelector: invalid type",
        ),
        (
            "ClusterNetworkPolicy",
            subject.replace("Admin", "Middle"),
            "spec.tier: `Middle` is none of Admin, Baseline",
        ),
        (
            "ClusterNetworkPolicy",
            subject.replace(": 1,", ": 1001,"),
            "spec.priority: 1001 is not within 0..=1000",
        ),
        (
            "ClusterNetworkPolicy",
            subject.replace(": 1,", ": -1,"),
            "spec.priority: -1 is not",
        ),
        (
            "ClusterNetworkPolicy",
            subject.replace("priority: 1, ", ""),
            "spec: missing field `priority`",
        ),
        (
            "ClusterNetworkPolicy",
            subject.replace("namespaces: {}", ""),
            "spec.subject: it must name exactly one",
        ),
        (
            "ClusterNetworkPolicy",
            subject.replace("namespaces: {}", "namespaces: {}, pods: {}"),
            "spec.subject: it must",
        ),
    ] {
        let fault = read(kind, &spec).unwrap_err();
        assert!(fault.starts_with(expected), "{fault}");
    }
}

#[test]
fn a_cluster_rule_that_cannot_be_read_is_closed() {
    for (body, expected) in [
        ("to: []", "spec.egress[0].to: it needs at least one peer"),
        (
            "from: [{namespaces: {}}]",
            "spec.egress[0].to: it needs at least one peer",
        ),
        (
            "to: [{}]",
            "spec.egress[0].to[0]: it must name exactly one of namespaces, pods, nodes, networks",
        ),
        (
            "to: [{namespaces: {}, pods: {}}]",
            "spec.egress[0].to[0]: it must name exactly one",
        ),
        (
            "to: [{domainNames: [a.example]}]",
            "spec.egress[0].to[0].domainNames: it is not supported",
        ),
        (
            "to: [{services: {}}]",
            "spec.egress[0].to[0].services: it is not supported",
        ),
        (
            "to: [{networks: []}]",
            "spec.egress[0].to[0]: it must name exactly one",
        ),
        (
            "to: [{networks: [10.0.0.0/8, x]}]",
            "spec.egress[0].to[0].networks[1]: `x` is no CIDR",
        ),
        (
            "to: [{namespaces: {}}], ports: []",
            "spec.egress[0].ports: it is not supported",
        ),
        (
            "to: [{namespaces: {}}], protocols: []",
            "spec.egress[0].protocols: it needs at least one entry",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{}]",
            "spec.egress[0].protocols[0]: it needs exactly one of tcp",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{icmp: {}}]",
            "spec.egress[0].protocols[0].icmp: it is not supported",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {}}]",
            "spec.egress[0].protocols[0].tcp: it needs destinationPort",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {sourcePort: 1}}]",
            "spec.egress[0].protocols[0].tcp.sourcePort: it is not supported",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}]",
            "spec.egress[0].protocols[0].tcp.destinationPort: it needs exactly one of number, range",
        ),
        (
            "to: [{namespaces: {}}], protocols: [{udp: {destinationPort: {range: {start: 9, end: 2}}}}]",
            "spec.egress[0].protocols[0].udp.destinationPort.range.end: 2 is not within 9..=65535",
        ),
    ] {
        let (accept, faults) = cluster_egress(&format!("{{action: Accept, {body}}}"));
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{faults:?}");
        assert_eq!(
            (accept.action, accept.peers),
            (RuleAction::Accept, Some(Vec::new())),
            "{body}: allows nobody"
        );
        for action in ["Deny", "Pass", "Drop"] {
            let (other, faults) = cluster_egress(&format!("{{action: {action}, {body}}}"));
            assert_eq!(faults.len(), 1);
            assert_eq!(
                (other.action, other.peers, other.ports),
                (RuleAction::Deny, None, None),
                "{body}: denies everybody"
            );
        }
    }
    let (rule, faults) = cluster_egress(
        "{name: to-all, action: Pass, to: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 1}}}]}",
    );
    assert_eq!(
        (rule.name.as_deref(), rule.action, faults.len()),
        (Some("to-all"), RuleAction::Pass, 0)
    );
}

#[test]
fn selectors_read_like_sentences() {
    let (record, _) = read(
        "NetworkPolicy",
        "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}, {namespaceSelector: {}, podSelector: {matchLabels: {a: b}}}]}]}",
    )
    .unwrap();
    assert_eq!(record.key.to_string(), "NetworkPolicy default/p");
    assert_eq!(record.subject.to_string(), "default/app=web");
    let peers: Vec<String> = record
        .ingress
        .iter()
        .flatten()
        .flat_map(|rule| rule.peers.iter().flatten())
        .map(|peer| match peer {
            PolicyPeer::Pods(selector) => selector.to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(peers, ["[team=red]/*", "*/a=b"]);
}
