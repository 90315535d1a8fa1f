//! What a worker is told between two turns: which queues to serve, what to lend, when to stop.

use std::sync::Arc;

use crossbeam::channel::TryRecvError;

use super::handle::Command;
use super::{ExitSlots, Limits, Pipeline, QUEUES_PER_PORT_MAX, Slot, StallWatch, Worker};
use crate::frame::Holder;
use crate::port::{Port, PortId};
use crate::stats::QueueStats;

impl<P: Port, L: Pipeline> Worker<P, L> {
    /// Does what it was told since the last turn.
    pub(super) fn obey(&mut self) -> usize {
        let mut count = 0;
        loop {
            let command = match self.inbox.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    // Nobody is left to tell it anything, to stop either.
                    self.stopping = true;
                    break;
                }
            };
            count += 1;
            match command {
                Command::Add {
                    port,
                    io,
                    holder,
                    stats,
                } => self.add(port, io, holder, stats),
                Command::Relay { port, to } => self.relay(port, to),
                Command::Limit { port, limits } => self.limit(port, &limits),
                Command::Lend { holder, room, lent } => {
                    let _ = lent.try_send(self.lend(holder, room));
                }
                Command::Remove { port, queues } => {
                    let _ = queues.try_send(self.remove(port));
                }
                Command::Reclaim { holder, frames } => {
                    let _ = frames.try_send(self.reclaim(holder));
                }
                Command::Spread(spread) => self.spread = spread,
                Command::Tap(tap) => self.tap = Some(tap),
                Command::Untap => self.tap = None,
                Command::Beat(done) => {
                    self.beat();
                    let _ = done.try_send(());
                }
                Command::Stop => self.stopping = true,
            }
        }
        count
    }

    /// Serves a queue from now on.
    pub fn add(&mut self, port: PortId, mut io: P, holder: Holder, stats: Arc<QueueStats>) {
        io.settle(&mut self.pool);
        let before = self.slots.iter().filter(|slot| slot.port == port).count();
        let ordinal = u16::try_from(before).unwrap_or(u16::MAX);
        self.slots.push(Slot {
            port,
            ordinal,
            is_special: ordinal != 0,
            io,
            holder,
            stats,
            queued: 0,
            queued_bytes: 0,
            tried: false,
            armed: false,
            stirred: true,
            limits: Limits::default(),
            watch: StallWatch::default(),
        });
        self.list_anew();
    }

    /// Stops serving a port and hands back its queues.
    pub fn remove(&mut self, port: PortId) -> Vec<P> {
        self.tap.take_if(|tap| tap.port() == port);
        self.relays.retain(|outlet| outlet.port() != port);
        let mut removed = Vec::new();
        let mut place = 0;
        while let Some(slot) = self.slots.get(place) {
            if slot.port != port {
                place += 1;
                continue;
            }
            let mut slot = self.slots.remove(place);
            // Orders come between two turns, and a turn ends with counting what it queued.
            debug_assert_eq!(slot.queued, 0, "frames that nobody has counted");
            self.bed.remove(&mut slot);
            slot.io.let_go(&mut self.pool);
            removed.push(slot.io);
        }
        self.list_anew();
        removed
    }

    /// Lends empty frames to a holder; as many as there is room for in the list, or fewer.
    fn lend(&mut self, holder: Holder, mut room: Vec<u64>) -> Vec<u64> {
        room.clear();
        while room.len() < room.capacity() {
            let Some(address) = self.pool.lend_empty(holder) else {
                break;
            };
            room.push(address);
        }
        room
    }

    /// Takes back every frame of a holder whose socket is closed.
    pub fn reclaim(&mut self, holder: Holder) -> usize {
        // A queue that is still served has its socket open, and the kernel may be writing into its frames.
        if self.slots.iter().any(|slot| slot.holder == holder) {
            return 0;
        }
        self.pool.reclaim(holder)
    }

    /// Lists all slots anew: they have other places.
    fn list_anew(&mut self) {
        self.rota.begin(self.slots.len());
        self.list_all_stirred();
        self.list_exits();
    }

    /// Lists every slot as one to be settled.
    pub(super) fn list_all_stirred(&mut self) {
        self.stirred.clear();
        for (number, slot) in self.slots.iter_mut().enumerate() {
            slot.stirred = true;
            self.stirred.push(number);
        }
    }

    /// Lists anew through which slots each port is reached.
    pub(super) fn list_exits(&mut self) {
        self.exits.fill(ExitSlots::NONE);
        let sending = self.slots.iter().enumerate().filter(|(_, slot)| slot.io.sends());
        for (number, slot) in sending {
            let Some(exits) = self.exits.get_mut(slot.port.index()) else {
                continue;
            };
            let place = usize::from(exits.len);
            if let (true, Ok(number)) = (place < QUEUES_PER_PORT_MAX, u16::try_from(number)) {
                exits.slots[place] = number;
                exits.len += 1;
            }
        }
        self.free_exits.copy_from_slice(&self.exits);
        for slot in self.slots.iter().filter(|slot| slot.limits.ingress.is_some()) {
            if let Some(exits) = self.free_exits.get_mut(slot.port.index()) {
                *exits = ExitSlots::NONE;
            }
        }
    }
}
