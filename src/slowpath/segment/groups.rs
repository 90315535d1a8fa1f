//! Who listens to which group of a bridged network, as hosts were heard to say it (snooping, RFC 4541).
//!
//! It holds only while a router asks hosts for it now and then: without one hosts say it once and never again, so what is
//! known would go stale. A network without such a querier has no listeners here, and its groups' frames go to everybody.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use millrace_dataplane::table::{Listeners, Location, NetworkId};
use millrace_dataplane::wire::{Listening, MacAddr, Membership};

/// How long a host listens that does not say so again: the group membership interval of a querier with the usual values (RFC
/// 3376 section 8.4), a good two of its rounds.
pub(super) const LISTENS: Duration = Duration::from_secs(260);
/// How long a querier is one that is not heard of (RFC 3376 section 8.5).
pub(super) const ASKS: Duration = Duration::from_secs(255);
/// How long a host listens on that has said it no longer does: another one may be behind the same port, and the querier asks
/// twice, a second apart each (RFC 3376 section 8.8).
pub(super) const LEAVES: Duration = Duration::from_secs(2);
/// Groups of all networks. The frames of one that there is no room for go to the queriers alone, as those of one without
/// listeners; so new groups are refused room only together with everything about them: see `overflow` below.
pub(super) const GROUPS_MAX: usize = 8192;
/// Groups of one location.
pub(super) const PER_LOCATION_MAX: usize = 512;

/// Of one network and family: who listens to what, and who asks.
#[derive(Debug, Default)]
struct Heard {
    /// By the group's link address, under which several groups may be one: what goes to it goes to the listeners of all.
    groups: BTreeMap<MacAddr, BTreeMap<Location, Instant>>,
    queriers: BTreeMap<Location, Instant>,
    /// To how many groups each location listens.
    counts: BTreeMap<Location, usize>,
    /// Until when not everything that was said is known, because there was no room.
    overflow: Option<Instant>,
}

/// IPv4's groups, or IPv6's: each has its own queriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Family {
    V4,
    V6,
}

/// Who listens to which group.
#[derive(Debug, Default)]
pub(super) struct Groups {
    networks: HashMap<(NetworkId, Family), Heard>,
    count: usize,
}

impl Groups {
    /// Notes what was heard from a location; whether [`Self::listeners`] may have changed by it.
    pub(super) fn hear(
        &mut self,
        network: NetworkId,
        from: Location,
        (membership, is_ipv4): (Membership<'_>, bool),
        now: Instant,
    ) -> bool {
        let family = if is_ipv4 { Family::V4 } else { Family::V6 };
        let heard = self.networks.entry((network, family)).or_default();
        match membership {
            Membership::Query => heard.queriers.insert(from, now + ASKS).is_none(),
            Membership::Report(records) => {
                let mut changes = false;
                for listening in records {
                    changes |= heard.note(from, listening, &mut self.count, now);
                }
                changes
            }
        }
    }

    /// Forgets whoever has not been heard for long; whether anything changed.
    pub(super) fn forget_old(&mut self, now: Instant) -> bool {
        let mut changes = false;
        let count = &mut self.count;
        self.networks.retain(|_, heard| {
            let before = heard.size();
            heard.queriers.retain(|_, until| now < *until);
            let counts = &mut heard.counts;
            heard.groups.retain(|_, listeners| {
                listeners.retain(|location, until| {
                    let stays = now < *until;
                    if !stays {
                        release(counts, *location);
                    }
                    stays
                });
                *count -= usize::from(listeners.is_empty());
                !listeners.is_empty()
            });
            let was_full = heard.overflow.take_if(|until| now >= *until).is_some();
            changes |= was_full || before != heard.size();
            heard.size() != (0, 0, 0) || heard.overflow.is_some()
        });
        changes
    }

    /// Who gets the frames of which group, as workers ask for it.
    pub(super) fn listeners(&self) -> Listeners {
        let usable = self
            .networks
            .iter()
            .filter(|(_, heard)| !heard.queriers.is_empty() && heard.overflow.is_none());
        Listeners::build(usable.map(|((network, family), heard)| {
            let groups = heard.groups.iter();
            let groups = groups.map(|(group, listeners)| (*group, listeners.keys().copied()));
            let queriers = heard.queriers.keys().copied();
            (*network, *family == Family::V4, queriers, groups)
        }))
    }

    /// Groups of all networks.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count
    }
}

impl Heard {
    fn note(&mut self, from: Location, said: Listening, count: &mut usize, now: Instant) -> bool {
        let group = link_address(said.group);
        if !said.listens {
            if let Some(until) = self
                .groups
                .get_mut(&group)
                .and_then(|listeners| listeners.get_mut(&from))
            {
                *until = (*until).min(now + LEAVES);
            }
            return false;
        }
        let is_known = self
            .groups
            .get(&group)
            .is_some_and(|listeners| listeners.contains_key(&from));
        if !is_known {
            let own = self.counts.get(&from).copied().unwrap_or_default();
            if own >= PER_LOCATION_MAX || *count >= GROUPS_MAX && !self.groups.contains_key(&group) {
                // Not all is known any more, so all frames go to everybody until what is unknown would have been forgotten.
                return self.overflow.replace(now + LISTENS).is_none();
            }
        }
        let listeners = self.groups.entry(group).or_insert_with(|| {
            *count += 1;
            BTreeMap::new()
        });
        if listeners.insert(from, now + LISTENS).is_none() {
            *self.counts.entry(from).or_default() += 1;
        }
        !is_known
    }

    fn size(&self) -> (usize, usize, usize) {
        let listeners = self.counts.values().sum();
        (self.queriers.len(), self.groups.len(), listeners)
    }
}

/// A location listens to one group less.
fn release(counts: &mut BTreeMap<Location, usize>, location: Location) {
    if let Some(count) = counts.get_mut(&location) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&location);
        }
    }
}

/// The link address of a group (RFC 1112 section 6.4, RFC 2464 section 7).
fn link_address(group: IpAddr) -> MacAddr {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            MacAddr([0x33, 0x33, a, b, c, d])
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use millrace_dataplane::port::PortId;
    use millrace_dataplane::table::RemoteId;

    const RED: NetworkId = NetworkId::new(1);
    const GROUP: [u8; 4] = [239, 1, 1, 7];

    fn port(number: u16) -> Location {
        Location::Port(PortId::new(number).unwrap())
    }

    /// An IGMPv2 message from a location.
    fn hear(groups: &mut Groups, from: Location, kind: u8, group: [u8; 4], now: Instant) -> bool {
        use millrace_dataplane::wire::{Ipv4, checksum};
        let mut message = [&[kind, 0, 0, 0][..], &group].concat();
        let sum = checksum::checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let header = [0x45, 0, 0, 28, 0, 0, 0, 0, 1, 2, 0, 0, 10, 0, 0, 1, 224, 0, 0, 22];
        let packet = [&header[..], &message].concat();
        let membership = Membership::parse_v4(&Ipv4::parse(&packet).unwrap()).unwrap();
        groups.hear(RED, from, (membership.unwrap(), true), now)
    }

    fn listeners(groups: &Groups, group: [u8; 4]) -> Option<Vec<Location>> {
        let listeners = groups.listeners();
        listeners
            .lookup(RED, link_address(IpAddr::from(group)))
            .map(<[_]>::to_vec)
    }

    #[test]
    fn frames_go_to_who_listens_and_to_queriers_while_one_asks() {
        let (mut groups, start) = (Groups::default(), Instant::now());
        let querier = Location::Remote(RemoteId::new(3).unwrap());
        assert!(hear(&mut groups, port(5), 0x16, GROUP, start));
        assert_eq!(listeners(&groups, GROUP), None, "nobody asks: to everybody");
        assert!(hear(&mut groups, querier, 0x11, [0; 4], start));
        assert!(!hear(&mut groups, querier, 0x11, [0; 4], start));
        assert_eq!(listeners(&groups, GROUP), Some(vec![port(5), querier]));
        assert_eq!(
            listeners(&groups, [239, 9, 9, 9]),
            Some(vec![querier]),
            "nobody listens"
        );
        assert_eq!(listeners(&groups, [224, 0, 0, 5]), None, "of the link itself");
        assert!(hear(&mut groups, port(6), 0x16, GROUP, start));
        assert!(!hear(&mut groups, port(6), 0x16, GROUP, start));
        assert!(
            !hear(&mut groups, port(5), 0x17, GROUP, start),
            "another one may listen there"
        );
        assert!(!groups.forget_old(start + LEAVES - Duration::from_millis(1)));
        assert!(groups.forget_old(start + LEAVES));
        assert_eq!(listeners(&groups, GROUP), Some(vec![port(6), querier]));
        assert!(groups.forget_old(start + ASKS));
        assert_eq!(listeners(&groups, GROUP), None);
        assert!(groups.forget_old(start + LISTENS));
        assert_eq!((groups.count(), groups.networks.len()), (0, 0));
    }

    #[test]
    fn where_not_all_is_known_frames_go_to_everybody() {
        let (mut groups, start) = (Groups::default(), Instant::now());
        hear(&mut groups, port(1), 0x11, [0; 4], start);
        for number in 0..u16::try_from(PER_LOCATION_MAX).unwrap() {
            let [a, b] = number.to_be_bytes();
            assert!(hear(&mut groups, port(5), 0x16, [239, 1, a, b], start));
        }
        assert!(listeners(&groups, GROUP).is_some());
        assert!(hear(&mut groups, port(5), 0x16, [239, 9, 9, 9], start));
        assert_eq!(listeners(&groups, [239, 9, 9, 9]), None);
        assert!(!hear(&mut groups, port(5), 0x16, [239, 9, 9, 10], start));
        hear(&mut groups, port(1), 0x11, [0; 4], start + ASKS / 2);
        assert!(groups.forget_old(start + LISTENS));
        assert!(listeners(&groups, GROUP).is_some());
        assert_eq!(groups.count(), 0);
    }
}
