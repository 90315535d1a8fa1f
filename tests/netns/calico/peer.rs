//! The other node: a virtual machine whose kernel does everything, set up as Calico sets one up.

use std::net::{IpAddr, SocketAddr};

use millrace_tools::lab::Lab;
use millrace_tools::lab::machine::Machine;
use millrace_tools::lab::plan::NodePlan;

use crate::objects::{MACS, MACS_V6, Place, address, block, borrowed, tunnel_address, underlay, underlay_v6};
use crate::{ECHO_PORT, PATIENCE};

/// What makes the machine a node.
const SCRIPT: &str = include_str!("node.sh");

pub(crate) struct Peer {
    machine: Machine,
}

impl Peer {
    /// The machine's port on the rack.
    pub(crate) const TAP: &str = "tap-b";

    /// Starts the machine, makes it a node, and its pod with an echo.
    pub(crate) fn boot(lab: &Lab) -> Self {
        let plan = NodePlan::of(1).unwrap();
        let machine = Machine::boot(lab, plan, 2, false).unwrap_or_else(|error| panic!("{error}"));
        machine.write("/tmp/calico.sh", &script()).unwrap();
        let told = machine.run(&["busybox", "sh", "/tmp/calico.sh"]);
        told.unwrap_or_else(|error| panic!("{error}"));
        for place in [Place::Ipip, Place::Vxlan, Place::VxlanV6] {
            let at = SocketAddr::new(address(place, 'b'), ECHO_PORT).to_string();
            let words = ["ip", "netns", "exec", "pod", "millrace-guest", "echo", &at];
            machine.spawn(&words, "/var/log/echo.log").unwrap();
        }
        Self { machine }
    }

    /// Has QEMU look again at what came while the NIC was not ready: till then it reads nothing more of it.
    pub(crate) fn rouse(&self) {
        self.machine.rouse().unwrap();
    }

    /// One echo request from its pod; whether it was answered, and what was said.
    pub(crate) fn ping(&self, to: IpAddr, options: &[&str]) -> (bool, String) {
        let to = to.to_string();
        let mut words = vec!["ip", "netns", "exec", "pod", "ping", "-n", "-c", "1", "-W", "20"];
        words.extend(options);
        words.push(&to);
        let told = self.machine.complete(&words, PATIENCE).unwrap();
        (told.status.success(), format!("{}{}", told.stdout, told.stderr))
    }

    /// One echo request from the node's own stack.
    pub(crate) fn ping_from_node(&self, to: IpAddr) -> (bool, String) {
        let to = to.to_string();
        let words = ["ping", "-n", "-c", "1", "-W", "20", &to];
        let told = self.machine.complete(&words, PATIENCE).unwrap();
        (told.status.success(), format!("{}{}", told.stdout, told.stderr))
    }

    /// The way to the other node's block in the VXLAN pool becomes a plain route, as on one subnet with `CrossSubnet`.
    pub(crate) fn route_plainly(&self) {
        let (block, node) = (block(Place::Vxlan, 'a'), underlay(Place::Vxlan, 'a').to_string());
        let words = ["ip", "route", "replace", &block, "via", &node, "dev", "eth0"];
        self.machine.run(&words).unwrap();
    }

    /// Connections from its pod; what the talker reports.
    pub(crate) fn talk(&self, words: &[String]) -> String {
        let mut line = vec!["ip", "netns", "exec", "pod", "millrace-guest"];
        line.extend(words.iter().map(String::as_str));
        self.machine.complete(&line, PATIENCE).unwrap().success().unwrap()
    }

    /// What there is to be known when something fails.
    pub(crate) fn told(&self) -> String {
        let lines = [
            "ip -s link",
            "ip route",
            "ip -6 route",
            "ip neigh",
            "bridge fdb",
            "cat /var/log/echo.log",
        ];
        let told = lines.map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let said = self.machine.complete(&words, PATIENCE);
            let said = said.map_or_else(|error| error.to_string(), |told| told.stdout + &told.stderr);
            format!("-- machine: {line}\n{said}")
        });
        told.join("\n")
    }
}

/// What `node.sh` is told, and the script.
fn script() -> String {
    let (ipip, vxlan, v6) = (Place::Ipip, Place::Vxlan, Place::VxlanV6);
    let text = |address: IpAddr| address.to_string();
    let mac = |macs: &[(char, &str); 2], node| macs.iter().find(|(of, _)| *of == node).unwrap().1.to_owned();
    let values = [
        ("UNDERLAY", text(underlay(ipip, 'b'))),
        ("UNDERLAY_V6", text(underlay_v6('b'))),
        ("PEER", text(underlay(ipip, 'a'))),
        ("PEER_V6", text(underlay_v6('a'))),
        ("IPIP_ADDRESS", text(tunnel_address(ipip, 'b'))),
        ("VXLAN_ADDRESS", text(tunnel_address(vxlan, 'b'))),
        ("V6_ADDRESS", text(tunnel_address(v6, 'b'))),
        ("PEER_VXLAN_ADDRESS", text(tunnel_address(vxlan, 'a'))),
        ("PEER_V6_ADDRESS", text(tunnel_address(v6, 'a'))),
        ("IPIP_BLOCK", block(ipip, 'b')),
        ("VXLAN_BLOCK", block(vxlan, 'b')),
        ("V6_BLOCK", block(v6, 'b')),
        ("PEER_IPIP_BLOCK", block(ipip, 'a')),
        ("PEER_VXLAN_BLOCK", block(vxlan, 'a')),
        ("PEER_V6_BLOCK", block(v6, 'a')),
        ("MAC", mac(&MACS, 'b')),
        ("MAC_V6", mac(&MACS_V6, 'b')),
        ("PEER_MAC", mac(&MACS, 'a')),
        ("PEER_MAC_V6", mac(&MACS_V6, 'a')),
        ("POD_IPIP", text(address(ipip, 'b'))),
        ("POD_VXLAN", text(address(vxlan, 'b'))),
        ("POD_V6", text(address(v6, 'b'))),
        ("BORROWED", text(borrowed())),
    ];
    let values = values.map(|(name, value)| format!("{name}={value}\n"));
    values.concat() + SCRIPT
}
