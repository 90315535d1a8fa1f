//! What else goes by an uplink that is a VLAN than VXLAN: a Service's packets from inside and outside, IPIP, and packets in no
//! tunnel. The judge is the peer's kernel, whose VLAN device hands over nothing that does not bear its tag.

use std::time::Duration;

use millrace_tools::lab::traffic::talk::Talk;
use millrace_tools::lab::wait_until;

use crate::rig::{PODS, Rig, check_talk, talk_words};
use crate::vlan::{PEER, UNDER};
use crate::wire::Wire;

/// MTU of the underlay, and of the pods' interfaces once they are to send what fits into no tunnel.
const LINK_MTU: u32 = 1500;
/// Bytes that IPIP adds to a packet (RFC 2003).
const IPIP_OVERHEAD: u32 = 20;
/// Bytes of IPv4 and ICMP header in an echo request.
const ECHO_HEADERS: u32 = 28;
/// Longer than the emulated machine takes for what is to come about at all.
const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTER_IP: &str = "10.96.0.10";
const NODE_PORT: u16 = 30_080;
/// Where the peer's pod echoes, and the machine's.
const ECHO: u16 = 7001;
const OWN_ECHO: u16 = 7000;

const TALK: Talk = Talk {
    flows: 4,
    bytes: 20_000,
    datagrams: 4,
};

/// Everything, with the switch running in VXLAN; it ends with the switch running without a tunnel.
pub(crate) fn assert_carries(rig: &mut Rig) {
    let echo = format!("{}:{ECHO}", rig.stock_pod().1);
    let words = ["ip", "netns", "exec", PEER, "millrace-guest", "echo", &echo];
    let pid = rig
        .node
        .machine()
        .spawn(&words, "/var/log/ways-echo.log")
        .unwrap();
    let wire = Wire::listen(rig);
    call_services(rig);
    go_by_ipip(rig);
    go_plainly(rig);
    wire.assert_tagged(rig);
    rig.inside(&format!("kill {pid}"));
}

/// Gives the pod and its port room for packets that no tunnel has, while no switch runs: one takes a port's MTU when it takes
/// the port. One that knows a smaller MTU than the pod rightly tells who calls the node port of it, and a kernel takes that for
/// the way to the node, with every tunnel there.
pub(crate) fn widen(rig: &Rig) {
    let links = rig.inside(&format!("ip -o -n {} link show eth0", PODS[0]));
    let index = links
        .split_once("eth0@if")
        .and_then(|(_, rest)| rest.split(':').next())
        .unwrap_or_else(|| panic!("a veth: {links}"));
    let links = rig.inside("ip -o link");
    let port = links
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{index}: "))?.split('@').next())
        .unwrap_or_else(|| panic!("the pod's port {index}: {links}"));
    rig.inside(&format!("ip link set {port} mtu {LINK_MTU}"));
    rig.inside(&format!("ip -n {} link set eth0 mtu {LINK_MTU}", PODS[0]));
}

/// Calls a ClusterIP whose endpoint is behind the VLAN, and a node port from there.
fn call_services(rig: &Rig) {
    let _step = rig.step("Services in the VLAN");
    let node = rig.node.plan();
    let text = [
        service(
            "inside",
            &format!("clusterIP: {CLUSTER_IP}, clusterIPs: [{CLUSTER_IP}]"),
            "",
            (&rig.stock_pod().1.to_string(), ECHO),
        ),
        service(
            "outside",
            "type: NodePort, clusterIP: 10.96.0.11, clusterIPs: [10.96.0.11]",
            &format!(", nodePort: {NODE_PORT}"),
            (&rig.address(PODS[0]).to_string(), OWN_ECHO),
        ),
    ];
    write(rig, "services", &text.join("---\n"));
    let known = wait_until("both Services", PATIENCE, || {
        let told = rig.node.ask(&["show", "services"])?.stdout;
        Ok(["lab/inside", "lab/outside"]
            .iter()
            .all(|name| told.contains(name)))
    });
    known.unwrap_or_else(|error| panic!("{error}"));
    talk(rig, PODS[0], &format!("{CLUSTER_IP}:80"));
    talk(rig, PEER, &format!("{}:{NODE_PORT}", node.underlay_address()));
    for counter in ["to_switch_node_port", "to_switch_tunnel"] {
        assert!(rig.steering(counter) > 0, "{counter}");
    }
}

/// A Service of TCP and UDP with one endpoint.
fn service(name: &str, spec: &str, node_port: &str, (address, port): (&str, u16)) -> String {
    let port_of = |protocol: &str, to: &str| {
        format!(
            "{{name: {}, protocol: {protocol}, port: 80, targetPort: {port}{to}}}",
            protocol.to_lowercase()
        )
    };
    let slice_port = |protocol: &str| {
        format!(
            "{{name: {}, protocol: {protocol}, port: {port}}}",
            protocol.to_lowercase()
        )
    };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: lab}}\n\
         spec: {{{spec}, ports: [{}, {}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: lab, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{}, {}]\n\
         endpoints: [{{addresses: [{address:?}], conditions: {{ready: true}}}}]\n",
        port_of("TCP", node_port),
        port_of("UDP", node_port),
        slice_port("TCP"),
        slice_port("UDP"),
    )
}

/// The peer's lease becomes one of flannel's ipip backend, and its way here an ipip device.
fn go_by_ipip(rig: &Rig) {
    let _step = rig.step("IPIP in the VLAN");
    let (peer, node) = (rig.lab.nodes()[0].plan(), rig.node.plan());
    let lease = |backend: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  annotations:\n\
             \x20   flannel.alpha.coreos.com/kube-subnet-manager: \"true\"\n\
             \x20   flannel.alpha.coreos.com/public-ip: {}\n{backend}\
             spec: {{podCIDR: {cidr}, podCIDRs: [{cidr}]}}\n",
            peer.name(),
            peer.underlay_address(),
            cidr = peer.pod_cidr(),
        )
    };
    let ipip = "    flannel.alpha.coreos.com/backend-type: ipip\n    flannel.alpha.coreos.com/backend-data: 'null'\n";
    write(rig, &peer.name(), &lease(ipip));
    for line in [
        format!(
            "link add ipip-a type ipip local {} remote {} ttl inherit",
            peer.underlay_address(),
            node.underlay_address()
        ),
        format!("link set ipip-a mtu {} up", LINK_MTU - IPIP_OVERHEAD),
        format!(
            "route replace {} dev ipip-a src {}",
            node.pod_cidr(),
            rig.stock_pod().1
        ),
    ] {
        rig.inside(&format!("ip -n {PEER} {line}"));
    }
    await_tunnel(rig, "ipip");
    let before = packets_of(rig, "ipip-a");
    carry(rig, LINK_MTU - IPIP_OVERHEAD);
    let after = packets_of(rig, "ipip-a");
    assert!(
        after >= before + 6,
        "the peer's ipip device had {before} packets, then {after}"
    );
}

/// Without a tunnel, as with flannel's `DirectRouting`: the nodes are on one subnet.
fn go_plainly(rig: &mut Rig) {
    rig.end("TERM");
    rig.configure("native", &[("overlay", "direct-routing = true")]);
    rig.restart("start with direct-routing");
    let _step = rig.step("no tunnel in the VLAN");
    let node = rig.node.plan();
    rig.inside(&format!(
        "ip -n {PEER} route replace {} via {} dev {UNDER} src {}",
        node.pod_cidr(),
        node.underlay_address(),
        rig.stock_pod().1
    ));
    // The pod was told what fits into the tunnel, and Linux remembers it for ten minutes.
    rig.inside(&format!("ip -n {} route flush cache", PODS[0]));
    await_tunnel(rig, "none");
    let before = packets_of(rig, "ipip-a");
    carry(rig, LINK_MTU);
    assert_eq!(packets_of(rig, "ipip-a"), before, "nothing in the tunnel");
    assert!(rig.steering("to_switch_pod") > 0);
}

/// Pings that fill the MTU both ways, and one byte more, of which the pod is told; then TCP and UDP.
fn carry(rig: &Rig, mtu: u32) {
    let (there, here) = (rig.stock_pod().1, rig.address(PODS[0]));
    let full = mtu - ECHO_HEADERS;
    for (from, to) in [(PODS[0], there), (PEER, here)] {
        let line = format!("ip netns exec {from} ping -n -c 3 -i 0.2 -W 80 -M do -s {full} {to}");
        let told = rig.inside(&line);
        assert!(told.contains("3 packets transmitted, 3 received"), "{told}");
    }
    let more = full + 1;
    let line = format!(
        "ip netns exec {} ping -n -c 1 -W 3 -M do -s {more} {there}",
        PODS[0]
    );
    let told = rig.told_inside(&line);
    assert!(told.contains(" 0 received"), "{told}");
    if mtu < LINK_MTU {
        assert!(told.contains(&format!("mtu = {mtu}")), "{told}");
    }
    talk(rig, PODS[0], &format!("{there}:{ECHO}"));
    talk(rig, PEER, &format!("{here}:{OWN_ECHO}"));
}

fn talk(rig: &Rig, from: &str, to: &str) {
    let mut words: Vec<String> = ["ip", "netns", "exec", from, "millrace-guest"]
        .map(str::to_owned)
        .into();
    words.extend(talk_words(to, &TALK));
    let line = rig.inside(&words.join(" "));
    check_talk(&format!("{from} -> {to}"), &TALK, &line);
}

/// Waits until the way to the peer is of this kind.
fn await_tunnel(rig: &Rig, kind: &str) {
    let waited = wait_until(&format!("{kind} to the peer"), PATIENCE, || {
        let peers = rig.node.json(&["show", "peers"])?;
        let mut peers = peers.as_array().unwrap().iter();
        Ok(peers.any(|peer| {
            peer["tunnel"]
                .as_str()
                .is_some_and(|tunnel| tunnel.starts_with(kind))
                && peer["ready"] == true
        }))
    });
    waited.unwrap_or_else(|error| panic!("{error}: {:#}", rig.node.json(&["show", "peers"]).unwrap()));
}

/// Packets that a device of the peer's has received.
fn packets_of(rig: &Rig, device: &str) -> u64 {
    let file = format!("/sys/class/net/{device}/statistics/rx_packets");
    let told = rig.inside(&format!("ip netns exec {PEER} cat {file}"));
    told.trim().parse().unwrap()
}

fn write(rig: &Rig, name: &str, text: &str) {
    let config = rig.node.config();
    let folder = config.rsplit_once('/').expect("a file in a folder").0;
    rig.node
        .machine()
        .write(&format!("{folder}/manifests/{name}.yaml"), text)
        .unwrap();
}
