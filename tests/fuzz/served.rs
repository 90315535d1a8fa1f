//! The node that `walk` runs on: every kind of Service, with affinity, source ranges and both traffic policies, for both
//! families; and what its translation may make of a source address.

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::flow::FlowOptions;
use millrace_dataplane::table::service::{BackendId, Serving};
use millrace_dataplane::table::{Local, NodeTables};
use millrace_dataplane::wire::IpProtocol;

use crate::packets::Family;
use crate::sketch::{At, Sketch, backend, external, tables, vip};
use crate::world::{Node, link_gateway, node_address, pod};

/// The port of every Service, and what nothing serves.
pub const PORT: u16 = 80;
/// Node ports, one for each family.
pub const NODE_PORT: u16 = 30_080;
/// How many addresses inside the cluster are Services'.
pub const VIPS: u8 = 7;

/// Pods and nodes that serve: of this node, of others behind either tunnel, and this node itself.
fn backends(family: Family) -> Vec<(IpAddr, u16, bool)> {
    vec![
        (pod(family, 1, 2), 8080, true),
        (pod(family, 1, 3), 8080, true),
        (pod(family, 2, 5), 5353, false),
        (pod(family, 3, 5), PORT, false),
        (node_address(family, 1), 9000, true),
    ]
}

fn of_family(family: Family, first: u32) -> Vec<Sketch> {
    let all = backends(family);
    let cluster = |place: u8, backends: &[(IpAddr, u16, bool)]| {
        Sketch::new(
            first + u32::from(place),
            At::Cluster(vip(family, place)),
            PORT,
            backends,
        )
    };
    let at = |place: u8, at: At| Sketch {
        at: vec![at],
        ..cluster(place, &all)
    };
    let node_port = Sketch {
        port: NODE_PORT,
        ..at(8, At::NodePort(family))
    };
    vec![
        cluster(1, &all),
        cluster(2, &all[1..2]),
        Sketch {
            affinity_s: Some(20),
            ..cluster(3, &all)
        },
        cluster(4, &[]),
        Sketch {
            internal_local: true,
            ..cluster(5, &all)
        },
        Sketch {
            internal_local: true,
            ..cluster(6, &all[2..3])
        },
        // The same port: SCTP in pieces may go there.
        cluster(7, &all[3..4]),
        node_port,
        Sketch {
            affinity_s: Some(20),
            ..at(9, At::External(external(family, 9)))
        },
        Sketch {
            external_local: true,
            ..at(10, At::External(external(family, 10)))
        },
        Sketch {
            source_ranges: vec!["203.0.113.0/24", "2001:db8:f::/48"],
            ..at(11, At::LoadBalancer(external(family, 11)))
        },
    ]
}

/// The tables, before anything changed; or as they are once an endpoint of each Service has gone.
pub fn served(is_less: bool) -> NodeTables {
    let mut sketches: Vec<_> = Family::BOTH
        .into_iter()
        .zip([1, 17])
        .flat_map(|(family, first)| of_family(family, first))
        .collect();
    if is_less {
        for sketch in &mut sketches {
            if let Some((address, port, _)) = sketch.backends.pop() {
                sketch.others.push((address, port, Serving::No));
            }
            sketch.has_endpoints = !sketch.backends.is_empty();
        }
    }
    let tables = tables(&sketches);
    let local = Local {
        masquerade_protocols: vec![IpProtocol::GRE],
        ..Local::clone(&tables.local)
    };
    NodeTables {
        local: Arc::new(local),
        ..tables
    }
}

/// Every backend, as something that may have changed.
pub fn every_backend() -> Vec<BackendId> {
    (1..32)
        .flat_map(|service| (0..5).map(move |place| backend(service, place)))
        .collect()
}

/// A node that serves, with few connections.
pub fn node(tables: &NodeTables) -> Node {
    let options = FlowOptions {
        ipv4: 256,
        ipv6: 256,
        ..FlowOptions::default()
    };
    Node::of_size(tables.clone(), &options, 16)
}

/// Whether translation may give a packet this source: the node's own addresses, and what leads to Services.
pub fn is_translated(source: IpAddr) -> bool {
    Family::BOTH.into_iter().any(|family| {
        let own = [
            pod(family, 1, 0),
            pod(family, 1, 1),
            node_address(family, 1),
            link_gateway(family),
        ];
        own.contains(&source)
            || (1..=VIPS).any(|number| vip(family, number) == source)
            || (8..=11).any(|number| external(family, number) == source)
    })
}
