//! What a generator's packets are, above IP.

use etherparse::err::packet::BuildWriteError;
use etherparse::{IpHeaders, PacketBuilderStep};
use millrace_dataplane::wire::{Ports, icmp, tcp, udp};

/// Window of a TCP segment, in bytes.
const WINDOW: u16 = 65535;

/// The protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// UDP.
    Udp,
    /// TCP segments with data and nothing else set, as in the middle of a connection.
    Tcp,
    /// TCP segments that open a connection.
    TcpSyn,
    /// ICMP or ICMPv6 echo requests; their identifier and sequence number stand for ports.
    Icmp,
}

impl Protocol {
    /// Length of its header, in bytes.
    pub(crate) fn header_len(self) -> usize {
        match self {
            Self::Udp => udp::HEADER_LEN,
            Self::Tcp | Self::TcpSyn => tcp::HEADER_LEN,
            Self::Icmp => icmp::HEADER_LEN,
        }
    }

    /// Where the checksum stands in the header, in bytes.
    pub(crate) fn checksum_at(self) -> usize {
        match self {
            Self::Udp => udp::CHECKSUM_OFFSET,
            Self::Tcp | Self::TcpSyn => tcp::CHECKSUM_OFFSET,
            Self::Icmp => icmp::CHECKSUM_OFFSET,
        }
    }

    /// Where the ports stand in the header, in bytes, or what stands for them.
    pub(crate) fn ports_at(self) -> usize {
        match self {
            Self::Udp | Self::Tcp | Self::TcpSyn => 0,
            Self::Icmp => 4,
        }
    }

    /// Ends a packet that has been begun.
    pub(crate) fn write(
        self,
        ip: PacketBuilderStep<IpHeaders>,
        ports: Ports,
        is_ipv4: bool,
        payload: &[u8],
    ) -> Result<Vec<u8>, BuildWriteError> {
        let mut frame = Vec::new();
        let (from, to) = (ports.source, ports.destination);
        match self {
            Self::Udp => ip.udp(from, to).write(&mut frame, payload)?,
            Self::Tcp => ip
                .tcp(from, to, 1, WINDOW)
                .ack(1)
                .psh()
                .write(&mut frame, payload)?,
            Self::TcpSyn => ip.tcp(from, to, 0, WINDOW).syn().write(&mut frame, payload)?,
            Self::Icmp if is_ipv4 => ip.icmpv4_echo_request(from, to).write(&mut frame, payload)?,
            Self::Icmp => ip.icmpv6_echo_request(from, to).write(&mut frame, payload)?,
        }
        Ok(frame)
    }
}
