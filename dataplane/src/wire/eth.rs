//! Ethernet II frames (IEEE 802.3 clause 3, RFC 894): addresses, EtherType, payload.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Malformed;

/// Length of an Ethernet header without tags, in bytes.
pub const HEADER_LEN: usize = 14;

/// Shortest Ethernet frame without its frame check sequence, in bytes; shorter payloads arrive padded to
/// it.
pub const MIN_FRAME_LEN: usize = 60;

/// Length of a hardware address, in bytes.
pub const MAC_LEN: usize = 6;

/// A 48-bit hardware address, in the order of the wire.
///
/// Written and read as text, also by serde, in the form `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; MAC_LEN]);

impl MacAddr {
    /// The address of every station on the link.
    pub const BROADCAST: Self = Self([0xff; MAC_LEN]);

    /// The address that means "none yet".
    pub const ZERO: Self = Self([0; MAC_LEN]);

    /// The six bytes, in the order of the wire.
    #[must_use]
    #[inline]
    pub const fn octets(self) -> [u8; MAC_LEN] {
        self.0
    }

    /// Whether the address names a group of stations; broadcast is one of them.
    #[must_use]
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 0x01 != 0
    }

    /// Whether the address is [`MacAddr::BROADCAST`].
    #[must_use]
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether all bytes are zero.
    #[must_use]
    #[inline]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Whether the address can be a station's own: neither a group's nor zero.
    #[must_use]
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<[u8; MAC_LEN]> for MacAddr {
    fn from(octets: [u8; MAC_LEN]) -> Self {
        Self(octets)
    }
}

/// Text that is not a hardware address: not six groups of two hexadecimal digits with colons between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMacAddr;

impl fmt::Display for InvalidMacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a hardware address of the form aa:bb:cc:dd:ee:ff")
    }
}

impl core::error::Error for InvalidMacAddr {}

impl FromStr for MacAddr {
    type Err = InvalidMacAddr;

    /// Reads six groups of exactly two hexadecimal digits, either case, with colons between.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut octets = [0; MAC_LEN];
        let mut groups = text.split(':');
        for octet in &mut octets {
            let group = groups.next().ok_or(InvalidMacAddr)?;
            // `from_str_radix` alone would also take a sign or a single digit.
            if group.len() != 2 || !group.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(InvalidMacAddr);
            }
            *octet = u8::from_str_radix(group, 16).map_err(|_| InvalidMacAddr)?;
        }
        match groups.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(InvalidMacAddr),
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(MacAddrVisitor)
    }
}

/// Reads a [`MacAddr`] from a borrowed or owned string alike.
struct MacAddrVisitor;

impl de::Visitor<'_> for MacAddrVisitor {
    type Value = MacAddr;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hardware address of the form aa:bb:cc:dd:ee:ff")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<MacAddr, E> {
        text.parse()
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// The two bytes after the addresses: what the payload is (IEEE 802 numbers registry).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EtherType(pub u16);

impl EtherType {
    /// Internet Protocol version 4.
    pub const IPV4: Self = Self(0x0800);
    /// Address Resolution Protocol.
    pub const ARP: Self = Self(0x0806);
    /// Customer VLAN tag, IEEE 802.1Q.
    pub const VLAN: Self = Self(0x8100);
    /// Internet Protocol version 6.
    pub const IPV6: Self = Self(0x86dd);
    /// Service VLAN tag, IEEE 802.1ad.
    pub const QINQ: Self = Self(0x88a8);

    /// Smallest value that is a type; below it the field is an IEEE 802.3 length.
    pub const FIRST_TYPE: Self = Self(0x0600);

    /// Whether the field is an IEEE 802.3 length, so that the payload is LLC and nothing this switch
    /// carries.
    #[must_use]
    #[inline]
    pub const fn is_length(self) -> bool {
        self.0 < Self::FIRST_TYPE.0
    }

    /// Whether a VLAN tag follows.
    #[must_use]
    #[inline]
    pub const fn is_vlan(self) -> bool {
        matches!(self, Self::VLAN | Self::QINQ)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Read-only view of an Ethernet frame, without preamble and frame check sequence.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Checks that `frame` holds a header.
    ///
    /// # Errors
    /// [`Malformed::EthernetTruncated`].
    #[inline]
    pub fn parse(frame: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = frame.split_first_chunk().ok_or(Malformed::EthernetTruncated)?;
        Ok(Self { header, payload })
    }

    /// The station or group the frame is for.
    #[must_use]
    #[inline]
    pub const fn destination(&self) -> MacAddr {
        let &[a, b, c, d, e, f, ..] = self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// The station that sent the frame.
    #[must_use]
    #[inline]
    pub const fn source(&self) -> MacAddr {
        let &[_, _, _, _, _, _, a, b, c, d, e, f, ..] = self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// What [`Ethernet::payload`] is; a VLAN tag if [`EtherType::is_vlan`].
    #[must_use]
    #[inline]
    pub const fn ether_type(&self) -> EtherType {
        EtherType(u16::from_be_bytes([self.header[12], self.header[13]]))
    }

    /// All bytes after the header, padding included.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// View of an Ethernet frame whose header is edited where it lies.
#[derive(Debug)]
pub struct EthernetMut<'a> {
    header: &'a mut [u8; HEADER_LEN],
    payload: &'a mut [u8],
}

impl<'a> EthernetMut<'a> {
    /// Checks that `frame` holds a header.
    ///
    /// # Errors
    /// [`Malformed::EthernetTruncated`].
    #[inline]
    pub fn parse(frame: &'a mut [u8]) -> Result<Self, Malformed> {
        let (header, payload) = frame
            .split_first_chunk_mut()
            .ok_or(Malformed::EthernetTruncated)?;
        Ok(Self { header, payload })
    }

    /// The read-only view of the same bytes.
    #[must_use]
    #[inline]
    pub const fn view(&self) -> Ethernet<'_> {
        Ethernet {
            header: self.header,
            payload: self.payload,
        }
    }

    /// Writes the station the frame is for.
    #[inline]
    pub fn set_destination(&mut self, address: MacAddr) {
        self.header[0..6].copy_from_slice(&address.0);
    }

    /// Writes the station that sends the frame.
    #[inline]
    pub fn set_source(&mut self, address: MacAddr) {
        self.header[6..12].copy_from_slice(&address.0);
    }

    /// Writes what the payload is.
    #[inline]
    pub fn set_ether_type(&mut self, ether_type: EtherType) {
        self.header[12..14].copy_from_slice(&ether_type.0.to_be_bytes());
    }

    /// All bytes after the header, padding included.
    #[must_use]
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// Gives the view up for its payload, with the life time of the frame.
    #[must_use]
    #[inline]
    pub fn into_payload(self) -> &'a mut [u8] {
        self.payload
    }
}

/// Writes a whole Ethernet header.
#[inline]
pub fn emit(out: &mut [u8; HEADER_LEN], destination: MacAddr, source: MacAddr, ether_type: EtherType) {
    out[0..6].copy_from_slice(&destination.0);
    out[6..12].copy_from_slice(&source.0);
    out[12..14].copy_from_slice(&ether_type.0.to_be_bytes());
}
