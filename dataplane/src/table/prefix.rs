//! An address prefix of either family, as a route or a pod CIDR is written.

use std::fmt;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A network address and how many of its leading bits count; all others are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// More bits than the family's addresses have.
    #[error("prefix length {len} of {address} is more than {max}")]
    Length {
        /// The address.
        address: IpAddr,
        /// Its prefix length, in bits.
        len: u8,
        /// The longest there is for its family, in bits.
        max: u8,
    },
    /// Bits behind the prefix are set.
    #[error("{address}/{len} has bits set behind its prefix; the network is {network}")]
    HostBits {
        /// The address.
        address: IpAddr,
        /// Its prefix length, in bits.
        len: u8,
        /// What it would have to be.
        network: Prefix,
    },
    /// No address before the slash, or none at all.
    #[error("{text:?} does not begin with an IP address")]
    Address {
        /// What was to be read.
        text: String,
        /// What is wrong with it.
        source: AddrParseError,
    },
    /// No decimal number after the slash.
    #[error("{text:?} does not end in a slash and a prefix length")]
    LengthText {
        /// What was to be read.
        text: String,
    },
}

impl Prefix {
    /// Every IPv4 address.
    pub const ALL_V4: Self = Self {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        len: 0,
    };

    /// Every IPv6 address.
    pub const ALL_V6: Self = Self {
        address: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        len: 0,
    };

    /// The prefix of `len` bits whose network address is `address`.
    ///
    /// # Errors
    /// [`InvalidPrefix::Length`], [`InvalidPrefix::HostBits`].
    pub fn new(address: IpAddr, len: u8) -> Result<Self, InvalidPrefix> {
        let network = Self::containing(address, len)?;
        if network.address == address {
            Ok(network)
        } else {
            Err(InvalidPrefix::HostBits {
                address,
                len,
                network,
            })
        }
    }

    /// The prefix of `len` bits that `address` lies in.
    ///
    /// # Errors
    /// [`InvalidPrefix::Length`].
    pub fn containing(address: IpAddr, len: u8) -> Result<Self, InvalidPrefix> {
        let max = bits(address);
        let Some(rest) = max.checked_sub(len) else {
            return Err(InvalidPrefix::Length { address, len, max });
        };
        let rest = u32::from(rest);
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Ok(Self { address, len })
    }

    /// The prefix of this one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            len: bits(address),
        }
    }

    /// The network address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count.
    #[must_use]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether no bit counts, so that every address of the family lies in the prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether `address` lies in the prefix; an address of the other family never does.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::containing(address, self.len).is_ok_and(|network| network == *self)
    }
}

/// How many bits an address of this family has.
fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self::host(address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    /// Reads `address/length`.
    fn from_str(text: &str) -> Result<Self, InvalidPrefix> {
        let missing = || InvalidPrefix::LengthText {
            text: text.to_owned(),
        };
        let (address, len) = text.split_once('/').ok_or_else(missing)?;
        let address = address.parse().map_err(|source| InvalidPrefix::Address {
            text: text.to_owned(),
            source,
        })?;
        // `parse` alone would also take a sign.
        if !len.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(missing());
        }
        Self::new(address, len.parse().map_err(|_| missing())?)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_and_written() {
        for good in [
            "0.0.0.0/0",
            "10.244.1.0/24",
            "10.0.0.1/32",
            "::/0",
            "fd00:1::/64",
            "fd00::1/128",
        ] {
            assert_eq!(good.parse::<Prefix>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/+8",
            "x/8",
            "10.0.0.0/256",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad:?} was taken");
        }
        let error = "10.244.1.7/24".parse::<Prefix>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "10.244.1.7/24 has bits set behind its prefix; the network is 10.244.1.0/24"
        );
    }

    #[test]
    fn a_prefix_holds_its_addresses_and_no_others() {
        let prefix: Prefix = "10.244.1.0/24".parse().unwrap();
        assert!(prefix.contains("10.244.1.255".parse().unwrap()));
        assert!(!prefix.contains("10.244.2.0".parse().unwrap()));
        assert!(!prefix.contains("::10.244.1.1".parse().unwrap()));
        assert!(Prefix::ALL_V6.contains("fe80::1".parse().unwrap()));
        assert!(!Prefix::ALL_V6.contains("1.2.3.4".parse().unwrap()));
        let host = Prefix::host("fd00::1".parse().unwrap());
        assert!(host.contains("fd00::1".parse().unwrap()) && !host.contains("fd00::2".parse().unwrap()));
    }
}
