//! Giving up what the daemon does not need.
//!
//! Capabilities belong to threads and are inherited by those made later, so they are dropped before the first thread
//! is made. What is kept serves attaching and detaching, at any time; the threads that look at packets give it up too.

use anyhow::Context as _;
use caps::{CapSet, Capability, CapsHashSet};

/// What the daemon uses after it has begun.
pub const KEPT: [Capability; 7] = [
    // Interfaces, routes, neighbours, XDP programs.
    Capability::CAP_NET_ADMIN,
    // AF_XDP sockets.
    Capability::CAP_NET_RAW,
    // Loading programs and maps.
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    // Entering a pod's network namespace, and identifying attached programs.
    Capability::CAP_SYS_ADMIN,
    // Opening `/proc/PID/ns/net` of a pod's process.
    Capability::CAP_SYS_PTRACE,
    // Packet memory beyond the limit of locked memory.
    Capability::CAP_IPC_LOCK,
];

/// Drops every capability that is not in [`KEPT`] from the calling thread, for good.
///
/// # Errors
/// When the kernel refuses, which it does for nobody who merely gives something up.
pub(crate) fn drop_unneeded() -> anyhow::Result<()> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    let doing = "giving up capabilities";
    let has_setpcap = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).context(doing)?;
    if has_setpcap {
        for capability in caps::read(None, CapSet::Bounding)
            .context(doing)?
            .difference(&kept)
        {
            caps::drop(None, CapSet::Bounding, *capability).context(doing)?;
        }
    }
    // Lowered in this order: what is effective must be permitted.
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        let have = caps::read(None, set).context(doing)?;
        caps::set(None, set, &have.intersection(&kept).copied().collect()).context(doing)?;
    }
    Ok(())
}

/// The names of those in [`KEPT`] that the calling thread has not.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn missing() -> anyhow::Result<Vec<String>> {
    let have = caps::read(None, CapSet::Effective).context("reading capabilities")?;
    let missing = KEPT.into_iter().filter(|capability| !have.contains(capability));
    Ok(missing.map(|capability| capability.to_string()).collect())
}

/// Drops every capability but that of packet sockets from the calling thread.
pub(crate) fn keep_raw_only() {
    let kept = CapsHashSet::from([Capability::CAP_NET_RAW]);
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        let have = caps::read(None, set);
        let lowered =
            have.and_then(|have| caps::set(None, set, &have.intersection(&kept).copied().collect()));
        if let Err(error) = lowered {
            tracing::warn!("cannot give up capabilities: {error}");
        }
    }
}

/// Drops every capability from the calling thread: for those that look at packets, which anybody may send.
pub(crate) fn drop_all() {
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        if let Err(error) = caps::clear(None, set) {
            tracing::warn!("cannot give up capabilities: {error}");
        }
    }
}
