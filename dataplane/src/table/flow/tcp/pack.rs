//! A connection as bits of notes and words, and back.

use super::TcpState;
use super::track::{Asked, Connection};
use super::window::Side;
use crate::table::flow::store::TRACKING_WORDS;
use crate::table::flow::tuple::{Direction, lower, upper};

/// Where the parts of a connection stand in its notes, below the bits that other protocols have too.
mod bit {
    pub(super) const STATE: u32 = 0;
    pub(super) const SCALE: u32 = 4;
    pub(super) const FLAGS: u32 = 12;
    pub(super) const FLAGS_OF_SIDE: u32 = 4;
}

impl Connection {
    /// How many bits of notes a connection takes.
    pub(in crate::table::flow) const BITS: u32 = bit::FLAGS + 2 * bit::FLAGS_OF_SIDE;

    /// The connection as bits of notes and words.
    #[inline]
    pub(in crate::table::flow) fn pack(&self) -> (u32, [u64; TRACKING_WORDS]) {
        let mut bits = (self.state as u32) << bit::STATE;
        for (side, number) in self.sides.iter().zip(0..) {
            bits |= u32::from(side.scale) << (bit::SCALE + 4 * number);
            let flags = [
                side.offers_scale,
                side.is_heard,
                side.has_finished,
                side.is_finish_acked,
            ];
            for (flag, place) in flags.into_iter().zip(bit::FLAGS + bit::FLAGS_OF_SIDE * number..) {
                bits |= u32::from(flag) << place;
            }
        }
        let ([a, b], [c, d]) = (self.sides[0].words(), self.sides[1].words());
        (bits, [a, b, c, d, self.asked.map_or(0, Asked::word)])
    }

    /// The connection that was packed; `None` if that is none.
    #[inline]
    pub(in crate::table::flow) fn unpack(bits: u32, words: &[u64; TRACKING_WORDS]) -> Option<Self> {
        let state = TcpState::from_bits(bits >> bit::STATE & 0xf)?;
        let side = |number: u32, sent: u64, received: u64| {
            let flag = |place: u32| bits >> (bit::FLAGS + bit::FLAGS_OF_SIDE * number + place) & 1 == 1;
            Side {
                end: upper(sent),
                limit: lower(sent),
                window: upper(received),
                acked: lower(received),
                scale: (bits >> (bit::SCALE + 4 * number) & 0xf) as u8,
                offers_scale: flag(0),
                is_heard: flag(1),
                has_finished: flag(2),
                is_finish_acked: flag(3),
            }
        };
        let [a, b, c, d, asked] = *words;
        Some(Self {
            state,
            sides: [side(0, a, b), side(1, c, d)],
            asked: Asked::from_word(asked),
        })
    }
}

/// In a word of [`Asked`], above the window: the shift count, whether there is one, who asked, and that there is all this.
const SCALE_SHIFT: u32 = 16;
const HAS_SCALE: u64 = 1 << 20;
const BY_REPLY: u64 = 1 << 21;
const IS_ASKED: u64 = 1 << 22;

impl Asked {
    fn word(self) -> u64 {
        let scale = self
            .scale
            .map_or(0, |scale| HAS_SCALE | u64::from(scale) << SCALE_SHIFT);
        let by = if self.by == Direction::Reply { BY_REPLY } else { 0 };
        u64::from(self.next) << 32 | IS_ASKED | by | scale | u64::from(self.window)
    }

    fn from_word(word: u64) -> Option<Self> {
        (word & IS_ASKED != 0).then_some(Self {
            next: upper(word),
            window: (word & 0xffff) as u16,
            scale: (word & HAS_SCALE != 0).then_some((word >> SCALE_SHIFT & 0xf) as u8),
            by: if word & BY_REPLY != 0 {
                Direction::Reply
            } else {
                Direction::Original
            },
        })
    }
}
