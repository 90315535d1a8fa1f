//! Writing a mark into a packet that is ready but for it.

use millrace_dataplane::wire::Malformed;
use millrace_dataplane::wire::checksum::{Delta, Sum};

use super::marker::{MARKER_LEN, Marker, rest_check};

/// Where a packet's mark stands, and which checksum covers it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp {
    /// Where the mark begins, an even number of bytes from where the checksum begins to cover.
    pub(crate) mark_at: usize,
    /// Where the payload ends.
    pub(crate) end: usize,
    /// Where the checksum stands.
    pub(crate) checksum_at: usize,
    pub(crate) is_udp: bool,
}

/// A [`Stamp`] for one packet's bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prepared {
    pub(crate) mark_at: usize,
    checksum_at: usize,
    is_udp: bool,
    /// The check of the payload behind the mark.
    rest_check: u32,
    /// The sum of the mark's bytes as they are in the packet.
    old_sum: u16,
}

impl Stamp {
    /// Looks at the packet once.
    pub(crate) fn prepared(self, packet: &[u8]) -> Prepared {
        let payload = packet.get(self.mark_at..self.end).unwrap_or_default();
        let (mark, rest) = payload.split_at_checked(MARKER_LEN).unwrap_or_default();
        Prepared {
            mark_at: self.mark_at,
            checksum_at: self.checksum_at,
            is_udp: self.is_udp,
            rest_check: rest_check(rest),
            old_sum: Sum::ZERO.add_bytes(mark).fold(),
        }
    }
}

impl Prepared {
    /// Writes a mark into a copy of the packet, and brings the checksum up to date with it and with `changed` before.
    #[inline]
    pub(crate) fn write(&self, packet: &mut [u8], marker: Marker, changed: Delta) -> Result<(), Malformed> {
        let new = marker.to_bytes(self.rest_check);
        let place = packet
            .get_mut(self.mark_at..)
            .and_then(|rest| rest.first_chunk_mut());
        *place.ok_or(Malformed::UdpTruncated)? = new;
        let changed = changed.and(Delta::u16(self.old_sum, Sum::ZERO.add_bytes(&new).fold()));
        let field = packet
            .get_mut(self.checksum_at..)
            .and_then(|rest| rest.first_chunk_mut::<2>());
        let field = field.ok_or(Malformed::UdpTruncated)?;
        let old = u16::from_be_bytes(*field);
        let new = if self.is_udp {
            changed.apply_udp(old)
        } else {
            changed.apply(old)
        };
        *field = new.to_be_bytes();
        Ok(())
    }
}
