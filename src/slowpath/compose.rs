//! Packets that the switch sends itself: an IP header around a transport, checksums right.

use std::net::IpAddr;

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::wire::checksum::{self, Sum};
use millrace_dataplane::wire::{
    Dscp, Ecn, EtherType, IpProtocol, Ipv4Fields, Ipv6Fields, MacAddr, eth, ipv4, ipv6,
};

/// TTL or hop limit of what the switch sends.
pub(super) const TTL: u8 = 64;

/// Everything about a packet of the switch's own that is not its transport.
#[derive(Debug, Clone, Copy)]
pub(super) struct Envelope {
    /// The switch's address.
    pub(super) source: IpAddr,
    /// Who gets it; of the same family.
    pub(super) destination: IpAddr,
    /// What the transport is.
    pub(super) protocol: IpProtocol,
    /// How urgent it is.
    pub(super) dscp: Dscp,
    /// IPv4 identification.
    pub(super) id: u16,
    /// Whether no router may fragment it, where it is IPv4.
    pub(super) dont_fragment: bool,
}

impl Envelope {
    /// The sum of both addresses, with which the transport's checksum begins.
    pub(super) fn address_sum(&self) -> Sum {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => checksum::addresses_v4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => checksum::addresses_v6(source, destination),
            // Never sealed.
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Sum::ZERO,
        }
    }

    /// The whole packet, with an Ethernet header in which only the type means anything. `None` if no frame holds it,
    /// or source and destination are of different families.
    pub(super) fn seal(&self, transport: &[u8]) -> Option<PacketCopy> {
        let mut frame = vec![0; eth::HEADER_LEN + ipv6::HEADER_LEN + transport.len()];
        let (link, ip) = frame.split_first_chunk_mut()?;
        let (ether_type, header_len) = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let fields = Ipv4Fields {
                    dscp: self.dscp,
                    ecn: Ecn::NotEct,
                    total_len: u16::try_from(ipv4::HEADER_LEN + transport.len()).ok()?,
                    id: self.id,
                    dont_fragment: self.dont_fragment,
                    ttl: TTL,
                    protocol: self.protocol,
                    source,
                    destination,
                };
                fields.emit(ip.first_chunk_mut()?);
                (EtherType::IPV4, ipv4::HEADER_LEN)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let fields = Ipv6Fields {
                    dscp: self.dscp,
                    ecn: Ecn::NotEct,
                    flow_label: 0,
                    payload_len: u16::try_from(transport.len()).ok()?,
                    next_header: self.protocol,
                    hop_limit: TTL,
                    source,
                    destination,
                };
                fields.emit(ip.first_chunk_mut()?);
                (EtherType::IPV6, ipv6::HEADER_LEN)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        ip.get_mut(header_len..)?
            .get_mut(..transport.len())?
            .copy_from_slice(transport);
        eth::emit(link, MacAddr::ZERO, MacAddr::ZERO, ether_type);
        Some(PacketCopy::new(
            frame.get(..eth::HEADER_LEN + header_len + transport.len())?,
        ))
    }
}
