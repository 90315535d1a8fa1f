//! VLAN tags: IEEE 802.1Q (customer) and 802.1ad (service), the four bytes that stand between the addresses
//! of an Ethernet header and its EtherType.

use super::{EtherType, Malformed};

/// Length of one tag, in bytes: the tag control information and the EtherType that follows it.
pub const TAG_LEN: usize = 4;

/// Most tags that [`skip_tags`] is ever asked to pass by this switch: one service and one customer tag.
pub const MAX_TAGS: usize = 2;

/// The number of a VLAN, within 1..=4094 (IEEE 802.1Q clause 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// The last number that a VLAN can have. 0 stands where there is none.
    const LAST: u16 = 4094;

    /// The VLAN of this number; `None` for a number that no VLAN has.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 || number > Self::LAST {
            None
        } else {
            Some(Self(number))
        }
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl core::fmt::Display for VlanId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// View of the bytes after an EtherType of [`EtherType::VLAN`] or [`EtherType::QINQ`].
#[derive(Clone, Copy, Debug)]
pub struct VlanTag<'a> {
    header: &'a [u8; TAG_LEN],
    payload: &'a [u8],
}

impl<'a> VlanTag<'a> {
    /// Checks that `bytes`, the payload of the EtherType before it, holds a tag.
    ///
    /// # Errors
    /// [`Malformed::VlanTruncated`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (header, payload) = bytes.split_first_chunk().ok_or(Malformed::VlanTruncated)?;
        Ok(Self { header, payload })
    }

    /// The VLAN the frame is in; 0 is a priority tag, which names none.
    #[must_use]
    #[inline]
    pub const fn id(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]]) & 0x0fff
    }

    /// Priority code point, 0 to 7.
    #[must_use]
    #[inline]
    pub const fn priority(&self) -> u8 {
        self.header[0] >> 5
    }

    /// Drop eligible indicator.
    #[must_use]
    #[inline]
    pub const fn drop_eligible(&self) -> bool {
        self.header[0] & 0x10 != 0
    }

    /// What the payload is; another tag if [`EtherType::is_vlan`].
    #[must_use]
    #[inline]
    pub const fn ether_type(&self) -> EtherType {
        EtherType(u16::from_be_bytes([self.header[2], self.header[3]]))
    }

    /// All bytes after the tag.
    #[must_use]
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// What stands behind the tags of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untagged<'a> {
    /// What [`Untagged::payload`] is; never a tag.
    pub ether_type: EtherType,
    /// The bytes after the last tag.
    pub payload: &'a [u8],
    /// How many tags were passed.
    pub tags: usize,
}

/// Passes the tags at the start of `payload`, the bytes after `ether_type`; none is fine.
///
/// # Errors
/// [`Malformed::VlanTruncated`] if the bytes end inside a tag, [`Malformed::VlanTooDeep`] if there are more
/// than `max_tags`.
#[inline]
pub fn skip_tags(payload: &[u8], ether_type: EtherType, max_tags: usize) -> Result<Untagged<'_>, Malformed> {
    let mut behind = Untagged {
        ether_type,
        payload,
        tags: 0,
    };
    while behind.ether_type.is_vlan() {
        if behind.tags >= max_tags {
            return Err(Malformed::VlanTooDeep);
        }
        let tag = VlanTag::parse(behind.payload)?;
        behind = Untagged {
            ether_type: tag.ether_type(),
            payload: tag.payload(),
            tags: behind.tags + 1,
        };
    }
    Ok(behind)
}
