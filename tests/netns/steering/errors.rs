//! ICMP errors: those about packets that left the node by our doing are ours, all others are the kernel's.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{IpFragOffset, Ipv4Options};
use millrace_dataplane::verdict::Awaited;
use millrace_dataplane::wire::IpProtocol;
use millrace_dataplane::xdp::{SteeringCounter, SteeringProgram};

use crate::frames::*;
use crate::packets::check_rows_of;
use crate::services;

/// Some router on the way, which sends the error.
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);
/// Fragmentation needed and packet too big, the messages of path-MTU discovery.
const UNREACHABLE: u8 = 3;
const TOO_BIG: u8 = 2;

/// A packet that `from` sent to `FAR`, as a router quotes it.
fn sent(from: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    packet_of(&v4(FAR, protocol, payload, |header| {
        header.source = from.octets();
        // Longer than what is quoted of it.
        header.total_len = 1500;
    }))
}

fn sent6(from: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = packet_of(&v6(FAR6, next_header, payload));
    packet[4..6].copy_from_slice(&1440_u16.to_be_bytes());
    packet[8..24].copy_from_slice(&from.octets());
    packet
}

fn error(kind: u8, quoted: &[u8]) -> Vec<u8> {
    v4(NODE, 1, &icmp(kind, 0, quoted), |_| {})
}

fn error6(kind: u8, quoted: &[u8]) -> Vec<u8> {
    v6(NODE6, 58, &icmp(kind, 0, quoted))
}

fn program() -> SteeringProgram {
    let mut program = services::program(&services::tables());
    program
        .set_awaited([
            (FAR.into(), Awaited::Echo(700)),
            (FAR6.into(), Awaited::Echo(700)),
            (FAR.into(), Awaited::Protocol(IpProtocol::ESP)),
        ])
        .unwrap();
    program
}

#[test]
fn about_ipv4_packets() {
    use SteeringCounter::{FailsafePassed, Passed, ToSwitchIcmpError};
    let snat = sent(NODE, 6, &ports(61_000, 80));
    let about = |quoted: &[u8]| error(UNREACHABLE, quoted);
    let own =
        |protocol: u8, from_port: u16, to_port: u16| about(&sent(NODE, protocol, &ports(from_port, to_port)));
    let with_options = packet_of(&v4(FAR, 6, &ports(61_000, 80), |header| {
        header.source = NODE.octets();
        header.options = Ipv4Options::try_from(&[1; 40][..]).unwrap();
        header.total_len = 1500;
    }));
    let fragment = |offset: u16| {
        packet_of(&v4(FAR, 6, &ports(61_000, 80), |header| {
            header.source = NODE.octets();
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            header.more_fragments = true;
        }))
    };
    #[rustfmt::skip]
    let rows = [
        ("unreachable, source NAT", about(&snat), ToSwitchIcmpError),
        ("time exceeded", error(11, &snat), ToSwitchIcmpError),
        ("parameter problem", error(12, &snat), ToSwitchIcmpError),
        ("redirect", error(5, &snat), Passed),
        ("source quench", error(4, &snat), Passed),
        ("echo request that looks like one", error(8, &snat), Passed),
        ("UDP", own(17, 65_535, 53), ToSwitchIcmpError),
        ("SCTP", own(SCTP, 62_000, 7), ToSwitchIcmpError),
        ("the node's own connection", own(6, 40_000, 80), Passed),
        ("the node's own UDP, DNS say", own(17, 60_999, 53), Passed),
        ("the node's own to a port in the range", own(6, 40_000, 62_000), Passed),
        ("reply of a Service's port", own(6, 443, 50_000), ToSwitchIcmpError),
        ("same port, other protocol", own(17, 443, 50_000), Passed),
        ("reply of a node port", own(6, 30_080, 50_000), ToSwitchIcmpError),
        ("the node's own SSH", own(6, FAILSAFE_PORT, 50_000), FailsafePassed),
        ("a fail-safe port given away as node port", own(6, 6443, 50_000), FailsafePassed),
        ("tunnel packet", own(17, 40_000, TUNNEL_PORT), ToSwitchIcmpError),
        ("TCP to the tunnel's port", own(6, 40_000, TUNNEL_PORT), Passed),
        ("IP in IP", about(&sent(NODE, 4, &[0x45; 8])), ToSwitchIcmpError),
        ("echo request of source NAT", about(&sent(NODE, 1, &icmp(8, 700, &[]))), ToSwitchIcmpError),
        ("echo request of the node's own", about(&sent(NODE, 1, &icmp(8, 701, &[]))), Passed),
        ("another protocol", about(&sent(NODE, 47, &ports(61_000, 80))), Passed),
        ("a protocol without ports in which a pod talks there", about(&sent(NODE, 50, &ports(61_000, 80))), ToSwitchIcmpError),
        ("UDP-Lite", own(136, 62_000, 7), ToSwitchIcmpError),
        ("the node's own UDP-Lite", own(136, 40_000, 7), Passed),
        ("with options", about(&with_options), ToSwitchIcmpError),
        ("first fragment", about(&fragment(0)), ToSwitchIcmpError),
        ("later fragment has no port", about(&fragment(3)), Passed),
        ("about a packet of another address of the node", about(&sent(OVERLAY, 6, &ports(61_000, 80))), Passed),
        ("about a packet that was never the node's", about(&sent(PEER, 6, &ports(61_000, 80))), Passed),
        ("version 6 quoted", about(&sent6(NODE6, 6, &ports(61_000, 80))), Passed),
        ("port with its bytes swapped", own(6, 61_000_u16.swap_bytes(), 80), Passed),
    ];
    check_rows_of(program(), &rows);
    // Cut anywhere before the eighth byte behind the quoted header, the port is not there to be judged.
    let frame = about(&snat);
    let cut = (14 + 20 + 8..frame.len()).map(|length| {
        let mut cut = frame[..length].to_vec();
        cut[16..18].copy_from_slice(&u16::try_from(length - 14).unwrap().to_be_bytes());
        ("cut", cut, Passed)
    });
    check_rows_of(program(), &cut.collect::<Vec<_>>());
}

/// What the Ethernet frame is padded with is no part of the quotation.
#[test]
fn padding_is_not_quoted() {
    use SteeringCounter::Passed;
    let mut frame = error(UNREACHABLE, &sent(NODE, 6, &ports(61_000, 80))[..20]);
    frame.extend_from_slice(&ports(61_000, 80));
    check_rows_of(program(), &[("padded", frame, Passed)]);
}

#[test]
fn about_ipv6_packets() {
    use SteeringCounter::{FailsafePassed, MalformedPassed, Passed, ToSwitchIcmpError};
    let snat = sent6(NODE6, 17, &ports(61_000, 53));
    let about = |quoted: &[u8]| error6(TOO_BIG, quoted);
    let own = |protocol: u8, from_port: u16, to_port: u16| {
        about(&sent6(NODE6, protocol, &ports(from_port, to_port)))
    };
    #[rustfmt::skip]
    let rows = [
        ("packet too big, source NAT", about(&snat), ToSwitchIcmpError),
        ("unreachable", error6(1, &snat), ToSwitchIcmpError),
        ("time exceeded", error6(3, &snat), ToSwitchIcmpError),
        ("parameter problem", error6(4, &snat), ToSwitchIcmpError),
        ("an error that is none", error6(0, &snat), Passed),
        ("an error of the future", error6(100, &snat), Passed),
        ("neighbour solicitation", error6(135, &snat), Passed),
        ("behind extension headers", v6(NODE6, HOP_BY_HOP, &options(58, 1, &icmp(TOO_BIG, 0, &snat))), ToSwitchIcmpError),
        ("quoted behind options", about(&sent6(NODE6, HOP_BY_HOP, &options(17, 1, &ports(61_000, 53)))), ToSwitchIcmpError),
        ("quoted behind 2 headers", about(&sent6(NODE6, HOP_BY_HOP, &options(DESTINATION_OPTIONS, 0, &options(17, 0, &ports(61_000, 53))))), Passed),
        ("quoted in an atomic fragment", about(&sent6(NODE6, FRAGMENT, &fragment(17, 0, false, 1, &ports(61_000, 53)))), ToSwitchIcmpError),
        ("quoted later fragment", about(&sent6(NODE6, FRAGMENT, &fragment(17, 3, false, 1, &ports(61_000, 53)))), Passed),
        ("the node's own", own(17, 40_000, 53), Passed),
        ("Service's port", own(17, 53, 40_000), ToSwitchIcmpError),
        ("node port", own(6, 30_080, 40_000), ToSwitchIcmpError),
        ("SSH", own(6, FAILSAFE_PORT, 40_000), FailsafePassed),
        ("echo request of source NAT", about(&sent6(NODE6, 58, &icmp(128, 700, &[]))), ToSwitchIcmpError),
        ("echo request of the node's own", about(&sent6(NODE6, 58, &icmp(128, 701, &[]))), Passed),
        ("4in6 is the node's own", about(&sent6(NODE6, 4, &[0x45; 8])), Passed),
        ("about another's packet", about(&sent6(PEER6, 17, &ports(61_000, 53))), Passed),
        ("to a mapped address", v6(NODE.to_ipv6_mapped(), 58, &icmp(TOO_BIG, 0, &snat)), MalformedPassed),
    ];
    check_rows_of(program(), &rows);
    let frame = about(&snat);
    let cut = (14 + 40 + 8..frame.len()).map(|length| {
        let mut cut = frame[..length].to_vec();
        cut[18..20].copy_from_slice(&u16::try_from(length - 54).unwrap().to_be_bytes());
        ("cut", cut, Passed)
    });
    check_rows_of(program(), &cut.collect::<Vec<_>>());
}
