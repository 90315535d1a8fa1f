//! What a copied packet says of itself.

use std::net::IpAddr;

use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{EndpointKind, NetworkId, NodeTables, Role, SegmentTunnel};
use millrace_dataplane::wire::{IpProtocol, Ports, Vni};

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
    /// The network that it is routed in.
    pub(super) network: NetworkId,
}

/// Reads a packet that was copied at a port of this role; `None` if it belongs to no connection that it names itself, or that is
/// routed.
pub(super) fn seen(packet: &[u8], tables: &NodeTables, port: PortId, role: Role) -> Option<Seen> {
    let outer = SlicedPacket::from_ethernet(packet).ok()?;
    let seen = read(&outer)?;
    if role != Role::Uplink {
        let network = match role {
            Role::Segment => tables.routed.of_port(port)?,
            Role::Uplink | Role::Host | Role::Pod => NetworkId::CLUSTER,
        };
        return Some(Seen { network, ..seen });
    }
    let is_vxlan = |port: u16| {
        let mut ends = tables.local.endpoints.iter();
        ends.any(|end| matches!(end.kind, EndpointKind::Vxlan { port: of_end, .. } if of_end == port))
    };
    let mut network = NetworkId::CLUSTER;
    let inner = match &outer.transport {
        Some(TransportSlice::Udp(udp)) => {
            let port = udp.destination_port();
            let other =
                vni(udp.payload()).and_then(|vni| tables.networks.by_tunnel(SegmentTunnel { vni, port }));
            match other {
                // What is inside of a bridged one's is nobody's connection.
                Some(other) => network = tables.of(other)?.network,
                None if is_vxlan(port) => {}
                None => return Some(seen),
            }
            SlicedPacket::from_ethernet(udp.payload().get(VXLAN_LEN..)?).ok()?
        }
        _ if seen.protocol == IpProtocol(IpNumber::IPV4.0) => {
            SlicedPacket::from_ip(outer.net.as_ref()?.ip_payload_ref()?.payload).ok()?
        }
        _ => return Some(seen),
    };
    Some(Seen {
        was_tunnelled: true,
        network,
        ..read(&inner)?
    })
}

/// The network identifier of what a UDP datagram carries, if that were VXLAN.
fn vni(payload: &[u8]) -> Option<Vni> {
    let [_, _, _, _, a, b, c, _] = *payload.first_chunk::<VXLAN_LEN>()?;
    Vni::try_from(u32::from_be_bytes([0, a, b, c])).ok()
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
        network: NetworkId::CLUSTER,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use etherparse::PacketBuilder;
    use std::sync::Arc;

    use millrace_dataplane::table::{Endpoint, Local, Networks, RoutedNetworks};
    use millrace_dataplane::wire::MacAddr;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    const BLUE: NetworkId = NetworkId::new(3);

    fn port(number: u16) -> PortId {
        PortId::new(number).unwrap()
    }

    fn tunnel(vni: u32) -> SegmentTunnel {
        let vni = Vni::try_from(vni).unwrap();
        SegmentTunnel { vni, port: 4789 }
    }

    /// With a routed network, in which port 7 is, and one that is bridged.
    fn tables() -> NodeTables {
        let blue = NodeTables {
            network: BLUE,
            ..NodeTables::default()
        };
        let tunnels = [(BLUE, tunnel(100)), (NetworkId::new(4), tunnel(200))];
        NodeTables {
            local: Arc::new(local()),
            networks: Arc::new(Networks::build([], [], [], tunnels)),
            routed: Arc::new(RoutedNetworks::build([blue], [(port(7), BLUE)])),
            ..NodeTables::default()
        }
    }

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
            network: NetworkId::CLUSTER,
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
            assert_eq!(seen(packet, &tables(), port(2), role), Some(wanted));
        }
        let other = |vni: u8| udp(4789, &[&[8, 0, 0, 0, 0, 0, vni, 0][..], &inner].concat());
        let in_blue = |was_tunnelled| Seen {
            network: BLUE,
            ..expected(IpProtocol::UDP, 4000, 53, was_tunnelled)
        };
        let strange = expected(IpProtocol::UDP, 4000, 4789, false);
        for (packet, number, role, wanted) in [
            (&other(100), 1, Role::Uplink, Some(in_blue(true))),
            (&other(200), 1, Role::Uplink, None),
            (&other(77), 1, Role::Uplink, Some(strange)),
            (&inner, 7, Role::Segment, Some(in_blue(false))),
            (&inner, 8, Role::Segment, None),
        ] {
            assert_eq!(seen(packet, &tables(), port(number), role), wanted, "{number}");
        }
    }

    #[test]
    fn what_names_no_connection_is_none() {
        let mut later_piece = udp(53, &[0; 64]);
        later_piece[20..22].copy_from_slice(&[0, 9]);
        let cut = &udp(53, &[0; 64])[..20];
        let arp = [&MAC[..], &MAC, &[8, 6], &[0; 28]].concat();
        for packet in [&later_piece[..], cut, &arp, &[]] {
            assert_eq!(seen(packet, &tables(), port(1), Role::Uplink), None, "{packet:?}");
        }
    }
}
