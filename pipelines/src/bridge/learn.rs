//! `learn`: whether a station is where it is known to be. The slow path learns; here is only noted down what it is to.

use std::num::NonZeroU32;

use millrace_dataplane::clock::{Clock, cycles};
use millrace_dataplane::table::{Location, StormLimit, Storms};
use millrace_dataplane::worker::{BATCH_MAX, Lesson};

/// How long a lesson is not told again, in microseconds: the slow path is to have learned it by then.
const QUIET_US: u64 = 10_000;
/// Lessons that are remembered for that long, by their stations' hashes. A power of two.
const REMEMBERED: usize = 256;
/// Lessons from one location that are told at once after a while without, and in each second from then on. The first is as many
/// stations as a port may have unless told otherwise, so that all of them may speak up at once. The second is far more than a
/// network has moves, and so little that who makes up stations has the slow path woken no more often: to wake a thread costs
/// the worker more than to forward a packet.
const TOLD_AT_ONCE: u32 = 1024;
const TOLD_PER_SECOND: NonZeroU32 = NonZeroU32::new(1000).unwrap();

/// The lessons of a batch, those told a moment ago, and how many each location taught.
#[derive(Debug)]
pub(super) struct Lessons {
    /// Those of the batch at hand, in order.
    noted: [Option<Lesson>; BATCH_MAX],
    count: usize,
    told: usize,
    remembered: [Remembered; REMEMBERED],
    quiet: u64,
    /// What each location taught this worker, and how much it may.
    taught: Storms,
    limit: StormLimit,
    /// When the first lesson of the batch at hand was noted, in cycles.
    now: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Remembered {
    hash: u64,
    location: Location,
    /// In cycles.
    at: u64,
}

impl Lessons {
    pub(super) fn new() -> Self {
        let clock = Clock::calibrated();
        let quiet = clock.from_us(QUIET_US);
        let never = Remembered {
            hash: 0,
            location: Location::Switch,
            at: cycles().wrapping_sub(quiet),
        };
        Self {
            noted: [None; BATCH_MAX],
            count: 0,
            told: 0,
            remembered: [never; REMEMBERED],
            quiet,
            taught: Storms::default(),
            limit: StormLimit::new(TOLD_PER_SECOND, TOLD_AT_ONCE, clock.cycles_per_second()),
            now: None,
        }
    }

    /// A batch begins.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.now = None;
    }

    /// Notes a lesson, whose station has this hash, unless it was noted a moment ago, or its location has taught too much: what
    /// is not told is seen again.
    #[cold]
    pub(super) fn note(&mut self, lesson: Lesson, hash: u64) {
        // One moment for all of a batch, so that it tells nothing twice.
        let now = *self.now.get_or_insert_with(cycles);
        // INVARIANT: masked to the number of places.
        #[allow(clippy::cast_possible_truncation)]
        let place = (hash >> 32) as usize & (REMEMBERED - 1);
        let Some(before) = self.remembered.get_mut(place) else {
            return;
        };
        let is_told = before.hash == hash && before.location == lesson.location;
        if is_told && now.wrapping_sub(before.at) < self.quiet {
            return;
        }
        let Some(note) = self.noted.get_mut(self.count) else {
            return;
        };
        if !self.taught.may_pass(lesson.location, self.limit, now) {
            return;
        }
        *note = Some(lesson);
        self.count += 1;
        *before = Remembered {
            hash,
            location: lesson.location,
            at: now,
        };
    }

    /// The next lesson that was noted.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Lesson> {
        if self.count == 0 {
            return None;
        }
        let next = self.noted.get(..self.count)?.get(self.told).copied().flatten();
        self.told += 1;
        if next.is_none() {
            (self.count, self.told) = (0, 0);
        }
        next
    }
}
