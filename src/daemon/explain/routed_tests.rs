//! What is said of packets of routed networks.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use millrace_dataplane::table::{
    OuterLink, Peer, PeerTable, Prefix, RouteTable, RoutedNetworks, Tunnel, TunnelEnds, Underlay,
};
use millrace_dataplane::wire::{IpProtocol, MacAddr, Vni};

use super::*;

const BLUE: NetworkId = NetworkId::new(1);
const RED: NetworkId = NetworkId::new(2);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

/// Tables in which prefixes lead somewhere, and with two peers, of which the first can be reached.
fn tables(network: NetworkId, routes: &[(&str, Target)]) -> NodeTables {
    let routes = routes.iter().map(|(prefix, target)| {
        let (address, length) = prefix.split_once('/').unwrap();
        (
            Prefix::containing(ip(address), length.parse().unwrap()).unwrap(),
            *target,
        )
    });
    let peer = |last: u8, link: Option<OuterLink>| {
        let ends = TunnelEnds::V4 {
            local: [192, 0, 2, 1].into(),
            remote: [192, 0, 2, last].into(),
        };
        let vni = Vni::try_from(7).unwrap();
        let tunnel = Tunnel::Vxlan {
            vni,
            port: 8472,
            local_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            remote_mac: MacAddr([2, 0, 0, 0, 0, last]),
        };
        let underlay = Underlay {
            port: port(0),
            next_hop: ends.remote(),
        };
        Peer::new(ends, tunnel, underlay, 1450, link)
    };
    let link = OuterLink {
        source: MacAddr([2, 0, 0, 0, 1, 1]),
        destination: MacAddr([2, 0, 0, 0, 1, 2]),
    };
    let peers = [
        (PeerId::new(2), peer(2, Some(link))),
        (PeerId::new(3), peer(3, None)),
    ];
    NodeTables {
        network,
        routes: Arc::new(RouteTable::build(routes)),
        peers: Arc::new(PeerTable::build(peers, [])),
        ..NodeTables::default()
    }
}

fn top() -> NodeTables {
    let blue = tables(
        BLUE,
        &[
            ("10.9.0.0/16", Target::Unreachable),
            ("10.9.1.7/32", Target::Port(port(5))),
            ("10.9.2.0/24", Target::Tunnel(PeerId::new(2))),
            ("10.9.3.0/24", Target::Tunnel(PeerId::new(3))),
            ("10.9.0.1/32", Target::Switch),
            ("10.8.0.0/16", Target::Network(RED)),
            ("10.244.1.0/24", Target::Network(NetworkId::CLUSTER)),
            ("10.7.0.0/16", Target::Network(NetworkId::new(9))),
        ],
    );
    let red = tables(
        RED,
        &[
            ("10.8.1.6/32", Target::Port(port(6))),
            ("10.8.9.0/24", Target::Network(BLUE)),
        ],
    );
    NodeTables {
        routed: Arc::new(RoutedNetworks::build([blue, red], [])),
        ..tables(NetworkId::CLUSTER, &[("10.244.1.2/32", Target::Port(port(2)))])
    }
}

#[test]
fn a_packets_way_is_told_through_both_networks() {
    let top = top();
    let names = Names {
        ports: [(2, "default/a"), (5, "vm7"), (6, "shop/db")]
            .map(|(number, name)| (port(number), name.to_owned()))
            .into(),
        networks: [(BLUE, "shop/blue"), (RED, "shop/red")]
            .map(|(id, name)| (id, name.to_owned()))
            .into(),
        remotes: [(PeerId::new(2), "node-b".to_owned())].into(),
        ..Names::default()
    };
    let view = View {
        top: &top,
        names: &names,
        rule: &|network, rule| format!("{rule:?} of {network}"),
    };
    let ask = |from: &str, to: &str| {
        let query = Query {
            source: ip(from),
            destination: ip(to),
            protocol: IpProtocol::TCP,
            port: 80,
        };
        let told = view.explain(top.of(BLUE).unwrap(), &query);
        let stages = told
            .stages
            .iter()
            .map(|stage| format!("{}: {}", stage.stage, stage.answer));
        (told.allowed, stages.collect::<Vec<_>>().join("\n"))
    };
    for (from, to, allowed, words) in [
        (
            "10.9.1.7",
            "10.9.2.7",
            true,
            "shop/blue: 10.9.2.7 through the tunnel to node-b",
        ),
        (
            "10.9.1.7",
            "10.9.3.7",
            false,
            "the tunnel to peer 3, which does not answer",
        ),
        ("10.9.2.7", "10.9.1.7", true, "from: 10.9.2.7: behind node-b"),
        ("10.9.1.7", "10.9.1.9", false, "nowhere, the sender is told"),
        ("10.9.1.7", "10.9.0.1", true, "to the switch itself"),
        (
            "10.9.1.7",
            "10.8.1.6",
            true,
            "into shop/red\nroute: shop/red: 10.8.1.6 to shop/db",
        ),
        ("10.9.1.7", "10.8.9.6", false, "dropped: network_transit"),
        (
            "10.9.1.7",
            "10.244.1.2",
            true,
            "into the cluster's own network\nroute: the cluster's own network: 10.244.1.2 to default/a",
        ),
        ("10.9.1.7", "10.7.1.2", false, "dropped: no_route"),
        ("10.6.1.7", "10.9.1.7", true, "behind no port and no node"),
    ] {
        let (is, said) = ask(from, to);
        assert_eq!(is, allowed, "{from} to {to}: {said}");
        assert!(said.contains(words), "{from} to {to}: {said}");
    }
}
