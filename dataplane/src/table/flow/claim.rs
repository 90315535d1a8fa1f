//! Claiming a connection, and making room for one.

use super::flow::Opened;
use super::store::{Content, Draft, Insert, Notes, Removal, State, TRACKING_WORDS};
use super::tuple::{Address, Direction, Tuple};
use super::{Binding, ClaimError, Claimed, FlowId, FlowShard, Hash, New, Rewrite, protocol};
use crate::table::Tick;

/// How often room is made for one connection: others may take it first.
const EVICTIONS_MAX: usize = 4;

/// All that a record holds when it becomes live.
pub(super) struct Entrant<A> {
    /// Of the original flow, and of the reply.
    pub(super) keys: [Tuple<A>; 2],
    pub(super) stamps: [u64; 2],
    pub(super) notes: Notes,
    pub(super) tracking: [u64; TRACKING_WORDS],
    pub(super) opened: Opened,
    pub(super) bound: u64,
}

impl<A: Address> FlowShard<A> {
    /// Claims a connection for its first packet, which counts as seen.
    ///
    /// # Errors
    /// [`ClaimError`]. Of a connection that was not claimed nothing stays.
    pub fn claim(&self, new: &New<A>, now: Tick) -> Result<Claimed, ClaimError> {
        if new.original == new.reply {
            return Err(ClaimError::Loop);
        }
        let (notes, tracking) = protocol::open(new.original.protocol, new.segment.as_ref(), self.loose)
            .ok_or(ClaimError::TcpInvalid)?;
        if new.opener.is_some_and(|port| !self.charges.charge(port)) {
            return Err(ClaimError::PodCap);
        }
        let entrant = Entrant {
            keys: [new.original, new.reply],
            stamps: [u64::from(now.seconds()), u64::from(Tick::NEVER.seconds())],
            notes,
            tracking,
            opened: Opened {
                at: now,
                by: new.opener,
            },
            bound: Binding::word(new.binding),
        };
        let claimed = self.enter(&entrant, Some(now));
        if claimed.is_err()
            && let Some(port) = new.opener
        {
            self.charges.release(port);
        }
        claimed
    }

    /// Makes a record of `entrant` live. `now` is given if another may go for it.
    pub(super) fn enter(&self, entrant: &Entrant<A>, now: Option<Tick>) -> Result<Claimed, ClaimError> {
        let mut evicted = false;
        let hashes = entrant.keys.map(|key| self.hash(&key));
        // Both buckets are most likely cold; they come while the record is filled.
        hashes.iter().for_each(|hash| self.prefetch_bucket(*hash));
        let draft = self.draft(now, &mut evicted).ok_or(ClaimError::Full)?;
        let [original, reply] = entrant.keys;
        for (key, twin, direction) in [
            (original, reply, Direction::Original),
            (reply, original, Direction::Reply),
        ] {
            let content = Content {
                key,
                body: Rewrite::between(&key, &twin.reversed()),
                stamp: entrant.stamps[direction as usize],
            };
            self.store.fill(&draft, direction as u32, &content);
        }
        if let Err(error) = self.insert_both(&draft, &entrant.keys, hashes, now, &mut evicted) {
            self.store.abandon(draft);
            return Err(error);
        }
        let place = draft.record << 1;
        let version = self.store.publish(
            draft,
            entrant.notes,
            entrant.tracking,
            entrant.opened.word(),
            entrant.bound,
        );
        let id = |direction: Direction| FlowId {
            place: place | direction as u32,
            version,
        };
        Ok(Claimed {
            original: id(Direction::Original),
            reply: id(Direction::Reply),
            evicted,
        })
    }

    /// Inserts the reply, which decides, and then the original entry; on an error neither stays.
    fn insert_both(
        &self,
        draft: &Draft,
        [original, reply]: &[Tuple<A>; 2],
        [original_hash, reply_hash]: [Hash; 2],
        now: Option<Tick>,
        evicted: &mut bool,
    ) -> Result<(), ClaimError> {
        match self.insert(draft, Direction::Reply, (reply_hash, reply), now, evicted) {
            Insert::Done => {}
            // Whoever has it may be claiming this very connection, and their twin entry tells.
            Insert::Taken(place) if self.store.has_key(place ^ 1, original) => return Err(ClaimError::Raced),
            Insert::Taken(_) => return Err(ClaimError::ReplyTaken),
            Insert::NoRoom => return Err(ClaimError::Full),
            Insert::Contended => return Err(ClaimError::Raced),
        }
        let entry = (original_hash, original);
        let error = match self.insert(draft, Direction::Original, entry, now, evicted) {
            Insert::Done => return Ok(()),
            Insert::Taken(_) | Insert::Contended => ClaimError::Raced,
            Insert::NoRoom => ClaimError::Full,
        };
        self.store.withdraw(draft, Direction::Reply as u32, reply_hash.0);
        Err(error)
    }

    fn insert(
        &self,
        draft: &Draft,
        direction: Direction,
        (Hash(hash), key): (Hash, &Tuple<A>),
        now: Option<Tick>,
        evicted: &mut bool,
    ) -> Insert {
        let insert = self.store.insert(draft, direction as u32, hash, key);
        let Some(now) = now.filter(|_| insert == Insert::NoRoom) else {
            return insert;
        };
        // Both buckets are full, which takes bad luck: somebody in them has to go.
        if !self.evict(self.store.expendable_near(hash, |record| self.age(record, now))) {
            return Insert::NoRoom;
        }
        *evicted = true;
        self.store.insert(draft, direction as u32, hash, key)
    }

    /// A record to fill; when all are taken, after somebody half-open has gone.
    fn draft(&self, now: Option<Tick>, evicted: &mut bool) -> Option<Draft> {
        if let Some(draft) = self.store.draft() {
            return Some(draft);
        }
        let now = now?;
        for _ in 0..EVICTIONS_MAX {
            *evicted |= self.evict(self.store.expendable_by_hand(|record| self.age(record, now)));
            if let Some(draft) = self.store.draft() {
                return Some(draft);
            }
        }
        None
    }

    fn evict(&self, candidate: Option<(u32, State)>) -> bool {
        candidate.is_some_and(|(record, state)| self.take_out(self.store.remove(record, state)))
    }

    /// Settles what a removal left to settle; answers whether a connection has gone.
    pub(super) fn take_out(&self, removal: Removal) -> bool {
        match removal {
            Removal::Done(opened) => {
                if let Some(port) = Opened::from_word(opened).by {
                    self.charges.release(port);
                }
                true
            }
            Removal::Left => true,
            Removal::Lost => false,
        }
    }
}
