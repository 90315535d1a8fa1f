//! One walk by itself, for a part of the bench that sets it beside something else.

use super::FRAMES_MIN;
use super::case::Case;
use super::walk::Walk;
use crate::measure::Laps;

/// The frames' length, in bytes.
const FRAME_LEN: usize = 64;
/// Laps of one measurement.
const LAPS: u32 = 8;

/// `forward`: from one pod to another on the same node.
pub(crate) struct Forward(Case);

impl Forward {
    /// With so many flows.
    ///
    /// # Errors
    /// When the walk does not do what it has to.
    pub(crate) fn new(flows: u32) -> anyhow::Result<Self> {
        Ok(Self(Case::new(Walk::Forward, FRAME_LEN, flows, FRAMES_MIN)?))
    }

    /// Cycles per packet, by the median of some laps.
    ///
    /// # Errors
    /// When the walk does not do what it has to.
    pub(crate) fn measure(&mut self) -> anyhow::Result<f64> {
        for _ in 0..self.0.warm_up() {
            self.0.lap(false)?;
        }
        let mut laps = Laps::default();
        for _ in 0..LAPS {
            laps.push(self.0.lap(true)?.cycles);
        }
        Ok(laps.cycles())
    }
}
