//! Pieces of a packet that contradict each other, or come otherwise than in order.

use millrace_dataplane::verdict::DropReason;

use super::pieces::{check, large};
use super::{At, From, SCTP, Sketch, To, UDP, hop, local, node, packet, vip};
use crate::packets::{Body, Family, Ip, Segment, cut, patch, patch_ipv4, raw_piece};
use crate::rows::Expect;
use crate::world::{Node, pod, pod_port};

/// One piece of a datagram: from where, to where, whether more follow, and what becomes of it.
type Step = (usize, usize, bool, Result<(), DropReason>);

const OVERLAP: Result<(), DropReason> = Err(DropReason::FragmentOverlap);
/// All of the datagram behind the IP header, in bytes.
const LEN: usize = 1408;

/// A node whose Service 1 leads to pod 3.
fn served(family: Family) -> Node {
    let (address, port) = local(family);
    node(&[Sketch::new(
        1,
        At::Cluster(vip(family, 1)),
        80,
        &[(address, port, true)],
    )])
}

/// Sends pieces of one packet from pod 2, which goes to pod 3.
fn run(node: &mut Node, name: &str, (comes, leaves): (&Ip, &Ip), steps: &[Step]) {
    let family = comes.family();
    let sent = From::Pod(2).frame(comes);
    let Expect::Forward(_, left) = To::Pod(3).expect(&hop(leaves)) else {
        panic!("a pod's port")
    };
    for (number, (start, end, more, becomes)) in steps.iter().enumerate() {
        let piece = cut(family, &sent, *start..*end, *more);
        let expect = match becomes {
            Ok(()) => Expect::Forward(pod_port(3), cut(family, &left, *start..*end, *more)),
            Err(reason) => Expect::Drop(*reason),
        };
        let name = format!("{family:?}: {name}, piece {number}");
        check(node, &name, pod_port(2), &piece, expect);
    }
}

fn conversations() -> Vec<(&'static str, Vec<Step>)> {
    vec![
        (
            "in order",
            vec![
                (0, 800, true, Ok(())),
                (800, 1200, true, Ok(())),
                (1200, LEN, false, Ok(())),
            ],
        ),
        (
            "the rest out of order",
            vec![
                (0, 400, true, Ok(())),
                (1200, LEN, false, Ok(())),
                (400, 800, true, Ok(())),
                (800, 1200, true, Ok(())),
            ],
        ),
        (
            "one comes twice, which spoils nothing",
            vec![
                (0, 800, true, Ok(())),
                (0, 800, true, OVERLAP),
                (8, 16, true, OVERLAP),
                (800, 1200, true, Ok(())),
                (808, 1000, true, OVERLAP),
                (1200, LEN, false, Ok(())),
            ],
        ),
        (
            "over the end of the first",
            vec![
                (0, 800, true, Ok(())),
                (792, 1200, true, OVERLAP),
                (800, 1200, true, OVERLAP),
                (1200, LEN, false, OVERLAP),
            ],
        ),
        (
            "over one that came before its time",
            vec![
                (0, 400, true, Ok(())),
                (800, 1200, true, Ok(())),
                (400, 808, true, OVERLAP),
                (400, 800, true, OVERLAP),
            ],
        ),
        (
            "around one that has passed",
            vec![
                (0, 400, true, Ok(())),
                (800, 1000, true, Ok(())),
                (792, 1200, true, OVERLAP),
                (400, 800, true, OVERLAP),
            ],
        ),
        (
            "beyond the last",
            vec![
                (0, 400, true, Ok(())),
                (800, 1200, false, Ok(())),
                (1200, LEN, true, OVERLAP),
                (400, 800, true, OVERLAP),
            ],
        ),
        (
            "a last one before what has passed",
            vec![
                (0, 400, true, Ok(())),
                (800, 1200, true, Ok(())),
                (400, 500, false, OVERLAP),
                (400, 800, true, OVERLAP),
            ],
        ),
        (
            "two last ones",
            vec![
                (0, 400, true, Ok(())),
                (1000, 1200, false, Ok(())),
                (400, 500, false, OVERLAP),
                (400, 1000, true, OVERLAP),
            ],
        ),
    ]
}

#[test]
fn what_has_passed_is_not_said_again_and_a_contradiction_ends_its_packet() {
    for family in Family::BOTH {
        let own = (pod(family, 1, 2), 4000);
        let as_it_is = large(own, local(family));
        let to_service = large(own, (vip(family, 1), 80));
        for (name, steps) in conversations() {
            run(&mut served(family), name, (&to_service, &as_it_is), &steps);
            run(&mut served(family), name, (&as_it_is, &as_it_is), &steps);
        }
    }
}

/// Nothing changes in packets between pods, so a later piece need not wait for the first; but it is kept in mind.
#[test]
fn between_pods_a_later_piece_may_be_the_first_to_come() {
    for family in Family::BOTH {
        let ip = large((pod(family, 1, 2), 4000), local(family));
        let steps: [(&str, &[Step]); 2] = [
            (
                "backwards",
                &[
                    (1200, LEN, false, Ok(())),
                    (800, 1200, true, Ok(())),
                    (0, 800, true, Ok(())),
                ],
            ),
            (
                "the first over it",
                &[
                    (800, 1200, true, Ok(())),
                    (0, 808, true, OVERLAP),
                    (0, 800, true, OVERLAP),
                ],
            ),
        ];
        for (name, steps) in steps {
            run(&mut served(family), name, (&ip, &ip), steps);
        }
    }
}

/// A packet that is whole is forgotten, and an old one too: the next may have its identifier.
#[test]
fn an_identifier_can_be_used_again() {
    for family in Family::BOTH {
        let own = (pod(family, 1, 2), 4000);
        let (comes, leaves) = (large(own, (vip(family, 1), 80)), large(own, local(family)));
        let mut node = served(family);
        let whole = [(0, 800, true, Ok(())), (800, LEN, false, Ok(()))];
        for _ in 0..3 {
            run(&mut node, "a whole packet", (&comes, &leaves), &whole);
        }
        run(&mut node, "half a packet", (&comes, &leaves), &whole[..1]);
        run(
            &mut node,
            "the same again",
            (&comes, &leaves),
            &[(0, 800, true, OVERLAP)],
        );
        node.wait(31);
        run(&mut node, "after a while", (&comes, &leaves), &whole);
    }
}

#[test]
fn no_more_gaps_are_kept_in_mind_than_there_is_room_for() {
    for family in Family::BOTH {
        let ip = large((pod(family, 1, 2), 4000), local(family));
        let islands = (0..8).map(|number| (number * 160, number * 160 + 80, true, Ok(())));
        let mut steps: Vec<Step> = islands.collect();
        steps.push((1280, 1360, true, Err(DropReason::FragmentScattered)));
        // What closes a gap makes room.
        steps.push((80, 160, true, Ok(())));
        steps.push((1280, 1360, true, Ok(())));
        run(&mut served(family), "islands", (&ip, &ip), &steps);
    }
}

/// Whoever sends first pieces only takes no memory, and pushes out what is older, not what is newer.
#[test]
fn a_flood_of_first_pieces_stays_within_bounds() {
    for family in Family::BOTH {
        let mut node = served(family);
        let own = (pod(family, 1, 2), 4000);
        let (comes, leaves) = (large(own, (vip(family, 1), 80)), large(own, local(family)));
        run(&mut node, "before", (&comes, &leaves), &[(0, 800, true, Ok(()))]);
        node.wait(1);
        let frame = From::Pod(2).frame(&comes);
        for number in 0..8192_u16 {
            let mut piece = cut(family, &frame, 0..800, true);
            if family == Family::V4 {
                piece = patch_ipv4(piece, 18, &(number | 0x2000).to_be_bytes());
            } else {
                piece = patch(piece, 58, &number.to_be_bytes());
            }
            node.receive(pod_port(2), &piece);
        }
        let unknown = Err(DropReason::FragmentUnknown);
        run(
            &mut node,
            "pushed out",
            (&comes, &leaves),
            &[(800, LEN, false, unknown)],
        );
        let after = [(0, 800, true, Ok(())), (800, LEN, false, Ok(()))];
        run(&mut node, "after", (&comes, &leaves), &after);
    }
}

/// A connection may begin with a segment in pieces, and its windows count what the later ones hold.
#[test]
fn tcp_in_pieces_is_followed() {
    for family in Family::BOTH {
        for in_order in [true, false] {
            let mut node = served(family);
            let (own, service, server) = ((pod(family, 1, 2), 4000), (vip(family, 1), 80), local(family));
            // A later piece to a Service has to follow the first.
            let called = if in_order { service } else { server };
            let ip = |from: (std::net::IpAddr, u16), to: (std::net::IpAddr, u16), segment: Segment| {
                let ports = (from.1, to.1);
                Ip::udp(from.0, to.0).body(Body::Segment(Segment { ports, ..segment }))
            };
            let segment = |sequence, acknowledgment, len: usize| Segment {
                sequence,
                acknowledgment,
                window: 8000,
                data: vec![0x5a; len],
                ..Segment::default()
            };
            let syn = Segment {
                syn: true,
                ..segment(1000, None, 100)
            };
            let (comes, leaves) = (ip(own, called, syn.clone()), ip(own, server, syn));
            let head: Step = (0, 64, true, Ok(()));
            run(
                &mut node,
                "SYN with data",
                (&comes, &leaves),
                &[head, (64, 120, false, Ok(()))],
            );
            let mut answer = |name: &str, segment: Segment| {
                let (comes, leaves) = (ip(server, own, segment.clone()), ip(called, own, segment));
                super::say(
                    &mut node,
                    name,
                    From::Pod(3),
                    &comes,
                    To::Pod(2).expect(&hop(&leaves)),
                );
            };
            answer(
                "SYN-ACK",
                Segment {
                    syn: true,
                    ..segment(9000, Some(1101), 0)
                },
            );
            let data = segment(1101, Some(9001), 1388);
            let (comes, leaves) = (ip(own, called, data.clone()), ip(own, server, data));
            let mut steps: Vec<Step> = vec![(0, 800, true, Ok(())), (800, LEN, false, Ok(()))];
            if !in_order {
                steps.reverse();
            }
            run(&mut node, "data", (&comes, &leaves), &steps);
            let acknowledged = segment(9001, Some(1101 + 1388), 0);
            let (comes, leaves) = (
                ip(server, own, acknowledged.clone()),
                ip(called, own, acknowledged),
            );
            super::say(
                &mut node,
                "ACK",
                From::Pod(3),
                &comes,
                To::Pod(2).expect(&hop(&leaves)),
            );
            // A window further than all pieces were long, and no byte more, may something have been missed.
            let beyond = ip(server, own, segment(9001, Some(1101 + 1388 + 8001), 0));
            super::say(
                &mut node,
                "ACK of more",
                From::Pod(3),
                &beyond,
                Expect::Drop(DropReason::TcpWindow),
            );
        }
    }
}

/// SCTP's checksum covers all pieces and no address, so pieces can be given other addresses, and no other ports.
#[test]
fn sctp_in_pieces_keeps_its_ports() {
    for family in Family::BOTH {
        let (own, server) = ((pod(family, 1, 2), 4000), local(family));
        let mut node = node(&[
            Sketch::new(1, At::Cluster(vip(family, 1)), 80, &[(server.0, server.1, true)]),
            Sketch::new(
                2,
                At::Cluster(vip(family, 2)),
                server.1,
                &[(server.0, server.1, true)],
            ),
        ]);
        let ip = |to| packet(SCTP, own, to).len(if family == Family::V4 { 1420 } else { 1440 });
        let pieces = [(0, 800, true, Ok(())), (800, 1400, false, Ok(()))];
        run(
            &mut node,
            "the same port",
            (&ip((vip(family, 2), server.1)), &ip(server)),
            &pieces,
        );
        let other = [(0, 800, true, Err(DropReason::FragmentChecksum))];
        run(
            &mut node,
            "another port",
            (&ip((vip(family, 1), 80)), &ip(server)),
            &other,
        );
    }
}

/// In IPv6 the first piece may go on with extension headers, and the later ones then name the first of these.
#[test]
fn extension_headers_may_be_in_pieces() {
    let family = Family::V6;
    let mut node = served(family);
    let own = (pod(family, 1, 2), 4000);
    let both = [(vip(family, 1), 80), local(family)].map(|to| packet(UDP, own, to).len(40 + 400));
    let framed = |ip: &Ip, frame: Vec<u8>| {
        let options = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &frame[54..]].concat();
        assert_eq!(ip.family(), family);
        [
            raw_piece(family, &frame, 60, &options[..104], (0, true)),
            raw_piece(family, &frame, 60, &options[104..], (104, false)),
            raw_piece(family, &frame, 60, &options[96..], (96, false)),
        ]
    };
    let comes = framed(&both[0], From::Pod(2).frame(&both[0]));
    let Expect::Forward(_, left) = To::Pod(3).expect(&hop(&both[1])) else {
        panic!("a pod's port")
    };
    let leaves = framed(&both[1], left);
    check(
        &mut node,
        "first",
        pod_port(2),
        &comes[0],
        Expect::Forward(pod_port(3), leaves[0].clone()),
    );
    check(
        &mut node,
        "later",
        pod_port(2),
        &comes[1],
        Expect::Forward(pod_port(3), leaves[1].clone()),
    );
    check(
        &mut node,
        "again",
        pod_port(2),
        &comes[0],
        Expect::Forward(pod_port(3), leaves[0].clone()),
    );
    check(
        &mut node,
        "over it",
        pod_port(2),
        &comes[2],
        Expect::Drop(DropReason::FragmentOverlap),
    );
}
