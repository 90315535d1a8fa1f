//! One side of a connection: what it has sent, and how far the other has allowed it to go.
//!
//! Four bounds, after Guido van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2001), as the kernel's tracking
//! has them too. For a segment of this side, with the *other* side's view:
//!
//! - it begins no later than the other side has allowed;
//! - it ends no earlier than one window of the other side before the end of what this side has sent: not older than
//!   anything that could still be wanted;
//! - it acknowledges no more than the other side has sent;
//! - and no less than a largest window before that.
//!
//! What they do not allow is judged once more ([`Side::tolerates`]): a segment may have come late, or what made room for it
//! may not have been noted.

use super::{SCALE_MAX, TcpSegment};
use crate::wire::TcpFlags;

/// How far an acknowledgment may lie back at least, in bytes: as if the window were the largest without scaling.
const ACK_WINDOW_MIN: u32 = 66_000;

/// One side of a connection. Sequence numbers are compared by their distance (RFC 9293 section 3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Side {
    /// After the last byte that this side has sent.
    pub(super) end: u32,
    /// Where the other side's window ends.
    pub(super) limit: u32,
    /// The largest window that this side has told, scaled, in bytes.
    pub(super) window: u32,
    /// The highest acknowledgment that this side has sent; before its first, the number that it will expect.
    pub(super) acked: u32,
    /// Shift count of the windows that it tells.
    pub(super) scale: u8,
    /// Whether its SYN had the window scale option.
    pub(super) offers_scale: bool,
    /// Whether it has been heard.
    pub(super) is_heard: bool,
    /// Whether it has sent its FIN, which is then the last byte before `end`.
    pub(super) has_finished: bool,
    /// Whether the other has acknowledged that.
    pub(super) is_finish_acked: bool,
}

/// Whether `a` comes after `b`.
#[inline]
pub(super) const fn is_after(a: u32, b: u32) -> bool {
    let ahead = a.wrapping_sub(b);
    ahead != 0 && ahead < 1 << 31
}

/// The later of two.
#[inline]
pub(super) const fn later(a: u32, b: u32) -> u32 {
    if is_after(b, a) { b } else { a }
}

impl Side {
    /// A side whose SYN this is. Nothing is allowed to it yet.
    pub(super) fn of_syn(segment: &TcpSegment) -> Self {
        Self {
            end: segment.end(),
            // Until it is told: the SYN itself, whose acknowledgment lies between here and the end.
            limit: segment.sequence.wrapping_add(1),
            window: u32::from(segment.window).max(1), // a SYN's window is never scaled (RFC 7323 section 2.2)
            scale: segment.window_scale.unwrap_or(0),
            offers_scale: segment.window_scale.is_some(),
            is_heard: true,
            ..Self::default()
        }
    }

    /// A side that is first heard in the middle. Its windows may be scaled by anything.
    pub(super) fn of_middle(segment: &TcpSegment) -> Self {
        let mut side = Self {
            end: segment.end(),
            limit: segment.end(),
            acked: segment.acknowledgment,
            scale: SCALE_MAX,
            is_heard: true,
            has_finished: segment.has(TcpFlags::FIN),
            ..Self::default()
        };
        side.window = side.told(segment).max(1);
        side
    }

    /// The window that a segment of this side tells, in bytes.
    #[inline]
    fn told(&self, segment: &TcpSegment) -> u32 {
        let scale = if segment.has(TcpFlags::SYN) { 0 } else { self.scale };
        u32::from(segment.window) << scale
    }

    /// Whether a segment of this side lies within the windows; `other` has been heard.
    #[inline]
    pub(super) fn allows(&self, other: &Self, segment: &TcpSegment) -> bool {
        let fits = !is_after(segment.sequence, self.limit) && !is_after(self.oldest(other), segment.end());
        if !segment.has(TcpFlags::ACK) {
            return fits;
        }
        let ack = segment.acknowledgment;
        fits && !is_after(ack, other.end) && !is_after(self.least(other), ack)
    }

    /// Whether a segment of this side that [`Self::allows`] refuses may pass all the same; learns what it must of it.
    ///
    /// What is behind has been overtaken, by others or by its own repetition: its receiver acknowledges it again, which
    /// it has to see it for. What is ahead by no more than a window follows on something that was not noted, for a worker
    /// that finds another at the connection's record passes segments on without. Were the end not learnt of it, both
    /// sides would leave what is known of them behind. The kernel's tracking passes both since 6.1, but for an
    /// acknowledgment that is ahead: it waits for its record.
    #[cold]
    pub(super) fn tolerates(&mut self, other: &Self, segment: &TcpSegment) -> bool {
        let (end, ack) = (segment.end(), segment.acknowledgment);
        let is_ahead = is_after(segment.sequence, self.limit);
        let is_ack_ahead = is_after(ack, other.end);
        if is_ahead && end.wrapping_sub(self.limit) > other.window
            || is_ack_ahead && ack.wrapping_sub(other.end) > self.window
        {
            return false;
        }
        let is_behind = is_after(self.oldest(other), end) || is_after(self.least(other), ack);
        if !is_behind {
            self.end = later(self.end, end);
            self.has_finished |= segment.has(TcpFlags::FIN);
        }
        true
    }

    /// Before this a segment of this side must not end.
    #[inline]
    fn oldest(&self, other: &Self) -> u32 {
        self.end.wrapping_sub(other.window.max(1))
    }

    /// The lowest acknowledgment of this side that is still of use.
    #[inline]
    fn least(&self, other: &Self) -> u32 {
        other.end.wrapping_sub(self.window.max(ACK_WINDOW_MIN))
    }

    /// Learns from a segment of this side that is within the windows.
    #[inline]
    pub(super) fn learn(&mut self, other: &mut Self, segment: &TcpSegment) {
        let end = segment.end();
        self.end = later(self.end, end);
        if segment.has(TcpFlags::FIN) {
            self.has_finished = true;
        }
        if !segment.has(TcpFlags::ACK) {
            return;
        }
        let (ack, told) = (segment.acknowledgment, self.told(segment));
        self.acked = later(self.acked, ack);
        self.window = self.window.max(told);
        // One byte into a window of zero is a probe (RFC 9293 section 3.8.6.1).
        other.limit = later(other.limit, ack.wrapping_add(told.max(1)));
        if other.has_finished && !is_after(other.end, ack) {
            other.is_finish_acked = true;
        }
    }

    /// Both numbers of what was sent, and both of what was received, in two words.
    pub(super) fn words(&self) -> [u64; 2] {
        [
            u64::from(self.end) << 32 | u64::from(self.limit),
            u64::from(self.window) << 32 | u64::from(self.acked),
        ]
    }
}
