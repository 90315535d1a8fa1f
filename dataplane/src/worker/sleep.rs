//! How a worker sleeps when there is nothing to do: in `epoll_wait`, on its ports and its wake-up event.
//!
//! epoll rather than plain `poll()`, because going to sleep then costs the same with 2 ports as with 250. But an armed
//! socket costs the sender: the kernel calls on whoever waits for it with every frame that it has sent (`sock_wfree` in
//! `net/core/sock.c`), which was an eighth of the worker's time on veth. So a port that sends is armed only when the
//! worker goes to sleep.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::Slot;
use crate::port::Port;

/// From how many frames of one flush on it pays to forget the socket and arm it again: two system calls.
const DISARM_FROM: u32 = 8;
/// Events taken per sleep; more stay ready and end the next sleep at once.
const EVENTS: usize = 32;

pub(super) struct Bed {
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
}

impl Bed {
    pub(super) fn new(wake: Arc<OwnedFd>) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*wake, EventData::new_u64(u64::MAX), EventFlags::IN)?;
        Ok(Self { epoll, wake })
    }

    /// Wakes for this port from now on. Whatever came in before counts as well.
    pub(super) fn arm<P: Port>(&self, slot: &mut Slot<P>) {
        if slot.armed {
            return;
        }
        let Some(fd) = slot.io.fd() else { return };
        // Without it the worker still serves the port whenever it is awake, and it wakes every beat.
        let added = epoll::add(&self.epoll, fd, EventData::new_u64(0), EventFlags::IN);
        slot.armed = added.is_ok();
    }

    /// Forgets a port that is about to send much, until the next sleep.
    pub(super) fn disarm<P: Port>(&self, slot: &mut Slot<P>) {
        if slot.queued >= DISARM_FROM {
            self.remove(slot);
        }
    }

    /// Forgets a port. One whose device is gone may be forgotten already, so an error says nothing new.
    pub(super) fn remove<P: Port>(&self, slot: &mut Slot<P>) {
        if std::mem::take(&mut slot.armed)
            && let Some(fd) = slot.io.fd()
        {
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    /// Sleeps until a port has input, somebody calls, or `timeout_ms` has passed.
    pub(super) fn sleep(&self, timeout_ms: u32) {
        let timeout = Timespec {
            tv_sec: i64::from(timeout_ms / 1000),
            tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
        };
        let mut events = [const { MaybeUninit::<Event>::uninit() }; EVENTS];
        // A signal or an error only shortens the sleep: the worker looks at its ports itself.
        let _ = epoll::wait(&self.epoll, &mut events, Some(&timeout));
    }

    /// Clears the wake-up event.
    pub(super) fn drain(&self) {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
    }
}
