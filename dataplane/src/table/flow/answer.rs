//! The answer that a flow's first packet found and that later packets take: where to, and what that rests on.

use super::tuple::{lower, upper};
use crate::port::PortId;
use crate::table::{Epoch, NeighbourId, NetworkId, PeerId, SubjectId, Subjects};
use crate::verdict::DropReason;

/// How many subjects an answer can rest on.
pub const SUBJECTS_MAX: usize = 3;

/// Where a flow's packets go. Handles only: what stands behind them is looked up in the snapshot, so that a changed
/// link address or outer header makes no flow stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// To the one station behind a port.
    Port(PortId),
    /// To a next hop on a port's link.
    Neighbour(NeighbourId),
    /// To another node, through the tunnel to it.
    Peer(PeerId),
    /// Nowhere: every packet is dropped for this reason.
    Refused(DropReason),
    /// Into another network, where another connection's answer says where to.
    Network(NetworkId),
}

/// A stored answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Where to.
    pub onward: Onward,
    /// What that rests on; [`SubjectId::NONE`] where there are fewer.
    pub subjects: [SubjectId; SUBJECTS_MAX],
    /// The snapshot in which it was found, or last seen to hold still.
    pub epoch: Epoch,
}

/// Whether a stored answer holds still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It does.
    Fresh,
    /// It does, but bears an older epoch: [`touch_in`](super::FlowShard::touch_in) it now and then, so that not every
    /// packet has to look at the subjects.
    Restamp,
    /// Something that it rests on has changed: find a new one, and keep the connection's rewrites.
    Stale,
}

impl Answer {
    /// Whether the answer holds in the snapshot `epoch`, whose subjects these are. One that was found in a later
    /// snapshot does.
    #[inline]
    #[must_use]
    pub fn freshness(&self, epoch: Epoch, subjects: &Subjects) -> Freshness {
        freshness((self.epoch, &self.subjects), epoch, subjects)
    }
}

/// Whether what was found in one snapshot and rests on some subjects holds in the snapshot `epoch`, whose subjects these are.
#[inline(always)]
fn freshness(
    (found, rests_on): (Epoch, &[SubjectId; SUBJECTS_MAX]),
    epoch: Epoch,
    subjects: &Subjects,
) -> Freshness {
    if !epoch.is_after(found) {
        Freshness::Fresh
    } else if subjects.is_fresh(found, rests_on) {
        Freshness::Restamp
    } else {
        Freshness::Stale
    }
}

/// Which of [`Onward`] the upper bits of an exit are.
mod kind {
    pub(super) const PORT: u32 = 1;
    pub(super) const NEIGHBOUR: u32 = 2;
    pub(super) const PEER: u32 = 3;
    pub(super) const REFUSED: u32 = 4;
    pub(super) const NETWORK: u32 = 5;
}

/// How far left an exit's kind stands, above its number.
const KIND_SHIFT: u32 = 16;

impl Onward {
    #[inline]
    fn to_bits(self) -> u32 {
        // INVARIANT: ports, and reasons to drop, are far fewer than 65,536.
        #[allow(clippy::cast_possible_truncation)]
        let (kind, number) = match self {
            Self::Port(port) => (kind::PORT, port.index() as u32),
            Self::Neighbour(id) => (kind::NEIGHBOUR, u32::from(id.number())),
            Self::Peer(id) => (kind::PEER, id.index() as u32),
            Self::Refused(reason) => (kind::REFUSED, reason.index() as u32),
            Self::Network(id) => (kind::NETWORK, u32::from(id.number())),
        };
        kind << KIND_SHIFT | number
    }

    /// `None` for bits that stand for no exit, zero among them: not answered yet.
    #[inline(always)]
    fn from_bits(bits: u32) -> Option<Self> {
        let number = (bits & 0xffff) as u16;
        match bits >> KIND_SHIFT {
            kind::PORT => PortId::new(number).map(Self::Port),
            kind::NEIGHBOUR => Some(Self::Neighbour(NeighbourId::new(number))),
            kind::PEER => Some(Self::Peer(PeerId::new(number))),
            kind::REFUSED => DropReason::ALL
                .get(usize::from(number))
                .copied()
                .map(Self::Refused),
            kind::NETWORK => Some(Self::Network(NetworkId::new(number))),
            _ => None,
        }
    }
}

/// An answer as two words of an entry, its epoch aside; zeros are none.
#[inline]
pub(super) fn pack(answer: &Answer) -> [u64; 2] {
    let [a, b, c] = answer.subjects.map(|subject| u64::from(subject.to_bits()));
    [u64::from(answer.onward.to_bits()) << 32 | c, a << 32 | b]
}

/// Where the answer in two words of an entry leads.
#[inline(always)]
pub(super) fn onward([exit, _]: [u64; 2]) -> Option<Onward> {
    Onward::from_bits(upper(exit))
}

/// The answer in two words of an entry.
#[inline]
pub(super) fn unpack([exit, subjects]: [u64; 2], epoch: Epoch) -> Option<Answer> {
    let onward = Onward::from_bits(upper(exit))?;
    Some(Answer {
        onward,
        subjects: subjects_of([exit, subjects]),
        epoch,
    })
}

/// What the answer in two words of an entry rests on.
#[inline(always)]
fn subjects_of([exit, subjects]: [u64; 2]) -> [SubjectId; SUBJECTS_MAX] {
    [upper(subjects), lower(subjects), lower(exit)].map(SubjectId::from_bits)
}

/// [`Answer::freshness`] of the answer in two words of an entry, found in the snapshot `found`; that there is one, the caller
/// has to look.
#[inline(always)]
pub(super) fn packed_freshness(
    answer: [u64; 2],
    found: Epoch,
    epoch: Epoch,
    subjects: &Subjects,
) -> Freshness {
    freshness((found, &subjects_of(answer)), epoch, subjects)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_answer_is_packed_and_read_again() {
        let port = PortId::new(PortId::LIMIT - 1).unwrap();
        let exits = [
            Onward::Port(port),
            Onward::Neighbour(NeighbourId::new(u16::MAX)),
            Onward::Peer(PeerId::new(u16::MAX)),
            Onward::Refused(*DropReason::ALL.last().unwrap()),
            Onward::Network(NetworkId::new(u16::MAX)),
        ];
        for onward in exits {
            let answer = Answer {
                onward,
                subjects: [
                    SubjectId::ROUTES,
                    SubjectId::port(port),
                    SubjectId::backend(SubjectId::NUMBER_MAX),
                ],
                epoch: Epoch(u32::MAX),
            };
            assert_eq!(unpack(pack(&answer), answer.epoch), Some(answer));
        }
        assert_eq!(unpack([0, 0], Epoch(1)), None, "not answered yet");
        assert_eq!(unpack([99 << 48, 0], Epoch(1)), None, "no exit at all");
    }

    #[test]
    fn an_answer_is_stale_only_for_what_it_rests_on() {
        let (mine, other) = (SubjectId::backend(1), SubjectId::backend(2));
        let answer = Answer {
            onward: Onward::Peer(PeerId::new(1)),
            subjects: [mine, SubjectId::NONE, SubjectId::NONE],
            epoch: Epoch(5),
        };
        let first = Subjects::since(Epoch(3));
        assert_eq!(answer.freshness(Epoch(5), &first), Freshness::Fresh);
        assert_eq!(
            answer.freshness(Epoch(4), &first),
            Freshness::Fresh,
            "found by a worker with newer tables"
        );
        let unrelated = first.with_changes(&HashSet::from([other]), Epoch(6));
        assert_eq!(answer.freshness(Epoch(6), &unrelated), Freshness::Restamp);
        let related = unrelated.with_changes(&HashSet::from([mine]), Epoch(7));
        assert_eq!(answer.freshness(Epoch(7), &related), Freshness::Stale);
        assert_eq!(
            answer.freshness(Epoch(9), &Subjects::since(Epoch(8))),
            Freshness::Stale,
            "found by an earlier process"
        );
    }
}
