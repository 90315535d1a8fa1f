//! The end of a connection: one removes it, and its record is free.

use super::{Form, Life, Ordering, State, Store, places};

/// What became of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table::flow) enum Removal {
    /// Somebody else removed the connection, or changed it just now.
    Lost,
    /// The connection is over, but a writer was in the middle of an entry: a sweep will find the record dying.
    Left,
    /// The record is free; and the word that said who opened its connection.
    Done(u64),
}

impl<F: Form> Store<F> {
    /// Removes the connection of a record, if its state is `state` still: of several who try, one wins.
    pub(in crate::table::flow) fn remove(&self, record: u32, state: State) -> Removal {
        if !self.record(record).condemn(state) {
            return Removal::Lost;
        }
        self.take_down(record)
    }

    /// Takes up a removal that was left because a writer was in the middle, if `record` is such a one.
    pub(in crate::table::flow) fn finish_dying(&self, record: u32, state: State) -> Removal {
        if state.life() != Life::Dying || !self.record(record).resume(state) {
            return Removal::Lost;
        }
        self.take_down(record)
    }

    /// The rest of a removal, for its one owner.
    fn take_down(&self, record: u32) -> Removal {
        if !places(record).into_iter().all(|place| self.entry(place).kill()) {
            self.record(record).leave_dying();
            return Removal::Left;
        }
        for place in places(record) {
            let hash = self.form.hash(&self.entry(place).key());
            self.index.remove(hash, place);
        }
        let opened = self.record(record).take_opened();
        self.record(record).end();
        self.ends.live.fetch_sub(1, Ordering::Relaxed);
        self.push(record);
        Removal::Done(opened)
    }
}
