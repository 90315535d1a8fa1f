//! Copies of packets for someone who looks: tcpdump sees nothing of what AF_XDP takes.
//!
//! A tap sits on a worker and copies what passes one port into a bounded queue, with the verdict. When nobody
//! takes copies fast enough they are dropped and counted; the traffic never waits.

use std::time::SystemTime;

use crossbeam::channel::{Sender, TrySendError};

use crate::frame::MAX_PACKET_LEN;
use crate::port::PortId;
use crate::verdict::Verdict;

/// A packet's bytes, copied out of its frame.
#[derive(Clone)]
pub struct PacketCopy {
    len: u16,
    bytes: [u8; MAX_PACKET_LEN],
    /// A packet that is longer than that, whole. Memory is taken for it where it is copied, by a worker too: such packets are
    /// there only where links take them, and few are copied.
    long: Option<Box<[u8]>>,
}

impl PacketCopy {
    /// Copies `packet`.
    #[must_use]
    pub fn new(packet: &[u8]) -> Self {
        let mut copy = Self {
            len: 0,
            bytes: [0; MAX_PACKET_LEN],
            long: None,
        };
        copy.set(packet);
        copy
    }

    /// Replaces the copy.
    pub fn set(&mut self, packet: &[u8]) {
        self.long = (packet.len() > MAX_PACKET_LEN).then(|| packet.into());
        let len = packet.len().min(MAX_PACKET_LEN);
        self.bytes[..len].copy_from_slice(&packet[..len]);
        // INVARIANT: MAX_PACKET_LEN fits 16 bits.
        self.len = u16::try_from(len).unwrap_or(0);
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.long {
            None => &self.bytes[..usize::from(self.len)],
            Some(long) => long,
        }
    }
}

impl std::fmt::Debug for PacketCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PacketCopy({} bytes)", self.bytes().len())
    }
}

/// Which way a captured packet went, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The switch received it here, and this was its verdict.
    Received(Verdict),
    /// The switch sent it here; it came in at this port, or was originated (`None`).
    Sent(Option<PortId>),
}

/// One captured packet.
#[derive(Debug, Clone)]
pub struct Captured {
    /// When the worker had it in hand.
    pub time: SystemTime,
    /// The port at which it was captured.
    pub port: PortId,
    /// Which way it went.
    pub direction: Direction,
    /// Its bytes as received, or as sent.
    pub packet: PacketCopy,
}

/// A tap on one worker for one port.
#[derive(Debug)]
pub struct Tap {
    port: PortId,
    copies: Sender<Captured>,
    /// The packets of the current batch as they came in, before the walk changes them.
    before: Vec<PacketCopy>,
    filled: usize,
}

impl Tap {
    /// A tap on `port`, with room for batches of `batch` packets; copies go to `copies`.
    #[must_use]
    pub fn new(port: PortId, batch: usize, copies: Sender<Captured>) -> Self {
        Self {
            port,
            copies,
            before: vec![PacketCopy::new(&[]); batch],
            filled: 0,
        }
    }

    /// The port it listens at.
    #[must_use]
    pub fn port(&self) -> PortId {
        self.port
    }

    /// Remembers a batch as it came in.
    pub(crate) fn remember<'a>(&mut self, packets: impl Iterator<Item = &'a [u8]>) {
        self.filled = 0;
        for (slot, packet) in self.before.iter_mut().zip(packets) {
            slot.set(packet);
            self.filled += 1;
        }
    }

    /// Offers the remembered packet `index` with its verdict; false when the copy was lost.
    pub(crate) fn offer_received(&self, index: usize, verdict: Verdict) -> Result<bool, Unheard> {
        match self.before[..self.filled].get(index) {
            Some(packet) => self.offer(Direction::Received(verdict), packet.clone()),
            None => Ok(false),
        }
    }

    /// Offers a packet that is being sent; false when the copy was lost.
    pub(crate) fn offer_sent(&self, from: Option<PortId>, packet: PacketCopy) -> Result<bool, Unheard> {
        self.offer(Direction::Sent(from), packet)
    }

    fn offer(&self, direction: Direction, packet: PacketCopy) -> Result<bool, Unheard> {
        let copy = Captured {
            time: SystemTime::now(),
            port: self.port,
            direction,
            packet,
        };
        match self.copies.try_send(copy) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(_)) => Ok(false),
            Err(TrySendError::Disconnected(_)) => Err(Unheard),
        }
    }
}

/// Nobody listens to the tap any more; it may be taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unheard;
