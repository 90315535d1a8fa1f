//! TCP connections are followed: strict enough that nothing is torn down from aside.

use std::net::IpAddr;

use millrace_dataplane::table::flow::FlowOptions;
use millrace_dataplane::verdict::DropReason;

use super::{At, From, Sketch, To, hop, local, tables, vip};
use crate::packets::{Body, Family, Ip, Segment};
use crate::rows::{Expect, Row};
use crate::world::{Node, pod};

const CLIENT: u32 = 1000;
const SERVER: u32 = 90_000;
const WINDOW: u16 = 8000;

/// A connection of a pod to a Service on this node, and its two ends.
struct Talk {
    node: Node,
    family: Family,
    /// Bytes that the links add to every frame.
    padding: usize,
}

impl Talk {
    fn new(family: Family, loose: bool) -> Self {
        let (address, port) = local(family);
        let sketch = Sketch::new(1, At::Cluster(vip(family, 1)), 80, &[(address, port, true)]);
        let options = FlowOptions {
            ipv4: 1024,
            ipv6: 1024,
            loose,
            ..FlowOptions::default()
        };
        Self {
            node: Node::with_flows(tables(&[sketch]), &options),
            family,
            padding: 0,
        }
    }

    fn say(&mut self, name: &str, from: From, ip: &Ip, expect: Expect) {
        let mut row = Row::new(name, from.port(), from.frame(ip), expect);
        row.packet.resize(row.packet.len() + self.padding, 0);
        let (verdict, left) = self.node.receive(row.ingress, &row.packet);
        row.check(verdict, &left);
    }

    fn client(&self) -> (IpAddr, u16) {
        (pod(self.family, 1, 2), 4000)
    }

    /// A segment of the client's; as it comes, and as it leaves.
    fn of_client(&self, segment: &Segment) -> (Ip, Ip) {
        let (own, service, backend) = (self.client(), (vip(self.family, 1), 80), local(self.family));
        (build(own, service, segment), build(own, backend, segment))
    }

    fn of_server(&self, segment: &Segment) -> (Ip, Ip) {
        let (own, service, backend) = (self.client(), (vip(self.family, 1), 80), local(self.family));
        (build(backend, own, segment), build(service, own, segment))
    }

    fn client_says(&mut self, name: &str, segment: &Segment) {
        let (comes, leaves) = self.of_client(segment);
        let expect = To::Pod(3).expect(&hop(&leaves));
        self.say(name, From::Pod(2), &comes, expect);
    }

    fn server_says(&mut self, name: &str, segment: &Segment) {
        let (comes, leaves) = self.of_server(segment);
        let expect = To::Pod(2).expect(&hop(&leaves));
        self.say(name, From::Pod(3), &comes, expect);
    }

    fn client_is_dropped(&mut self, name: &str, segment: &Segment, reason: DropReason) {
        let (comes, _) = self.of_client(segment);
        self.say(name, From::Pod(2), &comes, Expect::Drop(reason));
    }

    fn server_is_dropped(&mut self, name: &str, segment: &Segment, reason: DropReason) {
        let (comes, _) = self.of_server(segment);
        self.say(name, From::Pod(3), &comes, Expect::Drop(reason));
    }

    fn shake_hands(&mut self) {
        self.client_says("SYN", &syn());
        self.server_says("SYN-ACK", &syn_ack());
        self.client_says("ACK", &data(CLIENT + 1, SERVER + 1, 0));
    }
}

fn build(source: (IpAddr, u16), destination: (IpAddr, u16), segment: &Segment) -> Ip {
    let segment = Segment {
        ports: (source.1, destination.1),
        ..segment.clone()
    };
    Ip::udp(source.0, destination.0).body(Body::Segment(segment))
}

fn syn() -> Segment {
    Segment {
        sequence: CLIENT,
        window: WINDOW,
        syn: true,
        ..Segment::default()
    }
}

fn syn_ack() -> Segment {
    Segment {
        sequence: SERVER,
        acknowledgment: Some(CLIENT + 1),
        window: WINDOW,
        syn: true,
        ..Segment::default()
    }
}

fn data(sequence: u32, acknowledgment: u32, len: usize) -> Segment {
    Segment {
        sequence,
        acknowledgment: Some(acknowledgment),
        window: WINDOW,
        data: vec![7; len],
        ..Segment::default()
    }
}

fn reset(sequence: u32) -> Segment {
    Segment {
        sequence,
        rst: true,
        ..Segment::default()
    }
}

#[test]
fn a_connection_from_its_handshake_to_its_end() {
    // Six bytes fill the shortest segments up to the shortest frame of Ethernet; none of them is a byte of the stream.
    for (family, padding) in Family::BOTH
        .into_iter()
        .flat_map(|family| [(family, 0), (family, 6)])
    {
        let mut talk = Talk::new(family, false);
        talk.padding = padding;
        talk.shake_hands();
        talk.client_says("data", &data(CLIENT + 1, SERVER + 1, 500));
        talk.server_says("data", &data(SERVER + 1, CLIENT + 501, 900));
        let fin = |sequence, acknowledgment| Segment {
            fin: true,
            ..data(sequence, acknowledgment, 0)
        };
        talk.client_says("FIN", &fin(CLIENT + 501, SERVER + 901));
        talk.server_says("FIN", &fin(SERVER + 901, CLIENT + 502));
        talk.client_says("last ACK", &data(CLIENT + 502, SERVER + 902, 0));
        // The same ports again, before anything is forgotten: a new connection.
        talk.client_says(
            "SYN again",
            &Segment {
                sequence: CLIENT + 900_000,
                ..syn()
            },
        );
    }
}

/// An out-of-window RST, a SYN in an established flow, an old SYN-ACK: the flow lives.
#[test]
fn nobody_tears_a_connection_down_blindly() {
    for family in Family::BOTH {
        let mut talk = Talk::new(family, false);
        talk.shake_hands();
        for sequence in [0, CLIENT.wrapping_sub(1_000_000), CLIENT + 1_000_000, u32::MAX] {
            talk.client_is_dropped("RST out of window", &reset(sequence), DropReason::TcpWindow);
        }
        for sequence in [0, SERVER.wrapping_sub(1_000_000), SERVER + 1_000_000] {
            talk.server_is_dropped("RST out of window", &reset(sequence), DropReason::TcpWindow);
        }
        talk.client_says("data", &data(CLIENT + 1, SERVER + 1, 500));
        talk.server_says("answer", &data(SERVER + 1, CLIENT + 501, 900));
        let (comes, _) = talk.of_client(&Segment {
            sequence: CLIENT + 77,
            ..syn()
        });
        // Whatever becomes of the SYN itself (the server answers a stray one with an ACK, RFC 5961).
        talk.node
            .receive(From::Pod(2).port(), &From::Pod(2).frame(&comes));
        let (comes, _) = talk.of_server(&syn_ack());
        talk.node
            .receive(From::Pod(3).port(), &From::Pod(3).frame(&comes));
        talk.client_says("more", &data(CLIENT + 501, SERVER + 901, 500));
        talk.server_says("more", &data(SERVER + 901, CLIENT + 1001, 900));
    }
}

#[test]
fn a_segment_from_the_middle_begins_a_connection_only_where_that_is_allowed() {
    for family in Family::BOTH {
        let middle = data(CLIENT + 1, SERVER + 1, 500);
        let mut loose = Talk::new(family, true);
        loose.client_says("taken up", &middle);
        loose.server_says("answered", &data(SERVER + 1, CLIENT + 501, 500));
        let mut strict = Talk::new(family, false);
        strict.client_is_dropped("not taken up", &middle, DropReason::TcpInvalid);
        strict.client_is_dropped("a reset begins nothing", &reset(CLIENT), DropReason::TcpInvalid);
    }
}

/// What lies within a window beyond what was noted, and what comes late, passes as it does through the kernel's tracking; a
/// stream goes on from there.
#[test]
fn what_follows_on_segments_that_were_not_noted_passes() {
    let window = u32::from(WINDOW);
    for family in Family::BOTH {
        let mut talk = Talk::new(family, false);
        talk.shake_hands();
        talk.client_says("data", &data(CLIENT + 1, SERVER + 1, 500));
        talk.server_says(
            "ACK of data not noted",
            &data(SERVER + 1, CLIENT + 501 + window, 0),
        );
        let beyond = data(SERVER + 1, CLIENT + 502 + window, 0);
        talk.server_is_dropped("ACK of more than a window", &beyond, DropReason::TcpWindow);
        talk.client_says("data after it", &data(CLIENT + 501 + window, SERVER + 1, 500));
        talk.server_says("its ACK", &data(SERVER + 1, CLIENT + 1001 + window, 0));
        let next = CLIENT + 1001 + 2 * window;
        talk.client_says("data beyond the window", &data(next, SERVER + 1, 0));
        talk.client_says("data a little further", &data(next + 1, SERVER + 1, 500));
        talk.server_says("its ACK", &data(SERVER + 1, next + 501, 900));
        let far = data(next + 502 + 2 * window, SERVER + 901, 500);
        talk.client_is_dropped("data beyond two windows", &far, DropReason::TcpWindow);
        talk.client_says("data once more", &data(CLIENT + 1, SERVER + 1, 500));
        talk.server_says("an old ACK", &data(SERVER + 1, CLIENT.wrapping_sub(70_000), 0));
        talk.client_says("more", &data(next + 501, SERVER + 901, 500));
    }
}
