//! Time as the tables keep it: whole seconds, given by the caller.

use std::fmt;

use serde::Serialize;

/// A moment: a second of a clock that never goes back while the machine runs (`CLOCK_BOOTTIME`), and so goes on over
/// a restart of the process. It wraps after 136 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Tick(u32);

impl Tick {
    /// No moment: what has not happened yet.
    pub const NEVER: Self = Self(0);

    /// Second `seconds` of the clock; its second 0 counts as 1.
    #[inline]
    #[must_use]
    pub const fn from_seconds(seconds: u32) -> Self {
        Self(if seconds == 0 { 1 } else { seconds })
    }

    /// What [`Self::seconds`] answered, never included.
    #[inline]
    #[must_use]
    pub(super) const fn from_bits(seconds: u32) -> Self {
        Self(seconds)
    }

    /// The second.
    #[inline]
    #[must_use]
    pub const fn seconds(self) -> u32 {
        self.0
    }

    /// Whether this is [`Self::NEVER`].
    #[inline]
    #[must_use]
    pub const fn is_never(self) -> bool {
        self.0 == 0
    }

    /// How many seconds this moment comes after `earlier`; 0 if it comes before it, as seen by two workers whose
    /// clocks were read at different times.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        let ahead = self.0.wrapping_sub(earlier.0);
        if ahead < 1 << 31 { ahead } else { 0 }
    }

    /// The later of two moments; any is later than never.
    #[inline]
    #[must_use]
    pub const fn latest(self, other: Self) -> Self {
        if self.is_never() || !other.is_never() && other.since(self) > 0 {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_compared_across_the_wrap_and_never_is_before_all() {
        let (late, early) = (Tick::from_seconds(3), Tick::from_seconds(u32::MAX - 1));
        assert_eq!((late.since(early), early.since(late)), (5, 0));
        assert_eq!(late.latest(early), late);
        assert_eq!(early.latest(late), late);
        assert_eq!(Tick::NEVER.latest(early), early);
        assert_eq!(early.latest(Tick::NEVER), early);
        assert!(!Tick::from_seconds(0).is_never() && Tick::NEVER.is_never());
    }
}
