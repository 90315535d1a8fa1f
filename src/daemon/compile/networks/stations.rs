//! Stations of bridged networks that are known without being heard.

use std::collections::BTreeMap;
use std::net::IpAddr;

use millrace_dataplane::table::{Location, NetworkId};
use millrace_dataplane::wire::MacAddr;

use super::super::Inputs;
use super::SecondNetworks;

/// A station that is known without being heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenStation {
    /// Its network.
    pub network: NetworkId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Where it is.
    pub location: Location,
    /// Its addresses, where they are known too.
    pub addresses: Vec<IpAddr>,
}

impl SecondNetworks {
    /// Members whose MAC addresses were given, and those stations of other nodes that definitions tell of.
    pub(super) fn give_stations(&mut self, inputs: &Inputs<'_>, ids: &BTreeMap<String, NetworkId>) {
        for (port, row) in inputs.members {
            let network = row.network.as_ref().and_then(|name| ids.get(name));
            let (Some(network), Some(mac)) = (network, row.mac) else {
                continue;
            };
            // A machine that has moved to another node is to be found there as soon as its program here is gone, whoever takes
            // the port away later.
            if row.is_tap() && !is_held(inputs, &row.interface) {
                continue;
            }
            self.stations.push(GivenStation {
                network: *network,
                mac: MacAddr(mac.octets()),
                location: Location::Port(*port),
                addresses: row.addresses.iter().map(ipnet::IpNet::addr).collect(),
            });
        }
        for served in &self.networks {
            let (Some(network), Some(bridge)) = (served.id, served.record.bridge()) else {
                continue;
            };
            for (mac, at) in &bridge.stations {
                let Some(remote) = served.remotes.iter().find(|remote| remote.address == *at) else {
                    continue;
                };
                self.stations.push(GivenStation {
                    network,
                    mac: MacAddr(mac.octets()),
                    location: Location::Remote(remote.id),
                    addresses: Vec::new(),
                });
            }
        }
    }
}

/// Whether a machine's program has a tap device open: it has a carrier then.
fn is_held(inputs: &Inputs<'_>, tap: &str) -> bool {
    inputs.kernel.link_by_name(tap).is_some_and(|link| link.running)
}
