//! The ring protocol in ordinary memory, and under `loom` (see `tests/loom`) in every interleaving.

use super::*;

#[cfg(crossbeam_loom)]
use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicU32 as Index, Ordering as Order},
};
#[cfg(not(crossbeam_loom))]
use std::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicU32 as Index, Ordering as Order},
};

const SIZE: u32 = 2;

struct Model {
    produced: Index,
    consumed: Index,
    entries: [UnsafeCell<u64>; SIZE as usize],
}

// SAFETY: a test's ring is shared by one producer and one consumer, which is what is being tested.
unsafe impl Sync for Model {}
// SAFETY: as above.
unsafe impl Send for Model {}

impl Model {
    fn shared() -> Arc<Self> {
        Arc::new(Self {
            produced: Index::new(u32::MAX), // so that the indices wrap within the test
            consumed: Index::new(u32::MAX),
            entries: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    fn slot(&self, index: u32) -> &UnsafeCell<u64> {
        &self.entries[(index & (SIZE - 1)) as usize]
    }
}

impl Shared for Arc<Model> {
    type Entry = u64;

    fn size(&self) -> u32 {
        SIZE
    }
    fn produced(&self) -> u32 {
        self.produced.load(Order::Acquire)
    }
    fn set_produced(&self, index: u32) {
        self.produced.store(index, Order::Release);
    }
    fn consumed(&self) -> u32 {
        self.consumed.load(Order::Acquire)
    }
    fn set_consumed(&self, index: u32) {
        self.consumed.store(index, Order::Release);
    }
    #[cfg(crossbeam_loom)]
    fn read(&self, index: u32) -> u64 {
        // SAFETY: loom itself checks that no write overlaps.
        self.slot(index).with(|entry| unsafe { *entry })
    }
    #[cfg(crossbeam_loom)]
    fn write(&self, index: u32, entry: u64) {
        // SAFETY: loom itself checks that no access overlaps.
        self.slot(index).with_mut(|slot| unsafe { *slot = entry });
    }
    #[cfg(not(crossbeam_loom))]
    fn read(&self, index: u32) -> u64 {
        // SAFETY: single-threaded test.
        unsafe { *self.slot(index).get() }
    }
    #[cfg(not(crossbeam_loom))]
    fn write(&self, index: u32, entry: u64) {
        // SAFETY: single-threaded test.
        unsafe { *self.slot(index).get() = entry };
    }
}

#[cfg(not(crossbeam_loom))]
#[test]
fn entries_come_out_in_order_and_a_full_ring_says_so() {
    let model = Model::shared();
    let (mut producer, mut consumer) = (Producer::new(model.clone()), Consumer::new(model));
    assert!(producer.push(1) && producer.push(2));
    assert!(!producer.push(3), "two entries fit");
    let mut got = Vec::new();
    assert_eq!(consumer.take(9, |e| got.push(e)), 0, "nothing was published");
    assert!(producer.publish() && !producer.publish());
    assert_eq!(producer.outstanding(), 2);
    assert_eq!(consumer.take(1, |e| got.push(e)), 1);
    assert!(producer.push(3), "one place came back");
    producer.publish();
    consumer.take(9, |e| got.push(e));
    consumer.take(9, |e| got.push(e));
    assert_eq!(got, [1, 2, 3]);
    assert_eq!(producer.outstanding(), 0);
}

/// Three entries through a ring of two: whatever the interleaving, each arrives once, whole and in order, and no
/// entry is written while it is read (loom checks every access).
#[cfg(crossbeam_loom)]
#[test]
fn no_entry_is_torn_lost_or_doubled() {
    loom::model(|| {
        let model = Model::shared();
        let (mut producer, mut consumer) = (Producer::new(model.clone()), Consumer::new(model));
        let sender = loom::thread::spawn(move || {
            for entry in 1..=3 {
                while !producer.push(entry) {
                    loom::thread::yield_now();
                }
                producer.publish();
            }
        });
        let mut got = Vec::new();
        while got.len() < 3 {
            if consumer.take(2, |entry| got.push(entry)) == 0 {
                loom::thread::yield_now();
            }
        }
        sender.join().unwrap();
        assert_eq!(got, [1, 2, 3]);
    });
}

#[cfg(not(crossbeam_loom))]
#[test]
fn there_is_room_for_as_many_as_were_taken() {
    let model = Model::shared();
    let (mut producer, mut consumer) = (Producer::new(model.clone()), Consumer::new(model));
    assert!(producer.has_room(2) && !producer.has_room(3));
    assert!(producer.push(1) && producer.has_room(1) && !producer.has_room(2));
    assert!(producer.push(2) && producer.has_room(0) && !producer.has_room(1));
    producer.publish();
    assert_eq!(consumer.take(1, |_| ()), 1);
    assert!(producer.has_room(1) && !producer.has_room(2));
}

/// A packet of two pieces, and another, through a ring of two: whatever the interleaving, the pieces of a packet for which there
/// was room come together.
#[cfg(crossbeam_loom)]
#[test]
fn pieces_of_a_packet_arrive_together() {
    loom::model(|| {
        let model = Model::shared();
        let (mut producer, mut consumer) = (Producer::new(model.clone()), Consumer::new(model));
        let sender = loom::thread::spawn(move || {
            for packet in [1, 3] {
                while !producer.has_room(2) {
                    loom::thread::yield_now();
                }
                assert!(producer.push(packet) && producer.push(packet + 1));
                producer.publish();
            }
        });
        let mut got = Vec::new();
        while got.len() < 4 {
            let count = consumer.take(2, |entry| got.push(entry));
            assert!(count == 0 || count == 2, "half a packet");
            if count == 0 {
                loom::thread::yield_now();
            }
        }
        sender.join().unwrap();
        assert_eq!(got, [1, 2, 3, 4]);
    });
}
