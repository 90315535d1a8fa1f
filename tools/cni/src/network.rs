//! Interfaces in networks beside the cluster's own: the way Multus calls a plugin for a NetworkAttachmentDefinition.
//!
//! Addresses come from the node's own blocks (`nodeBlocks` in the definition), from which no other node gives any, or are asked
//! for (`ips` of the pod's annotation). So no two nodes need to agree on anything.

use std::path::Path;

use ipnet::IpNet;

use crate::call::Call;
use crate::config::{Config, SecondNetwork};
use crate::daemon::{Daemon, NetworkFacts};
use crate::error::{
    CniError, LIMITED_CONNECTIVITY, NOT_AVAILABLE, REFUSED, TRY_AGAIN_LATER, UNSUPPORTED_FIELD,
};
use crate::report;
use crate::store::Pools;
use crate::verbs::{from_daemon, from_store, open, unavailable, with_addresses};

/// Addresses first, then the interface, as with a pod's first one.
pub(crate) fn add(
    call: &Call,
    config: &Config,
    network: SecondNetwork,
    netns: &Path,
) -> Result<String, CniError> {
    if !config.port_mappings.is_empty() {
        let msg = "runtimeConfig.portMappings: ports of the node lead to a pod's first interface only";
        return Err(CniError::new(UNSUPPORTED_FIELD, msg));
    }
    let daemon = Daemon::of(config);
    let facts = daemon
        .network_facts(network, &config.network)
        .map_err(from_daemon)?;
    if facts.mtu.is_none() {
        let msg = "the node's uplink is gone, so the network's MTU is not known";
        return Err(CniError::new(TRY_AGAIN_LATER, msg));
    }
    let pools = pools(config, &facts)?;
    let made = with_addresses(call, config, (netns, &pools), |addresses| {
        daemon.join(call, config, &facts.network, addresses)
    })?;
    Ok(format!("{}\n", report::result_in_network(call, config, &made)))
}

/// Tells whether ADD would go well.
pub(crate) fn status(config: &Config, network: SecondNetwork) -> Result<(), CniError> {
    let facts = Daemon::of(config).network_facts(network, &config.network);
    let facts = facts.map_err(unavailable)?;
    if facts.mtu.is_none() {
        let msg = "the node's uplink is gone: nobody reaches another node";
        return Err(CniError::new(LIMITED_CONNECTIVITY, msg));
    }
    if facts.ports_free == 0 {
        let msg = "the switch has no port left, and no queues for one";
        return Err(CniError::new(NOT_AVAILABLE, msg));
    }
    let because = |error: CniError| error.with_code(NOT_AVAILABLE);
    let room = Pools::new(&facts.blocks, &facts.reserved);
    let store = open(config).map_err(because)?;
    store.has_room(&room).map_err(from_store).map_err(because)
}

/// What addresses are from: those that are asked for, and for the other family the node's own blocks.
fn pools(config: &Config, facts: &NetworkFacts) -> Result<Pools, CniError> {
    let is_in = |address: &std::net::IpAddr| facts.subnets.iter().any(|subnet| subnet.contains(address));
    if let Some(stray) = config.ips.iter().find(|address| !is_in(address)) {
        let msg = format!(
            "runtimeConfig.ips: {stray} is in none of the subnets of {}",
            facts.network
        );
        return Err(CniError::new(REFUSED, msg));
    }
    let is_asked = |is_ipv4: bool| config.ips.iter().any(|address| address.is_ipv4() == is_ipv4);
    let blocks = facts.blocks.iter().copied();
    let others = blocks.filter(|block| !is_asked(block.addr().is_ipv4()));
    let all: Vec<IpNet> = others
        .chain(config.ips.iter().map(|address| IpNet::from(*address)))
        .collect();
    if all.is_empty() && !facts.subnets.is_empty() {
        let msg = format!(
            "network {} has subnets and no block of this node's: `nodeBlocks` in its definition, or `ips` in the pod's \
             annotation (and in `capabilities`), would give an address",
            facts.network
        );
        return Err(CniError::new(REFUSED, msg));
    }
    Ok(Pools::new(&all, &facts.reserved))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use serde_json::json;

    use super::*;
    use crate::call::Command;

    fn config(ips: &[&str]) -> Config {
        let text = json!({"cniVersion": "1.0.0", "name": "blue", "type": "millrace-cni",
            "network": {"kind": "bridged", "vni": 100, "subnets": ["10.9.0.0/16"]},
            "runtimeConfig": {"ips": ips, "mac": "02:00:00:00:00:07"}});
        Config::read(text.to_string().as_bytes(), Command::Add).unwrap()
    }

    fn facts(subnets: &[&str], blocks: &[&str]) -> NetworkFacts {
        let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        NetworkFacts {
            network: "shop/blue".to_owned(),
            subnets: nets(subnets),
            blocks: nets(blocks),
            reserved: vec!["10.9.1.0".parse().unwrap()],
            mtu: Some(1450),
            ports_free: 7,
        }
    }

    fn holds(pools: &Pools, address: &str) -> bool {
        pools.holds(address.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_networks_number_and_what_is_asked_for_are_read() {
        let config = config(&["10.9.7.7/16"]);
        assert_eq!(config.second, Some(SecondNetwork { vni: 100, port: 8472 }));
        assert_eq!(config.mac.as_deref(), Some("02:00:00:00:00:07"));
        assert!(
            config.store().ends_with(".networks/100-8472"),
            "{:?}",
            config.store()
        );
    }

    #[test]
    fn addresses_are_from_the_nodes_blocks_unless_they_are_asked_for() {
        let subnets = ["10.9.0.0/16", "fd09::/64"];
        let own = ["10.9.1.0/24", "fd09::a:0/112"];
        let chosen = pools(&config(&[]), &facts(&subnets, &own)).unwrap();
        assert!(holds(&chosen, "10.9.1.7") && holds(&chosen, "fd09::a:7"));
        assert!(!holds(&chosen, "10.9.1.0") && !holds(&chosen, "10.9.2.7"));
        let asked = pools(&config(&["10.9.7.7"]), &facts(&subnets, &own)).unwrap();
        assert!(holds(&asked, "10.9.7.7") && holds(&asked, "fd09::a:7") && !holds(&asked, "10.9.1.7"));
        let stray = pools(&config(&["10.8.7.7"]), &facts(&subnets, &own)).unwrap_err();
        assert!(stray.msg.contains("10.8.7.7 is in none"), "{stray}");
        let without = pools(&config(&[]), &facts(&subnets, &[])).unwrap_err();
        assert!(
            without.code == REFUSED && without.msg.contains("nodeBlocks"),
            "{without}"
        );
        let unaddressed = pools(&config(&[]), &facts(&[], &[])).unwrap();
        assert!(!unaddressed.has_family(true) && !unaddressed.has_family(false));
    }
}
