//! The internet checksum (RFC 1071), its incremental update (RFC 1624), and the checksums that Linux leaves
//! half computed.
//!
//! A [`Sum`] is a one's complement sum being added up, a [`Delta`] the change of one. Both take values in
//! host byte order. A checksum *field* holds the complement of the folded sum.

use core::net::{Ipv4Addr, Ipv6Addr};

use super::IpProtocol;

mod packet;

pub use packet::packet_sum;

/// A one's complement sum of 16-bit words that is still being added up.
///
/// It cannot overflow: four bytes add at most 32 bits, and there is room for 2^32 times as many.
///
/// Inside, words are as they lie on the wire, whatever the byte order of the machine: a one's complement
/// sum may be taken in either order and swapped at the end (RFC 1071 section 2B).
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds `bytes` as big-endian words. An odd last byte counts as a word whose low byte is zero, so only
    /// the last slice added may have an odd length.
    #[must_use]
    #[inline]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        // Words of any multiple of 16 bits may be added and folded at the end (RFC 1071 section 2C). Plain
        // additions into a wider integer let the compiler use vectors.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum: u64 = words
            .iter()
            .map(|&word| u64::from(u32::from_ne_bytes(word)))
            .sum();
        sum += match *rest {
            [a] => u64::from(u32::from_ne_bytes([a, 0, 0, 0])),
            [a, b] => u64::from(u32::from_ne_bytes([a, b, 0, 0])),
            [a, b, c] => u64::from(u32::from_ne_bytes([a, b, c, 0])),
            _ => 0,
        };
        Self(self.0 + sum)
    }

    /// Adds one word.
    #[must_use]
    #[inline]
    pub const fn add_u16(self, word: u16) -> Self {
        Self(self.0 + word.to_be() as u64)
    }

    /// Adds two words, as the halves of one integer.
    #[must_use]
    #[inline]
    pub const fn add_u32(self, words: u32) -> Self {
        Self(self.0 + words.to_be() as u64)
    }

    /// Adds what a pseudo-header holds besides the addresses: the protocol of the payload and the payload's
    /// length in bytes (RFC 9293 section 3.1, RFC 8200 section 8.1).
    #[must_use]
    #[inline]
    pub fn add_transport(self, protocol: IpProtocol, len: usize) -> Self {
        // No IP payload is longer than 32 bits can say.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.add_u16(u16::from(protocol.0)).add_u32(len)
    }

    /// The sum in one word; zero only for the sum of nothing but zeros.
    #[must_use]
    #[inline]
    pub const fn fold(self) -> u16 {
        u16::from_be(fold(self.0))
    }

    /// The checksum field for what was added, with the field itself added as zero or not at all.
    #[must_use]
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Whether what was added, checksum field included, is as it was sent.
    #[must_use]
    #[inline]
    pub const fn is_valid(self) -> bool {
        // As much as to fold to 0xffff: to fold is to take the rest by 0xffff, which is shown as 0xffff where it is 0.
        self.0 != 0 && self.0.is_multiple_of(0xffff)
    }
}

/// Folds the carries of a one's complement sum back into one word.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // INVARIANT: the halves of 64 bits, and the upper half of 32.
    #[allow(clippy::cast_possible_truncation)]
    {
        let (halves, carry) = ((sum >> 32) as u32).overflowing_add(sum as u32);
        let sum = halves + carry as u32; // no further carry: two halves are at most 2^33 - 2
        // Both words in the upper half, and in the lower one what carries into it.
        (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
    }
}

/// The checksum field for `bytes`, in which the field itself is zero.
#[must_use]
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::ZERO.add_bytes(bytes).checksum()
}

/// The sum of the addresses of an IPv4 pseudo-header.
#[must_use]
#[inline]
pub fn addresses_v4(source: Ipv4Addr, destination: Ipv4Addr) -> Sum {
    Sum::ZERO
        .add_u32(u32::from(source))
        .add_u32(u32::from(destination))
}

/// The sum of the addresses of an IPv6 pseudo-header.
#[must_use]
#[inline]
pub fn addresses_v6(source: Ipv6Addr, destination: Ipv6Addr) -> Sum {
    Sum::ZERO
        .add_bytes(&source.octets())
        .add_bytes(&destination.octets())
}

/// The sum of a whole IPv4 pseudo-header for a payload of `len` bytes.
#[must_use]
#[inline]
pub fn pseudo_v4(source: Ipv4Addr, destination: Ipv4Addr, protocol: IpProtocol, len: usize) -> Sum {
    addresses_v4(source, destination).add_transport(protocol, len)
}

/// The sum of a whole IPv6 pseudo-header for an upper-layer packet of `len` bytes.
#[must_use]
#[inline]
pub fn pseudo_v6(source: Ipv6Addr, destination: Ipv6Addr, protocol: IpProtocol, len: usize) -> Sum {
    addresses_v6(source, destination).add_transport(protocol, len)
}

/// What a change of some words does to a checksum that covers them (RFC 1624 equation 3).
///
/// Deltas of several changes are combined and applied once; the order does not matter. A word must be
/// changed at an even place in what the checksum covers. It cannot overflow: there is room for 2^30
/// changes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// One word changed from `old` to `new`.
    #[must_use]
    #[inline]
    pub const fn u16(old: u16, new: u16) -> Self {
        Self(!old as u64 + new as u64)
    }

    /// Two words changed from `old` to `new`.
    #[must_use]
    #[inline]
    pub const fn u32(old: u32, new: u32) -> Self {
        Self(!old as u64 + new as u64)
    }

    /// An IPv6 address changed from `old` to `new`.
    #[must_use]
    #[inline]
    pub fn ipv6(old: Ipv6Addr, new: Ipv6Addr) -> Self {
        let old = Sum::ZERO.add_bytes(&old.octets());
        let new = Sum::ZERO.add_bytes(&new.octets());
        Self::u16(old.fold(), new.fold())
    }

    /// The change in one word, as it is kept beside what will change that way again and again.
    #[must_use]
    #[inline]
    pub const fn to_word(self) -> u16 {
        fold(self.0)
    }

    /// The change that [`Delta::to_word`] packed.
    #[must_use]
    #[inline]
    pub const fn from_word(word: u16) -> Self {
        Self(word as u64)
    }

    /// Both changes together.
    #[must_use]
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum field after the change, where it was `field` before; what a full computation would give
    /// if `field` was right.
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, field: u16) -> u16 {
        !fold(!field as u64 + self.0)
    }

    /// [`Delta::apply`] for a UDP checksum: zero means that there is none and stays so, and a checksum that
    /// would come out as zero is sent as its other form, all ones (RFC 768).
    #[must_use]
    #[inline(always)]
    pub const fn apply_udp(self, field: u16) -> u16 {
        if field == 0 {
            0
        } else {
            udp_field(self.apply(field))
        }
    }
}

/// A computed UDP checksum as its field shows it: never zero, which would mean that there is none (RFC
/// 768).
#[must_use]
#[inline]
pub const fn udp_field(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The checksum field of a TCP segment, UDP datagram or ICMPv6 message; `None` if there is none, or another
/// protocol's.
#[inline(always)]
fn transport_field(protocol: IpProtocol, l4: &mut [u8]) -> Option<&mut [u8; 2]> {
    let offset = match protocol {
        IpProtocol::TCP => super::tcp::CHECKSUM_OFFSET,
        IpProtocol::UDP => super::udp::CHECKSUM_OFFSET,
        IpProtocol::ICMPV6 => super::icmp::CHECKSUM_OFFSET,
        _ => return None,
    };
    l4.get_mut(offset..)?.first_chunk_mut()
}

/// Carries a change of what it covers into the checksum of a TCP segment, a UDP or UDP-Lite datagram or an ICMPv6
/// message, of which `l4` is at least the start. Answers the change of the field itself; none, with nothing changed, if
/// `protocol` is none of these, `l4` ends before the field, or a UDP datagram has no checksum.
#[inline]
pub fn adjust_transport(protocol: IpProtocol, l4: &mut [u8], delta: Delta) -> Delta {
    let protocol = if protocol == IpProtocol::UDP_LITE {
        IpProtocol::UDP
    } else {
        protocol
    };
    let Some(field) = transport_field(protocol, l4) else {
        return Delta::ZERO;
    };
    let old = u16::from_be_bytes(*field);
    let new = if protocol == IpProtocol::UDP {
        delta.apply_udp(old)
    } else {
        delta.apply(old)
    };
    *field = new.to_be_bytes();
    Delta::u16(old, new)
}

/// Computes the checksum of `l4`, a whole TCP segment, UDP datagram or ICMPv6 message, and writes it into
/// its field.
///
/// `addresses` is the sum of both addresses ([`addresses_v4`], [`addresses_v6`]). Answers `false`, with
/// nothing changed, if `protocol` is none of the three or `l4` ends before the field.
#[inline]
pub fn fill_transport(addresses: Sum, protocol: IpProtocol, l4: &mut [u8]) -> bool {
    let sum = addresses.add_transport(protocol, l4.len());
    let Some(field) = transport_field(protocol, l4) else {
        return false;
    };
    *field = [0; 2];
    store_transport(sum, protocol, l4)
}

/// Whether the checksum of `l4` is right, for the same arguments as [`fill_transport`].
///
/// A UDP checksum of zero is not one, and so never right here; over IPv4 it is allowed.
#[must_use]
#[inline]
pub fn is_transport_valid(addresses: Sum, protocol: IpProtocol, l4: &[u8]) -> bool {
    let absent = protocol == IpProtocol::UDP
        && l4
            .get(super::udp::CHECKSUM_OFFSET..)
            .and_then(|rest| rest.first_chunk())
            == Some(&[0; 2]);
    !absent
        && addresses
            .add_transport(protocol, l4.len())
            .add_bytes(l4)
            .is_valid()
}

/// Whether Linux left a TCP or UDP checksum half computed: whether the field is the sum of the packet's pseudo-header, not
/// complemented. See [`complete_partial`].
#[must_use]
#[inline(always)]
pub fn is_partial(pseudo: Sum, field: u16) -> bool {
    // Its complement makes that sum valid, which is never zero: see `Sum::is_valid`.
    field != 0 && pseudo.add_u16(!field).is_valid()
}

/// Recognises and completes, in place, a checksum that Linux left half computed (`CHECKSUM_PARTIAL`,
/// `include/linux/skbuff.h`).
///
/// The kernel leaves the rest of the work to the device, and a veth pair or a kernel tunnel hands such a
/// packet over as it is: its TCP or UDP checksum field holds the folded sum of the pseudo-header, *not*
/// complemented. `addresses` is the sum of both addresses ([`addresses_v4`], [`addresses_v6`]) and `l4` the
/// whole segment or datagram, of any length that IP can carry and without the link's padding; not a
/// fragment. Answers whether the checksum was half computed and is now complete.
///
/// A complete checksum that happens to equal the pseudo-header's sum comes out as it was: if the field is
/// right and equals that sum, then the computation gives that same value again. A UDP checksum of zero
/// (none) is never taken for one, since the sum of a pseudo-header is never zero.
#[inline(always)]
pub fn complete_partial(addresses: Sum, protocol: IpProtocol, l4: &mut [u8]) -> bool {
    if !matches!(protocol, IpProtocol::TCP | IpProtocol::UDP) {
        return false;
    }
    let pseudo = addresses.add_transport(protocol, l4.len());
    let Some(field) = transport_field(protocol, l4) else {
        return false;
    };
    if !is_partial(pseudo, u16::from_be_bytes(*field)) {
        return false;
    }
    // The field already adds the pseudo-header to the sum of the bytes.
    store_transport(Sum::ZERO, protocol, l4)
}

/// Writes the checksum of `l4` on top of `sum`; the field must hold what it is to count for.
#[inline(never)]
fn store_transport(sum: Sum, protocol: IpProtocol, l4: &mut [u8]) -> bool {
    let computed = sum.add_bytes(l4).checksum();
    let computed = if protocol == IpProtocol::UDP {
        udp_field(computed)
    } else {
        computed
    };
    let Some(field) = transport_field(protocol, l4) else {
        return false;
    };
    *field = computed.to_be_bytes();
    true
}
