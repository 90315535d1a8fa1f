//! Nodes with stations in routed networks.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use millrace_tools::lab::{Daemon, Lab, LabError, Namespace, Node, NodeKind, Process, Topology, wait_until};
use serde_json::{Value, json};

use crate::rig::PATIENCE;
use crate::station::{Scene, Station};

/// A routed network: behind node 1, which is node-a, are the IPv4 addresses `v4.1.0/24`, and so on; its gateways are `v4.0.1` and
/// the first IPv6 address.
#[derive(Clone, Copy)]
pub(crate) struct Net {
    pub(crate) name: &'static str,
    pub(crate) vni: u32,
    v4: [u8; 2],
    v6: u16,
    routes_to: &'static [&'static str],
}

/// Two with the cluster's own addresses, one with the other's IPv6 addresses too.
pub(crate) const AMBER: Net = Net {
    name: "lab/amber",
    vni: 101,
    v4: [10, 244],
    v6: 0xfd08,
    routes_to: &[],
};
pub(crate) const VIOLET: Net = Net {
    name: "lab/violet",
    vni: 102,
    ..AMBER
};
/// One that is routed to another and to the cluster's own.
pub(crate) const BLUE: Net = Net {
    name: "lab/blue",
    vni: 103,
    v4: [10, 9],
    v6: 0xfd09,
    routes_to: &["lab/red", "cluster"],
};
pub(crate) const RED: Net = Net {
    name: "lab/red",
    vni: 104,
    v4: [10, 7],
    v6: 0xfd07,
    routes_to: &["lab/blue"],
};
/// One that names who does not name it.
pub(crate) const GREEN: Net = Net {
    name: "lab/green",
    vni: 105,
    v4: [10, 6],
    v6: 0xfd06,
    routes_to: &["lab/blue"],
};

impl Net {
    pub(crate) fn v4(self, node: u8, host: u8) -> IpAddr {
        let [a, b] = self.v4;
        Ipv4Addr::new(a, b, node, host).into()
    }

    pub(crate) fn v6(self, node: u8, host: u8) -> IpAddr {
        Ipv6Addr::new(self.v6, 0, 0, 0, 0, 0, node.into(), host.into()).into()
    }

    pub(crate) fn addresses(self, node: u8, host: u8) -> Vec<IpAddr> {
        vec![self.v4(node, host), self.v6(node, host)]
    }

    pub(crate) fn gateways(self) -> [IpAddr; 2] {
        [self.v4(0, 1), self.v6(0, 1)]
    }

    /// What is behind a node.
    pub(crate) fn blocks(self, node: u8) -> [String; 2] {
        [
            format!("{}/24", self.v4(node, 0)),
            format!("{}/112", self.v6(node, 0)),
        ]
    }

    fn file(self) -> String {
        format!("{}.yaml", self.name.trim_start_matches("lab/"))
    }

    fn definition(self) -> String {
        let blocks = [(1, "node-a"), (2, "node-b"), (3, "node-c")];
        let blocks = blocks.map(|(node, name)| (name.to_owned(), json!(self.blocks(node))));
        let config = json!({"cniVersion": "1.0.0", "type": "millrace-cni", "network": {
            "kind": "routed", "vni": self.vni, "routesTo": self.routes_to,
            "subnets": [format!("{}/16", self.v4(0, 0)), format!("{}/64", self.v6(0, 0))],
            "nodeBlocks": Value::Object(blocks.into_iter().collect()),
        }});
        let (namespace, name) = self.name.split_once('/').unwrap();
        json!({"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"namespace": namespace, "name": name}, "spec": {"config": config.to_string()}})
        .to_string()
    }
}

pub(crate) struct Routed {
    lab: RefCell<Lab>,
    places: RefCell<Vec<Namespace>>,
    echoes: RefCell<Vec<Process>>,
}

impl Routed {
    /// Such nodes, with these networks.
    pub(crate) fn new(name: &str, nodes: &[NodeKind], networks: &[Net]) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the tests of networks make network namespaces and load XDP programs: run them as root"
        );
        let topology = Topology {
            pods_per_node: 0,
            ..Topology::of(nodes)
        };
        let lab = Lab::bring_up(name, &topology).unwrap_or_else(|error| panic!("lab {name}: {error}"));
        let rig = Self {
            lab: RefCell::new(lab),
            places: RefCell::default(),
            echoes: RefCell::default(),
        };
        rig.define(networks);
        rig
    }

    /// Has networks in force on all Millrace nodes.
    pub(crate) fn define(&self, networks: &[Net]) {
        self.on_all(|daemon| {
            for network in networks {
                daemon
                    .write_manifest(&network.file(), &network.definition())
                    .unwrap();
            }
            wait_until("the networks", PATIENCE, || {
                let there = served(daemon)?;
                Ok(networks
                    .iter()
                    .all(|network| there.iter().any(|name| name == network.name)))
            })
            .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_end()));
        });
    }

    /// Takes a network away.
    pub(crate) fn undefine(&self, network: Net) {
        self.on_all(|daemon| {
            daemon.remove_manifest(&network.file()).unwrap();
            wait_until("the network's end", PATIENCE, || {
                Ok(!served(daemon)?.iter().any(|name| name == network.name))
            })
            .unwrap();
        });
    }

    fn on_all(&self, work: impl Fn(&Daemon)) {
        self.with(|lab| lab.nodes().iter().filter_map(Node::daemon).for_each(work));
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&Lab) -> T) -> T {
        work(&self.lab.borrow())
    }

    /// A Millrace node's program.
    pub(crate) fn daemon<T>(&self, node: u8, work: impl FnOnce(&Daemon) -> T) -> T {
        self.with(|lab| work(lab.node(node_name(node)).unwrap().daemon().unwrap()))
    }

    pub(crate) fn json(&self, node: u8, words: &[&str]) -> Value {
        self.daemon(node, |daemon| daemon.json(words))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// A pod on a Millrace node with an interface in a network and no other, which echoes.
    pub(crate) fn pod(&self, network: Net, node: u8, host: u8) -> Station {
        let name = format!("{}-{node}-{host}", network.name);
        let place = self
            .with(|lab| lab.namespace(name.trim_start_matches("lab/")))
            .unwrap();
        let path = place.path().to_string_lossy().into_owned();
        let addresses = network.addresses(node, host);
        let mut words = vec!["attach", &name, "--netns", &path, "--network", network.name];
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        words.extend(texts.iter().flat_map(|address| ["--address", address]));
        let attached = self.daemon(node, |daemon| daemon.client_output(&words));
        attached.unwrap_or_else(|error| panic!("{error}\n{}", self.told()));
        for gateway in network.gateways() {
            let by = gateway.to_string();
            place
                .ip(&["route", "add", "default", "via", &by, "dev", "net1"])
                .unwrap();
        }
        let station = Station::at(&name, place.path(), addresses);
        self.keep(place);
        self.echo(&station);
        station
    }

    /// A pod in the cluster's own network, which echoes.
    pub(crate) fn cluster_pod(&self, node: u8, name: &str) -> Station {
        let station = {
            let mut lab = self.lab.borrow_mut();
            let pod = lab.add_pod(node_name(node), name).unwrap();
            Station::at(name, pod.namespace().path(), vec![pod.address().into()])
        };
        self.echo(&station);
        station
    }

    pub(crate) fn echo(&self, station: &Station) {
        let echoes = station.echo(self);
        self.echoes.borrow_mut().extend(echoes);
    }

    pub(crate) fn keep(&self, place: Namespace) {
        self.places.borrow_mut().push(place);
    }

    /// Ends a node's daemon and starts it again.
    pub(crate) fn restart(&self, node: u8) {
        let mut lab = self.lab.borrow_mut();
        let daemon = lab.node_mut(node_name(node)).unwrap().daemon_mut().unwrap();
        daemon.stop().unwrap();
        daemon
            .start()
            .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_end()));
    }

    pub(crate) fn finish(self) {
        drop(self.echoes);
        drop(self.places);
        self.lab.into_inner().close().unwrap();
    }
}

impl Scene for Routed {
    fn told(&self) -> String {
        let of_node = |node: &Node| {
            let daemon = node.daemon()?;
            let ask = |words: &[&str]| match daemon.ask(words) {
                Ok(told) => told.stdout + &told.stderr,
                Err(error) => error.to_string(),
            };
            let asked = [
                &["show", "networks"][..],
                &["show", "ports"],
                &["show", "flows"],
                &["stats"],
            ]
            .map(ask);
            Some(format!(
                "-- {}\n{}\n{}",
                node.name(),
                asked.join("\n"),
                daemon.log_end()
            ))
        };
        let all: Vec<String> = self.with(|lab| lab.nodes().iter().filter_map(of_node).collect());
        all.join("\n")
    }

    fn folder(&self) -> PathBuf {
        self.with(|lab| lab.folder().to_owned())
    }
}

/// The networks that a node serves.
fn served(daemon: &Daemon) -> Result<Vec<String>, LabError> {
    let there = daemon.json(&["show", "networks"])?;
    let there = there.as_array().map_or(&[][..], Vec::as_slice).iter();
    let served = there.filter(|row| row["fault"].is_null());
    Ok(served
        .filter_map(|row| row["network"].as_str().map(str::to_owned))
        .collect())
}

fn node_name(node: u8) -> &'static str {
    ["node-a", "node-b", "node-c"][usize::from(node) - 1]
}
