//! The work of it, as tasks beside each other: renewing, looking, leading, writing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use super::book::{LOOKS, LeaseBook, RENEWALS};
use super::lead::{self, Candidate, Step};
use super::write::Writer;
use super::{Board, BoardError, Order, Said};
use crate::balancer::Members;
use crate::objects::NodeName;

/// In how many parts of a Lease's time it is looked whether one is over.
const GLANCES: u32 = 20;

/// What it is done with.
#[derive(Debug, Clone)]
pub struct Options {
    /// This node.
    pub own: NodeName,
    /// After how long a node that is not heard of counts as dead.
    pub lease: Duration,
}

/// What the tasks know in common.
struct Known {
    book: LeaseBook,
    candidate: Candidate,
    said: Said,
}

struct Tasks<B> {
    board: Arc<B>,
    options: Options,
    known: Mutex<Known>,
    members: watch::Sender<Arc<Members>>,
}

/// Does it all until the other end of `orders` is gone; `members` says what comes of it.
pub async fn run<B: Board>(
    board: Arc<B>,
    options: Options,
    orders: mpsc::Receiver<Order>,
    members: watch::Sender<Arc<Members>>,
) {
    let known = Known {
        book: LeaseBook::new(options.lease),
        candidate: Candidate::new(options.own.as_str()),
        said: Said::default(),
    };
    let tasks = Tasks {
        board,
        options,
        known: Mutex::new(known),
        members,
    };
    tokio::select! {
        () = tasks.renew() => {}
        () = tasks.look() => {}
        () = tasks.glance() => {}
        () = tasks.lead() => {}
        () = tasks.write(orders) => {}
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = interval(period);
    // After a pause one is enough.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl<B: Board> Tasks<B> {
    fn known<R>(&self, work: impl FnOnce(&mut Known) -> R) -> R {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for an answer, but not for longer than it would be of use.
    async fn in_time<T>(
        &self,
        patience: Duration,
        request: impl Future<Output = Result<T, BoardError>>,
    ) -> Result<T, BoardError> {
        let answer = timeout(patience, request).await;
        answer.unwrap_or_else(|_| {
            Err(BoardError::Other(format!(
                "no answer within {} ms",
                patience.as_millis()
            )))
        })
    }

    /// Renews this node's own Lease.
    async fn renew(&self) {
        let lease = self.options.lease;
        let mut due = every(lease / RENEWALS);
        let mut trouble = None;
        loop {
            due.tick().await;
            let said = self.known(|known| known.said.clone());
            let renewal = self.board.renew(&self.options.own, &said, lease);
            note(
                &mut trouble,
                "renewing this node's Lease",
                self.in_time(lease / RENEWALS, renewal).await.err(),
            );
        }
    }

    /// Looks at all Leases.
    async fn look(&self) {
        let patience = self.options.lease / LOOKS;
        let mut due = every(patience);
        let mut trouble = None;
        loop {
            due.tick().await;
            let leases = self.in_time(patience, self.board.leases()).await;
            let failure = match leases {
                Ok(leases) => {
                    self.known(|known| known.book.look(Instant::now(), leases));
                    None
                }
                Err(error) => Some(error),
            };
            note(&mut trouble, "reading the nodes' Leases", failure);
            self.publish();
        }
    }

    /// Sees that what is over counts as over, between two looks.
    async fn glance(&self) {
        let mut due = every(self.options.lease / GLANCES);
        loop {
            due.tick().await;
            self.publish();
        }
    }

    fn publish(&self) {
        let now = Instant::now();
        let (living, claims, is_cut_off, leads) = self.known(|known| {
            let is_cut_off = known.book.is_cut_off(now);
            let (living, claims) = (known.book.living(now), known.book.claims(now));
            (living, claims, is_cut_off, known.candidate.leads(now))
        });
        self.members.send_if_modified(|before| {
            // What this node does not see it does not judge.
            let living = if is_cut_off { before.living.clone() } else { living };
            let members = Members {
                living,
                is_cut_off,
                leads,
                claims,
            };
            if **before == members {
                return false;
            }
            debug!(?members, "nodes that take part");
            *before = Arc::new(members);
            true
        });
    }

    /// Comes to give out addresses, if nobody does.
    async fn lead(&self) {
        let mut due = every(lead::RETRY);
        let (mut trouble, mut led) = (None, false);
        loop {
            due.tick().await;
            let failure = self.try_to_lead().await.err();
            // Whoever is faster leads as well as this node would.
            let failure = failure.filter(|error| *error != BoardError::Conflict);
            note(&mut trouble, "the Lease of who gives out addresses", failure);
            let leads = self.known(|known| known.candidate.leads(Instant::now()));
            if leads != led {
                let word = if leads { "now" } else { "no longer" };
                info!("this node {word} gives out load balancers' addresses");
            }
            led = leads;
            self.publish();
        }
    }

    async fn try_to_lead(&self) -> Result<(), BoardError> {
        let held = self.in_time(lead::RETRY, self.board.leader()).await?;
        let asked = Instant::now();
        let step = self.known(|known| known.candidate.look(held.clone(), asked));
        match step {
            Step::Wait => {
                self.known(|known| known.candidate.lost());
                Ok(())
            }
            Step::Create | Step::Take | Step::Renew => {
                let request = self.board.lead(&self.options.own, held.as_ref());
                self.in_time(lead::RETRY, request).await?;
                self.known(|known| known.candidate.written(asked));
                Ok(())
            }
        }
    }

    /// Writes what was given out.
    async fn write(&self, mut orders: mpsc::Receiver<Order>) {
        let mut writer = Writer::new(Arc::clone(&self.board));
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                () = writer.work() => continue,
            };
            match order {
                Some(Order::Say(said)) => self.known(|known| known.said = said),
                Some(order) => writer.take(order),
                None => return,
            }
        }
    }
}

/// Says what fails once, and that it is over.
fn note(trouble: &mut Option<BoardError>, what: &str, failure: Option<BoardError>) {
    match (&trouble, &failure) {
        (None, Some(error)) => warn!("{what} fails: {error}"),
        (Some(_), None) => info!("{what} works again"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    *trouble = failure;
}

#[cfg(test)]
mod tests;
