//! A stock Linux node in the shape flannel and the CNI bridge plugin give it, with nothing of ours in it.
//!
//! The tunnel is what flannel's vxlan backend sets up: a `vxlan` device that learns nothing, and for each peer one route,
//! one permanent neighbour and one forwarding entry (flannel-io/flannel, `pkg/backend/vxlan`). In a lab of Calico's objects the
//! same goes by Calico's name, with its identifier and port.

use std::net::Ipv4Addr;

use super::plan::{
    Network, NodePlan, PREFIX_LENGTH, PREFIX_LENGTH_V6, PlanV6, UPLINK, VXLAN_OVERHEAD, VXLAN_OVERHEAD_V6,
};
use super::pod::{POD_INTERFACE, address_v6};
use super::{LabError, Namespace, Pod};

/// The tunnel device, named as flannel names it.
pub const TUNNEL: &str = "flannel.1";
/// The tunnel device of IPv6 pods, likewise.
pub const TUNNEL_V6: &str = "flannel-v6.1";
/// The same two as Calico names them.
const CALICO_TUNNELS: [&str; 2] = ["vxlan.calico", "vxlan-v6.calico"];
/// The bridge the pods are on, named as flannel's CNI configuration names it.
pub const POD_BRIDGE: &str = "cni0";

/// The names of the tunnel devices, for IPv4 and IPv6.
fn tunnels(network: Network) -> [&'static str; 2] {
    match network {
        Network::Flannel => [TUNNEL, TUNNEL_V6],
        Network::Calico => CALICO_TUNNELS,
    }
}

/// Makes the tunnel device and the pods' bridge.
pub(crate) fn install(node: &Namespace, plan: NodePlan, underlay_mtu: u32) -> Result<(), LabError> {
    let (vni, port) = numbers(plan.network());
    let [device, _] = tunnels(plan.network());
    let (local, vtep_mac) = (plan.underlay_address().to_string(), plan.vtep_mac().to_string());
    let mtu = pod_mtu(plan, underlay_mtu).to_string();
    let mut tunnel = vec!["link", "add", "name", device, "address", &vtep_mac, "mtu", &mtu];
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
        device,
    ])?;
    node.ip(&["link", "set", device, "up"])?;

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
    plan.v6()
        .map_or(Ok(()), |v6| install_v6(node, plan.network(), v6, &mtu))
}

/// Identifier and port of its VXLAN, as words.
fn numbers(network: Network) -> (String, String) {
    (network.vni().to_string(), network.vxlan_port().to_string())
}

/// Makes the tunnel device of IPv6 pods, over the IPv6 underlay, and gives the bridge its gateway.
fn install_v6(node: &Namespace, network: Network, plan: PlanV6, mtu: &str) -> Result<(), LabError> {
    let (vni, port) = numbers(network);
    let [_, device] = tunnels(network);
    let (local, mac) = (plan.underlay_address().to_string(), plan.vtep_mac().to_string());
    let mut tunnel = vec!["link", "add", "name", device, "address", &mac, "mtu", mtu];
    tunnel.extend(["type", "vxlan", "id", &vni, "dstport", &port]);
    tunnel.extend(["local", &local, "dev", UPLINK, "nolearning"]);
    node.ip(&tunnel)?;
    let own = format!("{}/128", plan.tunnel_address());
    node.ip(&["address", "add", &own, "dev", device, "nodad"])?;
    node.ip(&["link", "set", device, "up"])?;
    let gateway = format!("{}/{PREFIX_LENGTH_V6}", plan.gateway());
    node.ip(&["address", "add", &gateway, "dev", POD_BRIDGE, "nodad"])
        .map(drop)
}

/// Tells the node of a peer: where its pods are, and how its end of the tunnel is reached.
pub(crate) fn add_peer(node: &Namespace, peer: NodePlan) -> Result<(), LabError> {
    let [device, device_v6] = tunnels(peer.network());
    let (tunnel_address, mac) = (peer.tunnel_address().to_string(), peer.vtep_mac().to_string());
    let public = peer.underlay_address().to_string();
    node.ip(&[
        "neighbour",
        "replace",
        &tunnel_address,
        "lladdr",
        &mac,
        "dev",
        device,
        "nud",
        "permanent",
    ])?;
    node.bridge(&[
        "fdb",
        "replace",
        &mac,
        "dev",
        device,
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
        device,
        "onlink",
    ];
    node.ip(&route)?;
    peer.v6().map_or(Ok(()), |v6| add_peer_v6(node, device_v6, v6))
}

fn add_peer_v6(node: &Namespace, device: &str, peer: PlanV6) -> Result<(), LabError> {
    let (own, mac) = (peer.tunnel_address().to_string(), peer.vtep_mac().to_string());
    let public = peer.underlay_address().to_string();
    let mut neighbour = vec!["neighbour", "replace", &own, "lladdr", &mac, "dev", device];
    neighbour.extend(["nud", "permanent"]);
    node.ip(&neighbour)?;
    let mut entry = vec!["fdb", "replace", &mac, "dev", device, "dst", &public];
    entry.extend(["self", "permanent"]);
    node.bridge(&entry)?;
    let route = [
        "route",
        "replace",
        &peer.pod_cidr(),
        "via",
        &own,
        "dev",
        device,
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
