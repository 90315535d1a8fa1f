//! A worker's packet memory, registered with the kernel: one UMEM, shared by all the worker's sockets.
#![allow(unsafe_code)]

use std::num::NonZeroU32;
use std::ptr::NonNull;

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};

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
    /// The number of frames makes no sense.
    #[error("{0} frames of packet memory: a positive number is needed")]
    Frames(u32),
}

/// A handle on a worker's UMEM, with which sockets are bound to it from any thread.
#[derive(Debug, Clone)]
pub struct Umem {
    inner: xsk_rs::Umem,
}

impl Memory for Umem {}

impl Umem {
    /// Maps and registers memory for `frames` frames; the pool of all of them goes to the worker.
    ///
    /// # Errors
    /// [`UmemError`] says how much was asked for and what the kernel said.
    pub fn new(frames: u32) -> Result<(Self, Pool), UmemError> {
        let count = NonZeroU32::new(frames).ok_or(UmemError::Frames(frames))?;
        let refused_because = |reason: String, errno: Option<i32>| UmemError::Refused {
            frames,
            megabytes: frames as usize * CHUNK_LEN / (1 << 20),
            reason,
            hint: hint(errno),
        };
        let refused = |reason: String| refused_because(reason, None);
        let config = config().map_err(refused)?;
        let (inner, descriptors) = xsk_rs::Umem::new(config, count, false)
            .map_err(|error| refused_because(chain(&error), errno_of(&error)))?;
        let mut first = descriptors.into_iter().next().ok_or(UmemError::Frames(frames))?;
        // SAFETY: the descriptor is this UMEM's own, and nobody else has seen the memory yet.
        let (_, mut data) = unsafe { inner.frame_mut(&mut first) };
        // xsk-rs hands out the first frame's data; the region itself starts one headroom before it.
        // The mapping was made by C code, so any pointer into it may be made from its address alone.
        let address = data.contents_mut().as_mut_ptr().addr().wrapping_sub(HEADROOM);
        let base = std::ptr::with_exposed_provenance_mut::<u8>(address);
        let base = NonNull::new(base).ok_or_else(|| refused("mapped at zero".into()))?;
        let umem = Self { inner };
        // SAFETY: the region is `frames * CHUNK_LEN` bytes, mapped while any clone of `umem` lives, and xsk-rs is
        // asked for none of it again.
        let pool = unsafe { Pool::from_raw(base, frames, Box::new(umem.clone())) };
        Ok((umem, pool))
    }

    pub(super) fn inner(&self) -> &xsk_rs::Umem {
        &self.inner
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
