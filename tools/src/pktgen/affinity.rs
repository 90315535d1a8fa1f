//! Pinning a thread to a core.

use core_affinity::CoreId;

use super::error::PktgenError;

/// Whether this process may run on `core`.
///
/// # Errors
/// [`PktgenError::Core`] naming the cores that there are.
pub fn check_core(core: usize) -> Result<(), PktgenError> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if cores.iter().any(|id| id.id == core) {
        return Ok(());
    }
    let available = cores
        .iter()
        .map(|id| id.id.to_string())
        .collect::<Vec<_>>()
        .join(", ");
    Err(PktgenError::Core { core, available })
}

/// Pins the calling thread, if a core was named. [`check_core`] has said that it is there; one that leaves in between
/// costs speed, not correctness.
pub fn pin(core: Option<usize>) {
    if let Some(id) = core {
        core_affinity::set_for_current(CoreId { id });
    }
}
