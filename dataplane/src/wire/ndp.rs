//! Neighbour discovery for IPv6 (RFC 4861): asking for a neighbour's link address, and answering.

use core::net::Ipv6Addr;

use super::{IcmpType, MacAddr, Malformed, icmp};

/// The hop limit that every message of it has; one that a router has forwarded has less (RFC 4861 section 7.1).
pub const HOP_LIMIT: u8 = 255;

/// Length of a solicitation or advertisement without options, in bytes.
pub const MESSAGE_LEN: usize = icmp::HEADER_LEN + 16;

/// Length of an advertisement with the link address that it advertises, in bytes.
pub const ADVERTISEMENT_LEN: usize = MESSAGE_LEN + LINK_ADDRESS_LEN;

/// Length of an option with an Ethernet address, in bytes.
const LINK_ADDRESS_LEN: usize = 8;
/// Options with a link address: the sender's, and the target's (section 4.6.1).
const SOURCE_LINK_ADDRESS: u8 = 1;
const TARGET_LINK_ADDRESS: u8 = 2;
/// The sender is a router; this answers a solicitation; what is cached is to be overwritten (section 4.4).
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Read-only view of a neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour<'a> {
    message: &'a [u8; MESSAGE_LEN],
    source_link: Option<MacAddr>,
    target_link: Option<MacAddr>,
}

impl<'a> Neighbour<'a> {
    /// Checks that `bytes`, the whole payload of an IPv6 packet, are such a message with code 0 and with options that are
    /// whole. The checksum is checked by [`Icmp::verify_checksum`](super::Icmp::verify_checksum).
    ///
    /// # Errors
    /// [`Malformed::IcmpNeighbour`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (message, mut options) = bytes
            .split_first_chunk::<MESSAGE_LEN>()
            .ok_or(Malformed::IcmpNeighbour)?;
        let kind = IcmpType(message[0]);
        let is_known =
            kind == IcmpType::V6_NEIGHBOUR_SOLICITATION || kind == IcmpType::V6_NEIGHBOUR_ADVERTISEMENT;
        if !is_known || message[1] != 0 {
            return Err(Malformed::IcmpNeighbour);
        }
        let mut found = Self {
            message,
            source_link: None,
            target_link: None,
        };
        // Each takes eight bytes at least, so the walk ends.
        while let [option, eights, ..] = *options {
            let len = usize::from(eights) * 8;
            let (whole, rest) = options.split_at_checked(len).ok_or(Malformed::IcmpNeighbour)?;
            let address = whole.get(2..).and_then(<[u8]>::first_chunk::<6>);
            let address = address.ok_or(Malformed::IcmpNeighbour)?;
            match option {
                SOURCE_LINK_ADDRESS => found.source_link = Some(MacAddr(*address)),
                TARGET_LINK_ADDRESS => found.target_link = Some(MacAddr(*address)),
                _ => {}
            }
            options = rest;
        }
        if options.is_empty() {
            Ok(found)
        } else {
            Err(Malformed::IcmpNeighbour)
        }
    }

    /// Whether it asks; else it answers, or announces.
    #[must_use]
    pub fn is_solicitation(&self) -> bool {
        IcmpType(self.message[0]) == IcmpType::V6_NEIGHBOUR_SOLICITATION
    }

    /// Whether the sender of an advertisement says that it is a router; means nothing in a solicitation.
    #[must_use]
    pub fn is_router(&self) -> bool {
        self.message[4] & ROUTER != 0
    }

    /// The address that it is about.
    #[must_use]
    pub fn target(&self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&self.message[icmp::HEADER_LEN..]);
        Ipv6Addr::from(octets)
    }

    /// The link address that the sender says it has.
    #[must_use]
    pub fn source_link(&self) -> Option<MacAddr> {
        self.source_link
    }

    /// The link address that the target is said to have.
    #[must_use]
    pub fn target_link(&self) -> Option<MacAddr> {
        self.target_link
    }
}

/// An advertisement: whose link address is which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The address that it is about.
    pub target: Ipv6Addr,
    /// The target's link address.
    pub link: MacAddr,
    /// Whether it answers somebody.
    pub is_solicited: bool,
    /// Whether the target is a router. Who is told that a router of its own is none forgets its routes (RFC 4861 section
    /// 7.2.5).
    pub is_router: bool,
}

impl Advertisement {
    /// Writes it. What is cached is to be overwritten. The checksum is zero, to be computed by [`icmp::fill_checksum`].
    pub fn emit(&self, out: &mut [u8; ADVERTISEMENT_LEN]) {
        let solicited = if self.is_solicited { SOLICITED } else { 0 };
        let router = if self.is_router { ROUTER } else { 0 };
        out[..4].copy_from_slice(&[IcmpType::V6_NEIGHBOUR_ADVERTISEMENT.0, 0, 0, 0]);
        out[4..icmp::HEADER_LEN].copy_from_slice(&[router | OVERRIDE | solicited, 0, 0, 0]);
        out[icmp::HEADER_LEN..MESSAGE_LEN].copy_from_slice(&self.target.octets());
        // INVARIANT: an option's length is told in units of eight bytes, and this one has one.
        out[MESSAGE_LEN..MESSAGE_LEN + 2].copy_from_slice(&[TARGET_LINK_ADDRESS, 1]);
        out[MESSAGE_LEN + 2..].copy_from_slice(&self.link.0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LINK: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn target() -> Ipv6Addr {
        "fd00::9".parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        for (is_solicited, is_router, flags) in [
            (false, true, 0xa0),
            (true, true, 0xe0),
            (true, false, 0x60),
            (false, false, 0x20),
        ] {
            let mut out = [0xa5; ADVERTISEMENT_LEN];
            let advertisement = Advertisement {
                target: target(),
                link: LINK,
                is_solicited,
                is_router,
            };
            advertisement.emit(&mut out);
            // Laid out from RFC 4861 sections 4.4 and 4.6.1.
            let expected = [
                &[136, 0, 0, 0, flags, 0, 0, 0][..],
                &target().octets(),
                &[2, 1, 2, 0, 0, 0, 0, 9],
            ];
            assert_eq!(out[..], expected.concat());
            let seen = Neighbour::parse(&out).unwrap();
            assert!(!seen.is_solicitation());
            assert_eq!((seen.target(), seen.target_link()), (target(), Some(LINK)));
            assert_eq!((seen.source_link(), seen.is_router()), (None, is_router));
        }
    }

    #[test]
    fn options_are_walked_to_the_end_and_no_further() {
        let message = |kind: u8, code: u8, options: &[u8]| {
            [&[kind, code, 0, 0, 0, 0, 0, 0][..], &target().octets(), options].concat()
        };
        let source = [1, 1, 2, 0, 0, 0, 0, 9];
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let seen = message(135, 0, &[nonce, source].concat());
        let seen = Neighbour::parse(&seen).unwrap();
        assert!(seen.is_solicitation());
        assert_eq!((seen.source_link(), seen.target_link()), (Some(LINK), None));
        for (name, bytes) in [
            (
                "an option of no length",
                message(135, 0, &[1, 0, 0, 0, 0, 0, 0, 0]),
            ),
            (
                "an option beyond the end",
                message(135, 0, &[1, 2, 0, 0, 0, 0, 0, 0]),
            ),
            ("half an option's head", message(135, 0, &[1])),
            (
                "bytes after the last",
                message(135, 0, &[&source[..], &[1, 1, 0]].concat()),
            ),
            ("another code", message(135, 1, &source)),
            ("another kind", message(134, 0, &source)),
            ("cut short", message(135, 0, &[])[..23].to_vec()),
        ] {
            assert_eq!(
                Neighbour::parse(&bytes).unwrap_err(),
                Malformed::IcmpNeighbour,
                "{name}"
            );
        }
    }
}
