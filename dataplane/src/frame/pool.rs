//! The pool that frames come from, and the ledger of who has which chunk.

use std::alloc::Layout;
use std::ptr::NonNull;

use super::runs::Runs;
use super::{CHUNK_LEN, Frame, HEADROOM, MAX_PACKET_LEN, RUN_LEN};
use crate::table::NetworkId;

/// Who has a chunk. Ports get theirs from [`Holder::port`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder(u16);

impl Holder {
    pub(super) const FREE: Self = Self(0);
    pub(super) const TOKEN: Self = Self(1);
    const FIRST_PORT: u16 = 2;

    /// The holder for a port's queue; `slot` is the worker's own number for it, `0..65534`.
    #[must_use]
    pub fn port(slot: u16) -> Self {
        Self(slot.saturating_add(Self::FIRST_PORT))
    }
}

/// Where every chunk of a pool is. The sum is the pool's size, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Census {
    /// In the pool, ready to be taken.
    pub free: u32,
    /// In a token somewhere on the worker.
    pub in_tokens: u32,
    /// In a port's rings or with the kernel.
    pub in_ports: u32,
}

/// The memory of one worker's frames, and the ledger of who has which.
pub struct Pool {
    base: NonNull<u8>,
    free: Vec<u32>,
    pub(super) holders: Box<[Holder]>,
    pub(super) runs: Runs,
    memory: Option<Box<dyn Memory>>,
}

/// Something that keeps the pool's bytes mapped; dropped with the pool.
pub trait Memory: Send {}

/// A chunk came back that its port did not hold: the kernel or a ring is out of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("frame address {address:#x} came back from a port that does not hold it")]
pub struct NotHeld {
    /// The offset that came back, in bytes from the start of the pool's memory.
    pub address: u64,
}

impl Pool {
    /// A pool over `frames` chunks that start at `base`; `memory` keeps them mapped.
    ///
    /// # Safety
    /// `base` must point at `frames * CHUNK_LEN` bytes that stay valid while `memory` lives, and that nothing else
    /// touches except a kernel to which a chunk was lent on loan.
    #[must_use]
    pub unsafe fn from_raw(base: NonNull<u8>, frames: u32, memory: Box<dyn Memory>) -> Self {
        let free = (0..frames).rev().collect();
        let holders = vec![Holder::FREE; frames as usize].into_boxed_slice();
        Self {
            base,
            free,
            holders,
            runs: Runs::NONE,
            memory: Some(memory),
        }
    }

    /// A pool of `frames` chunks on the heap, for tests and benchmarks without a device.
    #[must_use]
    pub fn on_heap(frames: u32) -> Self {
        let (heap, base) = Heap::new(frames);
        // SAFETY: `Heap` owns exactly these bytes and lives in the pool.
        unsafe { Self::from_raw(base, frames, Box::new(heap)) }
    }

    /// How many chunks the pool has in all.
    #[must_use]
    pub fn frames(&self) -> u32 {
        // INVARIANT: the pool was made from a u32 count.
        u32::try_from(self.holders.len()).unwrap_or(u32::MAX)
    }

    /// Keeps the last chunks of the pool for `count` runs, as far as there are so many. To be called once, before anything is
    /// taken.
    pub fn keep_runs(&mut self, count: u32) {
        self.runs = Runs::of(self.frames(), count);
        let first = self.runs.first();
        self.free.retain(|index| *index < first);
    }

    /// How many chunks are ready to be taken, those of runs left out.
    #[inline]
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Takes an empty frame, behind a full headroom; `None` when the pool is exhausted.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        self.set_holder(index, Holder::TOKEN);
        #[allow(clippy::cast_possible_truncation)]
        Some(self.token(index, HEADROOM as u16, 0))
    }

    /// Takes a frame and copies `packet` into it, a run if it is longer than a chunk; `None` when the pool is exhausted or the
    /// packet too long.
    pub fn take_with(&mut self, packet: &[u8]) -> Option<Frame> {
        let mut frame = if packet.len() > MAX_PACKET_LEN {
            self.take_run()?
        } else {
            self.take()?
        };
        match frame.fill(packet) {
            Ok(()) => Some(frame),
            Err(_) => {
                self.give(frame);
                None
            }
        }
    }

    /// Takes a frame back.
    #[inline]
    pub fn give(&mut self, frame: Frame) {
        if frame.is_run() {
            return self.give_run(frame);
        }
        let index = self.own(&frame);
        std::mem::forget(frame);
        self.set_holder(index, Holder::FREE);
        self.free.push(index);
    }

    /// Lends a frame's chunk to a port; returns the packet's offset in the pool's memory, in bytes. A run is lent by
    /// [`Self::lend_run`].
    #[inline]
    pub(crate) fn lend(&mut self, frame: Frame, to: Holder) -> u64 {
        debug_assert!(!frame.is_run(), "a run is lent in pieces");
        let address = frame.address();
        let index = self.own(&frame);
        self.set_holder(index, to);
        std::mem::forget(frame);
        address
    }

    /// Lends an empty chunk to a port, to be received into: its offset in the pool's memory, in bytes; `None` when the
    /// pool is exhausted.
    #[inline]
    pub fn lend_empty(&mut self, to: Holder) -> Option<u64> {
        let index = self.free.pop()?;
        self.set_holder(index, to);
        Some(u64::from(index) * CHUNK_LEN as u64)
    }

    /// A packet came back from a port: its offset and length, in bytes.
    ///
    /// # Errors
    /// [`NotHeld`] when the port does not hold that chunk or the packet does not lie in it; nothing changes.
    #[inline]
    pub(crate) fn receive(&mut self, address: u64, len: u32, from: Holder) -> Result<Frame, NotHeld> {
        let index = self.held(address, from)?;
        // INVARIANT: the remainder is below CHUNK_LEN and thus fits.
        #[allow(clippy::cast_possible_truncation)]
        let head = (address % CHUNK_LEN as u64) as u16;
        let Ok(len) = u16::try_from(len) else {
            return Err(NotHeld { address });
        };
        if usize::from(head) + usize::from(len) > CHUNK_LEN {
            return Err(NotHeld { address });
        }
        self.set_holder(index, Holder::TOKEN);
        Ok(self.token(index, head, len))
    }

    /// A chunk came back from a port with nothing of interest in it: it goes straight to the free ones.
    ///
    /// # Errors
    /// [`NotHeld`] when the port does not hold that chunk; nothing changes.
    #[inline]
    pub(crate) fn complete(&mut self, address: u64, from: Holder) -> Result<(), NotHeld> {
        let index = self.held(address, from)?;
        self.set_holder(index, Holder::FREE);
        if index < self.runs.first() {
            self.free.push(index);
        } else {
            self.complete_run(index);
        }
        Ok(())
    }

    /// Takes back every chunk that a port held. Call it when the port's socket is closed, never before: until
    /// then the kernel may write into them. Returns how many there were.
    pub(crate) fn reclaim(&mut self, from: Holder) -> usize {
        let (first, mut count) = (self.runs.first(), 0);
        for index in 0..self.frames() {
            if self.holders.get(index as usize) != Some(&from) {
                continue;
            }
            count += 1;
            self.set_holder(index, Holder::FREE);
            if index < first {
                self.free.push(index);
            } else {
                self.complete_run(index);
            }
        }
        count
    }

    /// Counts every chunk by where it is. Walks the whole ledger: for tests, detach and `stats`.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for holder in &self.holders {
            match *holder {
                Holder::FREE => census.free += 1,
                Holder::TOKEN => census.in_tokens += 1,
                _ => census.in_ports += 1,
            }
        }
        census
    }

    /// The frame's index, once it is sure that the frame came from here: a token put into a stranger's ledger
    /// would give one chunk two owners.
    #[inline]
    pub(super) fn own(&self, frame: &Frame) -> u32 {
        // INVARIANT: a worker has one pool, so this never fires outside a wrong test.
        assert!(
            frame.chunk.as_ptr() == self.chunk(frame.index).as_ptr(),
            "a frame of another pool"
        );
        frame.index
    }

    /// The chunk at `address`, if `by` holds it.
    #[inline]
    fn held(&self, address: u64, by: Holder) -> Result<u32, NotHeld> {
        let index = address / CHUNK_LEN as u64;
        let holder = usize::try_from(index).ok().and_then(|i| self.holders.get(i));
        match (holder, u32::try_from(index)) {
            (Some(holder), Ok(index)) if *holder == by => Ok(index),
            _ => Err(NotHeld { address }),
        }
    }

    #[inline]
    pub(super) fn set_holder(&mut self, index: u32, holder: Holder) {
        if let Some(entry) = self.holders.get_mut(index as usize) {
            *entry = holder;
        }
    }

    #[inline]
    fn token(&self, index: u32, head: u16, len: u16) -> Frame {
        #[allow(clippy::cast_possible_truncation)] // INVARIANT: a constant below 2^16.
        self.token_of(index, head, len, CHUNK_LEN as u16)
    }

    /// An empty run, behind a full headroom.
    pub(super) fn run_token(&self, index: u32) -> Frame {
        #[allow(clippy::cast_possible_truncation)] // INVARIANT: constants below 2^16.
        self.token_of(index, HEADROOM as u16, 0, RUN_LEN as u16)
    }

    #[inline(always)]
    fn token_of(&self, index: u32, head: u16, len: u16, room: u16) -> Frame {
        Frame {
            chunk: self.chunk(index),
            index,
            head,
            len,
            lane: 0,
            network: NetworkId::CLUSTER,
            room,
        }
    }

    /// Where a chunk starts; the pointer is only good for an index below [`Self::frames`].
    #[inline]
    fn chunk(&self, index: u32) -> NonNull<u8> {
        let start = self.base.as_ptr().wrapping_add(index as usize * CHUNK_LEN);
        NonNull::new(start).unwrap_or(self.base)
    }
}

// SAFETY: the pool itself never touches packet memory, only tokens do, each its own chunk; so a pool that moves to
// another thread races with nothing.
unsafe impl Send for Pool {}

impl Drop for Pool {
    fn drop(&mut self) {
        // A token may outlive the pool (a panic's unwinding, a test's mistake). Its memory must then stay mapped,
        // so that the token's slices stay valid: give the mapping up rather than pull it away.
        if self.census().in_tokens > 0 {
            std::mem::forget(self.memory.take());
        }
    }
}

/// Chunks on the heap, aligned to a page as a UMEM is.
struct Heap {
    base: NonNull<u8>,
    layout: Layout,
}

impl Heap {
    const PAGE_LEN: usize = 4096;

    fn new(frames: u32) -> (Self, NonNull<u8>) {
        let len = (frames.max(1) as usize) * CHUNK_LEN;
        // INVARIANT: PAGE_LEN is a power of two, and 2^32 chunks of 2 KiB stay below isize::MAX.
        let layout = Layout::from_size_align(len, Self::PAGE_LEN).unwrap_or(Layout::new::<u8>());
        // SAFETY: the layout's size is not zero.
        let start = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(start) else {
            std::alloc::handle_alloc_error(layout)
        };
        (Self { base, layout }, base)
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed once.
        unsafe { std::alloc::dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: `Heap` is the sole owner of its memory and has no thread-bound state.
unsafe impl Send for Heap {}

impl Memory for Heap {}
