//! AF_XDP sockets as ports.
//!
//! Sockets on a worker's shared memory are kept by xsk-rs (creation, binding, deletion), those of a NIC's queues by
//! [`super::own`]; [`super::ring`] moves the descriptors of both. Rules of life, each found by experiment:
//! - the first socket of a [`Umem`] must be on a device that outlives the process (our own host port): when it
//!   goes away, later binds on that UMEM fail with EBADF;
//! - a queue just freed answers EBUSY for some tens of milliseconds, so binding is tried again, bounded;
//! - the second mapping of the rings holds the socket's file, so it goes first when a port is dropped.

mod bind;
mod fill;
mod pieces;
mod wake;

use std::io;
use std::os::fd::BorrowedFd;

use super::join::Join;
use super::own::statistics;
use super::umem::Umem;
use super::{Port, QueueId, Settled, Transmission};
use crate::frame::{Frame, Holder, Pool, RUN_CHUNKS};
use crate::stats::DeviceStatistics;
use bind::Bound;
use wake::{wake_by_poll, wake_to_receive, wake_to_send};

pub use bind::{BindError, BindMode, OwnBind, SOCKET_RING_LEN};
pub use fill::FillPolicy;

/// One queue of an interface, through an AF_XDP socket.
#[derive(Debug)]
pub struct XskPort {
    socket: Bound,
    holder: Holder,
    policy: FillPolicy,
    fill_target: u32,
    /// What it starts with where the pool has enough: as many packets as `base` is for, each of several frames.
    wish: u32,
    /// A whole batch was waiting when it was received last.
    pressed: bool,
    lent: u32,
    in_flight: u32,
    completed: u32,
    error: Option<i32>,
    strays: u64,
    dropped_by_device: u64,
    sends: bool,
    join: Join,
}

impl XskPort {
    /// Binds a socket on `umem` to a queue of an interface of the calling thread's namespace, in copy mode. Its frames
    /// are held in the pool's ledger as `holder`, which no other port of the worker may use.
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
        let bound = bind::shared(umem, interface, queue)?;
        Ok(Self::new(umem, bound, holder, policy, 0))
    }

    /// As [`Self::bind`], with a registration of its own of `umem`'s memory. `lent` are the empty frames that the
    /// pool lent to `holder` beforehand ([`Pool::lend_empty`]), so that the queue can receive from its first moment
    /// on; after an error they are still lent.
    ///
    /// # Errors
    /// As [`Self::bind`]; [`BindError::is_refusal_of_zero_copy`] tells whether copy mode may do.
    pub fn bind_own(
        umem: &Umem,
        (interface, ifindex): (&str, u32),
        queue: QueueId,
        (holder, lent): (Holder, &[u64]),
        policy: FillPolicy,
        wanted: OwnBind,
    ) -> Result<Self, BindError> {
        let bound = bind::own(umem, (interface, ifindex), queue, wanted, lent)?;
        let lent = u32::try_from(lent.len()).unwrap_or(u32::MAX);
        Ok(Self::new(umem, bound, holder, policy, lent))
    }

    fn new(umem: &Umem, socket: Bound, holder: Holder, policy: FillPolicy, lent: u32) -> Self {
        #[allow(clippy::cast_possible_truncation)] // INVARIANT: a handful.
        let pieces = if umem.takes_pieces() { RUN_CHUNKS as u32 } else { 1 };
        Self {
            socket,
            holder,
            policy,
            fill_target: policy.base,
            wish: policy.base.saturating_mul(pieces).min(policy.max),
            pressed: false,
            lent,
            in_flight: 0,
            completed: 0,
            error: None,
            strays: 0,
            dropped_by_device: 0,
            sends: true,
            join: Join::default(),
        }
    }

    /// Says that the device sends nothing by this queue: it only receives.
    pub fn only_receive(&mut self) {
        self.sends = false;
    }

    /// The socket, to be put into a steering program's socket map.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.held.fd()
    }

    /// How packets get between the device and packet memory.
    #[must_use]
    pub fn mode(&self) -> BindMode {
        self.socket.mode
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
        let kernel = statistics(self.socket())?;
        Ok(DeviceStatistics {
            rx_dropped: kernel.rx_dropped,
            rx_ring_full: kernel.rx_ring_full,
            rx_fill_ring_empty: kernel.rx_fill_ring_empty_descs,
            rx_invalid_descriptors: kernel.rx_invalid_descs,
            tx_invalid_descriptors: kernel.tx_invalid_descs,
            tx_ring_empty: kernel.tx_ring_empty_descs,
            tx_dropped: self.dropped_by_device,
            rx_no_run: self.join.without_run(),
            rx_too_long: self.join.too_long(),
        })
    }

    /// Has the kernel send what is in the transmit ring.
    fn kick(&mut self) {
        if self.socket.transmit.outstanding() == 0 {
            return;
        }
        match self.socket.mode {
            BindMode::Copy => self.send_by_copy(),
            BindMode::ZeroCopy => self.wake_sender(),
        }
    }

    /// The device takes frames from the ring by itself; it is only called where it says that it waits for that, or
    /// where it is to work in our calls.
    fn wake_sender(&mut self) {
        if !self.socket.busy_poll && !self.socket.transmit.needs_wakeup() {
            return;
        }
        match wake_to_send(self.socket()) {
            None | Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS) => {}
            Some(error) => self.error = Some(error),
        }
        // With busy polling that call runs the driver's receiving end and wakes nobody (`xsk_no_wakeup` in
        // `net/xdp/xsk.c`). A driver that sends elsewhere, as virtio-net does, then never sends: 16 seconds for an echo
        // were seen. Polling the socket wakes it all the same.
        if self.socket.busy_poll
            && self.socket.transmit.outstanding() > 0
            && self.socket.transmit.needs_wakeup()
        {
            wake_by_poll(self.socket());
        }
    }

    /// In copy mode one call sends a bounded number of frames, in the caller's time, and ends at the first that the
    /// device drops; so it is called as long as it makes progress. What a device does not take at all (its link is
    /// down) stays in the ring for a later flush.
    fn send_by_copy(&mut self) {
        let mut left = self.socket.transmit.outstanding();
        while left > 0 {
            match wake_to_send(self.socket()) {
                None | Some(libc::EAGAIN | libc::ENOBUFS) => {}
                // `__xsk_generic_xmit` in `net/xdp/xsk.c`: the frame was completed but not sent.
                Some(libc::EBUSY) => self.dropped_by_device += 1,
                Some(error) => {
                    self.error = Some(error);
                    break;
                }
            }
            let now = self.socket.transmit.outstanding();
            if now == left {
                break;
            }
            left = now;
        }
    }

    /// Takes what is in the receive ring; in a token each, out of the ledger.
    fn take(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: u32) -> u32 {
        let (holder, strays, join) = (self.holder, &mut self.strays, &mut self.join);
        let mut each = |descriptor: libc::xdp_desc| {
            let received = pool.receive(descriptor.addr, descriptor.len, holder);
            let more = descriptor.options & libc::XDP_PKT_CONTD != 0;
            *strays += u64::from(received.is_err());
            match received {
                Ok(frame) if !more && !join.is_open() => into.push(frame),
                Err(_) if !more && !join.is_open() => {}
                received => join.piece(pool, received.ok(), more, into),
            }
            join.is_open()
        };
        let mut is_open = false;
        let mut count = self
            .socket
            .receive
            .take(max, |descriptor| is_open = each(descriptor));
        // A packet's pieces are there all at once.
        while is_open {
            let more = self
                .socket
                .receive
                .take(1, |descriptor| is_open = each(descriptor));
            if more == 0 {
                break;
            }
            count += more;
        }
        count
    }

    /// Lends empty frames until the kernel has `fill_target` of them.
    fn refill(&mut self, pool: &mut Pool, settled: &mut Settled) {
        let pressed = std::mem::take(&mut self.pressed);
        if (pressed || self.fill_target < self.wish)
            && let Some(target) = self
                .policy
                .grow(self.fill_target, pool.available(), pool.frames())
        {
            self.fill_target = target;
        }
        while self.lent < self.fill_target {
            let Some(address) = pool.lend_empty(self.holder) else {
                settled.starved = true;
                break;
            };
            if !self.socket.fill.push(address) {
                // The ring is longer than any target, so this cannot be; the chunk goes back all the same.
                self.strays += u64::from(pool.complete(address, self.holder).is_err());
                break;
            }
            self.lent += 1;
            settled.refilled += 1;
        }
        self.socket.fill.publish();
        // A device that found no frame stops looking for any until it is called.
        if self.socket.mode == BindMode::ZeroCopy
            && self.socket.fill.needs_wakeup()
            && self.socket.fill.outstanding() > 0
        {
            wake_to_receive(self.socket());
        }
    }
}

impl Port for XskPort {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let before = into.len();
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        let mut count = self.take(pool, into, max);
        if count == 0 && self.socket.busy_poll {
            // The driver works in this call, and nowhere else while it is called often enough.
            wake_to_receive(self.socket());
            count = self.take(pool, into, max);
        }
        self.lent = self.lent.saturating_sub(count);
        self.pressed |= count == max || count * 2 >= self.fill_target;
        if count > 0 && into.len() == before {
            // All of it was lost. To the worker nothing came, so it settles nothing: without these the fill ring would run dry.
            self.refill(pool, &mut Settled::default());
        }
        into.len() - before
    }

    fn send(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        if frame.is_run() {
            return self.send_run(pool, frame);
        }
        // The completion ring must have a place for every frame under way, or the kernel stops sending.
        if self.in_flight >= self.socket.rings.umem {
            return Err(frame);
        }
        // INVARIANT: a frame is at most CHUNK_LEN long.
        #[allow(clippy::cast_possible_truncation)]
        let len = frame.len() as u32;
        let addr = pool.lend(frame, self.holder);
        if self.socket.transmit.push(libc::xdp_desc {
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
        self.socket.transmit.publish();
        self.kick();
    }

    fn pending(&mut self) -> bool {
        self.socket.transmit.outstanding() > 0
    }

    fn transmission(&mut self) -> Transmission {
        Transmission {
            waiting: self.socket.transmit.outstanding(),
            under_way: self.in_flight,
            taken: self.socket.transmit.consumed(),
            completed: self.completed,
        }
    }

    fn urge(&mut self) {
        // In copy mode nothing is a driver's to lose: what waits is sent by every flush.
        if self.socket.mode == BindMode::ZeroCopy {
            wake_to_send(self.socket());
            wake_by_poll(self.socket());
        }
    }

    fn let_go(&mut self, pool: &mut Pool) {
        self.join.give_up(pool);
    }

    fn settle(&mut self, pool: &mut Pool) -> Settled {
        let mut settled = Settled::default();
        let (holder, strays) = (self.holder, &mut self.strays);
        let all = self.socket.rings.umem;
        let completed = self.socket.completion.take(all, |address| {
            *strays += u64::from(pool.complete(address, holder).is_err());
        });
        self.in_flight = self.in_flight.saturating_sub(completed);
        self.completed = self.completed.wrapping_add(completed);
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

    fn sends(&self) -> bool {
        self.sends
    }

    fn strays(&self) -> u64 {
        self.strays
    }
}
