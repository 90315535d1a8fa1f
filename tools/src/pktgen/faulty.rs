//! A port that does its work badly on purpose, and says exactly how badly: to see that all of it is found.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_dataplane::frame::{Frame, Pool};
use millrace_dataplane::port::{Port, Settled};
use millrace_dataplane::stats::DeviceStatistics;
use millrace_dataplane::wire::eth;

/// After so many turns without a packet nobody comes any more who would overtake the one that is held.
const PATIENCE: u32 = 500;

/// Which of the packets that are sent by it a port spoils: every so manyth, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Is not sent.
    pub drop: u64,
    /// Is sent twice.
    pub duplicate: u64,
    /// Is sent with a wrong bit somewhere behind the Ethernet addresses.
    pub corrupt: u64,
    /// Is sent after some that come later.
    pub delay: u64,
    /// How many overtake it.
    pub delay_by: u64,
}

/// What a port has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Misdeeds {
    /// Packets it was to send.
    pub packets: u64,
    /// Packets not sent.
    pub dropped: u64,
    /// Packets sent twice.
    pub duplicated: u64,
    /// Packets damaged.
    pub corrupted: u64,
    /// Packets that were overtaken.
    pub delayed: u64,
}

/// Tells what a [`Faulty`] port has done, from outside.
#[derive(Debug, Clone, Default)]
pub struct Confession(Arc<Mutex<Misdeeds>>);

impl Confession {
    /// What was done so far.
    #[must_use]
    pub fn read(&self) -> Misdeeds {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A port that spoils what it sends. What it receives is left alone.
#[derive(Debug)]
pub struct Faulty<P> {
    port: P,
    faults: Faults,
    done: Misdeeds,
    held: Option<Frame>,
    /// Packets sent since the held one should have been.
    overtaken_by: u64,
    /// Turns in which nothing was sent.
    idle: u32,
    confession: Confession,
}

impl<P: Port> Faulty<P> {
    /// Spoils what is sent by `port`.
    #[must_use]
    pub fn new(port: P, faults: Faults) -> (Self, Confession) {
        let confession = Confession::default();
        let port = Self {
            port,
            faults,
            done: Misdeeds::default(),
            held: None,
            overtaken_by: 0,
            idle: 0,
            confession: confession.clone(),
        };
        (port, confession)
    }

    /// Sends what was held back, if there is room.
    fn release(&mut self, pool: &mut Pool) {
        let Some(frame) = self.held.take() else {
            return;
        };
        match self.port.send(pool, frame) {
            Ok(()) => self.done.delayed += u64::from(self.overtaken_by > 0),
            Err(frame) => self.held = Some(frame),
        }
    }

    fn confess(&self) {
        *self.confession.0.lock().unwrap_or_else(PoisonError::into_inner) = self.done;
    }
}

fn is_turn(every: u64, number: u64) -> bool {
    every > 0 && number.is_multiple_of(every)
}

impl<P: Port> Port for Faulty<P> {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        self.port.receive(pool, into, max)
    }

    fn send(&mut self, pool: &mut Pool, mut frame: Frame) -> Result<(), Frame> {
        let (number, faults) = (self.done.packets + 1, self.faults);
        if is_turn(faults.drop, number) {
            pool.give(frame);
            self.done.packets = number;
            self.done.dropped += 1;
            return Ok(());
        }
        if is_turn(faults.delay, number) && self.held.is_none() {
            self.held = Some(frame);
            self.overtaken_by = 0;
            self.done.packets = number;
            return Ok(());
        }
        let copy = if is_turn(faults.duplicate, number) {
            pool.take_with(frame.bytes())
        } else {
            None
        };
        let (mut damage, beyond) = (None, 2 * eth::MAC_LEN);
        if is_turn(faults.corrupt, number) && frame.len() > beyond {
            let bits = (frame.len() - beyond) * 8;
            // A number that is prime to most lengths: another bit every time.
            let bit = usize::try_from(number.wrapping_mul(7919)).unwrap_or(0) % bits;
            damage = Some((beyond + bit / 8, 1u8 << (bit % 8)));
        }
        let flip = |frame: &mut Frame| {
            if let Some((at, mask)) = damage
                && let Some(byte) = frame.bytes_mut().get_mut(at)
            {
                *byte ^= mask;
            }
        };
        flip(&mut frame);
        if let Err(mut frame) = self.port.send(pool, frame) {
            flip(&mut frame);
            if let Some(copy) = copy {
                pool.give(copy);
            }
            return Err(frame);
        }
        self.idle = 0;
        self.done.packets = number;
        self.done.corrupted += u64::from(damage.is_some());
        if let Some(copy) = copy {
            match self.port.send(pool, copy) {
                Ok(()) => self.done.duplicated += 1,
                Err(copy) => pool.give(copy),
            }
        }
        if self.held.is_some() {
            self.overtaken_by += 1;
            if self.overtaken_by >= faults.delay_by {
                self.release(pool);
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        self.port.flush();
        self.confess();
    }

    fn pending(&mut self) -> bool {
        self.held.is_some() || self.port.pending()
    }

    fn settle(&mut self, pool: &mut Pool) -> Settled {
        if self.idle >= PATIENCE {
            self.release(pool);
            self.port.flush();
            self.confess();
        }
        self.idle = self.idle.saturating_add(1);
        self.port.settle(pool)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.port.fd()
    }

    fn last_error(&mut self) -> Option<i32> {
        self.port.last_error()
    }

    fn device_statistics(&self) -> Option<DeviceStatistics> {
        self.port.device_statistics()
    }
}
