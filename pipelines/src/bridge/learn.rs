//! `learn`: whether a station is where it is known to be. The slow path learns; here is only noted down what it is to.

use millrace_dataplane::clock::{Clock, cycles};
use millrace_dataplane::table::Location;
use millrace_dataplane::worker::{BATCH_MAX, Lesson};

/// How long a lesson is not told again, in microseconds: the slow path is to have learned it by then.
const QUIET_US: u64 = 10_000;
/// Lessons that are remembered for that long, by their stations' hashes. A power of two.
const REMEMBERED: usize = 256;

/// The lessons of a batch, and those told a moment ago.
#[derive(Debug)]
pub(super) struct Lessons {
    /// Those of the batch at hand, in order.
    noted: [Option<Lesson>; BATCH_MAX],
    count: usize,
    told: usize,
    remembered: [Remembered; REMEMBERED],
    quiet: u64,
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
        let quiet = Clock::calibrated().from_us(QUIET_US);
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
            now: None,
        }
    }

    /// A batch begins.
    #[inline]
    pub(super) fn begin(&mut self) {
        self.now = None;
    }

    /// Notes a lesson, whose station has this hash, unless it was noted a moment ago.
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
