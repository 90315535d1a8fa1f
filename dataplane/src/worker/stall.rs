//! Whether a queue still sends: what a worker sees of that on its beat.

use crate::port::Transmission;

/// Follows one queue's transmission from beat to beat.
#[derive(Debug, Default)]
pub(super) struct StallWatch {
    seen: Transmission,
    /// When it was first seen to stand where it stands, in cycles.
    since: u64,
}

/// What is to be seen of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// It has nothing under way, or something moved since the last look.
    Moving,
    /// The device has all frames and gives none back. That is no failure: some drivers (ice) look for finished ones
    /// only when they run out of descriptors.
    Holding,
    /// Frames wait, and for so many cycles none has been taken and none has come back.
    Standing(u64),
}

impl StallWatch {
    /// Compares with what was seen last; `now` is in cycles.
    pub(super) fn look(&mut self, transmission: Transmission, now: u64) -> Course {
        let seen = std::mem::replace(&mut self.seen, transmission);
        let place = |of: Transmission| (of.taken, of.completed, of.waiting > 0);
        if transmission.under_way == 0 || seen.under_way == 0 || place(seen) != place(transmission) {
            self.since = now;
            return Course::Moving;
        }
        if transmission.waiting == 0 {
            return Course::Holding;
        }
        Course::Standing(now.wrapping_sub(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(waiting: u32, under_way: u32, taken: u32, completed: u32) -> Transmission {
        Transmission {
            waiting,
            under_way,
            taken,
            completed,
        }
    }

    #[test]
    fn a_queue_stands_while_frames_wait_and_nothing_moves() {
        let mut watch = StallWatch::default();
        let mut look = |transmission, now| watch.look(transmission, now);
        assert_eq!(look(of(0, 0, 0, 0), 5), Course::Moving);
        assert_eq!(look(of(3, 10, 7, 0), 10), Course::Moving);
        assert_eq!(look(of(3, 10, 7, 0), 20), Course::Standing(10));
        // More that waits is no movement; a frame taken is, and so is one that came back.
        assert_eq!(look(of(9, 16, 7, 0), 30), Course::Standing(20));
        assert_eq!(look(of(8, 16, 8, 0), 40), Course::Moving);
        assert_eq!(look(of(8, 16, 8, 0), 50), Course::Standing(10));
        assert_eq!(look(of(8, 15, 8, 1), 60), Course::Moving);
    }

    #[test]
    fn a_device_that_holds_frames_stands_only_from_when_others_wait() {
        let mut watch = StallWatch::default();
        assert_eq!(watch.look(of(0, 4, 4, 0), 0), Course::Moving);
        assert_eq!(watch.look(of(0, 4, 4, 0), 100), Course::Holding);
        // One put into the ring a moment ago has not waited since then.
        assert_eq!(watch.look(of(1, 5, 4, 0), 200), Course::Moving);
        assert_eq!(watch.look(of(1, 5, 4, 0), 300), Course::Standing(100));
    }
}
