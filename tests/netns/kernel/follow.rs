//! Following links, addresses, routes and neighbours. The judge is always a second follower, which has just
//! read all tables: what was learned event by event has to equal what is read at once.

use std::fmt::{Debug, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use millrace::kernel::{KernelFollower, KernelState, MacAddr, NeighbourState, NextHop, RouteKind};

use super::namespaces::{Namespace, join};

const PATIENCE: Duration = Duration::from_secs(5);

/// Follows until the state satisfies the condition.
async fn until(follower: &mut KernelFollower, what: &str, condition: impl Fn(&KernelState) -> bool) {
    let waiting = async {
        while !condition(follower.state()) {
            follower.next_change().await.unwrap();
        }
    };
    if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
        panic!("never saw: {what}\n{:#?}", follower.state());
    }
}

/// Follows until the state equals what the kernel says when asked anew.
async fn until_true(follower: &mut KernelFollower, after: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let truth = KernelFollower::start().await.unwrap();
        let Some(difference) = difference(follower.state(), truth.state()) else {
            return;
        };
        assert!(
            tokio::time::Instant::now() < deadline,
            "after {after}, ours and the kernel's: {difference}"
        );
        let _ = tokio::time::timeout(Duration::from_millis(200), follower.next_change()).await;
    }
}

/// Where two states differ first.
fn difference(ours: &KernelState, truth: &KernelState) -> Option<String> {
    fn first<T: PartialEq + Debug>(ours: Vec<T>, truth: Vec<T>) -> Option<String> {
        if ours == truth {
            return None;
        }
        let at = ours.iter().zip(&truth).take_while(|(a, b)| a == b).count();
        Some(format!("{:?}\n{:?}", ours.get(at), truth.get(at)))
    }
    first(ours.links().collect(), truth.links().collect())
        .or_else(|| first(ours.addresses().collect(), truth.addresses().collect()))
        .or_else(|| first(ours.routes().collect(), truth.routes().collect()))
        .or_else(|| first(neighbours(ours), neighbours(truth)))
}

/// The neighbours by what they are used for. The kernel makes no event of a change from stale to delayed, nor
/// of its entries for multicast and broadcast, which need no resolution.
fn neighbours(state: &KernelState) -> Vec<(u32, IpAddr, Option<MacAddr>)> {
    let known = state
        .neighbours()
        .filter(|neighbour| neighbour.state != NeighbourState::Noarp);
    known
        .map(|neighbour| (neighbour.ifindex, neighbour.address, neighbour.usable_mac()))
        .collect()
}

/// Runs `ip -batch` inside a namespace.
fn batch(namespace: &Namespace, lines: &str) {
    let file = std::env::temp_dir().join(format!("{}.batch", namespace.name()));
    std::fs::write(&file, lines).unwrap();
    namespace.ip(&format!("-batch {}", file.display()));
    std::fs::remove_file(&file).unwrap();
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn links_addresses_routes_and_neighbours_are_seen_as_they_change() {
    let (node, other) = (Namespace::new(), Namespace::new());
    node.run(|| async {
        let mut follower = KernelFollower::start().await.unwrap();
        let lo = follower
            .state()
            .link_by_name("lo")
            .expect("loopback is there from the start");
        assert!(lo.loopback && lo.up);

        join(&node, "up0", &other, "peer0");
        node.ip("link set up0 address 02:00:00:00:00:07 mtu 1400");
        until(&mut follower, "the link as set", |state| {
            state.link_by_name("up0").is_some_and(|link| {
                link.mtu == 1400
                    && link.mac == Some([2, 0, 0, 0, 0, 7])
                    && link.up
                    && link.running
                    && link.kind.as_deref() == Some("veth")
                    && link.peer_elsewhere
            })
        })
        .await;
        let ifindex = follower.state().link_by_name("up0").unwrap().ifindex;

        node.ip("addr add 192.0.2.1/24 dev up0");
        node.ip("-6 addr add 2001:db8::1/64 dev up0 nodad");
        node.ip("route add 198.51.100.0/24 via 192.0.2.9");
        node.ip("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev up0 nud permanent");
        until(&mut follower, "addresses, route and neighbour", |state| {
            state
                .addresses_of(ifindex)
                .any(|address| address.address.to_string() == "192.0.2.1/24")
                && state
                    .addresses_of(ifindex)
                    .any(|address| address.address.to_string() == "2001:db8::1/64")
                && state
                    .neighbour(ifindex, ip("192.0.2.9"))
                    .and_then(|n| n.usable_mac())
                    == Some([2, 0, 0, 0, 0, 9])
                && state.resolve_route(ip("198.51.100.7"))
                    == Some(NextHop {
                        ifindex,
                        gateway: Some(ip("192.0.2.9")),
                    })
        })
        .await;
        until_true(&mut follower, "additions").await;

        node.ip("neigh del 192.0.2.9 dev up0");
        node.ip("route del 198.51.100.0/24");
        until(&mut follower, "neighbour and route gone", |state| {
            state.neighbour(ifindex, ip("192.0.2.9")).is_none()
                && state.resolve_route(ip("198.51.100.7")).is_none()
        })
        .await;

        node.ip("link del up0");
        until(&mut follower, "everything gone with the link", |state| {
            state.link(ifindex).is_none()
                && state.addresses_of(ifindex).next().is_none()
                && state.routes().all(|route| route.ifindex() != Some(ifindex))
        })
        .await;
        until_true(&mut follower, "the link's removal").await;
    });
}

#[test]
fn what_the_kernel_changes_without_a_word_is_seen() {
    // Each row: what is done, after which the state has to become the kernel's. The kernel takes IPv4 routes
    // away with an interface or an address, or a next-hop object, without an event for each route.
    let rows = [
        "link set up0 down",
        "link set up0 up",
        "-6 addr add 2001:db8::1/64 dev up0 nodad",
        "route add 198.51.100.0/24 via 192.0.2.9",
        "route add 198.51.100.0/24 via 192.0.2.8 metric 50",
        "route append 198.51.100.0/24 via 192.0.2.7 metric 50",
        "route prepend 198.51.100.0/24 via 192.0.2.6 metric 50",
        "route replace 198.51.100.0/24 via 192.0.2.5 metric 50",
        "route del 198.51.100.0/24 via 192.0.2.8 metric 50",
        "route add 203.0.113.0/24 nexthop via 192.0.2.9 weight 2 nexthop via 192.0.2.8",
        "route replace 203.0.113.0/24 nexthop via 192.0.2.9 nexthop via 192.0.2.7",
        "route add blackhole 10.9.0.0/16",
        "route add unreachable 10.10.0.0/16",
        "route add 10.11.0.0/16 via 192.0.2.9 src 192.0.2.1",
        "route add 10.12.0.0/16 via 192.0.2.77 dev up0 onlink",
        "route add 10.13.0.0/16 via inet6 fe80::9 dev up0",
        "route add 10.14.0.0/16 via 192.0.2.9 table 100",
        "-6 route add 2001:db8:1::/48 via 2001:db8::9",
        "-6 route append 2001:db8:1::/48 via 2001:db8::8",
        "-6 route append 2001:db8:1::/48 via 2001:db8::7",
        "-6 route del 2001:db8:1::/48 via 2001:db8::8",
        "-6 route replace 2001:db8:1::/48 via 2001:db8::6",
        "-6 route add 2001:db8:2::/48 nexthop via 2001:db8::9 nexthop via 2001:db8::8",
        "-6 route replace 2001:db8:2::/48 nexthop via 2001:db8::5 nexthop via 2001:db8::4",
        "-6 route add blackhole 2001:db8:3::/48",
        "-6 route del 2001:db8:2::/48",
        "nexthop add id 1 via 192.0.2.9 dev up0",
        "nexthop add id 2 via 192.0.2.8 dev up0",
        "nexthop add id 3 group 1/2",
        "route add 10.20.0.0/16 nhid 3",
        "nexthop replace id 2 via 192.0.2.5 dev up0",
        "nexthop del id 1",
        "nexthop del id 2",
        "addr del 192.0.2.1/24 dev up0",
        "addr add 192.0.2.1/24 dev up0",
        "route add 10.11.0.0/16 via 192.0.2.9",
        "link set up0 down",
        "link set up0 name up1",
        "link del up1",
    ];
    let (node, other) = (Namespace::new(), Namespace::new());
    join(&node, "up0", &other, "peer0");
    node.ip("addr add 192.0.2.1/24 dev up0");
    node.ip("-6 addr add 2001:db8::1/64 dev up0 nodad");
    node.run(|| async {
        let mut follower = KernelFollower::start().await.unwrap();
        for row in rows {
            node.ip(row);
            until_true(&mut follower, row).await;
        }
        assert_eq!(follower.resyncs(), 0, "no event was lost");
    });
}

#[test]
fn the_peer_going_down_is_seen() {
    let (node, other) = (Namespace::new(), Namespace::new());
    join(&node, "up0", &other, "peer0");
    node.ip("addr add 192.0.2.1/24 dev up0");
    node.run(|| async {
        let mut follower = KernelFollower::start().await.unwrap();
        other.ip("link set peer0 down");
        until(&mut follower, "no carrier", |state| {
            state
                .link_by_name("up0")
                .is_some_and(|link| link.up && !link.running)
        })
        .await;
        until_true(&mut follower, "the loss of carrier").await;
        other.ip("link set peer0 up");
        until(&mut follower, "carrier", |state| {
            state.link_by_name("up0").is_some_and(|link| link.running)
        })
        .await;
        until_true(&mut follower, "the return of carrier").await;
    });
}

/// Routes that overflow any receive buffer while nobody reads it.
const MANY_ROUTES: u32 = 40_000;

#[test]
fn tens_of_thousands_of_routes_at_once_are_followed_through_a_lost_event() {
    let (node, other) = (Namespace::new(), Namespace::new());
    join(&node, "up0", &other, "peer0");
    node.ip("addr add 192.0.2.1/24 dev up0");
    let prefix = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n * 256);
    let (mut add, mut remove) = (String::new(), String::new());
    for n in 0..MANY_ROUTES {
        writeln!(add, "route add {}/24 via 192.0.2.9", prefix(n)).unwrap();
        writeln!(remove, "route del {}/24", prefix(n)).unwrap();
    }
    let many = usize::try_from(MANY_ROUTES).unwrap();
    node.run(|| async {
        let mut follower = KernelFollower::start().await.unwrap();
        let before = follower.state().routes().count();
        for (lines, count) in [(&add, before + many), (&remove, before)] {
            let resyncs = follower.resyncs();
            batch(&node, lines);
            let mut shortest = usize::MAX;
            while follower.state().routes().count() != count {
                follower.next_change().await.unwrap();
                shortest = shortest.min(follower.state().routes().count());
                assert!(
                    follower.state().link_by_name("up0").is_some(),
                    "the links vanished in a resync"
                );
            }
            assert!(shortest >= before, "the routes vanished in a resync: {shortest}");
            assert!(
                follower.resyncs() > resyncs,
                "the buffer did not overflow; the test needs more routes"
            );
            until_true(&mut follower, "many routes").await;
        }
    });
}

#[test]
fn thousands_of_routes_while_reading_are_few_notices() {
    let (node, other) = (Arc::new(Namespace::new()), Namespace::new());
    join(&node, "up0", &other, "peer0");
    node.ip("addr add 192.0.2.1/24 dev up0");
    let mut add = String::new();
    for n in 0..4000_u32 {
        writeln!(add, "route add 10.{}.{}.0/24 via 192.0.2.9", n / 256, n % 256).unwrap();
    }
    let inside = Arc::clone(&node);
    inside.run(|| async {
        let mut follower = KernelFollower::start().await.unwrap();
        let before = follower.state().routes().count();
        let mut notices = 0;
        let adding = std::thread::spawn(move || batch(&node, &add));
        while follower.state().routes().count() != before + 4000 {
            follower.next_change().await.unwrap();
            notices += 1;
        }
        adding.join().unwrap();
        assert!(notices < 100, "{notices} notices for one burst");
        until_true(&mut follower, "a burst").await;
    });
}

#[test]
fn routes_resolve_as_the_kernel_resolves_them() {
    let (node, other) = (Namespace::new(), Namespace::new());
    for (near, far, address) in [
        ("up0", "peer0", "192.0.2.1/24"),
        ("up1", "peer1", "198.51.100.1/24"),
    ] {
        join(&node, near, &other, far);
        node.ip(&format!("addr add {address} dev {near}"));
    }
    node.ip("-6 addr add 2001:db8::1/64 dev up0 nodad");
    for route in [
        "route add default via 192.0.2.254",
        "route add default via 198.51.100.254 metric 100",
        "route add 10.0.0.0/8 via 192.0.2.8",
        "route add 10.1.0.0/16 via 198.51.100.8",
        "route add 10.1.2.0/24 via 192.0.2.7 metric 20",
        "route add 10.1.2.0/24 via 198.51.100.7 metric 10",
        "route add blackhole 10.1.3.0/24",
        "route add unreachable 10.1.4.0/24",
        "route add throw 10.1.5.0/24",
        "route add 10.1.6.0/24 via 198.51.100.99 dev up1 onlink",
        "route add 10.2.0.0/16 dev up1 scope link",
        "-6 route add 2001:db8:7::/48 via 2001:db8::9",
        "-6 route add default via 2001:db8::fe",
    ] {
        node.ip(route);
    }
    node.run(|| async {
        let follower = KernelFollower::start().await.unwrap();
        let state = follower.state();
        for destination in [
            "192.0.2.50",
            "198.51.100.50",
            "10.9.9.9",
            "10.1.9.9",
            "10.1.2.3",
            "10.1.3.3",
            "10.1.4.3",
            "10.1.5.3",
            "10.1.6.3",
            "10.2.3.4",
            "8.8.8.8",
            "2001:db8::77",
            "2001:db8:7::1",
            "2001:4860::1",
        ] {
            let said = if node.ip_works(&format!("route get {destination}")) {
                let text = node.ip(&format!("route get {destination}"));
                let after = |word: &str| {
                    let mut words = text.split_whitespace().skip_while(|w| *w != word);
                    words.nth(1).map(str::to_owned)
                };
                after("dev").map(|dev| NextHop {
                    ifindex: state.link_by_name(&dev).unwrap().ifindex,
                    gateway: after("via").map(|via| ip(&via)),
                })
            } else {
                None
            };
            assert_eq!(state.resolve_route(ip(destination)), said, "{destination}");
        }
        let up1 = state.link_by_name("up1").unwrap().ifindex;
        for (destination, gateway) in [
            ("8.8.8.8", Some("198.51.100.254")),
            ("10.9.9.9", Some("198.51.100.254")),
            ("10.1.2.3", Some("198.51.100.7")),
            ("10.1.3.3", Some("198.51.100.8")),
        ] {
            let wanted = Some(NextHop {
                ifindex: up1,
                gateway: gateway.map(ip),
            });
            assert_eq!(
                state.resolve_route_on(ip(destination), up1),
                wanted,
                "{destination} over up1"
            );
        }
        assert_eq!(state.resolve_route_on(ip("2001:db8:7::1"), up1), None);
        let kinds: Vec<RouteKind> = state.routes().map(|route| route.kind).collect();
        assert!(
            kinds.contains(&RouteKind::Blackhole) && kinds.contains(&RouteKind::Throw),
            "{kinds:?}"
        );
    });
}
