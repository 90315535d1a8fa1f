//! The announcer's thread: between the link, the control plane and the clock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use millrace_dataplane::table::HashKey;
use millrace_dataplane::wire::MacAddr;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::watch;
use tracing::{debug, warn};

use super::frames::Frame;
use super::groups::Groups;
use super::link::Link;
use super::speaker::{Counts, Speaker, Status, Task};

/// The thread's name, as the system shows it.
const NAME: &str = "announcer";
/// The least time between two turns that the clock asks for: what is due is limited in each.
const TURN: Duration = Duration::from_millis(20);
/// How often an interface that cannot be listened to is tried again.
const REOPEN: Duration = Duration::from_secs(1);
/// Frames that are heard before orders and the clock are looked at again.
const HEARD_AT_ONCE: usize = 64;
/// Orders that may wait; each replaces those before it.
const ORDERS: usize = 16;

/// Where to announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The interface's name.
    pub interface: String,
    /// Its number.
    pub ifindex: u32,
    /// Its link address.
    pub mac: MacAddr,
}

/// How everything stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Announced {
    /// Each address.
    pub addresses: BTreeMap<IpAddr, Status>,
    /// What was heard and said.
    pub counts: Counts,
    /// Why nothing can be announced.
    pub trouble: Option<String>,
}

/// Why the announcer could not start.
#[derive(Debug, thiserror::Error)]
#[error("the {NAME} thread cannot start: {source}")]
pub struct AnnouncerError {
    /// What the system said.
    #[from]
    source: std::io::Error,
}

/// Tells the thread what to announce. The thread ends with it.
#[derive(Debug)]
pub struct Announcer {
    orders: Sender<(Place, Task)>,
    /// Ends the thread's waiting.
    wake: Arc<OwnedFd>,
    announced: watch::Receiver<Arc<Announced>>,
}

impl Announcer {
    /// Starts the thread, with nothing to announce.
    ///
    /// # Errors
    /// [`AnnouncerError`] when the system has no thread left.
    pub fn start(key: HashKey) -> Result<Self, AnnouncerError> {
        let (orders, received) = bounded(ORDERS);
        let (sender, announced) = watch::channel(Arc::default());
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(std::io::Error::from)?);
        let body = Loop {
            orders: received,
            wake: Arc::clone(&wake),
            announced: sender,
            place: None,
            speaker: Speaker::new(MacAddr::ZERO, key),
            ears: None,
            reopen: Instant::now(),
            turned: Instant::now(),
            trouble: None,
        };
        thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            crate::privileges::keep_raw_only();
            body.run();
        })?;
        Ok(Self {
            orders,
            wake,
            announced,
        })
    }

    /// Has these addresses announced there, and no others. Says whether the order was taken; a thread that does not come to
    /// them takes none.
    pub fn order(&self, place: Place, task: Task) -> bool {
        let is_taken = self.orders.try_send((place, task)).is_ok();
        self.wake();
        is_taken
    }

    fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// How everything stands, now and whenever it changes.
    #[must_use]
    pub fn announced(&self) -> watch::Receiver<Arc<Announced>> {
        self.announced.clone()
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        // The thread sees that nobody gives orders any more.
        (self.orders, _) = bounded(1);
        self.wake();
    }
}

/// What is open while there is something to announce.
struct Ears {
    link: Link,
    groups: Groups,
}

struct Loop {
    orders: Receiver<(Place, Task)>,
    wake: Arc<OwnedFd>,
    announced: watch::Sender<Arc<Announced>>,
    place: Option<Place>,
    speaker: Speaker,
    ears: Option<Ears>,
    /// When opening is tried again.
    reopen: Instant,
    /// When the clock last had its turn.
    turned: Instant,
    trouble: Option<String>,
}

impl Loop {
    fn run(mut self) {
        let mut out = Vec::new();
        while self.take_orders() {
            self.hear(&mut out);
            let now = Instant::now();
            if self.wake_at().is_some_and(|at| at <= now) {
                self.turned = now;
                self.open();
                if self.ears.is_some() {
                    self.speaker.tick(now, &mut out);
                }
            }
            self.say(&mut out);
            self.report();
            self.wait();
        }
    }

    /// Waits for an order, a frame, or the clock.
    fn wait(&self) {
        let patience = self
            .wake_at()
            .map(|at| at.saturating_duration_since(Instant::now()));
        // A poll that cannot be told how long waits for what it can be told.
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let mut waited = vec![PollFd::new(&*self.wake, PollFlags::IN)];
        let ears = self.ears.as_ref().map(|ears| ears.link.as_fd());
        waited.extend(ears.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // Whatever ends it, everything is looked at again.
        let _ = poll(&mut waited, patience.as_ref());
        let _ = rustix::io::read(&*self.wake, &mut [0_u8; 8]);
    }

    /// Takes frames that have come.
    fn hear(&mut self, out: &mut Vec<Frame>) {
        let Some(ears) = &mut self.ears else { return };
        for _ in 0..HEARD_AT_ONCE {
            match ears.link.hear() {
                Ok(Some(frame)) => self.speaker.hear(frame, Instant::now(), out),
                Ok(None) => return,
                Err(error) => return self.fail(error.to_string()),
            }
        }
    }

    /// When the clock has its next turn: never, where there is nothing to announce.
    fn wake_at(&self) -> Option<Instant> {
        let due = self.speaker.due()?;
        if self.ears.is_some() {
            Some(due.max(self.turned + TURN))
        } else {
            Some(self.reopen)
        }
    }

    /// Takes what was ordered, of several the last; says whether anybody gives orders.
    fn take_orders(&mut self) -> bool {
        let mut newest = None;
        loop {
            match self.orders.try_recv() {
                Ok(order) => newest = Some(order),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        if let Some((place, task)) = newest {
            self.take_order(place, task);
        }
        true
    }

    fn take_order(&mut self, place: Place, task: Task) {
        let now = Instant::now();
        let is_elsewhere = self
            .place
            .as_ref()
            .is_none_or(|before| before.ifindex != place.ifindex);
        if task.addresses.is_empty() || is_elsewhere {
            (self.ears, self.trouble, self.reopen) = (None, None, now);
        }
        self.speaker.set_link(place.mac, now);
        self.speaker.set(task, now);
        self.place = Some(place);
        self.follow_groups();
    }

    fn follow_groups(&mut self) {
        let Some(ears) = &mut self.ears else { return };
        let addresses = self.speaker.statuses(Instant::now());
        if let Err(error) = ears.groups.follow(addresses.keys()) {
            self.fail(format!("cannot join the groups of its IPv6 addresses: {error}"));
        }
    }

    /// Opens what is to be heard by, if it is not.
    fn open(&mut self) {
        let Some(place) = self.place.as_ref().filter(|_| self.ears.is_none()) else {
            return;
        };
        match Link::open(&place.interface) {
            Ok(link) => {
                debug!(interface = place.interface, "announcing");
                self.ears = Some(Ears {
                    link,
                    groups: Groups::new(place.ifindex),
                });
                self.trouble = None;
                self.follow_groups();
            }
            Err(error) => self.fail(format!("cannot listen there: {error}")),
        }
    }

    fn fail(&mut self, why: String) {
        let interface = self.place.as_ref().map_or("", |place| place.interface.as_str());
        let trouble = format!("{interface}: {why}");
        if self.trouble.as_ref() != Some(&trouble) {
            warn!("load balancers' addresses are not announced: {trouble}");
        }
        self.trouble = Some(trouble);
        self.ears = None;
        self.reopen = Instant::now() + REOPEN;
    }

    fn say(&mut self, out: &mut Vec<Frame>) {
        if let Some(ears) = &mut self.ears {
            let said = out.iter().try_for_each(|frame| ears.link.say(frame));
            if let Err(error) = said {
                self.fail(error.to_string());
            }
        }
        out.clear();
    }

    fn report(&self) {
        let announced = Announced {
            addresses: self.speaker.statuses(Instant::now()),
            counts: self.speaker.counts(),
            trouble: self.trouble.clone(),
        };
        self.announced.send_if_modified(|before| {
            if **before == announced {
                return false;
            }
            // Counters alone are for whoever asks.
            let is_news = before.addresses != announced.addresses || before.trouble != announced.trouble;
            *before = Arc::new(announced);
            is_news
        });
    }
}
