//! Pods that leave the cluster in protocols without ports, and in UDP-Lite, between the kernel's own sockets; and the node,
//! which goes on in the same protocols.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use millrace_tools::lab::{MillraceOptions, Namespace, NodeKind, Topology};
use rustix::net::{AddressFamily, Protocol, SocketType, bind, socket};

use super::ipv4;
use crate::counters::{Counters, growth};
use crate::rig::{PATIENCE, SILENCE, alone, daemon, daemon_mut, finish, guest, lab, node, pod, underlay};

const GRE: u32 = 47;
const ESP: u32 = 50;
const UDP_LITE: u32 = 136;
/// Of an IPv4 header without options, which a raw socket hears before the rest.
const HEADER_LEN: usize = 20;

/// A socket of the kernel's, of type RAW or DGRAM.
struct Socket(UdpSocket, usize);

impl Socket {
    fn open(namespace: &Namespace, kind: SocketType, protocol: u32, port: u16) -> Self {
        let protocol = Protocol::from_raw(protocol.try_into().unwrap());
        let open = || {
            let socket = socket(AddressFamily::INET, kind, Some(protocol))?;
            bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
            Ok::<_, io::Error>(UdpSocket::from(socket))
        };
        let socket = namespace.within(open).unwrap().unwrap();
        let headers = if kind == SocketType::RAW { HEADER_LEN } else { 0 };
        Self(socket, headers)
    }

    fn raw(namespace: &Namespace, protocol: u32) -> Self {
        Self::open(namespace, SocketType::RAW, protocol, 0)
    }

    fn say(&self, to: SocketAddrV4, words: &str) {
        self.0.send_to(words.as_bytes(), to).unwrap();
    }

    /// What is heard next, and from whom.
    #[track_caller]
    fn hear(&self) -> (String, SocketAddrV4) {
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        self.try_hear().expect("nothing is heard")
    }

    #[track_caller]
    fn hear_nothing(&self) {
        self.0.set_read_timeout(Some(SILENCE)).unwrap();
        assert_eq!(self.try_hear(), None);
    }

    fn try_hear(&self) -> Option<(String, SocketAddrV4)> {
        let mut buffer = [0; 2048];
        let (len, from) = self.0.recv_from(&mut buffer).ok()?;
        let words = String::from_utf8_lossy(&buffer[self.1..len]).into_owned();
        Some((words, SocketAddrV4::new(ipv4(from), from.port())))
    }
}

fn at(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, 0)
}

fn listing(name: &str) -> millrace_tools::lab::Lab {
    let millrace = MillraceOptions {
        extra: "masquerade-protocols = [\"gre\"]\n".to_owned(),
        ..MillraceOptions::default()
    };
    let topology = Topology {
        millrace,
        ..Topology::of(&[NodeKind::Millrace])
    };
    lab(name, &topology)
}

#[test]
fn a_pod_speaks_gre_as_the_node_and_the_node_goes_on_in_its_own() {
    let _machine = alone();
    let mut lab = listing("portless");
    let (outside, remote) = guest(&lab, "outside", 77);
    let (elsewhere, other) = guest(&lab, "elsewhere", 78);
    let own = underlay(&lab, "node-a");
    let [far, farther] = [&outside, &elsewhere].map(|namespace| Socket::raw(namespace, GRE));
    let [first, second] = ["pod-a1", "pod-a2"].map(|name| Socket::raw(pod(&lab, name), GRE));
    let nodes = Socket::raw(node(&lab, "node-a"), GRE);
    let converse = |words: &str| {
        first.say(at(remote), words);
        assert_eq!(far.hear(), (words.to_owned(), at(own)));
        far.say(at(own), "and you?");
        assert_eq!(first.hear(), ("and you?".to_owned(), at(remote)));
    };
    // Both first packets arrive: to the neighbour, and before steering knew of it.
    converse("how are you?");
    converse("well?");
    // The node talks to somebody else in the same protocol, and to the same remote in another.
    nodes.say(at(other), "the node here");
    assert_eq!(farther.hear(), ("the node here".to_owned(), at(own)));
    farther.say(at(own), "hello node");
    assert_eq!(nodes.hear(), ("hello node".to_owned(), at(other)));
    let [far_esp, nodes_esp] = [&outside, node(&lab, "node-a")].map(|namespace| Socket::raw(namespace, ESP));
    far_esp.say(at(own), "for the node");
    assert_eq!(nodes_esp.hear(), ("for the node".to_owned(), at(remote)));
    // Not a second pod to the same remote, nor a protocol that is not listed: neither leaves as the pod itself.
    let before = Counters::settled(daemon(&lab, "node-a"));
    second.say(at(remote), "me too");
    Socket::raw(pod(&lab, "pod-a1"), ESP).say(at(remote), "unlisted");
    [&far, &far_esp, &first, &nodes]
        .iter()
        .for_each(|ear| ear.hear_nothing());
    let after = Counters::settled(daemon(&lab, "node-a"));
    let dropped = growth(&before.dropped(), &after.dropped());
    for reason in ["masquerade_taken", "masquerade_protocol"] {
        assert_eq!(dropped.get(reason), Some(&1), "{dropped:?}");
    }
    second.say(at(other), "then to you");
    assert_eq!(farther.hear(), ("then to you".to_owned(), at(own)));
    farther.say(at(own), "welcome");
    assert_eq!(second.hear(), ("welcome".to_owned(), at(other)));
    // A switch that was killed learns it anew, from the pod's next packet.
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    converse("still there?");
    drop((outside, elsewhere));
    finish(lab);
}

#[test]
fn a_pod_speaks_udp_lite_as_the_node() {
    let _machine = alone();
    let lab = listing("udp-lite");
    let (outside, remote) = guest(&lab, "outside", 77);
    let own = underlay(&lab, "node-a");
    let to = SocketAddrV4::new(remote, 4000);
    let far = Socket::open(&outside, SocketType::DGRAM, UDP_LITE, to.port());
    for name in ["pod-a1", "pod-a2"] {
        let pods = Socket::open(pod(&lab, name), SocketType::DGRAM, UDP_LITE, 5000);
        pods.say(to, name);
        let (words, from) = far.hear();
        assert_eq!((words.as_str(), *from.ip()), (name, own));
        assert!(from.port() >= 61_000, "{from}");
        far.say(from, "an answer");
        assert_eq!(pods.hear(), ("an answer".to_owned(), to));
    }
    drop(outside);
    finish(lab);
}
