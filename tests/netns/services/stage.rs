//! A stage: a lab with the node under test, its servers, and what is programmed into it.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use millrace_tools::lab::plan::{Families, PREFIX_LENGTH, PREFIX_LENGTH_V6, UPLINK};
use millrace_tools::lab::{
    Daemon, Lab, MillraceOptions, Namespace, NodeKind, TUNNEL, TUNNEL_V6, Topology, WireEnd, wait_until,
};
use serde_json::Value;

use crate::family::Family;
use crate::mistake::Mistake;
use crate::objects::manifest;
use crate::places::{
    self, GUEST, GUEST_ADDRESSES, HOSTS, NODE_A, POD_NETWORKS, POD_NETWORKS_V6, PODS, PUBLIC_NETWORK,
    PUBLIC_NETWORK_V6, SERVED, SERVICE_CIDR, SERVICE_CIDR_V6, TUNNEL_A,
};
use crate::rules::{Pick, rules};
use crate::server::Servers;
use crate::set::{OWN_ZONE, Set};

/// How long a set may take to be in force.
const PATIENCE: Duration = Duration::from_secs(10);
/// The file that the set is in, in the manifests folder.
const MANIFEST: &str = "judged.json";
/// More ICMP errors than are ever asked for: a limit on them is not what is judged here.
const EXTRA: &str = "\n[services]\ncidrs = [\"10.96.0.0/12\", \"fd96::/108\"]\n\
                     \n[slow-path]\nicmp-errors-per-second = 1000000\n";

/// What the node under test is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Stock Linux with the rules that kube-proxy would make, and maybe a mistake among them.
    Kernel(Option<Mistake>),
    /// Millrace.
    Millrace,
}

/// A lab that is asked.
pub(crate) struct Stage {
    // The order of the fields is the order in which a stage ends.
    pub(crate) servers: Servers,
    guest: Namespace,
    lab: Lab,
    pub(crate) side: Side,
    programmed: usize,
}

impl Stage {
    /// Node-a of the kind to be judged, node-b, three pods on each, and a machine outside.
    pub(crate) fn set_up(name: &str, side: Side) -> Self {
        let kind = match side {
            Side::Kernel(_) => NodeKind::Stock,
            Side::Millrace => NodeKind::Millrace,
        };
        let topology = Topology {
            pods_per_node: 3,
            families: Families::Dual,
            millrace: MillraceOptions {
                extra: EXTRA.to_owned(),
                ..MillraceOptions::default()
            },
            ..Topology::of(&[kind, NodeKind::Stock])
        };
        let lab = Lab::bring_up(name, &topology).unwrap_or_else(|error| panic!("stage {name}: {error}"));
        let guest = outsider(&lab);
        for node in ["node-a", "node-b"] {
            prepare_node(lab.node(node).unwrap().namespace());
        }
        let other = lab.node("node-b").unwrap().namespace();
        masquerade_leaving(other);
        for (family, services, public, device) in [
            (Family::V4, SERVICE_CIDR, PUBLIC_NETWORK, TUNNEL),
            (Family::V6, SERVICE_CIDR_V6, PUBLIC_NETWORK_V6, TUNNEL_V6),
        ] {
            let [tunnel, node] = [TUNNEL_A, NODE_A].map(|address| family.of(address).to_string());
            let to_services = ["route", "add", services, "via", &tunnel, "dev", device, "onlink"];
            other.ip(&to_services).unwrap();
            other.ip(&["route", "add", public, "via", &node]).unwrap();
        }
        if let Side::Kernel(_) = side {
            let own = lab.node("node-a").unwrap().namespace();
            // Kubernetes asks it of a node with a bridge: else pods on it would answer each other past the Service.
            own.set("bridge/bridge-nf-call-iptables", "1").unwrap();
            own.set("bridge/bridge-nf-call-ip6tables", "1").unwrap();
            masquerade_leaving(own);
        } else {
            label(lab.node("node-a").unwrap().daemon().unwrap());
        }
        let servers = Servers::start(&lab);
        meet(&guest, &lab);
        Self {
            servers,
            guest,
            lab,
            side,
            programmed: 0,
        }
    }

    /// The namespace of that name.
    pub(crate) fn namespace(&self, name: &str) -> &Namespace {
        if name == "guest" {
            &self.guest
        } else {
            namespace(&self.lab, name)
        }
    }

    /// Puts a set in force, in place of the one before. `anew`: it is another set, and not the last one changed.
    pub(crate) fn program(&mut self, set: &Set, anew: bool, picks: &[Pick]) {
        self.programmed += 1;
        match self.side {
            Side::Kernel(mistake) => self.load_rules(&rules(set, anew, picks, mistake)),
            Side::Millrace => self.write_objects(set),
        }
    }

    fn load_rules(&self, rules: &str) {
        let file = self.lab.folder().join("rules.nft");
        std::fs::write(&file, rules).unwrap();
        let node = self.lab.node("node-a").unwrap().namespace();
        let loaded = node.run("nft", &["-f", &file.to_string_lossy()]);
        loaded.unwrap_or_else(|error| panic!("{error}\n{rules}"));
    }

    /// Writes the objects, and waits until the daemon tells of them.
    fn write_objects(&self, set: &Set) {
        let daemon = self.daemon();
        let mark = format!("mark-{}", self.programmed);
        daemon.write_manifest(MANIFEST, &manifest(set, &mark)).unwrap();
        wait_until(&format!("a set in force, by {mark}"), PATIENCE, || {
            let shown = daemon.json(&["show", "services"])?;
            let rows = shown.as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(rows.iter().any(|row| tells_of(row, &mark)))
        })
        .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_end()));
    }

    fn daemon(&self) -> &Daemon {
        self.lab.node("node-a").unwrap().daemon().unwrap()
    }

    /// What the daemon says last, if there is one.
    pub(crate) fn log_end(&self) -> String {
        match self.side {
            Side::Kernel(_) => String::new(),
            Side::Millrace => self.daemon().log_end(),
        }
    }

    /// Takes everything down.
    pub(crate) fn close(self) {
        let Self {
            servers, guest, lab, ..
        } = self;
        drop(servers);
        drop(guest);
        lab.close().unwrap();
    }
}

/// Whether a row of `show services` is about the Service of that name.
fn tells_of(row: &Value, name: &str) -> bool {
    let service = row["service"].as_str().or_else(|| row["name"].as_str());
    service.is_some_and(|service| service.rsplit('/').next() == Some(name))
}

/// The namespace of a pod or node.
pub(crate) fn namespace<'a>(lab: &'a Lab, name: &str) -> &'a Namespace {
    match lab.pod(name) {
        Ok(pod) => pod.namespace(),
        Err(_) => lab.node(name).unwrap().namespace(),
    }
}

/// A machine on the rack that knows the way to the Services and to nothing else. It is the nodes' default gateway as well,
/// and lets nothing through: whatever gets there is gone.
fn outsider(lab: &Lab) -> Namespace {
    let machine = lab.namespace("guest").unwrap();
    machine.set("ipv4/ip_forward", "0").unwrap();
    quiet(&machine);
    let end = WireEnd {
        namespace: &machine,
        interface: UPLINK,
        mac: None,
    };
    lab.switch().join("guest", end).unwrap();
    for number in 0..GUEST_ADDRESSES {
        let prefix = format!("{}/{PREFIX_LENGTH}", places::guest(number));
        machine.ip(&["address", "add", &prefix, "dev", UPLINK]).unwrap();
        let prefix = format!("{}/{PREFIX_LENGTH_V6}", Family::V6.of(places::guest(number)));
        let add = ["address", "add", &prefix, "dev", UPLINK, "nodad"];
        machine.ip(&add).unwrap();
    }
    for (family, networks) in [
        (Family::V4, [SERVICE_CIDR, PUBLIC_NETWORK]),
        (Family::V6, [SERVICE_CIDR_V6, PUBLIC_NETWORK_V6]),
    ] {
        let node = family.of(NODE_A).to_string();
        for network in networks {
            machine.ip(&["route", "add", network, "via", &node]).unwrap();
        }
    }
    machine
}

/// Neighbours learn each other's link addresses, by a call of each other's servers: a lost solicitation is sent again only
/// after a second, which is longer than a call is waited for.
fn meet(guest: &Namespace, lab: &Lab) {
    for number in 0..GUEST_ADDRESSES {
        call(guest, places::guest(number), NODE_A);
    }
    for place in PODS.iter().chain(&HOSTS) {
        let node = lab.node(place.node).unwrap().namespace();
        call(node, Ipv4Addr::UNSPECIFIED, place.address);
    }
    let other = lab.node("node-b").unwrap().namespace();
    call(other, Ipv4Addr::UNSPECIFIED, NODE_A);
}

/// Has an address answer in either family.
fn call(from: &Namespace, own: Ipv4Addr, to: Ipv4Addr) {
    for family in Family::BOTH {
        let answer = from.within(|| {
            let socket = UdpSocket::bind((family.of(own), 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.send_to(&[0, 0], (family.of(to), SERVED[0])).unwrap();
            socket.recv(&mut [0; 64])
        });
        let heard = answer.unwrap();
        heard.unwrap_or_else(|error| panic!("{to} does not answer {own} over {family:?}: {error}"));
    }
}

/// No ICMP error is withheld because there were many, and nobody is told of a shorter way.
fn quiet(machine: &Namespace) {
    machine.set("ipv4/icmp_ratemask", "0").unwrap();
    machine.set("ipv6/icmp/ratelimit", "0").unwrap();
    for which in ["all", "default"] {
        machine
            .set(&format!("ipv4/conf/{which}/send_redirects"), "0")
            .unwrap();
        machine
            .set(&format!("ipv4/conf/{which}/accept_redirects"), "0")
            .unwrap();
        machine
            .set(&format!("ipv6/conf/{which}/accept_redirects"), "0")
            .unwrap();
    }
}

fn prepare_node(node: &Namespace) {
    quiet(node);
    let interfaces = node.ip(&["-o", "link", "show"]).unwrap();
    let names = interfaces.lines().filter_map(|line| line.split(": ").nth(1));
    for name in names.filter_map(|name| name.split('@').next()) {
        node.set(&format!("ipv4/conf/{name}/send_redirects"), "0")
            .unwrap();
    }
    for family in Family::BOTH {
        let guest = family.of(GUEST).to_string();
        node.ip(&["route", "add", "default", "via", &guest]).unwrap();
    }
}

/// What flannel's `--ip-masq` does: a pod that leaves the cluster gets the address of its node.
fn masquerade_leaving(node: &Namespace) {
    for (ip, pods) in [("ip", POD_NETWORKS), ("ip6", POD_NETWORKS_V6)] {
        let table = format!("{ip} flannel-masquerade");
        for line in [
            format!("add table {table}"),
            format!("add chain {table} after {{ type nat hook postrouting priority srcnat + 1 ; }}"),
            format!("add rule {table} after {ip} saddr {pods} {ip} daddr != {pods} masquerade"),
        ] {
            node.run("nft", &[&line]).unwrap();
        }
    }
}

/// Gives node-a's object the zone that hints are about.
fn label(daemon: &Daemon) {
    let file = daemon.manifests().join("node-a.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let labels = format!("metadata:\n  labels: {{topology.kubernetes.io/zone: {OWN_ZONE}}}\n");
    let labelled = text.replacen("metadata:\n", &labels, 1);
    assert_ne!(text, labelled);
    daemon.write_manifest("node-a.yaml", &labelled).unwrap();
}
