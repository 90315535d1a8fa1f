//! What a stored answer rests on, and when that last changed.
//!
//! Every published snapshot has a number, its [`Epoch`]. A flow's stored answer remembers the epoch it was found in
//! and names the few subjects it rests on. [`Subjects`] tells for each subject the epoch in which it last changed, so
//! an answer is still good if none of its subjects changed since: two integers are compared, and a change of one
//! subject makes nothing else stale.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::PeerId;
use crate::port::PortId;

/// The number of a published snapshot. It wraps, so two are compared by their distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch after this one.
    #[inline]
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Whether this epoch came after `other`. Right as long as the two are less than 2^31 publications apart.
    #[inline]
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        let ahead = self.0.wrapping_sub(other.0);
        ahead != 0 && ahead < 1 << 31
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What kind of thing an answer rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum SubjectKind {
    /// The routes that lead to no port and no peer.
    Routes = 1,
    /// The routes to a port, by the port's number.
    Port = 2,
    /// The routes to a peer, by the peer's number.
    Peer = 3,
    /// Whether a Service's backend serves, by the backend's number.
    Backend = 4,
    /// The policy of a pod, by the policy's number.
    Policy = 5,
}

impl SubjectKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Routes, Self::Port, Self::Peer, Self::Backend, Self::Policy];

    const fn place(self) -> usize {
        self as usize - 1
    }
}

/// Something that an answer rests on: a kind in the upper byte, a number in the lower three. Zero is none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SubjectId(u32);

impl SubjectId {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// The routes that lead to no port and no peer.
    pub const ROUTES: Self = Self::of(SubjectKind::Routes, 0);
    /// The largest number of a subject.
    pub const NUMBER_MAX: u32 = (1 << NUMBER_BITS) - 1;

    /// Subject `number` of a kind; the number's upper byte is cut off.
    #[inline]
    #[must_use]
    pub const fn of(kind: SubjectKind, number: u32) -> Self {
        Self((kind as u32) << NUMBER_BITS | number & Self::NUMBER_MAX)
    }

    /// The routes to a port.
    #[inline]
    #[must_use]
    pub fn port(id: PortId) -> Self {
        // INVARIANT: a port's number is below PortId::LIMIT.
        #[allow(clippy::cast_possible_truncation)]
        Self::of(SubjectKind::Port, id.index() as u32)
    }

    /// The routes to a peer.
    #[inline]
    #[must_use]
    pub fn peer(id: PeerId) -> Self {
        // INVARIANT: a peer's number has 16 bits.
        #[allow(clippy::cast_possible_truncation)]
        Self::of(SubjectKind::Peer, id.index() as u32)
    }

    /// A Service's backend.
    #[inline]
    #[must_use]
    pub const fn backend(number: u32) -> Self {
        Self::of(SubjectKind::Backend, number)
    }

    /// Whether it is no subject at all.
    #[inline]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Its kind; `None` for no subject, or bits that are none.
    #[inline]
    #[must_use]
    pub const fn kind(self) -> Option<SubjectKind> {
        match self.0 >> NUMBER_BITS {
            1 => Some(SubjectKind::Routes),
            2 => Some(SubjectKind::Port),
            3 => Some(SubjectKind::Peer),
            4 => Some(SubjectKind::Backend),
            5 => Some(SubjectKind::Policy),
            _ => None,
        }
    }

    /// Its number within its kind.
    #[inline]
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0 & Self::NUMBER_MAX
    }

    /// The packed form, as a flow keeps it.
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// From the packed form. Bits that are no subject make one that never changes but with everything else.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

impl fmt::Debug for SubjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            Some(kind) => write!(f, "{kind:?}({})", self.number()),
            None if self.is_none() => f.write_str("none"),
            None => write!(f, "unknown({:#x})", self.0),
        }
    }
}

/// How many low bits of a [`SubjectId`] are its number.
const NUMBER_BITS: u32 = 24;

/// When each subject last changed. A copy shares what did not change with the original.
#[derive(Debug, Clone)]
pub struct Subjects {
    /// Before this, everything changed: the first snapshot of this process.
    base: Epoch,
    /// Per kind and number; numbers beyond the end, and those never changed, count as `base`.
    changed: [Arc<[Epoch]>; SubjectKind::ALL.len()],
}

impl Subjects {
    /// Nothing has changed since `base`; whatever was stored before is stale.
    #[must_use]
    pub fn since(base: Epoch) -> Self {
        Self {
            base,
            changed: std::array::from_fn(|_| Arc::from([])),
        }
    }

    /// The epoch in which a subject last changed. No subject ([`SubjectId::NONE`]) never changes but at the start.
    #[inline]
    #[must_use]
    pub fn changed_at(&self, subject: SubjectId) -> Epoch {
        let Some(kind) = subject.kind() else {
            return self.base;
        };
        let of_kind = &self.changed[kind.place()];
        of_kind
            .get(subject.number() as usize)
            .copied()
            .unwrap_or(self.base)
    }

    /// Whether an answer found in `epoch` that rests on `subjects` still holds.
    #[inline(always)]
    #[must_use]
    pub fn is_fresh(&self, epoch: Epoch, subjects: &[SubjectId]) -> bool {
        !self.base.is_after(epoch)
            && subjects
                .iter()
                .all(|subject| !self.changed_at(*subject).is_after(epoch))
    }

    /// A copy in which `subjects` changed at `epoch`.
    #[must_use]
    pub fn with_changes(&self, subjects: &HashSet<SubjectId>, epoch: Epoch) -> Self {
        let mut changed = self.changed.clone();
        for kind in SubjectKind::ALL {
            let numbers: Vec<usize> = subjects
                .iter()
                .filter(|subject| subject.kind() == Some(kind))
                .map(|subject| subject.number() as usize)
                .collect();
            let Some(last) = numbers.iter().max() else {
                continue;
            };
            let old = &self.changed[kind.place()];
            let mut new = old.to_vec();
            new.resize(old.len().max(last + 1), self.base);
            for number in numbers {
                if let Some(at) = new.get_mut(number) {
                    *at = epoch;
                }
            }
            changed[kind.place()] = Arc::from(new);
        }
        Self {
            base: self.base,
            changed,
        }
    }

    /// What all of it takes in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let of_kinds = self.changed.iter().map(|of_kind| size_of_val(&**of_kind));
        of_kinds.sum()
    }
}

impl Default for Subjects {
    fn default() -> Self {
        Self::since(Epoch(0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn epochs_are_compared_across_the_wrap() {
        assert!(Epoch(1).is_after(Epoch(0)) && !Epoch(0).is_after(Epoch(1)));
        assert!(!Epoch(7).is_after(Epoch(7)));
        assert!(Epoch(3).is_after(Epoch(u32::MAX - 3)));
        assert!(!Epoch(u32::MAX - 3).is_after(Epoch(3)));
        assert_eq!(Epoch(u32::MAX).next(), Epoch(0));
    }

    #[test]
    fn a_subject_is_packed_and_read_again() {
        let port = SubjectId::port(PortId::new(77).unwrap());
        let peer = SubjectId::peer(PeerId::new(u16::MAX));
        let backend = SubjectId::backend(SubjectId::NUMBER_MAX);
        for (subject, kind, number) in [
            (port, SubjectKind::Port, 77),
            (peer, SubjectKind::Peer, u32::from(u16::MAX)),
            (backend, SubjectKind::Backend, SubjectId::NUMBER_MAX),
            (SubjectId::ROUTES, SubjectKind::Routes, 0),
        ] {
            let again = SubjectId::from_bits(subject.to_bits());
            assert_eq!((again.kind(), again.number()), (Some(kind), number));
        }
        assert!(SubjectId::NONE.is_none() && SubjectId::NONE.kind().is_none());
    }

    #[test]
    fn only_what_changed_makes_stale() {
        let (a, b) = (SubjectId::backend(3), SubjectId::backend(70_000));
        let port = SubjectId::port(PortId::new(3).unwrap());
        let first = Subjects::since(Epoch(10));
        assert!(first.is_fresh(Epoch(10), &[a, b, port]));
        assert!(!first.is_fresh(Epoch(9), &[]), "what an earlier process stored");
        let second = first.with_changes(&HashSet::from([b]), Epoch(11));
        assert!(second.is_fresh(Epoch(10), &[a, port, SubjectId::NONE]));
        assert!(!second.is_fresh(Epoch(10), &[a, b]));
        assert!(second.is_fresh(Epoch(11), &[a, b]));
        assert!(
            second.is_fresh(Epoch(12), &[b]),
            "stored by a worker with newer tables"
        );
        assert_eq!(
            first.changed_at(b),
            Epoch(10),
            "the older snapshot stays as it was"
        );
        assert_eq!(second.changed_at(SubjectId::backend(71_000)), Epoch(10));
    }
}
