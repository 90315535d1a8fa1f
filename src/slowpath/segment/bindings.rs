//! Which station of a bridged network has which IP address, as far as it was heard.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use millrace_dataplane::table::NetworkId;
use millrace_dataplane::wire::MacAddr;

/// Addresses that are kept in mind, of all networks. What there is no room for is asked of everybody.
pub(super) const BINDINGS_MAX: usize = 16 * 1024;
/// Of those, one station's: who claims more is no host.
pub(super) const PER_STATION_MAX: u16 = 16;
/// How long what was heard is believed. Who is asked for later than that is asked itself.
pub(super) const BELIEVED: Duration = Duration::from_secs(60);

/// Who has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding {
    /// Its link address.
    pub(super) mac: MacAddr,
    /// Whether it says that it is a router; `None` as long as it said neither. Means nothing for an IPv4 address.
    pub(super) is_router: Option<bool>,
    heard: Instant,
}

/// Who has which address.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    addresses: HashMap<(NetworkId, IpAddr), Binding>,
    /// How many addresses each station has.
    stations: HashMap<(NetworkId, MacAddr), u16>,
    /// When room was last looked for.
    looked: Option<Instant>,
}

impl Bindings {
    /// Notes that the station `mac` said that it has `address`, and whether it is a router if it said that.
    pub(super) fn note(
        &mut self,
        network: NetworkId,
        address: IpAddr,
        mac: MacAddr,
        is_router: Option<bool>,
        now: Instant,
    ) {
        let key = (network, address);
        let before = self.addresses.get(&key).filter(|before| before.mac == mac);
        let binding = Binding {
            mac,
            // What a solicitation leaves open is as it was.
            is_router: is_router.or(before.and_then(|before| before.is_router)),
            heard: now,
        };
        if before.is_none() {
            self.remove(key);
            if !self.has_room((network, mac), now) {
                return;
            }
            *self.stations.entry((network, mac)).or_default() += 1;
        }
        self.addresses.insert(key, binding);
    }

    /// Who has `address`, if that was heard lately.
    pub(super) fn lookup(&self, network: NetworkId, address: IpAddr, now: Instant) -> Option<Binding> {
        let binding = self.addresses.get(&(network, address))?;
        is_believed(binding, now).then_some(*binding)
    }

    /// Forgets what is not believed any more.
    pub(super) fn forget_old(&mut self, now: Instant) {
        let stations = &mut self.stations;
        self.addresses.retain(|(network, _), binding| {
            let stays = is_believed(binding, now);
            if !stays {
                release(stations, (*network, binding.mac));
            }
            stays
        });
    }

    /// How many addresses are kept in mind.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }

    fn has_room(&mut self, station: (NetworkId, MacAddr), now: Instant) -> bool {
        if self
            .stations
            .get(&station)
            .is_some_and(|count| *count >= PER_STATION_MAX)
        {
            return false;
        }
        if self.addresses.len() >= BINDINGS_MAX && super::is_due(&mut self.looked, now) {
            self.forget_old(now);
        }
        self.addresses.len() < BINDINGS_MAX
    }

    fn remove(&mut self, key: (NetworkId, IpAddr)) {
        if let Some(binding) = self.addresses.remove(&key) {
            release(&mut self.stations, (key.0, binding.mac));
        }
    }
}

fn is_believed(binding: &Binding, now: Instant) -> bool {
    now.saturating_duration_since(binding.heard) < BELIEVED
}

/// A station has an address less.
fn release(stations: &mut HashMap<(NetworkId, MacAddr), u16>, station: (NetworkId, MacAddr)) {
    if let Some(count) = stations.get_mut(&station) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            stations.remove(&station);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RED: NetworkId = NetworkId::new(1);
    const BLUE: NetworkId = NetworkId::new(2);
    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn ip(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    #[test]
    fn what_was_heard_last_counts_for_a_while_and_in_its_network_alone() {
        let (mut bindings, start) = (Bindings::default(), Instant::now());
        let who = |bindings: &Bindings, network, now| bindings.lookup(network, ip(1), now).map(|b| b.mac);
        bindings.note(RED, ip(1), A, None, start);
        assert_eq!(who(&bindings, RED, start), Some(A));
        assert_eq!(who(&bindings, BLUE, start), None);
        bindings.note(RED, ip(1), B, None, start);
        assert_eq!(who(&bindings, RED, start), Some(B));
        assert_eq!(bindings.stations.len(), 1, "the other has none left");
        assert_eq!(who(&bindings, RED, start + BELIEVED), None);
        bindings.note(RED, ip(1), B, None, start + BELIEVED);
        assert_eq!(who(&bindings, RED, start + BELIEVED), Some(B));
        bindings.forget_old(start + BELIEVED * 2);
        assert!(bindings.addresses.is_empty() && bindings.stations.is_empty());
    }

    #[test]
    fn that_a_station_is_a_router_is_kept_until_it_says_otherwise_or_is_another() {
        let (mut bindings, now) = (Bindings::default(), Instant::now());
        let mut note = |mac, is_router| {
            bindings.note(RED, ip(1), mac, is_router, now);
            bindings.lookup(RED, ip(1), now).unwrap().is_router
        };
        assert_eq!(note(A, None), None);
        assert_eq!(note(A, Some(true)), Some(true));
        assert_eq!(note(A, None), Some(true));
        assert_eq!(note(A, Some(false)), Some(false));
        assert_eq!(note(B, None), None);
    }

    #[test]
    fn neither_one_station_nor_many_take_all_room() {
        let (mut bindings, now) = (Bindings::default(), Instant::now());
        for number in 0..100 {
            bindings.note(RED, ip(number), A, None, now);
        }
        assert_eq!(bindings.addresses.len(), usize::from(PER_STATION_MAX));
        for number in 1000..100_000_u32 {
            let [a, b, c, d] = number.to_be_bytes();
            bindings.note(RED, ip(number), MacAddr([6, 0, a, b, c, d]), None, now);
        }
        assert_eq!(bindings.addresses.len(), BINDINGS_MAX);
        bindings.note(RED, ip(0), A, None, now + BELIEVED);
        assert_eq!(bindings.addresses.len(), BINDINGS_MAX, "it was known");
        bindings.note(BLUE, ip(0), B, None, now + BELIEVED);
        assert_eq!(bindings.addresses.len(), 2, "what is old makes room");
    }
}
