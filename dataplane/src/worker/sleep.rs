//! How a worker sleeps when there is nothing to do: in `epoll_wait`, on its ports and its wake-up event.
//!
//! epoll rather than plain `poll()`, because going to sleep then costs the same with 2 ports as with 250.

use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

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

    /// Wakes for this port from now on.
    pub(super) fn add(&self, port: BorrowedFd<'_>, slot: u64) -> std::io::Result<()> {
        Ok(epoll::add(
            &self.epoll,
            port,
            EventData::new_u64(slot),
            EventFlags::IN,
        )?)
    }

    /// Forgets a port. One whose device is gone may be forgotten already, so an error says nothing new.
    pub(super) fn remove(&self, port: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, port);
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
