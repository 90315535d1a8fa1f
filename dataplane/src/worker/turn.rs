//! A worker's loop: turns over its queues, and its sleep.

use super::beat::LoadWatch;
use super::spread::Look;
use super::{Idle, Ingress, Pipeline, Worker};
use crate::capture::{PacketCopy, Unheard};
use crate::clock;
use crate::frame::Frame;
use crate::port::{Port, PortId};
use crate::stats::QueueStats;
use crate::table::Tick;
use crate::verdict::{DropReason, Verdict};

/// How long a worker looks for work before it sleeps.
const PATIENCE_US: u64 = 50;
/// How often histograms, the frame census and the kernel's counters are shown to the outside.
const BEAT_MS: u32 = 1000;
/// How often its load is looked at, to share it or not.
const LOOK_MS: u32 = 20;
/// How long it waits at most, all in all, until others are through with what it gave them, when it takes all of it back.
const LEAVING_US: u64 = 1000;
/// How long a worker sleeps at most while frames wait that a device did not take.
const PENDING_MS: u32 = 1;
/// Turns between two looks at queues that had nothing to do.
const SETTLE_ALL_TURNS: u64 = 256;

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// Works until told to stop.
    pub(super) fn run(&mut self) {
        let start = clock::cycles();
        let patience = self.clock.from_us(PATIENCE_US);
        let mut beat = LoadWatch::new(&self.clock, BEAT_MS, start);
        let mut look = LoadWatch::new(&self.clock, LOOK_MS, start);
        let (mut last_work, mut turns) = (start, 0u64);
        let mut has_slept = false;
        while !self.stopping {
            let before = clock::cycles();
            turns += 1;
            let settle_all = std::mem::take(&mut has_slept) || turns.is_multiple_of(SETTLE_ALL_TURNS);
            let work = self.turn(settle_all);
            let after = clock::cycles();
            self.stats.total_cycles.set(after.wrapping_sub(start));
            if work > 0 {
                self.stats.busy_cycles.add(after.wrapping_sub(before));
                last_work = after;
            } else if self.may_sleep() && after.wrapping_sub(last_work) > patience {
                self.sleep();
                has_slept = true;
                last_work = clock::cycles();
            }
            let now = clock::cycles();
            if let Some(load) = look.load(now, self.stats.busy_cycles.get()) {
                self.stats.recent_load.set(load);
                self.look_at_load(load, now.wrapping_sub(start));
            }
            if let Some(load) = beat.load(now, self.stats.busy_cycles.get()) {
                self.stats.load_permille.set(load);
                self.beat();
            }
        }
        self.beat();
    }

    /// Has what is shared follow the load; `since` are cycles since the start.
    fn look_at_load(&mut self, load: u64, since: u64) {
        self.spread.look(&Look {
            load,
            all_left: self.stirred.is_empty(),
            passed: self.stats.received_in_room(),
            now: self.clock.to_ns(since),
            patience: self.clock.from_us(LEAVING_US),
        });
    }

    /// One round over commands, packets from the slow path and all queues; returns how much there was to do.
    pub fn turn(&mut self, settle_all: bool) -> usize {
        let now = self.tick.now();
        let mut work = 0;
        // Looked at first: to receive from a channel waits for all that was written before, packets too. That there is
        // nobody any more who could give orders is seen now and then, and after every sleep.
        if settle_all || !self.inbox.commands.is_empty() {
            work += self.obey();
        }
        if !self.inbox.injections.is_empty() {
            work += self.inject(now);
        }
        if !self.inbox.handovers.is_empty() {
            work += self.take_over();
        }
        let has_shares = self.spread.has_news();
        if has_shares {
            work += self.take_shares(now);
        }
        work += self.serve_all(now, settle_all);
        self.sweeps_on = self.pipeline.sweep(now);
        if settle_all {
            self.list_all_stirred();
        }
        let mut stirred = std::mem::take(&mut self.stirred);
        stirred.retain(|slot| self.finish(*slot));
        self.stirred = stirred;
        // Where a device did not take all there is, what was taken earlier says it with a later turn.
        if self.stirred.is_empty() && (has_shares || settle_all) {
            self.spread.say_gone();
        }
        self.wake_others();
        work
    }

    /// Takes a batch from each queue whose turn it is; from all of them now and then, and after each sleep, for it may be any of
    /// them that ended it.
    fn serve_all(&mut self, now: Tick, is_thorough: bool) -> usize {
        let (mut work, mut place) = (0, 0);
        while let Some(slot) = self.rota.busy(place) {
            let count = self.serve(slot, now);
            place = self.rota.note(place, count > 0);
            work += count;
        }
        for _ in 0..self.rota.idle_looks(is_thorough) {
            let Some(slot) = self.rota.idle() else { break };
            let count = self.serve(slot, now);
            if count > 0 {
                self.rota.wake(slot);
            }
            work += count;
        }
        work
    }

    /// Ends the turn of a queue that frames went in or out of; answers whether it is to be looked after in the next, too.
    fn finish(&mut self, slot: usize) -> bool {
        let Some(slot) = self.slots.get_mut(slot) else {
            return false;
        };
        if slot.tried || slot.queued > 0 {
            slot.tried = false;
            self.bed.disarm(slot);
            slot.io.flush();
            // Counted all at once: three counters in memory for each packet are as dear as to send it.
            slot.stats.sent(slot.queued.into(), slot.queued_bytes);
            self.stats.transmitted(slot.queued.into());
            (slot.queued, slot.queued_bytes) = (0, 0);
            self.stats
                .device_errors
                .add(u64::from(slot.io.last_error().is_some()));
        }
        slot.io.settle(&mut self.pool);
        slot.stirred = slot.io.pending();
        slot.stirred
    }

    /// Takes one batch from a queue to its exits.
    fn serve(&mut self, slot: usize, now: Tick) -> usize {
        let Some(source) = self.slots.get_mut(slot) else {
            return 0;
        };
        let count = source
            .io
            .receive(&mut self.pool, &mut self.frames, self.config.batch);
        if count == 0 {
            return 0;
        }
        source.stir(slot, &mut self.stirred);
        let (ingress, is_special) = (source.port, source.is_special);
        let bytes: usize = self.frames.iter().map(Frame::len).sum();
        source.stats.received(count as u64, bytes as u64);
        self.stats.received(count as u64);
        if is_special {
            self.prepare(slot, ingress);
        }
        if self.spread.is_sharing() {
            self.give_shares(slot, ingress);
        }
        if !self.frames.is_empty() {
            self.walk(Ingress::Queue(slot), ingress, now);
        }
        count
    }

    /// Takes the batch at hand, which came in at `port`, to its exits.
    #[inline(always)]
    pub(super) fn walk(&mut self, ingress: Ingress, port: PortId, now: Tick) {
        let began = clock::cycles();
        let count = self.frames.len();
        let tapped = self.tap.as_mut().filter(|tap| tap.port() == port);
        if let Some(tap) = tapped {
            tap.remember(self.frames.iter().map(Frame::bytes));
        }
        self.verdicts.clear();
        let mut frames = std::mem::take(&mut self.frames);
        let mut verdicts = std::mem::take(&mut self.verdicts);
        self.pipeline.process(port, &mut frames, &mut verdicts, now);
        debug_assert_eq!(verdicts.len(), count, "one verdict per frame");
        // INVARIANT: the pipeline gives one verdict per frame; a debug build checks it above.
        verdicts.resize(count, Verdict::Drop(DropReason::NoRoute));
        let is_tapped = self.tap.is_some();
        for (index, (frame, verdict)) in frames.drain(..).zip(&verdicts).enumerate() {
            // By far the most, and nobody asks what became of them.
            let frame = match verdict {
                Verdict::Forward(port) if !is_tapped => match self.send_at_once(frame, *port) {
                    Ok(()) => continue,
                    Err(frame) => frame,
                },
                Verdict::Forward(_) | Verdict::Drop(_) | Verdict::Punt(..) | Verdict::Replicate(_) => frame,
            };
            self.take_to_exit(frame, *verdict, ingress, index);
        }
        (self.frames, self.verdicts) = (frames, verdicts);
        self.hand_on_lessons();
        let ns = self.clock.to_ns(clock::cycles().wrapping_sub(began));
        self.histograms.record(ns, count as u64);
    }

    /// Takes packet `index` of the current batch to its exit.
    #[inline(never)]
    fn take_to_exit(&mut self, frame: Frame, verdict: Verdict, ingress: Ingress, index: usize) {
        let verdict = self.dispatch(frame, verdict, ingress);
        if let Some(port) = self.port_of(ingress) {
            self.offer_received(port, index, verdict);
        }
    }

    /// The port that a packet came in at.
    pub(super) fn port_of(&self, ingress: Ingress) -> Option<PortId> {
        match ingress {
            Ingress::Queue(slot) => self.slots.get(slot).map(|slot| slot.port),
            Ingress::Given(port) => Some(port),
            Ingress::Switch => None,
        }
    }

    /// The counters of the queue that a packet came in by, as far as it is one of this worker's.
    pub(super) fn queue_of(&self, ingress: Ingress) -> Option<&QueueStats> {
        match ingress {
            Ingress::Queue(slot) => self.slots.get(slot).map(|slot| &*slot.stats),
            Ingress::Given(_) | Ingress::Switch => None,
        }
    }

    /// Takes a frame to its exit and counts it there; returns what really became of it.
    pub(super) fn dispatch(&mut self, frame: Frame, verdict: Verdict, ingress: Ingress) -> Verdict {
        match verdict {
            Verdict::Forward(port) => {
                let source = self.port_of(ingress);
                match self.send_or_hand_over(frame, port, source) {
                    Ok(()) => verdict,
                    Err(reason) => self.drop_counted(reason, ingress),
                }
            }
            Verdict::Drop(reason) => {
                self.pool.give(frame);
                self.drop_counted(reason, ingress)
            }
            Verdict::Punt(reason, detail) => self.punt(frame, reason, detail, ingress),
            Verdict::Replicate(cast) => self.replicate(frame, cast, ingress),
        }
    }

    pub(super) fn drop_counted(&self, reason: DropReason, ingress: Ingress) -> Verdict {
        self.stats.dropped(reason, self.queue_of(ingress));
        Verdict::Drop(reason)
    }

    /// Puts a frame into a transmit ring of `port`, if there is one here with room.
    #[inline(always)]
    fn send_at_once(&mut self, frame: Frame, port: PortId) -> Result<(), Frame> {
        let exits = self.free_exits.get(port.index());
        let picked = exits.and_then(|exits| exits.pick(frame.lane()));
        let Some((slot, exit)) = picked.and_then(|slot| Some((slot, self.slots.get_mut(slot)?))) else {
            return Err(frame);
        };
        let bytes = frame.len();
        exit.io.send(&mut self.pool, frame)?;
        exit.sent(bytes);
        exit.stir(slot, &mut self.stirred);
        Ok(())
    }

    /// Puts a frame into a transmit ring of `port`, or hands it over to a worker that can.
    fn send_or_hand_over(
        &mut self,
        frame: Frame,
        port: PortId,
        source: Option<PortId>,
    ) -> Result<(), DropReason> {
        let exits = self.exits.get(port.index());
        match exits.and_then(|exits| exits.pick(frame.lane())) {
            Some(slot) => self.send(frame, slot, source),
            None => self.hand_over(frame, port, source),
        }
    }

    /// Puts a frame into the transmit ring of a queue.
    pub(super) fn send(
        &mut self,
        frame: Frame,
        slot: usize,
        source: Option<PortId>,
    ) -> Result<(), DropReason> {
        let Some(exit) = self.slots.get_mut(slot) else {
            self.pool.give(frame);
            return Err(DropReason::PortGone);
        };
        let port = exit.port;
        let bytes = frame.len();
        if !exit.limits.admit_to(bytes, source) {
            self.pool.give(frame);
            return Err(DropReason::BandwidthIngress);
        }
        let copy = self
            .tap
            .as_ref()
            .filter(|tap| tap.port() == port)
            .map(|_| PacketCopy::new(frame.bytes()));
        let sent = exit.io.send(&mut self.pool, frame).or_else(|frame| {
            // A full ring is often only not yet flushed.
            exit.io.flush();
            exit.io.settle(&mut self.pool);
            exit.io.send(&mut self.pool, frame)
        });
        exit.tried = true;
        exit.stir(slot, &mut self.stirred);
        if let Err(frame) = sent {
            self.pool.give(frame);
            return Err(DropReason::TransmitRingFull);
        }
        exit.sent(bytes);
        if let (Some(tap), Some(copy)) = (&self.tap, copy) {
            let offered = tap.offer_sent(source, copy);
            Self::count_copy(&self.stats, &mut self.tap, Some(offered));
        }
        Ok(())
    }

    /// Hands the copy of packet `index` of the current batch to the tap, if there is one here.
    pub(super) fn offer_received(&mut self, ingress: PortId, index: usize, verdict: Verdict) {
        let Some(tap) = self.tap.as_ref().filter(|tap| tap.port() == ingress) else {
            return;
        };
        let offered = tap.offer_received(index, verdict);
        Self::count_copy(&self.stats, &mut self.tap, Some(offered));
    }

    fn count_copy(
        stats: &crate::stats::WorkerStats,
        tap: &mut Option<crate::capture::Tap>,
        offered: Option<Result<bool, Unheard>>,
    ) {
        match offered {
            Some(Ok(true)) => stats.captured.add(1),
            Some(Ok(false)) => stats.capture_lost.add(1),
            Some(Err(Unheard)) => *tap = None,
            None => {}
        }
    }

    fn may_sleep(&self) -> bool {
        self.config.idle == Idle::Sleep && !self.sweeps_on
    }

    /// Sleeps until there is something to do, unless there already is.
    fn sleep(&mut self) {
        let mut pending = false;
        for slot in &mut self.slots {
            slot.io.settle(&mut self.pool);
            pending |= slot.io.pending();
            self.bed.arm(slot);
        }
        self.stats.sleeps.add(1);
        self.bed.sleep(if pending { PENDING_MS } else { BEAT_MS });
        self.bed.drain();
    }
}
