//! Whether it pays to give packets away: tried, measured, and given up where it does not.
//!
//! To hand a packet over costs its giver a copy, and it saves him the walk and what it takes to send it. Which of the two is more
//! depends on the machine, the device and the packets. So a worker that is drowned first counts for a while what it gets
//! done alone, then shares, and counts again. If not clearly more gets through, everything comes home, and for a while it is
//! not tried again: longer each time. What did pay is put to the test again, too, more and more rarely: traffic changes.

use super::spread::DROWNED_PERMILLE;

/// Looks at the load over which a rate is counted. A look is some 20 ms.
const SAMPLE: u32 = 5;
/// Looks after something was given away until both have settled.
const SETTLING: u32 = 3;
/// Looks after which it is clear enough that much less gets through than before.
const SAMPLE_CLEAR: u32 = 2;
/// What must get through of what did before, in hundredths, so that it is gone on with while the worker is still drowned. It
/// takes another core's time.
const GAIN_PERCENT: u64 = 110;
/// The same where it is not drowned any more: all that comes in gets through.
const SAME_PERCENT: u64 = 95;
/// What is clearly less.
const LESS_PERCENT: u64 = 80;
/// How long it is left alone after it did not pay, in nanoseconds: the first time, and at most. Each time twice as long.
const PAUSE_FIRST_NS: u64 = 1_000_000_000;
const PAUSE_MAX_NS: u64 = 32 * PAUSE_FIRST_NS;
/// How long a worker that stays drowned goes on with what paid, in nanoseconds: the first time, and at most.
const TERM_FIRST_NS: u64 = 10_000_000_000;
const TERM_MAX_NS: u64 = 8 * TERM_FIRST_NS;

/// What a look shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The worker's own load, in thousandths.
    pub(super) load: u64,
    /// It is drowned, and another worker has time.
    pub(super) is_free: bool,
    /// Something is with others.
    pub(super) is_away: bool,
    /// Packets that came in by its queues since it started and that nobody dropped for want of time or room.
    pub(super) passed: u64,
    /// The time, in nanoseconds since anything.
    pub(super) now: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Nothing.
    Wait,
    /// Find out whose the packets are.
    Count,
    /// Give some away.
    Give,
    /// Give more away or take some back, as loads tell.
    Balance,
    /// Take everything back.
    Leave,
}

/// A rate that is being counted.
#[derive(Debug, Clone, Copy)]
struct Sample {
    passed: u64,
    since: u64,
    looks: u32,
    drowned: u32,
}

impl Sample {
    fn begin(seen: &Seen) -> Self {
        Self {
            passed: seen.passed,
            since: seen.now,
            looks: 0,
            drowned: 0,
        }
    }

    fn look(&mut self, seen: &Seen) {
        self.looks += 1;
        self.drowned += u32::from(seen.load >= DROWNED_PERMILLE);
    }

    /// Packets in a second.
    fn rate(&self, seen: &Seen) -> u64 {
        let packets = u128::from(seen.passed.saturating_sub(self.passed));
        let ns = u128::from(seen.now.saturating_sub(self.since)).max(1);
        u64::try_from(packets * 1_000_000_000 / ns).unwrap_or(u64::MAX)
    }

    fn is_drowned(&self) -> bool {
        2 * self.drowned > self.looks
    }
}

/// Where it stands.
#[derive(Debug, Clone, Copy)]
enum Course {
    /// Alone; what gets done is counted while it is drowned.
    Alone(Option<Sample>),
    /// It is found out whose the packets are.
    Counting,
    /// Something was just given away.
    Settling(u32),
    /// What gets done together is counted.
    Trying(Sample),
    /// It pays, since then.
    Paying(u64),
    /// Everything is to come home.
    Leaving,
}

/// Tries whether it pays.
#[derive(Debug)]
pub(super) struct Trial {
    course: Course,
    /// Packets in a second that the worker did alone.
    alone: u64,
    /// It is not tried before.
    not_before: u64,
    pause: u64,
    term: u64,
}

impl Trial {
    pub(super) fn new() -> Self {
        Self {
            course: Course::Alone(None),
            alone: 0,
            not_before: 0,
            pause: PAUSE_FIRST_NS,
            term: TERM_FIRST_NS,
        }
    }

    /// What to do after a look.
    pub(super) fn look(&mut self, seen: &Seen) -> Order {
        let (course, order) = match self.course {
            Course::Alone(sample) => self.alone(sample, seen),
            Course::Counting if seen.is_free => (Course::Settling(0), Order::Give),
            Course::Counting => (Course::Alone(None), Order::Wait),
            // One flow may be all there is, and that is not given away.
            Course::Settling(_) | Course::Trying(_) if !seen.is_away => {
                self.not_before = seen.now.saturating_add(PAUSE_FIRST_NS);
                (Course::Alone(None), Order::Wait)
            }
            Course::Settling(looks) if looks < SETTLING => (Course::Settling(looks + 1), Order::Balance),
            Course::Settling(_) => (Course::Trying(Sample::begin(seen)), Order::Wait),
            Course::Trying(sample) => self.trying(sample, seen),
            Course::Paying(_) | Course::Leaving if !seen.is_away => (Course::Alone(None), Order::Wait),
            Course::Paying(since) => self.paying(since, seen),
            Course::Leaving => (Course::Leaving, Order::Leave),
        };
        self.course = course;
        order
    }

    fn alone(&mut self, sample: Option<Sample>, seen: &Seen) -> (Course, Order) {
        if !seen.is_free || seen.now < self.not_before {
            return (Course::Alone(None), Order::Wait);
        }
        let Some(mut sample) = sample else {
            return (Course::Alone(Some(Sample::begin(seen))), Order::Wait);
        };
        sample.look(seen);
        if sample.looks < SAMPLE {
            return (Course::Alone(Some(sample)), Order::Wait);
        }
        self.alone = sample.rate(seen);
        (Course::Counting, Order::Count)
    }

    fn trying(&mut self, mut sample: Sample, seen: &Seen) -> (Course, Order) {
        sample.look(seen);
        let together = sample.rate(seen);
        let is_at_least =
            |percent: u64| u128::from(together) * 100 >= u128::from(self.alone) * u128::from(percent);
        let is_clear = sample.looks >= SAMPLE_CLEAR && !is_at_least(LESS_PERCENT);
        if sample.looks < SAMPLE && !is_clear {
            return (Course::Trying(sample), Order::Wait);
        }
        let wanted = if sample.is_drowned() {
            GAIN_PERCENT
        } else {
            SAME_PERCENT
        };
        if is_at_least(wanted) {
            self.pause = PAUSE_FIRST_NS;
            return (Course::Paying(seen.now), Order::Balance);
        }
        self.not_before = seen.now.saturating_add(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX_NS);
        self.term = TERM_FIRST_NS;
        (Course::Leaving, Order::Leave)
    }

    fn paying(&mut self, since: u64, seen: &Seen) -> (Course, Order) {
        let is_due = seen.now.saturating_sub(since) >= self.term;
        if is_due && seen.load >= DROWNED_PERMILLE {
            self.term = (self.term * 2).min(TERM_MAX_NS);
            return (Course::Leaving, Order::Leave);
        }
        (Course::Paying(since), Order::Balance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK_NS: u64 = 20_000_000;
    const SECOND_LOOKS: usize = 50;

    /// A worker whose queue never runs dry, and what gets through in a look alone and while something is with others.
    struct World {
        trial: Trial,
        alone: u64,
        together: u64,
        /// The load while something is with others.
        load: u64,
        is_away: bool,
        passed: u64,
        now: u64,
    }

    impl World {
        fn new(alone: u64, together: u64) -> Self {
            Self {
                trial: Trial::new(),
                alone,
                together,
                load: 1000,
                is_away: false,
                passed: 0,
                now: 0,
            }
        }

        fn look(&mut self) -> Order {
            self.now += LOOK_NS;
            let (passed, load) = if self.is_away {
                (self.together, self.load)
            } else {
                (self.alone, 1000)
            };
            self.passed += passed;
            let order = self.trial.look(&Seen {
                load,
                is_free: load >= DROWNED_PERMILLE,
                is_away: self.is_away,
                passed: self.passed,
                now: self.now,
            });
            match order {
                Order::Give => self.is_away = true,
                Order::Leave => self.is_away = false,
                Order::Wait | Order::Count | Order::Balance => {}
            }
            order
        }

        /// How many of so many looks saw something with others.
        fn away(&mut self, looks: usize) -> usize {
            (0..looks)
                .filter(|_| {
                    self.look();
                    self.is_away
                })
                .count()
        }
    }

    #[test]
    fn what_pays_is_gone_on_with_and_put_to_the_test_again_and_again() {
        let mut world = World::new(10_000, 13_000);
        let orders: Vec<Order> = (0..8).map(|_| world.look()).collect();
        assert_eq!(
            orders[..6],
            [
                Order::Wait,
                Order::Wait,
                Order::Wait,
                Order::Wait,
                Order::Wait,
                Order::Count
            ]
        );
        assert_eq!(orders[6..], [Order::Give, Order::Balance]);
        let away = world.away(60 * SECOND_LOOKS);
        assert!(away > 60 * SECOND_LOOKS * 98 / 100, "{away}");
        assert!(away < 60 * SECOND_LOOKS, "it is never put to the test again");
    }

    #[test]
    fn what_does_not_pay_is_given_up_and_tried_ever_more_rarely() {
        for together in [10_000, 10_900, 6_000] {
            let mut world = World::new(10_000, together);
            let first = world.away(SECOND_LOOKS);
            assert!((4..=9).contains(&first), "{together}: {first}");
            world.away(120 * SECOND_LOOKS);
            let late = world.away(64 * SECOND_LOOKS);
            assert!(
                (4..=20).contains(&late),
                "{together}: {late} looks of {}",
                64 * SECOND_LOOKS
            );
        }
    }

    #[test]
    fn much_less_is_seen_at_once() {
        let slow = World::new(10_000, 9_000).away(SECOND_LOOKS);
        let quick = World::new(10_000, 5_000).away(SECOND_LOOKS);
        assert!(quick < slow, "{quick} {slow}");
    }

    #[test]
    fn a_worker_that_is_drowned_no_more_goes_on_unless_less_gets_through() {
        for (together, stays) in [(10_200, true), (9_600, true), (9_000, false)] {
            let mut world = World::new(10_000, together);
            world.load = 700;
            world.away(SECOND_LOOKS / 2);
            assert_eq!(world.is_away, stays, "{together}");
        }
    }

    #[test]
    fn a_short_burst_moves_nothing() {
        let mut world = World::new(10_000, 13_000);
        for _ in 0..100 {
            for _ in 0..4 {
                assert_eq!(world.look(), Order::Wait);
            }
            world.now += LOOK_NS;
            let idle = Seen {
                load: 300,
                is_free: false,
                is_away: false,
                passed: world.passed,
                now: world.now,
            };
            assert_eq!(world.trial.look(&idle), Order::Wait);
        }
    }

    #[test]
    fn when_nothing_can_be_given_it_is_left_alone_for_a_while() {
        let mut world = World::new(10_000, 13_000);
        let mut asked = 0;
        for _ in 0..10 * SECOND_LOOKS {
            asked += usize::from(world.look() == Order::Give);
            world.is_away = false;
        }
        assert!((5..=10).contains(&asked), "{asked}");
    }

    #[test]
    fn once_it_pays_again_it_is_found_out() {
        let mut world = World::new(10_000, 6_000);
        world.away(200 * SECOND_LOOKS);
        world.together = 14_000;
        world.away(33 * SECOND_LOOKS);
        assert!(world.is_away);
        world.together = 6_000;
        world.away(12 * SECOND_LOOKS);
        assert!(!world.is_away);
    }
}
