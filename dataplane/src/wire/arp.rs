//! ARP for IPv4 over Ethernet (RFC 826).

use core::fmt;
use core::net::Ipv4Addr;

use super::{EtherType, MacAddr, Malformed};

/// Length of an ARP packet for IPv4 over Ethernet, in bytes.
pub const PACKET_LEN: usize = 28;

/// Hardware type, protocol type and both address lengths, as every packet accepted or sent here begins.
const PREFIX: [u8; 6] = {
    let [hardware_high, hardware_low] = 1_u16.to_be_bytes();
    let [protocol_high, protocol_low] = EtherType::IPV4.0.to_be_bytes();
    [hardware_high, hardware_low, protocol_high, protocol_low, 6, 4]
};

/// What an ARP packet wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ArpOperation(pub u16);

impl ArpOperation {
    /// Who has the target protocol address?
    pub const REQUEST: Self = Self(1);
    /// The sender has the sender protocol address.
    pub const REPLY: Self = Self(2);
}

impl fmt::Debug for ArpOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::REQUEST => f.write_str("request"),
            Self::REPLY => f.write_str("reply"),
            Self(other) => write!(f, "operation {other}"),
        }
    }
}

/// Read-only view of an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a> {
    packet: &'a [u8; PACKET_LEN],
}

impl<'a> Arp<'a> {
    /// Checks that `bytes`, the payload of an Ethernet frame, hold an ARP packet for IPv4 over Ethernet;
    /// padding may follow it. The operation may be any.
    ///
    /// # Errors
    /// [`Malformed::ArpTruncated`], [`Malformed::ArpUnsupported`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let packet: &[u8; PACKET_LEN] = bytes.first_chunk().ok_or(Malformed::ArpTruncated)?;
        if packet.starts_with(&PREFIX) {
            Ok(Self { packet })
        } else {
            Err(Malformed::ArpUnsupported)
        }
    }

    /// What the packet wants.
    #[must_use]
    #[inline]
    pub const fn operation(&self) -> ArpOperation {
        ArpOperation(u16::from_be_bytes([self.packet[6], self.packet[7]]))
    }

    /// The hardware address of the packet's sender.
    #[must_use]
    #[inline]
    pub const fn sender_hardware(&self) -> MacAddr {
        let p = self.packet;
        MacAddr([p[8], p[9], p[10], p[11], p[12], p[13]])
    }

    /// The IPv4 address of the packet's sender; 0.0.0.0 in a probe (RFC 5227).
    #[must_use]
    #[inline]
    pub const fn sender_protocol(&self) -> Ipv4Addr {
        let p = self.packet;
        Ipv4Addr::new(p[14], p[15], p[16], p[17])
    }

    /// The hardware address of the packet's target; means nothing in a request.
    #[must_use]
    #[inline]
    pub const fn target_hardware(&self) -> MacAddr {
        let p = self.packet;
        MacAddr([p[18], p[19], p[20], p[21], p[22], p[23]])
    }

    /// The IPv4 address asked for, or the one the reply is sent to.
    #[must_use]
    #[inline]
    pub const fn target_protocol(&self) -> Ipv4Addr {
        let p = self.packet;
        Ipv4Addr::new(p[24], p[25], p[26], p[27])
    }

    /// Whether sender and target ask or tell about the same address: an announcement (RFC 5227 section 3),
    /// also called gratuitous.
    #[must_use]
    #[inline]
    pub fn is_announcement(&self) -> bool {
        self.sender_protocol() == self.target_protocol()
    }

    /// All fields, to answer or to compare.
    #[must_use]
    pub const fn fields(&self) -> ArpFields {
        ArpFields {
            operation: self.operation(),
            sender_hardware: self.sender_hardware(),
            sender_protocol: self.sender_protocol(),
            target_hardware: self.target_hardware(),
            target_protocol: self.target_protocol(),
        }
    }
}

/// The fields of an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpFields {
    /// What the packet wants.
    pub operation: ArpOperation,
    /// The hardware address of the packet's sender.
    pub sender_hardware: MacAddr,
    /// The IPv4 address of the packet's sender.
    pub sender_protocol: Ipv4Addr,
    /// The hardware address of the packet's target; [`MacAddr::ZERO`] in a request.
    pub target_hardware: MacAddr,
    /// The IPv4 address asked for, or the one the reply is sent to.
    pub target_protocol: Ipv4Addr,
}

impl ArpFields {
    /// The reply to this request that says `hardware` has the address asked for.
    #[must_use]
    pub const fn reply_with(&self, hardware: MacAddr) -> Self {
        Self {
            operation: ArpOperation::REPLY,
            sender_hardware: hardware,
            sender_protocol: self.target_protocol,
            target_hardware: self.sender_hardware,
            target_protocol: self.sender_protocol,
        }
    }

    /// Writes a whole ARP packet.
    pub fn emit(&self, out: &mut [u8; PACKET_LEN]) {
        out[0..6].copy_from_slice(&PREFIX);
        out[6..8].copy_from_slice(&self.operation.0.to_be_bytes());
        out[8..14].copy_from_slice(&self.sender_hardware.0);
        out[14..18].copy_from_slice(&self.sender_protocol.octets());
        out[18..24].copy_from_slice(&self.target_hardware.0);
        out[24..28].copy_from_slice(&self.target_protocol.octets());
    }
}
