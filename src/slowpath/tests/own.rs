//! Packets to the switch's own addresses.

use etherparse::icmpv4::DestUnreachableHeader;
use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, icmpv6};

use super::*;

const ECHO: IcmpEchoHeader = IcmpEchoHeader {
    id: 0xbeef,
    seq: 0x0102,
};

fn to_switch(packet: &Packet) -> Punt {
    packet.punt(POD_A, PuntReason::ToSwitch, PuntDetail::Nothing)
}

fn ping(len: usize) -> Packet {
    let body: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
    Packet {
        hops: 3,
        class: 0x28,
        ..Packet::icmp_v4(A, GATEWAY, Icmpv4Type::EchoRequest(ECHO), &body)
    }
}

fn pong(request: &Packet) -> Packet {
    let (from, to) = (request.destination.to_string(), request.source.to_string());
    let kind = Icmpv4Type::EchoReply(ECHO);
    Packet {
        class: request.class & 0xfc,
        id: 1,
        ..Packet::icmp_v4(&from, &to, kind, &request.payload[8..])
    }
}

#[test]
fn echo_requests_are_answered_in_full() {
    let from_remote = Packet {
        source: ip(REMOTE),
        ..ping(56)
    };
    let marked = Packet {
        class: 0xb9,
        ..ping(1)
    };
    let body = [0x5a; 33];
    let ping_v6 = Packet::icmp_v6(A_V6, GATEWAY_V6, Icmpv6Type::EchoRequest(ECHO), &body);
    let pong_v6 = Packet::icmp_v6(GATEWAY_V6, A_V6, Icmpv6Type::EchoReply(ECHO), &body);
    let rows = [
        answered(
            "without data",
            to_switch(&ping(0)),
            &pong(&ping(0)),
            "echo_replies",
        ),
        answered(
            "odd length",
            to_switch(&ping(57)),
            &pong(&ping(57)),
            "echo_replies",
        ),
        answered(
            "as long as a pod can",
            to_switch(&ping(1472)),
            &pong(&ping(1472)),
            "echo_replies",
        ),
        answered(
            "DSCP stays, ECN does not",
            to_switch(&marked),
            &pong(&marked),
            "echo_replies",
        ),
        answered(
            "from a pod of another node",
            from_remote.punt(UPLINK, PuntReason::ToSwitch, PuntDetail::Nothing),
            &pong(&from_remote),
            "echo_replies",
        ),
        answered("IPv6", to_switch(&ping_v6), &pong_v6, "echo_replies"),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn other_messages_and_damaged_ones_are_not_answered() {
    let mut damaged = ping(8);
    damaged.payload[9] ^= 0x40;
    let v6_sum = {
        let mut ping = Packet::icmp_v6(A_V6, GATEWAY_V6, Icmpv6Type::EchoRequest(ECHO), &[1, 2, 3]);
        ping.payload[2] ^= 1;
        ping
    };
    let message = |kind| Packet::icmp_v4(A, GATEWAY, kind, &[]);
    let unreachable = message(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port));
    let timestamp = Icmpv4Type::Unknown {
        type_u8: 13,
        code_u8: 0,
        bytes5to8: [0; 4],
    };
    let first_fragment = Packet {
        fragment: (0, true),
        ..ping(64)
    };
    let last_fragment = Packet {
        fragment: (9, false),
        ..ping(64)
    };
    let mut cut = ping(0);
    cut.payload.truncate(4);
    let mut routed = Packet::udp(A_V6, GATEWAY_V6, 0);
    routed.protocol = IpNumber::IPV6_ROUTE_HEADER;
    routed.payload.splice(
        0..0,
        [
            17, 2, 0, 1, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
        ],
    );
    let nothing_more = Packet::new(A_V6, GATEWAY_V6, IpNumber::IPV6_NO_NEXT_HEADER, &[]);
    let rows = [
        silent("checksum", to_switch(&damaged), "bad_checksum"),
        silent("ICMPv6 checksum", to_switch(&v6_sum), "bad_checksum"),
        silent(
            "an echo reply",
            to_switch(&message(Icmpv4Type::EchoReply(ECHO))),
            "ignored_to_switch",
        ),
        silent("an ICMP error", to_switch(&unreachable), "ignored_to_switch"),
        silent(
            "a timestamp request",
            to_switch(&message(timestamp)),
            "ignored_to_switch",
        ),
        silent("a first fragment", to_switch(&first_fragment), "ignored_fragment"),
        silent("a last fragment", to_switch(&last_fragment), "ignored_fragment"),
        silent("cut short", to_switch(&cut), "malformed"),
        silent(
            "from a group",
            to_switch(&Packet {
                source: ip("224.0.0.1"),
                ..ping(0)
            }),
            "ignored_address",
        ),
        silent(
            "from itself",
            to_switch(&Packet {
                source: ip(GATEWAY),
                ..ping(0)
            }),
            "ignored_address",
        ),
        silent(
            "no longer ours",
            to_switch(&Packet {
                destination: ip(B),
                ..ping(0)
            }),
            "ignored_to_switch",
        ),
        silent("on its way elsewhere", to_switch(&routed), "ignored_to_switch"),
        silent(
            "IPv6 without a payload",
            to_switch(&nothing_more),
            "ignored_to_switch",
        ),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn connections_are_refused_as_a_closed_port_does() {
    let syn = TcpHeader {
        syn: true,
        ..TcpHeader::new(40000, 80, 0xffff_fffe, 1000)
    };
    let ack = TcpHeader {
        ack: true,
        psh: true,
        acknowledgment_number: 77,
        ..TcpHeader::new(40000, 80, 5, 1000)
    };
    let fin = TcpHeader {
        fin: true,
        ..TcpHeader::new(40000, 80, 5, 1000)
    };
    let reset = |sequence| TcpHeader {
        rst: true,
        ..TcpHeader::new(80, 40000, sequence, 0)
    };
    let reset_ack = |acknowledgment_number| TcpHeader {
        ack: true,
        acknowledgment_number,
        ..reset(0)
    };
    let back = |header| Packet {
        dont_fragment: true,
        ..Packet::tcp(GATEWAY, A, header, &[])
    };
    let rst = TcpHeader {
        rst: true,
        ..syn.clone()
    };
    let mut damaged = Packet::tcp(A, GATEWAY, syn.clone(), &[]);
    damaged.payload[4] ^= 1;
    let to = |header: &TcpHeader, data: &[u8]| to_switch(&Packet::tcp(A, GATEWAY, header.clone(), data));
    let syn_v6 = Packet::tcp(A_V6, GATEWAY_V6, syn.clone(), &[]);
    let rows = [
        answered("SYN", to(&syn, &[]), &back(reset_ack(0xffff_ffff)), "resets_sent"),
        answered(
            "SYN with data",
            to(&syn, b"abc"),
            &back(reset_ack(2)),
            "resets_sent",
        ),
        answered(
            "FIN without ACK",
            to(&fin, b"xy"),
            &back(reset_ack(8)),
            "resets_sent",
        ),
        answered("ACK", to(&ack, b"data"), &back(reset(77)), "resets_sent"),
        answered(
            "IPv6",
            to_switch(&syn_v6),
            &Packet::tcp(GATEWAY_V6, A_V6, reset_ack(0xffff_ffff), &[]),
            "resets_sent",
        ),
        silent("RST", to(&rst, &[]), "ignored_to_switch"),
        silent("checksum", to_switch(&damaged), "bad_checksum"),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn datagrams_and_other_protocols_are_refused() {
    let error = |original: &Packet, kind| {
        let kind = Icmpv4Type::DestinationUnreachable(kind);
        Packet {
            class: 0xc0,
            id: 2,
            ..Packet::icmp_v4(GATEWAY, A, kind, &original.bytes())
        }
    };
    let error_v6 = |original: &Packet, kind| Packet {
        class: 0xc0,
        ..Packet::icmp_v6(GATEWAY_V6, A_V6, kind, &original.bytes())
    };
    let unknown_next_header = |pointer| {
        let code = icmpv6::ParameterProblemCode::UnrecognizedNextHeader;
        Icmpv6Type::ParameterProblem(icmpv6::ParameterProblemHeader { code, pointer })
    };
    let udp = Packet::udp(A, GATEWAY, 9);
    let mut unsummed = udp.clone();
    unsummed.payload[6..8].fill(0);
    let mut damaged = udp.clone();
    damaged.payload[8] ^= 1;
    let udp_v6 = Packet::udp(A_V6, GATEWAY_V6, 9);
    let mut unsummed_v6 = udp_v6.clone();
    unsummed_v6.payload[6..8].fill(0);
    let sctp = Packet::new(A, GATEWAY, IpNumber::SCTP, &[1; 12]);
    let gre_v6 = Packet::new(A_V6, GATEWAY_V6, IpNumber::GRE, &[0; 4]);
    let mut behind_options = gre_v6.clone();
    behind_options.protocol = IpNumber::IPV6_HEADER_HOP_BY_HOP;
    behind_options.payload.splice(
        0..0,
        [
            60, 0, 1, 4, 0, 0, 0, 0, 47, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    );
    let no_port_v6 = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
    let (port, protocol) = ("port_unreachable_sent", "protocol_unreachable_sent");
    let rows = [
        answered(
            "UDP",
            to_switch(&udp),
            &error(&udp, DestUnreachableHeader::Port),
            port,
        ),
        answered(
            "UDP without checksum",
            to_switch(&unsummed),
            &error(&unsummed, DestUnreachableHeader::Port),
            port,
        ),
        silent("UDP checksum", to_switch(&damaged), "bad_checksum"),
        answered(
            "UDP over IPv6",
            to_switch(&udp_v6),
            &error_v6(&udp_v6, no_port_v6),
            port,
        ),
        silent(
            "UDP over IPv6 without checksum",
            to_switch(&unsummed_v6),
            "bad_checksum",
        ),
        answered(
            "SCTP",
            to_switch(&sctp),
            &error(&sctp, DestUnreachableHeader::Protocol),
            protocol,
        ),
        answered(
            "GRE over IPv6",
            to_switch(&gre_v6),
            &error_v6(&gre_v6, unknown_next_header(6)),
            protocol,
        ),
        answered(
            "GRE behind options",
            to_switch(&behind_options),
            &error_v6(&behind_options, unknown_next_header(48)),
            protocol,
        ),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn refusals_are_limited() {
    let mut slow_path = slow_path_of(0);
    let syn = Packet::tcp(
        A,
        GATEWAY,
        TcpHeader {
            syn: true,
            ..TcpHeader::new(1, 2, 3, 4)
        },
        &[],
    );
    for packet in [
        syn,
        Packet::udp(A, GATEWAY, 0),
        Packet::new(A, GATEWAY, IpNumber::GRE, &[]),
    ] {
        assert!(
            slow_path
                .handle(&to_switch(&packet), &tables(&[]), Instant::now())
                .injection
                .is_none()
        );
    }
    assert_eq!(moved(&slow_path), BTreeMap::from([("rate_limited", 3)]));
}
