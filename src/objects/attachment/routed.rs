//! Reading routed networks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::field::bounded;
use super::read::RawNetwork;
use super::{AttachmentFault, NetworkKey, NetworkRecord, RouteTo, Routing};
use crate::objects::fault::Fault;
use crate::objects::node::gateway_of;

/// Networks that one may route to.
const ROUTES_MAX: usize = 256;
/// Addresses of a subnet are so many bits at least: its own, the gateway and one more.
const HOST_BITS_MIN: u8 = 2;

impl RawNetwork {
    /// Reads what only a routed network has.
    pub(super) fn routed(&self, key: &NetworkKey) -> Result<Routing, Fault> {
        let others = [
            ("stations", self.stations.is_some()),
            ("learning", self.learning.is_some()),
            ("suppression", self.suppression.is_some()),
            ("snooping", self.snooping.is_some()),
            ("stormLimit", self.storm_limit.is_some()),
            ("macLimit", self.mac_limit.is_some()),
            ("ageingSeconds", self.ageing_seconds.is_some()),
        ];
        if let Some((key, _)) = others.into_iter().find(|(_, is_there)| *is_there) {
            return Err(AttachmentFault::OtherKind {
                key,
                of: "bridged",
                kind: "routed",
            }
            .into());
        }
        let texts = self.routes_to.as_deref().unwrap_or_default();
        bounded("routesTo", texts.len(), ROUTES_MAX)?;
        let mut routes_to: Vec<RouteTo> = Vec::new();
        for text in texts {
            let to: RouteTo = text.parse()?;
            if to == RouteTo::Network(key.clone()) {
                return Err(AttachmentFault::RouteToItself(text.clone()).into());
            }
            if routes_to.contains(&to) {
                let value = text.clone();
                return Err(AttachmentFault::Twice {
                    field: "routesTo",
                    value,
                }
                .into());
            }
            routes_to.push(to);
        }
        Ok(Routing { routes_to })
    }
}

/// Checks what a routed network cannot do without, and gives each subnet without a gateway its first address as one.
pub(super) fn complete(record: &mut NetworkRecord) -> Result<(), Fault> {
    let missing = |key, example| Err(AttachmentFault::Missing { key, example }.into());
    if record.subnets.is_empty() {
        return missing("subnets", r#"["10.9.0.0/16"]"#);
    }
    if record.node_blocks.values().all(Vec::is_empty) {
        return missing("nodeBlocks", r#"{"node-a": ["10.9.1.0/24"]}"#);
    }
    if !record.peers.addresses.is_empty() {
        return Err(AttachmentFault::RoutedPeers.into());
    }
    let is_narrow = |subnet: &&IpNet| subnet.max_prefix_len() - subnet.prefix_len() < HOST_BITS_MIN;
    if let Some(narrow) = record.subnets.iter().find(is_narrow) {
        return Err(AttachmentFault::Narrow(*narrow).into());
    }
    let has_none = |subnet: &&IpNet| !record.gateways.iter().any(|gateway| subnet.contains(gateway));
    let first: Vec<IpAddr> = record
        .subnets
        .iter()
        .filter(has_none)
        .map(|subnet| gateway_of(*subnet))
        .collect();
    record.gateways.extend(first);
    Ok(())
}
