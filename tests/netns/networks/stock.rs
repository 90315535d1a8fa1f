//! The stock node: a kernel's bridge with a VXLAN device in it, for each network.

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Lab, Namespace, wait_until};

use crate::rig::{MTU, PATIENCE, address};

/// The host number of the station on the stock node.
pub(crate) const FAR: u8 = 22;
/// Whoever is not known, to a forwarding database.
const ANYBODY: &str = "00:00:00:00:00:00";

/// A bridge with a VXLAN device, which learns or does not (`learning`, `nolearning`), and a station on it.
pub(crate) fn bridge(lab: &Lab, vni: &str, learning: &str) -> Namespace {
    let node = lab.node("node-b").unwrap();
    let own = node.plan().underlay_address().to_string();
    let (node, mtu) = (node.namespace(), MTU.to_string());
    let (device, bridge) = (format!("vx{vni}"), format!("br{vni}"));
    let ip = |words: &[&str]| {
        node.ip(words).unwrap_or_else(|error| panic!("{error}"));
    };
    let kind = ["type", "vxlan", "id", vni, "dstport", "8472", "local", &own];
    let rest = ["dev", UPLINK, learning];
    ip(&[&["link", "add", &device, "mtu", &mtu], &kind[..], &rest].concat());
    for other in lab.nodes().iter().filter(|other| other.daemon().is_some()) {
        let to = other.plan().underlay_address().to_string();
        append(lab, vni, ANYBODY, &to);
    }
    ip(&["link", "add", &bridge, "mtu", &mtu, "type", "bridge"]);
    ip(&["link", "set", &device, "master", &bridge, "up"]);
    ip(&["link", "set", &bridge, "up"]);
    station(lab, vni, "far", FAR)
}

/// Tells the VXLAN device by hand where a station is.
pub(crate) fn append(lab: &Lab, vni: &str, mac: &str, to: &str) {
    let node = lab.node("node-b").unwrap().namespace();
    let device = format!("vx{vni}");
    node.bridge(&["fdb", "append", mac, "dev", &device, "dst", to])
        .unwrap();
}

/// A station on the bridge.
pub(crate) fn station(lab: &Lab, vni: &str, name: &str, host: u8) -> Namespace {
    let far = lab.namespace(&format!("{name}-{vni}")).unwrap();
    plug(lab, vni, &format!("{name}-{vni}"), &far);
    give(&far, host);
    far
}

/// Gives a namespace's `net1` a station's addresses.
pub(crate) fn give(place: &Namespace, host: u8) {
    for (is_ipv4, length) in [(true, 16), (false, 64)] {
        let address = format!("{}/{length}", address(host, is_ipv4));
        let mut words = vec!["address", "add", &address, "dev", "net1"];
        words.extend((!is_ipv4).then_some("nodad"));
        place.ip(&words).unwrap();
    }
}

/// Plugs a namespace's `net1` into the stock node's bridge, and waits until frames go through.
pub(crate) fn plug(lab: &Lab, vni: &str, port: &str, namespace: &Namespace) {
    let node = lab.node("node-b").unwrap().namespace();
    let (path, mtu) = (namespace.path().to_string_lossy().into_owned(), MTU.to_string());
    let pair = ["link", "add", port, "mtu", &mtu, "type", "veth"];
    let peer = ["peer", "name", "net1", "mtu", &mtu, "netns", &path];
    node.ip(&[&pair[..], &peer].concat()).unwrap();
    node.ip(&["link", "set", port, "master", &format!("br{vni}"), "up"])
        .unwrap();
    namespace.ip(&["link", "set", "net1", "up"]).unwrap();
    wait_until("the bridge's port", PATIENCE, || {
        Ok(node
            .bridge(&["link", "show", "dev", port])?
            .contains("state forwarding"))
    })
    .unwrap();
}
