//! Frames that go to several destinations, and what a batch taught.

use super::{Ingress, Pipeline, Worker};
use crate::frame::Frame;
use crate::port::Port;
use crate::verdict::{Cast, DropReason, Verdict};

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// Sends a frame to all its destinations: a copy to each, and itself to the last. What became of it is that it was
    /// replicated, whatever became of each; unless there is nowhere to go.
    #[inline(never)]
    pub(super) fn replicate(&mut self, mut frame: Frame, cast: Cast, ingress: Ingress) -> Verdict {
        let Some(mut place) = self.pipeline.destination(cast, 0) else {
            self.pool.give(frame);
            return self.drop_counted(DropReason::BridgeAlone, ingress);
        };
        while let Some(next) = self.pipeline.destination(cast, place + 1) {
            self.send_copy(&frame, cast, place, ingress);
            place = next;
        }
        let verdict = self.pipeline.finish_copy(&mut frame, cast, place);
        self.send_finished(frame, verdict, ingress);
        Verdict::Replicate(cast)
    }

    /// Sends a copy of a frame to the destination at `place`. It counts as originated, and so has an exit of its own.
    fn send_copy(&mut self, frame: &Frame, cast: Cast, place: usize, ingress: Ingress) {
        self.stats.originated();
        self.stats.replicated.add(1);
        let Some(mut copy) = self.pool.take_with(frame.bytes()) else {
            self.drop_counted(DropReason::NoRoom, ingress);
            return;
        };
        copy.set_lane(frame.lane());
        let verdict = self.pipeline.finish_copy(&mut copy, cast, place);
        self.send_finished(copy, verdict, ingress);
    }

    /// Takes a frame whose destination is settled to its exit.
    fn send_finished(&mut self, frame: Frame, verdict: Verdict, ingress: Ingress) {
        match verdict {
            Verdict::Forward(_) | Verdict::Drop(_) => {
                self.dispatch(frame, verdict, ingress);
            }
            // INVARIANT: a pipeline finishes a copy and asks for nothing more; so nothing is copied for ever.
            Verdict::Punt(..) | Verdict::Replicate(_) => {
                self.pool.give(frame);
                self.drop_counted(DropReason::OriginatedStuck, ingress);
            }
        }
    }

    /// Hands on what the last batch taught; what there is no room for is counted, and seen again.
    #[inline]
    pub(super) fn hand_on_lessons(&mut self) {
        while let Some(lesson) = self.pipeline.lesson() {
            match self.lessons.try_send(lesson) {
                Ok(()) => self.stats.lessons.add(1),
                Err(_) => self.stats.lessons_lost.add(1),
            }
        }
    }
}
