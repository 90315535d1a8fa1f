//! What a copied packet says of itself.

use std::net::IpAddr;

use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};
use millrace_dataplane::table::{EndpointKind, Local, Role};
use millrace_dataplane::wire::{IpProtocol, Ports};

/// Bytes of a VXLAN header (RFC 7348, section 5).
const VXLAN_LEN: usize = 8;

/// The packet of a connection, out of its tunnel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: IpProtocol,
    /// As far as the protocol has any.
    pub(super) ports: Ports,
    pub(super) was_tunnelled: bool,
}

/// Reads a packet that was copied at a port of this role; `None` if it belongs to no connection that it names itself.
pub(super) fn seen(packet: &[u8], local: &Local, role: Role) -> Option<Seen> {
    let outer = SlicedPacket::from_ethernet(packet).ok()?;
    let seen = read(&outer)?;
    if role != Role::Uplink {
        return Some(seen);
    }
    let is_vxlan = |port: u16| {
        let mut ends = local.endpoints.iter();
        ends.any(|end| matches!(end.kind, EndpointKind::Vxlan { port: of_end, .. } if of_end == port))
    };
    let inner = match &outer.transport {
        Some(TransportSlice::Udp(udp)) if is_vxlan(udp.destination_port()) => {
            SlicedPacket::from_ethernet(udp.payload().get(VXLAN_LEN..)?).ok()?
        }
        _ if seen.protocol == IpProtocol(IpNumber::IPV4.0) => {
            SlicedPacket::from_ip(outer.net.as_ref()?.ip_payload_ref()?.payload).ok()?
        }
        _ => return Some(seen),
    };
    Some(Seen {
        was_tunnelled: true,
        ..read(&inner)?
    })
}

fn read(packet: &SlicedPacket<'_>) -> Option<Seen> {
    let (source, destination): (IpAddr, IpAddr) = match packet.net.as_ref()? {
        NetSlice::Ipv4(v4) => {
            let header = v4.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Ipv6(v6) => {
            let header = v6.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let payload = packet.net.as_ref()?.ip_payload_ref()?;
    let number = payload.ip_number;
    let ports = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        _ if payload.fragmented => return None,
        // As TCP's, its header begins with the ports (RFC 9260, section 3.1).
        _ if number == IpNumber::SCTP => match payload.payload {
            [a, b, c, d, ..] => (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])),
            _ => return None,
        },
        _ => (0, 0),
    };
    Some(Seen {
        source,
        destination,
        protocol: IpProtocol(number.0),
        ports: Ports {
            source: ports.0,
            destination: ports.1,
        },
        was_tunnelled: false,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use etherparse::PacketBuilder;
    use millrace_dataplane::table::Endpoint;
    use millrace_dataplane::wire::{MacAddr, Vni};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn local() -> Local {
        let vxlan = EndpointKind::Vxlan {
            vni: Vni::try_from(1).unwrap(),
            port: 8472,
            mac: MacAddr(MAC),
        };
        let end = |kind| Endpoint {
            local: "192.0.2.1".parse().unwrap(),
            kind,
        };
        Local {
            endpoints: vec![end(vxlan), end(EndpointKind::Ipip)],
            ..Local::default()
        }
    }

    fn udp(to: u16, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(MAC, MAC)
            .ipv4([10, 244, 1, 2], [10, 244, 2, 3], 64)
            .udp(4000, to);
        let mut packet = Vec::new();
        builder.write(&mut packet, payload).unwrap();
        packet
    }

    /// What an IPv4 packet of [`udp`]'s addresses carries, of any protocol.
    fn carrying(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(MAC, MAC).ipv4([10, 244, 1, 2], [10, 244, 2, 3], 64);
        let mut packet = Vec::new();
        builder.write(&mut packet, IpNumber(protocol), payload).unwrap();
        packet
    }

    fn expected(protocol: IpProtocol, source: u16, destination: u16, was_tunnelled: bool) -> Seen {
        Seen {
            source: "10.244.1.2".parse().unwrap(),
            destination: "10.244.2.3".parse().unwrap(),
            protocol,
            ports: Ports { source, destination },
            was_tunnelled,
        }
    }

    #[test]
    fn a_packet_is_read_out_of_its_tunnel_on_the_uplink_alone() {
        let inner = udp(53, b"?");
        let vxlan = udp(8472, &[&[8, 0, 0, 0, 0, 0, 1, 0][..], &inner].concat());
        let ipip = carrying(4, &inner[14..]);
        let sctp = carrying(132, &[0x0f, 0xa0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0]);
        let plain = expected(IpProtocol::UDP, 4000, 53, false);
        let tunnelled = expected(IpProtocol::UDP, 4000, 53, true);
        for (packet, role, wanted) in [
            (&inner, Role::Pod, plain),
            (&vxlan, Role::Uplink, tunnelled),
            (&vxlan, Role::Pod, expected(IpProtocol::UDP, 4000, 8472, false)),
            (&ipip, Role::Uplink, expected(IpProtocol::UDP, 4000, 53, true)),
            (&sctp, Role::Host, expected(IpProtocol::SCTP, 4000, 80, false)),
            (
                &carrying(47, &[0; 8]),
                Role::Pod,
                expected(IpProtocol(47), 0, 0, false),
            ),
        ] {
            assert_eq!(seen(packet, &local(), role), Some(wanted));
        }
    }

    #[test]
    fn what_names_no_connection_is_none() {
        let mut later_piece = udp(53, &[0; 64]);
        later_piece[20..22].copy_from_slice(&[0, 9]);
        let cut = &udp(53, &[0; 64])[..20];
        let arp = [&MAC[..], &MAC, &[8, 6], &[0; 28]].concat();
        for packet in [&later_piece[..], cut, &arp, &[]] {
            assert_eq!(seen(packet, &local(), Role::Uplink), None, "{packet:?}");
        }
    }
}
