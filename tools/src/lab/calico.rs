//! A node as Calico describes it: annotations of its Node, and for each family a pool with one block, the node's.

use super::plan::{NodePlan, PREFIX_LENGTH_V6, PlanV6, Tunnel};

/// Prefix length of the block of IPv6 pods: of those that Calico allows (116 to 128) one with room for every pod of a node.
const BLOCK_LENGTH_V6: u8 = 120;

/// Node, IPPools and BlockAffinities of a node.
pub(crate) fn objects(plan: NodePlan) -> String {
    let (name, cidr) = (plan.name(), plan.pod_cidr());
    let modes = match plan.tunnel() {
        Tunnel::Ipip => "ipipMode: Always, vxlanMode: Never",
        Tunnel::Vxlan => "ipipMode: Never, vxlanMode: Always",
    };
    let mut text = node(plan) + &share(&name, "v4", (&cidr, modes), &cidr);
    if let Some(v6) = plan.v6() {
        let pool = format!("{}/{PREFIX_LENGTH_V6}", v6.tunnel_address());
        let block = format!("{}/{BLOCK_LENGTH_V6}", v6.tunnel_address());
        text += &share(&name, "v6", (&pool, "ipipMode: Never, vxlanMode: Always"), &block);
    }
    text
}

/// The Node, whose own address in the overlay is that of the device its pool's tunnel has.
fn node(plan: NodePlan) -> String {
    let device = match plan.tunnel() {
        Tunnel::Ipip => "IPv4IPIPTunnelAddr",
        Tunnel::Vxlan => "IPv4VXLANTunnelAddr",
    };
    let (more, address) = plan.v6().map_or_else(Default::default, of_v6);
    let (name, underlay) = (plan.name(), plan.underlay_address());
    format!(
        "apiVersion: v1\n\
         kind: Node\n\
         metadata:\n\
         \x20 name: {name}\n\
         \x20 annotations:\n\
         \x20   projectcalico.org/IPv4Address: {underlay}/24\n\
         \x20   projectcalico.org/{device}: {tunnel}\n\
         \x20   projectcalico.org/VXLANTunnelMACAddr: {mac}\n{more}\
         status:\n\
         \x20 addresses:\n\
         \x20 - type: InternalIP\n\
         \x20   address: {underlay}\n{address}",
        tunnel = plan.tunnel_address(),
        mac = plan.vtep_mac(),
    )
}

/// What stands in the Node of a node with IPv6 besides: among its annotations, and among its addresses.
fn of_v6(v6: PlanV6) -> (String, String) {
    let underlay = v6.underlay_address();
    let annotations = format!(
        "    projectcalico.org/IPv6Address: {underlay}/{PREFIX_LENGTH_V6}\n\
         \x20   projectcalico.org/IPv6VXLANTunnelAddr: \"{tunnel}\"\n\
         \x20   projectcalico.org/VXLANTunnelMACAddrV6: {mac}\n",
        tunnel = v6.tunnel_address(),
        mac = v6.vtep_mac(),
    );
    let address = format!("  - type: InternalIP\n    address: {underlay}\n");
    (annotations, address)
}

/// A node's pool of a family, and the block of it that is the node's.
fn share(node: &str, family: &str, (pool, modes): (&str, &str), block: &str) -> String {
    format!(
        "---\n\
         apiVersion: crd.projectcalico.org/v1\n\
         kind: IPPool\n\
         metadata: {{name: {node}-{family}}}\n\
         spec: {{cidr: {pool:?}, {modes}, natOutgoing: true}}\n\
         ---\n\
         apiVersion: crd.projectcalico.org/v1\n\
         kind: BlockAffinity\n\
         metadata: {{name: {node}-{family}}}\n\
         spec: {{cidr: {block:?}, node: {node}, state: confirmed, deleted: \"false\"}}\n"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::plan::Families;
    use super::*;

    fn lines(text: &str) -> Vec<&str> {
        text.lines().map(str::trim).collect()
    }

    #[test]
    fn a_node_over_ipip_has_a_pool_of_ipip_and_one_of_vxlan_for_ipv6() {
        let plan = NodePlan::of(1)
            .unwrap()
            .with(Families::Dual)
            .in_calico(Tunnel::Ipip);
        let text = objects(plan);
        for line in [
            "projectcalico.org/IPv4Address: 192.0.2.2/24",
            "projectcalico.org/IPv4IPIPTunnelAddr: 10.244.2.0",
            "projectcalico.org/IPv6VXLANTunnelAddr: \"fd00:2::\"",
            "projectcalico.org/VXLANTunnelMACAddrV6: 02:00:00:00:03:02",
            "spec: {cidr: \"10.244.2.0/24\", ipipMode: Always, vxlanMode: Never, natOutgoing: true}",
            "spec: {cidr: \"fd00:2::/64\", ipipMode: Never, vxlanMode: Always, natOutgoing: true}",
            "spec: {cidr: \"fd00:2::/120\", node: node-b, state: confirmed, deleted: \"false\"}",
        ] {
            assert!(lines(&text).contains(&line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_node_over_vxlan_has_the_mac_address_of_its_plan() {
        let text = objects(NodePlan::of(2).unwrap().in_calico(Tunnel::Vxlan));
        for line in [
            "projectcalico.org/IPv4VXLANTunnelAddr: 10.244.3.0",
            "projectcalico.org/VXLANTunnelMACAddr: 02:00:00:00:01:03",
            "spec: {cidr: \"10.244.3.0/24\", ipipMode: Never, vxlanMode: Always, natOutgoing: true}",
        ] {
            assert!(lines(&text).contains(&line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("IPv6") && !text.contains("-v6"), "{text}");
    }
}
