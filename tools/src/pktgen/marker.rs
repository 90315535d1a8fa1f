//! The mark in each packet's payload: by it the receiving end knows its own packets from everybody else's, finds which
//! are missing, and how long each was under way.
//!
//! ```text
//! 0      2     4           9        14        18
//! | magic | run | sequence  | time   | check   | the rest of the payload ...
//! ```
//!
//! All in network byte order. `check` is the CRC-32 (IEEE 802.3) of run, sequence and time, combined by exclusive or with
//! that of the rest: so that a sender, whose rest is always the same, computes twelve bytes a packet. It covers nothing
//! that a router, a tunnel or a NAT changes.

use rustix::time::{ClockId, clock_gettime};

/// Length of a mark, in bytes. It fills what the shortest Ethernet frame has room for behind IPv4 and UDP.
pub const MARKER_LEN: usize = 18;

/// What a mark begins with.
const MAGIC: [u8; 2] = [0xb7, 0x4d];
/// How many damaged bits of it are forgiven where everything else is right.
const MAGIC_DAMAGE_MAX: u32 = 2;

/// Where the parts stand, in bytes.
const RUN_AT: usize = 2;
const SEQUENCE_AT: usize = 4;
const TIME_AT: usize = 9;
const CHECK_AT: usize = 14;

/// Sequence numbers and times are this wide: a day at ten million packets a second, and 18 minutes.
const NUMBER_BITS: u32 = 40;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;

/// The system's monotonic time in nanoseconds: the same for every process on the machine.
#[inline]
#[must_use]
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // INVARIANT: never negative, and below 2^64 for five centuries.
    #[allow(clippy::cast_sign_loss)]
    let (seconds, nanoseconds) = (time.tv_sec as u64, time.tv_nsec as u64);
    seconds * 1_000_000_000 + nanoseconds
}

/// How long a packet that was due at `sent` (of a mark) has been under way at `now`, in nanoseconds. Right below 9 minutes; one
/// that seems to come from the future, by clocks read on two cores, took no time.
#[inline]
#[must_use]
pub fn elapsed_ns(sent: u64, now: u64) -> u64 {
    let elapsed = now.wrapping_sub(sent) & NUMBER_MASK;
    if elapsed > NUMBER_MASK / 2 { 0 } else { elapsed }
}

/// The mark of one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marker {
    /// Tells one run of one sender from another, whose packets may still be under way.
    pub run: u16,
    /// Counts the run's packets, from 0. 40 bits are sent.
    pub sequence: u64,
    /// When the packet was to be sent, in nanoseconds ([`now_ns`]). 40 bits are sent.
    pub time: u64,
}

/// A mark that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) marker: Marker,
    /// Whether it says what was sent, and so its numbers can be believed.
    pub(crate) is_credible: bool,
    /// Whether not a bit of it, nor of the payload behind it, is wrong.
    pub(crate) is_whole: bool,
}

/// The check of what stands behind a mark.
#[must_use]
pub(crate) fn rest_check(rest: &[u8]) -> u32 {
    crc32fast::hash(rest)
}

impl Marker {
    /// The mark's bytes before a rest with this check.
    #[inline]
    pub(crate) fn to_bytes(self, rest_check: u32) -> [u8; MARKER_LEN] {
        let mut bytes = [0; MARKER_LEN];
        let (run, sequence, time) = (
            self.run.to_be_bytes(),
            self.sequence.to_be_bytes(),
            self.time.to_be_bytes(),
        );
        bytes[..RUN_AT].copy_from_slice(&MAGIC);
        bytes[RUN_AT..SEQUENCE_AT].copy_from_slice(&run);
        bytes[SEQUENCE_AT..TIME_AT].copy_from_slice(&sequence[3..]);
        bytes[TIME_AT..CHECK_AT].copy_from_slice(&time[3..]);
        let check = crc32fast::hash(&bytes[RUN_AT..CHECK_AT]) ^ rest_check;
        bytes[CHECK_AT..].copy_from_slice(&check.to_be_bytes());
        bytes
    }

    /// The mark at the start of a payload, if there is one: damaged a little is still one.
    #[inline]
    pub(crate) fn find(payload: &[u8]) -> Option<Found> {
        let (bytes, rest) = payload.split_first_chunk::<MARKER_LEN>()?;
        let damage = (u16::from_be_bytes([bytes[0], bytes[1]]) ^ u16::from_be_bytes(MAGIC)).count_ones();
        if damage > MAGIC_DAMAGE_MAX {
            return None;
        }
        let check = u32::from_be_bytes([bytes[14], bytes[15], bytes[16], bytes[17]]);
        let is_credible = crc32fast::hash(&bytes[RUN_AT..CHECK_AT]) ^ rest_check(rest) == check;
        if damage > 0 && !is_credible {
            return None;
        }
        let number = |at: usize| {
            let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<5>());
            bytes.map_or(0, |&[a, b, c, d, e]| u64::from_be_bytes([0, 0, 0, a, b, c, d, e]))
        };
        let marker = Self {
            run: u16::from_be_bytes([bytes[2], bytes[3]]),
            sequence: number(SEQUENCE_AT),
            time: number(TIME_AT),
        };
        Some(Found {
            marker,
            is_credible,
            is_whole: is_credible && damage == 0,
        })
    }

    /// Places in `bytes` where a mark may begin: where its magic number stands.
    pub(crate) fn candidates(bytes: &[u8]) -> impl Iterator<Item = usize> + '_ {
        let places = bytes.windows(MAGIC.len()).enumerate();
        places.filter(|(_, window)| **window == MAGIC).map(|(at, _)| at)
    }
}

/// Runs whose packets are meant: as many as there are senders, numbered one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// The first.
    pub first: u16,
    /// How many.
    pub count: u16,
}

impl Runs {
    /// Whether `run` is among them.
    #[inline]
    #[must_use]
    pub fn contains(self, run: u16) -> bool {
        run.wrapping_sub(self.first) < self.count
    }

    /// Whether `run`, of a mark that is damaged, may have been one of them: a bit or two of it may be what is damaged.
    pub(crate) fn may_contain(self, run: u16) -> bool {
        (0..self.count).any(|place| (self.first.wrapping_add(place) ^ run).count_ones() <= MAGIC_DAMAGE_MAX)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mark_says_is_read_again() {
        let rest = b"the rest";
        for (sequence, time) in [(0, 0), (1, 2), (NUMBER_MASK, NUMBER_MASK)] {
            let marker = Marker {
                run: 0xbeef,
                sequence,
                time,
            };
            let payload = [&marker.to_bytes(rest_check(rest))[..], rest].concat();
            let found = Marker::find(&payload).unwrap();
            assert_eq!(
                (found.marker, found.is_whole, found.is_credible),
                (marker, true, true)
            );
        }
        assert_eq!(Marker::find(&[0; MARKER_LEN]), None);
        assert_eq!(Marker::find(&MAGIC), None);
    }

    #[test]
    fn every_damaged_bit_shows() {
        let rest = [0x5a; 9];
        let marker = Marker {
            run: 7,
            sequence: 77,
            time: 777,
        };
        let payload = [&marker.to_bytes(rest_check(&rest))[..], &rest].concat();
        for bit in 0..payload.len() * 8 {
            let mut damaged = payload.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let found = Marker::find(&damaged).unwrap();
            assert!(!found.is_whole, "bit {bit}");
            assert_eq!(
                found.is_credible,
                bit < 16,
                "bit {bit}: of the magic number alone the rest can be believed"
            );
        }
    }

    #[test]
    fn runs_are_numbered_over_the_end() {
        let runs = Runs {
            first: u16::MAX,
            count: 2,
        };
        assert!(runs.contains(u16::MAX) && runs.contains(0) && !runs.contains(1));
        assert!(runs.may_contain(0b11) && !runs.may_contain(0b111));
    }

    #[test]
    fn time_goes_on_when_a_marks_clock_starts_over() {
        assert_eq!(elapsed_ns(NUMBER_MASK - 4, (1 << NUMBER_BITS) + 5), 10);
        assert_eq!(elapsed_ns(100, 90), 0, "from the future");
        let before = now_ns();
        assert!(now_ns() >= before);
    }
}
