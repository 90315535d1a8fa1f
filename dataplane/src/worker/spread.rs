//! Sharing the load of one queue: a worker that is drowned by what comes out of one queue gives packets to others, copied.
//!
//! A NIC spreads what it receives over its queues by addresses and ports, and all packets between two nodes' tunnels may look
//! the same to it: those of IP in IP have no ports. So they all land on one worker, while others have nothing to do. The
//! pipeline tells packets' flows apart by what is inside; a flow belongs to one of [`BUCKETS`], and a bucket to the worker that
//! received it, or to one of its helpers.
//!
//! **A flow stays in order.** A bucket goes from one worker to another only where nothing of it is under way: away from
//! home between two turns, when all that was received has left; home again once its helper says that all it was given before
//! has left ([`Feeder::gone`](super::belt::Feeder::gone)). From one helper to another it goes by way of home. What no longer
//! fits a belt is dropped and not walked at home, for it would overtake what is on the belt. (After Barbette and others, RSS++,
//! CoNEXT 2019, whose buckets are the NIC's own.)
//!
//! Whether it pays at all is tried first, and again and again: see [`trial`](super::trial).

use super::belt::{Feeder, Label, Taker, belt};
use super::handle::{Relay, WorkerHandle};
use super::trial::{Order, Seen, Trial};
use crate::clock;
use crate::stats::SharedStats;

/// How finely load can be shared. A power of two.
const BUCKETS: usize = 256;
/// Workers that one worker gives packets to, at most.
const HELPERS_MAX: usize = 7;
/// Packets that may be on their way to all helpers of a worker, in like parts: as many as wait in a NIC's ring, for a helper may
/// have to be woken first, or be waiting for its core. They are the memory that sharing takes.
const PLACES: usize = 2048;
/// Packets that may be on their way to one helper, at least.
const PLACES_MIN: usize = 256;

/// The load from which on a worker is drowned, in thousandths of its time.
pub(super) const DROWNED_PERMILLE: u64 = 900;
/// The load below which it takes back what it gave away, a piece at a time.
const EASY_PERMILLE: u64 = 600;
/// By how much less a helper has to be loaded.
const GAP_PERMILLE: u64 = 150;
/// Buckets that go home at once, at most, as long as sharing pays.
const HOME_AT_ONCE: usize = 16;

/// When a worker gives packets to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpreadMode {
    /// Never.
    Off,
    /// While it is drowned and another is not.
    Auto,
    /// Each worker has its share, always.
    Always,
}

/// Another worker, as one that packets can be given to.
#[derive(Debug)]
struct Helper {
    feeder: Feeder,
    relay: Relay,
    stats: SharedStats,
    /// Something was fed since it was last shown and the helper woken.
    news: bool,
}

/// Flows that go together.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// The helper that has it; `None` at home.
    helper: Option<u8>,
    /// How many packets its helper had been fed with the last one of it.
    last: u64,
    /// Packets since they were last counted.
    packets: u32,
}

/// What a worker gives to others, and what others give to it.
#[derive(Debug)]
pub struct Spread {
    mode: SpreadMode,
    helpers: Vec<Helper>,
    pub(super) inlets: Vec<Taker>,
    buckets: Vec<Bucket>,
    /// Buckets that are not at home.
    away: usize,
    /// Drowned: packets are counted, to find out whose they are.
    counting: bool,
    /// Packets that a belt had no room for.
    full: u64,
    trial: Trial,
}

/// What a worker says of itself between two turns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Its load, in thousandths of its time.
    pub(super) load: u64,
    /// Everything that it received has left.
    pub(super) all_left: bool,
    /// Packets that it received by its queues and did not drop for want of room, since it started.
    pub(super) passed: u64,
    /// The time, in nanoseconds since anything.
    pub(super) now: u64,
    /// For how many cycles it may wait for a helper when everything is to come home.
    pub(super) patience: u64,
}

/// Where a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// It stays.
    Home,
    /// It is on its way to a helper.
    Given,
    /// Its helper takes packets no faster.
    Full,
}

/// Joins workers by belts for packets of at most `longest` bytes, each with those after it: what each is to be told
/// (`Command::Spread`), in their order. Where there is nothing to share there is nothing to tell.
#[must_use]
pub fn spread<P>(workers: &[WorkerHandle<P>], mode: SpreadMode, longest: usize) -> Vec<Spread> {
    let count = workers.len();
    if mode == SpreadMode::Off || count < 2 {
        return Vec::new();
    }
    let mut all: Vec<Spread> = workers.iter().map(|_| Spread::new(mode)).collect();
    let helpers = HELPERS_MAX.min(count - 1);
    // The belt rounds up to a power of two, which is to be no more than the part.
    let places = (PLACES / helpers.next_power_of_two()).max(PLACES_MIN);
    for giver in 0..count {
        for step in 1..=helpers {
            let taker = (giver + step) % count;
            let (feeder, inlet) = belt(places, longest);
            let helper = workers.get(taker).map(|handle| Helper {
                feeder,
                relay: handle.relay(),
                stats: handle.stats().clone(),
                news: false,
            });
            if let Some(spread) = all.get_mut(giver) {
                spread.helpers.extend(helper);
            }
            if let Some(spread) = all.get_mut(taker) {
                spread.inlets.push(inlet);
            }
        }
    }
    all.iter_mut().for_each(Spread::settle_shares);
    all
}

impl Spread {
    /// Alone.
    pub(super) fn new(mode: SpreadMode) -> Self {
        let bucket = Bucket {
            helper: None,
            last: 0,
            packets: 0,
        };
        Self {
            mode,
            helpers: Vec::new(),
            inlets: Vec::new(),
            buckets: vec![bucket; BUCKETS],
            away: 0,
            counting: false,
            full: 0,
            trial: Trial::new(),
        }
    }

    /// Gives everybody a share, where that is wanted.
    fn settle_shares(&mut self) {
        if self.mode != SpreadMode::Always {
            return;
        }
        let workers = self.helpers.len() + 1;
        for (number, bucket) in self.buckets.iter_mut().enumerate() {
            bucket.helper = (number % workers)
                .checked_sub(1)
                .and_then(|helper| u8::try_from(helper).ok());
        }
        self.away = self
            .buckets
            .iter()
            .filter(|bucket| bucket.helper.is_some())
            .count();
    }

    /// Whether packets' flows have to be known.
    #[inline(always)]
    pub(super) fn is_sharing(&self) -> bool {
        self.away > 0 || self.counting
    }

    /// Takes a packet on the way to whoever has its flow, whose hash is `flow`.
    #[inline]
    pub(super) fn give(&mut self, flow: u32, label: Label, bytes: &[u8]) -> Share {
        // The upper bits, of which a helper's own tables make no use.
        let number = (flow >> (u32::BITS - BUCKETS.ilog2())) as usize;
        let Some(bucket) = self.buckets.get_mut(number) else {
            return Share::Home;
        };
        bucket.packets = bucket.packets.saturating_add(1);
        let helper = bucket.helper.map(usize::from);
        let Some(helper) = helper.and_then(|helper| self.helpers.get_mut(helper)) else {
            return Share::Home;
        };
        if !helper.feeder.feed(label, bytes) {
            self.full += 1;
            return Share::Full;
        }
        helper.news = true;
        bucket.last = helper.feeder.fed();
        Share::Given
    }

    /// Shows helpers what they were given.
    #[inline]
    pub(super) fn show(&self) {
        let fed = self.helpers.iter().filter(|helper| helper.news);
        fed.for_each(|helper| helper.feeder.show());
    }

    /// Wakes helpers that were given something since they were woken.
    pub(super) fn wake(&mut self) {
        for helper in &mut self.helpers {
            if std::mem::take(&mut helper.news) {
                helper.relay.wake();
            }
        }
    }

    /// Whether another worker has given something.
    #[inline(always)]
    pub(super) fn has_news(&self) -> bool {
        self.inlets.iter().any(Taker::has_news)
    }

    /// Says that all that others gave has left.
    #[inline]
    pub(super) fn say_gone(&self) {
        self.inlets.iter().for_each(Taker::say_gone);
    }

    /// Looks at the load between two turns, and whether sharing pays.
    pub(super) fn look(&mut self, look: &Look) {
        if self.mode != SpreadMode::Auto {
            return;
        }
        let load = look.load;
        let least = self.helpers.iter().enumerate();
        let least = least
            .map(|(number, helper)| (helper.stats.recent_load(), number))
            .min();
        let least = least.filter(|(other, _)| load >= DROWNED_PERMILLE && other + GAP_PERMILLE <= load);
        let lost: u64 = self
            .helpers
            .iter()
            .map(|helper| helper.stats.want_of_room())
            .sum();
        let order = self.trial.look(&Seen {
            load,
            is_free: least.is_some(),
            is_away: self.away > 0,
            passed: look.passed.saturating_sub(self.full).saturating_sub(lost),
            now: look.now,
        });
        self.counting = order == Order::Count;
        match (order, least) {
            (Order::Give | Order::Balance, Some((other, helper))) => {
                if look.all_left {
                    self.give_away(helper, load, other);
                }
            }
            (Order::Balance, None) if load < EASY_PERMILLE => self.take_home(HOME_AT_ONCE, |_| true),
            (Order::Balance, None) => self.relieve(load),
            (Order::Leave, _) => self.leave(look.patience),
            (Order::Wait | Order::Count | Order::Give, _) => {}
        }
        self.buckets.iter_mut().for_each(|bucket| bucket.packets = 0);
    }

    /// Takes a few back from helpers that are drowned themselves.
    fn relieve(&mut self, load: u64) {
        let least = load.max(DROWNED_PERMILLE - GAP_PERMILLE) + GAP_PERMILLE;
        self.take_home(HOME_AT_ONCE, |helper| helper.stats.recent_load() >= least);
    }

    /// Takes everything back. Nothing comes in meanwhile, so that a helper that has its hands full gets to the end of what it was
    /// given; what waits does so at the device.
    fn leave(&mut self, patience: u64) {
        let began = clock::cycles();
        let is_gone = |helpers: &[Helper]| {
            let mut feeders = helpers.iter().map(|helper| &helper.feeder);
            feeders.all(|feeder| feeder.gone() == feeder.fed())
        };
        while !is_gone(&self.helpers) && clock::cycles().wrapping_sub(began) < patience {
            std::hint::spin_loop();
        }
        self.take_home(BUCKETS, |_| true);
    }

    /// Gives a helper so many buckets that both have as much to do, as far as the packets tell: half of the difference. A flow
    /// that alone is more than that stays, for it would only drown another.
    fn give_away(&mut self, helper: usize, load: u64, other: u64) {
        let Ok(helper) = u8::try_from(helper) else { return };
        let home = self.buckets.iter().filter(|bucket| bucket.helper.is_none());
        let packets: u64 = home.map(|bucket| u64::from(bucket.packets)).sum();
        let mut budget = packets * load.saturating_sub(other) / (2 * load.max(1));
        for bucket in &mut self.buckets {
            let fits = bucket.packets > 0 && u64::from(bucket.packets) <= budget;
            if bucket.helper.is_none() && fits {
                budget -= u64::from(bucket.packets);
                bucket.helper = Some(helper);
                self.away += 1;
            }
        }
    }

    /// Takes back at most so many buckets of such helpers, of which nothing is under way any more.
    fn take_home(&mut self, most: usize, whose: impl Fn(&Helper) -> bool) {
        if self.away == 0 {
            return;
        }
        let mut left = most;
        for bucket in &mut self.buckets {
            let helper = bucket
                .helper
                .and_then(|number| self.helpers.get(usize::from(number)));
            let may_go = helper.is_some_and(|helper| whose(helper) && bucket.last <= helper.feeder.gone());
            if may_go && left > 0 {
                bucket.helper = None;
                self.away -= 1;
                left -= 1;
            }
        }
    }
}
