//! Addresses that no packet may carry through a router (RFC 1812 section 5.3.7, RFC 6890).

use std::net::{Ipv4Addr, Ipv6Addr};

/// Whether a router must not forward a packet from or to this IPv4 address: "this" network, loopback, multicast,
/// limited broadcast. Link-local addresses pass: pods use some of the host's, for DNS caches and metadata.
#[inline]
pub(crate) fn is_martian_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first == 0 || address.is_loopback() || address.is_multicast() || address.is_broadcast()
}

/// Whether a router must not forward a packet from or to this IPv6 address: unspecified, loopback, multicast,
/// link-local (RFC 4291 section 2.5.6), or an IPv4 address in disguise (section 2.5.5).
#[inline]
pub(crate) fn is_martian_v6(address: Ipv6Addr) -> bool {
    // Loopback, unspecified and both embeddings of IPv4 lie in the first 80 bits of zeros.
    address.is_multicast() || address.is_unicast_link_local() || address.to_bits() >> 48 == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn martians_and_their_neighbours() {
        for (text, is_martian) in [
            ("0.0.0.0", true),
            ("0.255.255.255", true),
            ("1.0.0.0", false),
            ("126.255.255.255", false),
            ("127.0.0.1", true),
            ("127.255.255.255", true),
            ("128.0.0.0", false),
            ("169.254.169.254", false),
            ("223.255.255.255", false),
            ("224.0.0.1", true),
            ("239.255.255.255", true),
            ("255.255.255.254", false),
            ("255.255.255.255", true),
        ] {
            assert_eq!(
                is_martian_v4(text.parse().unwrap_or(Ipv4Addr::BROADCAST)),
                is_martian,
                "{text}"
            );
        }
        for (text, is_martian) in [
            ("::", true),
            ("::1", true),
            ("::10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("::1:0:0:0", false),
            ("64:ff9b::a00:1", false),
            ("2001:db8::1", false),
            ("fd00::1", false),
            ("fe7f:ffff::1", false),
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", false),
            ("ff02::1", true),
        ] {
            assert_eq!(
                is_martian_v6(text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED)),
                is_martian,
                "{text}"
            );
        }
    }
}
