//! A worker's part in sharing the load of a queue: see [`spread`](mod@super::spread).

use super::belt::Label;
use super::spread::Share;
use super::{Ingress, Pipeline, Worker};
use crate::frame::{Frame, MAX_PACKET_LEN};
use crate::port::{Port, PortId};
use crate::table::Tick;
use crate::verdict::DropReason;

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// Gives others their share of the batch at hand, which came in at `port` by the queue `slot`; what stays keeps its order.
    #[inline(never)]
    pub(super) fn give_shares(&mut self, slot: usize, port: PortId) {
        self.flows.clear();
        self.pipeline.flows(port, &self.frames, &mut self.flows);
        if self.flows.is_empty() {
            return;
        }
        debug_assert_eq!(
            self.flows.len(),
            self.frames.len(),
            "a flow or none for each frame"
        );
        let (mut given, mut full) = (0, 0);
        let (mut frames, mut flows) = (std::mem::take(&mut self.frames), std::mem::take(&mut self.flows));
        let mut flow = flows.drain(..);
        // In place: what stays moves up.
        let mut kept = 0;
        for place in 0..frames.len() {
            let share = match (flow.next().flatten(), frames.get(place)) {
                (Some(flow), Some(frame)) => self.spread.give(flow, label(port, frame), frame.bytes()),
                _ => Share::Home,
            };
            match share {
                Share::Home => {
                    frames.swap(kept, place);
                    kept += 1;
                }
                Share::Given => given += 1,
                Share::Full => full += 1,
            }
        }
        drop(flow);
        self.spread.show();
        frames.drain(kept..).for_each(|frame| self.pool.give(frame));
        (self.frames, self.flows) = (frames, flows);
        self.stats.handed_over.add(given);
        self.stats.spread_out.add(given);
        for _ in 0..full {
            self.drop_counted(DropReason::SpreadFull, Ingress::Queue(slot));
        }
    }

    /// Walks what others gave: a batch from each.
    pub(super) fn take_shares(&mut self, now: Tick) -> usize {
        let mut work = 0;
        for inlet in 0..self.spread.inlets.len() {
            if let Some(port) = self.fetch(inlet, &mut work) {
                self.walk(Ingress::Given(port), port, now);
            }
        }
        work
    }

    /// Makes frames of the oldest packets of one worker, as many as came in at one port; answers that port.
    fn fetch(&mut self, inlet: usize, work: &mut usize) -> Option<PortId> {
        let inlet = self.spread.inlets.get_mut(inlet)?;
        let (mut from, mut count, mut lost) = (None, 0, 0);
        while count < self.config.batch {
            let Some(label) = inlet
                .peek()
                .filter(|label| from.is_none_or(|from| from == label.port))
            else {
                break;
            };
            from = Some(label.port);
            count += 1;
            let taken = if usize::from(label.len) > MAX_PACKET_LEN {
                self.pool.take_run()
            } else {
                self.pool.take()
            };
            let Some(mut frame) = taken else {
                inlet.take(&mut []);
                lost += 1;
                continue;
            };
            frame.set_lane(label.lane);
            // INVARIANT: it was a frame's, so it fits one.
            let _ = frame.fill_by(usize::from(label.len), |bytes| inlet.take(bytes));
            self.frames.push(frame);
        }
        inlet.give_back();
        *work += count;
        self.stats.taken_over.add(count as u64);
        self.stats.spread_in.add(count as u64);
        let port = PortId::new(from?)?;
        for _ in 0..lost {
            self.drop_counted(DropReason::NoRoom, Ingress::Given(port));
        }
        Some(port).filter(|_| !self.frames.is_empty())
    }
}

/// What goes with a packet.
fn label(port: PortId, frame: &Frame) -> Label {
    // INVARIANT: a port's number is below PortId::LIMIT and a packet no longer than its frame; both fit.
    #[allow(clippy::cast_possible_truncation)]
    Label {
        port: port.index() as u16,
        lane: frame.lane(),
        len: frame.len() as u16,
    }
}
