//! AF_XDP sockets as ports.
//!
//! xsk-rs owns the socket's life (creation, binding, wake-up, statistics, deletion); [`super::ring`] moves the
//! descriptors. Rules of life, each found by experiment:
//! - the first socket of a [`Umem`] must be on a device that outlives the process (our own host port): when it
//!   goes away, later binds on that UMEM fail with EBADF;
//! - a queue just freed answers EBUSY for some tens of milliseconds, so binding is tried again, bounded;
//! - the second mapping of the rings holds the socket's file, so it goes first when a port is dropped.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::thread;
use std::time::Duration;

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue};

use super::ring::{Consumer, Mapped, Producer, RingKind};
use super::umem::{UMEM_RING_LEN, Umem, chain, errno_of};
use super::{Port, QueueId, Settled};
use crate::frame::{Frame, Holder, Pool};
use crate::stats::DeviceStatistics;

/// Entries in the receive and in the transmit ring of a socket.
pub const SOCKET_RING_LEN: u32 = 2048;

/// How often, and how long apart, a busy queue is tried again.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// How many empty frames a queue holds ready to receive into.
///
/// A queue starts with `base` and doubles towards `max` whenever a whole batch, or half of them, was waiting, as long as half of the
/// pool is free; so 250 idle pods hold little, and a busy one is not short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillPolicy {
    /// What a queue always gets.
    pub base: u32,
    /// What a busy queue may grow to; at most [`UMEM_RING_LEN`].
    pub max: u32,
}

impl FillPolicy {
    /// For the uplink and the host port.
    pub const WIDE: Self = Self {
        base: 1024,
        max: UMEM_RING_LEN,
    };
    /// For a pod's port.
    pub const POD: Self = Self {
        base: 32,
        max: UMEM_RING_LEN,
    };
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind an AF_XDP socket to queue {queue} of {interface}: {reason}{hint}")]
pub struct BindError {
    /// The interface.
    pub interface: String,
    /// The queue.
    pub queue: QueueId,
    /// What the kernel said.
    pub reason: String,
    /// What would be right, if that is known.
    pub hint: &'static str,
    /// The kernel's error number, when it gave one.
    pub errno: Option<i32>,
}

/// One queue of an interface, through an AF_XDP socket in copy mode.
#[derive(Debug)]
pub struct XskPort {
    // The rings' mappings come first: fields are dropped in order, and they hold the socket's file open.
    receive: Consumer<Mapped<libc::xdp_desc>>,
    transmit: Producer<Mapped<libc::xdp_desc>>,
    fill: Producer<Mapped<u64>>,
    completion: Consumer<Mapped<u64>>,
    tx: TxQueue,
    _rx: RxQueue,
    _fill: FillQueue,
    _completion: CompQueue,
    holder: Holder,
    policy: FillPolicy,
    fill_target: u32,
    /// A whole batch was waiting when it was received last.
    pressed: bool,
    lent: u32,
    in_flight: u32,
    error: Option<i32>,
    strays: u64,
    dropped_by_device: u64,
}

impl XskPort {
    /// Binds a socket on `umem` to a queue of an interface of the calling thread's namespace. Its frames are held
    /// in the pool's ledger as `holder`, which no other port of the worker may use.
    ///
    /// Blocks for up to half a second while the queue is busy: not for a worker's thread.
    ///
    /// # Errors
    /// [`BindError`] with the kernel's words and what would be right.
    pub fn bind(
        umem: &Umem,
        interface: &str,
        queue: QueueId,
        holder: Holder,
        policy: FillPolicy,
    ) -> Result<Self, BindError> {
        let failed = |reason: String, errno: Option<i32>| BindError {
            interface: interface.to_owned(),
            queue,
            reason,
            hint: hint(errno),
            errno,
        };
        let name: Interface = interface
            .parse()
            .map_err(|_| failed("the name contains a zero byte".into(), None))?;
        let config = socket_config().map_err(|reason| failed(reason, None))?;
        let (tx, rx, rings) =
            bind_patiently(umem, &name, queue, config).map_err(|(reason, errno)| failed(reason, errno))?;
        let (fill, completion) =
            rings.ok_or_else(|| failed("this UMEM is bound to the queue already".into(), None))?;
        let fd: RawFd = tx.fd().as_raw_fd();
        let io = |e: io::Error| failed(format!("mapping its rings: {e}"), e.raw_os_error());
        Ok(Self {
            receive: Consumer::new(Mapped::new(fd, RingKind::Receive, SOCKET_RING_LEN).map_err(io)?),
            transmit: Producer::new(Mapped::new(fd, RingKind::Transmit, SOCKET_RING_LEN).map_err(io)?),
            fill: Producer::new(Mapped::new(fd, RingKind::Fill, UMEM_RING_LEN).map_err(io)?),
            completion: Consumer::new(Mapped::new(fd, RingKind::Completion, UMEM_RING_LEN).map_err(io)?),
            tx,
            _rx: rx,
            _fill: fill,
            _completion: completion,
            holder,
            policy,
            fill_target: policy.base,
            pressed: false,
            lent: 0,
            in_flight: 0,
            error: None,
            strays: 0,
            dropped_by_device: 0,
        })
    }

    /// The socket, to be put into a steering program's socket map.
    #[must_use]
    #[allow(unsafe_code)]
    pub fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket stays open as long as its queues, which this port owns.
        unsafe { BorrowedFd::borrow_raw(self.tx.fd().as_raw_fd()) }
    }

    /// Who holds this port's frames in the pool's ledger.
    #[must_use]
    pub fn holder(&self) -> Holder {
        self.holder
    }

    /// The kernel's own counters of this socket (`XDP_STATISTICS`).
    ///
    /// # Errors
    /// What the system call said.
    pub fn device_statistics(&self) -> io::Result<DeviceStatistics> {
        let kernel = self.tx.fd().xdp_statistics()?;
        Ok(DeviceStatistics {
            rx_dropped: kernel.rx_dropped(),
            rx_ring_full: kernel.rx_ring_full(),
            rx_fill_ring_empty: kernel.rx_fill_ring_empty_descs(),
            rx_invalid_descriptors: kernel.rx_invalid_descs(),
            tx_invalid_descriptors: kernel.tx_invalid_descs(),
            tx_ring_empty: kernel.tx_ring_empty_descs(),
            tx_dropped: self.dropped_by_device,
        })
    }

    /// Has the kernel send what is in the transmit ring.
    ///
    /// In copy mode one call sends a bounded number of frames, in the caller's time, and ends at the first that the
    /// device drops; so it is called as long as it makes progress. What a device does not take at all (its link is
    /// down) stays in the ring for a later flush.
    fn kick(&mut self) {
        let mut left = self.transmit.outstanding();
        while left > 0 {
            match wake(self.socket()) {
                None | Some(libc::EAGAIN | libc::ENOBUFS) => {}
                // `__xsk_generic_xmit` in `net/xdp/xsk.c`: the frame was completed but not sent.
                Some(libc::EBUSY) => self.dropped_by_device += 1,
                Some(error) => {
                    self.error = Some(error);
                    break;
                }
            }
            let now = self.transmit.outstanding();
            if now == left {
                break;
            }
            left = now;
        }
    }

    /// Lends empty frames until the kernel has `fill_target` of them.
    fn refill(&mut self, pool: &mut Pool, settled: &mut Settled) {
        if std::mem::take(&mut self.pressed)
            && self.fill_target < self.policy.max
            && pool.available() * 2 > pool.frames() as usize
        {
            self.fill_target = (self.fill_target * 2).min(self.policy.max);
        }
        while self.lent < self.fill_target {
            let Some(address) = pool.lend_empty(self.holder) else {
                settled.starved = true;
                break;
            };
            if !self.fill.push(address) {
                // The ring is longer than any target, so this cannot be; the chunk goes back all the same.
                self.strays += u64::from(pool.complete(address, self.holder).is_err());
                break;
            }
            self.lent += 1;
            settled.refilled += 1;
        }
        self.fill.publish();
    }
}

impl Port for XskPort {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let (before, holder) = (into.len(), self.holder);
        let strays = &mut self.strays;
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let count = self.receive.take(max, |descriptor| {
            match pool.receive(descriptor.addr, descriptor.len, holder) {
                Ok(frame) => into.push(frame),
                Err(_) => *strays += 1,
            }
        });
        self.lent = self.lent.saturating_sub(count);
        self.pressed |= count == max || count * 2 >= self.fill_target;
        into.len() - before
    }

    fn send(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        // The completion ring must have a place for every frame under way, or the kernel stops sending.
        if self.in_flight >= SOCKET_RING_LEN {
            return Err(frame);
        }
        // INVARIANT: a frame is at most CHUNK_LEN long.
        #[allow(clippy::cast_possible_truncation)]
        let len = frame.len() as u32;
        let addr = pool.lend(frame, self.holder);
        if self.transmit.push(libc::xdp_desc {
            addr,
            len,
            options: 0,
        }) {
            self.in_flight += 1;
            return Ok(());
        }
        match pool.receive(addr, len, self.holder) {
            Ok(frame) => Err(frame),
            Err(_) => {
                // Lent a line above, so this cannot be; counted as sent and as a stray rather than lost in silence.
                self.strays += 1;
                Ok(())
            }
        }
    }

    fn flush(&mut self) {
        self.transmit.publish();
        self.kick();
    }

    fn pending(&mut self) -> bool {
        self.transmit.outstanding() > 0
    }

    fn settle(&mut self, pool: &mut Pool) -> Settled {
        let mut settled = Settled::default();
        let (holder, strays) = (self.holder, &mut self.strays);
        let completed = self.completion.take(SOCKET_RING_LEN, |address| {
            *strays += u64::from(pool.complete(address, holder).is_err());
        });
        self.in_flight = self.in_flight.saturating_sub(completed);
        settled.completed = completed as usize;
        // Left behind by an earlier flush (a full device queue, a link that was down): once more.
        self.kick();
        self.refill(pool, &mut settled);
        settled
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket())
    }

    fn last_error(&mut self) -> Option<i32> {
        self.error.take()
    }

    fn device_statistics(&self) -> Option<DeviceStatistics> {
        XskPort::device_statistics(self).ok()
    }

    fn strays(&self) -> u64 {
        self.strays
    }
}

/// Asks the kernel to send; answers its error number. (xsk-rs has this call too, but keeps most errors to itself.)
#[allow(unsafe_code)]
fn wake(socket: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: no memory is passed; the descriptor is open as long as it is borrowed.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if sent < 0 {
        io::Error::last_os_error().raw_os_error()
    } else {
        None
    }
}

type Bound = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

/// Binds, and tries again while the queue is busy: its former socket is given up some time after its close.
#[allow(unsafe_code)]
fn bind_patiently(
    umem: &Umem,
    interface: &Interface,
    queue: QueueId,
    config: SocketConfig,
) -> Result<Bound, (String, Option<i32>)> {
    let mut tries = BIND_TRIES;
    loop {
        // SAFETY: the condition is that libxdp loads no program of its own when a queue is bound twice;
        // `socket_config` always inhibits that.
        let error = match unsafe { Socket::new(config, umem.inner(), interface, queue.0) } {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        let errno = errno_of(&error);
        tries -= 1;
        if errno != Some(libc::EBUSY) || tries == 0 {
            return Err((chain(&error), errno));
        }
        thread::sleep(BIND_PAUSE);
    }
}

fn socket_config() -> Result<SocketConfig, String> {
    let ring = QueueSize::new(SOCKET_RING_LEN).map_err(|e| e.to_string())?;
    Ok(SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
        .build())
}

/// What would be right, for the errors that people meet.
fn hint(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EPERM | libc::EACCES) => "; it needs root, or CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF",
        Some(libc::EBUSY) => {
            "; another program has a socket on this queue: stop it, or choose another interface"
        }
        Some(libc::EINVAL) => {
            "; the interface has no such queue: fewer workers, or more queues (`ethtool -L`)"
        }
        Some(libc::EBADF) => {
            "; the device of this worker's first socket, the host port, is gone: restart millrace"
        }
        Some(libc::ENODEV) => "; there is no such interface in this network namespace",
        Some(libc::ENOBUFS | libc::ENOMEM) => "; the kernel is out of memory for it: fewer [workers] frames",
        _ => "",
    }
}
