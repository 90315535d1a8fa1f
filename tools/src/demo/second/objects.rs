//! The second network as an object of Kubernetes, and as a runtime knows it.

use serde_json::{Value, json};

use crate::lab::runtime::Runtime;
use crate::lab::{LabError, Node, POD_NAMESPACE};

/// The network, as the switch names it.
pub(super) const NETWORK: &str = "lab/blue";
/// The same inside its Kubernetes namespace.
const NAME: &str = "blue";
/// Its number on the wire, and the UDP port of its tunnels.
pub(super) const VNI: u32 = 100;
pub(super) const PORT: u16 = 8472;
/// Its subnets, in which all pods' addresses of a lab are.
const SUBNETS: [&str; 2] = ["10.244.0.0/16", "fd00::/16"];
/// The length of both, in bits.
pub(super) const PREFIX_LENGTH: u8 = 16;

/// The network's subnets in a lab with IPv6 or without.
pub(super) fn subnets(has_v6: bool) -> &'static [&'static str] {
    let [v4, _] = &SUBNETS;
    if has_v6 {
        &SUBNETS
    } else {
        std::slice::from_ref(v4)
    }
}

fn network(has_v6: bool) -> Value {
    json!({"kind": "bridged", "vni": VNI, "port": PORT, "subnets": subnets(has_v6)})
}

/// The network's definition.
pub(super) fn definition(has_v6: bool) -> String {
    let config =
        json!({"cniVersion": "1.1.0", "name": NAME, "type": "millrace-cni", "network": network(has_v6)});
    json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"namespace": POD_NAMESPACE, "name": NAME}, "spec": {"config": config.to_string()},
    })
    .to_string()
}

/// What calls the plugin on a node as Multus does for the network.
pub(super) fn multus(node: &Node) -> Result<Runtime, LabError> {
    let unknown = |what| LabError::Unknown {
        what,
        name: node.name(),
    };
    let daemon = node.daemon().ok_or_else(|| unknown("daemon of"))?;
    let first = node.runtime().ok_or_else(|| unknown("runtime of"))?;
    let mut multus = Runtime::new(node.namespace(), daemon, first.data.clone(), None);
    multus.network = NAME.to_owned();
    for plugin in &mut multus.plugins {
        plugin["network"] = network(node.plan().v6().is_some());
        plugin["capabilities"] = json!({"ips": true, "mac": true});
    }
    Ok(multus)
}
