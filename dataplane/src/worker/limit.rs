//! What a port may send and be sent at most.
//!
//! The buckets are shared by all workers, for the frames of a port come in by queues of several, and leave by them. A frame
//! is charged once: where it came in, before it walks or is given away, and by the worker that sends it. A port without a
//! limit is not looked at: see [`Slot::is_special`](super::Slot) and [`Worker::free_exits`](super::Worker).

use std::sync::Arc;

use super::{Ingress, Pipeline, Worker};
use crate::clock;
use crate::port::{Port, PortId};
use crate::table::Bucket;
use crate::verdict::DropReason;

/// What a port is held to; the directions are those of whoever stands behind it.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// What it is sent.
    pub ingress: Option<Arc<Bucket>>,
    /// What it sends.
    pub egress: Option<Arc<Bucket>>,
}

impl Limits {
    /// Whether a frame of so many bytes may leave by the port. What the switch itself has to say (`source` is `None`) is
    /// little, and without it whoever is flooded would forget who the switch is.
    pub(super) fn admit_to(&self, bytes: usize, source: Option<PortId>) -> bool {
        match &self.ingress {
            Some(bucket) if source.is_some() => bucket.take(bytes, clock::cycles()),
            Some(_) | None => true,
        }
    }
}

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// Holds a port to these limits from now on.
    pub fn limit(&mut self, port: PortId, limits: &Limits) {
        for slot in self.slots.iter_mut().filter(|slot| slot.port == port) {
            slot.is_special = slot.ordinal != 0 || limits.egress.is_some();
            slot.limits = limits.clone();
        }
        self.list_exits();
    }

    /// Looks at the batch at hand, which came in at `port` by the queue `slot`, before it walks: gives it its lane, and drops
    /// what is over the port's limit. What stays keeps its order.
    #[inline(never)]
    pub(super) fn prepare(&mut self, slot: usize, port: PortId) {
        let Some(source) = self.slots.get(slot) else {
            return;
        };
        let lane = source.ordinal;
        if lane != 0 {
            self.frames.iter_mut().for_each(|frame| frame.set_lane(lane));
        }
        let Some(bucket) = source.limits.egress.clone() else {
            return;
        };
        if let Some(tap) = self.tap.as_mut().filter(|tap| tap.port() == port) {
            tap.remember(self.frames.iter().map(crate::frame::Frame::bytes));
        }
        let now = clock::cycles();
        let mut frames = std::mem::take(&mut self.frames);
        // In place: what stays moves up.
        let mut kept = 0;
        for place in 0..frames.len() {
            if frames
                .get(place)
                .is_some_and(|frame| bucket.take(frame.len(), now))
            {
                frames.swap(kept, place);
                kept += 1;
            } else {
                let verdict = self.drop_counted(DropReason::BandwidthEgress, Ingress::Queue(slot));
                self.offer_received(port, place, verdict);
            }
        }
        frames.drain(kept..).for_each(|frame| self.pool.give(frame));
        self.frames = frames;
    }
}
