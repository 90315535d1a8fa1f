//! Random frames through two nodes, each with ports and a tunnel to the other: nothing loops, comes back or is lost.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Stations, each of which may be behind any port of either node at any moment.
const STATIONS: u8 = 6;
/// Ports of each node.
const PORTS: u16 = 3;
/// Nodes 2 and 3, which share their underlay.
const NODES: [u8; 2] = [2, 3];

/// A node with three ports in a network that the other one is in too.
fn node(number: u8, other: u8) -> Switch {
    let base = world::tables(number);
    let numbers = 20..20 + PORTS;
    let own = numbers.clone().map(|port| facts(number, port, 1500));
    let ports = base.ports.iter().map(|(id, facts)| (id, facts.clone()));
    let members = numbers.map(|number| (port(number), member_of(RED)));
    let address = (node_address(Family::V4, other), remote(other));
    let segments = [(RED, segment(number, RED_VNI, &[(other, true)]))];
    Switch::with(NodeTables {
        ports: Arc::new(PortTable::build(ports.chain(own))),
        networks: Arc::new(Networks::build(members, segments, [address], [])),
        ..base
    })
}

/// A frame: from whom, where, to whom.
#[derive(Debug, Clone, Copy)]
struct Sending {
    node: usize,
    port: u16,
    from: u8,
    to: Option<u8>,
}

fn sending() -> impl Strategy<Value = Sending> {
    let to = prop::option::weighted(0.8, 0..STATIONS);
    (0..NODES.len(), 0..PORTS, 0..STATIONS, to).prop_map(|(node, port, from, to)| Sending {
        node,
        port,
        from,
        to,
    })
}

/// Where a frame leaves by a port of a node's, how often, if it comes in as it does; a frame for the other node goes there.
fn deliver(nodes: &mut [Switch; 2], sending: Sending, frame: &[u8]) -> BTreeMap<(usize, PortId), usize> {
    let mut left = BTreeMap::new();
    let mut under_way = vec![(sending.node, port(20 + sending.port), frame.to_vec())];
    let mut walks = 0;
    while let Some((node, ingress, bytes)) = under_way.pop() {
        walks += 1;
        assert!(walks <= 2, "a frame goes through a tunnel once");
        for (exit, bytes) in nodes[node].forward(ingress, &bytes) {
            if exit == uplink() {
                assert_ne!(ingress, uplink(), "and not back");
                under_way.push((1 - node, uplink(), bytes));
            } else {
                assert_eq!(bytes, frame, "as it was");
                *left.entry((node, exit)).or_default() += 1;
            }
        }
        nodes[node].learn();
    }
    left
}

proptest! {
    #[test]
    fn nothing_loops_and_nothing_comes_back(sendings in prop::collection::vec(sending(), 1..80)) {
        let mut nodes = [node(NODES[0], NODES[1]), node(NODES[1], NODES[0])];
        // Where each station is, as far as everybody has heard.
        let mut places = BTreeMap::new();
        for sending in sendings {
            let to = sending.to.map_or(MacAddr::BROADCAST, station);
            let bytes = frame(station(sending.from), to);
            let left = deliver(&mut nodes, sending, &bytes);
            let here = (sending.node, port(20 + sending.port));
            prop_assert!(!left.contains_key(&here), "{sending:?}: back to where it came from");
            prop_assert!(left.values().all(|count| *count == 1), "{sending:?}: {left:?}");
            if sending.to.is_none() {
                prop_assert_eq!(left.len(), 2 * usize::from(PORTS) - 1, "everybody else has it");
            }
            if let Some(place) = sending.to.and_then(|to| places.get(&to))
                && *place != here
                && sending.to != Some(sending.from)
            {
                prop_assert_eq!(left, BTreeMap::from([(*place, 1)]), "{:?}: not to whoever it is for", sending);
            }
            // Where it is, who has said so to everybody; who moves and does not say so is not found everywhere.
            match sending.to {
                None => {
                    places.insert(sending.from, here);
                }
                Some(_) if places.get(&sending.from) != Some(&here) => {
                    places.remove(&sending.from);
                }
                Some(_) => {}
            }
        }
    }
}
