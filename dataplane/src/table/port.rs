//! What the switch knows of each of its ports.

use std::net::IpAddr;

use serde::Serialize;

use crate::port::PortId;
use crate::wire::MacAddr;

/// What stands behind a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The underlay: other nodes, routers, the world.
    Uplink,
    /// This node's own network stack.
    Host,
    /// A pod: trusted with its own addresses and nothing else.
    Pod,
    /// A member of bridged networks: a pod's further interface, or a virtual machine. What it may say of itself is in
    /// [`Networks`](super::Networks).
    Segment,
}

/// One port, as the pipeline has to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PortFacts {
    /// What stands behind it.
    pub role: Role,
    /// The switch's own link address on this port: the source of the frames we send there, the destination of
    /// those we take.
    pub mac: MacAddr,
    /// The link address of the one station behind a pod's port or the host's. Means nothing on an uplink, whose
    /// stations are in the [`NeighbourTable`](super::NeighbourTable).
    pub peer_mac: MacAddr,
    /// The addresses a pod may send from. Means nothing for the other roles.
    pub sources: Vec<IpAddr>,
    /// The largest IP packet that the port's link takes, in bytes.
    pub mtu: u16,
    /// Whether TCP and UDP checksums may arrive half computed and have to be finished.
    pub finish_checksums: bool,
}

impl PortFacts {
    /// Whether the pod behind this port may send from `address`.
    #[inline]
    #[must_use]
    pub fn may_send_from(&self, address: IpAddr) -> bool {
        self.sources.contains(&address)
    }
}

/// The ports of a node, by number.
#[derive(Debug, Clone, Default)]
pub struct PortTable {
    /// Indexed by [`PortId::index`].
    ports: Vec<Option<PortFacts>>,
}

impl PortTable {
    /// Builds the table. Of two entries for one port the later one counts.
    #[must_use]
    pub fn build(ports: impl IntoIterator<Item = (PortId, PortFacts)>) -> Self {
        let mut table = Self::default();
        for (id, facts) in ports {
            if table.ports.len() <= id.index() {
                table.ports.resize(id.index() + 1, None);
            }
            if let Some(slot) = table.ports.get_mut(id.index()) {
                *slot = Some(facts);
            }
        }
        table
    }

    /// What is known of a port; `None` if there is no such port (any more).
    #[inline]
    #[must_use]
    pub fn get(&self, id: PortId) -> Option<&PortFacts> {
        self.ports.get(id.index())?.as_ref()
    }

    /// Every port there is, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &PortFacts)> {
        let numbered = (0..PortId::LIMIT).filter_map(PortId::new).zip(&self.ports);
        numbered.filter_map(|(id, facts)| Some((id, facts.as_ref()?)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_found_by_number_and_gaps_are_none() {
        let facts = |mtu| PortFacts {
            role: Role::Pod,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            peer_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            sources: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            mtu,
            finish_checksums: false,
        };
        let id = |number| PortId::new(number).unwrap();
        let table = PortTable::build([(id(7), facts(1)), (id(2), facts(2)), (id(7), facts(3))]);
        assert_eq!(table.get(id(7)).map(|f| f.mtu), Some(3));
        assert_eq!(table.get(id(3)), None);
        assert_eq!(table.get(id(4000)), None);
        assert_eq!(
            table
                .iter()
                .map(|(id, f)| (id.index(), f.mtu))
                .collect::<Vec<_>>(),
            [(2, 2), (7, 3)]
        );
        assert!(facts(1).may_send_from("fd00::2".parse().unwrap()));
        assert!(!facts(1).may_send_from("10.0.0.3".parse().unwrap()));
    }
}
