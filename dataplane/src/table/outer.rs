//! The outer header of a tunnel, computed once per peer: what is the same for every packet stands in a template, and
//! a push fills in the rest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Tunnel;
use crate::wire::checksum::Sum;
use crate::wire::{
    Dscp, Ecn, EtherType, IpProtocol, Ipv4Fields, MacAddr, Ports, Vni, eth, ipip, ipv4, udp, vxlan,
};

mod v6;

pub use v6::{VXLAN_V6_LEN, VxlanV6Outer};

/// TTL, or hop limit, of VXLAN's outer headers: what the kernel's tunnels send for a packet they do not inherit from.
pub const OUTER_TTL: u8 = 64;

/// Length of a VXLAN template: the outer headers and the inner Ethernet header, in bytes.
pub const VXLAN_LEN: usize = vxlan::PUSH_LEN_IPV4 + eth::HEADER_LEN;

/// Length of an IP-in-IP template, in bytes.
pub const IPIP_LEN: usize = ipip::PUSH_LEN;

/// Offsets into a template, in bytes from its start.
const IPV4: usize = eth::HEADER_LEN;
const UDP: usize = IPV4 + ipv4::HEADER_LEN;
const VXLAN: usize = UDP + udp::HEADER_LEN;
const INNER: usize = VXLAN + vxlan::HEADER_LEN;

/// Offsets into an IPv4 header (RFC 791 section 3.1), and the flag in the first of them.
const FLAGS: usize = 6;
const TTL: usize = 8;
const DONT_FRAGMENT: u8 = 0x40;

/// Length of an outer IPv4 header, in the width of its length field.
#[allow(clippy::cast_possible_truncation)] // INVARIANT: a constant below 2^16.
const IPV4_LEN: u16 = ipv4::HEADER_LEN as u16;

/// Length of what a VXLAN push puts into the UDP datagram before the inner IP packet, UDP header included.
#[allow(clippy::cast_possible_truncation)] // INVARIANT: a constant below 2^16.
const INSIDE_UDP: u16 = (VXLAN_LEN - UDP) as u16;

/// The link addresses of the first link on the way to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterLink {
    /// The uplink's own.
    pub source: MacAddr,
    /// The underlay's next hop's.
    pub destination: MacAddr,
}

/// Both ends of a tunnel in the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelEnds {
    /// Over IPv4.
    V4 {
        /// Ours.
        local: Ipv4Addr,
        /// The peer's.
        remote: Ipv4Addr,
    },
    /// Over IPv6.
    V6 {
        /// Ours.
        local: Ipv6Addr,
        /// The peer's.
        remote: Ipv6Addr,
    },
}

impl TunnelEnds {
    /// The peer's end.
    #[must_use]
    pub const fn remote(&self) -> IpAddr {
        match *self {
            Self::V4 { remote, .. } => IpAddr::V4(remote),
            Self::V6 { remote, .. } => IpAddr::V6(remote),
        }
    }
}

impl From<(Ipv4Addr, Ipv4Addr)> for TunnelEnds {
    fn from((local, remote): (Ipv4Addr, Ipv4Addr)) -> Self {
        Self::V4 { local, remote }
    }
}

impl From<(Ipv6Addr, Ipv6Addr)> for TunnelEnds {
    fn from((local, remote): (Ipv6Addr, Ipv6Addr)) -> Self {
        Self::V6 { local, remote }
    }
}

/// The template of a peer's outer header.
#[derive(Debug, Clone)]
pub enum OuterHeader {
    /// VXLAN over IPv4.
    VxlanV4(VxlanOuter),
    /// VXLAN over IPv6.
    VxlanV6(VxlanV6Outer),
    /// IP-in-IP over IPv4.
    Ipip(IpipOuter),
}

impl OuterHeader {
    /// The template for a tunnel between these ends; `None` for IP-in-IP over IPv6, which there is not (RFC 2003).
    #[must_use]
    pub fn new(link: OuterLink, ends: TunnelEnds, tunnel: Tunnel) -> Option<Self> {
        let vxlan = match tunnel {
            Tunnel::Vxlan {
                vni,
                port,
                local_mac,
                remote_mac,
            } => Some((vni, port, (local_mac, remote_mac))),
            Tunnel::Ipip => None,
        };
        match (ends, vxlan) {
            (TunnelEnds::V4 { local, remote }, Some((vni, port, macs))) => {
                let outer = VxlanOuter::new(link, (local, remote), vni, port, macs);
                Some(Self::VxlanV4(outer))
            }
            (TunnelEnds::V6 { local, remote }, Some((vni, port, macs))) => {
                let outer = VxlanV6Outer::new(link, (local, remote), vni, port, macs);
                Some(Self::VxlanV6(outer))
            }
            (TunnelEnds::V4 { local, remote }, None) => Some(Self::Ipip(IpipOuter::new(link, local, remote))),
            (TunnelEnds::V6 { .. }, None) => None,
        }
    }
}

/// What a push fills into an outer IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OuterFields {
    /// Length of the inner IP packet, in bytes.
    pub inner_len: u16,
    /// Identification, which IPv4 has; every packet takes the next one, since the outer packet may be fragmented (RFC 6864).
    pub id: u16,
    /// Explicit congestion notification (RFC 6040).
    pub ecn: Ecn,
}

/// What an IP-in-IP header takes over from the packet inside, as the kernel's `tunl0` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    /// TTL, so that a loop of tunnels ends and a trace shows the underlay's routers.
    pub ttl: u8,
    /// "Don't fragment" (RFC 2003 section 3.1): what its sender did not want in pieces comes whole or not at all.
    pub dont_fragment: bool,
}

impl Inherited {
    /// What stands in an IPv4 header; `None` if there is not so much of one.
    #[inline(always)]
    #[must_use]
    pub fn of(ip: &[u8]) -> Option<Self> {
        let (flags, ttl) = (*ip.get(FLAGS)?, *ip.get(TTL)?);
        let dont_fragment = flags & DONT_FRAGMENT != 0;
        Some(Self { ttl, dont_fragment })
    }
}

impl OuterFields {
    /// The same for a packet that is no longer than an outer packet can hold, and so longer than no tunnel's MTU.
    #[inline(always)]
    fn at_most(self, len: u16) -> Self {
        Self {
            inner_len: self.inner_len.min(len),
            ..self
        }
    }
}

/// The template of a VXLAN push over IPv4: Ethernet, IPv4, UDP, VXLAN, inner Ethernet.
#[derive(Debug, Clone)]
pub struct VxlanOuter {
    template: [u8; VXLAN_LEN],
    /// The folded sum of its IPv4 header.
    sum: u16,
}

impl VxlanOuter {
    fn new(
        link: OuterLink,
        (local, remote): (Ipv4Addr, Ipv4Addr),
        vni: Vni,
        port: u16,
        (local_mac, remote_mac): (MacAddr, MacAddr),
    ) -> Self {
        let mut template = [0; VXLAN_LEN];
        let sum = emit_base(&mut template, link, (local, remote), IpProtocol::UDP, OUTER_TTL);
        if let Some(header) = part(&mut template, UDP) {
            udp::emit(
                header,
                Ports {
                    source: 0,
                    destination: port,
                },
                0,
                0,
            );
        }
        if let Some(header) = part(&mut template, VXLAN) {
            vxlan::emit(header, vni);
        }
        if let Some(header) = part(&mut template, INNER) {
            eth::emit(header, remote_mac, local_mac, EtherType::IPV4);
        }
        Self { template, sum }
    }

    /// Writes everything before the inner IP packet. `source_port` is the UDP source port, `inner` what the inner
    /// packet is. The UDP checksum is zero (RFC 7348 section 5).
    #[inline(always)]
    pub fn emit(&self, out: &mut [u8; VXLAN_LEN], fields: OuterFields, source_port: u16, inner: EtherType) {
        *out = self.template;
        let fields = fields.at_most(u16::MAX - INSIDE_UDP - IPV4_LEN);
        let udp_len = fields.inner_len + INSIDE_UDP;
        emit_fields(out, Sum::ZERO.add_u16(self.sum), fields, udp_len + IPV4_LEN);
        out[UDP..UDP + 2].copy_from_slice(&source_port.to_be_bytes());
        out[UDP + 4..UDP + 6].copy_from_slice(&udp_len.to_be_bytes());
        out[VXLAN_LEN - 2..].copy_from_slice(&inner.0.to_be_bytes());
    }
}

/// The template of an IP-in-IP push: Ethernet, IPv4.
#[derive(Debug, Clone)]
pub struct IpipOuter {
    template: [u8; IPIP_LEN],
    /// The folded sum of its IPv4 header.
    sum: u16,
}

impl IpipOuter {
    fn new(link: OuterLink, local: Ipv4Addr, remote: Ipv4Addr) -> Self {
        let mut template = [0; IPIP_LEN];
        let sum = emit_base(&mut template, link, (local, remote), IpProtocol::IPIP, 0);
        Self { template, sum }
    }

    /// Writes everything before the inner IPv4 packet.
    #[inline(always)]
    pub fn emit(&self, out: &mut [u8; IPIP_LEN], fields: OuterFields, inherited: Inherited) {
        *out = self.template;
        let fields = fields.at_most(u16::MAX - IPV4_LEN);
        let flags = if inherited.dont_fragment { DONT_FRAGMENT } else { 0 };
        // Each is the first byte of its word, and what is beside it stands in the template.
        let sum = Sum::ZERO
            .add_u16(self.sum)
            .add_u16(u16::from(flags) << 8)
            .add_u16(u16::from(inherited.ttl) << 8);
        out[IPV4 + FLAGS] = flags;
        out[IPV4 + TTL] = inherited.ttl;
        emit_fields(out, sum, fields, fields.inner_len + IPV4_LEN);
    }
}

/// The `N` bytes of a template from `at` on.
fn part<const N: usize>(template: &mut [u8], at: usize) -> Option<&mut [u8; N]> {
    template.get_mut(at..)?.first_chunk_mut()
}

/// Writes Ethernet and IPv4 with total length, identification and ECN zero; answers the sum of the IPv4 header so
/// far, its checksum field left out.
fn emit_base(
    template: &mut [u8],
    link: OuterLink,
    (local, remote): (Ipv4Addr, Ipv4Addr),
    protocol: IpProtocol,
    ttl: u8,
) -> u16 {
    if let Some(header) = part(template, 0) {
        eth::emit(header, link.destination, link.source, EtherType::IPV4);
    }
    let Some(header) = part::<{ ipv4::HEADER_LEN }>(template, IPV4) else {
        return 0;
    };
    let fields = Ipv4Fields {
        dscp: Dscp::DEFAULT,
        ecn: Ecn::NotEct,
        total_len: 0,
        id: 0,
        dont_fragment: false,
        ttl,
        protocol,
        source: local,
        destination: remote,
    };
    fields.emit(header);
    header[10..12].fill(0);
    Sum::ZERO.add_bytes(header).fold()
}

/// Fills in what differs from packet to packet in the outer IPv4 header, and its checksum on top of `sum`.
#[inline(always)]
fn emit_fields<const N: usize>(out: &mut [u8; N], sum: Sum, fields: OuterFields, total_len: u16) {
    const { assert!(N >= UDP, "a template holds an Ethernet and an IPv4 header") };
    let ecn = fields.ecn.bits();
    let checksum = sum
        .add_u16(u16::from(ecn))
        .add_u16(total_len)
        .add_u16(fields.id)
        .checksum();
    out[IPV4 + 1] |= ecn;
    out[IPV4 + 2..IPV4 + 4].copy_from_slice(&total_len.to_be_bytes());
    out[IPV4 + 4..IPV4 + 6].copy_from_slice(&fields.id.to_be_bytes());
    out[IPV4 + 10..IPV4 + 12].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LINK: OuterLink = OuterLink {
        source: MacAddr([2, 0, 0, 0, 0, 1]),
        destination: MacAddr([2, 0, 0, 0, 0, 2]),
    };
    const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const REMOTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const INNER_MACS: (MacAddr, MacAddr) = (MacAddr([2, 1, 0, 0, 0, 1]), MacAddr([2, 1, 0, 0, 0, 2]));

    /// What etherparse makes of the same header, in front of `inner_len` bytes.
    fn ip_header(protocol: u8, payload_len: u16, fields: OuterFields, inherited: Inherited) -> Vec<u8> {
        let mut ip = etherparse::Ipv4Header::new(
            payload_len,
            inherited.ttl,
            protocol.into(),
            LOCAL.octets(),
            REMOTE.octets(),
        )
        .unwrap();
        ip.dont_fragment = inherited.dont_fragment;
        ip.identification = fields.id;
        ip.ecn = etherparse::IpEcn::try_new(fields.ecn.bits()).unwrap();
        ip.header_checksum = ip.calc_header_checksum();
        let mut bytes = [&LINK.destination.0[..], &LINK.source.0, &[8, 0]].concat();
        ip.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_vxlan_header_is_what_a_stranger_builds_for_every_length_and_mark() {
        let vni = Vni::try_from(0x0012_3456).unwrap();
        let outer = VxlanOuter::new(LINK, (LOCAL, REMOTE), vni, 8472, INNER_MACS);
        for (inner_len, id, ecn) in [
            (20, 0, Ecn::NotEct),
            (1450, 0xffff, Ecn::Ce),
            (1, 0x8000, Ecn::Ect0),
        ] {
            let fields = OuterFields { inner_len, id, ecn };
            let mut out = [0xa5; VXLAN_LEN];
            outer.emit(&mut out, fields, 0xc001, EtherType::IPV6);
            let usual = Inherited {
                ttl: OUTER_TTL,
                dont_fragment: false,
            };
            let mut expected = ip_header(17, inner_len + 30, fields, usual);
            expected.extend([0xc0, 0x01, 0x21, 0x18]);
            expected.extend((inner_len + 30).to_be_bytes());
            expected.extend([0, 0, 0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
            expected.extend(INNER_MACS.1.0.iter().chain(&INNER_MACS.0.0));
            expected.extend([0x86, 0xdd]);
            assert_eq!(out[..], expected[..], "{fields:?}");
        }
    }

    #[test]
    fn an_ipip_header_is_what_a_stranger_builds_with_what_it_takes_over() {
        let outer = IpipOuter::new(LINK, LOCAL, REMOTE);
        for (inner_len, id, ecn, ttl, dont_fragment) in [
            (20, 7, Ecn::Ect1, 64, true),
            (1480, 0xfedc, Ecn::NotEct, 1, false),
            (1480, 0xffff, Ecn::Ce, 255, true),
        ] {
            let fields = OuterFields { inner_len, id, ecn };
            let mut inner = [0; 20];
            inner[6..8].copy_from_slice(if dont_fragment { &[0x40, 0] } else { &[0x20, 1] });
            inner[8] = ttl;
            let inherited = Inherited::of(&inner).unwrap();
            assert_eq!(inherited, Inherited { ttl, dont_fragment });
            let mut out = [0xa5; IPIP_LEN];
            outer.emit(&mut out, fields, inherited);
            assert_eq!(
                out[..],
                ip_header(4, inner_len, fields, inherited)[..],
                "{fields:?}"
            );
        }
        assert_eq!(Inherited::of(&[0; 8]), None);
    }

    #[test]
    fn the_kind_of_tunnel_decides_the_kind_of_header() {
        let header = |ends, tunnel| OuterHeader::new(LINK, ends, tunnel);
        let over_v4 = TunnelEnds::from((LOCAL, REMOTE));
        let over_v6 = TunnelEnds::from((LOCAL.to_ipv6_mapped(), REMOTE.to_ipv6_mapped()));
        assert!(matches!(
            header(over_v4, Tunnel::Ipip),
            Some(OuterHeader::Ipip(_))
        ));
        assert!(header(over_v6, Tunnel::Ipip).is_none());
        let (local_mac, remote_mac) = INNER_MACS;
        let tunnel = Tunnel::Vxlan {
            vni: Vni::MAX,
            port: 4789,
            local_mac,
            remote_mac,
        };
        assert!(matches!(header(over_v4, tunnel), Some(OuterHeader::VxlanV4(_))));
        assert!(matches!(header(over_v6, tunnel), Some(OuterHeader::VxlanV6(_))));
    }
}
