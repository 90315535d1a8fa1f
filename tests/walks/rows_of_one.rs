//! Packets of one connection in a row, with others among them: the lane takes a row at once, and each packet must still
//! end as if it had come alone, which the switch behind (`Node::take`) shows.

use proptest::prelude::*;

use millrace_dataplane::verdict::{PuntReason, Verdict};

use crate::packets::{Body, Family, Ip, Segment};
use crate::rows::sent;
use crate::world::{Node, pod, pod_port, uplink};

/// Bytes of a packet that is too long for the tunnel.
const TOO_LONG: usize = 1460;

fn to_peer(family: Family) -> Ip {
    Ip::udp(pod(family, 1, 2), pod(family, 2, 2))
}

fn tcp(family: Family, segment: Segment) -> Ip {
    let ports = (4000, 80);
    to_peer(family).body(Body::Segment(Segment {
        ports,
        window: 8000,
        ..segment
    }))
}

/// What may come: two conversations of UDP, one of TCP, and what ends a row or a connection.
fn packets(family: Family) -> Vec<Ip> {
    let (to_peer, tcp) = (|| to_peer(family), |segment| tcp(family, segment));
    let data = |sequence, acknowledgment| {
        tcp(Segment {
            sequence,
            acknowledgment,
            data: vec![7; 20],
            ..Segment::default()
        })
    };
    let other = Body::Udp(4001, 53, vec![1; 40]);
    vec![
        to_peer(),
        to_peer().ecn(2),
        to_peer().body(other),
        to_peer().ttl(1),
        to_peer().len(TOO_LONG),
        tcp(Segment {
            sequence: 1000,
            syn: true,
            ..Segment::default()
        }),
        data(1001, Some(1)),
        data(4_000_000_000, Some(1)),
        tcp(Segment {
            sequence: 1001,
            rst: true,
            ..Segment::default()
        }),
        tcp(Segment {
            sequence: 1021,
            acknowledgment: Some(1),
            fin: true,
            ..Segment::default()
        }),
    ]
}

/// Which packet, and how many of it in a row.
fn row() -> impl Strategy<Value = (usize, usize)> {
    let which = prop_oneof![4 => Just(0_usize), 1 => 0..packets(Family::V4).len()];
    (which, 1_usize..12)
}

fn frames(family: Family, rows: &[(usize, usize)]) -> Vec<Vec<u8>> {
    let all = packets(family);
    let each = rows
        .iter()
        .flat_map(|(which, count)| std::iter::repeat_n(sent(&all[*which], pod_port(2)), *count));
    each.take(100).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn each_packet_ends_as_if_it_had_come_alone(
        family in prop::sample::select(&Family::BOTH),
        batches in proptest::collection::vec((proptest::collection::vec(row(), 1..16), 0_u32..3), 1..6),
    ) {
        let (mut node, mut one_by_one) = (Node::new(1), Node::new(1));
        for (rows, seconds) in batches {
            let frames = frames(family, &rows);
            let together = node.receive_all(pod_port(2), &frames);
            for (frame, (verdict, left)) in frames.iter().zip(together) {
                let alone = one_by_one.receive(pod_port(2), frame);
                prop_assert_eq!(verdict, alone.0);
                // The keys of the two switches' hashes differ, and so outer source ports do.
                prop_assert_eq!(left.len(), alone.1.len());
            }
            node.wait(seconds);
            one_by_one.wait(seconds);
        }
    }
}

fn verdicts(node: &mut Node, row: &[&Ip]) -> Vec<Verdict> {
    let row: Vec<_> = row.iter().map(|ip| sent(ip, pod_port(2))).collect();
    let ends = node.receive_all(pod_port(2), &row);
    ends.into_iter().map(|end| end.0).collect()
}

#[test]
fn a_row_goes_on_behind_one_that_leaves_it() {
    for family in Family::BOTH {
        let mut node = Node::new(1);
        let good = to_peer(family);
        let (expired, long) = (good.clone().ttl(1), good.clone().len(TOO_LONG));
        for _ in 0..2 {
            let verdicts = verdicts(&mut node, &[&good, &good, &expired, &good, &long, &good, &good]);
            let reasons = [verdicts[2], verdicts[4]].map(|verdict| match verdict {
                Verdict::Punt(reason, _) => reason,
                Verdict::Forward(_) | Verdict::Drop(_) | Verdict::Replicate(_) => panic!("{verdict:?}"),
            });
            assert_eq!(reasons, [PuntReason::TimeExceeded, PuntReason::PacketTooBig]);
            let on = Verdict::Forward(uplink());
            assert!(
                [0, 1, 3, 5, 6].iter().all(|at| verdicts[*at] == on),
                "{verdicts:?}"
            );
        }
    }
}

/// A connection that begins and ends within one batch: what follows its first packet must not be taken for a first one.
#[test]
fn a_reset_finds_the_connection_that_its_own_batch_began() {
    for family in Family::BOTH {
        let mut node = Node::new(1);
        let all = packets(family);
        let (data, reset) = (&all[6], &all[8]);
        let seen = verdicts(&mut node, &[data, data, reset]);
        assert_eq!(seen, [Verdict::Forward(uplink()); 3]);
    }
}
