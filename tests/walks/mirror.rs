//! Through the tunnel and out again: what one node pushes, another pulls, and nothing but two hops is gone.

use proptest::prelude::*;

use millrace_dataplane::verdict::Verdict;

use crate::packets::{Body, Family, Ip, with_udp_checksum_v6};
use crate::rows::{hex, sent};
use crate::world::{Node, pod, pod_port, station_mac, switch_mac, underlay, uplink};

fn body() -> impl Strategy<Value = Body> {
    let data = || proptest::collection::vec(any::<u8>(), 0..1300);
    let protocol = prop_oneof![Just(132), Just(47), Just(50), Just(253)];
    prop_oneof![
        (any::<u16>(), any::<u16>(), data()).prop_map(|(from, to, data)| Body::Udp(from, to, data)),
        (any::<u16>(), any::<u16>(), data()).prop_map(|(from, to, data)| Body::Tcp(from, to, data)),
        (any::<u16>(), data()).prop_map(|(id, data)| Body::Echo(id, data)),
        // SCTP is the only one of these with a header that is looked at.
        (protocol, data()).prop_map(|(protocol, data)| Body::Raw(protocol, [data, vec![0; 4]].concat())),
    ]
}

fn packet() -> impl Strategy<Value = (u8, Ip)> {
    let route = prop_oneof![
        Just((Family::V4, 2)),
        Just((Family::V6, 2)),
        Just((Family::V4, 3)),
        Just((Family::V4, 6)),
        Just((Family::V6, 6)),
    ];
    route.prop_flat_map(|(family, peer)| {
        (body(), 3_u8..=255, 0_u8..4).prop_map(move |(body, ttl, ecn)| {
            let ip = Ip::udp(pod(family, 1, 2), pod(family, peer, 2))
                .body(body)
                .ttl(ttl)
                .ecn(ecn);
            (peer, ip)
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_pushed_here_is_pulled_there((peer, ip) in packet()) {
        let (mut here, mut there) = (Node::new(1), Node::new(peer));
        let (verdict, on_the_wire) = here.receive(pod_port(2), &sent(&ip, pod_port(2)));
        prop_assert_eq!(verdict, Verdict::Forward(uplink()));
        if underlay(1, peer) == Family::V6 {
            prop_assert_eq!(hex(&on_the_wire), hex(&with_udp_checksum_v6(on_the_wire.clone())));
        }
        let (verdict, delivered) = there.receive(uplink(), &on_the_wire);
        prop_assert_eq!(verdict, Verdict::Forward(pod_port(2)));
        let ttl = ip.ttl - 2;
        let expected = ip.ttl(ttl).frame(station_mac(peer, pod_port(2)), switch_mac(peer, pod_port(2)));
        prop_assert_eq!(hex(&delivered), hex(&expected));
    }
}
