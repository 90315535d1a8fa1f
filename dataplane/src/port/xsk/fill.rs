//! How many empty frames a queue holds.

use crate::port::umem::UMEM_RING_LEN;

/// How many empty frames a queue holds ready to receive into.
///
/// A queue starts with `base` and doubles towards `max` whenever a whole batch, or half of them, was waiting, as long as half of the
/// pool is free; so 250 idle pods hold little, and a busy one is not short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillPolicy {
    /// What a queue always gets.
    pub base: u32,
    /// What a busy queue may grow to; at most the entries of its fill ring.
    pub max: u32,
}

impl FillPolicy {
    /// For the host port, and a NIC's queue in copy mode.
    pub const WIDE: Self = Self {
        base: 1024,
        max: UMEM_RING_LEN,
    };
    /// For a pod's port.
    pub const POD: Self = Self {
        base: 32,
        max: UMEM_RING_LEN,
    };

    /// What a queue that is busy may have instead of `target`; `None` for no more. A quarter of the `frames` in all stays
    /// free for what is under way and for others, of which hundreds of idle ports leave more than that.
    pub(super) fn grow(self, target: u32, available: usize, frames: u32) -> Option<u32> {
        let wanted = (target * 2).min(self.max);
        let more = wanted.checked_sub(target).filter(|more| *more > 0)?;
        (available >= (frames / 4 + more) as usize).then_some(wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_grows_beside_hundreds_of_idle_ones_and_leaves_a_quarter_free() {
        let (frames, ports) = (16_384, 250);
        let lent = ports * FillPolicy::POD.base + 2 * FillPolicy::WIDE.base;
        let (mut available, mut target) = ((frames - lent) as usize, FillPolicy::POD.base);
        while let Some(more) = FillPolicy::POD.grow(target, available, frames) {
            available -= (more - target) as usize;
            target = more;
        }
        assert_eq!(target, FillPolicy::POD.max);
        assert!(available >= frames as usize / 4);
        assert_eq!(FillPolicy::POD.grow(32, frames as usize / 4 + 31, frames), None);
    }
}
