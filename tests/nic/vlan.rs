//! The uplink is a VLAN: the kernel's own 802.1Q, VXLAN and IP on the other side of a trunk, all inside the machine.
//!
//! The trunk is a veth pair and not the NIC, since nothing outside the machine need speak 802.1Q; virtio-net takes no tags off
//! anyway, and a veth says it does.

use millrace_tools::lab::plan::{PREFIX_LENGTH, UPLINK, VNI, VXLAN_PORT};
use millrace_tools::lab::traffic::talk::Talk;

use crate::counters::Counters;
use crate::rig::{PODS, Rig, check_talk, talk_words};

/// The trunk's end in the machine's own namespace, the other one, and the namespace that has it.
pub(crate) const TRUNK: &str = "trunk";
pub(crate) const FAR: &str = "far";
pub(crate) const PEER: &str = "peer";
/// The peer's own device of the underlay's VLAN. What it sends bears a priority too, which says nothing of the VLAN.
pub(crate) const UNDER: &str = "under";
pub(crate) const PRIORITY: u16 = 5;
/// The underlay's VLAN, and one of the node's own.
pub(crate) const VLAN: u16 = 10;
const OTHER_VLAN: u16 = 20;
/// The node's and the peer's last byte in networks of the node's own: in the other VLAN, and untagged.
pub(crate) const OWN_NETWORKS: [&str; 2] = ["198.51.100", "203.0.113"];

const TALK: Talk = Talk {
    flows: 8,
    bytes: 20_000,
    datagrams: 4,
};

/// Everything about an uplink that is a VLAN.
pub(crate) fn assert_carries(rig: &mut Rig) {
    rig.entitle("the uplink a VLAN");
    {
        let _step = rig.step("a trunk with VLANs, and a peer on it");
        make_trunk(rig);
        make_peer(rig);
    }
    refuse_other_tags(rig);
    make_uplink(rig, "802.1Q");
    rig.start("native", &[]);
    let row = rig.uplink();
    assert_eq!(
        (&row["interface"], &row["device"], &row["vlan"]),
        (&UPLINK.into(), &TRUNK.into(), &VLAN.into()),
        "{row:#}"
    );
    assert!(has_program(rig) && !takes_tags_off(rig));
    rig.add_pods();
    carry(rig);
    reach_the_node(rig);
    assert!(
        rig.steering("other_vlan_passed") > 0,
        "what is of no VLAN or another is counted"
    );
    rig.end("KILL");
    reach_the_node(rig);
    crate::ways::widen(rig);
    rig.restart("start again");
    carry(rig);
    crate::ways::assert_carries(rig);
    rig.end("TERM");
    {
        let _step = rig.step("uninstall");
        let config = rig.node.config();
        let told = rig.node.ask(&["uninstall", "--config", &config]).unwrap();
        let told = told.success().unwrap_or_else(|error| panic!("{error}"));
        assert!(told.contains("steering program of trunk"), "{told}");
        assert!(!has_program(rig) && takes_tags_off(rig), "{told}");
    }
}

fn has_program(rig: &Rig) -> bool {
    rig.inside(&format!("ip -d link show {TRUNK}"))
        .contains("prog/xdp")
}

fn takes_tags_off(rig: &Rig) -> bool {
    let told = rig.inside(&format!("ethtool -k {TRUNK}"));
    assert!(told.contains("rx-vlan-offload: "), "{told}");
    told.contains("rx-vlan-offload: on")
}

/// The trunk between the node and its peer, with a VLAN and an untagged network of the node's own; the NIC makes room.
fn make_trunk(rig: &Rig) {
    let ends = "numrxqueues 2 numtxqueues 2";
    let wire = "tx off sg off tso off gso off txvlan off";
    let [tagged, untagged] = OWN_NETWORKS;
    for line in [
        format!("ip link set {UPLINK} down"),
        format!("ip address flush dev {UPLINK}"),
        format!("ip link set {UPLINK} name nic0"),
        format!("ip netns add {PEER}"),
        format!("ip link add {TRUNK} {ends} type veth peer name {FAR} {ends} netns {PEER}"),
        format!("ethtool -K {TRUNK} {wire}"),
        format!("ip netns exec {PEER} ethtool -K {FAR} {wire}"),
        format!("ip address add {untagged}.1/24 dev {TRUNK}"),
        format!("ip link set {TRUNK} up"),
        format!("ip link add link {TRUNK} name other type vlan id {OTHER_VLAN}"),
        format!("ip address add {tagged}.1/24 dev other"),
        "ip link set other up".to_owned(),
        format!("ip -n {PEER} link set lo up"),
        format!("ip -n {PEER} address add {untagged}.2/24 dev {FAR}"),
        format!("ip -n {PEER} link set {FAR} up"),
        format!("ip -n {PEER} link add link {FAR} name other type vlan id {OTHER_VLAN}"),
        format!("ip -n {PEER} address add {tagged}.2/24 dev other"),
        format!("ip -n {PEER} link set other up"),
    ] {
        rig.inside(&line);
    }
}

/// The peer is the lab's stock node, by its addresses, on its end of the trunk; its pod's address is its own.
fn make_peer(rig: &Rig) {
    let (peer, node) = (rig.lab.nodes()[0].plan(), rig.node.plan());
    let pod = rig.stock_pod().1;
    let (tunnel_mac, tunnel) = (node.vtep_mac(), node.tunnel_address());
    for line in [
        format!("link add link {FAR} name {UNDER} type vlan id {VLAN} egress-qos-map 0:{PRIORITY}"),
        format!(
            "address add {}/{PREFIX_LENGTH} dev under",
            peer.underlay_address()
        ),
        "link set under up".to_owned(),
        format!(
            "link add tunnel address {} mtu 1450 type vxlan id {VNI} dstport {VXLAN_PORT} local {} remote {} dev under nolearning",
            peer.vtep_mac(),
            peer.underlay_address(),
            node.underlay_address()
        ),
        format!("address add {}/32 dev tunnel", peer.tunnel_address()),
        "link set tunnel up".to_owned(),
        format!("address add {pod}/32 dev lo"),
        format!("neighbour add {tunnel} lladdr {tunnel_mac} dev tunnel nud permanent"),
        format!(
            "route add {} via {tunnel} dev tunnel onlink src {pod}",
            node.pod_cidr()
        ),
    ] {
        rig.inside(&format!("ip -n {PEER} {line}"));
    }
}

/// The node's address on a VLAN of this protocol on the trunk, under the name that the node file has for the uplink.
fn make_uplink(rig: &Rig, protocol: &str) {
    let address = rig.node.plan().underlay_address();
    for line in [
        format!("link add link {TRUNK} name {UPLINK} type vlan protocol {protocol} id {VLAN}"),
        format!("address add {address}/{PREFIX_LENGTH} dev {UPLINK}"),
        format!("link set {UPLINK} up"),
    ] {
        rig.inside(&format!("ip {line}"));
    }
}

/// A service provider's tag is none that the switch carries; nothing is touched.
fn refuse_other_tags(rig: &mut Rig) {
    make_uplink(rig, "802.1ad");
    rig.assert_refused("", "another protocol than 802.1Q");
    assert!(!has_program(rig) && takes_tags_off(rig));
    rig.inside(&format!("ip link delete {UPLINK}"));
}

/// Pings of every size, TCP and UDP between the pods and the peer's, both ways.
fn carry(rig: &Rig) {
    let _step = rig.step("pods through the tunnel in the VLAN");
    let (there, here) = (rig.stock_pod().1, rig.address(PODS[0]));
    for size in [56, 1422] {
        for (from, to) in [(PEER, here), (PODS[0], there)] {
            let line = format!("ip netns exec {from} ping -n -c 3 -i 0.2 -W 80 -M do -s {size} {to}");
            let told = rig.inside(&line);
            assert!(told.contains("3 packets transmitted, 3 received"), "{told}");
        }
    }
    let before = Counters::settled(&rig.node);
    let echo = format!("{there}:7001");
    let words = ["ip", "netns", "exec", PEER, "millrace-guest", "echo", &echo];
    let pid = rig
        .node
        .machine()
        .spawn(&words, "/var/log/peer-echo.log")
        .unwrap();
    for (from, to) in [(PEER, format!("{here}:7000")), (PODS[0], echo)] {
        let mut words: Vec<String> = ["ip", "netns", "exec", from, "millrace-guest"]
            .map(str::to_owned)
            .into();
        words.extend(talk_words(&to, &TALK));
        let line = rig.inside(&words.join(" "));
        check_talk(&format!("{from} -> {to}"), &TALK, &line);
    }
    rig.inside(&format!("kill {pid}"));
    let after = Counters::settled(&rig.node);
    let dropped = after.dropped_for("vlan_tagged") - before.dropped_for("vlan_tagged");
    assert_eq!(dropped, 0, "{:#}", after.dropped());
}

/// The node's own kernel answers in the underlay's VLAN, in another one, and untagged.
fn reach_the_node(rig: &Rig) {
    let _step = rig.step("the node itself, in each VLAN and in none");
    let own = OWN_NETWORKS.map(|network| format!("{network}.1"));
    for to in own
        .into_iter()
        .chain([rig.node.plan().underlay_address().to_string()])
    {
        let told = rig.inside(&format!("ip netns exec {PEER} ping -n -c 3 -i 0.2 -W 80 {to}"));
        assert!(told.contains("3 packets transmitted, 3 received"), "{told}");
    }
}
