//! The two ports with which TCP, UDP and SCTP begin (RFC 9293, RFC 768, RFC 9260): all that a first
//! fragment or the packet quoted by an ICMP error is sure to hold of them.

use super::Malformed;
use super::checksum::Delta;

/// Length of both ports, in bytes.
pub const LEN: usize = 4;

/// Source and destination port, in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports {
    /// The port of the packet's sender.
    pub source: u16,
    /// The port the packet is for.
    pub destination: u16,
}

impl Ports {
    /// Reads both ports from the start of a TCP, UDP or SCTP header, of which nothing else is checked.
    ///
    /// # Errors
    /// [`Malformed::PortsTruncated`].
    #[inline]
    pub fn parse(l4: &[u8]) -> Result<Self, Malformed> {
        let &[a, b, c, d] = l4.first_chunk::<LEN>().ok_or(Malformed::PortsTruncated)?;
        Ok(Self {
            source: u16::from_be_bytes([a, b]),
            destination: u16::from_be_bytes([c, d]),
        })
    }

    /// The ports of the answer: exchanged.
    #[must_use]
    #[inline]
    pub const fn reversed(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }
}

/// View of both ports that are edited where they lie, in a header that is perhaps not whole.
///
/// No checksum is touched; that of a whole header is kept right by [`TcpMut`](super::TcpMut) and
/// [`UdpMut`](super::UdpMut).
#[derive(Debug)]
pub struct PortsMut<'a> {
    bytes: &'a mut [u8; LEN],
}

impl<'a> PortsMut<'a> {
    /// Checks that `l4` holds both ports.
    ///
    /// # Errors
    /// [`Malformed::PortsTruncated`].
    #[inline]
    pub fn parse(l4: &'a mut [u8]) -> Result<Self, Malformed> {
        Ok(Self {
            bytes: l4.first_chunk_mut().ok_or(Malformed::PortsTruncated)?,
        })
    }

    /// Both ports.
    #[must_use]
    #[inline]
    pub const fn view(&self) -> Ports {
        let &[a, b, c, d] = &*self.bytes;
        Ports {
            source: u16::from_be_bytes([a, b]),
            destination: u16::from_be_bytes([c, d]),
        }
    }

    /// Writes both ports; the change is known to the caller.
    #[inline]
    pub fn replace(&mut self, ports: Ports) {
        self.bytes[0..2].copy_from_slice(&ports.source.to_be_bytes());
        self.bytes[2..4].copy_from_slice(&ports.destination.to_be_bytes());
    }

    /// Writes the source port; answers the change, which a checksum over the header must follow.
    #[inline]
    #[must_use = "checksums of TCP, UDP and of the ICMP error around them cover the ports"]
    pub fn set_source(&mut self, port: u16) -> Delta {
        let delta = Delta::u16(self.view().source, port);
        self.bytes[0..2].copy_from_slice(&port.to_be_bytes());
        delta
    }

    /// Writes the destination port; answers the change, which a checksum over the header must follow.
    #[inline]
    #[must_use = "checksums of TCP, UDP and of the ICMP error around them cover the ports"]
    pub fn set_destination(&mut self, port: u16) -> Delta {
        let delta = Delta::u16(self.view().destination, port);
        self.bytes[2..4].copy_from_slice(&port.to_be_bytes());
        delta
    }
}
