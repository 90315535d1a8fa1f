//! A second network beside the cluster's: a virtual machine on one node and a pod's second interface on another, with exactly the
//! addresses that two pods of the cluster have. Each pair meets by its own network, and nothing of one is seen in the other.

mod objects;
mod seen;
mod station;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use objects::{NETWORK, definition, multus};
use seen::{Marks, Watch};
use serde_json::{Value, json};
use station::{Place, Station, meet};

use super::flows::addresses;
use super::services::millrace;
use super::wire::packets;
use crate::lab::machine::Machine;
use crate::lab::plan::NodePlan;
use crate::lab::runtime::{Container, Runtime};
use crate::lab::traffic::Capture;
use crate::lab::{Daemon, Lab, LabError, Node, POD_INTERFACE, POD_NAMESPACE, Pod, wait_until};

/// How long objects may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(10);
/// The machine's tap device, and what it is called here.
const TAP: &str = "vm7";
/// The machine's number in the lab, whose MAC address no node's is.
const MACHINE: usize = 25;
/// The second interface of a pod as Multus calls it.
const SECOND_INTERFACE: &str = "net1";
/// The file of the network's definition, in the manifests folder.
const FILE: &str = "second-network.yaml";
/// What is asked of the machine's node at the end.
const QUESTIONS: [&[&str]; 2] = [&["show", "networks"], &["show", "fdb", "--network", NETWORK]];

/// The network, which is in force, and the machine, which is starting.
pub(crate) struct Second {
    machine: Machine,
    /// The machine's node, and that of the pod with the second interface.
    nodes: [String; 2],
    /// The largest packet in the network, in bytes.
    mtu: u32,
}

/// Defines the network on all Millrace nodes and starts the machine on the first of them; nothing where there are not two with pods
/// that a plugin attaches, or where an API server has the objects, which need not know the kind.
///
/// # Errors
/// What did not come about, and [`LabError::Interrupted`].
pub(crate) fn begin(lab: &Lab) -> Result<Option<Second>, LabError> {
    let mut with_pods = millrace(lab).filter(|(node, _)| !node.pods().is_empty() && node.runtime().is_some());
    let (Some((here, daemon)), Some((there, _)), None) = (with_pods.next(), with_pods.next(), lab.api())
    else {
        return Ok(None);
    };
    for (_, daemon) in millrace(lab) {
        daemon.write_manifest(FILE, &definition(here.plan().v6().is_some()))?;
    }
    let mut mtu = 0;
    for (node, daemon) in millrace(lab) {
        let what = format!("the network {NETWORK} on {}", node.name());
        wait_until(&what, IN_FORCE, || {
            let found = networks(daemon)?
                .into_iter()
                .find(|row| row["network"] == NETWORK);
            let found = found.and_then(|row| row["mtu"].as_u64()?.try_into().ok());
            mtu = found.unwrap_or(0);
            Ok(found.is_some())
        })?;
    }
    let plan = NodePlan::of(MACHINE)?;
    attach(daemon, plan, first_pod(here)?)?;
    let machine = Machine::start_on(lab, plan, here.namespace(), TAP, false)?;
    let nodes = [here, there].map(Node::name);
    Ok(Some(Second { machine, nodes, mtu }))
}

fn networks(daemon: &Daemon) -> Result<Vec<Value>, LabError> {
    let told = daemon.json(&["show", "networks"])?;
    Ok(told.as_array().cloned().unwrap_or_default())
}

/// Makes the machine's tap device a port of the network: it may send as itself alone, with the addresses of this pod.
fn attach(daemon: &Daemon, plan: NodePlan, twin: &Pod) -> Result<(), LabError> {
    let mac = plan.uplink_mac().to_string();
    let given: Vec<String> = addresses(twin).iter().map(IpAddr::to_string).collect();
    let mut words = vec!["attach", "--tap", TAP, "--network", NETWORK, "--mac", &mac];
    words.extend(given.iter().flat_map(|address| ["--address", address]));
    daemon.client_output(&words).map(drop)
}

fn first_pod(node: &Node) -> Result<&Pod, LabError> {
    node.pods().first().ok_or_else(|| LabError::Unknown {
        what: "pod of",
        name: node.name(),
    })
}

impl Second {
    /// Waits for the machine, attaches the pod, has everyone meet, tells what came of it, and takes all of it away again.
    ///
    /// # Errors
    /// What did not come about, and [`LabError::Interrupted`].
    pub(crate) fn show(self, lab: &mut Lab) -> Result<String, LabError> {
        self.machine.await_guest()?;
        let there = lab.node(&self.nodes[1])?;
        let name = format!("pod-{}{}", there.plan().letter(), there.pods().len() + 1);
        lab.add_pod(&self.nodes[1], &name)?;
        let multus = multus(lab.node(&self.nodes[1])?)?;
        let told = self.attach_and_meet(lab, &multus, &name);
        let here = self.nodes[0].clone();
        // The machine ends, and then its tap device.
        drop(self);
        let removed = take_away(lab, &multus, &name, &here);
        told.and_then(|told| removed.map(|()| told))
    }

    fn attach_and_meet(&self, lab: &Lab, multus: &Runtime, name: &str) -> Result<String, LabError> {
        let [here, there] = [lab.node(&self.nodes[0])?, lab.node(&self.nodes[1])?];
        let (twins, pod) = ([first_pod(here)?, first_pod(there)?], lab.pod(name)?);
        self.give_addresses(twins[0])?;
        let ips: Vec<String> = addresses(twins[1]).iter().map(IpAddr::to_string).collect();
        multus.add(second_interface(pod), &json!({"runtimeConfig": {"ips": ips}}))?;
        multus.check(second_interface(pod))?;
        let cluster = twins.map(|twin| Station {
            name: twin.name(),
            place: Place::Namespace(twin.namespace()),
            interface: POD_INTERFACE,
            addresses: addresses(twin),
        });
        let [vm, second] = [
            (TAP, Place::Machine(&self.machine), "eth0"),
            (name, Place::Namespace(pod.namespace()), SECOND_INTERFACE),
        ];
        let of_twin = |(name, place, interface), twin| Station {
            name,
            place,
            interface,
            addresses: addresses(twin),
        };
        let second = [of_twin(vm, twins[0]), of_twin(second, twins[1])];
        let mut told = self.describe(&cluster, &second);
        told.push_str(&self.meet(lab, here, [&cluster, &second])?);
        let daemon = here.daemon().ok_or_else(|| LabError::Unknown {
            what: "daemon of",
            name: here.name(),
        })?;
        for question in QUESTIONS {
            let answer = daemon.client_output(question)?;
            // Writing to a string cannot fail.
            let _ = writeln!(
                told,
                "{}# millrace {}\n{}",
                here.name(),
                question.join(" "),
                answer.trim_end()
            );
        }
        Ok(told)
    }

    /// Gives the machine the addresses of a pod of the cluster.
    fn give_addresses(&self, twin: &Pod) -> Result<(), LabError> {
        let mtu = self.mtu.to_string();
        self.machine
            .run(&["ip", "link", "set", "eth0", "mtu", &mtu, "up"])?;
        for address in addresses(twin) {
            let with_length = format!("{address}/{}", objects::PREFIX_LENGTH);
            let mut words = vec!["ip", "address", "add", &with_length, "dev", "eth0"];
            words.extend(address.is_ipv6().then_some("nodad"));
            self.machine.run(&words)?;
        }
        Ok(())
    }

    fn describe(&self, cluster: &[Station<'_>; 2], second: &[Station<'_>; 2]) -> String {
        let [here, there] = &self.nodes;
        let [vm, pod] = second;
        let has_v6 = vm.addresses.len() > 1;
        format!(
            "A second network, {NETWORK}: bridged, VNI {}, its subnets the cluster's own, {}. In it:\n  \
             {}, a QEMU guest on a tap device of {here}: {}, as {} in the cluster\n  \
             {}'s {}, by the CNI plugin as Multus calls it, on {there}: {}, as {} in the cluster\n",
            objects::VNI,
            objects::subnets(has_v6).join(" "),
            vm.name,
            vm.listed(),
            cluster[0].name,
            pod.name,
            pod.interface,
            pod.listed(),
            cluster[1].name,
        )
    }

    /// Has each pair meet, while all that comes to each of them, and what is on the wire between, is captured.
    fn meet(
        &self,
        lab: &Lab,
        here: &Node,
        [cluster, second]: [&[Station<'_>; 2]; 2],
    ) -> Result<String, LabError> {
        let marks = [Marks::of("cluster", cluster)?, Marks::of("network", second)?];
        let watches = cluster
            .iter()
            .chain(second)
            .map(|station| Watch::start(lab, station));
        let watches: Vec<Watch<'_>> = watches.collect::<Result<_, _>>()?;
        let ports = [here.plan().network().vxlan_port(), objects::PORT];
        let filter = format!("ip proto 4 or udp port {} or udp port {}", ports[0], ports[1]);
        let file = lab.folder().join("second-wire.pcap");
        let wire = Capture::start(lab.switch().namespace(), &here.name(), &filter, &file)?;
        let mtus = [here.pod_mtu(), self.mtu];
        for ((pair, marks), mtu) in [cluster, second].into_iter().zip(&marks).zip(mtus) {
            meet(pair, marks, mtu, &lab.folder().join("second-answers.log"))?;
        }
        let wire = packets(&wire.stop()?)?;
        let mut told = format!(
            "Ping, TCP and UDP both ways, packets of up to {} bytes in the cluster and {} in {NETWORK}, each answered by the right one:\n",
            mtus[0], mtus[1]
        );
        for (from, to) in cluster[0].addresses.iter().zip(&cluster[1].addresses) {
            let _ = writeln!(
                told,
                "  {from} <-> {to}: {} <-> {} in the cluster, {} <-> {} in {NETWORK}",
                cluster[0].name, cluster[1].name, second[0].name, second[1].name,
            );
        }
        let mut seen = Vec::new();
        for (place, watch) in watches.into_iter().enumerate() {
            let (own, other) = if place < cluster.len() { (0, 1) } else { (1, 0) };
            seen.push(watch.judge(&marks[own], &marks[other])?);
        }
        let (of_cluster, of_second) = seen.split_at(cluster.len());
        let _ = writeln!(
            told,
            "tcpdump: {}, none of {NETWORK}; {}, none of the cluster",
            of_cluster.join(" and "),
            of_second.join(" and ")
        );
        told.push_str(&on_the_wire(&here.name(), &wire, cluster)?);
        Ok(told)
    }
}

/// The same packet in the one network and in the other.
fn on_the_wire(node: &str, wire: &[String], pair: &[Station<'_>; 2]) -> Result<String, LabError> {
    let mut told = format!("{node}'s wire, the same addresses in two tunnels:\n");
    // One family is enough to see it.
    if let (Some(from), Some(to)) = (pair[0].addresses.first(), pair[1].addresses.first()) {
        let inner = format!("IP {from} > {to}: ICMP echo request");
        let number = format!("vni {}: ", objects::VNI);
        for is_second in [false, true] {
            let fits = |packet: &&String| packet.contains(&inner) && packet.contains(&number) == is_second;
            let packet = wire.iter().find(fits).ok_or_else(|| LabError::Output {
                command: format!("tcpdump on the wire of {node}"),
                problem: format!(
                    "no {inner:?} with {number:?}: {is_second}, in\n{}",
                    wire.join("\n")
                ),
            })?;
            let _ = writeln!(told, "  {packet}");
        }
    }
    Ok(told)
}

/// A pod's second interface, as its runtime calls a plugin for it.
fn second_interface(pod: &Pod) -> Container<'_> {
    Container {
        namespace: pod.namespace(),
        id: pod.name(),
        pod: (POD_NAMESPACE, pod.name()),
        interface: SECOND_INTERFACE,
    }
}

/// Takes the pod, the tap device and the network away.
fn take_away(lab: &mut Lab, multus: &Runtime, name: &str, here: &str) -> Result<(), LabError> {
    multus.del(second_interface(lab.pod(name)?))?;
    lab.remove_pod(name)?;
    if let Some(daemon) = lab.node(here)?.daemon() {
        daemon.client_output(&["detach", "--tap", TAP])?;
    }
    for (_, daemon) in millrace(lab) {
        daemon.remove_manifest(FILE)?;
    }
    Ok(())
}
