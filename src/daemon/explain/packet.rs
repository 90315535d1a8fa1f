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
