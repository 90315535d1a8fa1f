//! What both families of IP share: protocol numbers, the differentiated services codepoint, fragments.

use core::fmt;

/// The protocol of an IPv4 payload or the next header of an IPv6 one (IANA protocol numbers registry).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// Who listens to which group, over IPv4 (RFC 3376).
    pub const IGMP: Self = Self(2);
    /// IPv4 in IP (RFC 2003).
    pub const IPIP: Self = Self(4);
    /// Transmission Control Protocol.
    pub const TCP: Self = Self(6);
    /// User Datagram Protocol.
    pub const UDP: Self = Self(17);
    /// IPv6 in IP.
    pub const IPV6: Self = Self(41);
    /// IPv6 routing header.
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header.
    pub const FRAGMENT: Self = Self(44);
    /// Generic routing encapsulation.
    pub const GRE: Self = Self(47);
    /// Encapsulating security payload.
    pub const ESP: Self = Self(50);
    /// Authentication header.
    pub const AH: Self = Self(51);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// IPv6: nothing follows.
    pub const NO_NEXT_HEADER: Self = Self(59);
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// Stream Control Transmission Protocol.
    pub const SCTP: Self = Self(132);
    /// Lightweight User Datagram Protocol.
    pub const UDP_LITE: Self = Self(136);

    /// Whether the payload begins with a source and a destination port ([`Ports`](super::Ports)).
    #[must_use]
    #[inline]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP | Self::UDP_LITE)
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("ICMP"),
            Self::IPIP => f.write_str("IPIP"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self::SCTP => f.write_str("SCTP"),
            Self(other) => write!(f, "protocol {other}"),
        }
    }
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A differentiated services codepoint (RFC 2474): the high six bits of the IPv4 TOS byte or of the IPv6
/// traffic class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Dscp(u8);

impl Dscp {
    /// Best effort.
    pub const DEFAULT: Self = Self(0);

    /// The codepoint in the low six bits of `value`; `None` if there is more than that.
    #[must_use]
    #[inline]
    pub const fn new(value: u8) -> Option<Self> {
        if value < 64 { Some(Self(value)) } else { None }
    }

    /// The codepoint in the high six bits of a TOS byte or traffic class.
    #[must_use]
    #[inline]
    pub const fn from_traffic_class(byte: u8) -> Self {
        Self(byte >> 2)
    }

    /// The codepoint, 0 to 63.
    #[must_use]
    #[inline]
    pub const fn value(self) -> u8 {
        self.0
    }

    /// The TOS byte or traffic class of this codepoint and an ECN field.
    #[must_use]
    #[inline]
    pub const fn traffic_class(self, ecn: super::Ecn) -> u8 {
        self.0 << 2 | ecn.bits()
    }
}

/// Which piece of a fragmented packet this one is, for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Where the piece belongs in the payload of the whole packet, in bytes; a multiple of 8.
    pub offset: u16,
    /// Whether more pieces follow this one in the whole packet.
    pub more: bool,
    /// What the pieces of one packet have in common: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
}

impl Fragment {
    /// Whether this piece begins the payload and so holds the transport's header.
    #[must_use]
    #[inline]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }
}
