//! The sum of a whole IP packet, without a pass over what a checksum of its own covers already.

use super::super::{IpProtocol, Ipv4, Ipv6, Udp, icmp, ipv6, tcp};
use super::{Sum, addresses_v4, addresses_v6};

/// The sum of an IP packet, as the checksum of a datagram around it needs it. `packet` is the packet and no padding.
///
/// The transport's checksum tells the sum of all that it covers, so that only headers are added up. Where it was wrong,
/// so is this, and the datagram is refused where its inside would have been; Linux reckons so as well (local checksum
/// offload, `Documentation/networking/checksum-offloads.rst`). Pieces, and what has no such checksum, are summed up.
#[must_use]
pub fn packet_sum(packet: &[u8]) -> Sum {
    told(packet).unwrap_or_else(|| Sum::ZERO.add_bytes(packet))
}

/// The sum, if a checksum tells the transport's.
fn told(packet: &[u8]) -> Option<Sum> {
    let (pseudo, transport_at) = match packet.first()? >> 4 {
        4 => {
            let ip = Ipv4::parse(packet).ok().filter(|ip| !ip.is_fragment())?;
            let addresses = addresses_v4(ip.source(), ip.destination());
            (pseudo(addresses, ip.protocol(), ip.payload())?, ip.header_len())
        }
        _ => {
            let ip = Ipv6::parse(packet).ok()?;
            let upper = ip.upper().ok()?;
            if upper.is_fragment() || upper.segments_left != 0 {
                return None;
            }
            let addresses = addresses_v6(ip.source(), ip.destination());
            let pseudo = pseudo(addresses, upper.protocol, upper.payload)?;
            (pseudo, ipv6::HEADER_LEN + upper.offset)
        }
    };
    // With the pseudo-header, the transport's own checksum included, it sums up to all ones.
    let headers = packet.get(..transport_at)?;
    Some(Sum::ZERO.add_bytes(headers).add_u16(!pseudo.fold()))
}

/// The sum of the pseudo-header that a transport's checksum covers; `None` if it has none, or it leaves bytes out.
fn pseudo(addresses: Sum, protocol: IpProtocol, l4: &[u8]) -> Option<Sum> {
    let has_checksum = match protocol {
        IpProtocol::TCP => l4.len() >= tcp::HEADER_LEN,
        IpProtocol::UDP => {
            Udp::parse(l4).is_ok_and(|udp| udp.checksum() != 0 && usize::from(udp.length()) == l4.len())
        }
        IpProtocol::ICMP | IpProtocol::ICMPV6 => l4.len() >= icmp::HEADER_LEN,
        _ => false,
    };
    has_checksum.then(|| match protocol {
        IpProtocol::ICMP => Sum::ZERO,
        _ => addresses.add_transport(protocol, l4.len()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    /// Packets with a right checksum, of all kinds that one tells the sum of, and some of which none does.
    fn packets(len: usize) -> Vec<Vec<u8>> {
        let data: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let v4 = || PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 63);
        let v6 = || PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 63);
        let mut all = vec![Vec::new(); 8];
        v4().udp(7, 8).write(&mut all[0], &data).unwrap();
        v4().tcp(7, 8, 9, 10).write(&mut all[1], &data).unwrap();
        v4().icmpv4_echo_request(1, 2).write(&mut all[2], &data).unwrap();
        v6().udp(7, 8).write(&mut all[3], &data).unwrap();
        v6().tcp(7, 8, 9, 10).write(&mut all[4], &data).unwrap();
        v6().icmpv6_echo_request(1, 2).write(&mut all[5], &data).unwrap();
        // Of which no checksum tells: one that has none, and one of another protocol.
        v4().udp(7, 8).write(&mut all[6], &data).unwrap();
        all[6][26..28].fill(0);
        v6().write(&mut all[7], etherparse::IpNumber(253), &data).unwrap();
        let mut with_options = all[3].clone();
        with_options[6] = IpProtocol::DESTINATION_OPTIONS.0;
        with_options.splice(40..40, [IpProtocol::UDP.0, 0, 1, 4, 0, 0, 0, 0]);
        let payload_len = u16::try_from(with_options.len() - ipv6::HEADER_LEN).unwrap();
        with_options[4..6].copy_from_slice(&payload_len.to_be_bytes());
        all.push(with_options);
        all
    }

    #[test]
    fn the_sum_is_that_of_all_the_bytes() {
        for len in [0, 1, 2, 33, 1400] {
            for packet in packets(len) {
                let whole = Sum::ZERO.add_bytes(&packet).fold();
                assert_eq!(
                    packet_sum(&packet).fold() % 0xffff,
                    whole % 0xffff,
                    "{packet:02x?}"
                );
            }
        }
    }

    #[test]
    fn a_packet_cut_anywhere_is_summed_up() {
        for packet in packets(40) {
            for len in 0..packet.len() {
                let cut = &packet[..len];
                assert_eq!(packet_sum(cut).fold(), Sum::ZERO.add_bytes(cut).fold());
            }
        }
    }
}
