//! Opening queues of an interface, and what memory goes with them.

use millrace_dataplane::frame::{Holder, Pool};
use millrace_dataplane::port::own::RingSizes;
use millrace_dataplane::port::umem::{UMEM_RING_LEN, Umem};
use millrace_dataplane::port::xsk::{BindError, BindMode, FillPolicy, OwnBind, SOCKET_RING_LEN, XskPort};
use millrace_dataplane::port::{Port, QueueId};

use super::error::PktgenError;

/// Frames of packet memory for a sending queue: more than the transmit ring holds, so that the ring is the limit.
const FRAMES_TO_SEND: u32 = 4096;
/// The same for a receiving queue.
const FRAMES_TO_RECEIVE: u32 = 4096;
/// A sending socket has no frames to receive into.
const NO_RECEIVING: FillPolicy = FillPolicy { base: 0, max: 0 };
/// What the kernel answers who binds to a queue that an interface does not use.
const NO_SUCH_QUEUE: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// How packets get between an interface and packet memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Binding {
    /// The kernel copies: every driver can.
    #[default]
    Copy,
    /// The device reads and writes packet memory itself, or the run does not begin.
    ZeroCopy,
    /// Zero-copy where the driver can, else copy.
    Auto,
}

/// A sending end: one queue and its memory.
pub struct SendEnd {
    pub(crate) port: Box<dyn Port + Send>,
    pub(crate) pool: Pool,
}

impl SendEnd {
    /// An end that sends by `port`, from `pool`; whatever the port has lent comes back to it.
    #[must_use]
    pub fn new(port: impl Port + Send + 'static, pool: Pool) -> Self {
        Self {
            port: Box::new(port),
            pool,
        }
    }

    /// Frames that a sending end makes do with.
    #[must_use]
    pub fn in_memory(port: impl Port + Send + 'static) -> Self {
        Self::new(port, Pool::on_heap(FRAMES_TO_SEND))
    }

    /// A queue of an interface of the calling thread's namespace, and how it was bound.
    pub(crate) fn bind(
        interface: (&str, u32),
        queue: QueueId,
        how: Binding,
    ) -> Result<(Self, BindMode), PktgenError> {
        how.try_out(|mode| {
            let (umem, mut pool) = Umem::new(FRAMES_TO_SEND)?;
            let port = bind((&umem, &mut pool), interface, queue, 0, (mode, NO_RECEIVING))?;
            Ok((Self::new(port, pool), mode))
        })
    }
}

/// A receiving end: some queues of one interface, read by one thread, and their memory.
pub struct ReceiveEnd {
    pub(crate) ports: Vec<Box<dyn Port + Send>>,
    pub(crate) pool: Pool,
}

impl ReceiveEnd {
    /// An end that receives by `port`, into `pool`.
    #[must_use]
    pub fn new(port: impl Port + Send + 'static, pool: Pool) -> Self {
        Self {
            ports: vec![Box::new(port)],
            pool,
        }
    }

    /// The same with as much memory as a queue is given.
    #[must_use]
    pub fn in_memory(port: impl Port + Send + 'static) -> Self {
        Self::new(port, Pool::on_heap(FRAMES_TO_RECEIVE))
    }
}

/// Takes memory and binds a socket to each of the queues, all in the interface's namespace: the first socket on a UMEM is the
/// one that the memory was registered with, and so belongs to the namespace in which that happened.
///
/// With `may_be_fewer`, queues from the second on that the interface does not use are left out.
pub(crate) fn bind_receivers(
    interface: (&str, u32),
    queues: &[QueueId],
    how: Binding,
    may_be_fewer: bool,
) -> Result<(Vec<XskPort>, Pool, BindMode), PktgenError> {
    let count = u32::try_from(queues.len()).unwrap_or(u32::MAX).max(1);
    how.try_out(|mode| {
        let (umem, mut pool) = Umem::new(FRAMES_TO_RECEIVE.saturating_mul(count))?;
        let mut ports: Vec<XskPort> = Vec::new();
        for (queue, holder) in queues.iter().zip(0..u16::MAX) {
            let bound = bind(
                (&umem, &mut pool),
                interface,
                *queue,
                holder,
                (mode, FillPolicy::WIDE),
            );
            match bound {
                Ok(mut port) => {
                    port.settle(&mut pool);
                    ports.push(port);
                }
                // An interface may have been made for more queues than it uses.
                Err(error) if may_be_fewer && !ports.is_empty() && error.errno == Some(NO_SUCH_QUEUE) => {
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok((ports, pool, mode))
    })
}

impl Binding {
    /// Calls `attempt` with the modes that will do, until one does.
    fn try_out<T>(self, attempt: impl Fn(BindMode) -> Result<T, PktgenError>) -> Result<T, PktgenError> {
        match self {
            Self::Copy => attempt(BindMode::Copy),
            Self::ZeroCopy => attempt(BindMode::ZeroCopy),
            Self::Auto => match attempt(BindMode::ZeroCopy) {
                Err(PktgenError::Bind(error)) if error.is_refusal_of_zero_copy() => attempt(BindMode::Copy),
                other => other,
            },
        }
    }
}

fn bind(
    (umem, pool): (&Umem, &mut Pool),
    interface: (&str, u32),
    queue: QueueId,
    holder: u16,
    (mode, fill): (BindMode, FillPolicy),
) -> Result<XskPort, BindError> {
    let holder = Holder::port(holder);
    if mode == BindMode::Copy {
        return XskPort::bind(umem, interface.0, queue, holder, fill);
    }
    let wanted = OwnBind {
        mode,
        rings: RingSizes {
            socket: SOCKET_RING_LEN,
            umem: UMEM_RING_LEN,
        },
        busy_poll: None,
    };
    let lent: Vec<u64> = (0..fill.base).map_while(|_| pool.lend_empty(holder)).collect();
    XskPort::bind_own(umem, interface, queue, (holder, &lent), fill, wanted)
}
