//! The cluster: its objects as Calico leaves them, and who has which address.

use std::net::IpAddr;
use std::path::Path;

/// A pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Ipip,
    Vxlan,
    VxlanV6,
}

/// The MAC address of a node's VXLAN device for IPv4 pods: here and there another than the derived one.
pub(crate) const MACS: [(char, &str); 2] = [('a', "66:00:00:00:04:0a"), ('b', "66:00:00:00:04:0b")];
/// The same for IPv6 pods.
pub(crate) const MACS_V6: [(char, &str); 2] = [('a', "66:00:00:00:06:0a"), ('b', "66:00:00:00:06:0b")];

/// `.1` or `.2` in everything that tells the nodes apart.
fn number(node: char) -> u8 {
    if node == 'a' { 1 } else { 2 }
}

fn parse(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The block of a node in a pool.
pub(crate) fn block(place: Place, node: char) -> String {
    let number = number(node);
    match place {
        Place::Ipip => format!("10.244.{number}.0/26"),
        Place::Vxlan => format!("10.245.{number}.0/26"),
        Place::VxlanV6 => format!("fd00:244::{number}00/122"),
    }
}

/// The address in a node's block that its own tunnel device has.
pub(crate) fn tunnel_address(place: Place, node: char) -> IpAddr {
    in_block(place, node, 1)
}

/// The address of a node's pod.
pub(crate) fn address(place: Place, node: char) -> IpAddr {
    in_block(place, node, 2)
}

fn in_block(place: Place, node: char, host: u8) -> IpAddr {
    let number = number(node);
    parse(&match place {
        Place::Ipip => format!("10.244.{number}.{host}"),
        Place::Vxlan => format!("10.245.{number}.{host}"),
        Place::VxlanV6 => format!("fd00:244::{number}0{host}"),
    })
}

/// An address of the block here that was given to the pod there.
pub(crate) fn borrowed() -> IpAddr {
    in_block(Place::Ipip, 'a', BORROWED)
}

/// An address of the block here that nobody has.
pub(crate) fn nobodys() -> IpAddr {
    in_block(Place::Ipip, 'a', BORROWED + 1)
}

/// Its place in the block.
const BORROWED: u8 = 40;

/// A node's IPv6 address.
pub(crate) fn underlay_v6(node: char) -> IpAddr {
    parse(&format!("2001:db8::{}", number(node)))
}

/// A node's address at the end of a pool's tunnels.
pub(crate) fn underlay(place: Place, node: char) -> IpAddr {
    match place {
        Place::Ipip | Place::Vxlan => parse(&format!("192.0.2.{}", number(node))),
        Place::VxlanV6 => underlay_v6(node),
    }
}

/// The node file of the node here: nothing is said of the cluster network.
pub(crate) fn node_file(manifests: &Path, state: &Path) -> String {
    format!(
        "[node]\nname = \"node-a\"\nmanifests = {manifests:?}\nstate-dir = {state:?}\n\n\
         [uplink]\ninterface = \"eth1\"\n\n[workers]\ncores = [0]\n"
    )
}

/// Pools, nodes, blocks and affinities; `vxlan_mode` is that of the pool of [`Place::Vxlan`].
pub(crate) fn manifests(vxlan_mode: &str) -> String {
    let mut text = POOLS.replace("VXLAN-MODE", vxlan_mode);
    for node in ['a', 'b'] {
        let mac = |macs: &[(char, &str); 2]| macs.iter().find(|(of, _)| *of == node).unwrap().1.to_owned();
        text += &format!(
            "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: node-{node}\n  annotations:\n\
             \x20   projectcalico.org/IPv4Address: {}/24\n\
             \x20   projectcalico.org/IPv6Address: {}/64\n\
             \x20   projectcalico.org/IPv4IPIPTunnelAddr: {}\n\
             \x20   projectcalico.org/IPv4VXLANTunnelAddr: {}\n\
             \x20   projectcalico.org/IPv6VXLANTunnelAddr: {}\n\
             \x20   projectcalico.org/VXLANTunnelMACAddr: {}\n\
             \x20   projectcalico.org/VXLANTunnelMACAddrV6: {}\n",
            underlay(Place::Ipip, node),
            underlay_v6(node),
            tunnel_address(Place::Ipip, node),
            tunnel_address(Place::Vxlan, node),
            tunnel_address(Place::VxlanV6, node),
            mac(&MACS),
            mac(&MACS_V6),
        );
        for (name, place) in [
            ("ipip", Place::Ipip),
            ("vxlan", Place::Vxlan),
            ("vxlan-v6", Place::VxlanV6),
        ] {
            let (cidr, given) = (block(place, node), given(place, node));
            text += &format!(
                "---\napiVersion: crd.projectcalico.org/v1\nkind: IPAMBlock\nmetadata: {{name: {name}-{node}}}\n\
                 spec: {{cidr: \"{cidr}\", affinity: \"host:node-{node}\"{given}}}\n\
                 ---\napiVersion: crd.projectcalico.org/v1\nkind: BlockAffinity\nmetadata: {{name: node-{node}-{name}}}\n\
                 spec: {{cidr: \"{cidr}\", node: node-{node}, state: confirmed, deleted: \"false\"}}\n"
            );
        }
    }
    text
}

/// What an IPAMBlock says of the addresses it gave out on another node.
fn given(place: Place, node: char) -> String {
    if (place, node) != (Place::Ipip, 'a') {
        return String::new();
    }
    let nobodys = "null, ".repeat(usize::from(BORROWED));
    format!(", allocations: [{nobodys}0], attributes: [{{handle_id: pod, secondary: {{node: node-b}}}}]")
}

const POOLS: &str = "apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: ipip}
spec: {cidr: 10.244.0.0/16, ipipMode: Always, vxlanMode: Never, natOutgoing: true}
---
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: vxlan}
spec: {cidr: 10.245.0.0/16, ipipMode: Never, vxlanMode: VXLAN-MODE, natOutgoing: true}
---
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: vxlan-v6}
spec: {cidr: \"fd00:244::/64\", ipipMode: Never, vxlanMode: Always, natOutgoing: true}
";
