//! ICMP errors about packets that go through the switch.

use std::time::Duration;

use etherparse::icmpv4::{DestUnreachableHeader, TimeExceededCode};
use etherparse::{Icmpv4Type, Icmpv6Type, icmpv6};

use super::*;

const TTL_EXCEEDED: Icmpv4Type = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
const NO_ROUTE: Icmpv4Type = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Network);
const NO_HOST: Icmpv4Type = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Host);

fn too_big(next_hop_mtu: u16) -> Icmpv4Type {
    Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu })
}

/// The ICMP error from the gateway that quotes `quote` bytes of `original`.
fn error(original: &Packet, kind: Icmpv4Type, quote: usize) -> Packet {
    let to = original.source.to_string();
    let mut error = Packet::icmp_v4(GATEWAY, &to, kind, &original.bytes()[..quote]);
    (error.class, error.id) = (0xc0, 1);
    error
}

fn error_v6(original: &Packet, kind: Icmpv6Type, quote: usize) -> Packet {
    let to = original.source.to_string();
    let mut error = Packet::icmp_v6(GATEWAY_V6, &to, kind, &original.bytes()[..quote]);
    error.class = 0xc0;
    error
}

#[test]
fn errors_say_what_is_wrong_and_quote_the_packet() {
    let mut to_world = Packet::udp(A, WORLD, 40);
    (to_world.hops, to_world.class, to_world.id) = (1, 0x2b, 0x1234);
    let from_peer = Packet::udp(REMOTE, NOBODY, 8);
    let big = Packet {
        dont_fragment: true,
        ..Packet::udp(A, REMOTE, 1600)
    };
    let lost = Packet::udp(NODE, LOST, 0);
    let first_fragment = Packet {
        fragment: (0, true),
        ..Packet::udp(A, REMOTE, 1472)
    };
    let mtu = PuntDetail::Mtu(1450);
    let none = PuntDetail::Nothing;
    let rows = [
        answered(
            "TTL exceeded, whole packet",
            to_world.punt(POD_A, PuntReason::TimeExceeded, none),
            &error(&to_world, TTL_EXCEEDED, 68),
            "time_exceeded_sent",
        ),
        answered(
            "too big, as much as fits 576 bytes",
            big.punt(POD_A, PuntReason::PacketTooBig, mtu),
            &error(&big, too_big(1450), 548),
            "too_big_sent",
        ),
        answered(
            "too big, a first fragment",
            first_fragment.punt(POD_A, PuntReason::PacketTooBig, mtu),
            &error(&first_fragment, too_big(1450), 548),
            "too_big_sent",
        ),
        answered(
            "no route, for the host",
            lost.punt(HOST, PuntReason::Unreachable, none),
            &error(&lost, NO_ROUTE, 28),
            "unreachable_sent",
        ),
        answered(
            "a pod address that is nobody's, for a pod of another node",
            from_peer.punt(UPLINK, PuntReason::Unreachable, none),
            &error(&from_peer, NO_HOST, 36),
            "unreachable_sent",
        ),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn errors_of_ipv6_too() {
    let short = Packet {
        hops: 1,
        ..Packet::udp(A_V6, LOST_V6, 12)
    };
    let big = Packet::udp(A_V6, LOST_V6, 1452);
    let nobody = Packet::udp(A_V6, "fd00:1::77", 0);
    let none = PuntDetail::Nothing;
    let exceeded = Icmpv6Type::TimeExceeded(icmpv6::TimeExceededCode::HopLimitExceeded);
    let unreachable = Icmpv6Type::DestinationUnreachable;
    let rows = [
        answered(
            "hop limit exceeded",
            short.punt(POD_A, PuntReason::TimeExceeded, none),
            &error_v6(&short, exceeded, 60),
            "time_exceeded_sent",
        ),
        answered(
            "too big, as much as fits the smallest MTU",
            big.punt(POD_A, PuntReason::PacketTooBig, PuntDetail::Mtu(1430)),
            &error_v6(&big, Icmpv6Type::PacketTooBig { mtu: 1430 }, 1232),
            "too_big_sent",
        ),
        answered(
            "no route",
            short.punt(POD_A, PuntReason::Unreachable, none),
            &error_v6(&short, unreachable(icmpv6::DestUnreachableCode::NoRoute), 60),
            "unreachable_sent",
        ),
        answered(
            "nobody there",
            nobody.punt(POD_A, PuntReason::Unreachable, none),
            &error_v6(&nobody, unreachable(icmpv6::DestUnreachableCode::Address), 48),
            "unreachable_sent",
        ),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn padding_of_the_link_is_not_quoted() {
    let packet = Packet::udp(A, LOST, 1);
    let mut frame = packet.frame(switch_mac(POD_A), peer_mac(POD_A));
    frame.resize(60, 0xee);
    let punt = punt(POD_A, PuntReason::Unreachable, PuntDetail::Nothing, &frame);
    check(
        [answered(
            "padded",
            punt,
            &error(&packet, NO_ROUTE, 29),
            "unreachable_sent",
        )],
        &tables(&[]),
    );
}

/// For each reason, so that none has its own idea of what may be answered.
#[track_caller]
fn never(name: &'static str, packet: &Packet, counter: &'static str) {
    for (reason, detail) in [
        (PuntReason::TimeExceeded, PuntDetail::Nothing),
        (PuntReason::PacketTooBig, PuntDetail::Mtu(1400)),
        (PuntReason::Unreachable, PuntDetail::Nothing),
    ] {
        check(
            [silent(name, packet.punt(POD_A, reason, detail), counter)],
            &tables(&[]),
        );
    }
}

#[test]
fn no_error_is_ever_about_an_error() {
    for kind in [3, 4, 5, 11, 12] {
        let unknown = Icmpv4Type::Unknown {
            type_u8: kind,
            code_u8: 0,
            bytes5to8: [0; 4],
        };
        let quote = Packet::udp(LOST, A, 0).bytes();
        never(
            "an ICMP error",
            &Packet::icmp_v4(A, LOST, unknown, &quote),
            "ignored_icmp_error",
        );
    }
    for kind in [1, 2, 3, 4, 100, 127, 137] {
        let unknown = Icmpv6Type::Unknown {
            type_u8: kind,
            code_u8: 0,
            bytes5to8: [0; 4],
        };
        never(
            "an ICMPv6 error",
            &Packet::icmp_v6(A_V6, LOST_V6, unknown, &[]),
            "ignored_icmp_error",
        );
    }
    let mut behind_options = Packet::icmp_v6(A_V6, LOST_V6, Icmpv6Type::PacketTooBig { mtu: 1 }, &[]);
    behind_options.protocol = IpNumber::IPV6_DESTINATION_OPTIONS;
    behind_options.payload.splice(0..0, [58, 0, 1, 4, 0, 0, 0, 0]);
    never(
        "an ICMPv6 error behind options",
        &behind_options,
        "ignored_icmp_error",
    );
    let mut cut = Packet::icmp_v4(A, LOST, NO_ROUTE, &[]);
    cut.payload.truncate(7);
    never("an ICMP message cut short", &cut, "malformed");

    let echo = etherparse::IcmpEchoHeader { id: 1, seq: 1 };
    let ping = Packet::icmp_v4(A, LOST, Icmpv4Type::EchoRequest(echo), &[]);
    let punt = ping.punt(POD_A, PuntReason::Unreachable, PuntDetail::Nothing);
    check(
        [answered(
            "an echo request is no error",
            punt,
            &error(&ping, NO_ROUTE, 28),
            "unreachable_sent",
        )],
        &tables(&[]),
    );
}

#[test]
fn no_error_is_about_a_later_fragment_or_goes_to_more_than_one() {
    let from = |source| Packet::udp(source, LOST, 4);
    never(
        "a later fragment",
        &Packet {
            fragment: (10, true),
            ..from(A)
        },
        "ignored_fragment",
    );
    never(
        "the last fragment",
        &Packet {
            fragment: (10, false),
            ..from(A)
        },
        "ignored_fragment",
    );
    let mut fragment_v6 = Packet::udp(A_V6, LOST_V6, 4);
    fragment_v6.protocol = IpNumber::IPV6_FRAGMENTATION_HEADER;
    fragment_v6.payload.splice(0..0, [17, 0, 0, 8, 0, 0, 0, 9]);
    never("a later IPv6 fragment", &fragment_v6, "ignored_fragment");
    for source in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.9",
        "240.0.0.1",
        "255.255.255.255",
        GATEWAY,
    ] {
        never(source, &from(source), "ignored_address");
    }
    for destination in ["224.0.0.1", "239.1.2.3", "255.255.255.255"] {
        never(destination, &Packet::udp(A, destination, 4), "ignored_address");
    }
    for source in ["::", "::1", "fe80::5", "ff02::1", "::ffff:10.0.0.1", GATEWAY_V6] {
        never(source, &Packet::udp(source, LOST_V6, 4), "ignored_address");
    }
    never("ff0e::1", &Packet::udp(A_V6, "ff0e::1", 4), "ignored_address");
    for station in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        let frame = from(A).frame(station, peer_mac(POD_A));
        let punt = punt(POD_A, PuntReason::Unreachable, PuntDetail::Nothing, &frame);
        check(
            [silent("sent to more than one station", punt, "ignored_address")],
            &tables(&[]),
        );
    }
}

#[test]
fn headers_that_lie_are_not_answered() {
    let good = Packet::udp(A, LOST, 4).frame(switch_mac(POD_A), peer_mac(POD_A));
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        punt(POD_A, PuntReason::Unreachable, PuntDetail::Nothing, &frame)
    };
    let no_mtu = Packet::udp(A, LOST, 4).punt(POD_A, PuntReason::PacketTooBig, PuntDetail::Nothing);
    let rows = [
        silent("header checksum", with(24, good[24] ^ 1), "malformed"),
        silent("version", with(14, 0x55), "malformed"),
        silent("header length", with(14, 0x4f), "malformed"),
        silent("total length", with(16, 0xff), "malformed"),
        silent("EtherType", with(12, 0x81), "malformed"),
        silent("too big for what", no_mtu, "malformed"),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn the_source_is_the_gateway_or_else_the_node() {
    let with_local = |gateways: &[&str], addresses: &[&str]| {
        let parse = |list: &[&str]| list.iter().map(|text| ip(text)).collect();
        let (gateways, addresses) = (parse(gateways), parse(addresses));
        NodeTables {
            local: Arc::new(Local {
                gateways,
                addresses,
                ..Local::default()
            }),
            ..tables(&[])
        }
    };
    let none = PuntDetail::Nothing;
    let v4 = || Packet::udp(A, LOST, 0).punt(POD_A, PuntReason::Unreachable, none);
    let v6 = || Packet::udp(A_V6, LOST_V6, 0).punt(POD_A, PuntReason::Unreachable, none);
    for (name, punt, tables, expected) in [
        (
            "the gateway",
            v4(),
            with_local(&[GATEWAY_V6, GATEWAY], &[NODE]),
            Some(GATEWAY),
        ),
        (
            "the node",
            v4(),
            with_local(&[GATEWAY_V6], &["fd00::9", NODE]),
            Some(NODE),
        ),
        ("no IPv4", v4(), with_local(&[GATEWAY_V6], &["fd00::9"]), None),
        (
            "the IPv6 gateway",
            v6(),
            with_local(&[GATEWAY, GATEWAY_V6], &[]),
            Some(GATEWAY_V6),
        ),
        (
            "no link-local address",
            v6(),
            with_local(&[GATEWAY], &["fe80::1", "fd00::9"]),
            Some("fd00::9"),
        ),
        ("no IPv6", v6(), with_local(&[GATEWAY], &[NODE, "fe80::1"]), None),
    ] {
        let (sent, counter) = handle_one(name, &punt, &tables);
        let source = sent.map(|(_, packet)| match ip(expected.unwrap()) {
            IpAddr::V4(_) => IpAddr::from(<[u8; 4]>::try_from(&packet[26..30]).unwrap()),
            IpAddr::V6(_) => IpAddr::from(<[u8; 16]>::try_from(&packet[22..38]).unwrap()),
        });
        assert_eq!(source, expected.map(ip), "{name}");
        assert_eq!(
            counter,
            if expected.is_some() {
                "unreachable_sent"
            } else {
                "no_source"
            },
            "{name}"
        );
    }
}

#[test]
fn errors_are_limited_and_what_needs_none_costs_none() {
    let tables = tables(&[]);
    let start = Instant::now();
    let mut slow_path = slow_path_of(10);
    let echo = etherparse::IcmpEchoHeader { id: 1, seq: 1 };
    let lost =
        |source: &str| Packet::udp(source, LOST, 0).punt(POD_A, PuntReason::Unreachable, PuntDetail::Nothing);
    let about_error =
        Packet::icmp_v4(A, LOST, NO_ROUTE, &[]).punt(POD_A, PuntReason::Unreachable, PuntDetail::Nothing);
    let ping = Packet::icmp_v4(A, GATEWAY, Icmpv4Type::EchoRequest(echo), &[]);
    for _ in 0..100 {
        slow_path.handle(&about_error, &tables, start);
        slow_path.handle(
            &ping.punt(POD_A, PuntReason::ToSwitch, PuntDetail::Nothing),
            &tables,
            start,
        );
    }
    let sent = |slow_path: &mut SlowPath, source: &str, count: u32, now| {
        (0..count)
            .filter(|_| slow_path.handle(&lost(source), &tables, now).injection.is_some())
            .count() as u32
    };
    assert_eq!(sent(&mut slow_path, A, 60, start), rate::BURST_PER_SOURCE);
    assert_eq!(
        sent(&mut slow_path, A, 60, start + Duration::from_secs(1)),
        3,
        "a quarter of the rate, rounded up"
    );
    let counters = moved(&slow_path);
    let limited = 120 - u64::from(rate::BURST_PER_SOURCE) - 3;
    let expected = [
        ("echo_replies", 100),
        ("ignored_icmp_error", 100),
        ("rate_limited", limited),
        ("unreachable_sent", 120 - limited),
    ];
    assert_eq!(counters, BTreeMap::from(expected));

    let mut mute = slow_path_of(0);
    assert_eq!(sent(&mut mute, A, 3, start), 0);
    assert_eq!(moved(&mute), BTreeMap::from([("rate_limited", 3)]));
}
