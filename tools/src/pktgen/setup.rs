//! What a generator is set up as: where packets leave and arrive, and what is sent.

use millrace_dataplane::port::QueueId;
use millrace_dataplane::wire::eth;
use millrace_dataplane::xdp::XdpMode;

use super::error::PktgenError;
use super::link::Binding;
use super::order::Order;
use super::place::Place;
use super::receiver::Listening;
use super::traffic::Traffic;

/// Where packets are sent to.
#[derive(Debug, Clone)]
pub enum Exit {
    /// An interface, by one or more of its queues, in one thread each.
    Interface {
        /// Which.
        place: Place,
        /// Its queues.
        queues: Vec<QueueId>,
        /// How sockets are bound.
        binding: Binding,
    },
    /// A wire in memory, which leads to the receiving end if that is in memory too; with one thread or more.
    Memory {
        /// How many threads.
        threads: u32,
    },
}

/// How arriving packets are counted.
#[derive(Debug, Clone)]
pub enum Entry {
    /// At an interface; each is looked into.
    Interface(Listening),
    /// At an interface; they are counted and dropped in the kernel, whatever they are.
    Drop(Place, XdpMode),
    /// From the wire in memory.
    Memory,
}

/// What is sent, and how.
#[derive(Debug, Clone)]
pub struct Sending {
    /// Where to.
    pub exit: Exit,
    /// On which cores the threads run, one after the other; those without run anywhere.
    pub cores: Vec<usize>,
    /// Packets handed to a queue at once.
    pub batch: usize,
    /// What is sent.
    pub traffic: Traffic,
    /// In which order the flows come.
    pub order: Order,
}

/// Both ends.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What is sent, if anything.
    pub send: Option<Sending>,
    /// How it is counted, if at all.
    pub receive: Option<Entry>,
    /// Cores for the ends of the wire in memory.
    pub memory_core: Option<usize>,
    /// Whether the receiving interface takes frames for anybody meanwhile.
    pub is_promiscuous: bool,
}

/// What can be known to be wrong before anything is opened.
pub(super) fn check(setup: &Setup) -> Result<(), PktgenError> {
    let Some(send) = &setup.send else {
        if matches!(setup.receive, Some(Entry::Memory)) {
            return Err(PktgenError::Settings(
                "receiving from memory, but sending nothing into it: `--send memory` would be right"
                    .to_owned(),
            ));
        }
        return Ok(());
    };
    let Exit::Interface { place, queues, .. } = &send.exit else {
        return match &setup.receive {
            Some(Entry::Interface(_) | Entry::Drop(..)) => Err(PktgenError::Settings(
                "sending into memory, but receiving by an interface: `--receive memory` would be right"
                    .to_owned(),
            )),
            _ => Ok(()),
        };
    };
    if matches!(setup.receive, Some(Entry::Memory)) {
        return Err(PktgenError::Settings(
            "sending by an interface, but receiving from memory: an interface for both, or memory, would be right".to_owned(),
        ));
    }
    let facts = place.facts()?;
    if !facts.is_up {
        return Err(PktgenError::Down(place.to_string()));
    }
    let len = send.traffic.longest();
    if len > facts.mtu as usize + eth::HEADER_LEN {
        return Err(PktgenError::TooLong {
            len,
            place: place.to_string(),
            mtu: facts.mtu,
        });
    }
    if let Some(Entry::Interface(listening)) = &setup.receive
        && listening.place == *place
    {
        let shared = queues
            .iter()
            .find(|queue| listening.queues.is_empty() || listening.queues.contains(queue));
        if let Some(queue) = shared {
            return Err(PktgenError::SameQueue {
                place: place.to_string(),
                queue: queue.0,
            });
        }
    }
    Ok(())
}
