//! Answers to packets that came out: the same frame, turned round, as whoever got it would send it.

use anyhow::{Context, ensure};
use millrace_dataplane::wire::{EtherType, eth, ipv4, udp, vxlan};

/// Where a frame's EtherType stands.
const ETHER_TYPE_AT: usize = 12;
/// Where an IPv4 header has its length, protocol and addresses.
const PROTOCOL_AT: usize = 9;
const SOURCE_AT: usize = 12;
/// The first byte of an IPv4 header without options.
const PLAIN_IPV4: u8 = 0x45;
/// Protocols that begin with two ports.
const WITH_PORTS: [u8; 2] = [6, 17];
const UDP: u8 = 17;

/// Turns a frame round: link addresses, addresses and ports change places, in its tunnel too. Sums stay right, as they do
/// not depend on the order. A tunnel's own UDP ports stay: its source port is the flow's, and the other side's are alike.
///
/// # Errors
/// When it is no plain IPv4 packet, or none of the pod's in VXLAN.
pub(crate) fn answer(frame: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut frame = frame.to_vec();
    let ip_at = turn_link(&mut frame, 0)?;
    if !is_vxlan(&frame, ip_at) {
        turn_ip(&mut frame, ip_at)?;
        return Ok(frame);
    }
    swap(&mut frame, ip_at + SOURCE_AT, 4)?;
    let udp_at = ip_at + ipv4::HEADER_LEN;
    let checksum = udp_at + udp::CHECKSUM_OFFSET;
    // RFC 7348 section 5: it should be zero.
    frame
        .get_mut(checksum..checksum + 2)
        .context("a frame that breaks off")?
        .fill(0);
    let inner = turn_link(&mut frame, udp_at + udp::HEADER_LEN + vxlan::HEADER_LEN)?;
    turn_ip(&mut frame, inner)?;
    Ok(frame)
}

/// Whether the IPv4 packet there is VXLAN, by one of its customary ports.
pub(crate) fn is_vxlan(frame: &[u8], ip_at: usize) -> bool {
    let port_at = ip_at + ipv4::HEADER_LEN + 2;
    let port = frame
        .get(port_at..)
        .and_then(|rest| rest.first_chunk())
        .map(|bytes| u16::from_be_bytes(*bytes));
    frame.get(ip_at + PROTOCOL_AT) == Some(&UDP)
        && port.is_some_and(|port| [vxlan::LINUX_PORT, vxlan::IANA_PORT].contains(&port))
}

/// Turns the Ethernet header at `at`; answers where the IPv4 header behind it is.
fn turn_link(frame: &mut [u8], at: usize) -> anyhow::Result<usize> {
    swap(frame, at, 6)?;
    let ether_type = frame.get(at + ETHER_TYPE_AT..at + eth::HEADER_LEN);
    ensure!(
        ether_type == Some(&EtherType::IPV4.0.to_be_bytes()),
        "something else than IPv4 came out: {frame:02x?}"
    );
    Ok(at + eth::HEADER_LEN)
}

fn turn_ip(frame: &mut [u8], at: usize) -> anyhow::Result<()> {
    ensure!(
        frame.get(at) == Some(&PLAIN_IPV4),
        "IPv4 with options came out: {frame:02x?}"
    );
    swap(frame, at + SOURCE_AT, 4)?;
    if frame
        .get(at + PROTOCOL_AT)
        .is_some_and(|protocol| WITH_PORTS.contains(protocol))
    {
        swap(frame, at + ipv4::HEADER_LEN, 2)?;
    }
    Ok(())
}

/// Lets two neighbouring fields of so many bytes change places.
fn swap(frame: &mut [u8], at: usize, len: usize) -> anyhow::Result<()> {
    let both = frame
        .get_mut(at..at + 2 * len)
        .context("a frame that breaks off")?;
    both.rotate_left(len);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use millrace_dataplane::wire::{MacAddr, Vni};
    use millrace_tools::pktgen::{
        AddressRange, FlowSpace, Flows, Link, Outer, PortRange, Shape, Template, Tunnel, recognise,
    };
    use std::net::Ipv4Addr;

    fn frame(outer: Option<Outer>) -> Vec<u8> {
        let space = FlowSpace {
            sources: AddressRange::one(Ipv4Addr::new(10, 244, 1, 2)),
            destinations: AddressRange::one(Ipv4Addr::new(10, 244, 2, 9)),
            source_ports: PortRange::one(1024),
            destination_ports: PortRange::one(8000),
        };
        let shape = Shape {
            link: Link {
                source: MacAddr([2; 6]),
                destination: MacAddr([4; 6]),
            },
            outer,
            flows: Flows::new(space, 1).unwrap(),
            frame_len: 64,
            run: 0,
        };
        Template::new(&shape).unwrap().bytes().to_vec()
    }

    #[test]
    fn an_answer_is_sound_and_an_answers_answer_the_same_again() {
        let inner = Link {
            source: MacAddr([6; 6]),
            destination: MacAddr([8; 6]),
        };
        let tunnel = Tunnel::Vxlan {
            inner,
            vni: Vni::try_from(1).unwrap(),
            port: vxlan::LINUX_PORT,
        };
        let outer = Outer {
            source: Ipv4Addr::new(192, 0, 2, 1),
            destination: Ipv4Addr::new(192, 0, 2, 2),
            tunnel,
        };
        for outer in [None, Some(outer)] {
            let frame = frame(outer);
            let answer = answer(&frame).unwrap();
            let found = recognise(&answer).unwrap();
            assert!(found.is_intact, "{outer:?}");
            assert_ne!(answer, frame);
            assert_eq!(answer[..6], frame[6..12]);
            assert_eq!(super::answer(&answer).unwrap(), frame);
        }
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let whole = frame(None);
        assert!(answer(&whole[..30]).is_err());
        let mut arp = whole;
        arp[ETHER_TYPE_AT + 1] = 6;
        assert!(answer(&arp).is_err());
    }
}
