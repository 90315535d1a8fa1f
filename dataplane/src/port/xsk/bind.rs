//! Binding a socket to a queue, in either of two ways: on the memory that all sockets of a worker share, or with a
//! registration of its own.
#![allow(unsafe_code)]

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue};

use super::super::QueueId;
use super::super::nic;
use super::super::own::{BusyPoll, OwnSocket, RingSizes};
use super::super::ring::{Consumer, Mapped, Producer, RingKind};
use super::super::umem::{UMEM_RING_LEN, Umem, chain, errno_of};

/// Entries in the receive and in the transmit ring of a socket on shared memory.
pub const SOCKET_RING_LEN: u32 = 2048;

/// How often, and how long apart, a busy queue is tried again.
const BIND_TRIES: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// How packets get between a device and packet memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BindMode {
    /// The device itself reads and writes packet memory.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl fmt::Display for BindMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        })
    }
}

/// How a socket with its own registration is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnBind {
    /// In which mode.
    pub mode: BindMode,
    /// Entries in its rings.
    pub rings: RingSizes,
    /// Whether the driver is to work in our system calls.
    pub busy_poll: Option<BusyPoll>,
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind an AF_XDP socket to queue {queue} of {interface}{}{}: {reason}{hint}",
    driver.as_ref().map(|driver| format!(" (driver {driver})")).unwrap_or_default(),
    mode.map(|mode| format!(" in {mode} mode")).unwrap_or_default())]
pub struct BindError {
    /// The interface.
    pub interface: String,
    /// The queue.
    pub queue: QueueId,
    /// Its driver, where it matters.
    pub driver: Option<String>,
    /// The mode that was asked for, where there is a choice.
    pub mode: Option<BindMode>,
    /// What the kernel said.
    pub reason: String,
    /// What would be right, if that is known.
    pub hint: &'static str,
    /// The kernel's error number, when it gave one.
    pub errno: Option<i32>,
}

impl BindError {
    /// Whether it is the driver that does not do zero-copy here, so that copy mode may do.
    #[must_use]
    pub fn is_refusal_of_zero_copy(&self) -> bool {
        self.mode == Some(BindMode::ZeroCopy)
            && !matches!(
                self.errno,
                None | Some(libc::EBUSY | libc::ENODEV | libc::EPERM | libc::EACCES | libc::EMFILE)
            )
    }
}

/// Whose the socket is: xsk-rs keeps those on shared memory.
#[derive(Debug)]
pub(super) enum Held {
    Shared {
        tx: TxQueue,
        _rx: RxQueue,
        _fill: FillQueue,
        _completion: CompQueue,
    },
    Own(OwnSocket),
}

impl Held {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            // SAFETY: the socket stays open as long as its queues, which `self` owns.
            Self::Shared { tx, .. } => unsafe { BorrowedFd::borrow_raw(tx.fd().as_raw_fd()) },
            Self::Own(socket) => socket.fd(),
        }
    }
}

/// A bound socket with its rings mapped.
#[derive(Debug)]
pub(super) struct Bound {
    // The rings' mappings come first: fields are dropped in order, and they hold the socket's file open.
    pub(super) receive: Consumer<Mapped<libc::xdp_desc>>,
    pub(super) transmit: Producer<Mapped<libc::xdp_desc>>,
    pub(super) fill: Producer<Mapped<u64>>,
    pub(super) completion: Consumer<Mapped<u64>>,
    pub(super) held: Held,
    pub(super) rings: RingSizes,
    pub(super) mode: BindMode,
    pub(super) busy_poll: bool,
}

/// Maps the rings of a socket.
fn map_rings(held: Held, rings: RingSizes, mode: BindMode, busy_poll: bool) -> io::Result<Bound> {
    let fd = held.fd().as_raw_fd();
    Ok(Bound {
        receive: Consumer::new(Mapped::new(fd, RingKind::Receive, rings.socket)?),
        transmit: Producer::new(Mapped::new(fd, RingKind::Transmit, rings.socket)?),
        fill: Producer::new(Mapped::new(fd, RingKind::Fill, rings.umem)?),
        completion: Consumer::new(Mapped::new(fd, RingKind::Completion, rings.umem)?),
        held,
        rings,
        mode,
        busy_poll,
    })
}

/// Binds on shared memory, in copy mode.
pub(super) fn shared(umem: &Umem, interface: &str, queue: QueueId) -> Result<Bound, BindError> {
    let failed = |reason: String, errno: Option<i32>| BindError {
        interface: interface.to_owned(),
        queue,
        driver: None,
        mode: None,
        reason,
        hint: hint_of_pieces(umem.takes_pieces(), errno).unwrap_or(hint(errno)),
        errno,
    };
    let name: Interface = interface
        .parse()
        .map_err(|_| failed("the name contains a zero byte".into(), None))?;
    let config = socket_config(umem.takes_pieces()).map_err(|reason| failed(reason, None))?;
    let (tx, rx, rings) =
        bind_patiently(umem, &name, queue, config).map_err(|(reason, errno)| failed(reason, errno))?;
    let (fill, completion) =
        rings.ok_or_else(|| failed("this UMEM is bound to the queue already".into(), None))?;
    let held = Held::Shared {
        tx,
        _rx: rx,
        _fill: fill,
        _completion: completion,
    };
    let rings = RingSizes {
        socket: SOCKET_RING_LEN,
        umem: UMEM_RING_LEN,
    };
    map_rings(held, rings, BindMode::Copy, false)
        .map_err(|e| failed(format!("mapping its rings: {e}"), e.raw_os_error()))
}

/// Binds with a registration of its own; `lent` are the frames it has to receive into from the first moment on.
pub(super) fn own(
    umem: &Umem,
    (interface, ifindex): (&str, u32),
    queue: QueueId,
    wanted: OwnBind,
    lent: &[u64],
) -> Result<Bound, BindError> {
    let failed = |step: &str, error: &io::Error| BindError {
        interface: interface.to_owned(),
        queue,
        driver: nic::driver(interface).ok(),
        mode: Some(wanted.mode),
        reason: format!("{step}{error}"),
        hint: own_hint(umem.takes_pieces(), wanted.mode, error.raw_os_error()),
        errno: error.raw_os_error(),
    };
    let socket = OwnSocket::new(umem, wanted.rings).map_err(|e| failed("making it: ", &e))?;
    if let Some(busy_poll) = wanted.busy_poll {
        socket
            .prefer_busy_poll(busy_poll)
            .map_err(|e| failed("asking for busy polling: ", &e))?;
    }
    let mut bound = map_rings(
        Held::Own(socket),
        wanted.rings,
        wanted.mode,
        wanted.busy_poll.is_some(),
    )
    .map_err(|e| failed("mapping its rings: ", &e))?;
    // A zero-copy queue receives into these also what it then leaves to the kernel: without them the node's own
    // traffic on it would stand still from the binding to the worker's first turn.
    for address in lent {
        let _ = bound.fill.push(*address);
    }
    bound.fill.publish();
    if let Held::Own(socket) = &bound.held {
        socket
            .bind(ifindex, queue, wanted.mode == BindMode::ZeroCopy)
            .map_err(|e| failed("", &e))?;
    }
    Ok(bound)
}

type Queues = (TxQueue, RxQueue, Option<(FillQueue, CompQueue)>);

/// Binds, and tries again while the queue is busy: its former socket is given up some time after its close.
fn bind_patiently(
    umem: &Umem,
    interface: &Interface,
    queue: QueueId,
    config: SocketConfig,
) -> Result<Queues, (String, Option<i32>)> {
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

/// The first socket of a UMEM decides for all of them whether they take packets in pieces (`xsk_bind` in `net/xdp/xsk.c`).
fn socket_config(takes_pieces: bool) -> Result<SocketConfig, String> {
    let mut flags = BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP;
    flags.set(BindFlags::XDP_USE_SG, takes_pieces);
    let ring = QueueSize::new(SOCKET_RING_LEN).map_err(|e| e.to_string())?;
    Ok(SocketConfig::builder()
        .rx_queue_size(ring)
        .tx_queue_size(ring)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(flags)
        .build())
}

/// What would be right where sockets are to take packets in pieces: a kernel from before `XDP_USE_SG` knows no such flag and
/// says that it is invalid.
fn hint_of_pieces(takes_pieces: bool, errno: Option<i32>) -> Option<&'static str> {
    (takes_pieces && errno == Some(libc::EINVAL)).then_some(
        "; packets longer than a frame come in pieces (XDP_USE_SG), which takes Linux 6.6: an uplink MTU that fits a frame, or \
         [workers] jumbo = \"off\", would do",
    )
}

/// What would be right, for the errors that people meet with a socket of its own registration.
fn own_hint(takes_pieces: bool, mode: BindMode, errno: Option<i32>) -> &'static str {
    if mode == BindMode::Copy
        && let Some(hint) = hint_of_pieces(takes_pieces, errno)
    {
        return hint;
    }
    match (mode, errno) {
        (BindMode::ZeroCopy, Some(libc::EOPNOTSUPP | libc::EPERM)) => {
            "; the driver does not offer zero-copy here, or not of packets in pieces, as an MTU like this one's needs: [uplink] \
             mode = \"copy\" or \"auto\" would do"
        }
        (BindMode::ZeroCopy, Some(libc::EINVAL)) => {
            "; the driver cannot do zero-copy on this queue: an MTU that fits a frame, more queues (`ethtool -L`), or \
             [uplink] mode = \"copy\" would do"
        }
        (_, Some(libc::EBADF)) => "",
        (_, errno) => hint(errno),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_packets_in_pieces_is_told_from_a_queue_that_is_not_there() {
        let einval = Some(libc::EINVAL);
        for hint in [
            hint_of_pieces(true, einval).unwrap_or_default(),
            own_hint(true, BindMode::Copy, einval),
        ] {
            assert!(hint.contains("XDP_USE_SG") && hint.contains("jumbo"), "{hint}");
        }
        assert_eq!(hint_of_pieces(false, einval), None);
        assert_eq!(hint_of_pieces(true, Some(libc::EBUSY)), None);
        assert!(own_hint(false, BindMode::Copy, einval).contains("no such queue"));
        assert!(own_hint(true, BindMode::ZeroCopy, Some(libc::EOPNOTSUPP)).contains("in pieces"));
    }
}
