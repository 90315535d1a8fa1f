//! The single-producer, single-consumer rings that an AF_XDP socket shares with the kernel.
//!
//! A ring is an array of `size` entries (a power of two) and two free-running 32-bit indices. The producer writes
//! entries, then publishes its index with release; the consumer reads the index with acquire, then the entries.
//! Source: kernel documentation, `networking/af_xdp`, "Rings", and `net/xdp/xsk_queue.h`.
//!
//! xsk-rs has rings of its own, but their descriptors cannot say where in a chunk a packet starts, and a tunnel
//! header is pushed by moving exactly that. So the same ring memory is mapped a second time here, and only this
//! module moves the indices. The protocol is generic over where the indices live, so that `loom` can check it.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// The memory of a ring: indices and entries that two parties see.
pub(crate) trait Shared {
    /// What an entry is.
    type Entry: Copy;
    /// Entries in the ring: a power of two.
    fn size(&self) -> u32;
    /// The producer's index, read with acquire.
    fn produced(&self) -> u32;
    /// Publishes the producer's index with release.
    fn set_produced(&self, index: u32);
    /// The consumer's index, read with acquire.
    fn consumed(&self) -> u32;
    /// Publishes the consumer's index with release.
    fn set_consumed(&self, index: u32);
    /// Reads the entry at `index % size`; only the consumer may, between its index and the producer's.
    fn read(&self, index: u32) -> Self::Entry;
    /// Writes the entry at `index % size`; only the producer may, in free entries.
    fn write(&self, index: u32, entry: Self::Entry);
}

/// Our end of a ring into which we put entries.
#[derive(Debug)]
pub(crate) struct Producer<S> {
    shared: S,
    /// Entries written, published or not.
    written: u32,
    /// Entries the other side can see.
    published: u32,
    /// The consumer's index when last read; it only ever trails.
    seen: u32,
}

impl<S: Shared> Producer<S> {
    pub(crate) fn new(shared: S) -> Self {
        let (written, seen) = (shared.produced(), shared.consumed());
        Self {
            shared,
            written,
            published: written,
            seen,
        }
    }

    /// Writes one entry; false when the ring is full. The other side sees it after [`Self::publish`].
    #[inline]
    pub(crate) fn push(&mut self, entry: S::Entry) -> bool {
        if self.written.wrapping_sub(self.seen) >= self.shared.size() {
            self.seen = self.shared.consumed();
            if self.written.wrapping_sub(self.seen) >= self.shared.size() {
                return false;
            }
        }
        self.shared.write(self.written, entry);
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Whether `count` more entries find room.
    pub(crate) fn has_room(&mut self, count: u32) -> bool {
        let has = |seen: u32| self.written.wrapping_sub(seen) + count <= self.shared.size();
        if !has(self.seen) {
            self.seen = self.shared.consumed();
        }
        self.written.wrapping_sub(self.seen) + count <= self.shared.size()
    }

    /// Lets the other side see what was written; true if there was anything new.
    #[inline]
    pub(crate) fn publish(&mut self) -> bool {
        let news = self.written != self.published;
        if news {
            self.shared.set_produced(self.written);
            self.published = self.written;
        }
        news
    }

    /// Published entries that the other side has not consumed yet.
    #[inline]
    pub(crate) fn outstanding(&mut self) -> u32 {
        self.seen = self.shared.consumed();
        self.published.wrapping_sub(self.seen)
    }

    /// How many entries the other side had consumed when that was looked at last; the number wraps.
    #[inline]
    pub(crate) fn consumed(&self) -> u32 {
        self.seen
    }
}

impl<E: Copy> Producer<Mapped<E>> {
    /// Whether the driver has stopped looking at this ring and waits for a system call (`XDP_RING_NEED_WAKEUP`). What
    /// was published before this call is not missed: either the driver sees it, or its flag is seen here.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        self.shared.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// Our end of a ring from which we take entries.
#[derive(Debug)]
pub(crate) struct Consumer<S> {
    shared: S,
    taken: u32,
    seen: u32,
}

impl<S: Shared> Consumer<S> {
    pub(crate) fn new(shared: S) -> Self {
        let taken = shared.consumed();
        Self {
            shared,
            taken,
            seen: taken,
        }
    }

    /// Takes up to `max` entries, calls `each` with every one, and gives their places back to the producer.
    #[inline]
    pub(crate) fn take(&mut self, max: u32, mut each: impl FnMut(S::Entry)) -> u32 {
        if self.seen == self.taken {
            self.seen = self.shared.produced();
        }
        let count = self.seen.wrapping_sub(self.taken).min(max);
        for offset in 0..count {
            each(self.shared.read(self.taken.wrapping_add(offset)));
        }
        if count > 0 {
            self.taken = self.taken.wrapping_add(count);
            self.shared.set_consumed(self.taken);
        }
        count
    }
}

/// Which of a socket's rings to map. Page offsets are those of `linux/if_xdp.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RingKind {
    Receive,
    Transmit,
    Fill,
    Completion,
}

impl RingKind {
    fn page_offset(self) -> libc::off_t {
        // INVARIANT: the constants are small positive numbers (at most 0x180000000).
        #[allow(clippy::cast_possible_wrap)]
        match self {
            Self::Receive => libc::XDP_PGOFF_RX_RING as libc::off_t,
            Self::Transmit => libc::XDP_PGOFF_TX_RING as libc::off_t,
            Self::Fill => libc::XDP_UMEM_PGOFF_FILL_RING as libc::off_t,
            Self::Completion => libc::XDP_UMEM_PGOFF_COMPLETION_RING as libc::off_t,
        }
    }

    fn offsets(self, all: &libc::xdp_mmap_offsets) -> &libc::xdp_ring_offset {
        match self {
            Self::Receive => &all.rx,
            Self::Transmit => &all.tx,
            Self::Fill => &all.fr,
            Self::Completion => &all.cr,
        }
    }
}

/// A second mapping of one of a socket's rings; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapped<E> {
    map: NonNull<u8>,
    map_len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<E>,
    size: u32,
}

impl<E: Copy> Mapped<E> {
    /// Maps the ring `kind` of the bound socket `fd`, which was made with `size` entries of type `E`.
    pub(crate) fn new(fd: RawFd, kind: RingKind, size: u32) -> io::Result<Self> {
        let all = mmap_offsets(fd)?;
        let offsets = kind.offsets(&all);
        let at = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        let map_len = at(offsets.desc)? + size as usize * size_of::<E>();
        // SAFETY: a fresh shared mapping chosen by the kernel; the result is checked.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                fd,
                kind.page_offset(),
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map =
            NonNull::new(map.cast::<u8>()).ok_or_else(|| io::Error::other("a ring was mapped at zero"))?;
        // INVARIANT: the kernel's offsets lie inside the mapping and are aligned for what they point at.
        let within = |offset: usize| NonNull::new(map.as_ptr().wrapping_add(offset)).unwrap_or(map);
        Ok(Self {
            map,
            map_len,
            producer: within(at(offsets.producer)?).cast(),
            consumer: within(at(offsets.consumer)?).cast(),
            flags: within(at(offsets.flags)?).cast(),
            entries: within(at(offsets.desc)?).cast(),
            size,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: points into our live mapping, aligned, and only ever accessed atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }

    fn entry(&self, index: u32) -> *mut E {
        self.entries
            .as_ptr()
            .wrapping_add((index & (self.size - 1)) as usize)
    }
}

impl<E: Copy> Shared for Mapped<E> {
    type Entry = E;

    #[inline]
    fn size(&self) -> u32 {
        self.size
    }

    #[inline]
    fn produced(&self) -> u32 {
        self.producer().load(Ordering::Acquire)
    }

    #[inline]
    fn set_produced(&self, index: u32) {
        self.producer().store(index, Ordering::Release);
    }

    #[inline]
    fn consumed(&self) -> u32 {
        self.consumer().load(Ordering::Acquire)
    }

    #[inline]
    fn set_consumed(&self, index: u32) {
        self.consumer().store(index, Ordering::Release);
    }

    #[inline]
    fn read(&self, index: u32) -> E {
        // SAFETY: inside the mapping (masked); the acquire of the producer's index made the entry visible, and the
        // producer does not touch it before the consumer's index passes it.
        unsafe { self.entry(index).read() }
    }

    #[inline]
    fn write(&self, index: u32, entry: E) {
        // SAFETY: inside the mapping (masked); the entry is free, so the consumer does not read it before the
        // producer's index passes it.
        unsafe { self.entry(index).write(entry) }
    }
}

impl<E> Drop for Mapped<E> {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped, unmapped once.
        unsafe { libc::munmap(self.map.as_ptr().cast(), self.map_len) };
    }
}

// SAFETY: the mapping belongs to this value alone on our side; it may move to the worker's thread with it.
unsafe impl<E: Send> Send for Mapped<E> {}

/// Asks the kernel where in the mappings the rings' parts lie (`XDP_MMAP_OFFSETS`).
fn mmap_offsets(fd: RawFd) -> io::Result<libc::xdp_mmap_offsets> {
    let zero = libc::xdp_ring_offset {
        producer: 0,
        consumer: 0,
        desc: 0,
        flags: 0,
    };
    let mut offsets = libc::xdp_mmap_offsets {
        rx: zero,
        tx: zero,
        fr: zero,
        cr: zero,
    };
    // INVARIANT: the structure is 128 bytes.
    #[allow(clippy::cast_possible_truncation)]
    let mut len = size_of::<libc::xdp_mmap_offsets>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `len` says how much may be written.
    let answer = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_XDP,
            libc::XDP_MMAP_OFFSETS,
            std::ptr::from_mut(&mut offsets).cast(),
            std::ptr::from_mut(&mut len),
        )
    };
    if answer == 0 {
        Ok(offsets)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
