//! A real Linux kernel as the judge of what goes between a Millrace node and Calico's: `tunl0` of the ipip module, and VXLAN
//! devices for both families, in a virtual machine, with the addresses, routes and neighbours that Calico gives them.
//!
//! Pods here and there exchange pings, TCP and UDP, in packets of every size, and what is seen between the two nodes is
//! compared: for the same packet inside, a node's outer header must say what the other's says. The kernel that the machine
//! starts is `tools/kernel.sh`'s.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod objects;
mod peer;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::traffic::Capture;
use millrace_tools::lab::traffic::talk::{Talk, TalkReport};
use millrace_tools::lab::{
    Lab, Namespace, NodeKind, POD_INTERFACE, Process, Wire, find_program, interrupt, wait_until,
};

use objects::{Place, address};
use peer::Peer;
use wire::Seen;

/// Longer than anything takes that is to come about at all: the machine is emulated.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the first answer may take: neighbours have to be found.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// Where pods echo.
const ECHO_PORT: u16 = 7000;
/// MTU of the wire, and of the pods' own interfaces once they are to send what fits into no tunnel.
const LINK_MTU: u32 = 1500;
/// The MTU that a pod here is given: what fits into the tunnel that adds most.
const POD_MTU: u32 = LINK_MTU - 70;

/// A node here, a node there, and a pod on each with an address in every pool.
struct Rig {
    peer: Peer,
    echoes: Vec<Process>,
    /// One with an address of the first and the last pool, one with one of the second: a pod has one of each family.
    pods: [Namespace; 2],
    lab: Lab,
}

/// The tunnels, by the pools that take them.
const WAYS: [Way; 3] = [
    Way {
        name: "IPIP",
        place: Place::Ipip,
        mtu: LINK_MTU - 20,
    },
    Way {
        name: "VXLAN",
        place: Place::Vxlan,
        mtu: LINK_MTU - 50,
    },
    Way {
        name: "VXLAN over IPv6",
        place: Place::VxlanV6,
        mtu: LINK_MTU - 70,
    },
];

/// A tunnel and what it takes.
struct Way {
    name: &'static str,
    place: Place,
    /// The largest packet inside.
    mtu: u32,
}

impl Way {
    /// The pods' addresses here and there.
    fn ends(&self) -> (IpAddr, IpAddr) {
        (address(self.place, 'a'), address(self.place, 'b'))
    }

    /// The payload of an echo request that makes a packet of `len` bytes.
    fn payload(&self, len: u32) -> u32 {
        len - if self.ends().0.is_ipv4() { 28 } else { 48 }
    }
}

fn step<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = work();
    eprintln!("calico: {:>6.1?}  {what}", begun.elapsed());
    done
}

impl Rig {
    fn new() -> Self {
        interrupt::heed_signals().unwrap();
        let mut lab = Lab::new("calico", Wire::default()).unwrap_or_else(|error| panic!("{error}"));
        let node = lab.add_idle_node(NodeKind::Millrace).unwrap();
        let uplink = node.namespace();
        let v6 = format!("{}/64", objects::underlay_v6('a'));
        let word = ["-6", "address", "add", &v6, "dev", UPLINK, "nodad"];
        uplink.ip(&word).unwrap();
        let daemon = node.daemon_mut().unwrap();
        daemon
            .write_config(&objects::node_file(&daemon.manifests(), &daemon.state()))
            .unwrap();
        daemon.remove_manifest("node-a.yaml").unwrap();
        daemon
            .write_manifest("calico.yaml", &objects::manifests("Always"))
            .unwrap();
        daemon
            .start()
            .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log_end()));
        let pods = ["pod-a", "pod-v"].map(|name| lab.namespace(name).unwrap());
        attach(&lab, "lab/pod-a", &pods[0], &[Place::Ipip, Place::VxlanV6]);
        attach(&lab, "lab/pod-v", &pods[1], &[Place::Vxlan]);
        let peer = Peer::boot(&lab);
        let echoes = pods.iter().zip([Place::Ipip, Place::Vxlan]);
        let echoes = echoes
            .map(|(pod, place)| start_echo(&lab, pod, address(place, 'a')))
            .collect();
        Self {
            peer,
            echoes,
            pods,
            lab,
        }
    }

    /// Listens between the two nodes while `work` goes on, and reads what was seen.
    fn capture(&self, name: &str, work: impl FnOnce()) -> Vec<Seen> {
        let file: PathBuf = self.lab.folder().join(format!("{name}.pcap"));
        let filter = "ip proto 4 or udp port 4789";
        let rack = self.lab.switch().namespace();
        let capture = Capture::start(rack, Peer::TAP, filter, &file).unwrap();
        work();
        wire::read(&capture.stop().unwrap())
    }

    /// The pod here that has an address of a pool.
    fn pod(&self, place: Place) -> &Namespace {
        &self.pods[usize::from(place == Place::Vxlan)]
    }

    /// One echo request from the pod here to the one there, with these options of `ping`; whether it was answered, and what was
    /// said.
    fn ping(&self, place: Place, options: &[&str]) -> (bool, String) {
        ping(self.pod(place), address(place, 'b'), options)
    }
}

/// One echo request from a namespace.
fn ping(from: &Namespace, to: IpAddr, options: &[&str]) -> (bool, String) {
    let to = to.to_string();
    let mut words = vec!["-n", "-c", "1", "-W", "20"];
    words.extend(options);
    words.push(&to);
    let told = from.complete("ping", &words, PATIENCE).unwrap();
    (told.status.success(), format!("{}{}", told.stdout, told.stderr))
}

/// A pod here, with room for what fits into no tunnel.
fn attach(lab: &Lab, name: &str, pod: &Namespace, places: &[Place]) {
    let node = lab.node("node-a").unwrap();
    let path = pod.path().to_string_lossy().into_owned();
    let addresses: Vec<String> = places
        .iter()
        .map(|place| address(*place, 'a').to_string())
        .collect();
    let mut words = vec!["attach", name, "--netns", &path];
    for address in &addresses {
        words.extend(["--address", address]);
    }
    let daemon = node.daemon().unwrap();
    let made = daemon.client_output(&words);
    made.unwrap_or_else(|error| panic!("{error}"));
    let ports = daemon.json(&["show", "ports"]).unwrap();
    let mut ports = ports.as_array().unwrap().iter();
    let port = ports.find(|port| port["pod"] == name).expect("the pod's port");
    assert_eq!(port["mtu"], POD_MTU);
    let interface = port["interface"].as_str().unwrap();
    let mtu = LINK_MTU.to_string();
    let ends = [(node.namespace(), interface), (pod, POD_INTERFACE)];
    for (namespace, interface) in ends {
        namespace.ip(&["link", "set", interface, "mtu", &mtu]).unwrap();
    }
}

/// The echo of a pod here.
fn start_echo(lab: &Lab, pod: &Namespace, at: IpAddr) -> Process {
    let mut line = pod.command(guest_program());
    line.args(["echo", &SocketAddr::new(at, ECHO_PORT).to_string()]);
    Process::spawn(line, &lab.folder().join(format!("echo-{at}.log"))).unwrap()
}

fn guest_program() -> PathBuf {
    find_program().unwrap().with_file_name("millrace-guest")
}

#[test]
fn a_kernel_as_calicos_node_takes_and_sends_what_this_node_does() {
    let rig = step("two nodes", Rig::new);
    step("the first answers", || {
        for way in &WAYS {
            let answered = wait_until(way.name, FIRST_ANSWER, || {
                rig.peer.rouse();
                Ok(rig.ping(way.place, &["-W", "2"]).0)
            });
            answered.unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
        }
    });
    for way in &WAYS {
        step(&format!("{}: the same pings from both sides", way.name), || {
            same_pings(&rig, way)
        });
    }
    step("what does not fit", || {
        WAYS.iter().for_each(|way| too_big(&rig, way))
    });
    step("TCP and UDP", || WAYS.iter().for_each(|way| talk(&rig, way)));
    step("the nodes themselves, and a borrowed address", || others(&rig));
    step("no tunnel on one's own subnet", || cross_subnet(&rig));
    rig.close();
}

/// Echo requests of every kind from both sides: with the same packet inside, both write the same outer header.
fn same_pings(rig: &Rig, way: &Way) {
    let here = address(way.place, 'a');
    let full = way.payload(POD_MTU).to_string();
    let rows: [&[&str]; 6] = [
        &["-M", "do"],
        &["-M", "dont"],
        &["-M", "do", "-t", "9"],
        &["-M", "do", "-s", &full],
        &["-M", "do", "-Q", "2"],
        &["-M", "do", "-Q", "184"],
    ];
    let seen = rig.capture(way.name.split(' ').next_back().unwrap_or("way"), || {
        for row in rows {
            let (answered, said) = rig.ping(way.place, row);
            assert!(
                answered,
                "{}: from here {row:?}: {said}\n{}",
                way.name,
                rig.told()
            );
            let (answered, said) = rig.peer.ping(here, row);
            assert!(
                answered,
                "{}: from there {row:?}: {said}\n{}",
                way.name,
                rig.told()
            );
        }
    });
    let of = |from: char| -> Vec<&Seen> {
        let source = address(way.place, from);
        seen.iter()
            .filter(|packet| packet.is_request_from(source))
            .collect()
    };
    let (ours, kernels) = (of('a'), of('b'));
    assert_eq!(
        (ours.len(), kernels.len()),
        (rows.len(), rows.len()),
        "{}: {seen:#?}",
        way.name
    );
    for ((ours, kernels), row) in ours.iter().zip(&kernels).zip(rows) {
        assert_eq!(ours.shape(), kernels.shape(), "{}: {row:?}", way.name);
        ours.assert_sound(
            objects::underlay(way.place, 'a'),
            objects::underlay(way.place, 'b'),
        );
        kernels.assert_sound(
            objects::underlay(way.place, 'b'),
            objects::underlay(way.place, 'a'),
        );
    }
    // A tunnel's packets may have to be put together again: each has an identification of its own.
    let mut ids: Vec<u16> = ours.iter().filter_map(|packet| packet.id).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "{}: {ids:?}", way.name);
}

/// One byte more than fits: who sends it is told what would, here because of the tunnel, there because of the pod it is for.
fn too_big(rig: &Rig, way: &Way) {
    let (here, _) = way.ends();
    let words = |size: &str| ["-M", "do", "-W", "3", "-s", size].map(str::to_owned);
    let size = |mtu: u32| way.payload(mtu + 1).to_string();
    let check = |from: &str, mtu: u32, (answered, said): (bool, String)| {
        let is_told = [format!("mtu = {mtu}"), format!("mtu={mtu}")]
            .iter()
            .any(|told| said.contains(told));
        assert!(!answered && is_told, "{}: from {from}: {said}", way.name);
    };
    let line = words(&size(way.mtu));
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    check("here", way.mtu, rig.ping(way.place, &line));
    let line = words(&size(POD_MTU));
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    check("there", POD_MTU, rig.peer.ping(here, &line));
}

/// The nodes' own stacks, which send from their addresses in the overlay; an address of the block here that the pod there has;
/// and one that nobody has, of which nobody is told.
fn others(rig: &Rig) {
    let node = rig.lab.node("node-a").unwrap().namespace();
    for way in &WAYS {
        let (here, there) = way.ends();
        let (answered, said) = ping(node, there, &[]);
        assert!(
            answered,
            "{}: from the node here: {said}\n{}",
            way.name,
            rig.told()
        );
        let (answered, said) = rig.peer.ping_from_node(here);
        assert!(
            answered,
            "{}: from the node there: {said}\n{}",
            way.name,
            rig.told()
        );
    }
    let (answered, said) = ping(rig.pod(Place::Ipip), objects::borrowed(), &[]);
    assert!(answered, "a borrowed address: {said}\n{}", rig.told());
    let (answered, said) = rig.peer.ping(objects::nobodys(), &["-W", "2"]);
    assert!(
        !answered && !said.contains("nreachable"),
        "nobody's address: {said}"
    );
}

/// The pool's mode becomes `CrossSubnet`, and the other node's routes what Calico makes of that: packets go as they are both
/// ways, while those of the other pools stay in their tunnels.
fn cross_subnet(rig: &Rig) {
    let daemon = rig.lab.node("node-a").unwrap().daemon().unwrap();
    daemon
        .write_manifest("calico.yaml", &objects::manifests("CrossSubnet"))
        .unwrap();
    rig.peer.route_plainly();
    let (here, there) = (address(Place::Vxlan, 'a'), address(Place::Vxlan, 'b'));
    wait_until("peers on this subnet", PATIENCE, || {
        let peers = daemon.json(&["show", "peers"])?;
        let mut peers = peers.as_array().unwrap().iter();
        Ok(peers.any(|peer| peer["tunnel"].as_str().unwrap().starts_with("none")))
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    let file = rig.lab.folder().join("plain.pcap");
    let capture = Capture::start(rig.lab.switch().namespace(), Peer::TAP, "icmp", &file).unwrap();
    for (from, (answered, said)) in [
        ("here", rig.ping(Place::Vxlan, &[])),
        ("there", rig.peer.ping(here, &[])),
    ] {
        assert!(answered, "plain, from {from}: {said}\n{}", rig.told());
    }
    let (answered, said) = rig.ping(Place::Ipip, &[]);
    assert!(answered, "in a tunnel still: {said}");
    let seen = wire::plain(&capture.stop().unwrap());
    assert_eq!(seen, [(here, there), (there, here), (there, here), (here, there)]);
}

/// TCP and UDP on several flows, connections opened from both sides.
fn talk(rig: &Rig, way: &Way) {
    let (here, there) = way.ends();
    let what = Talk {
        flows: 4,
        bytes: 40_000,
        datagrams: 4,
    };
    let check = |from: &str, line: &str| {
        let report = TalkReport::from_json(line).unwrap();
        assert!(report.is_whole(&what), "{}: from {from}: {report:#?}", way.name);
    };
    let words = talk_words(SocketAddr::new(there, ECHO_PORT), &what);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let program = guest_program().to_string_lossy().into_owned();
    let told = rig.pod(way.place).complete(&program, &words, PATIENCE).unwrap();
    check("here", &told.success().unwrap());
    if here.is_ipv4() {
        let words = talk_words(SocketAddr::new(here, ECHO_PORT), &what);
        check("there", &rig.peer.talk(&words));
    }
}

fn talk_words(to: SocketAddr, what: &Talk) -> Vec<String> {
    let numbers = [
        ("--flows", what.flows.to_string()),
        ("--bytes", what.bytes.to_string()),
        ("--datagrams", what.datagrams.to_string()),
    ];
    let options = numbers
        .into_iter()
        .flat_map(|(key, value)| [key.to_owned(), value]);
    ["talk".to_owned(), to.to_string()]
        .into_iter()
        .chain(options)
        .collect()
}

impl Rig {
    /// What there is to be known when something fails.
    fn told(&self) -> String {
        let daemon = self.lab.node("node-a").unwrap().daemon().unwrap();
        let ask = |words: &[&str]| match daemon.ask(words) {
            Ok(told) => told.stdout + &told.stderr,
            Err(error) => error.to_string(),
        };
        let own = [
            &["show", "peers"][..],
            &["show", "routes"],
            &["show", "ports"],
            &["stats"],
        ]
        .map(ask);
        let node = self.lab.node("node-a").unwrap().namespace();
        let rack = self.lab.switch().namespace();
        let words = [
            (node, &["neigh"][..]),
            (node, &["-s", "link"]),
            (rack, &["-s", "link"]),
        ];
        let ip =
            words.map(|(namespace, words)| namespace.ip(words).unwrap_or_else(|error| error.to_string()));
        format!(
            "{}\n{}\n-- log\n{}\n{}",
            own.join("\n"),
            ip.join("\n--\n"),
            daemon.log_end(),
            self.peer.told()
        )
    }

    /// Takes all down and makes sure that nothing is left.
    fn close(self) {
        let Self {
            peer,
            echoes,
            pods,
            lab,
        } = self;
        drop((peer, echoes, pods));
        lab.close().unwrap();
    }
}
