//! Virtual eXtensible Local Area Network (RFC 7348): an Ethernet frame in a UDP datagram.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::{Malformed, eth, ipv4, ipv6, udp};

/// Length of a VXLAN header, in bytes.
pub const HEADER_LEN: usize = 8;

/// The UDP port that IANA gave to VXLAN.
pub const IANA_PORT: u16 = 4789;

/// The UDP port that the Linux kernel, and so flannel, takes if told nothing else.
pub const LINUX_PORT: u16 = 8472;

/// What a push over IPv4 puts before the inner Ethernet frame, in bytes: outer Ethernet, IPv4, UDP, VXLAN.
pub const PUSH_LEN_IPV4: usize = eth::HEADER_LEN + ipv4::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN;

/// What a push over IPv6 puts before the inner Ethernet frame, in bytes.
pub const PUSH_LEN_IPV6: usize = eth::HEADER_LEN + ipv6::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN;

/// How much smaller than the underlay's the overlay's MTU is over IPv4, in bytes: the inner Ethernet header
/// takes the outer one's share, which the MTU does not count.
pub const MTU_OVERHEAD_IPV4: usize = ipv4::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN + eth::HEADER_LEN;

/// How much smaller than the underlay's the overlay's MTU is over IPv6, in bytes.
pub const MTU_OVERHEAD_IPV6: usize = ipv6::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN + eth::HEADER_LEN;

/// The flag that says the VNI is valid; all other bits of the flags are reserved.
const FLAG_VNI: u8 = 0x08;

/// A VXLAN network identifier: 24 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// The largest identifier.
    pub const MAX: Self = Self(0x00ff_ffff);

    /// The identifier as a number.
    #[must_use]
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A number that is too large for a [`Vni`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidVni(pub u32);

impl fmt::Display for InvalidVni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VNI {} is larger than {}", self.0, Vni::MAX)
    }
}

impl core::error::Error for InvalidVni {}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;

    #[inline]
    fn try_from(number: u32) -> Result<Self, Self::Error> {
        if number <= Self::MAX.0 {
            Ok(Self(number))
        } else {
            Err(InvalidVni(number))
        }
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VNI {}", self.0)
    }
}

/// Read-only view of a VXLAN packet.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Vxlan<'a> {
    /// Checks that `bytes`, the payload of a UDP datagram, hold a header whose VNI is valid. Reserved bits
    /// are ignored (RFC 7348 section 5).
    ///
    /// # Errors
    /// [`Malformed::VxlanTruncated`], [`Malformed::VxlanFlags`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload): (&[u8; HEADER_LEN], _) =
            bytes.split_first_chunk().ok_or(Malformed::VxlanTruncated)?;
        if header[0] & FLAG_VNI == 0 {
            return Err(Malformed::VxlanFlags);
        }
        Ok(Self { header, payload })
    }

    /// The network the inner frame belongs to.
    #[must_use]
    #[inline]
    pub const fn vni(&self) -> Vni {
        Vni(u32::from_be_bytes([
            0,
            self.header[4],
            self.header[5],
            self.header[6],
        ]))
    }

    /// The inner Ethernet frame, not yet checked.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// Writes a whole VXLAN header, reserved bits zero.
#[inline]
pub fn emit(out: &mut [u8; HEADER_LEN], vni: Vni) {
    let [_, a, b, c] = vni.0.to_be_bytes();
    *out = [FLAG_VNI, 0, 0, 0, a, b, c, 0];
}
