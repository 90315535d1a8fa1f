//! Routes as a routing daemon puts them into the kernel, and what the switch makes of them.

use std::time::Instant;

use millrace_dataplane::table::{Spread, Target};

use super::*;

const TUNL: u32 = 40;
const VXLAN: u32 = 41;
/// What BIRD calls itself (`RTPROT_BIRD`).
const BIRD: u8 = 12;

const IPIP_CONFIG: &str = "[node]\nname = \"node-a\"\nmanifests = \"m\"\n[uplink]\ninterface = \"eth1\"\n[workers]\ncores = [0]\n[overlay]\nkind = \"ipip\"\n";

fn device(ifindex: u32, name: &str, kind: &str) -> Link {
    Link {
        name: name.to_owned(),
        kind: Some(kind.to_owned()),
        mac: None,
        ..link(ifindex)
    }
}

fn via(destination: &str, hops: &[(u32, &str)]) -> Route {
    let hop = |(ifindex, gateway): &(u32, &str)| RouteHop {
        ifindex: *ifindex,
        gateway: Some(ip(gateway)),
        onlink: true,
        weight: 1,
        dead: false,
    };
    Route {
        protocol: BIRD,
        hops: hops.iter().map(hop).collect(),
        ..route(destination, UPLINK, None, 32)
    }
}

fn dropping(destination: &str, kind: RouteKind) -> Route {
    Route {
        kind,
        hops: Vec::new(),
        ..route(destination, UPLINK, None, 32)
    }
}

/// The kernel of the other tests, with a stand-in, a vxlan device and these routes more.
fn kernel_with(routes: Vec<Route>) -> KernelState {
    let base = kernel(vec![neighbour("192.0.2.2", 2), neighbour("192.0.2.7", 7)]);
    let vtep = Neighbour {
        ifindex: VXLAN,
        address: ip("10.65.9.0"),
        mac: Some([2, 0, 0, 0, 1, 2]),
        state: NeighbourState::Permanent,
    };
    KernelState::made_up(
        base.links().cloned().chain([
            device(TUNL, "tunl0", "tun"),
            device(VXLAN, "vxlan.calico", "vxlan"),
        ]),
        base.addresses().cloned().collect::<Vec<_>>(),
        base.routes().cloned().chain(routes),
        base.neighbours().cloned().chain([vtep]),
    )
}

fn compiled_routes(routes: Vec<Route>, numbers: &mut Numbers) -> Compiled {
    compiled_by(IPIP_CONFIG, MANIFESTS, &kernel_with(routes), numbers)
}

fn lookup(compiled: &Compiled, address: &str) -> Option<Target> {
    compiled.tables.routes.lookup(ip(address))
}

/// The remote end of the tunnel that packets to an address take.
fn remote(compiled: &Compiled, address: &str) -> Option<IpAddr> {
    match lookup(compiled, address)? {
        Target::Tunnel(peer) => compiled.tables.peers.get(peer).map(|peer| peer.remote),
        _ => None,
    }
}

#[test]
fn a_route_by_the_stand_in_is_a_tunnel_to_its_next_hop() {
    let routes = vec![
        via("10.65.7.0/26", &[(TUNL, "192.0.2.7")]),
        via("10.65.7.9/32", &[(TUNL, "192.0.2.8")]),
        via("10.65.2.0/26", &[(TUNL, "198.51.100.3")]),
    ];
    let compiled = compiled_routes(routes, &mut Numbers::default());
    assert!(!compiled.warnings.iter().any(|said| said.contains("10.65.")));
    assert_eq!(remote(&compiled, "10.65.7.1"), Some(ip("192.0.2.7")));
    assert_eq!(remote(&compiled, "10.65.7.9"), Some(ip("192.0.2.8")), "borrowed");
    let far = lookup(&compiled, "10.244.3.9");
    assert_eq!(
        lookup(&compiled, "10.65.2.1"),
        far,
        "a node that objects tell of, by IPIP"
    );
    let peers = &compiled.tables.peers;
    let id = |address| match lookup(&compiled, address) {
        Some(Target::Tunnel(id)) => id,
        other => panic!("{address}: {other:?}"),
    };
    let (seven, eight) = (id("10.65.7.1"), id("10.65.7.9"));
    for (source, may) in [
        ("10.65.7.1", [true, false]),
        ("10.65.7.9", [false, true]),
        ("192.0.2.7", [true, false]),
        ("192.0.2.8", [false, true]),
        ("10.65.7.64", [false, false]),
        ("10.65.2.1", [false, false]),
        ("192.0.2.1", [false, false]),
    ] {
        let asked = [seven, eight].map(|id| peers.may_send(id, ip(source)));
        assert_eq!(asked, may, "{source}");
    }
    let peer = peers.get(seven).unwrap();
    assert_eq!((peer.tunnel, peer.mtu), (Tunnel::Ipip, 1480));
    assert!(
        peer.outer.is_some() && peers.get(eight).unwrap().outer.is_none(),
        "neighbours"
    );
    assert!(compiled.next_hops.contains(&(UPLINK, ip("192.0.2.8"))));
    let local = &compiled.tables.local;
    assert!(local.is_pod(ip("10.65.7.1")) && !local.is_pod(ip("10.65.7.64")));
    assert!(local.node_addresses.contains(&ip("192.0.2.7")));
    assert!(local.is_ipip_endpoint("192.0.2.1".parse().unwrap()));
}

#[test]
fn the_longest_prefix_counts_then_objects_then_the_kernel() {
    let routes = vec![
        via("10.244.2.0/24", &[(TUNL, "192.0.2.7")]),
        via("10.244.2.64/26", &[(TUNL, "192.0.2.7")]),
        via("10.244.1.2/32", &[(TUNL, "192.0.2.7")]),
        dropping("10.244.1.64/26", RouteKind::Blackhole),
        dropping("10.65.9.0/26", RouteKind::Unreachable),
    ];
    let compiled = compiled_routes(routes, &mut Numbers::default());
    assert_eq!(
        remote(&compiled, "10.244.2.1"),
        Some(ip("192.0.2.2")),
        "the object's"
    );
    assert_eq!(remote(&compiled, "10.244.2.65"), Some(ip("192.0.2.7")), "longer");
    let pod = Target::Port(PortId::new(2).unwrap());
    assert_eq!(lookup(&compiled, "10.244.1.2"), Some(pod), "a pod's port");
    assert_eq!(
        lookup(&compiled, "10.244.1.65"),
        Some(Target::Blackhole),
        "own block"
    );
    assert_eq!(lookup(&compiled, "10.65.9.1"), Some(Target::Unreachable));
}

/// A way to everywhere through a tunnel: its end speaks for the world, and for nobody in it who has a way of its own.
#[test]
fn a_wide_route_lets_its_next_hop_not_speak_for_others() {
    let mut default = via("0.0.0.0/0", &[(TUNL, "192.0.2.7")]);
    default.metric = 0;
    let mut kernel = kernel_with(vec![]);
    kernel = KernelState::made_up(
        kernel.links().cloned(),
        kernel.addresses().cloned().collect::<Vec<_>>(),
        kernel
            .routes()
            .filter(|route| route.destination.prefix_len() > 0)
            .cloned()
            .chain([default]),
        kernel.neighbours().cloned().collect::<Vec<_>>(),
    );
    let compiled = compiled_by(IPIP_CONFIG, MANIFESTS, &kernel, &mut Numbers::default());
    let Some(Target::Tunnel(id)) = lookup(&compiled, "198.18.0.1") else {
        panic!("no tunnel");
    };
    for (source, may) in [
        ("198.18.0.1", true),
        ("192.0.2.7", true),
        ("192.0.2.66", false),
        ("192.0.2.1", false),
        ("10.244.1.2", false),
        ("10.244.1.1", false),
        ("10.244.2.2", false),
        ("203.0.113.1", false),
    ] {
        assert_eq!(compiled.tables.peers.may_send(id, ip(source)), may, "{source}");
    }
    assert!(
        !compiled.tables.local.is_pod(ip("198.18.0.1")),
        "the world is no pod"
    );
}

#[test]
fn several_next_hops_share_the_flows() {
    let hops = [(TUNL, "192.0.2.8"), (TUNL, "192.0.2.7")];
    let routes = vec![
        via("10.65.7.0/26", &hops),
        via("10.65.8.0/26", &[hops[1], hops[0]]),
        via("10.66.0.0/16", &[(UPLINK, "192.0.2.7"), (UPLINK, "192.0.2.254")]),
        via("2001:db8:66::/48", &[(UPLINK, "fe80::7"), (UPLINK, "fe80::8")]),
        via("10.67.0.0/16", &[(UPLINK, "192.0.2.7"), (UPLINK, "192.0.2.7")]),
    ];
    let compiled = compiled_routes(routes, &mut Numbers::default());
    let table = &compiled.tables.routes;
    let hops = |address| match lookup(&compiled, address) {
        Some(Target::Spread(id)) => table.spread(id).map(Spread::hops).unwrap().to_vec(),
        other => panic!("{address}: {other:?}"),
    };
    assert_eq!(
        lookup(&compiled, "10.65.7.1"),
        lookup(&compiled, "10.65.8.1"),
        "made once"
    );
    let addresses = |address| hops(address).iter().map(|hop| hop.address).collect::<Vec<_>>();
    assert_eq!(addresses("10.65.7.1"), [ip("192.0.2.7"), ip("192.0.2.8")]);
    assert_eq!(addresses("10.66.0.1"), [ip("192.0.2.7"), ip("192.0.2.254")]);
    assert_eq!(addresses("2001:db8:66::1"), [ip("fe80::7"), ip("fe80::8")]);
    let single = lookup(&compiled, "10.67.0.1");
    assert!(matches!(single, Some(Target::Via { .. })), "{single:?}");
    for hop in hops("10.65.7.1") {
        let Target::Tunnel(id) = hop.target else {
            panic!("{hop:?}")
        };
        let may = |source| compiled.tables.peers.may_send(id, ip(source));
        assert!(may("10.65.7.1") && may("10.65.8.1") && !may("10.66.0.1"));
    }
}

#[test]
fn a_way_that_goes_changes_what_rests_on_the_ways() {
    let both = || via("10.65.7.0/26", &[(TUNL, "192.0.2.7"), (TUNL, "192.0.2.8")]);
    let mut numbers = Numbers::default();
    let other = || via("10.65.8.0/26", &[(TUNL, "192.0.2.8"), (TUNL, "192.0.2.9")]);
    let before = compiled_routes(vec![other(), both()], &mut numbers);
    let same = compiled_routes(
        vec![
            both(),
            via("10.65.1.0/26", &[(TUNL, "192.0.2.5"), (TUNL, "192.0.2.6")]),
            other(),
        ],
        &mut numbers,
    );
    let changed = changed_subjects(&before.tables.routes, &same.tables.routes);
    let subject = |compiled: &Compiled, address: &str| {
        let mut names = compiled.peers.iter().filter(|peer| peer.node.as_str() == address);
        match names.next().unwrap().way {
            PeerWay::Tunnel(id) => millrace_dataplane::table::SubjectId::peer(id),
            other => panic!("{address}: {other:?}"),
        }
    };
    for kept in ["192.0.2.7", "192.0.2.8", "192.0.2.9"] {
        assert!(!changed.contains(&subject(&same, kept)), "{kept} in {changed:?}");
    }
    let after = compiled_routes(
        vec![via("10.65.7.0/26", &[(TUNL, "192.0.2.8")]), other()],
        &mut numbers,
    );
    let changed = changed_subjects(&same.tables.routes, &after.tables.routes);
    for moved in ["192.0.2.7", "192.0.2.8"] {
        assert!(changed.contains(&subject(&same, moved)), "{moved} in {changed:?}");
    }
    assert!(!changed.contains(&subject(&same, "192.0.2.9")), "{changed:?}");
}

#[test]
fn a_route_by_a_vxlan_device_is_a_tunnel_to_a_node_that_is_known() {
    let routes = vec![
        via("10.65.9.0/26", &[(VXLAN, "10.65.9.0")]),
        via("10.65.10.0/26", &[(VXLAN, "10.65.10.0")]),
        via("10.65.11.0/26", &[(TUNL, "192.0.2.1")]),
        route("10.65.12.0/26", TUNL, None, 0),
    ];
    let compiled = compiled_routes(routes, &mut Numbers::default());
    assert_eq!(remote(&compiled, "10.65.9.1"), Some(ip("192.0.2.2")));
    let host = Target::Port(PortId::new(0).unwrap());
    assert_eq!(lookup(&compiled, "10.65.10.1"), Some(host));
    let world = lookup(&compiled, "198.18.0.1");
    assert_eq!(lookup(&compiled, "10.65.11.1"), world, "this node is no next hop");
    assert_eq!(lookup(&compiled, "10.65.12.1"), world);
    let said = compiled.warnings.join("\n");
    for wanted in ["10.65.11.0/26, 10.65.12.0/26", "10.65.10.0/26"] {
        assert!(said.contains(wanted), "{said}");
    }
}

/// The time that ten thousand routes take is shown, and not judged: `cargo test ten_thousand -- --nocapture`.
#[test]
fn ten_thousand_routes_compile() {
    let routes = |shift: u32| {
        let numbers = 0..10_000_u32;
        let prefix = |number: u32| {
            format!(
                "10.{}.{}.{}/26",
                100 + (number >> 10),
                number >> 2 & 0xff,
                (number & 3) << 6
            )
        };
        numbers
            .map(|number| {
                via(
                    &prefix(number),
                    &[(TUNL, &format!("192.0.2.{}", 10 + (number + shift) % 100))],
                )
            })
            .collect::<Vec<_>>()
    };
    let mut numbers = Numbers::default();
    let kernels = [kernel_with(routes(0)), kernel_with(routes(1))];
    let tables = kernels.map(|kernel| {
        let since = Instant::now();
        let compiled = compiled_by(IPIP_CONFIG, MANIFESTS, &kernel, &mut numbers);
        println!("10000 routes to 100 peers, compiled in {:?}", since.elapsed());
        assert!(!compiled.warnings.iter().any(|said| said.contains("10.1")));
        assert!(compiled.tables.routes.routes().len() > 10_000);
        compiled.tables
    });
    let since = Instant::now();
    let changed = changed_subjects(&tables[0].routes, &tables[1].routes);
    println!("compared with another 10000 in {:?}", since.elapsed());
    assert!(changed.len() >= 100, "each of them lost routes and got others");
}
