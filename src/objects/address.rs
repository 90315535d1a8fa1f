//! Addresses as Kubernetes writes them, and the ones that no pod or node may claim.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::fault::{Fault, value_excerpt};

/// Number of octets in an Ethernet address.
const MAC_OCTETS: usize = 6;
/// The bit of the first octet that marks a group address (IEEE 802, the I/G bit).
const GROUP_BIT: u8 = 0x01;

/// Ranges that are refused as the address of a pod or a node, with the words for it.
const REFUSED_V4: [(Ipv4Net, &str); 5] = [
    (
        Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8),
        "an unspecified",
    ),
    (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), "a loopback"),
    (
        Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
        "a link-local",
    ),
    (Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4), "a multicast"),
    (Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32), "a broadcast"),
];

/// As [`REFUSED_V4`]. The v4-mapped range is here because such an address names an IPv4 host a second time.
const REFUSED_V6: [(Ipv6Net, &str); 5] = [
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "an unspecified"),
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "a loopback"),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        "a link-local",
    ),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
        "a multicast",
    ),
    (
        Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
        "an IPv4-mapped",
    ),
];

/// A CIDR of usable addresses, its host bits cut off; `field` names it where it is none.
///
/// # Errors
/// [`Fault::Cidr`] or [`Fault::CidrRefused`].
pub(super) fn usable_cidr(field: String, text: &str) -> Result<IpNet, Fault> {
    let Ok(cidr) = text.parse::<IpNet>() else {
        let value = text.to_owned();
        return Err(Fault::Cidr { field, value });
    };
    let cidr = cidr.trunc();
    match refused_class(cidr) {
        Some(class) => Err(Fault::CidrRefused { field, cidr, class }),
        None => Ok(cidr),
    }
}

/// Says which class of refused addresses `cidr` touches, if any, as words with an article (`a loopback`).
#[must_use]
pub fn refused_class(cidr: IpNet) -> Option<&'static str> {
    let touches_v4 = |net: Ipv4Net, other: &Ipv4Net| net.contains(other) || other.contains(&net);
    let touches_v6 = |net: Ipv6Net, other: &Ipv6Net| net.contains(other) || other.contains(&net);
    match cidr {
        IpNet::V4(net) => REFUSED_V4
            .iter()
            .find(|(range, _)| touches_v4(net, range))
            .map(|(_, class)| *class),
        IpNet::V6(net) => REFUSED_V6
            .iter()
            .find(|(range, _)| touches_v6(net, range))
            .map(|(_, class)| *class),
    }
}

/// As [`refused_class`], for one address.
#[must_use]
pub fn refused_address_class(address: IpAddr) -> Option<&'static str> {
    refused_class(IpNet::from(address))
}

/// A unicast Ethernet address: six octets in the order of the wire, never all zero, never a group address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnicastMac([u8; MAC_OCTETS]);

/// Text or octets that are no unicast Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six pairs of hexadecimal digits.
    #[error(
        "`{}` is no Ethernet address, write six pairs of hexadecimal digits as in 02:00:00:00:01:01",
        value_excerpt(.0)
    )]
    Form(String),
    /// The group bit is set.
    #[error("{0} is a group address, a unicast one has an even first octet")]
    Group(String),
    /// All octets are zero.
    #[error("00:00:00:00:00:00 is no address of a port")]
    Zero,
}

/// Writes octets as Go's `net.HardwareAddr` does: lower case, with colons.
fn mac_text(octets: [u8; MAC_OCTETS]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

impl UnicastMac {
    /// Takes six octets in the order of the wire.
    ///
    /// # Errors
    /// [`MacError::Group`] or [`MacError::Zero`].
    pub fn new(octets: [u8; MAC_OCTETS]) -> Result<Self, MacError> {
        if octets.first().is_some_and(|first| first & GROUP_BIT != 0) {
            return Err(MacError::Group(mac_text(octets)));
        }
        if octets == [0; MAC_OCTETS] {
            return Err(MacError::Zero);
        }
        Ok(Self(octets))
    }

    /// The octets in the order of the wire.
    #[must_use]
    pub fn octets(self) -> [u8; MAC_OCTETS] {
        self.0
    }
}

impl FromStr for UnicastMac {
    type Err = MacError;

    /// Reads six pairs of hexadecimal digits of either case, all separated by `:` or all by `-`.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let form = || MacError::Form(text.to_owned());
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; MAC_OCTETS];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().ok_or_else(form)?;
            if part.len() != 2 || !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(form());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| form())?;
        }
        if parts.next().is_some() {
            return Err(form());
        }
        Self::new(octets)
    }
}

impl TryFrom<String> for UnicastMac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<UnicastMac> for String {
    fn from(mac: UnicastMac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for UnicastMac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mac_text(self.0))
    }
}

/// A VXLAN network identifier: 24 bits, not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier: 24 bits (RFC 7348 section 5).
    pub const MAX: u32 = 0x00ff_ffff;
    /// flannel's identifier on Linux, and this program's default.
    pub const FLANNEL: Self = Self(1);
    /// The network identifier of Calico's VXLAN unless it is configured otherwise, and of flannel's with Windows nodes.
    pub const CALICO: Self = Self(4096);

    /// Takes an identifier within 24 bits; zero is left out because no backend uses it, so that it only ever
    /// stands for a mistake.
    ///
    /// # Errors
    /// [`VniError`] if it is out of range.
    pub fn new(vni: u32) -> Result<Self, VniError> {
        if (1..=Self::MAX).contains(&vni) {
            Ok(Self(vni))
        } else {
            Err(VniError(vni))
        }
    }

    /// The identifier.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A number that is no VXLAN network identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no VXLAN network identifier, it must be within 1..={max}", max = Vni::MAX)]
pub struct VniError(u32);

impl TryFrom<u32> for Vni {
    type Error = VniError;

    fn try_from(vni: u32) -> Result<Self, VniError> {
        Self::new(vni)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_ranges() {
        let rows: &[(&str, Option<&str>)] = &[
            ("10.244.1.0/24", None),
            ("192.0.2.1/32", None),
            ("240.0.0.1/32", None),
            ("fd00:10:244::/64", None),
            ("2001:db8::1/128", None),
            ("0.0.0.0/32", Some("an unspecified")),
            ("127.0.0.1/32", Some("a loopback")),
            ("126.0.0.0/7", Some("a loopback")),
            ("0.0.0.0/0", Some("an unspecified")),
            ("169.254.7.0/24", Some("a link-local")),
            ("224.0.0.251/32", Some("a multicast")),
            ("255.255.255.255/32", Some("a broadcast")),
            ("::/0", Some("an unspecified")),
            ("::/128", Some("an unspecified")),
            ("::1/128", Some("a loopback")),
            ("fe80::1/128", Some("a link-local")),
            ("febf::/16", Some("a link-local")),
            ("fec0::1/128", None),
            ("ff02::1/128", Some("a multicast")),
            ("::ffff:10.0.0.1/128", Some("an IPv4-mapped")),
        ];
        for (cidr, class) in rows {
            assert_eq!(refused_class(cidr.parse().unwrap()), *class, "{cidr}");
        }
    }

    #[test]
    fn mac_text_forms() {
        let rows: &[(&str, Option<&str>)] = &[
            ("02:00:00:00:01:01", Some("02:00:00:00:01:01")),
            ("AA:bb:CC:dd:EE:0f", Some("aa:bb:cc:dd:ee:0f")),
            ("02-00-00-00-01-01", Some("02:00:00:00:01:01")),
            ("02:00-00:00:01:01", None),
            ("2:0:0:0:1:1", None),
            ("02:00:00:00:01", None),
            ("02:00:00:00:01:01:01", None),
            ("+2:00:00:00:01:01", None),
            ("", None),
            ("01:00:5e:00:00:01", None),
            ("ff:ff:ff:ff:ff:ff", None),
            ("00:00:00:00:00:00", None),
        ];
        for (text, good) in rows {
            assert_eq!(
                text.parse::<UnicastMac>()
                    .ok()
                    .map(|mac| mac.to_string())
                    .as_deref(),
                *good,
                "{text}"
            );
        }
    }

    #[test]
    fn vni_is_24_bits() {
        for (vni, good) in [
            (0, false),
            (1, true),
            (4096, true),
            (0x00ff_ffff, true),
            (0x0100_0000, false),
        ] {
            assert_eq!(Vni::new(vni).is_ok(), good, "{vni}");
        }
    }
}
