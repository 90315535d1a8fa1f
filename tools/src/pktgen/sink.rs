//! The cheapest end there is: the steering program counts every packet and drops it, before the kernel does anything
//! with it and without waking a process.
//!
//! It does not look into packets, so it counts what anyone sends to the interface. For measuring who is before it.

use millrace_dataplane::xdp::{AttachedMode, XdpMode};

use super::error::PktgenError;
use super::place::Place;
use super::steering::Steering;

/// An interface whose packets are counted and dropped.
#[derive(Debug)]
pub struct Sink {
    steering: Steering,
}

impl Sink {
    /// Counts and drops from now on, until it is dropped.
    ///
    /// # Errors
    /// [`PktgenError`] when the interface is not there, or has an XDP program already.
    pub fn attach(place: &Place, mode: XdpMode) -> Result<Self, PktgenError> {
        let facts = place.facts()?;
        Ok(Self {
            steering: Steering::attach(place, facts, mode, &[])?,
        })
    }

    /// Packets so far.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn packets(&self) -> Result<u64, PktgenError> {
        self.steering.dropped()
    }

    /// The mode the steering program runs in.
    #[must_use]
    pub fn mode(&self) -> AttachedMode {
        self.steering.mode()
    }
}
