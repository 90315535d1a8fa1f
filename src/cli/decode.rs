//! A packet in one short line, for `millrace capture` without a file.

use std::fmt::Write as _;
use std::net::IpAddr;

use etherparse::{
    ArpOperation, ArpPacketSlice, Icmpv4Type, Icmpv6Type, IpNumber, LaxNetSlice, LaxSlicedPacket, LinkSlice,
    TcpSlice, TransportSlice,
};

/// UDP ports that carry VXLAN: the Linux kernel's and flannel's, and RFC 7348's.
const VXLAN_PORTS: [u16; 2] = [8472, 4789];
/// Length of a VXLAN header, in bytes (RFC 7348 section 5).
const VXLAN_BYTES: usize = 8;
/// The flag that says that the VNI is valid (RFC 7348 section 5).
const VXLAN_FLAG_I: u8 = 0x08;
/// Tunnels within tunnels that are opened.
const DEPTH_MAX: u8 = 2;

/// Describes a packet that begins with its Ethernet header.
pub(super) fn describe(packet: &[u8]) -> String {
    ethernet(packet, 0)
}

fn ethernet(packet: &[u8], depth: u8) -> String {
    match LaxSlicedPacket::from_ethernet(packet) {
        Ok(sliced) => describe_sliced(&sliced, depth),
        Err(_) => format!("truncated Ethernet header, {} bytes", packet.len()),
    }
}

fn describe_sliced(packet: &LaxSlicedPacket<'_>, depth: u8) -> String {
    let mut text = String::new();
    for vlan in packet.vlan_ids() {
        // Writing to a string cannot fail.
        let _ = write!(text, "vlan {} ", vlan.value());
    }
    text += &match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let addresses = (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            );
            let tail = match ip.header().fragments_offset().byte_offset() {
                0 => String::new(),
                offset => format!(" fragment at {offset}"),
            };
            transport(packet, addresses, depth) + &tail
        }
        Some(LaxNetSlice::Ipv6(ip)) => transport(
            packet,
            (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            depth,
        ),
        Some(LaxNetSlice::Arp(packet)) => arp(packet),
        None => no_network(packet),
    };
    if let Some((error, layer)) = &packet.stop_err {
        let _ = write!(text, " [{layer}: {error}]");
    }
    text
}

fn no_network(packet: &LaxSlicedPacket<'_>) -> String {
    match &packet.link {
        Some(LinkSlice::Ethernet2(link)) => format!(
            "{} > {} ethertype {:#06x}",
            mac(&link.source()),
            mac(&link.destination()),
            link.ether_type().0
        ),
        _ => "no Ethernet header".to_owned(),
    }
}

fn mac(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

fn arp(packet: &ArpPacketSlice<'_>) -> String {
    let address = |bytes: &[u8]| match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => IpAddr::from(bytes).to_string(),
        Err(_) => "?".to_owned(),
    };
    let (sender, target) = (
        address(packet.sender_protocol_addr()),
        address(packet.target_protocol_addr()),
    );
    match packet.operation() {
        ArpOperation::REQUEST => format!("ARP who-has {target} tell {sender}"),
        ArpOperation::REPLY => format!("ARP {sender} is-at {}", mac(packet.sender_hw_addr())),
        other => format!("ARP operation {}", other.0),
    }
}

fn transport(packet: &LaxSlicedPacket<'_>, (source, destination): (IpAddr, IpAddr), depth: u8) -> String {
    let between = |source_port: u16, destination_port: u16| {
        format!(
            "{} > {}",
            with_port(source, source_port),
            with_port(destination, destination_port)
        )
    };
    let plain = || format!("{source} > {destination}");
    match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let ports = between(tcp.source_port(), tcp.destination_port());
            format!("{ports} TCP {} length {}", flags(tcp), tcp.payload().len())
        }
        Some(TransportSlice::Udp(udp)) => {
            let ports = between(udp.source_port(), udp.destination_port());
            match vxlan(udp.destination_port(), udp.payload(), depth) {
                Some(inner) => format!("{ports} {inner}"),
                None => format!("{ports} UDP length {}", udp.payload().len()),
            }
        }
        Some(TransportSlice::Icmpv4(icmp)) => match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(echo) => {
                format!("{} ICMP echo request id {} seq {}", plain(), echo.id, echo.seq)
            }
            Icmpv4Type::EchoReply(echo) => {
                format!("{} ICMP echo reply id {} seq {}", plain(), echo.id, echo.seq)
            }
            _ => format!("{} ICMP type {} code {}", plain(), icmp.type_u8(), icmp.code_u8()),
        },
        Some(TransportSlice::Icmpv6(icmp)) => match icmp.icmp_type() {
            Icmpv6Type::EchoRequest(echo) => {
                format!("{} ICMPv6 echo request id {} seq {}", plain(), echo.id, echo.seq)
            }
            Icmpv6Type::EchoReply(echo) => {
                format!("{} ICMPv6 echo reply id {} seq {}", plain(), echo.id, echo.seq)
            }
            _ => format!(
                "{} ICMPv6 type {} code {}",
                plain(),
                icmp.type_u8(),
                icmp.code_u8()
            ),
        },
        Some(TransportSlice::Igmp(_)) => format!("{} IGMP", plain()),
        None => format!("{} {}", plain(), no_transport(packet, depth)),
    }
}

/// What an IP packet carries when it is no transport that is known: another IP packet, or a number.
fn no_transport(packet: &LaxSlicedPacket<'_>, depth: u8) -> String {
    let Some(payload) = packet.ip_payload() else {
        return "no payload".to_owned();
    };
    let tunnelled = matches!(payload.ip_number, IpNumber::IPV4 | IpNumber::IPV6);
    if tunnelled
        && !payload.fragmented
        && depth < DEPTH_MAX
        && let Ok(inner) = LaxSlicedPacket::from_ip(payload.payload)
    {
        return format!("IP-in-IP | {}", describe_sliced(&inner, depth + 1));
    }
    format!(
        "protocol {} length {}",
        payload.ip_number.0,
        payload.payload.len()
    )
}

fn vxlan(port: u16, payload: &[u8], depth: u8) -> Option<String> {
    let (header, inner) = payload.split_first_chunk::<VXLAN_BYTES>()?;
    let [flags, _, _, _, vni @ .., _] = *header;
    if !VXLAN_PORTS.contains(&port) || flags & VXLAN_FLAG_I == 0 || depth >= DEPTH_MAX {
        return None;
    }
    let vni = vni.iter().fold(0_u32, |vni, byte| vni << 8 | u32::from(*byte));
    Some(format!("VXLAN vni {vni} | {}", ethernet(inner, depth + 1)))
}

fn with_port(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// The flags as tcpdump writes them, `.` for ACK.
fn flags(tcp: &TcpSlice<'_>) -> String {
    let letters = [
        (tcp.syn(), 'S'),
        (tcp.fin(), 'F'),
        (tcp.rst(), 'R'),
        (tcp.psh(), 'P'),
        (tcp.urg(), 'U'),
        (tcp.ece(), 'E'),
        (tcp.cwr(), 'W'),
        (tcp.ack(), '.'),
    ];
    let set: String = letters
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, letter)| *letter)
        .collect();
    format!("[{set}]")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use etherparse::{ArpHardwareId, ArpPacket, EtherType, Ethernet2Header, PacketBuilder};

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ethernet2(A, B)
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1000, port);
        builder.write(&mut packet, payload).unwrap();
        packet
    }

    fn tcp() -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ethernet2(A, B)
            .ipv6([0xfd; 16], [0xfe; 16], 64)
            .tcp(1, 2, 3, 4)
            .syn()
            .ack(5);
        builder.write(&mut packet, &[0; 7]).unwrap();
        packet
    }

    fn echo() -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        builder
            .icmpv4_echo_request(7, 8)
            .write(&mut packet, b"x")
            .unwrap();
        packet
    }

    fn arp_packet(operation: ArpOperation) -> Vec<u8> {
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &A,
            &[10, 0, 0, 1],
            &[0; 6],
            &[10, 0, 0, 2],
        );
        let header = Ethernet2Header {
            source: A,
            destination: [0xff; 6],
            ether_type: EtherType::ARP,
        };
        let mut packet = header.to_bytes().to_vec();
        packet.extend_from_slice(&arp.unwrap().to_bytes());
        packet
    }

    fn vxlan_packet() -> Vec<u8> {
        let mut payload = vec![0x08, 0, 0, 0, 0, 1, 2, 0];
        payload.extend(echo());
        udp(8472, &payload)
    }

    fn ipip_packet() -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ethernet2(A, B).ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64);
        builder
            .write(&mut packet, IpNumber::IPV4, &udp(53, b"abc")[14..])
            .unwrap();
        packet
    }

    #[test]
    fn packets_in_a_line() {
        let lldp = Ethernet2Header {
            source: A,
            destination: B,
            ether_type: EtherType(0x88cc),
        }
        .to_bytes();
        let rows: [(&[u8], &str); 9] = [
            (&udp(53, b"abc"), "10.0.0.1:1000 > 10.0.0.2:53 UDP length 3"),
            (
                &tcp(),
                "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:1 > [fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe]:2 \
                 TCP [S.] length 7",
            ),
            (&echo(), "10.0.0.1 > 10.0.0.2 ICMP echo request id 7 seq 8"),
            (
                &arp_packet(ArpOperation::REQUEST),
                "ARP who-has 10.0.0.2 tell 10.0.0.1",
            ),
            (
                &arp_packet(ArpOperation::REPLY),
                "ARP 10.0.0.1 is-at 02:00:00:00:00:01",
            ),
            (
                &vxlan_packet(),
                "10.0.0.1:1000 > 10.0.0.2:8472 VXLAN vni 258 | 10.0.0.1 > 10.0.0.2 ICMP echo request id 7 seq 8",
            ),
            (
                &ipip_packet(),
                "192.0.2.1 > 192.0.2.2 IP-in-IP | 10.0.0.1:1000 > 10.0.0.2:53 UDP length 3",
            ),
            (&lldp, "02:00:00:00:00:01 > 02:00:00:00:00:02 ethertype 0x88cc"),
            (&[0; 13], "truncated Ethernet header, 13 bytes"),
        ];
        for (packet, line) in rows {
            assert_eq!(describe(packet), line);
        }
    }

    #[test]
    fn tunnels_are_opened_to_a_bound() {
        let mut packet = udp(53, b"");
        for _ in 0..20 {
            let mut payload = vec![0x08, 0, 0, 0, 0, 0, 1, 0];
            payload.extend(packet);
            packet = udp(4789, &payload);
        }
        assert_eq!(describe(&packet).matches("VXLAN").count(), usize::from(DEPTH_MAX));
    }

    #[test]
    fn every_cut_of_a_packet_is_described() {
        for packet in [
            vxlan_packet(),
            ipip_packet(),
            tcp(),
            arp_packet(ArpOperation::REPLY),
        ] {
            for length in 0..packet.len() {
                let line = describe(&packet[..length]);
                assert!(!line.is_empty() && !line.contains('\n'), "{line}");
            }
        }
    }
}
