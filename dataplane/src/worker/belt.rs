//! A belt: a bounded queue of packets from one worker to one other, copied.
//!
//! One side feeds and one takes, and each is a value that there is one of. A packet's bytes are atomic words, so nothing here
//! is unsafe: they are read and written as plain ones would be, and what puts them in order is how far each side has come.
//! The taker also says up to where all that it took has left. Until then its feeder sends no packet of the same flow
//! another way.
//!
//! Built for `loom` (`--cfg crossbeam_loom`), this file ends in a model that runs it through every interleaving.

use std::fmt;

#[cfg(crossbeam_loom)]
use loom::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(crossbeam_loom))]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

const WORD_LEN: usize = size_of::<u64>();

/// What goes with a packet's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Label {
    /// The number of the port it came in at.
    pub(super) port: u16,
    /// See [`Frame::lane`](crate::frame::Frame::lane).
    pub(super) lane: u16,
    /// Its length, in bytes.
    pub(super) len: u16,
}

impl Label {
    fn word(self) -> u64 {
        u64::from(self.port) << 32 | u64::from(self.lane) << 16 | u64::from(self.len)
    }

    fn of(word: u64) -> Self {
        // INVARIANT: `word` made it of three times 16 bits.
        #[allow(clippy::cast_possible_truncation)]
        Self {
            port: (word >> 32) as u16,
            lane: (word >> 16) as u16,
            len: word as u16,
        }
    }
}

/// A count in cache lines of its own: each side writes other ones than it reads.
#[derive(Default)]
#[repr(align(128))]
struct Count(AtomicU64);

struct Place {
    label: AtomicU64,
    words: Box<[AtomicU64]>,
}

/// What both sides share. Counts only grow; the place of packet number n is n modulo the number of places.
struct Belt {
    places: Box<[Place]>,
    /// Packets that are there to be taken, or were.
    fed: Count,
    /// Packets whose places are free again.
    taken: Count,
    /// Packets that have left, whatever way, in the end.
    gone: Count,
}

impl Belt {
    fn place(&self, number: u64) -> Option<&Place> {
        // INVARIANT: the number of places is a power of two and fits both.
        #[allow(clippy::cast_possible_truncation)]
        self.places.get(number as usize & (self.places.len() - 1))
    }
}

/// A belt with `places`, rounded up to a power of two, for packets of at most `len` bytes each.
pub(super) fn belt(places: usize, len: usize) -> (Feeder, Taker) {
    let place = || Place {
        label: AtomicU64::new(0),
        words: (0..len.div_ceil(WORD_LEN)).map(|_| AtomicU64::new(0)).collect(),
    };
    let places = places.max(1).next_power_of_two();
    let belt = Arc::new(Belt {
        places: (0..places).map(|_| place()).collect(),
        fed: Count::default(),
        taken: Count::default(),
        gone: Count::default(),
    });
    let feeder = Feeder {
        belt: Arc::clone(&belt),
        fed: 0,
        free: places as u64,
    };
    (feeder, Taker { belt, taken: 0 })
}

/// The end that packets are put in at.
pub(super) struct Feeder {
    belt: Arc<Belt>,
    /// Packets put in.
    fed: u64,
    /// Packets that may have been put in when the last place is used.
    free: u64,
}

impl Feeder {
    /// Puts a packet in, which is not seen before [`Self::show`]; whether there was room.
    #[inline]
    pub(super) fn feed(&mut self, label: Label, bytes: &[u8]) -> bool {
        if self.fed == self.free {
            // What stands in a place is read before it is free.
            let taken = self.belt.taken.0.load(Ordering::Acquire);
            self.free = taken + self.belt.places.len() as u64;
        }
        let Some(place) = self.belt.place(self.fed) else {
            return false;
        };
        if self.fed == self.free || bytes.len() > place.words.len() * WORD_LEN {
            return false;
        }
        let (whole, rest) = bytes.as_chunks::<WORD_LEN>();
        for (word, bytes) in place.words.iter().zip(whole) {
            word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
        if let (false, Some(word)) = (rest.is_empty(), place.words.get(whole.len())) {
            let mut last = [0; WORD_LEN];
            last[..rest.len()].copy_from_slice(rest);
            word.store(u64::from_ne_bytes(last), Ordering::Relaxed);
        }
        place.label.store(label.word(), Ordering::Relaxed);
        self.fed += 1;
        true
    }

    /// Shows the other side all that was put in.
    #[inline]
    pub(super) fn show(&self) {
        self.belt.fed.0.store(self.fed, Ordering::Release);
    }

    /// How many packets were put in, ever.
    #[inline]
    pub(super) fn fed(&self) -> u64 {
        self.fed
    }

    /// How many of them have left.
    #[inline]
    pub(super) fn gone(&self) -> u64 {
        self.belt.gone.0.load(Ordering::Acquire)
    }
}

/// The end that packets are taken from.
pub(super) struct Taker {
    belt: Arc<Belt>,
    /// Packets taken.
    taken: u64,
}

impl Taker {
    /// Whether there is anything to take.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.belt.fed.0.load(Ordering::Relaxed) != self.taken
    }

    /// The oldest packet, which stays where it is.
    #[inline]
    pub(super) fn peek(&self) -> Option<Label> {
        if self.belt.fed.0.load(Ordering::Acquire) == self.taken {
            return None;
        }
        let place = self.belt.place(self.taken)?;
        Some(Label::of(place.label.load(Ordering::Relaxed)))
    }

    /// Takes the packet that [`Self::peek`] told of; its bytes go to `out`, as far as that reaches.
    #[inline]
    pub(super) fn take(&mut self, out: &mut [u8]) {
        if let Some(place) = self.belt.place(self.taken) {
            let (whole, rest) = out.as_chunks_mut::<WORD_LEN>();
            for (bytes, word) in whole.iter_mut().zip(&place.words) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
            if let Some(word) = place.words.get(whole.len()) {
                let last = word.load(Ordering::Relaxed).to_ne_bytes();
                rest.copy_from_slice(&last[..rest.len()]);
            }
        }
        self.taken += 1;
    }

    /// Gives the places of what was taken back.
    #[inline]
    pub(super) fn give_back(&self) {
        self.belt.taken.0.store(self.taken, Ordering::Release);
    }

    /// Says that all that was taken has left.
    #[inline]
    pub(super) fn say_gone(&self) {
        self.belt.gone.0.store(self.taken, Ordering::Release);
    }
}

impl fmt::Debug for Feeder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Feeder({} fed)", self.fed)
    }
}

impl fmt::Debug for Taker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Taker({} taken)", self.taken)
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
mod tests {
    use super::*;

    fn label(len: usize) -> Label {
        Label {
            port: 0xfedc,
            lane: 0x1234,
            len: u16::try_from(len).unwrap_or_default(),
        }
    }

    fn taken(taker: &mut Taker) -> Option<Vec<u8>> {
        let label = taker.peek()?;
        let mut bytes = vec![0xa5; usize::from(label.len)];
        taker.take(&mut bytes);
        Some(bytes)
    }

    #[test]
    fn packets_of_every_length_come_out_as_they_went_in() {
        let (mut feeder, mut taker) = belt(4, 33);
        for len in 0..=33_u8 {
            let packet: Vec<u8> = (1..=len).collect();
            assert!(feeder.feed(label(packet.len()), &packet));
            assert!(!taker.has_news() && taker.peek().is_none(), "not shown yet");
            feeder.show();
            assert!(taker.has_news());
            assert_eq!(taker.peek(), Some(label(packet.len())));
            assert_eq!(taken(&mut taker), Some(packet));
            taker.give_back();
        }
        assert!(!feeder.feed(label(41), &[0; 41]), "longer than a place");
    }

    #[test]
    fn it_is_full_until_places_are_given_back_and_tells_what_has_left() {
        let (mut feeder, mut taker) = belt(3, 8);
        let feed = |feeder: &mut Feeder, byte| feeder.feed(label(1), &[byte]);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|byte| feed(&mut feeder, byte)),
            [true, true, true, true, false]
        );
        feeder.show();
        assert_eq!(taken(&mut taker), Some(vec![0]));
        assert!(!feed(&mut feeder, 5), "taken, and its place not given back");
        taker.give_back();
        assert!(feed(&mut feeder, 6) && !feed(&mut feeder, 7));
        feeder.show();
        assert_eq!((feeder.fed(), feeder.gone()), (5, 0));
        taker.say_gone();
        assert_eq!(feeder.gone(), 1);
        let rest: Vec<_> = std::iter::from_fn(|| taken(&mut taker)).flatten().collect();
        assert_eq!(rest, [1, 2, 3, 6]);
        taker.say_gone();
        assert_eq!(feeder.gone(), feeder.fed());
    }
}

#[cfg(all(test, crossbeam_loom))]
mod model {
    use super::*;

    const PACKETS: u64 = 3;
    /// Threads switch at most this often where they need not, so that the model ends.
    const PREEMPTIONS: usize = 3;

    /// What packet `number` holds: two words that belong together.
    fn bytes(number: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&number.to_ne_bytes());
        bytes[8..].copy_from_slice(&(!number).to_ne_bytes());
        bytes
    }

    /// Two places and three packets: the third takes the first one's place, while the other side may be reading.
    #[test]
    fn packets_come_whole_once_and_in_order() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(PREEMPTIONS);
        model.check(|| {
            let (mut feeder, mut taker) = belt(2, 16);
            let other = loom::thread::spawn(move || {
                let mut number = 0;
                while number < PACKETS {
                    let label = Label {
                        port: 1,
                        lane: 2,
                        len: 16,
                    };
                    if feeder.feed(label, &bytes(number)) {
                        feeder.show();
                        number += 1;
                    } else {
                        loom::thread::yield_now();
                    }
                    assert!(feeder.gone() <= feeder.fed());
                }
                feeder
            });
            for number in 0..PACKETS {
                while taker.peek().is_none() {
                    loom::thread::yield_now();
                }
                let mut out = [0xa5; 16];
                taker.take(&mut out);
                assert_eq!(out, bytes(number));
                taker.give_back();
                taker.say_gone();
            }
            let feeder = other.join().unwrap();
            assert_eq!((feeder.fed(), feeder.gone()), (PACKETS, PACKETS));
            assert!(!taker.has_news());
        });
    }
}
