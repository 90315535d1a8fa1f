//! Which frames to a group of a bridged network go where, as far as it is known who listens.

use std::collections::HashMap;

use super::{HashKey, Location, NetworkId};
use crate::wire::MacAddr;

/// The first three bytes of IPv4 groups' link addresses (RFC 1112 section 6.4).
const IPV4: [u8; 3] = [0x01, 0x00, 0x5e];
/// The first two of IPv6 groups' (RFC 2464 section 7).
const IPV6: [u8; 2] = [0x33, 0x33];

/// Who listens to which group.
#[derive(Debug, Clone)]
pub struct Listeners {
    groups: HashMap<u64, Box<[Location]>, HashKey>,
    /// By network and family: where who asks for listeners is, to whom all groups' frames go.
    queriers: HashMap<u64, Box<[Location]>, HashKey>,
}

impl Default for Listeners {
    fn default() -> Self {
        let key = HashKey::random();
        Self {
            groups: HashMap::with_hasher(key),
            queriers: HashMap::with_hasher(key),
        }
    }
}

impl Listeners {
    /// Builds the table from networks in which it is known who listens: the network, whether its groups are IPv4's, where
    /// queriers are, and where listeners of each group are.
    #[must_use]
    pub fn build<Q, G, L>(networks: impl IntoIterator<Item = (NetworkId, bool, Q, G)>) -> Self
    where
        Q: IntoIterator<Item = Location>,
        G: IntoIterator<Item = (MacAddr, L)>,
        L: IntoIterator<Item = Location>,
    {
        let mut table = Self::default();
        for (network, is_ipv4, queriers, groups) in networks {
            let mut queriers: Box<[_]> = queriers.into_iter().collect();
            queriers.sort_unstable();
            for (group, listeners) in groups {
                let mut listeners: Vec<_> = listeners.into_iter().chain(queriers.iter().copied()).collect();
                listeners.sort_unstable();
                listeners.dedup();
                table.groups.insert(word(network, group), listeners.into());
            }
            let family = if is_ipv4 { 4 } else { 6 };
            table.queriers.insert(querier_word(network, family), queriers);
        }
        table
    }

    /// The only locations that frames to a group go to, in their order; `None` if they go to everybody: it is not known who
    /// listens, or the group is one that hosts do not tell of, or had better not be missed by (RFC 4541 section 2.1.2, and
    /// neighbour discovery's).
    #[inline]
    #[must_use]
    pub fn lookup(&self, network: NetworkId, group: MacAddr) -> Option<&[Location]> {
        if self.queriers.is_empty() {
            return None;
        }
        let family = match group.0 {
            [a, b, c, 0, 0, _] if [a, b, c] == IPV4 => return None,
            [a, b, c, ..] if [a, b, c] == IPV4 => 4,
            [a, b, 0xff, ..] | [a, b, 0, 0, 0, 1] if [a, b] == IPV6 => return None,
            [a, b, ..] if [a, b] == IPV6 => 6,
            _ => return None,
        };
        let queriers = self.queriers.get(&querier_word(network, family))?;
        Some(self.groups.get(&word(network, group)).unwrap_or(queriers))
    }
}

impl Listeners {
    /// The only locations that reports of a family's groups go to beside other nodes, so that hosts that listen do not hear each other and all
    /// say so (RFC 4541 section 2.1.1); `None` if they go to everybody: nobody is known to ask.
    #[must_use]
    pub fn queriers(&self, network: NetworkId, is_ipv4: bool) -> Option<&[Location]> {
        let family = if is_ipv4 { 4 } else { 6 };
        self.queriers
            .get(&querier_word(network, family))
            .map(|queriers| &**queriers)
    }
}

/// A group of a network, as one word.
fn word(network: NetworkId, group: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = group.0;
    u64::from(network.number()) << 48 | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

fn querier_word(network: NetworkId, family: u64) -> u64 {
    u64::from(network.number()) << 48 | family
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::port::PortId;

    #[test]
    fn groups_of_the_link_and_networks_that_nobody_asks_in_go_to_everybody() {
        let port = |number| Location::Port(PortId::new(number).unwrap());
        let [red, blue] = [1, 2].map(NetworkId::new);
        let group = MacAddr([1, 0, 0x5e, 1, 1, 7]);
        let table = Listeners::build([(red, true, [port(9)], [(group, [port(3), port(9), port(2)])])]);
        let lookup = |network, mac| table.lookup(network, MacAddr(mac)).map(<[_]>::to_vec);
        assert_eq!(lookup(red, group.0), Some(vec![port(2), port(3), port(9)]));
        assert_eq!(lookup(red, [1, 0, 0x5e, 1, 1, 8]), Some(vec![port(9)]));
        assert_eq!(lookup(blue, group.0), None);
        assert_eq!(lookup(red, [1, 0, 0x5e, 0, 0, 5]), None, "224.0.0.5");
        assert_eq!(
            lookup(red, [0x33, 0x33, 0, 0, 0, 0x16]),
            None,
            "nobody asks in IPv6"
        );
        assert_eq!(lookup(red, [0xff; 6]), None, "broadcast");
        assert_eq!(table.queriers(red, true), Some([port(9)].as_slice()));
        assert_eq!(
            (table.queriers(red, false), table.queriers(blue, true)),
            (None, None)
        );
        let groups: [(MacAddr, [Location; 1]); 0] = [];
        let table = Listeners::build([(red, false, [port(9)], groups)]);
        for (mac, expected) in [
            ([0x33, 0x33, 0, 0, 0, 0x16], Some([port(9)].as_slice())),
            ([0x33, 0x33, 0, 0, 0, 1], None),
            ([0x33, 0x33, 0xff, 0, 0, 9], None),
        ] {
            assert_eq!(table.lookup(red, MacAddr(mac)), expected, "{mac:x?}");
        }
    }
}
