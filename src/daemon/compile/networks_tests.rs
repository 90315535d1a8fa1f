//! Networks beside the cluster's own.

use millrace_dataplane::table::{Location, Member, SegmentTunnel};
use millrace_dataplane::wire::vlan::VlanId;

use super::*;
use crate::admin::protocol::{Bandwidth, MemberEnd, TapDevice, TrunkVlan};

const NETWORKS: &str = r#"
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: blue, namespace: shop}
spec:
  config: |
    {"type": "millrace-cni", "network": {"kind": "bridged", "vni": 100, "subnets": ["10.9.0.0/16", "fd09::/64"],
     "peers": {"addresses": ["192.0.2.77", "192.0.2.1"]},
     "stations": [{"mac": "02:00:00:00:07:07", "at": "192.0.2.77"}]}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: red, namespace: shop}
spec:
  config: |
    {"type": "millrace-cni", "network": {"kind": "bridged", "vni": 100, "port": 4789, "mtu": 1400,
     "peers": {"nodes": false}, "stormLimit": 0, "learning": false}}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: own, namespace: shop}
spec: {config: '{"type": "millrace-cni", "network": {"kind": "bridged", "vni": 1}}'}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: bgp, namespace: shop}
spec: {config: '{"type": "millrace-cni", "network": {"kind": "bridged", "vni": 7, "port": 179}}'}
"#;

pub(super) fn member(interface: &str, network: Option<&str>, trunk: &[(u16, &str)]) -> MemberRow {
    MemberRow {
        interface: interface.to_owned(),
        end: MemberEnd::Tap(TapDevice {
            name: interface.to_owned(),
            user: None,
            group: None,
        }),
        was_there: false,
        network: network.map(str::to_owned),
        trunk: trunk
            .iter()
            .map(|(vlan, network)| TrunkVlan {
                vlan: *vlan,
                network: (*network).to_owned(),
            })
            .collect(),
        mac: None,
        addresses: Vec::new(),
        attachment: None,
        bandwidth: Bandwidth::default(),
    }
}

fn made(members: &[(PortId, MemberRow)], numbers: &mut Numbers) -> Compiled {
    let kernel = kernel(vec![neighbour("192.0.2.77", 77), neighbour("192.0.2.254", 254)]);
    let objects = format!("{MANIFESTS}{NETWORKS}");
    compiled_with_members(CONFIG, (&objects, "10.244.1.2"), &kernel, numbers, (members, &[]))
}

#[test]
fn a_network_goes_to_all_nodes_and_to_whom_it_names() {
    let compiled = made(&[], &mut Numbers::default());
    let [bgp, blue, own, red] = compiled.second.networks.as_slice() else {
        panic!("{:?}", compiled.second.networks)
    };
    assert!(
        bgp.fault
            .as_ref()
            .is_some_and(|fault| fault.contains("UDP port 179"))
    );
    assert!(
        own.fault
            .as_ref()
            .is_some_and(|fault| fault.contains("cluster network's own"))
    );
    assert_eq!((own.id, bgp.id), (None, None));
    assert!(
        compiled
            .warnings
            .iter()
            .any(|warning| warning.starts_with("network shop/own: VNI 1"))
    );
    // This node's own address is no other end.
    let remotes: Vec<_> = blue
        .remotes
        .iter()
        .map(|remote| (remote.address.to_string(), remote.ready))
        .collect();
    let expected = [
        ("192.0.2.2", false),
        ("198.51.100.3", true),
        ("192.0.2.4", false),
        ("192.0.2.77", true),
    ];
    assert_eq!(
        remotes,
        expected.map(|(address, ready)| (address.to_owned(), ready))
    );
    assert_eq!(
        blue.remotes[0].node.as_ref().map(NodeName::as_str),
        Some("node-b")
    );
    assert_eq!(
        (blue.mtu, red.mtu, red.remotes.len()),
        (Some(1450), Some(1400), 0)
    );
    let networks = &compiled.tables.networks;
    let tunnel = |vni: u32, port| SegmentTunnel {
        vni: Vni::try_from(vni).unwrap(),
        port,
    };
    assert_eq!(networks.by_tunnel(tunnel(100, 8472)), blue.id);
    assert_eq!(networks.by_tunnel(tunnel(100, 4789)), red.id);
    assert_eq!(networks.by_tunnel(tunnel(1, 8472)), None);
    let segment = networks.segment(blue.id.unwrap()).unwrap();
    assert!(segment.learns_from_remotes && segment.suppresses && segment.storm.is_some());
    assert_eq!((segment.mtu, segment.remotes.len()), (1450, 4));
    let remote = networks.remote(ip("192.0.2.77")).unwrap();
    assert!(segment.remote(remote).is_some_and(|exit| exit.outer().is_some()));
    assert!(!networks.segment(red.id.unwrap()).unwrap().learns_from_remotes);
    // Steering takes both ports, each once, and pods cannot play the other end.
    assert_eq!(compiled.steering.tunnel_ports, [8472, 4789]);
    assert!(compiled.tables.local.node_addresses.contains(&ip("192.0.2.77")));
    assert!(compiled.tables.local.is_tunnel_port(4789));
    assert!(compiled.next_hops.contains(&(UPLINK, ip("192.0.2.77"))));
}

#[test]
fn ports_are_members_and_what_is_given_is_known() {
    let port = |number| PortId::new(number).unwrap();
    let mut tap = member(&format!("if{OTHER}"), Some("shop/blue"), &[]);
    tap.mac = Some("52:54:00:00:00:07".parse().unwrap());
    tap.addresses = vec!["10.9.0.7/16".parse().unwrap(), "fd09::7/64".parse().unwrap()];
    let members = [
        (port(5), tap),
        (
            port(6),
            member(
                "router",
                None,
                &[(20, "shop/red"), (10, "shop/blue"), (30, "shop/gone")],
            ),
        ),
        (port(7), member("lost", Some("shop/own"), &[])),
        // Its machine has moved to another node: nobody holds the tap device.
        (port(8), {
            let mut gone = member("vm8", Some("shop/blue"), &[]);
            gone.mac = Some("52:54:00:00:00:08".parse().unwrap());
            gone
        }),
    ];
    let compiled = made(&members, &mut Numbers::default());
    let id = |name: &str| {
        let mut all = compiled.second.networks.iter();
        let found = all.find(|served| served.record.key.name() == name).unwrap();
        found.id.unwrap()
    };
    let networks = &compiled.tables.networks;
    assert_eq!(
        networks.exits(id("blue")),
        [(port(5), None), (port(6), VlanId::new(10)), (port(8), None)]
    );
    assert_eq!(networks.exits(id("red")), [(port(6), VlanId::new(20))]);
    assert_eq!(networks.member(port(7)), None);
    let Some(Member::Access { guard, .. }) = networks.member(port(5)) else {
        panic!("no access port")
    };
    assert_eq!(guard.mac, Some(MacAddr([0x52, 0x54, 0, 0, 0, 7])));
    assert_eq!(
        guard.sources,
        ["10.9.0.7", "fd09::7", "fe80::5054:ff:fe00:7"].map(ip)
    );
    let [of_member, of_definition] = compiled.second.stations.as_slice() else {
        panic!("{:?}", compiled.second.stations)
    };
    assert_eq!(
        (of_member.network, of_member.location),
        (id("blue"), Location::Port(port(5)))
    );
    assert_eq!(of_member.addresses.len(), 2);
    assert!(matches!(of_definition.location, Location::Remote(remote)
        if networks.remote(ip("192.0.2.77")) == Some(remote)));
}

#[test]
fn numbers_stay_and_one_that_was_given_up_is_the_last_to_be_given_again() {
    let mut numbers = Numbers::default();
    let ids =
        |compiled: &Compiled| -> Vec<_> { compiled.second.networks.iter().map(|served| served.id).collect() };
    let first = ids(&made(&[], &mut numbers));
    assert_eq!(first, ids(&made(&[], &mut numbers)));
    let kernel = kernel(Vec::new());
    let none = compiled_with_members(
        CONFIG,
        (MANIFESTS, "10.244.1.2"),
        &kernel,
        &mut numbers,
        (&[], &[]),
    );
    assert!(none.second.networks.is_empty() && !none.tables.networks.has_tunnels());
    let again = ids(&made(&[], &mut numbers));
    assert!(
        first.iter().flatten().all(|id| !again.contains(&Some(*id))),
        "{first:?} {again:?}"
    );
}
