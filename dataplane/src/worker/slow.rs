//! What goes to the slow path, as copies, and what it gives to be sent.

use super::handle::{Injection, Punt, Way};
use super::{Ingress, Origin, Pipeline, Worker};
use crate::capture::PacketCopy;
use crate::frame::Frame;
use crate::port::{Port, PortId};
use crate::table::Tick;
use crate::verdict::{DropReason, PuntDetail, PuntReason, Verdict};

/// Packets from the slow path that are sent per turn.
const INJECTIONS_PER_TURN: usize = 32;

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// Copies a frame to the slow path.
    pub(super) fn punt(
        &mut self,
        frame: Frame,
        reason: PuntReason,
        detail: PuntDetail,
        ingress: Ingress,
    ) -> Verdict {
        // A packet of the switch's own that needs the slow path again came from there: it is not sent round.
        let Some(port) = self.port_of(ingress) else {
            self.pool.give(frame);
            return self.drop_counted(DropReason::OriginatedStuck, ingress);
        };
        let taken = self.hand_up(port, &frame, reason, detail);
        if taken {
            self.stats.punted(reason, self.queue_of(ingress));
        }
        self.pool.give(frame);
        if taken {
            Verdict::Punt(reason, detail)
        } else {
            self.drop_counted(DropReason::SlowPathFull, ingress)
        }
    }

    /// Gives the slow path a copy of a packet that came in at `ingress`; whether there was room.
    fn hand_up(&self, ingress: PortId, frame: &Frame, reason: PuntReason, detail: PuntDetail) -> bool {
        let punt = Punt {
            worker: self.config.index,
            ingress,
            network: frame.network(),
            reason,
            detail,
            packet: PacketCopy::new(frame.bytes()),
        };
        self.punts.try_send(punt).is_ok()
    }

    /// Sends what the slow path gave.
    pub(super) fn inject(&mut self, now: Tick) -> usize {
        let mut count = 0;
        while count < INJECTIONS_PER_TURN {
            let Ok(Injection { way, packet }) = self.inbox.injections.try_recv() else {
                break;
            };
            count += 1;
            self.stats.originated();
            let Some(mut frame) = self.pool.take_with(packet.bytes()) else {
                self.drop_counted(DropReason::NoRoom, Ingress::Switch);
                continue;
            };
            let verdict = match way {
                Way::Exit(port) => Verdict::Forward(port),
                Way::Walk(origin) => self.pipeline.originate(&mut frame, origin, now),
            };
            if let (Way::Walk(Origin::Held { port, .. }), Verdict::Punt(reason, detail)) = (way, verdict)
                && reason.may_follow_a_wait()
                && self.hand_up(port, &frame, reason, detail)
            {
                self.stats.punted(reason, None);
                self.pool.give(frame);
                continue;
            }
            self.dispatch(frame, verdict, Ingress::Switch);
        }
        count
    }
}
