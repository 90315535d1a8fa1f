//! Snapshots: one side publishes, the other reads without ever waiting.
//!
//! A [`Publisher`] swaps a whole value in with one store. A [`Reader`] pins what is newest and reads it as long as
//! it likes; the epoch of [`crossbeam::epoch`] tells when the last one who could have seen an old value has let go.
//!
//! Old values are freed **on the publisher's thread only** ([`Publisher::publish`], [`Publisher::reclaim`]): what the
//! epoch runs, on whatever thread it happens to be, does no more than set a flag. A worker thus never spends its
//! batch on giving a large table back to the allocator.
//!
//! Built for `loom` (`--cfg crossbeam_loom`), this file ends in a model that runs it, and the epoch under it, through
//! every interleaving.
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::PoisonError;

use crossbeam::epoch::{self, Guard};

#[cfg(crossbeam_loom)]
use loom::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, Ordering},
};
#[cfg(not(crossbeam_loom))]
use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicPtr, Ordering},
};

/// The writing side of a snapshot. There is one.
pub struct Publisher<T> {
    versions: Arc<Versions<T>>,
}

/// The reading side of a snapshot: one per worker, made by [`Publisher::reader`] or by cloning.
pub struct Reader<T> {
    versions: Arc<Versions<T>>,
}

/// The value that was newest when it was pinned; it stays as it is while this lives.
///
/// Keep it for one batch: while it lives nothing that was retired since can be freed.
pub struct Pinned<'r, T> {
    value: NonNull<T>,
    _guard: Guard,
    _reader: PhantomData<&'r T>,
}

/// The newest value, and the old ones that a reader may still see.
struct Versions<T> {
    current: AtomicPtr<T>,
    /// Touched by the publisher only; a lock because the last reader may be the one that frees.
    retired: Mutex<Vec<Retired<T>>>,
    _owned: PhantomData<T>,
}

/// A value that is no longer current.
struct Retired<T> {
    value: NonNull<T>,
    /// Set once no reader can see the value any more.
    unseen: Arc<AtomicBool>,
}

// SAFETY: a retired value is owned by the list it stands in, as a box would be.
unsafe impl<T: Send> Send for Retired<T> {}

impl<T: Send + Sync + 'static> Publisher<T> {
    /// Publishes the first value.
    #[must_use]
    pub fn new(first: T) -> Self {
        let current = AtomicPtr::new(Box::into_raw(Box::new(first)));
        let retired = Mutex::new(Vec::new());
        Self {
            versions: Arc::new(Versions {
                current,
                retired,
                _owned: PhantomData,
            }),
        }
    }

    /// A reader of what is published here.
    #[must_use]
    pub fn reader(&self) -> Reader<T> {
        Reader {
            versions: Arc::clone(&self.versions),
        }
    }

    /// Makes `value` the newest. Who has an older one pinned keeps it; who pins from now on gets this one.
    pub fn publish(&mut self, value: T) {
        let new = Box::into_raw(Box::new(value));
        let guard = epoch::pin();
        let old = self.versions.current.swap(new, Ordering::AcqRel);
        // INVARIANT: `current` always holds a box's pointer, never null.
        let Some(value) = NonNull::new(old) else { return };
        let unseen = Arc::new(AtomicBool::new(false));
        let seen_by_none = Arc::clone(&unseen);
        // Deferred after the swap: whoever pins later cannot find the old value, and this runs only when all who
        // pinned before have let go.
        guard.defer(move || seen_by_none.store(true, Ordering::Release));
        guard.flush();
        drop(guard);
        self.versions.retired().push(Retired { value, unseen });
        self.reclaim();
    }

    /// Frees every old value that no reader can see any more; returns how many are left. [`Self::publish`] does it
    /// too; call this on a beat, so that the last old value does not wait for the next change.
    pub fn reclaim(&mut self) -> usize {
        // Two epochs must pass between retiring and freeing; each flush tries to advance by one.
        for _ in 0..3 {
            epoch::pin().flush();
        }
        let mut retired = self.versions.retired();
        retired.retain(|old| {
            if !old.unseen.load(Ordering::Acquire) {
                return true;
            }
            // SAFETY: the pointer came from a box in `publish` or `new`, was taken out of `current` once, and the
            // epoch has said that no reader holds it.
            drop(unsafe { Box::from_raw(old.value.as_ptr()) });
            false
        });
        retired.len()
    }
}

impl<T> Reader<T> {
    /// The newest value. Costs a few nanoseconds; never waits.
    #[inline]
    #[must_use]
    pub fn pin(&self) -> Pinned<'_, T> {
        let guard = epoch::pin();
        let current = self.versions.current.load(Ordering::Acquire);
        // SAFETY: `current` always holds a box's pointer, never null.
        let value = unsafe { NonNull::new_unchecked(current) };
        Pinned {
            value,
            _guard: guard,
            _reader: PhantomData,
        }
    }
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        Self {
            versions: Arc::clone(&self.versions),
        }
    }
}

impl<T> Deref for Pinned<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: loaded from `current` under the guard that is still held, so it is not freed before the guard is
        // dropped; the reader that is borrowed keeps `Versions`, and with it the current value, alive.
        unsafe { self.value.as_ref() }
    }
}

impl<T> Versions<T> {
    fn retired(&self) -> MutexGuard<'_, Vec<Retired<T>>> {
        self.retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Versions<T> {
    fn drop(&mut self) {
        // The last publisher or reader is gone, and a pinned value borrows its reader: nobody sees anything here.
        let retired = std::mem::take(&mut *self.retired());
        let old = retired.into_iter().map(|old| old.value.as_ptr());
        for value in old.chain([self.current.load(Ordering::Relaxed)]) {
            // SAFETY: every pointer came from a box and stands in exactly one place.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("retired", &self.versions.retired().len())
            .finish()
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Pinned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&**self).finish()
    }
}

#[cfg(all(test, not(crossbeam_loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::{Duration, Instant};

    /// Counts itself while it lives, and knows which thread made it.
    struct Counted {
        number: usize,
        twin: usize,
        alive: Arc<AtomicUsize>,
        made_on: std::thread::ThreadId,
        freed_elsewhere: Arc<AtomicUsize>,
    }

    #[derive(Clone, Default)]
    struct Counters {
        alive: Arc<AtomicUsize>,
        freed_elsewhere: Arc<AtomicUsize>,
    }

    impl Counters {
        fn make(&self, number: usize) -> Counted {
            self.alive.fetch_add(1, Ordering::SeqCst);
            Counted {
                number,
                twin: number,
                alive: Arc::clone(&self.alive),
                made_on: std::thread::current().id(),
                freed_elsewhere: Arc::clone(&self.freed_elsewhere),
            }
        }

        fn alive(&self) -> usize {
            self.alive.load(Ordering::SeqCst)
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            // A reader that still saw it would find the halves apart.
            self.twin = usize::MAX;
            self.alive.fetch_sub(1, Ordering::SeqCst);
            if std::thread::current().id() != self.made_on {
                self.freed_elsewhere.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Reclaims until at most `left` old values are left. Other tests pin the same epoch, so it may take a while.
    fn reclaim_to(publisher: &mut Publisher<Counted>, left: usize) {
        let start = Instant::now();
        while publisher.reclaim() > left {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "old values are never freed"
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn an_old_value_lives_exactly_as_long_as_someone_has_it_pinned() {
        let counters = Counters::default();
        let mut publisher = Publisher::new(counters.make(0));
        let (first, second) = (publisher.reader(), publisher.reader().clone());
        let pinned = first.pin();
        publisher.publish(counters.make(1));
        assert_eq!((pinned.number, second.pin().number), (0, 1));
        for _ in 0..100 {
            publisher.reclaim();
        }
        assert_eq!(counters.alive(), 2, "the pinned one was freed");
        drop(pinned);
        reclaim_to(&mut publisher, 0);
        assert_eq!(counters.alive(), 1);
        assert_eq!(first.pin().number, 1);
    }

    #[test]
    fn the_last_side_to_go_frees_everything_once() {
        let counters = Counters::default();
        let mut publisher = Publisher::new(counters.make(0));
        let reader = publisher.reader();
        {
            let _pinned = reader.pin();
            (1..10).for_each(|number| publisher.publish(counters.make(number)));
            assert_eq!(
                counters.alive(),
                10,
                "all were retired while the first was pinned"
            );
        }
        drop(publisher);
        assert_eq!(reader.pin().number, 9, "the newest outlives its publisher");
        drop(reader);
        assert_eq!(counters.alive(), 0);
    }

    #[test]
    fn readers_never_see_a_freed_value_nor_go_back_in_time_nor_free_anything() {
        const READERS: usize = 3;
        const VERSIONS: usize = 3_000;
        let counters = Counters::default();
        let mut publisher = Publisher::new(counters.make(0));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let reader = publisher.reader();
                std::thread::spawn(move || {
                    let (mut newest, mut seen) = (0, 0_usize);
                    while newest < VERSIONS {
                        let pinned = reader.pin();
                        assert_eq!(pinned.number, pinned.twin, "half of a value, or a freed one");
                        assert!(pinned.number >= newest, "{} after {newest}", pinned.number);
                        seen += usize::from(pinned.number > newest);
                        newest = pinned.number;
                    }
                    seen
                })
            })
            .collect();
        for number in 1..=VERSIONS {
            publisher.publish(counters.make(number));
            if number % 64 == 0 {
                std::thread::yield_now();
            }
        }
        let seen: Vec<usize> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        assert!(seen.iter().all(|changes| *changes > 0), "{seen:?}");
        reclaim_to(&mut publisher, 0);
        assert_eq!(counters.alive(), 1);
        assert_eq!(
            counters.freed_elsewhere.load(Ordering::SeqCst),
            0,
            "a reader freed a value"
        );
    }
}

/// Swap, pin and free in every order.
#[cfg(all(test, crossbeam_loom))]
mod model {
    use super::*;
    use loom::cell::UnsafeCell;
    use loom::sync::atomic::AtomicUsize;

    /// Threads switch at most this often where they need not, so that the model ends.
    const PREEMPTIONS: usize = 2;

    /// A value whose reading and freeing loom watches.
    struct Watched {
        number: UnsafeCell<u32>,
        alive: Arc<AtomicUsize>,
    }

    // SAFETY: read through a shared reference only, and written when dropped, which nobody may see.
    unsafe impl Sync for Watched {}

    impl Watched {
        fn new(number: u32, alive: &Arc<AtomicUsize>) -> Self {
            alive.fetch_add(1, Ordering::Relaxed);
            let (number, alive) = (UnsafeCell::new(number), Arc::clone(alive));
            Self { number, alive }
        }

        fn read(&self) -> u32 {
            // SAFETY: loom stops the model if someone writes meanwhile.
            self.number.with(|number| unsafe { *number })
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            // SAFETY: loom stops the model if someone still reads.
            self.number.with_mut(|number| unsafe { *number = u32::MAX });
            self.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_reader_sees_whole_values_in_order_while_the_publisher_swaps_and_frees() {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(PREEMPTIONS);
        model.check(|| {
            let alive = Arc::new(AtomicUsize::new(0));
            let mut publisher = Publisher::new(Watched::new(0, &alive));
            let reader = publisher.reader();
            let reading = loom::thread::spawn(move || {
                let pinned = reader.pin();
                let first = pinned.read();
                drop(pinned);
                let second = reader.pin().read();
                assert!(first <= second && second <= 1, "{first}, then {second}");
            });
            publisher.publish(Watched::new(1, &alive));
            reading.join().unwrap();
            drop(publisher);
            assert_eq!(alive.load(Ordering::Relaxed), 0, "every value is freed once");
        });
    }
}
