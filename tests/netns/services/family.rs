//! Both families of IP. Everything is drawn in IPv4, and each address has a twin in IPv6: so a seed stands for the same case
//! in either, and in both at once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use crate::chance::Chance;

/// Bits that a prefix of IPv6 has more, where the last ones count hosts.
const WIDER: u8 = 96;
/// Keeps what is drawn of families apart from all else that is drawn: a seed from before there were two is the same case.
const APART: u64 = 0x6a09_e667_f3bc_c908;

/// A family of IP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

impl fmt::Debug for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// One of both.
    pub(crate) fn drawn(chance: &Chance) -> Self {
        if apart(chance).percent(50) {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// What a Service has: mostly both, and now and then one alone.
    pub(crate) fn some(chance: &Chance) -> Vec<Self> {
        match apart(chance).below(10) {
            0 => vec![Self::V4],
            1 | 2 => vec![Self::V6],
            3 | 4 => vec![Self::V6, Self::V4],
            _ => Self::BOTH.to_vec(),
        }
    }

    /// The address itself, or its twin.
    pub(crate) fn of(self, address: Ipv4Addr) -> IpAddr {
        match self {
            Self::V4 => address.into(),
            Self::V6 => twin(address).into(),
        }
    }

    /// The address and port, in this family.
    pub(crate) fn at(self, to: SocketAddrV4) -> SocketAddr {
        SocketAddr::new(self.of(*to.ip()), to.port())
    }

    /// A prefix of callers: of a node's pods, or of some of the guest's addresses.
    pub(crate) fn range(self, (address, length): (Ipv4Addr, u8)) -> String {
        let length = match (self, address.octets()) {
            (Self::V4, _) => length,
            (Self::V6, [10, ..]) => 64,
            (Self::V6, _) => length + WIDER,
        };
        format!("{}/{length}", self.of(address))
    }

    /// How an object names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// How nftables does.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

fn apart(chance: &Chance) -> Chance {
    Chance::of(chance.clone().draw() ^ APART)
}

/// The address of IPv6 that stands for one of IPv4.
fn twin(address: Ipv4Addr) -> Ipv6Addr {
    let (network, [host, low]): ([u16; 3], [u16; 2]) = match address.octets() {
        [0, 0, 0, 0] => ([0; 3], [0; 2]),
        [10, 244, node, host] => ([0xfd00, node.into(), 0], [0, host.into()]),
        // The Service CIDRs leave 20 bits in either family.
        [10, high, middle, low] => (
            [0xfd96, 0, 0],
            [u16::from(high) - 96, u16::from_be_bytes([middle, low])],
        ),
        [192, 0, 2, host] => ([0x2001, 0xdb8, 0], [0, host.into()]),
        [198, 51, 100, host] => ([0x2001, 0xdb8, 0x64], [0, host.into()]),
        _ => panic!("{address} is nobody's here"),
    };
    let [a, b, c] = network;
    Ipv6Addr::new(a, b, c, 0, 0, 0, host, low)
}
