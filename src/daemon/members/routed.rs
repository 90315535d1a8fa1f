//! Ports in routed networks: what has to be known of them, and where they reach.

use std::net::IpAddr;

use ipnet::IpNet;

use super::MemberRow;
use crate::admin::protocol::{Failure, MemberRoute};
use crate::daemon::Daemon;
use crate::objects::{NetworkRecord, NodeName, RouteTo};

impl Daemon {
    /// What is behind a port in a routed network is known, and is where its addresses say.
    pub(super) fn check_routed(&self, row: &MemberRow) -> Result<(), Failure> {
        let mut routed = None;
        for name in row.networks() {
            let network = self.second_network(name)?;
            if network.routing().is_some() {
                routed = Some(network);
            }
        }
        routed.map_or(Ok(()), |network| check(&self.own.name, network, row))
    }

    /// The routes of a pod's interface: to the subnets of networks that its own is routed to, by the switch's addresses in its
    /// own. To the cluster's own a pod has another interface.
    pub(super) fn routes_of_member(&self, row: &MemberRow) -> Vec<MemberRoute> {
        let network = row.network.as_ref();
        let Some(network) = network.and_then(|name| self.second_network(name).ok()) else {
            return Vec::new();
        };
        let others = self
            .store
            .routes_of(&network.key)
            .iter()
            .filter_map(|to| match to {
                RouteTo::Cluster => None,
                RouteTo::Network(key) => self.store.second_network(key),
            });
        let subnets = others.flat_map(|other| other.subnets.iter().copied());
        routes(&network.gateways, &row.addresses, subnets)
    }
}

fn routes(
    gateways: &[IpAddr],
    addresses: &[IpNet],
    subnets: impl Iterator<Item = IpNet>,
) -> Vec<MemberRoute> {
    // One that is on the link of an address.
    let gateway = |destination: &IpNet| {
        let of_family = |gateway: &&IpAddr| gateway.is_ipv4() == destination.addr().is_ipv4();
        let is_on_link = |gateway: &&IpAddr| addresses.iter().any(|address| address.contains(*gateway));
        gateways.iter().filter(of_family).find(is_on_link).copied()
    };
    let route = |destination: IpNet| {
        Some(MemberRoute {
            destination,
            gateway: gateway(&destination)?,
        })
    };
    subnets.filter_map(route).collect()
}

fn check(own: &NodeName, network: &NetworkRecord, row: &MemberRow) -> Result<(), Failure> {
    let (name, interface) = (&network.key, &row.interface);
    if !row.trunk.is_empty() {
        return Err(Failure::wrong(format!(
            "{name} is a routed network, whose frames have no tag; attach {interface} with --network {name} alone"
        )));
    }
    if row.mac.is_none() || row.addresses.is_empty() {
        return Err(Failure::wrong(format!(
            "{interface} is to be in {name}, a routed network, where packets are sent to a port by its addresses: --address IP, and \
             of a tap --mac MAC, would say what is behind it"
        )));
    }
    let blocks = network.blocks_of(own);
    for address in &row.addresses {
        let ip = address.addr();
        let subnet = network.subnet_of(ip);
        let is_broadcast = |net: IpNet| ip.is_ipv4() && net.broadcast() == ip;
        let is_reserved = subnet.is_some_and(|net| net.network() == ip || is_broadcast(net));
        if is_reserved || network.gateways.contains(&ip) {
            return Err(Failure::wrong(format!(
                "{ip} is the switch's own address in {name}, or its subnet's first or last; choose another"
            )));
        }
        if !blocks.iter().any(|block| block.contains(&ip)) {
            let blocks: Vec<String> = blocks.iter().map(ToString::to_string).collect();
            let blocks = if blocks.is_empty() {
                "it has none".to_owned()
            } else {
                blocks.join(", ")
            };
            return Err(Failure::wrong(format!(
                "{ip} is in none of the blocks that are behind {own} in {name} ({blocks}): `nodeBlocks` in its definition says where \
                 packets for an address go"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::admin::protocol::{Bandwidth, MemberEnd, PodInterface, TrunkVlan};
    use crate::objects::{NetworkKey, NetworkKind, PeerChoice, Routing, Vni};

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn network() -> NetworkRecord {
        NetworkRecord {
            key: NetworkKey::new("shop", "blue").unwrap(),
            cni_name: "blue".to_owned(),
            vni: Vni::new(100).unwrap(),
            port: 8472,
            subnets: nets(&["10.9.0.0/16", "fd09::/64"]),
            gateways: vec!["10.9.0.1".parse().unwrap(), "fd09::1".parse().unwrap()],
            node_blocks: [(
                NodeName::new("node-a").unwrap(),
                nets(&["10.9.0.0/24", "fd09::/112"]),
            )]
            .into(),
            peers: PeerChoice {
                nodes: true,
                addresses: Vec::new(),
            },
            mtu: None,
            kind: NetworkKind::Routed(Routing {
                routes_to: Vec::new(),
            }),
        }
    }

    fn row(addresses: &[&str]) -> MemberRow {
        MemberRow {
            interface: "mr1".to_owned(),
            end: MemberEnd::Pod(PodInterface {
                pod: "shop/db".to_owned(),
                netns: PathBuf::from("/run/netns/x"),
                interface: "net1".to_owned(),
            }),
            was_there: false,
            network: Some("shop/blue".to_owned()),
            trunk: Vec::new(),
            mac: Some("02:00:00:00:00:07".parse().unwrap()),
            addresses: nets(addresses),
            attachment: None,
            bandwidth: Bandwidth::default(),
        }
    }

    #[test]
    fn what_is_behind_a_port_is_known_and_is_where_it_says() {
        let (here, there) = (NodeName::new("node-a").unwrap(), NodeName::new("node-b").unwrap());
        let said = |own: &NodeName, row: &MemberRow| {
            check(own, &network(), row)
                .err()
                .map(|failure| failure.message)
                .unwrap_or_default()
        };
        assert_eq!(said(&here, &row(&["10.9.0.7/16", "fd09::7/64"])), "");
        for (own, addresses, words) in [
            (
                &here,
                &["10.9.1.7/16"][..],
                "none of the blocks that are behind node-a in shop/blue (10.9.0.0/24, fd09::/112)",
            ),
            (&there, &["10.9.0.7/16"], "(it has none)"),
            (&here, &["10.9.0.1/16"], "10.9.0.1 is the switch's own"),
            (
                &here,
                &["10.9.0.7/16", "fd09::1/64"],
                "fd09::1 is the switch's own",
            ),
            (&here, &["10.9.0.0/16"], "first or last"),
            (&here, &[], "--address IP"),
        ] {
            let said = said(own, &row(addresses));
            assert!(said.contains(words), "{addresses:?}: {said}");
        }
        let unknown = MemberRow {
            mac: None,
            ..row(&["10.9.0.7/16"])
        };
        assert!(said(&here, &unknown).contains("--mac MAC"));
        let trunk = MemberRow {
            trunk: vec![TrunkVlan {
                vlan: 7,
                network: "shop/blue".to_owned(),
            }],
            ..row(&[])
        };
        assert!(said(&here, &trunk).contains("have no tag"));
    }

    #[test]
    fn a_pod_has_routes_by_routers_on_its_own_links() {
        let all = network().gateways;
        let to = nets(&["10.8.0.0/16", "fd08::/64"]);
        let words = |addresses: &[&str]| -> Vec<String> {
            let made = routes(&all, &nets(addresses), to.iter().copied());
            made.iter()
                .map(|route| format!("{} via {}", route.destination, route.gateway))
                .collect()
        };
        let [v4, v6] = ["10.8.0.0/16 via 10.9.0.1", "fd08::/64 via fd09::1"];
        assert_eq!(words(&["10.9.0.7/16", "fd09::7/64"]), [v4, v6]);
        assert_eq!(words(&["10.9.0.7/16"]), [v4]);
        assert_eq!(words(&[]), [""; 0]);
    }
}
