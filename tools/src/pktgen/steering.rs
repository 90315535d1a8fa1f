//! The steering program on a counting end: it hands packets to sockets, or counts and drops them itself.

use std::os::fd::BorrowedFd;

use millrace_dataplane::port::QueueId;
use millrace_dataplane::xdp::{AttachedMode, ProgramKind, SteeringProgram, XdpMode, detach_ours, query};

use super::error::PktgenError;
use super::place::{Facts, Place};

/// A steering program on an interface; dropping it takes the program off again.
#[derive(Debug)]
pub struct Steering {
    program: SteeringProgram,
    place: Place,
    ifindex: u32,
    mode: AttachedMode,
}

impl Steering {
    /// Puts a program onto an interface, with `sockets` for its first queues. What comes in at a queue without a
    /// socket is counted and dropped.
    ///
    /// # Errors
    /// [`PktgenError::Occupied`] where a program is already: also one of our own, which a running switch depends on.
    pub fn attach(
        place: &Place,
        facts: Facts,
        mode: XdpMode,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<Self, PktgenError> {
        let sockets: Vec<_> = (0..facts.queues)
            .map(QueueId)
            .zip(sockets.iter().copied())
            .collect();
        Self::attach_to(place, facts, mode, &sockets)
    }

    /// The same with sockets for certain queues.
    ///
    /// # Errors
    /// As [`Self::attach`].
    pub fn attach_to(
        place: &Place,
        facts: Facts,
        mode: XdpMode,
        sockets: &[(QueueId, BorrowedFd<'_>)],
    ) -> Result<Self, PktgenError> {
        let mut program = SteeringProgram::load(ProgramKind::Port, facts.queues)?;
        for (queue, socket) in sockets {
            program.register_socket(queue.0, *socket)?;
        }
        let attached = place.within(|| {
            if let Some(other) = query(facts.ifindex)? {
                let program = if other.name.is_empty() {
                    format!("id {}", other.id)
                } else {
                    other.name
                };
                return Err(PktgenError::Occupied {
                    place: place.to_string(),
                    program,
                });
            }
            Ok(program.attach(facts.ifindex, mode)?)
        })??;
        Ok(Self {
            program,
            place: place.clone(),
            ifindex: facts.ifindex,
            mode: attached.mode,
        })
    }

    /// The mode the program runs in.
    #[must_use]
    pub fn mode(&self) -> AttachedMode {
        self.mode
    }

    /// Packets that found no socket, and were dropped.
    ///
    /// # Errors
    /// When the program's counters cannot be read.
    pub fn dropped(&self) -> Result<u64, PktgenError> {
        Ok(self.program.counters()?.port_dropped_no_socket)
    }
}

impl Drop for Steering {
    fn drop(&mut self) {
        let detached = self.place.within(|| detach_ours(self.ifindex));
        // An interface that has gone meanwhile took the program with it.
        let is_gone = self.place.facts().is_err();
        if let (Ok(Err(error)), false) = (detached, is_gone) {
            eprintln!("pktgen: {error}");
        }
    }
}
