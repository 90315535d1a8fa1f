use super::*;

#[test]
fn pods() {
    let dual = |text: &str| node("node-a", "10.244.1.0/24, 'fd00:1::/64'", "192.0.2.1", MAC_A) + text;
    let host = |ip: &str| pod("p", "node-a", ip).replace("spec: {", "spec: {hostNetwork: true, ");
    let ended = |phase: &str| {
        pod("q", "node-a", "10.244.1.5").replace("status: {", &format!("status: {{phase: {phase}, "))
    };
    let p = pod("p", "node-a", "10.244.1.5");
    check_rows(&[
        ("good", dual(&p), "node-a p", &[]),
        (
            "dual stack",
            dual(&pod("p", "node-a", "10.244.1.5,fd00:1::5")),
            "node-a p",
            &[],
        ),
        ("before its node", p.clone() + &node_a(), "node-a p", &[]),
        ("not yet scheduled", dual(&pod("p", "", "")), "node-a p", &[]),
        (
            "not yet addressed",
            dual(&pod("p", "node-z", "")),
            "node-a p",
            &[],
        ),
        (
            "no such node",
            dual(&pod("p", "node-z", "10.244.9.5")),
            "node-a p",
            &["warning Pod default/p: spec.nodeName: there is no good Node node-z"],
        ),
        (
            "bad node name",
            dual(&pod("p", "Z", "10.244.1.5")),
            "node-a",
            &["refused Pod default/p: spec.nodeName: `Z` is no DNS-1123"],
        ),
        (
            "bad name",
            dual(&pod("p_", "node-a", "10.244.1.5")),
            "node-a",
            &["refused Pod default/p_: metadata.name: `p_` is no"],
        ),
        (
            "bad namespace",
            dual(&p.replace("{name: p}", "{name: p, namespace: a.b}")),
            "node-a",
            &["refused Pod a.b/p: metadata.namespace: `a.b` is no DNS-1123 label"],
        ),
        (
            "no address",
            dual(&pod("p", "node-a", "10.244.1")),
            "node-a",
            &["refused Pod default/p: status.podIPs[0]: `10.244.1` is no IP address"],
        ),
        (
            "loopback",
            dual(&pod("p", "node-a", "127.0.0.1")),
            "node-a",
            &["refused Pod default/p: status.podIPs[0]: 127.0.0.1 is a loopback address"],
        ),
        (
            "v6 loopback",
            dual(&pod("p", "node-a", "::1")),
            "node-a",
            &["refused Pod default/p: status.podIPs[0]: ::1 is a loopback address"],
        ),
        (
            "v6 multicast second",
            dual(&pod("p", "node-a", "10.244.1.5,ff02::1")),
            "node-a",
            &["refused Pod default/p: status.podIPs[1]: ff02::1 is a multicast address"],
        ),
        (
            "one family twice",
            dual(&pod("p", "node-a", "10.244.1.5,10.244.1.6")),
            "node-a",
            &["refused Pod default/p: status.podIPs: 10.244.1.5 and 10.244.1.6 are of one family"],
        ),
        (
            "outside",
            dual(&pod("p", "node-a", "10.244.2.5")),
            "node-a",
            &[
                "refused Pod default/p: 10.244.2.5 lies outside the pod CIDRs of its Node node-a (10.244.1.0/24, fd00:1::/64)",
            ],
        ),
        (
            "family that the node has not",
            node_a() + &pod("p", "node-a", "fd00:1::5"),
            "node-a",
            &[
                "refused Pod default/p: fd00:1::5 lies outside the pod CIDRs of its Node node-a (10.244.1.0/24)",
            ],
        ),
        (
            "tunnel address",
            dual(&pod("p", "node-a", "10.244.1.0")),
            "node-a",
            &["refused Pod default/p: 10.244.1.0 is the tunnel address of Node node-a"],
        ),
        (
            "gateway",
            dual(&pod("p", "node-a", "10.244.1.1")),
            "node-a",
            &["refused Pod default/p: 10.244.1.1 is the gateway of Node node-a"],
        ),
        (
            "v6 gateway",
            dual(&pod("p", "node-a", "fd00:1::1")),
            "node-a",
            &["refused Pod default/p: fd00:1::1 is the gateway of Node node-a"],
        ),
        (
            "last address",
            dual(&pod("p", "node-a", "10.244.1.255")),
            "node-a p",
            &[],
        ),
        (
            "address twice",
            dual(&(p.clone() + &pod("q", "node-a", "10.244.1.5"))),
            "node-a p",
            &["refused Pod default/q: 10.244.1.5 is the address of Pod default/p, which came first"],
        ),
        (
            "second of an ended pod",
            dual(&(p.clone() + &ended("Succeeded"))),
            "node-a p",
            &[],
        ),
        (
            "second of a failed pod",
            dual(&(ended("Failed") + &p)),
            "node-a p",
            &[],
        ),
        (
            "pod twice",
            dual(&(p.clone() + &p)),
            "node-a p",
            &["refused Pod default/p: the same object stands at x.yaml:7 (document 2)"],
        ),
        ("host network", dual(&host("192.0.2.1")), "node-a p", &[]),
        (
            "host network with a pod's address",
            dual(&host("10.244.1.7")),
            "node-a",
            &["refused Pod default/p: 10.244.1.7 lies in the pod CIDR of Node node-a, but spec.hostNetwork"],
        ),
        (
            "podIP against podIPs",
            dual(&p.replace("status: {", "status: {podIP: 10.244.1.6, ")),
            "node-a",
            &[
                "refused Pod default/p: status.podIP `10.244.1.6` must equal the first of status.podIPs, `10.244.1.5`",
            ],
        ),
        (
            "podIP alone",
            dual(&p.replace("podIPs: [{ip: '10.244.1.5'}]", "podIP: 10.244.1.5")),
            "node-a p",
            &[],
        ),
    ]);
}
