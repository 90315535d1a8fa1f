//! One loaded steering program with its maps.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use aya::maps::{MapError, PerCpuArray, XskMap};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};

use super::XdpError;
use super::attach::{self, Attachment, XdpMode};
use super::counters::{SteeringCounter, SteeringCounters};
use super::error::{dry_run_error, load_error, map_error, pieces_error, program_error};
use super::tables::Tables;

/// Name of the socket map in both programs.
const SOCKETS: &str = "sockets";
/// Name of the counter map in both programs.
const COUNTERS: &str = "counters";
/// `XDP_PASS` of `enum xdp_action` in `linux/bpf.h`.
const XDP_PASS: u32 = 2;
/// `XDP_REDIRECT` of the same.
const XDP_REDIRECT: u32 = 4;

static UPLINK_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/uplink.bpf.o"));
static UPLINK_PIECES_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/uplink.bpf.pieces.o"));
static PORT_PIECES_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/port.bpf.pieces.o"));
static PORT_OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/port.bpf.o"));

/// Which of the two steering programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProgramKind {
    /// For the uplink: what is ours to the switch, everything else to the kernel.
    Uplink,
    /// For pod ports and the switch's side of the host port: everything to the switch.
    Port,
}

impl ProgramKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Uplink, Self::Port];

    /// The program's name in the kernel, by which a later process knows it for ours.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uplink => "millrace_uplink",
            Self::Port => "millrace_port",
        }
    }

    fn object(self, packets: Packets) -> &'static [u8] {
        match (self, packets) {
            (Self::Uplink, Packets::Whole) => UPLINK_OBJECT,
            (Self::Port, Packets::Whole) => PORT_OBJECT,
            (Self::Uplink, Packets::InPieces) => UPLINK_PIECES_OBJECT,
            (Self::Port, Packets::InPieces) => PORT_PIECES_OBJECT,
        }
    }
}

/// Whether a program is one that the kernel runs on packets in several buffers too (`BPF_F_XDP_HAS_FRAGS`): drivers refuse
/// others where the MTU needs more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packets {
    /// Each is in one buffer.
    Whole,
    /// A long one may be in several.
    InPieces,
}

/// What a steering program does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SteeringAction {
    /// Left to the kernel (`XDP_PASS`).
    ToKernel,
    /// Handed to the socket of its queue (`XDP_REDIRECT`).
    ToSwitch,
    /// Dropped (`XDP_DROP`).
    Drop,
}

/// A steering program in the kernel with maps of its own, for one interface.
///
/// Dropping it does not detach it: an attached program and its maps stay for as long as it is attached. Its
/// tables can then only be changed by replacing it.
pub struct SteeringProgram {
    kind: ProgramKind,
    queues: u32,
    pub(super) object: Ebpf,
    pub(super) held: Tables,
}

impl fmt::Debug for SteeringProgram {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SteeringProgram")
            .field("kind", &self.kind)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl SteeringProgram {
    /// Loads a program for an interface with `queues` receive queues; its tables are empty and it is not
    /// attached.
    ///
    /// # Errors
    /// [`XdpError::NoQueues`], or [`XdpError::Load`] if the kernel refuses the program or a map.
    pub fn load(kind: ProgramKind, queues: u32) -> Result<Self, XdpError> {
        Self::load_for(Packets::Whole, kind, queues)
    }

    /// As [`Self::load`], for an interface whose packets come so.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_for(packets: Packets, kind: ProgramKind, queues: u32) -> Result<Self, XdpError> {
        let name = kind.name();
        if queues == 0 {
            return Err(XdpError::NoQueues { program: name });
        }
        let mut object = {
            let mut loader = loader().lock().unwrap_or_else(PoisonError::into_inner);
            loader
                .map_max_entries(SOCKETS, queues)
                .load(kind.object(packets))
                .map_err(|error| load_error(name, &error))?
        };
        program_mut(&mut object, kind)?
            .load()
            .map_err(|error| match packets {
                Packets::Whole => program_error(name, &error),
                Packets::InPieces => pieces_error(name, &error),
            })?;
        Ok(Self {
            kind,
            queues,
            object,
            held: Tables::new(),
        })
    }

    /// Which program it is.
    #[must_use]
    pub fn kind(&self) -> ProgramKind {
        self.kind
    }

    /// How many receive queues it was loaded for.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// Attaches it to an interface of the calling thread's network namespace.
    ///
    /// Where one of our own programs is attached already, this one takes its place in one step, in the same
    /// mode. The program of anyone else is left alone.
    ///
    /// # Errors [`XdpError::NoSuchIndex`], [`XdpError::ForeignProgram`], [`XdpError::ModeConflict`] if our
    /// program is attached in another mode than the one asked for, [`XdpError::Identify`],
    /// [`XdpError::Contended`], or [`XdpError::Netlink`] with the kernel's reason. After any of them the
    /// interface is as it was.
    pub fn attach(&self, ifindex: u32, mode: XdpMode) -> Result<Attachment, XdpError> {
        let fd = self
            .program()?
            .fd()
            .map_err(|error| program_error(self.kind.name(), &error))?;
        attach::attach(ifindex, fd.as_fd(), mode)
    }

    /// What the program does with `frame`, as received on queue 0, without an interface and without
    /// forwarding it. It is counted, and a first fragment is remembered, as if it had come in (kernel
    /// `Documentation/bpf/bpf_prog_run.rst`).
    ///
    /// # Errors
    /// [`XdpError::DryRun`], also for a frame shorter than an Ethernet header or longer than a page holds.
    pub fn dry_run(&self, frame: &[u8]) -> Result<SteeringAction, XdpError> {
        let program = self.kind.name();
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        let result = self
            .program()?
            .test_run(options)
            .map_err(|error| dry_run_error(program, frame.len(), &error))?;
        Ok(match result.return_value {
            XDP_PASS => SteeringAction::ToKernel,
            XDP_REDIRECT => SteeringAction::ToSwitch,
            _ => SteeringAction::Drop,
        })
    }

    fn program(&self) -> Result<&Xdp, XdpError> {
        let name = self.kind.name();
        let program = self.object.program(name).ok_or_else(|| missing(name))?;
        program.try_into().map_err(|error| program_error(name, &error))
    }

    /// Hands the packets of `queue` to an AF_XDP socket. It has to be bound to the same queue of the same
    /// interface, or the kernel drops them. A closed socket leaves by itself.
    ///
    /// # Errors
    /// [`XdpError::NoSuchQueue`], or [`XdpError::Map`] if it is not an AF_XDP socket.
    pub fn register_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XdpError> {
        let program = self.kind.name();
        let mut sockets = self.sockets(queue)?;
        sockets.set(queue, socket.as_raw_fd(), 0).map_err(|error| {
            map_error(
                program,
                SOCKETS,
                format!("register the socket of queue {queue} in"),
                &error,
            )
        })
    }

    /// Takes the socket of `queue` out, if there is one; its packets are dropped from then on.
    ///
    /// # Errors
    /// [`XdpError::NoSuchQueue`] or [`XdpError::Map`].
    pub fn unregister_socket(&mut self, queue: u32) -> Result<(), XdpError> {
        let program = self.kind.name();
        let mut sockets = self.sockets(queue)?;
        match sockets.unset(queue) {
            Err(error) if !is_no_entry(&error) => Err(map_error(
                program,
                SOCKETS,
                format!("remove the socket of queue {queue} from"),
                &error,
            )),
            _ => Ok(()),
        }
    }

    /// What this program has counted since it was loaded.
    ///
    /// # Errors
    /// [`XdpError::Map`].
    pub fn counters(&self) -> Result<SteeringCounters, XdpError> {
        let program = self.kind.name();
        let failed = |error: MapError| map_error(program, COUNTERS, "read", &error);
        let map = self.object.map(COUNTERS).ok_or_else(|| missing(program))?;
        let map: PerCpuArray<_, u64> = map.try_into().map_err(failed)?;
        let mut counters = SteeringCounters::default();
        for counter in SteeringCounter::ALL {
            let per_cpu = map.get(&counter.slot(), 0).map_err(failed)?;
            counters.set(counter, per_cpu.iter().sum());
        }
        Ok(counters)
    }

    fn sockets(&mut self, queue: u32) -> Result<XskMap<&mut aya::maps::MapData>, XdpError> {
        let program = self.kind.name();
        if queue >= self.queues {
            return Err(XdpError::NoSuchQueue {
                program,
                queue,
                queues: self.queues,
            });
        }
        let map = self.object.map_mut(SOCKETS).ok_or_else(|| missing(program))?;
        XskMap::try_from(map).map_err(|error| map_error(program, SOCKETS, "open", &error))
    }
}

/// The loader reads the kernel's own type information when it is made, some megabytes that our programs have
/// no use for: one for the process, so that only the first load pays.
fn loader() -> &'static Mutex<EbpfLoader<'static>> {
    static LOADER: OnceLock<Mutex<EbpfLoader<'static>>> = OnceLock::new();
    LOADER.get_or_init(|| {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        Mutex::new(loader)
    })
}

fn program_mut(object: &mut Ebpf, kind: ProgramKind) -> Result<&mut Xdp, XdpError> {
    let name = kind.name();
    let program = object.program_mut(name).ok_or_else(|| missing(name))?;
    program.try_into().map_err(|error| program_error(name, &error))
}

/// The embedded object lacks a program or a map: the C and the Rust side disagree.
pub(super) fn missing(program: &'static str) -> XdpError {
    XdpError::Load {
        program,
        reason: "the embedded object lacks a program or map that this build expects".to_owned(),
        hint: super::error::Hint::None,
        verifier_log: String::new(),
    }
}

/// Whether a map operation failed because there was no such entry.
pub(super) fn is_no_entry(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
