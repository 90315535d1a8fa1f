//! Routed networks beside the cluster's own: each has tables of its own, and ports that are in it.
//!
//! All of them are parts of one snapshot, and each is walked like the cluster's own network: what is not in a network's tables
//! is not there for its packets. Addresses may be the same in several.

use super::{NetworkId, NodeTables};
use crate::port::PortId;

/// The routed networks of a node beside the cluster's own.
#[derive(Debug, Clone, Default)]
pub struct RoutedNetworks {
    /// Indexed by [`NetworkId::index`].
    tables: Vec<Option<NodeTables>>,
    /// Indexed by [`PortId::index`]; the cluster's own network where a port is in none of these.
    ports: Vec<NetworkId>,
}

impl RoutedNetworks {
    /// Builds the set. Each table says in [`NodeTables::network`] whose it is; one that says the cluster's own is left out, and
    /// of two for one network the later one counts. A port is in at most one network, the later one of two; one of a network
    /// without tables is in it all the same, and nothing that comes in there is forwarded.
    #[must_use]
    pub fn build(
        tables: impl IntoIterator<Item = NodeTables>,
        ports: impl IntoIterator<Item = (PortId, NetworkId)>,
    ) -> Self {
        let mut networks = Self::default();
        for table in tables {
            let at = table.network.index();
            if table.network == NetworkId::CLUSTER {
                continue;
            }
            if networks.tables.len() <= at {
                networks.tables.resize(at + 1, None);
            }
            if let Some(place) = networks.tables.get_mut(at) {
                *place = Some(table);
            }
        }
        for (port, network) in ports {
            let at = port.index();
            if networks.ports.len() <= at {
                networks.ports.resize(at + 1, NetworkId::CLUSTER);
            }
            if let Some(place) = networks.ports.get_mut(at) {
                *place = network;
            }
        }
        networks
    }

    /// The tables of a network; `None` if it is no routed one, or the cluster's own.
    #[inline]
    #[must_use]
    pub fn get(&self, network: NetworkId) -> Option<&NodeTables> {
        self.tables.get(network.index())?.as_ref()
    }

    /// The network that a port is in, if it is not the cluster's own.
    #[inline]
    #[must_use]
    pub fn of_port(&self, port: PortId) -> Option<NetworkId> {
        let network = self.ports.get(port.index()).copied();
        network.filter(|network| *network != NetworkId::CLUSTER)
    }

    /// Whether there are neither networks nor ports in any.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.ports.is_empty()
    }

    /// The tables of every network, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &NodeTables> {
        self.tables.iter().flatten()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn tables(network: u16) -> NodeTables {
        NodeTables {
            network: NetworkId::new(network),
            ..NodeTables::default()
        }
    }

    #[test]
    fn networks_and_ports_lead_to_tables() {
        let port = |number| PortId::new(number).unwrap();
        let [red, blue, gone] = [3, 1, 9].map(NetworkId::new);
        let ports = [
            (port(7), red),
            (port(4), blue),
            (port(5), gone),
            (port(6), NetworkId::CLUSTER),
        ];
        let networks = RoutedNetworks::build([tables(3), tables(0), tables(1)], ports);
        let numbers: Vec<_> = networks.iter().map(|tables| tables.network).collect();
        assert_eq!(numbers, [blue, red]);
        assert_eq!(networks.of_port(port(7)), Some(red));
        assert_eq!(networks.of_port(port(4)), Some(blue));
        assert_eq!(networks.of_port(port(5)), Some(gone), "though it has no tables");
        assert_eq!(networks.of_port(port(6)), None, "in the cluster's own");
        assert_eq!(networks.of_port(port(99)), None);
        assert!(!networks.is_empty() && RoutedNetworks::default().is_empty());

        let top = NodeTables {
            routed: Arc::new(networks),
            ..NodeTables::default()
        };
        let of = |network| top.of(network).map(|tables| tables.network);
        assert_eq!(of(NetworkId::CLUSTER), Some(NetworkId::CLUSTER), "itself");
        assert_eq!((of(red), of(blue), of(gone)), (Some(red), Some(blue), None));
    }

    /// A node with hundreds of networks, most of whose tables are empty, pays for what there is.
    #[test]
    fn empty_tables_take_next_to_nothing() {
        let tables = tables(1);
        assert_eq!(tables.routes.memory(), 0);
        let of_one_family = crate::table::Lpm::build([("fd00::/8".parse().unwrap(), ())]);
        assert!(of_one_family.memory() < 4096, "{}", of_one_family.memory());
        assert_eq!(of_one_family.lookup("10.0.0.1".parse().unwrap()), None);
    }
}
