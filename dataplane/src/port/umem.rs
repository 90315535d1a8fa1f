//! A worker's packet memory, registered with the kernel: one UMEM, shared by all the worker's sockets.
#![allow(unsafe_code)]

use std::num::NonZeroU32;
use std::ptr::NonNull;

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};

use super::own::Region;
use crate::frame::{CHUNK_LEN, HEADROOM, Memory, Pool};

/// Entries in the fill and in the completion ring of every socket on a UMEM.
pub const UMEM_RING_LEN: u32 = 2048;

/// Why packet memory could not be had.
#[derive(Debug, thiserror::Error)]
pub enum UmemError {
    /// The kernel refused to register the memory.
    #[error("cannot register {frames} frames of packet memory ({megabytes} MiB): {reason}{hint}")]
    Refused {
        /// Frames asked for.
        frames: u32,
        /// The same in MiB.
        megabytes: usize,
        /// What the kernel said.
        reason: String,
        /// What would be right, if that is known.
        hint: &'static str,
    },
    /// There are not enough huge pages, and nothing else would do.
    #[error(
        "no huge pages for {frames} frames of packet memory ({megabytes} MiB for each worker): {refusal}; \
         more of them (`sysctl vm.nr_hugepages`), or [workers] hugepages = \"auto\", would be right"
    )]
    HugePages {
        /// Frames asked for.
        frames: u32,
        /// The same in MiB.
        megabytes: usize,
        /// What was said.
        refusal: Box<UmemError>,
    },
    /// The number of frames makes no sense.
    #[error("{0} frames of packet memory: a positive number is needed")]
    Frames(u32),
}

/// Whether packet memory is to lie on huge pages: fewer entries of the processor's and of an IOMMU's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// If enough of them are free.
    Auto,
    /// On them, or not at all.
    Always,
    /// On ordinary pages.
    Never,
}

/// Where packet memory is to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// On which kind of pages.
    pub huge_pages: HugePages,
    /// On which NUMA node, if there is still room.
    pub numa_node: Option<u32>,
}

impl Placement {
    /// Ordinary pages of the node that the calling thread runs on.
    pub const PLAIN: Self = Self {
        huge_pages: HugePages::Never,
        numa_node: None,
    };
}

/// A handle on a worker's UMEM, with which sockets are bound to it from any thread.
#[derive(Debug, Clone)]
pub struct Umem {
    inner: xsk_rs::Umem,
    region: Region,
    on_huge_pages: bool,
    takes_pieces: bool,
}

impl Memory for Umem {}

impl Umem {
    /// Maps and registers memory for `frames` frames; the pool of all of them goes to the worker.
    ///
    /// # Errors
    /// [`UmemError`] says how much was asked for and what the kernel said.
    pub fn new(frames: u32) -> Result<(Self, Pool), UmemError> {
        Self::placed(frames, Placement::PLAIN)
    }

    /// As [`Self::new`], on memory of a certain kind and place.
    ///
    /// # Errors
    /// As [`Self::new`]; [`UmemError::HugePages`] where nothing but huge pages would do.
    pub fn placed(frames: u32, placement: Placement) -> Result<(Self, Pool), UmemError> {
        // A preference of this thread while it maps, so that the pages are taken from there.
        let _preference = placement.numa_node.map(Preference::of);
        match placement.huge_pages {
            HugePages::Never => Self::map(frames, false),
            HugePages::Auto => Self::map(frames, true).or_else(|_| Self::map(frames, false)),
            HugePages::Always => Self::map(frames, true).map_err(|error| UmemError::HugePages {
                frames,
                megabytes: megabytes(frames),
                refusal: Box::new(error),
            }),
        }
    }

    /// As [`Self::placed`], with `runs` for packets longer than a frame, which sockets on this memory then take and give in
    /// pieces (`XDP_USE_SG`).
    ///
    /// # Errors
    /// As [`Self::placed`].
    pub fn with_runs(frames: u32, placement: Placement, runs: u32) -> Result<(Self, Pool), UmemError> {
        let (mut umem, mut pool) = Self::placed(frames, placement)?;
        umem.takes_pieces = runs > 0;
        pool.keep_runs(runs);
        Ok((umem, pool))
    }

    /// Whether its sockets take packets in pieces.
    pub(super) fn takes_pieces(&self) -> bool {
        self.takes_pieces
    }

    /// Whether the memory lies on huge pages.
    #[must_use]
    pub fn on_huge_pages(&self) -> bool {
        self.on_huge_pages
    }

    fn map(frames: u32, huge: bool) -> Result<(Self, Pool), UmemError> {
        let count = NonZeroU32::new(frames).ok_or(UmemError::Frames(frames))?;
        let refused_because = |reason: String, errno: Option<i32>| UmemError::Refused {
            frames,
            megabytes: megabytes(frames),
            reason,
            hint: hint(errno),
        };
        let refused = |reason: String| refused_because(reason, None);
        let config = config().map_err(refused)?;
        let (inner, descriptors) = xsk_rs::Umem::new(config, count, huge)
            .map_err(|error| refused_because(chain(&error), errno_of(&error)))?;
        let mut first = descriptors.into_iter().next().ok_or(UmemError::Frames(frames))?;
        // SAFETY: the descriptor is this UMEM's own, and nobody else has seen the memory yet.
        let (_, mut data) = unsafe { inner.frame_mut(&mut first) };
        // xsk-rs hands out the first frame's data; the region itself starts one headroom before it.
        // The mapping was made by C code, so any pointer into it may be made from its address alone.
        let address = data.contents_mut().as_mut_ptr().addr().wrapping_sub(HEADROOM);
        let base = std::ptr::with_exposed_provenance_mut::<u8>(address);
        let base = NonNull::new(base).ok_or_else(|| refused("mapped at zero".into()))?;
        let umem = Self {
            inner,
            region: Region {
                start: address as u64,
                len: u64::from(frames) * CHUNK_LEN as u64,
            },
            on_huge_pages: huge,
            takes_pieces: false,
        };
        // SAFETY: the region is `frames * CHUNK_LEN` bytes, mapped while any clone of `umem` lives, and xsk-rs is
        // asked for none of it again.
        let pool = unsafe { Pool::from_raw(base, frames, Box::new(umem.clone())) };
        Ok((umem, pool))
    }

    pub(super) fn inner(&self) -> &xsk_rs::Umem {
        &self.inner
    }

    /// The memory itself, to be registered again.
    pub(super) fn region(&self) -> Region {
        self.region
    }
}

fn megabytes(frames: u32) -> usize {
    frames as usize * CHUNK_LEN / (1 << 20)
}

/// The calling thread prefers memory of one NUMA node for as long as this lives (`set_mempolicy(2)`). It is a wish: a
/// kernel without NUMA, or a node without room, gives other memory.
struct Preference;

impl Preference {
    /// `MPOL_DEFAULT` and `MPOL_PREFERRED` of `linux/mempolicy.h`.
    const DEFAULT: libc::c_long = 0;
    const PREFERRED: libc::c_long = 1;

    fn of(node: u32) -> Self {
        let mut nodes = [0u64; 16];
        if let Some(word) = nodes.get_mut(node as usize / 64) {
            *word = 1 << (node % 64);
        }
        // SAFETY: the kernel reads as many bits as are said, which is less than there are.
        unsafe {
            libc::syscall(
                libc::SYS_set_mempolicy,
                Self::PREFERRED,
                nodes.as_ptr(),
                nodes.len() * 64 - 1,
            );
        }
        Self
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: without nodes the kernel reads no memory.
        unsafe {
            libc::syscall(
                libc::SYS_set_mempolicy,
                Self::DEFAULT,
                std::ptr::null::<u64>(),
                0usize,
            );
        }
    }
}

fn config() -> Result<UmemConfig, String> {
    let size = u32::try_from(CHUNK_LEN).map_err(|e| e.to_string())?;
    let frame_size = FrameSize::new(size).map_err(|e| e.to_string())?;
    let ring = QueueSize::new(UMEM_RING_LEN).map_err(|e| e.to_string())?;
    UmemConfig::builder()
        .frame_size(frame_size)
        .fill_queue_size(ring)
        .comp_queue_size(ring)
        .frame_headroom(0)
        .build()
        .map_err(|e| e.to_string())
}

/// What would be right, for the errors that people meet.
fn hint(errno: Option<i32>) -> &'static str {
    match errno {
        Some(libc::EPERM | libc::EACCES) => "; it needs root, or CAP_NET_RAW",
        Some(libc::ENOBUFS) => {
            "; CAP_IPC_LOCK, a higher `ulimit -l`, or fewer [workers] frames would be right"
        }
        Some(libc::ENOMEM) => "; fewer [workers] frames would be right",
        Some(libc::EAFNOSUPPORT) => {
            "; this kernel has no AF_XDP: one built with CONFIG_XDP_SOCKETS is needed"
        }
        _ => "",
    }
}

/// The kernel's error number behind an error of xsk-rs.
pub(super) fn errno_of(error: &dyn std::error::Error) -> Option<i32> {
    error.source()?.downcast_ref::<std::io::Error>()?.raw_os_error()
}

/// An error with all its sources, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}
