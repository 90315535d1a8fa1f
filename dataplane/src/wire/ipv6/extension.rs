//! The chain of extension headers between an IPv6 header and the upper layer (RFC 8200 section 4).

use super::super::{Fragment, IpProtocol, Malformed};

/// Length of a fragment header, in bytes.
pub const FRAGMENT_HEADER_LEN: usize = 8;

/// Most extension headers that [`walk`] passes; a packet with more is refused.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// What stands behind the extension headers of an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper<'a> {
    /// The upper layer. In a later fragment, whose start is elsewhere: what the fragmented part begins
    /// with, which may be an extension header.
    pub protocol: IpProtocol,
    /// Where the upper layer begins in the IPv6 payload, in bytes.
    pub offset: usize,
    /// The upper layer's bytes.
    pub payload: &'a [u8],
    /// Which piece of a fragmented packet this is. A packet with a fragment header that is whole
    /// nevertheless (an atomic fragment, RFC 6946) has one too, with offset zero and none to follow.
    pub fragment: Option<Fragment>,
    /// Where the fragmented part begins in the IPv6 payload, in bytes: after the fragment header, if there is one.
    pub fragmented_at: usize,
    /// How many addresses of a routing header, or of the one with the most, the packet has yet to visit. If
    /// not zero, the header's destination is not the final one, and the upper layer's checksum does not
    /// cover it.
    pub segments_left: u8,
}

impl Upper<'_> {
    /// Whether [`Upper::payload`] is only a piece of the upper layer's packet.
    #[must_use]
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment
            .is_some_and(|fragment| fragment.offset != 0 || fragment.more)
    }
}

/// Walks over hop-by-hop, routing, fragment, destination options and authentication headers at the start of
/// `payload`, of which `first` is the kind of the first, to the first header of another kind; none of them
/// is fine.
///
/// The walk ends at a fragment header that is not the first piece's, since what follows it is no header.
/// Options are not looked into. Encrypted payloads (ESP) are an upper layer.
///
/// # Errors
/// [`Malformed::Ipv6ExtensionTruncated`], also if the first fragment does not hold the whole chain (RFC
/// 7112); [`Malformed::Ipv6ExtensionOrder`]; [`Malformed::Ipv6ExtensionChain`].
pub fn walk(first: IpProtocol, payload: &[u8]) -> Result<Upper<'_>, Malformed> {
    let mut upper = Upper {
        protocol: first,
        offset: 0,
        payload,
        fragment: None,
        fragmented_at: 0,
        segments_left: 0,
    };
    for _ in 0..MAX_EXTENSION_HEADERS {
        let Some(len) = header_len(&upper)? else {
            return Ok(upper);
        };
        let (header, rest) = upper
            .payload
            .split_at_checked(len)
            .ok_or(Malformed::Ipv6ExtensionTruncated)?;
        // INVARIANT: no header is shorter than eight bytes, so this cannot fail.
        let start: &[u8; 8] = header.first_chunk().ok_or(Malformed::Ipv6ExtensionTruncated)?;
        let kind = upper.protocol;
        upper.protocol = IpProtocol(start[0]);
        upper.offset += len;
        upper.payload = rest;
        if kind == IpProtocol::ROUTING {
            upper.segments_left = upper.segments_left.max(start[3]);
        }
        if kind == IpProtocol::FRAGMENT {
            let fragment = read_fragment(start);
            upper.fragment = Some(fragment);
            upper.fragmented_at = upper.offset;
            if !fragment.is_first() {
                return Ok(upper);
            }
        }
    }
    match header_len(&upper)? {
        None => Ok(upper),
        Some(_) => Err(Malformed::Ipv6ExtensionChain),
    }
}

/// Length in bytes of the extension header that the walk has come to, at least 8; `None` if it is the upper
/// layer.
#[inline]
fn header_len(upper: &Upper<'_>) -> Result<Option<usize>, Malformed> {
    match upper.protocol {
        IpProtocol::HOP_BY_HOP if upper.offset > 0 => Err(Malformed::Ipv6ExtensionOrder),
        IpProtocol::FRAGMENT if upper.fragment.is_some() => Err(Malformed::Ipv6ExtensionOrder),
        IpProtocol::HOP_BY_HOP | IpProtocol::DESTINATION_OPTIONS | IpProtocol::ROUTING => {
            eights(upper).map(Some)
        }
        IpProtocol::FRAGMENT => Ok(Some(FRAGMENT_HEADER_LEN)),
        IpProtocol::AH => authentication_len(upper).map(Some),
        _ => Ok(None),
    }
}

/// Length in bytes of an extension header that counts units of eight after the first.
#[inline]
fn eights(upper: &Upper<'_>) -> Result<usize, Malformed> {
    let [_, units, ..] = *upper.payload else {
        return Err(Malformed::Ipv6ExtensionTruncated);
    };
    Ok((usize::from(units) + 1) * 8)
}

/// Length in bytes of an authentication header, which counts units of four after the first two (RFC 4302
/// section 2.2); one below its twelve fixed bytes, and so without the room for them, is cut short.
#[inline]
fn authentication_len(upper: &Upper<'_>) -> Result<usize, Malformed> {
    match *upper.payload {
        [_, units, ..] if units > 0 => Ok((usize::from(units) + 2) * 4),
        _ => Err(Malformed::Ipv6ExtensionTruncated),
    }
}

/// The fields of a fragment header (RFC 8200 section 4.5).
#[inline]
const fn read_fragment(header: &[u8; FRAGMENT_HEADER_LEN]) -> Fragment {
    let &[_, _, offset_high, offset_low, a, b, c, d] = header;
    let word = u16::from_be_bytes([offset_high, offset_low]);
    Fragment {
        offset: word & 0xfff8,
        more: word & 1 != 0,
        id: u32::from_be_bytes([a, b, c, d]),
    }
}
