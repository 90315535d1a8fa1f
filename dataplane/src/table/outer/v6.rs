//! VXLAN over IPv6.

use std::net::Ipv6Addr;

use super::{OUTER_TTL, OuterFields, OuterLink, part};
use crate::wire::checksum::{Sum, pseudo_v6, udp_field};
use crate::wire::{Dscp, Ecn, EtherType, IpProtocol, Ipv6Fields, MacAddr, Ports, Vni, eth, ipv6, udp, vxlan};

/// Length of a VXLAN template over IPv6: the outer headers and the inner Ethernet header, in bytes.
pub const VXLAN_V6_LEN: usize = vxlan::PUSH_LEN_IPV6 + eth::HEADER_LEN;

/// Offsets into the template, in bytes from its start.
const IPV6: usize = eth::HEADER_LEN;
const UDP: usize = IPV6 + ipv6::HEADER_LEN;
const VXLAN: usize = UDP + udp::HEADER_LEN;
const INNER: usize = VXLAN + vxlan::HEADER_LEN;

/// Length of what a push puts into the UDP datagram before the inner IP packet, UDP header included.
#[allow(clippy::cast_possible_truncation)] // INVARIANT: a constant below 2^16.
const INSIDE_UDP: u16 = (VXLAN_V6_LEN - UDP) as u16;

/// The template of a VXLAN push over IPv6: Ethernet, IPv6, UDP, VXLAN, inner Ethernet.
///
/// The flow label is zero, as that of the kernel's device is: the UDP source port spreads the flows.
#[derive(Debug, Clone)]
pub struct VxlanV6Outer {
    template: [u8; VXLAN_V6_LEN],
    /// The folded sum of all that the UDP checksum covers and the template knows.
    sum: u16,
}

impl VxlanV6Outer {
    pub(super) fn new(
        link: OuterLink,
        (local, remote): (Ipv6Addr, Ipv6Addr),
        vni: Vni,
        port: u16,
        (local_mac, remote_mac): (MacAddr, MacAddr),
    ) -> Self {
        let mut template = [0; VXLAN_V6_LEN];
        if let Some(header) = part(&mut template, 0) {
            eth::emit(header, link.destination, link.source, EtherType::IPV6);
        }
        if let Some(header) = part(&mut template, IPV6) {
            let fields = Ipv6Fields {
                dscp: Dscp::DEFAULT,
                ecn: Ecn::NotEct,
                flow_label: 0,
                payload_len: 0,
                next_header: IpProtocol::UDP,
                hop_limit: OUTER_TTL,
                source: local,
                destination: remote,
            };
            fields.emit(header);
        }
        if let Some(header) = part(&mut template, UDP) {
            let ports = Ports {
                source: 0,
                destination: port,
            };
            udp::emit(header, ports, 0, 0);
        }
        if let Some(header) = part(&mut template, VXLAN) {
            vxlan::emit(header, vni);
        }
        if let Some(header) = part(&mut template, INNER) {
            eth::emit(header, remote_mac, local_mac, EtherType(0));
        }
        let sum = pseudo_v6(local, remote, IpProtocol::UDP, 0)
            .add_bytes(&template[UDP..])
            .fold();
        Self { template, sum }
    }

    /// Writes everything before the inner IP packet. `source_port` is the UDP source port, `inner` what the inner
    /// packet is, and `inner_sum` its sum. The UDP checksum is there, as IPv6 demands (RFC 8200 section 8.1).
    #[inline]
    pub fn emit(
        &self,
        out: &mut [u8; VXLAN_V6_LEN],
        fields: OuterFields,
        source_port: u16,
        inner: EtherType,
        inner_sum: Sum,
    ) {
        *out = self.template;
        let fields = fields.at_most(u16::MAX - INSIDE_UDP);
        let udp_len = (fields.inner_len + INSIDE_UDP).to_be_bytes();
        // The length stands in the pseudo-header as well.
        let checksum = inner_sum
            .add_u16(self.sum)
            .add_bytes(&udp_len)
            .add_bytes(&udp_len)
            .add_u16(source_port)
            .add_u16(inner.0)
            .checksum();
        out[IPV6 + 1] |= fields.ecn.bits() << 4;
        out[IPV6 + 4..IPV6 + 6].copy_from_slice(&udp_len);
        out[UDP..UDP + 2].copy_from_slice(&source_port.to_be_bytes());
        out[UDP + 4..UDP + 6].copy_from_slice(&udp_len);
        out[UDP + udp::CHECKSUM_OFFSET..VXLAN].copy_from_slice(&udp_field(checksum).to_be_bytes());
        out[VXLAN_V6_LEN - 2..].copy_from_slice(&inner.0.to_be_bytes());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_what_a_stranger_builds_for_every_length_and_mark() {
        let link = OuterLink {
            source: MacAddr([2, 0, 0, 0, 0, 1]),
            destination: MacAddr([2, 0, 0, 0, 0, 2]),
        };
        let [local, remote]: [Ipv6Addr; 2] = ["2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap());
        let macs = (MacAddr([2, 1, 0, 0, 0, 1]), MacAddr([2, 1, 0, 0, 0, 2]));
        let vni = Vni::try_from(0x0012_3456).unwrap();
        let outer = VxlanV6Outer::new(link, (local, remote), vni, 8472, macs);
        for (inner, ecn) in [
            (vec![0x60; 40], Ecn::NotEct),
            (vec![0x45; 1430], Ecn::Ce),
            (vec![0xff; 21], Ecn::Ect1),
        ] {
            let fields = OuterFields {
                inner_len: u16::try_from(inner.len()).unwrap(),
                id: 7,
                ecn,
            };
            let mut out = [0xa5; VXLAN_V6_LEN];
            let sum = Sum::ZERO.add_bytes(&inner);
            outer.emit(&mut out, fields, 0xc001, EtherType::IPV4, sum);
            let payload = [
                &[8, 0, 0, 0, 0x12, 0x34, 0x56, 0][..],
                &macs.1.0,
                &macs.0.0,
                &[8, 0],
                &inner,
            ]
            .concat();
            let ip = etherparse::Ipv6Header {
                traffic_class: ecn.bits(),
                payload_length: u16::try_from(payload.len() + 8).unwrap(),
                next_header: etherparse::IpNumber::UDP,
                hop_limit: 64,
                source: local.octets(),
                destination: remote.octets(),
                ..etherparse::Ipv6Header::default()
            };
            let udp = etherparse::UdpHeader::with_ipv6_checksum(0xc001, 8472, &ip, &payload).unwrap();
            let mut expected = [&link.destination.0[..], &link.source.0, &[0x86, 0xdd]].concat();
            ip.write(&mut expected).unwrap();
            udp.write(&mut expected).unwrap();
            expected.extend(payload);
            assert_eq!([&out[..], &inner].concat(), expected, "{fields:?}");
        }
    }
}
