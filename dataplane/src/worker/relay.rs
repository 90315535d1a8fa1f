//! Handing packets over to another worker: the one exception to the rule that a frame never leaves its worker.
//!
//! An interface may have fewer queues than there are workers. A transmit ring belongs to one worker's memory, so a
//! worker without a queue of the exit port copies the packet into a bounded queue of a worker that has one. Always of the
//! same one, so that a flow stays in order.

use super::handle::{Handover, Relay};
use super::{Ingress, Pipeline, Worker};
use crate::capture::PacketCopy;
use crate::frame::Frame;
use crate::port::{Port, PortId};
use crate::verdict::DropReason;

/// Packets of other workers that are sent per turn.
const HANDOVERS_PER_TURN: usize = 64;

/// The way out of a port of which a worker has no queue.
pub(super) struct Outlet {
    port: PortId,
    to: Relay,
    /// Something was handed over since the other was woken last.
    news: bool,
}

impl Outlet {
    pub(super) fn port(&self) -> PortId {
        self.port
    }
}

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// Hands over what leaves by `port` from now on.
    pub fn relay(&mut self, port: PortId, to: Relay) {
        self.relays.retain(|outlet| outlet.port != port);
        self.relays.push(Outlet {
            port,
            to,
            news: false,
        });
    }

    /// Copies a frame to the worker that has a queue of its exit port.
    pub(super) fn hand_over(
        &mut self,
        frame: Frame,
        port: PortId,
        from: Option<PortId>,
    ) -> Result<(), DropReason> {
        let Some(outlet) = self.relays.iter_mut().find(|outlet| outlet.port == port) else {
            self.pool.give(frame);
            return Err(DropReason::PortGone);
        };
        let handover = Handover {
            port,
            from,
            lane: frame.lane(),
            packet: PacketCopy::new(frame.bytes()),
        };
        self.pool.give(frame);
        outlet.news = true;
        if outlet.to.handovers.try_send(handover).is_err() {
            return Err(DropReason::HandoverFull);
        }
        self.stats.handed_over.add(1);
        Ok(())
    }

    /// Wakes those to whom something was handed over in this turn.
    pub(super) fn wake_others(&mut self) {
        self.spread.wake();
        for outlet in &mut self.relays {
            if std::mem::take(&mut outlet.news) {
                outlet.to.wake();
            }
        }
    }

    /// Sends what other workers handed over. It is handed on to nobody: whoever did so took this one for the owner.
    pub(super) fn take_over(&mut self) -> usize {
        let mut count = 0;
        while count < HANDOVERS_PER_TURN {
            let Ok(handover) = self.inbox.handovers.try_recv() else {
                break;
            };
            count += 1;
            self.stats.taken_over.add(1);
            if let Err(reason) = self.send_taken_over(&handover) {
                self.drop_counted(reason, Ingress::Switch);
            }
        }
        count
    }

    fn send_taken_over(&mut self, handover: &Handover) -> Result<(), DropReason> {
        let exits = self.exits.get(handover.port.index());
        let slot = exits
            .and_then(|exits| exits.pick(handover.lane))
            .ok_or(DropReason::PortGone)?;
        let frame = self
            .pool
            .take_with(handover.packet.bytes())
            .ok_or(DropReason::NoRoom)?;
        self.send(frame, slot, handover.from)
    }
}
