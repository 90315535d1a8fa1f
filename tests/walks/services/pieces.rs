//! Packets in pieces: all of one packet go where the first goes, as it goes.

use millrace_dataplane::port::PortId;
use millrace_dataplane::verdict::{DropReason, Verdict};

use super::{At, From, Sketch, To, UDP, hop, local, node, packet, vip};
use crate::packets::{Body, Family, Ip, patch_ipv4};
use crate::rows::{Expect, Row};
use crate::world::{Node, node_address, pod, pod_port, router_mac, switch_mac, uplink, world};

/// Bytes of payload in the first piece; a multiple of eight.
const FIRST: usize = 1000;

/// Puts a packet into a frame.
type Framing<'a> = &'a dyn Fn(&Ip) -> Vec<u8>;

/// Both pieces of a packet, as IP packets in the frames that `frame` makes.
fn pieces(whole: &Ip, frame: impl Fn(&Ip) -> Vec<u8>) -> [Vec<u8>; 2] {
    let (mut first, second) = (frame(whole), frame(whole));
    match whole.family() {
        Family::V4 => {
            first.truncate(34 + FIRST);
            let head = second[..34].to_vec();
            let second = [head, second[34 + FIRST..].to_vec()].concat();
            let len = |frame: &[u8]| u16::try_from(frame.len() - 14).unwrap().to_be_bytes();
            let (a, b) = (len(&first), len(&second));
            let offset = u16::try_from(FIRST / 8).unwrap().to_be_bytes();
            [
                patch_ipv4(patch_ipv4(first, 16, &a), 20, &[0x20, 0]),
                patch_ipv4(patch_ipv4(second, 16, &b), 20, &offset),
            ]
        }
        Family::V6 => {
            let protocol = first[20];
            let offset = u16::try_from(FIRST).unwrap();
            let build = |frame: &[u8], payload: &[u8], offset: u16| {
                let header = [&[protocol, 0][..], &offset.to_be_bytes(), &[0, 0, 0x77, 7]].concat();
                let mut piece = [&frame[..54], &header, payload].concat();
                piece[20] = 44;
                let len = u16::try_from(piece.len() - 54).unwrap().to_be_bytes();
                piece[18..20].copy_from_slice(&len);
                piece
            };
            [
                build(&first, &first[54..54 + FIRST], 1),
                build(&second, &second[54 + FIRST..], offset),
            ]
        }
    }
}

/// A datagram that needs two pieces.
fn large(source: (std::net::IpAddr, u16), destination: (std::net::IpAddr, u16)) -> Ip {
    let Ip {
        source: from,
        destination: to,
        ..
    } = packet(UDP, source, destination);
    Ip::udp(from, to).body(Body::Udp(source.1, destination.1, vec![0x5a; 1400]))
}

fn check(node: &mut Node, name: &str, ingress: PortId, piece: &[u8], expect: Expect) {
    let row = Row::new(name, ingress, piece.to_vec(), expect);
    let (verdict, left) = node.receive(ingress, piece);
    row.check(verdict, &left);
}

#[test]
fn a_datagram_in_two_pieces_reaches_a_service_and_the_world_whole() {
    for family in Family::BOTH {
        let (address, port) = local(family);
        let mut node = node(&[Sketch::new(
            1,
            At::Cluster(vip(family, 1)),
            80,
            &[(address, port, true)],
        )]);
        let own = (pod(family, 1, 2), 61_400);
        let wire = |ip: &Ip| ip.frame(router_mac(), switch_mac(1, uplink()));
        let station = |ip: &Ip| match To::Pod(3).expect(ip) {
            Expect::Forward(_, bytes) => bytes,
            other => panic!("{other:?}"),
        };
        let rows: [(&str, Ip, Ip, PortId, Framing<'_>); 2] = [
            (
                "a Service",
                large(own, (vip(family, 1), 80)),
                large(own, (address, port)),
                pod_port(3),
                &station,
            ),
            (
                "the world",
                large(own, (world(family), 53)),
                large((node_address(family, 1), own.1), (world(family), 53)),
                uplink(),
                &wire,
            ),
        ];
        for (name, sent, leaves, exit, frame) in rows {
            let came = pieces(&sent, |ip| From::Pod(2).frame(ip));
            let left = pieces(&hop(&leaves), frame);
            for (piece, left) in came.iter().zip(left) {
                let name = format!("{family:?}: to {name}");
                check(&mut node, &name, pod_port(2), piece, Expect::Forward(exit, left));
            }
        }
    }
}

#[test]
fn a_later_piece_whose_first_has_not_passed_goes_to_no_service_and_not_out() {
    for family in Family::BOTH {
        let (address, port) = local(family);
        let mut node = node(&[Sketch::new(
            1,
            At::Cluster(vip(family, 1)),
            80,
            &[(address, port, true)],
        )]);
        let own = (pod(family, 1, 2), 4000);
        let unknown = || Expect::Drop(DropReason::FragmentUnknown);
        let to_service = pieces(&large(own, (vip(family, 1), 80)), |ip| From::Pod(2).frame(ip));
        check(&mut node, "to a Service", pod_port(2), &to_service[1], unknown());
        let to_world = pieces(&large(own, (world(family), 80)), |ip| From::Pod(2).frame(ip));
        check(&mut node, "to the world", pod_port(2), &to_world[1], unknown());
        let from_world = pieces(
            &large((world(family), 53), (node_address(family, 1), 61_999)),
            |ip| From::World.frame(ip),
        );
        check(&mut node, "to the node", uplink(), &from_world[1], unknown());
        // Between pods nothing is changed, and each piece goes for itself.
        let plain = pieces(&large(own, (address, port)), |ip| From::Pod(2).frame(ip));
        let (verdict, _) = node.receive(pod_port(2), &plain[1]);
        assert_eq!(verdict, Verdict::Forward(pod_port(3)));
        // What was remembered is forgotten after a while.
        let (verdict, _) = node.receive(pod_port(2), &to_service[0]);
        assert_eq!(verdict, Verdict::Forward(pod_port(3)));
        node.wait(31);
        check(&mut node, "too late", pod_port(2), &to_service[1], unknown());
    }
}
