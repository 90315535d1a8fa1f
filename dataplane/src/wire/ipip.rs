//! IP-in-IP (RFC 2003): the payload of an IPv4 packet of protocol
//! [`IpProtocol::IPIP`](super::IpProtocol::IPIP) is one IPv4 packet and nothing else.
//!
//! There is no header of its own. The outer one is an ordinary [`Ipv4Fields`](super::Ipv4Fields); its TTL
//! is the tunnel's own, and the inner TTL is decremented once by forwarding, not by the tunnel (RFC 2003
//! section 3.1). The ECN fields follow RFC 6040 ([`Ecn`](super::Ecn)). An outer packet that is a fragment
//! must not be opened before it is whole: only its first piece begins with the inner header.

use super::{Ipv4, Malformed, eth, ipv4};

/// What a push puts before the inner IPv4 packet, in bytes: outer Ethernet and IPv4. It takes the place of
/// the Ethernet header that the packet came with.
pub const PUSH_LEN: usize = eth::HEADER_LEN + ipv4::HEADER_LEN;

/// How much smaller than the underlay's the overlay's MTU is, in bytes.
pub const MTU_OVERHEAD: usize = ipv4::HEADER_LEN;

/// Reads the packet inside `payload`, the payload of an outer packet of protocol IPIP.
///
/// The inner packet must fill the payload: the outer total length counts exactly both headers and the inner
/// payload (RFC 2003 section 3.1), and the link's padding stands behind the outer total length.
///
/// # Errors
/// Those of [`Ipv4::parse`], and [`Malformed::IpipInnerLength`] if bytes follow the inner packet.
#[inline]
pub fn parse_inner(payload: &[u8]) -> Result<Ipv4<'_>, Malformed> {
    let inner = Ipv4::parse(payload)?;
    if usize::from(inner.total_len()) == payload.len() {
        Ok(inner)
    } else {
        Err(Malformed::IpipInnerLength)
    }
}
