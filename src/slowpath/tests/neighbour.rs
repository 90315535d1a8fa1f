//! Neighbour solicitations and what the switch says to them.

use std::net::Ipv6Addr;

use super::*;

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const LINK_LOCAL: &str = "fe80::5";

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// An ICMPv6 message in a frame, its checksum right.
fn frame(link: (MacAddr, MacAddr), (source, destination): (&str, &str), message: &[u8]) -> Vec<u8> {
    let (source, destination) = (v6(source).octets(), v6(destination).octets());
    let mut message = message.to_vec();
    let (kind, code, rest) = (
        message[0],
        message[1],
        [message[4], message[5], message[6], message[7]],
    );
    let header = etherparse::Icmpv6Header::with_checksum(
        etherparse::Icmpv6Type::Unknown {
            type_u8: kind,
            code_u8: code,
            bytes5to8: rest,
        },
        source,
        destination,
        &message[8..],
    );
    message[2..4].copy_from_slice(&header.unwrap().checksum.to_be_bytes());
    let ip = Ipv6Header {
        payload_length: message.len() as u16,
        next_header: IpNumber::IPV6_ICMP,
        hop_limit: 255,
        source,
        destination,
        ..Ipv6Header::default()
    };
    [&link.0.0[..], &link.1.0, &[0x86, 0xdd], &ip.to_bytes(), &message].concat()
}

fn message(kind: u8, flags: u8, target: &str, options: &[u8]) -> Vec<u8> {
    [
        &[kind, 0, 0, 0, flags, 0, 0, 0][..],
        &v6(target).octets(),
        options,
    ]
    .concat()
}

/// The group, and its MAC address, that whoever has an address listens to (RFC 4291 section 2.7.1, RFC 2464 section 7).
fn group_of(target: &str) -> (String, MacAddr) {
    let [.., a, b, c] = v6(target).octets();
    let address = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    );
    (address.to_string(), MacAddr([0x33, 0x33, 0xff, a, b, c]))
}

fn asked(port: PortId, sender: &str, target: &str) -> Punt {
    let (group, mac) = group_of(target);
    // Whoever has no address yet does not tell its link address either.
    let options = [&[1, 1][..], &peer_mac(port).0].concat();
    let options = if sender == "::" { vec![] } else { options };
    let frame = frame(
        (mac, peer_mac(port)),
        (sender, &group),
        &message(SOLICITATION, 0, target, &options),
    );
    punt(
        port,
        PuntReason::NeighbourSolicitation,
        PuntDetail::Nothing,
        &frame,
    )
}

fn answered(name: &'static str, port: PortId, sender: &str, target: &str) -> Row {
    let (to, mac, flags) = match sender {
        "::" => ("ff02::1", MacAddr([0x33, 0x33, 0, 0, 0, 1]), 0xa0),
        other => (other, peer_mac(port), 0xe0),
    };
    let link = [&[2, 1][..], &switch_mac(port).0].concat();
    let reply = frame(
        (mac, switch_mac(port)),
        (target, to),
        &message(ADVERTISEMENT, flags, target, &link),
    );
    Row {
        name,
        punt: asked(port, sender, target),
        expected: Some((Way::Exit(port), reply)),
        counter: "neighbour_advertisements",
    }
}

fn ignored(name: &'static str, port: PortId, sender: &str, target: &str) -> Row {
    silent(name, asked(port, sender, target), "neighbour_ignored")
}

#[test]
fn every_address_but_the_askers_own_is_answered_for() {
    let rows = [
        answered("its gateway", POD_A, A_V6, GATEWAY_V6),
        answered(
            "its gateway, from a link-local address",
            POD_A,
            LINK_LOCAL,
            GATEWAY_V6,
        ),
        answered("another pod", POD_A, A_V6, "fd00:1::6"),
        answered("a link-local gateway", POD_A, LINK_LOCAL, "fe80::1"),
        answered("anyone at all", POD_A, A_V6, LOST_V6),
        answered("a probe for another's address", POD_A, "::", GATEWAY_V6),
        ignored("its own address", POD_A, LINK_LOCAL, A_V6),
        ignored("a probe for its own address", POD_A, "::", A_V6),
        ignored("a probe for its own link-local address", POD_A, "::", LINK_LOCAL),
        ignored("loopback", POD_A, A_V6, "::1"),
        ignored("a group", POD_A, A_V6, "ff02::1"),
        ignored("nobody", POD_A, A_V6, "::"),
        answered("the host asks for a pod", HOST, "fd00:1::", A_V6),
        answered("the host asks for its gateway", HOST, "fd00:1::", GATEWAY_V6),
        answered("the host probes for its gateway", HOST, "::", GATEWAY_V6),
        ignored("the host asks for its own", HOST, "fd00:1::", "fe80::1"),
        ignored(
            "the host probes for what it is about to take",
            HOST,
            "::",
            LOST_V6,
        ),
        ignored("the uplink", UPLINK, "fe80::9", LOST_V6),
        silent("a port that has left", asked(GONE, A_V6, GATEWAY_V6), "port_gone"),
    ];
    check(rows, &tables(&[]));
}

#[test]
fn what_is_no_sound_solicitation_is_not_answered() {
    let good = asked(POD_A, A_V6, GATEWAY_V6).packet.bytes().to_vec();
    let link = (switch_mac(POD_A), peer_mac(POD_A));
    let row = |name, frame: &[u8], counter| {
        let punt = punt(
            POD_A,
            PuntReason::NeighbourSolicitation,
            PuntDetail::Nothing,
            frame,
        );
        silent(name, punt, counter)
    };
    let patched = |at: usize, byte: u8| {
        let mut frame = good.clone();
        frame[at] = byte;
        frame
    };
    let advertisement = frame(link, (A_V6, GATEWAY_V6), &message(ADVERTISEMENT, 0, A_V6, &[]));
    // Whoever has no address must not have a link address remembered for it (RFC 4861 section 7.1.1).
    let told = frame(
        link,
        ("::", "ff02::1:ff00:1"),
        &message(SOLICITATION, 0, GATEWAY_V6, &[1, 1, 2, 0, 0, 0, 2, 2]),
    );
    check(
        [
            row("an advertisement", &advertisement, "neighbour_ignored"),
            row("a probe that tells its link address", &told, "neighbour_ignored"),
            row("forwarded by a router", &patched(21, 254), "neighbour_ignored"),
            row("a wrong checksum", &patched(56, good[56] ^ 1), "bad_checksum"),
            row("an option of no length", &patched(79, 0), "malformed"),
            row("another code", &patched(55, 1), "malformed"),
            row("another EtherType", &patched(13, 0), "malformed"),
            row("cut short by a byte", &good[..good.len() - 1], "malformed"),
            row("nothing at all", &[], "malformed"),
        ],
        &tables(&[]),
    );
}
