//! Runs: chunks in a row for packets longer than one.
//!
//! They are the last chunks of the pool, and nothing else is ever in them; so an ordinary frame costs no more than to be told
//! apart from one. A run that was lent comes back piece by piece, and is free when the last one has.

use super::pool::{Holder, Pool};
use super::{CHUNK_LEN, Frame, RUN_CHUNKS};

/// Chunks in a run, in the width of a chunk's number.
#[allow(clippy::cast_possible_truncation)] // INVARIANT: a handful.
const CHUNKS: u32 = RUN_CHUNKS as u32;

/// The runs of a pool.
#[derive(Debug)]
pub(super) struct Runs {
    /// The first chunk of the first run.
    first: u32,
    /// The first chunks of those that are free.
    free: Vec<u32>,
    /// Of each run, how many chunks are lent.
    lent: Vec<u8>,
}

/// A part of a packet in a run, as a device takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Part {
    /// Its offset in the pool's memory, in bytes.
    pub(crate) address: u64,
    /// Its length, in bytes.
    pub(crate) len: u32,
}

/// The parts of a packet in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    parts: [Part; RUN_CHUNKS],
    count: usize,
}

impl Parts {
    pub(crate) fn as_slice(&self) -> &[Part] {
        self.parts.get(..self.count).unwrap_or_default()
    }

    /// Those of a frame: what of the packet lies in each chunk.
    pub(crate) fn of(frame: &Frame) -> Self {
        let mut parts = Self {
            parts: [Part::default(); RUN_CHUNKS],
            count: 0,
        };
        let (mut address, mut left) = (frame.address(), frame.len());
        for part in &mut parts.parts {
            // INVARIANT: the remainder is below CHUNK_LEN.
            #[allow(clippy::cast_possible_truncation)]
            let len = left.min(CHUNK_LEN - (address % CHUNK_LEN as u64) as usize);
            if len == 0 {
                break;
            }
            // INVARIANT: a part is at most CHUNK_LEN long.
            #[allow(clippy::cast_possible_truncation)]
            {
                *part = Part {
                    address,
                    len: len as u32,
                };
            }
            parts.count += 1;
            address += len as u64;
            left -= len;
        }
        parts
    }
}

impl Runs {
    /// None.
    pub(super) const NONE: Self = Self {
        first: u32::MAX,
        free: Vec::new(),
        lent: Vec::new(),
    };

    /// At most `count`, in the last of `frames` chunks.
    pub(super) fn of(frames: u32, count: u32) -> Self {
        let count = count.min(frames / CHUNKS);
        let first = frames - count * CHUNKS;
        Self {
            first,
            free: (0..count).rev().map(|run| first + run * CHUNKS).collect(),
            lent: vec![0; count as usize],
        }
    }

    /// The first chunk that is a run's; beyond all where there is none.
    #[inline(always)]
    pub(super) fn first(&self) -> u32 {
        self.first
    }
}

impl Pool {
    /// Takes an empty run, behind a full headroom; `None` when there is none left.
    pub fn take_run(&mut self) -> Option<Frame> {
        let index = self.runs.free.pop()?;
        self.mark_run(index, Holder::TOKEN);
        Some(self.run_token(index))
    }

    /// How many runs are ready to be taken.
    #[must_use]
    pub fn available_runs(&self) -> usize {
        self.runs.free.len()
    }

    /// Takes a run back.
    #[cold]
    pub(super) fn give_run(&mut self, frame: Frame) {
        let index = self.own(&frame);
        std::mem::forget(frame);
        self.mark_run(index, Holder::FREE);
        self.runs.free.push(index);
    }

    /// Lends the parts of a run that the packet lies in to a port. Nothing is lent of a packet of no bytes.
    pub(crate) fn lend_run(&mut self, frame: Frame, to: Holder) -> Parts {
        let parts = Parts::of(&frame);
        if parts.as_slice().is_empty() {
            self.give_run(frame);
            return parts;
        }
        let index = self.own(&frame);
        std::mem::forget(frame);
        self.mark_run(index, Holder::FREE);
        for part in parts.as_slice() {
            // INVARIANT: a part lies in a chunk of the pool, whose numbers are of this width.
            if let Ok(chunk) = u32::try_from(part.address / CHUNK_LEN as u64) {
                self.set_holder(chunk, to);
            }
        }
        if let Some(lent) = self
            .runs
            .lent
            .get_mut(((index - self.runs.first) / CHUNKS) as usize)
        {
            // INVARIANT: at most RUN_CHUNKS.
            *lent = u8::try_from(parts.count).unwrap_or(u8::MAX);
        }
        parts
    }

    /// A chunk of a run that was lent has come back, and is free by the ledger already.
    #[cold]
    pub(super) fn complete_run(&mut self, chunk: u32) {
        let run = (chunk - self.runs.first) / CHUNKS;
        let Some(lent) = self.runs.lent.get_mut(run as usize) else {
            return;
        };
        *lent = lent.saturating_sub(1);
        if *lent == 0 {
            self.runs.free.push(self.runs.first + run * CHUNKS);
        }
    }

    fn mark_run(&mut self, index: u32, holder: Holder) {
        for chunk in index..index + CHUNKS {
            self.set_holder(chunk, holder);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame::{HEADROOM, MAX_PACKET_LEN, MAX_RUN_PACKET_LEN, RUN_LEN};

    fn pool(frames: u32, runs: u32) -> Pool {
        let mut pool = Pool::on_heap(frames);
        pool.keep_runs(runs);
        pool
    }

    fn whole(pool: &Pool, runs: usize) -> bool {
        let ordinary = pool.frames() as usize - runs * RUN_CHUNKS;
        (pool.census().free, pool.available(), pool.available_runs()) == (pool.frames(), ordinary, runs)
    }

    #[test]
    fn a_long_packet_is_one_and_leaves_in_parts() {
        let mut pool = pool(16, 2);
        assert!(whole(&pool, 2) && pool.available() == 6);
        let packet: Vec<u8> = (0..9000_u32).map(|n| (n % 251) as u8).collect();
        let mut frame = pool.take_with(&packet).unwrap();
        assert_eq!((frame.bytes(), frame.headroom()), (&packet[..], HEADROOM));
        frame.push::<50>().unwrap().fill(0xa5);
        assert_eq!(frame.bytes()[50..], packet);
        frame.pull(50).unwrap();
        let port = Holder::port(3);
        let parts = pool.lend_run(frame, port);
        let lens: Vec<u32> = parts.as_slice().iter().map(|part| part.len).collect();
        assert_eq!(lens, [1792, 2048, 2048, 2048, 1064]);
        assert_eq!(pool.census().in_ports, 5);
        for (place, part) in parts.as_slice().iter().enumerate() {
            assert_eq!(part.address % CHUNK_LEN as u64, if place == 0 { 256 } else { 0 });
            assert_eq!(pool.available_runs(), 1, "until the last part is back");
            pool.complete(part.address, port).unwrap();
            assert!(pool.complete(part.address, port).is_err(), "twice");
        }
        assert!(whole(&pool, 2));
    }

    #[test]
    fn its_bounds_are_those_of_its_memory() {
        let mut pool = pool(11, 2);
        assert!(pool.take_with(&[0; MAX_RUN_PACKET_LEN + 1]).is_none());
        let mut run = pool.take_run().unwrap();
        run.fill(&[1; MAX_RUN_PACKET_LEN]).unwrap();
        assert!(run.append(&[1]).is_err() && run.len() == RUN_LEN - HEADROOM);
        run.fill(&[7; 100]).unwrap();
        run.append(&[8; 3000]).unwrap();
        assert_eq!((run.len(), run.bytes()[99], run.bytes()[100]), (3100, 7, 8));
        pool.give(run);
        let mut frame = pool.take_with(&[1; MAX_PACKET_LEN]).unwrap();
        assert!(!frame.is_run() && frame.append(&[1]).is_err());
        pool.give(frame);
        let runs: Vec<_> = std::iter::from_fn(|| pool.take_with(&[0; 5000])).collect();
        assert_eq!(runs.len(), 2, "and no ordinary chunk is taken for such a packet");
        runs.into_iter().for_each(|run| pool.give(run));
        let empty = pool.take_run().unwrap();
        assert!(pool.lend_run(empty, Holder::port(1)).as_slice().is_empty());
        assert!(whole(&pool, 2));
    }

    #[test]
    fn a_vanished_port_gives_runs_back_however_far_it_was() {
        let (gone, kept) = (Holder::port(1), Holder::port(2));
        let mut pool = pool(20, 3);
        let frames: Vec<_> = (0..3).map(|_| pool.take_with(&[9; 5000]).unwrap()).collect();
        let mut frames = frames.into_iter();
        let first = pool.lend_run(frames.next().unwrap(), gone);
        pool.lend_run(frames.next().unwrap(), gone);
        let third = pool.lend_run(frames.next().unwrap(), kept);
        pool.complete(first.as_slice()[1].address, gone).unwrap();
        assert_eq!(
            pool.reclaim(gone),
            5,
            "of two packets of three parts one was back"
        );
        assert_eq!(pool.available_runs(), 2);
        for part in third.as_slice() {
            pool.complete(part.address, kept).unwrap();
        }
        assert!(whole(&pool, 3));
    }

    /// Whatever is taken, lent, given back and reclaimed: every chunk is in one place, and all are there in the end.
    #[test]
    fn the_pool_is_whole_after_anything() {
        let strategy = proptest::collection::vec((0..6_u8, 0..9000_usize), 1..120);
        let runner = &mut proptest::test_runner::TestRunner::default();
        let outcome = runner.run(&strategy, |steps| {
            let mut pool = pool(40, 4);
            let port = Holder::port(7);
            let (mut tokens, mut lent) = (Vec::new(), Vec::new());
            for (step, len) in steps {
                match step {
                    0 | 1 => tokens.extend(pool.take_with(&vec![0xa5; len])),
                    2 if !tokens.is_empty() => pool.give(tokens.swap_remove(len % tokens.len())),
                    3 if !tokens.is_empty() => {
                        let frame = tokens.swap_remove(len % tokens.len());
                        if frame.is_run() {
                            lent.extend(
                                pool.lend_run(frame, port)
                                    .as_slice()
                                    .iter()
                                    .map(|part| part.address),
                            );
                        } else {
                            lent.push(pool.lend(frame, port));
                        }
                    }
                    4 if !lent.is_empty() => {
                        let address = lent.swap_remove(len % lent.len());
                        proptest::prop_assert!(pool.complete(address, port).is_ok());
                    }
                    5 if len % 8 == 0 => {
                        proptest::prop_assert_eq!(pool.reclaim(port), lent.len());
                        lent.clear();
                    }
                    _ => {}
                }
                let census = pool.census();
                proptest::prop_assert_eq!(census.in_ports as usize, lent.len());
                proptest::prop_assert_eq!(census.free + census.in_tokens + census.in_ports, 40);
            }
            tokens.into_iter().for_each(|frame| pool.give(frame));
            pool.reclaim(port);
            proptest::prop_assert!(whole(&pool, 4));
            Ok(())
        });
        assert_eq!(outcome, Ok(()));
    }
}
