//! The store under loom: few records, few slots, and whatever two or three threads can do to each other.

use loom::sync::Arc;
use loom::thread;

use super::*;

/// Threads switch at most this often where they need not, so that a model ends.
const PREEMPTIONS: usize = 2;
/// The same where a whole connection's life goes on beside a reader.
const PREEMPTIONS_LONG: usize = 2;
const ORIGINAL: u32 = 0;
const REPLY: u32 = 1;

/// A key or a body of one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct One(u64);

impl Words for One {
    const LEN: usize = 1;

    fn word(&self, _place: usize) -> u64 {
        self.0
    }

    fn from_words(word: impl Fn(usize) -> u64) -> Self {
        Self(word(0))
    }
}

/// A body of two words, which belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Two(u64, u64);

impl Words for Two {
    const LEN: usize = 2;

    fn word(&self, place: usize) -> u64 {
        if place == 0 { self.0 } else { self.1 }
    }

    fn from_words(word: impl Fn(usize) -> u64) -> Self {
        Self(word(0), word(1))
    }
}

struct Small;

impl Form for Small {
    type Key = One;
    type Body = Two;

    fn hash(&self, key: &One) -> u64 {
        // All have one first bucket and one second, and tags of their own.
        key.0 << 40 | 0xffff_ff00 | key.0
    }
}

type Shared = Arc<Store<Small>>;

fn store(capacity: u32) -> Shared {
    let slab = Memory::anonymous(slab_words::<Small>(capacity)).unwrap();
    Arc::new(Store::new(Small, slab, capacity).unwrap())
}

const NOTES: Notes = Notes {
    bits: 0,
    is_kept: false,
};

/// The body that an entry of this key has, of a connection that `who` claimed.
fn body(key: u64, who: u64) -> Two {
    Two(key << 8 | who, key << 8 | who)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Done,
    /// Another has the reply; or the same original is being claimed.
    Taken,
    Raced,
    Full,
}

/// Claims a connection as a shard does.
fn claim(store: &Store<Small>, original: u64, reply: u64, who: u64) -> Claim {
    let Some(draft) = store.draft() else {
        return Claim::Full;
    };
    for (direction, key) in [(ORIGINAL, original), (REPLY, reply)] {
        let content = Content {
            key: One(key),
            body: body(key, who),
            stamp: who,
        };
        store.fill(&draft, direction, &content);
    }
    let hash = |key| Small.hash(&One(key));
    match store.insert(&draft, REPLY, hash(reply), &One(reply)) {
        Insert::Done => {}
        Insert::Taken(_) => {
            store.abandon(draft);
            return Claim::Taken;
        }
        Insert::NoRoom | Insert::Contended => {
            store.abandon(draft);
            return Claim::Full;
        }
    }
    match store.insert(&draft, ORIGINAL, hash(original), &One(original)) {
        Insert::Done => {
            store.publish(draft, NOTES, [0; TRACKING_WORDS], who << 32, 0);
            Claim::Done
        }
        _ => {
            store.withdraw(&draft, REPLY, hash(reply));
            store.abandon(draft);
            Claim::Raced
        }
    }
}

/// Looks a key up; what is found is whole and of that key.
fn lookup(store: &Store<Small>, key: u64) -> Option<(Place, Seen<Two>)> {
    let place = store.find(Small.hash(&One(key)))?;
    let Look::Hit(seen) = store.read(place, &One(key)) else {
        return None;
    };
    assert_eq!(seen.body.0, seen.body.1, "half of an entry");
    assert_eq!(seen.body.0 >> 8, key, "another's entry");
    Some((place, seen))
}

/// Removes the connection of a key.
fn remove(store: &Store<Small>, key: u64) -> Removal {
    let Some((place, seen)) = lookup(store, key) else {
        return Removal::Lost;
    };
    let state = store.state(place >> 1);
    if state.incarnation() != incarnation(seen.version) {
        return Removal::Lost;
    }
    store.remove(place >> 1, state)
}

/// Takes up what was left, as a sweep does; nobody else is there any more.
fn sweep(store: &Store<Small>) {
    for record in 0..store.used() {
        let state = store.state(record);
        if state.life() == Life::Dying {
            assert!(matches!(store.finish_dying(record, state), Removal::Done(_)));
        }
        let life = store.state(record).life();
        assert!(matches!(life, Life::Free | Life::Live), "{life:?} for ever");
    }
}

fn model(check: impl Fn() + Sync + Send + 'static) {
    model_with(PREEMPTIONS, check);
}

fn model_with(preemptions: usize, check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(check);
}

/// Two workers claim the same reply for two connections: one has it, the other knows.
#[test]
fn of_two_who_claim_a_reply_one_gets_it() {
    model(|| {
        let store = store(2);
        let other = Arc::clone(&store);
        let first = thread::spawn(move || claim(&other, 1, 9, 1));
        let second = claim(&store, 2, 9, 2);
        let results = [first.join().unwrap(), second];
        let won = results.iter().filter(|claim| **claim == Claim::Done).count();
        assert_eq!(won, 1, "{results:?}");
        assert!(results.contains(&Claim::Taken), "{results:?}");
        let (_, seen) = lookup(&store, 9).unwrap();
        assert_eq!(seen.body.0 & 0xff, if second == Claim::Done { 2 } else { 1 });
        assert_eq!(store.live(), 1);
        sweep(&store);
        assert_eq!(claim(&store, 3, 4, 3), Claim::Done, "the loser's record is free");
    });
}

/// Two workers insert one key into an index whose first free slot is another for each: one has it. Two who see the same
/// slot free would meet in it; here the control word alone decides.
#[test]
fn a_key_is_inserted_once_whichever_slot_is_free() {
    const HASH: u64 = 0x12 << 40 | 0xffff_ff12;
    /// Places 0 and 1 have the key; place 2 has another.
    const KEY: [Place; 2] = [0, 1];
    const OTHER: Place = 2;
    model(|| {
        let index = Arc::new(index::Index::new(2).unwrap());
        let holds = |place| KEY.contains(&place);
        assert_eq!(index.insert(HASH, OTHER, |_| false), Insert::Done);
        let other = Arc::clone(&index);
        let first = thread::spawn(move || other.insert(HASH, KEY[0], holds));
        index.remove(HASH, OTHER);
        let second = index.insert(HASH, KEY[1], holds);
        let results = [first.join().unwrap(), second];
        let won = results.iter().filter(|insert| **insert == Insert::Done).count();
        assert_eq!(won, 1, "{results:?}");
        assert_eq!(index.find(HASH), Some(KEY[usize::from(second == Insert::Done)]));
    });
}

/// A key in its second bucket is found while others come and go in its first.
#[test]
fn a_key_in_its_second_bucket_is_never_missed() {
    const HASH: u64 = 0x12 << 40 | 0xffff_ff12;
    const OTHER: u64 = 0x34 << 40 | 0xffff_ff34;
    model(|| {
        let index = Arc::new(index::Index::new(2).unwrap());
        let insert = |index: &index::Index, hash, place| index.insert(hash, place, |_| false);
        // The first bucket counts as nearly full with one, so the next two go to the second.
        assert_eq!(insert(&index, OTHER, 1), Insert::Done);
        assert_eq!(insert(&index, HASH, 2), Insert::Done);
        let other = Arc::clone(&index);
        let changing = thread::spawn(move || {
            other.remove(OTHER, 1);
            insert(&other, OTHER, 3)
        });
        assert_eq!(index.find(HASH), Some(2));
        assert_eq!(changing.join().unwrap(), Insert::Done);
        index.remove(HASH, 2);
        assert_eq!((index.find(HASH), index.find(OTHER)), (None, Some(3)));
    });
}

/// Two workers claim the same connection, each with a backend of its own choice.
#[test]
fn of_two_who_claim_an_original_one_gets_it() {
    model(|| {
        let store = store(2);
        let other = Arc::clone(&store);
        let first = thread::spawn(move || claim(&other, 1, 8, 1));
        let second = claim(&store, 1, 9, 2);
        let results = [first.join().unwrap(), second];
        let won = results.iter().filter(|claim| **claim == Claim::Done).count();
        assert_eq!(won, 1, "{results:?}");
        let reply = if second == Claim::Done { 9 } else { 8 };
        assert!(lookup(&store, 1).is_some() && lookup(&store, reply).is_some());
        assert!(lookup(&store, 17 - reply).is_none(), "nothing of the loser stays");
    });
}

/// While one claims what another has, that other's connection is removed.
#[test]
fn a_claim_against_a_removal_of_the_same_tuple() {
    model(|| {
        let store = store(2);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let other = Arc::clone(&store);
        let removing = thread::spawn(move || remove(&other, 9));
        let claimed = claim(&store, 2, 9, 2);
        assert!(matches!(removing.join().unwrap(), Removal::Done(_)));
        assert!(matches!(claimed, Claim::Done | Claim::Taken), "{claimed:?}");
        assert_eq!(lookup(&store, 9).is_some(), claimed == Claim::Done);
        assert!(lookup(&store, 1).is_none());
        sweep(&store);
    });
}

/// A reader whose flow is removed and whose record is used again finds the old, the new, or nothing.
#[test]
fn a_lookup_against_reuse() {
    model_with(PREEMPTIONS_LONG, || {
        let store = store(1);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let other = Arc::clone(&store);
        let reading = thread::spawn(move || {
            let old = lookup(&other, 9);
            let again = lookup(&other, 9);
            if let (Some((_, old)), Some((_, again))) = (old, again) {
                assert!(old.body.0 & 0xff <= again.body.0 & 0xff, "back in time");
            }
        });
        assert!(matches!(remove(&store, 9), Removal::Done(_)));
        assert_eq!(claim(&store, 2, 9, 2), Claim::Done);
        reading.join().unwrap();
    });
}

/// Of two who remove a connection, by expiry and by hand, one does; and the record is free once.
#[test]
fn of_two_who_remove_a_connection_one_does() {
    model(|| {
        let store = store(1);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let state = store.state(0);
        let other = Arc::clone(&store);
        let first = thread::spawn(move || other.remove(0, state));
        let second = store.remove(0, state);
        let done = [first.join().unwrap(), second];
        let count = done.iter().filter(|r| matches!(r, Removal::Done(_))).count();
        assert_eq!(count, 1, "{done:?}");
        assert_eq!(claim(&store, 1, 9, 2), Claim::Done);
        assert!(store.draft().is_none(), "the record was freed twice");
    });
}

/// An answer is changed while it is read, and by two at once: what is read is one of them, whole.
#[test]
fn an_answer_changes_during_a_lookup() {
    model(|| {
        let store = store(1);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let (place, seen) = lookup(&store, 9).unwrap();
        let other = Arc::clone(&store);
        let writing = thread::spawn(move || other.write(place, seen.version, Some([7, 7]), 7));
        let reading = lookup(&store, 9);
        let wrote = store.write(place, seen.version, Some([5, 5]), 5);
        let other_wrote = writing.join().unwrap();
        assert!(wrote != other_wrote, "one of two who had read the same");
        for seen in reading.into_iter().chain(lookup(&store, 9)) {
            let [first, second] = seen.1.answer;
            assert_eq!(first, second, "torn");
            let epoch = seen.1.stamp >> 32;
            assert_eq!(epoch, first, "an answer with another's epoch");
            assert_eq!(seen.1.stamp & 0xffff_ffff, 1, "last seen is kept");
        }
        let (_, last) = lookup(&store, 9).unwrap();
        assert_eq!(last.answer, if wrote { [5, 5] } else { [7, 7] });
    });
}

/// A touch meets an answer: the epoch is the answer's, and the last use one of both.
#[test]
fn a_touch_never_brings_an_epoch_back() {
    model(|| {
        let store = store(1);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let (place, seen) = lookup(&store, 9).unwrap();
        let other = Arc::clone(&store);
        let touching = thread::spawn(move || other.exchange_stamp(place, seen.stamp, 2));
        assert!(store.write(place, seen.version, Some([5, 5]), 5));
        touching.join().unwrap();
        let (_, seen) = lookup(&store, 9).unwrap();
        assert_eq!(seen.stamp >> 32, 5);
        assert!(matches!(seen.stamp & 0xffff_ffff, 1 | 2));
    });
}

/// An answer is written while the connection is removed and its record used again: it never lands in the new one.
#[test]
fn a_late_answer_never_lands_in_another_connection() {
    model(|| {
        let store = store(1);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let (place, seen) = lookup(&store, 9).unwrap();
        let other = Arc::clone(&store);
        let writing = thread::spawn(move || other.write(place, seen.version, Some([7, 7]), 7));
        let removed = remove(&store, 1);
        let claimed = claim(&store, 2, 8, 2);
        writing.join().unwrap();
        // A removal that met the writer leaves the record to a sweep.
        sweep(&store);
        match (removed, claimed) {
            (Removal::Done(_), Claim::Done) => {
                let (_, seen) = lookup(&store, 8).unwrap();
                assert_eq!(seen.answer, [0, 0], "an answer of the connection before");
                assert_eq!(seen.stamp, 2);
            }
            (Removal::Left, Claim::Full) => assert_eq!(claim(&store, 2, 8, 2), Claim::Done),
            other => panic!("{other:?}"),
        }
        assert!(lookup(&store, 9).is_none() && lookup(&store, 1).is_none());
    });
}

/// Notes of a protocol are changed by two, while a third would remove the connection and use its record again.
#[test]
fn notes_change_one_at_a_time_and_never_another_connections() {
    model(|| {
        let store = store(1);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let (place, seen) = lookup(&store, 9).unwrap();
        let change = move |store: &Store<Small>| {
            store.change(place, seen.version, |notes, words| {
                assert_eq!(u64::from(notes.bits), words[0], "half of a change");
                notes.bits += 1;
                words[0] += 1;
                words[4] += 1; // the free list's link, otherwise
            })
        };
        let other = Arc::clone(&store);
        let changing = thread::spawn(move || change(&other));
        let own = change(&store);
        let removed = store.remove(0, store.state(0));
        let claimed = claim(&store, 2, 8, 2);
        let theirs = changing.join().unwrap();
        assert_ne!(own, Err(Unchanged::Gone));
        match removed {
            Removal::Done(_) => {
                assert_eq!(claimed, Claim::Done);
                let (place, new) = lookup(&store, 8).unwrap();
                let count = store.change(place, new.version, |notes, words| {
                    (notes.bits, words[0], words[4])
                });
                assert_eq!(count, Ok((0, 0, 0)), "a change of the connection before");
            }
            Removal::Lost => {
                assert_eq!(claimed, Claim::Full);
                let done = [own, theirs].iter().filter(|result| result.is_ok()).count() as u64;
                let count = store.change(place, seen.version, |notes, words| {
                    (u64::from(notes.bits), words[0], words[4])
                });
                assert_eq!(count, Ok((done, done, done)));
            }
            Removal::Left => panic!("nobody writes an entry"),
        }
    });
}

/// The list of free records under two who take and give: nobody gets what another has, although the first record is at the
/// head again when the slower one goes on.
#[test]
fn a_free_record_is_one_claimers() {
    model(|| {
        let store = store(2);
        let drafts = [store.draft().unwrap(), store.draft().unwrap()];
        for draft in drafts {
            store.abandon(draft);
        }
        let other = Arc::clone(&store);
        let theirs = thread::spawn(move || other.draft());
        let [first, second] = [store.draft(), store.draft()];
        let gives_back = first.is_some() && second.is_some();
        if let (true, Some(first)) = (gives_back, first) {
            store.abandon(first);
        }
        let theirs = theirs.join().unwrap();
        let last = store.draft();
        let held: Vec<u32> = [second, theirs, last]
            .into_iter()
            .flatten()
            .map(|draft| draft.record)
            .collect();
        assert!(held.len() < 2 || held[0] != held[1], "{held:?}");
        assert!(held.len() <= 2, "{held:?}");
    });
}

/// Who expires connections judges one by its own last use, and not by that of the one before.
#[test]
fn a_sweep_against_reuse() {
    model_with(PREEMPTIONS_LONG, || {
        let store = store(1);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let other = Arc::clone(&store);
        let sweeping = thread::spawn(move || {
            let state = other.state(0);
            let stamps = [other.stamp(0), other.stamp(1)];
            // Only what it removes is its business.
            if state.life() == Life::Live && stamps == [1, 1] && other.remove(0, state) != Removal::Lost {
                assert_eq!(
                    state.incarnation(),
                    1,
                    "a connection just claimed was taken for an old one"
                );
            }
        });
        if remove(&store, 9) != Removal::Lost {
            let _ = claim(&store, 2, 8, 2);
        }
        sweeping.join().unwrap();
    });
}

/// What a connection's listing reads is of one connection, though the record is used again meanwhile.
#[test]
fn a_listing_against_reuse() {
    model_with(PREEMPTIONS_LONG, || {
        let store = store(1);
        assert_eq!(claim(&store, 1, 9, 1), Claim::Done);
        let other = Arc::clone(&store);
        let listing = thread::spawn(move || {
            let state = other.state(0);
            if state.life() != Life::Live {
                return;
            }
            let (Some((_, original)), Some((_, reply))) = (other.read_any(0), other.read_any(1)) else {
                return;
            };
            let (opened, _) = other.opened_and_bound(0);
            if other.is_still(0, state) {
                let who = opened >> 32;
                assert_eq!((original.body.0 & 0xff, reply.body.0 & 0xff), (who, who));
                assert_eq!(incarnation(reply.version), state.incarnation());
            }
        });
        assert!(matches!(remove(&store, 9), Removal::Done(_)));
        assert_eq!(claim(&store, 2, 8, 2), Claim::Done);
        listing.join().unwrap();
    });
}
