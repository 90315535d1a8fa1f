//! Frames: owned tokens for pieces of packet memory, and the pool they come from.
//!
//! Packet memory is one region cut into chunks of [`CHUNK_LEN`] bytes. Whoever holds a [`Frame`] owns its chunk:
//! the token is neither `Copy` nor `Clone`, and letting one fall is a bug (a debug build panics; a release build
//! counts it, see [`leaked_frames`]). What the kernel holds is written in the pool's ledger, chunk by chunk, so a
//! socket that goes away, together with whatever it held, gives every chunk back.
//!
//! ```text
//! chunk  |<---- headroom ---->|<---- packet ---->|<-- tailroom -->|
//!        base            base+head         base+head+len    base+CHUNK_LEN
//! ```
//!
//! A header is pushed or pulled by moving `head`; the packet's bytes stay where they are.
//!
//! A packet longer than a chunk lies in a **run**: [`RUN_CHUNKS`] chunks in a row, which the pool keeps for such packets. The
//! kernel hands it over in pieces, a chunk each, and takes it so; in between it is one, and whoever reads or writes it need not
//! know. What joins the pieces is a copy when it is received: nothing is copied when it is sent.
#![allow(unsafe_code)]

mod pool;
mod runs;

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::table::NetworkId;

pub use pool::{Census, Holder, Memory, NotHeld, Pool};
pub(crate) use runs::Parts;

/// Bytes in a chunk. A power of two, as the kernel wants of an aligned UMEM.
pub const CHUNK_LEN: usize = 2048;

/// Bytes before a packet that the kernel leaves free when it receives into a chunk
/// (`XDP_PACKET_HEADROOM` in `linux/bpf.h`), and that we leave free when we write one.
pub const HEADROOM: usize = 256;

/// The longest packet that fits a chunk behind its headroom, in bytes.
pub const MAX_PACKET_LEN: usize = CHUNK_LEN - HEADROOM;

/// Chunks in a run.
pub const RUN_CHUNKS: usize = 5;

/// Bytes in a run.
pub const RUN_LEN: usize = RUN_CHUNKS * CHUNK_LEN;

/// The longest packet that fits a run behind its headroom, in bytes.
pub const MAX_RUN_PACKET_LEN: usize = RUN_LEN - HEADROOM;

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

static LEAKED: AtomicU64 = AtomicU64::new(0);

/// Frames that were let fall since the process started. Anything but zero is a bug.
#[must_use]
pub fn leaked_frames() -> u64 {
    LEAKED.load(Ordering::Relaxed)
}

/// A packet and the chunk of memory it lies in, owned.
///
/// Give it back with [`Pool::give`], or hand it to a port. It belongs to the pool it came from, and no other takes
/// it.
pub struct Frame {
    chunk: NonNull<u8>,
    index: u32,
    head: u16,
    len: u16,
    lane: u16,
    network: NetworkId,
    /// Bytes of its memory: of a chunk, or of a run.
    room: u16,
}

/// There is not enough free memory before or after the packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet does not fit its frame: {wanted} bytes wanted, {free} free")]
pub struct NoRoom {
    /// Bytes asked for.
    pub wanted: usize,
    /// Bytes there are.
    pub free: usize,
}

impl Frame {
    /// Packet length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether the packet has no bytes.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Free bytes before the packet.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> usize {
        usize::from(self.head)
    }

    /// The packet.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the token owns its memory, head + len <= room always (every setter checks), and the pool's
        // memory lives as long as any token (see `Drop for Pool`).
        unsafe { std::slice::from_raw_parts(self.start(), self.len()) }
    }

    /// The packet, to be edited in place.
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len()) }
    }

    /// Where the packet starts.
    #[inline]
    fn start(&self) -> *mut u8 {
        self.chunk.as_ptr().wrapping_add(self.headroom())
    }

    /// Grows the packet by `N` bytes at its front and returns them, not cleared, to be written.
    ///
    /// # Errors
    /// [`NoRoom`] when the headroom is smaller; the frame is as it was.
    #[inline]
    pub fn push<const N: usize>(&mut self) -> Result<&mut [u8; N], NoRoom> {
        let free = self.headroom();
        let Some(head) = free.checked_sub(N) else {
            return Err(NoRoom { wanted: N, free });
        };
        self.place(head, self.len() + N);
        // INVARIANT: the packet has just grown by N bytes, so its first N exist.
        self.bytes_mut()
            .first_chunk_mut::<N>()
            .ok_or(NoRoom { wanted: N, free })
    }

    /// Shrinks the packet by `count` bytes at its front.
    ///
    /// # Errors
    /// [`NoRoom`] when the packet is shorter; the frame is as it was.
    #[inline]
    pub fn pull(&mut self, count: usize) -> Result<(), NoRoom> {
        let Some(len) = self.len().checked_sub(count) else {
            return Err(NoRoom {
                wanted: count,
                free: self.len(),
            });
        };
        self.place(self.headroom() + count, len);
        Ok(())
    }

    /// Cuts the packet to its first `len` bytes; a packet that is already shorter stays as it is.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        let len = len.min(self.len());
        self.place(self.headroom(), len);
    }

    /// Makes the packet `packet`, behind a fresh headroom.
    ///
    /// # Errors
    /// [`NoRoom`] when `packet` is longer than [`MAX_PACKET_LEN`], or [`MAX_RUN_PACKET_LEN`] in a run; the frame is as it was.
    pub fn fill(&mut self, packet: &[u8]) -> Result<(), NoRoom> {
        self.fill_by(packet.len(), |bytes| bytes.copy_from_slice(packet))
    }

    /// Makes the packet what `write` writes into `len` bytes behind a fresh headroom; they are not cleared.
    ///
    /// # Errors
    /// As [`Self::fill`].
    #[inline]
    pub fn fill_by(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> Result<(), NoRoom> {
        let free = usize::from(self.room) - HEADROOM;
        if len > free {
            return Err(NoRoom { wanted: len, free });
        }
        self.place(HEADROOM, len);
        write(self.bytes_mut());
        Ok(())
    }

    /// Asks the processor to fetch the first cache line of the packet.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch is a hint; it never faults and changes nothing but the cache.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.start().cast());
        }
    }

    /// Asks the processor for the second cache line of the packet, where what is in a VXLAN tunnel begins.
    #[inline]
    pub fn prefetch_second_line(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `prefetch`.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.start().wrapping_add(CACHE_LINE).cast());
        }
    }

    /// Asks the processor for the cache line before the packet, where an outer header is going to be written.
    #[inline]
    pub fn prefetch_headroom(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as in `prefetch`.
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.start().wrapping_sub(CACHE_LINE).cast());
        }
    }

    /// Which chunk of the pool this is, `0..frames`.
    #[inline]
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Which of several queues of its exit port the packet takes: packets of one lane stay in order, so all of a flow
    /// have the same. A frame that was just taken, or received, is in lane 0.
    #[inline]
    #[must_use]
    pub fn lane(&self) -> u16 {
        self.lane
    }

    /// Puts the packet into a lane; any number is one.
    #[inline]
    pub fn set_lane(&mut self, lane: u16) {
        self.lane = lane;
    }

    /// The routed network whose packet it is, while it walks. A frame that was just taken, or received, is in the cluster's own.
    #[inline]
    #[must_use]
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// Says whose packet it is.
    #[inline]
    pub fn set_network(&mut self, network: NetworkId) {
        self.network = network;
    }

    /// The packet's offset from the start of the pool's memory, in bytes: the address in an AF_XDP descriptor.
    #[inline]
    #[must_use]
    pub fn address(&self) -> u64 {
        u64::from(self.index) * CHUNK_LEN as u64 + u64::from(self.head)
    }

    /// Whether it lies in a run of chunks.
    #[inline(always)]
    #[must_use]
    pub fn is_run(&self) -> bool {
        usize::from(self.room) > CHUNK_LEN
    }

    /// Makes the packet longer by `more`.
    ///
    /// # Errors
    /// [`NoRoom`] when there is not so much room behind it; the frame is as it was.
    pub fn append(&mut self, more: &[u8]) -> Result<(), NoRoom> {
        let (head, len) = (self.headroom(), self.len());
        let free = usize::from(self.room) - head - len;
        if more.len() > free {
            let wanted = more.len();
            return Err(NoRoom { wanted, free });
        }
        self.place(head, len + more.len());
        if let Some(place) = self.bytes_mut().get_mut(len..) {
            place.copy_from_slice(more);
        }
        Ok(())
    }

    /// Moves the packet's bounds; `head + len` must not exceed its memory.
    #[inline]
    fn place(&mut self, head: usize, len: usize) {
        debug_assert!(head + len <= usize::from(self.room));
        // INVARIANT: both are at most RUN_LEN, which fits 16 bits.
        #[allow(clippy::cast_possible_truncation)]
        {
            self.head = head as u16;
            self.len = len as u16;
        }
    }
}

// SAFETY: a token is the only way to its chunk, as a `Box` is to its contents; nothing of it is bound to a thread.
unsafe impl Send for Frame {}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Frame {{ index: {}, head: {}, len: {} }}",
            self.index, self.head, self.len
        )
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        LEAKED.fetch_add(1, Ordering::Relaxed);
        debug_assert!(std::thread::panicking(), "frame {} was let fall", self.index);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn whole(pool: &Pool) -> bool {
        let census = pool.census();
        census.free == pool.frames() && pool.available() == pool.frames() as usize
    }

    #[test]
    fn a_header_is_pushed_and_pulled_without_moving_the_packet() {
        let mut pool = Pool::on_heap(4);
        let mut frame = pool.take_with(b"payload").unwrap();
        let at = frame.bytes().as_ptr();
        frame.push::<50>().unwrap().fill(0xa5);
        assert_eq!(frame.len(), 57);
        assert_eq!(frame.bytes()[50..].as_ptr(), at);
        assert_eq!(frame.address() % CHUNK_LEN as u64, (HEADROOM - 50) as u64);
        frame.pull(50).unwrap();
        assert_eq!(frame.bytes(), b"payload");
        pool.give(frame);
        assert!(whole(&pool));
    }

    #[test]
    fn bounds_are_kept() {
        let mut pool = Pool::on_heap(1);
        let mut frame = pool.take_with(&[1; 100]).unwrap();
        assert_eq!(
            frame.push::<257>().unwrap_err(),
            NoRoom {
                wanted: 257,
                free: 256
            }
        );
        assert_eq!(
            frame.pull(101).unwrap_err(),
            NoRoom {
                wanted: 101,
                free: 100
            }
        );
        assert_eq!(frame.len(), 100);
        assert!(frame.fill(&[0; MAX_PACKET_LEN + 1]).is_err());
        frame.fill(&[7; MAX_PACKET_LEN]).unwrap();
        assert!(frame.bytes().iter().all(|b| *b == 7));
        frame.truncate(9);
        assert_eq!(frame.len(), 9);
        assert!(pool.take().is_none(), "the only chunk is out");
        pool.give(frame);
        assert!(whole(&pool));
    }

    #[test]
    fn the_ledger_knows_who_has_a_chunk() {
        let (a, b) = (Holder::port(0), Holder::port(1));
        let mut pool = Pool::on_heap(8);
        let frame = pool.take_with(b"x").unwrap();
        let sent = pool.lend(frame, a);
        let empty = pool.lend_empty(b).unwrap();
        assert_eq!(
            pool.census(),
            Census {
                free: 6,
                in_tokens: 0,
                in_ports: 2
            }
        );
        assert!(pool.complete(sent, b).is_err(), "b never had it");
        assert!(pool.receive(empty, 3000, b).is_err(), "longer than a chunk");
        assert!(pool.receive(u64::MAX, 1, b).is_err(), "outside the memory");
        let got = pool.receive(empty + HEADROOM as u64, 60, b).unwrap();
        assert_eq!((got.len(), got.headroom()), (60, HEADROOM));
        assert!(
            pool.receive(empty + HEADROOM as u64, 60, b).is_err(),
            "came back twice"
        );
        pool.give(got);
        pool.complete(sent, a).unwrap();
        assert!(whole(&pool));
    }

    #[test]
    fn a_vanished_port_gives_everything_back() {
        let gone = Holder::port(3);
        let mut pool = Pool::on_heap(16);
        for _ in 0..10 {
            pool.lend_empty(gone).unwrap();
        }
        let kept = pool.lend_empty(Holder::port(4)).unwrap();
        assert_eq!(pool.reclaim(gone), 10);
        assert_eq!(pool.reclaim(gone), 0);
        assert_eq!(
            pool.census(),
            Census {
                free: 15,
                in_tokens: 0,
                in_ports: 1
            }
        );
        pool.complete(kept, Holder::port(4)).unwrap();
        assert!(whole(&pool));
    }

    #[test]
    fn a_frame_let_fall_is_noticed() {
        let before = leaked_frames();
        let fallen = std::panic::catch_unwind(|| {
            let mut pool = Pool::on_heap(1);
            drop(pool.take());
        });
        assert_eq!(fallen.is_err(), cfg!(debug_assertions));
        assert!(leaked_frames() > before);
    }
}
