//! A stock Linux node in the shape flannel and the CNI bridge plugin give it, with nothing of ours in it.
//!
//! The tunnel is what flannel's vxlan backend sets up: a `vxlan` device that learns nothing, and for each peer one route,
//! one permanent neighbour and one forwarding entry (flannel-io/flannel, `pkg/backend/vxlan`).

use std::net::Ipv4Addr;

use super::plan::{
    NodePlan, PREFIX_LENGTH, PREFIX_LENGTH_V6, PlanV6, UPLINK, VNI, VXLAN_OVERHEAD, VXLAN_OVERHEAD_V6,
    VXLAN_PORT,
};
use super::pod::{POD_INTERFACE, address_v6};
use super::{LabError, Namespace, Pod};

/// The tunnel device, named as flannel names it.
pub const TUNNEL: &str = "flannel.1";
/// The tunnel device of IPv6 pods, likewise.
pub const TUNNEL_V6: &str = "flannel-v6.1";
/// The bridge the pods are on, named as flannel's CNI configuration names it.
pub const POD_BRIDGE: &str = "cni0";

/// Makes the tunnel device and the pods' bridge.
pub(crate) fn install(node: &Namespace, plan: NodePlan, underlay_mtu: u32) -> Result<(), LabError> {
    let (vni, port) = (VNI.to_string(), VXLAN_PORT.to_string());
    let (local, vtep_mac) = (plan.underlay_address().to_string(), plan.vtep_mac().to_string());
    let mtu = pod_mtu(plan, underlay_mtu).to_string();
    let mut tunnel = vec!["link", "add", "name", TUNNEL, "address", &vtep_mac, "mtu", &mtu];
    tunnel.extend([
        "type",
        "vxlan",
        "id",
        &vni,
        "dstport",
        &port,
        "local",
        &local,
        "dev",
        UPLINK,
        "nolearning",
    ]);
    node.ip(&tunnel)?;
    node.ip(&[
        "address",
        "add",
        &format!("{}/32", plan.tunnel_address()),
        "dev",
        TUNNEL,
    ])?;
    node.ip(&["link", "set", TUNNEL, "up"])?;

    let bridge_mac = plan.bridge_mac().to_string();
    node.ip(&[
        "link",
        "add",
        "name",
        POD_BRIDGE,
        "address",
        &bridge_mac,
        "mtu",
        &mtu,
        "type",
        "bridge",
    ])?;
    node.ip(&[
        "address",
        "add",
        &format!("{}/{PREFIX_LENGTH}", plan.gateway()),
        "dev",
        POD_BRIDGE,
    ])?;
    node.ip(&["link", "set", POD_BRIDGE, "up"])?;
    plan.v6().map_or(Ok(()), |v6| install_v6(node, v6, &mtu))
}

/// Makes the tunnel device of IPv6 pods, over the IPv6 underlay, and gives the bridge its gateway.
fn install_v6(node: &Namespace, plan: PlanV6, mtu: &str) -> Result<(), LabError> {
    let (vni, port) = (VNI.to_string(), VXLAN_PORT.to_string());
    let (local, mac) = (plan.underlay_address().to_string(), plan.vtep_mac().to_string());
    let mut tunnel = vec!["link", "add", "name", TUNNEL_V6, "address", &mac, "mtu", mtu];
    tunnel.extend(["type", "vxlan", "id", &vni, "dstport", &port]);
    tunnel.extend(["local", &local, "dev", UPLINK, "nolearning"]);
    node.ip(&tunnel)?;
    let own = format!("{}/128", plan.tunnel_address());
    node.ip(&["address", "add", &own, "dev", TUNNEL_V6, "nodad"])?;
    node.ip(&["link", "set", TUNNEL_V6, "up"])?;
    let gateway = format!("{}/{PREFIX_LENGTH_V6}", plan.gateway());
    node.ip(&["address", "add", &gateway, "dev", POD_BRIDGE, "nodad"])
        .map(drop)
}

/// Tells the node of a peer: where its pods are, and how its end of the tunnel is reached.
pub(crate) fn add_peer(node: &Namespace, peer: NodePlan) -> Result<(), LabError> {
    let (tunnel_address, mac) = (peer.tunnel_address().to_string(), peer.vtep_mac().to_string());
    let public = peer.underlay_address().to_string();
    node.ip(&[
        "neighbour",
        "replace",
        &tunnel_address,
        "lladdr",
        &mac,
        "dev",
        TUNNEL,
        "nud",
        "permanent",
    ])?;
    node.bridge(&[
        "fdb",
        "replace",
        &mac,
        "dev",
        TUNNEL,
        "dst",
        &public,
        "self",
        "permanent",
    ])?;
    let route = [
        "route",
        "replace",
        &peer.pod_cidr(),
        "via",
        &tunnel_address,
        "dev",
        TUNNEL,
        "onlink",
    ];
    node.ip(&route)?;
    peer.v6().map_or(Ok(()), |v6| add_peer_v6(node, v6))
}

fn add_peer_v6(node: &Namespace, peer: PlanV6) -> Result<(), LabError> {
    let (own, mac) = (peer.tunnel_address().to_string(), peer.vtep_mac().to_string());
    let public = peer.underlay_address().to_string();
    let mut neighbour = vec!["neighbour", "replace", &own, "lladdr", &mac, "dev", TUNNEL_V6];
    neighbour.extend(["nud", "permanent"]);
    node.ip(&neighbour)?;
    let mut entry = vec!["fdb", "replace", &mac, "dev", TUNNEL_V6, "dst", &public];
    entry.extend(["self", "permanent"]);
    node.bridge(&entry)?;
    let route = [
        "route",
        "replace",
        &peer.pod_cidr(),
        "via",
        &own,
        "dev",
        TUNNEL_V6,
        "onlink",
    ];
    node.ip(&route).map(drop)
}

/// Puts a pod on the bridge, as the CNI bridge plugin does. Offloads stay as a stock node has them.
pub(crate) fn attach(
    node: &Namespace,
    plan: NodePlan,
    pod: (&str, &Namespace, Ipv4Addr),
    mtu: u32,
) -> Result<(), LabError> {
    let (name, namespace, address) = pod;
    let (port, mtu) = (port_name(name), mtu.to_string());
    let mut make = vec!["link", "add", "name", &port, "mtu", &mtu, "type", "veth"];
    make.extend([
        "peer",
        "name",
        POD_INTERFACE,
        "netns",
        namespace.name(),
        "mtu",
        &mtu,
    ]);
    node.ip(&make)?;
    node.ip(&["link", "set", &port, "master", POD_BRIDGE, "up"])?;
    // flannel's CNI configuration asks for it, so that a pod reaches itself through a Service.
    node.bridge(&["link", "set", "dev", &port, "hairpin", "on"])?;
    let prefix = format!("{address}/{PREFIX_LENGTH}");
    namespace.ip(&["address", "add", &prefix, "dev", POD_INTERFACE])?;
    namespace.ip(&["link", "set", POD_INTERFACE, "up"])?;
    namespace.ip(&["route", "add", "default", "via", &plan.gateway().to_string()])?;
    let (Some(v6), Some(address)) = (plan.v6(), address_v6(plan, address)) else {
        return Ok(());
    };
    let prefix = format!("{address}/{PREFIX_LENGTH_V6}");
    namespace.ip(&["address", "add", &prefix, "dev", POD_INTERFACE, "nodad"])?;
    namespace
        .ip(&["route", "add", "default", "via", &v6.gateway().to_string()])
        .map(drop)
}

/// Takes a pod off the bridge.
pub(crate) fn detach(node: &Namespace, pod: &Pod) -> Result<(), LabError> {
    node.ip(&["link", "delete", &port_name(pod.name())]).map(drop)
}

/// The node's end of a pod's veth.
fn port_name(pod: &str) -> String {
    // Linux takes at most 15 letters (IFNAMSIZ less the final zero).
    format!("v-{pod}").chars().take(15).collect()
}

/// The MTU of pods over a VXLAN tunnel.
pub(crate) fn pod_mtu(plan: NodePlan, underlay_mtu: u32) -> u32 {
    // flannel takes the larger of both families' for all pods.
    let overhead = plan.v6().map_or(VXLAN_OVERHEAD, |_| VXLAN_OVERHEAD_V6);
    underlay_mtu.saturating_sub(overhead)
}
