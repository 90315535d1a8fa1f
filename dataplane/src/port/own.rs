//! An AF_XDP socket with a registration of its own of a worker's memory, for a port of a NIC.
//!
//! A zero-copy NIC cannot share the registration of copy-mode sockets: the kernel maps it for that one device. But the
//! same memory may be registered again (`XDP_UMEM_REG` in `net/xdp/xdp_umem.c` only pins its pages once more), so each
//! queue of a NIC has a socket with a registration of its own. A packet between a zero-copy queue and a copy-mode port
//! of the same worker then stays where it is, and no rule of sharing (the first socket's device, its life) applies.
//! xsk-rs does not offer this, so the few calls it takes are made here.
//! Source: kernel documentation, `networking/af_xdp`.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use super::QueueId;
use super::umem::Umem;
use crate::frame::CHUNK_LEN;

/// How long a queue may stay busy after its former socket was closed, and how often it is tried.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Bytes of memory that a socket needs to be bound at all: a page.
const PROBE_LEN: usize = 4096;

/// Options of `asm-generic/socket.h` that the libc crate does not name.
const SO_BUSY_POLL: i32 = 46;
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;

/// Entries in the rings of a socket; all powers of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSizes {
    /// In the receive and in the transmit ring.
    pub socket: u32,
    /// In the fill and in the completion ring; at least as many as in `socket`, so that every frame under way has a
    /// place to be completed in.
    pub umem: u32,
}

/// Busy polling: the driver works in the worker's own system calls and rarely by interrupt
/// (kernel documentation, `networking/napi`, "Busy polling").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPoll {
    /// `SO_BUSY_POLL`: how long a call may look for packets, in microseconds.
    pub usecs: u32,
    /// `SO_BUSY_POLL_BUDGET`: most packets of one call.
    pub budget: u32,
}

/// Memory that is registered for a socket: where it starts, and its length in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// A socket that is not bound yet, or is; closed on drop.
#[derive(Debug)]
pub(super) struct OwnSocket {
    fd: OwnedFd,
    /// Keeps the registered memory mapped.
    memory: Option<Umem>,
}

impl OwnSocket {
    /// A socket with its rings, on `umem`'s memory.
    pub(super) fn new(umem: &Umem, rings: RingSizes) -> io::Result<Self> {
        let fd = socket()?;
        register(fd.as_fd(), umem.region(), rings)?;
        set_option(fd.as_fd(), libc::SOL_XDP, libc::XDP_RX_RING, &rings.socket)?;
        set_option(fd.as_fd(), libc::SOL_XDP, libc::XDP_TX_RING, &rings.socket)?;
        Ok(Self {
            fd,
            memory: Some(umem.clone()),
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Has the driver work in our system calls.
    pub(super) fn prefer_busy_poll(&self, wanted: BusyPoll) -> io::Result<()> {
        let fd = self.fd.as_fd();
        set_option(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1u32)?;
        set_option(fd, libc::SOL_SOCKET, SO_BUSY_POLL, &wanted.usecs)?;
        set_option(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &wanted.budget)
    }

    /// Binds to a queue; waits, bounded, while its former socket is not given up yet.
    pub(super) fn bind(&self, ifindex: u32, queue: QueueId, zero_copy: bool) -> io::Result<()> {
        let mut mode = if zero_copy {
            libc::XDP_ZEROCOPY
        } else {
            libc::XDP_COPY
        };
        if self.memory.as_ref().is_some_and(Umem::takes_pieces) {
            mode |= libc::XDP_USE_SG;
        }
        let deadline = Instant::now() + BUSY_PATIENCE;
        loop {
            match bind_once(self.fd.as_fd(), ifindex, queue, mode | libc::XDP_USE_NEED_WAKEUP) {
                Err(error) if is_busy(&error) && Instant::now() < deadline => thread::sleep(BUSY_PAUSE),
                bound => return bound,
            }
        }
    }
}

/// Waits until the kernel has let go of a queue whose socket was closed; false if it has not within `patience`.
///
/// A closed socket is taken apart later, by a work item: until then a NIC may write into the frames it was lent, and
/// read those it was given to send. The sign that it is over is that the queue can be bound again, so that is tried,
/// with a socket and a page of its own.
#[must_use]
pub fn await_release(ifindex: u32, queue: QueueId, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        match try_queue(ifindex, queue) {
            Err(error) if is_busy(&error) => {}
            // Anything else says nothing of a former socket; an interface or a queue that is gone has none.
            Ok(()) | Err(_) => return true,
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(BUSY_PAUSE);
    }
}

/// Binds a socket of no use to a queue, and closes it again.
fn try_queue(ifindex: u32, queue: QueueId) -> io::Result<()> {
    let page = Page::new();
    let rings = RingSizes { socket: 2, umem: 2 };
    let fd = socket()?;
    register(fd.as_fd(), page.region(), rings)?;
    set_option(fd.as_fd(), libc::SOL_XDP, libc::XDP_TX_RING, &rings.socket)?;
    bind_once(fd.as_fd(), ifindex, queue, libc::XDP_COPY)
}

/// A page on the heap. The kernel holds its own reference to it for as long as it is registered.
struct Page(*mut u8);

impl Page {
    // INVARIANT: the length is a power of two and not zero.
    const LAYOUT: Layout = match Layout::from_size_align(PROBE_LEN, PROBE_LEN) {
        Ok(layout) => layout,
        Err(_) => Layout::new::<[u8; PROBE_LEN]>(),
    };

    fn new() -> Self {
        // SAFETY: the layout's size is not zero.
        let start = unsafe { std::alloc::alloc_zeroed(Self::LAYOUT) };
        if start.is_null() {
            std::alloc::handle_alloc_error(Self::LAYOUT);
        }
        Self(start)
    }

    fn region(&self) -> Region {
        Region {
            start: self.0.expose_provenance() as u64,
            len: PROBE_LEN as u64,
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed once.
        unsafe { std::alloc::dealloc(self.0, Self::LAYOUT) };
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBUSY)
}

fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was opened a line above and that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Registers memory and sizes the two rings that go with it.
fn register(fd: BorrowedFd<'_>, region: Region, rings: RingSizes) -> io::Result<()> {
    let registration = libc::xdp_umem_reg {
        addr: region.start,
        len: region.len,
        // INVARIANT: CHUNK_LEN is 2048.
        #[allow(clippy::cast_possible_truncation)]
        chunk_size: CHUNK_LEN as u32,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)?;
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_FILL_RING, &rings.umem)?;
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_COMPLETION_RING, &rings.umem)
}

fn set_option<T: Copy>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    // INVARIANT: the options' values are a few bytes long.
    #[allow(clippy::cast_possible_truncation)]
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is to a live value of `len` bytes, which the kernel only reads.
    let answer = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            len,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn bind_once(fd: BorrowedFd<'_>, ifindex: u32, queue: QueueId, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        // INVARIANT: AF_XDP is 44.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue.0,
        sxdp_shared_umem_fd: 0,
    };
    // INVARIANT: the structure is 16 bytes long.
    #[allow(clippy::cast_possible_truncation)]
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: the pointer is to a live structure of `len` bytes, which the kernel only reads.
    let answer = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The kernel's counters of a socket (`XDP_STATISTICS`).
pub(super) fn statistics(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    let mut read = libc::xdp_statistics {
        rx_dropped: 0,
        rx_invalid_descs: 0,
        tx_invalid_descs: 0,
        rx_ring_full: 0,
        rx_fill_ring_empty_descs: 0,
        tx_ring_empty_descs: 0,
    };
    // INVARIANT: the structure is 48 bytes long.
    #[allow(clippy::cast_possible_truncation)]
    let mut len = size_of::<libc::xdp_statistics>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `len` says how much may be written.
    let answer = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            libc::XDP_STATISTICS,
            std::ptr::from_mut(&mut read).cast(),
            std::ptr::from_mut(&mut len),
        )
    };
    if answer == 0 {
        Ok(read)
    } else {
        Err(io::Error::last_os_error())
    }
}
