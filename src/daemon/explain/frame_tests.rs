#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::table::{
    HashKey, Networks, OuterLink, RemoteId, SegmentTunnel, StormLimit, TunnelEnds,
};
use millrace_dataplane::wire::vlan::VlanId;

use super::*;
use crate::daemon::compile::networks::NamedRemote;
use crate::objects::{Bridge, NetworkKey, NetworkKind, NetworkRecord, NodeName, PeerChoice, Vni};

const BLUE: NetworkId = NetworkId::new(1);
const POD: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const VM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
const LOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 4]);
const FAR_TOO: MacAddr = MacAddr([2, 0, 0, 0, 0, 5]);
const NOBODY: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const FALSE: MacAddr = MacAddr([2, 0, 0, 0, 0, 10]);
const GROUP: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

fn port(number: u16) -> PortId {
    PortId::new(number).unwrap()
}

fn remote(number: u16) -> RemoteId {
    RemoteId::new(number).unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn served() -> ServedNetwork {
    let record = NetworkRecord {
        key: NetworkKey::new("shop", "blue").unwrap(),
        cni_name: "blue".to_owned(),
        vni: Vni::new(100).unwrap(),
        port: 8472,
        subnets: Vec::new(),
        gateways: Vec::new(),
        node_blocks: [].into(),
        peers: PeerChoice {
            nodes: true,
            addresses: Vec::new(),
        },
        mtu: None,
        kind: NetworkKind::Bridged(Bridge {
            stations: Vec::new(),
            learning: true,
            suppression: true,
            snooping: false,
            storm_limit: std::num::NonZeroU32::new(1000),
            mac_limit: 1024,
            ageing_s: 300,
        }),
    };
    let named = |last: u8, node: Option<&str>, ready| NamedRemote {
        id: remote(last.into()),
        address: address(last),
        node: node.map(|name| NodeName::new(name).unwrap()),
        next_hop: address(254),
        ready,
    };
    ServedNetwork {
        id: Some(BLUE),
        record: Arc::new(record),
        mtu: Some(1450),
        routes_to: Vec::new(),
        remotes: vec![named(2, Some("node-b"), true), named(9, None, false)],
        fault: None,
    }
}

/// A pod at port 1 and a trunk at port 2; node-b behind remote 2, and remote 9, whose next hop is not known.
fn tables() -> NodeTables {
    let tunnel = SegmentTunnel {
        vni: millrace_dataplane::wire::Vni::try_from(100).unwrap(),
        port: 8472,
    };
    let exit = |last: u8, is_known: bool| {
        let ends = TunnelEnds::V4 {
            local: [192, 0, 2, 1].into(),
            remote: [192, 0, 2, last].into(),
        };
        let link = is_known.then_some(OuterLink {
            source: POD,
            destination: VM,
        });
        RemoteExit::new(remote(last.into()), port(0), ends, tunnel, link)
    };
    let segment = Segment {
        tunnel: Some(tunnel),
        remotes: [exit(2, true), exit(9, false)].into(),
        learns_from_ports: true,
        learns_from_remotes: true,
        suppresses: true,
        snoops: false,
        storm: Some(StormLimit::new(1000.try_into().unwrap(), 100, 1_000_000)),
        mtu: 1450,
    };
    let access = Member::Access {
        network: BLUE,
        guard: Guard {
            mac: Some(POD),
            sources: vec![address(77)],
        },
    };
    let trunk = Member::trunk([(VlanId::new(20).unwrap(), BLUE)], None);
    NodeTables {
        networks: Arc::new(Networks::build(
            [(port(1), access), (port(2), trunk)],
            [(BLUE, segment)],
            [(address(2), remote(2)), (address(9), remote(9))],
            [],
        )),
        ..NodeTables::default()
    }
}

fn explain(served: &ServedNetwork, from: MacAddr, to: MacAddr) -> Explanation {
    let fdb = Fdb::new(64, HashKey::random());
    let second = Tick::from_seconds;
    fdb.write()
        .set_static(BLUE, POD, Location::Port(port(1)), second(1))
        .unwrap();
    let learned = [
        (VM, Location::Port(port(2))),
        (FAR, Location::Remote(remote(2))),
        (FAR_TOO, Location::Remote(remote(2))),
        (LOST, Location::Remote(remote(9))),
        (FALSE, Location::Port(port(1))),
    ];
    for (mac, at) in learned {
        fdb.write().learn(BLUE, mac, at, second(2));
    }
    let places = Places {
        networks: [(BLUE, "shop/blue".to_owned())].into(),
        ports: [
            (port(1), ("mr1".to_owned(), Some("shop/db-0".to_owned()))),
            (port(2), ("vm7".to_owned(), None)),
        ]
        .into(),
        remotes: [
            (remote(2), (address(2), Some("node-b".to_owned()))),
            (remote(9), (address(9), None)),
        ]
        .into(),
    };
    let view = View {
        served,
        tables: &tables(),
        fdb: &fdb,
        places: &places,
        now: second(7),
    };
    view.explain(from, to)
}

#[test]
fn every_frame_is_explained_as_the_workers_treat_it() {
    let everybody_else = "to everybody: vm7, node-b (192.0.2.2), 192.0.2.9 (unresolved)";
    let rows = [
        (POD, VM, true, "exit", "vm7 with VLAN 20"),
        (
            POD,
            FAR,
            true,
            "exit",
            "node-b (192.0.2.2) by VXLAN 100 to UDP port 8472, next hop 192.0.2.254",
        ),
        (
            POD,
            FAR,
            true,
            "from",
            "02:00:00:00:00:01: at mr1 (shop/db-0), static, seen 6 s ago",
        ),
        (
            POD,
            FAR,
            true,
            "lookup",
            "02:00:00:00:00:03: at node-b (192.0.2.2), learned, seen 5 s ago",
        ),
        (
            POD,
            VM,
            true,
            "admit",
            "its port takes 02:00:00:00:00:01 alone, and no address but 192.0.2.77",
        ),
        (
            POD,
            VM,
            true,
            "learn",
            "it was given: from anywhere else its frames are dropped",
        ),
        (
            VM,
            POD,
            true,
            "admit",
            "a trunk, any station may send with VLAN 20",
        ),
        (
            VM,
            POD,
            true,
            "learn",
            "it was learned: heard elsewhere it moves there",
        ),
        (FAR, POD, true, "exit", "mr1 (shop/db-0) without a tag"),
        (POD, MacAddr::BROADCAST, true, "flood", everybody_else),
        (POD, GROUP, true, "lookup", "33:33:00:00:00:01: a multicast"),
        (
            POD,
            GROUP,
            true,
            "storm-limit",
            "1000 frames a second from one port or node, what is more is dropped",
        ),
        (
            POD,
            NOBODY,
            true,
            "flood",
            "to everybody, until it is learned where it is: vm7, node-b (192.0.2.2), 192.0.2.9 (unresolved)",
        ),
        // Split horizon: what comes out of a tunnel goes into none.
        (
            FAR,
            MacAddr::BROADCAST,
            true,
            "flood",
            "to everybody: mr1 (shop/db-0), vm7",
        ),
        (NOBODY, POD, true, "from", "02:00:00:00:00:09: not known"),
        (NOBODY, POD, true, "learn", "it is learned where it is heard"),
        (POD, LOST, false, "dropped", "bridge_unresolved"),
        (POD, POD, false, "dropped", "bridge_hairpin"),
        (FAR, FAR_TOO, false, "dropped", "bridge_hairpin"),
        (FAR, LOST, false, "dropped", "bridge_split_horizon"),
        (FALSE, VM, false, "dropped", "spoofed_mac"),
        (GROUP, VM, false, "dropped", "bridge_source"),
        (
            POD,
            MacAddr([1, 0x80, 0xc2, 0, 0, 3]),
            false,
            "dropped",
            "bridge_reserved",
        ),
    ];
    let blue = served();
    for (from, to, allowed, stage, said) in rows {
        let explanation = explain(&blue, from, to);
        assert_eq!(explanation.allowed, allowed, "{from} {to}: {explanation:#?}");
        let mut stages = explanation.stages.iter();
        let answer = stages.find(|said| said.stage == stage).map(|said| &said.answer);
        let is_it = |answer: &String| match stage {
            "dropped" => answer.starts_with(&format!("{said}: ")),
            _ => answer == said,
        };
        assert!(answer.is_some_and(is_it), "{from} {to} {stage}: {explanation:#?}");
    }
}

#[test]
fn a_network_that_is_not_served_forwards_nothing() {
    let fault = ServedNetwork {
        id: None,
        fault: Some("it is the cluster's own number".to_owned()),
        ..served()
    };
    let explanation = explain(&fault, POD, VM);
    assert!(!explanation.allowed);
    let [stage] = explanation.stages.as_slice() else {
        panic!("{explanation:?}")
    };
    assert_eq!(
        stage.answer,
        "shop/blue: not served, it is the cluster's own number"
    );
}
