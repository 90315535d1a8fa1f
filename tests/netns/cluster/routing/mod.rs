//! Routes from routing daemons: BIRD and FRR in the nodes' namespaces, with BGP sessions over the underlay to each other
//! and to two machines that are no nodes. What they put into the kernel's tables, the switches go by.

mod flows;
mod speakers;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Lab, MillraceOptions, NodeKind, Topology};

use crate::pulse::Pulse;
use crate::rig::{
    address, alone, assert_reaches, await_reach, await_that, daemon, daemon_mut, finish, lab, node, pod, row,
    rows, underlay,
};
use flows::{Answerer, Flow, ask_all};
use speakers::{Bird, Frr, SYSTEM};

/// The stand-in for an ipip device.
const TUNL: &str = "tunl0";
/// What both machines announce, and the address in it that both have.
const ANYCAST: (&str, &str) = ("10.88.0.0/24", "10.88.0.1");
const ANYCAST_V6: (&str, &str) = ("fd88::/64", "fd88::1");
/// What leads to one of them at a time, by hand.
const SWUNG: (&str, &str) = ("10.89.0.0/24", "10.89.0.1");
const PORT: u16 = 7000;
/// Routes that come and go at once.
const MANY: u32 = 10_000;
/// Flows to the address that both machines have.
const FLOWS: usize = 48;
/// How often a route is swung.
const SWINGS: usize = 20;
/// Longer than thousands of routes take, also with a debug build on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Two nodes that know nothing of each other by objects, and two machines.
struct Scene {
    lab: Lab,
    machines: [Ipv4Addr; 2],
}

fn scene(name: &str) -> Scene {
    let millrace = MillraceOptions {
        extra: format!("masquerade = false\nipip-device = \"{TUNL}\"\n"),
        ..MillraceOptions::default()
    };
    let mut lab = lab(
        name,
        &Topology {
            pods_per_node: 1,
            millrace,
            ..Topology::of(&[NodeKind::Millrace, NodeKind::Millrace])
        },
    );
    daemon(&lab, "node-a").remove_manifest("node-b.yaml").unwrap();
    daemon(&lab, "node-b").remove_manifest("node-a.yaml").unwrap();
    for name in ["node-a", "node-b"] {
        await_that("the other node to be forgotten", || {
            rows(daemon(&lab, name), "peers").is_empty()
        });
    }
    let machines = ["c", "d"].map(|name| lab.add_guest(name).unwrap().address());
    let addressed = [(node(&lab, "node-a"), 1), (node(&lab, "node-b"), 2)];
    let guests = lab.guests().iter().map(|guest| guest.namespace()).zip([3, 4]);
    for (namespace, number) in addressed.into_iter().chain(guests) {
        let address = format!("fd00:1::{number}/64");
        namespace
            .ip(&["-6", "address", "add", &address, "dev", UPLINK, "nodad"])
            .unwrap();
    }
    for guest in lab.guests() {
        for address in [ANYCAST.1, ANYCAST_V6.1, SWUNG.1] {
            guest
                .namespace()
                .ip(&["address", "add", address, "dev", "lo"])
                .unwrap();
        }
    }
    Scene { lab, machines }
}

/// What BIRD is told: who it is and what it announces, whom it talks with, and what goes to the kernel.
fn bird(number: u8, own: &str, announced: &str, neighbours: &[Ipv4Addr], to_kernel: &str) -> String {
    let mut text = format!(
        "router id {own};\nprotocol device {{ scan time 1; }}\n\
         filter to_kernel {{ if source != RTS_BGP then reject; {to_kernel} accept; }}\n\
         protocol kernel k4 {{ merge paths on; ipv4 {{ export filter to_kernel; }}; }}\n\
         protocol kernel k6 {{ merge paths on; ipv6 {{ export where source = RTS_BGP; }}; }}\n\
         {announced}\n\
         template bgp speaker {{\n  local {own} as {SYSTEM};\n  direct;\n  connect retry time 1;\n  connect delay time 1;\n  \
         error wait time 1, 2;\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};\n  \
         ipv6 {{ import all; export where source = RTS_STATIC; next hop address fd00:1::{number}; }};\n}}\n"
    );
    for (place, neighbour) in neighbours.iter().enumerate() {
        let _ = writeln!(
            text,
            "protocol bgp peer{place} from speaker {{ neighbor {neighbour} as {SYSTEM}; }}"
        );
    }
    text
}

/// What the two machines announce; `many` says whether that is thousands more, on demand.
fn machine_announces(many: bool) -> String {
    let mut text = format!(
        "protocol static anycast {{ ipv4; route {} unreachable; }}\n\
         protocol static anycast6 {{ ipv6; route {} unreachable; }}\n",
        ANYCAST.0, ANYCAST_V6.0
    );
    if many {
        text.push_str("protocol static many {\n  disabled;\n  ipv4;\n");
        for number in 0..MANY {
            let prefix = Ipv4Addr::from_bits(0x0a80_0000 + (number << 6));
            let _ = writeln!(text, "  route {prefix}/26 unreachable;");
        }
        text.push_str("}\n");
    }
    text
}

/// What FRR is told on node-b. A route of BGP's cannot be given a device there, so node-a's pods have a static one.
fn frr(own: Ipv4Addr, neighbours: &[Ipv4Addr], pods: (&str, &str)) -> String {
    let [a, ..] = neighbours else {
        panic!("no neighbour")
    };
    let mut text = format!(
        "frr defaults traditional\nhostname b\nip route {} {a} {TUNL} onlink\n\
         router bgp {SYSTEM}\n bgp router-id {own}\n no bgp network import-check\n",
        pods.0
    );
    for neighbour in neighbours {
        let _ = write!(
            text,
            " neighbor {neighbour} remote-as {SYSTEM}\n neighbor {neighbour} timers connect 1\n \
             neighbor {neighbour} advertisement-interval 0\n"
        );
    }
    let _ = write!(
        text,
        " address-family ipv4 unicast\n  network {}\n  maximum-paths ibgp 8\n",
        pods.1
    );
    for neighbour in neighbours {
        let _ = writeln!(text, "  neighbor {neighbour} next-hop-self");
    }
    text.push_str(" exit-address-family\n address-family ipv6 unicast\n  maximum-paths ibgp 8\n");
    for neighbour in neighbours {
        let _ = writeln!(text, "  neighbor {neighbour} activate");
    }
    text.push_str(" exit-address-family\n");
    text
}

/// How many routes a switch goes by.
fn count(lab: &Lab, name: &str) -> usize {
    rows(daemon(lab, name), "routes").len()
}

/// Waits until both switches go by so many routes, or fewer.
fn await_counts(lab: &Lab, what: &str, condition: impl Fn(usize) -> bool) -> Duration {
    let since = Instant::now();
    for name in ["node-a", "node-b"] {
        while !condition(count(lab, name)) {
            assert!(since.elapsed() < LONG, "{name} after {LONG:?}: {what}");
        }
    }
    since.elapsed()
}

#[test]
fn what_bird_and_frr_find_out_is_followed_while_traffic_flows() {
    let _machine = alone();
    let Scene { lab, machines } = scene("routing");
    let nodes = ["node-a", "node-b"].map(|name| underlay(&lab, name));
    let cidrs = ["node-a", "node-b"].map(|name| lab.node(name).unwrap().plan().pod_cidr());
    let guests: Vec<_> = lab.guests().iter().map(|guest| guest.namespace()).collect();
    let everyone = [nodes[0], nodes[1], machines[0], machines[1]];
    let others =
        |own: Ipv4Addr| -> Vec<Ipv4Addr> { everyone.into_iter().filter(|other| *other != own).collect() };
    let (from, to) = (pod(&lab, "pod-a1"), address(&lab, "pod-b1"));

    let by_tunnel =
        format!("if net ~ 10.244.0.0/16 then {{ ifname = \"{TUNL}\"; onlink = true; gw = bgp_next_hop; }}");
    let own_pods = format!("protocol static pods {{ ipv4; route {} unreachable; }}", cidrs[0]);
    let text = bird(1, &nodes[0].to_string(), &own_pods, &others(nodes[0]), &by_tunnel);
    let a = Bird::start(&lab, "a", node(&lab, "node-a"), &text);
    let pods = (cidrs[0].as_str(), cidrs[1].as_str());
    let b = Frr::start(
        &lab,
        "b",
        node(&lab, "node-b"),
        &frr(nodes[1], &others(nodes[1]), pods),
    );
    let machine = |place: usize, name, many| {
        let own = machines[place];
        let number = [3, 4][place];
        let text = bird(
            number,
            &own.to_string(),
            &machine_announces(many),
            &others(own),
            "",
        );
        Bird::start(&lab, name, guests[place], &text)
    };
    let (c, d) = (machine(0, "c", true), machine(1, "d", false));

    await_reach(from, to);
    for (name, cidr, next_hop) in [("node-a", &cidrs[1], nodes[1]), ("node-b", &cidrs[0], nodes[0])] {
        let found = row(daemon(&lab, name), "routes", "prefix", cidr).unwrap();
        assert_eq!(
            (&found["kind"], &found["to"]),
            (&"tunnel".into(), &next_hop.to_string().into()),
            "{found}"
        );
    }
    // The node's own packets go by the stand-in, too.
    assert_reaches(node(&lab, "node-a"), to);
    let talk = [
        Pulse::tcp(from, pod(&lab, "pod-b1"), SocketAddrV4::new(to, PORT)),
        Pulse::udp(from, pod(&lab, "pod-b1"), SocketAddrV4::new(to, PORT + 1)),
    ];
    let machine_talk = Pulse::of_machine(from);

    share_flows(&lab, &d);
    let few = count(&lab, "node-a");
    c.tell("enable many");
    let came = await_counts(&lab, "thousands of routes", |count| count >= MANY as usize);
    c.tell("disable many");
    let went = await_counts(&lab, "thousands of routes are gone", |count| count < few + 100);
    println!("{MANY} routes by BGP to two nodes at once: there after {came:?}, gone after {went:?}");
    swing(&lab, &machines);

    let machine_talk = machine_talk.end();
    for (pulse, what) in talk.into_iter().zip(["TCP", "datagrams"]) {
        pulse.await_answers(what, 10);
        pulse.end().assert_steady(machine_talk, what);
    }
    // What is withdrawn leads nowhere; what comes back leads there again.
    b.tell(&[
        "configure terminal",
        &format!("router bgp {SYSTEM}"),
        "address-family ipv4 unicast",
        &format!("no network {}", cidrs[1]),
    ]);
    await_that("the withdrawn route to go", || {
        row(daemon(&lab, "node-a"), "routes", "prefix", &cidrs[1]).is_none()
    });
    crate::rig::assert_cut_off(from, to);
    b.tell(&[
        "configure terminal",
        &format!("router bgp {SYSTEM}"),
        "address-family ipv4 unicast",
        &format!("network {}", cidrs[1]),
    ]);
    await_reach(from, to);
    drop((a, b, c, d));
    let carried = daemon(&lab, "node-a").json(&["stats"]).unwrap();
    assert!(
        carried["slow_path"]["stand_in_carried"].as_u64().unwrap() >= 3,
        "{}",
        carried["slow_path"]
    );
    finish(lab);
}

/// Flows to an address that two machines have: both get some, each flow stays with one, and only those of a machine that
/// is gone move.
fn share_flows(lab: &Lab, d: &Bird<'_>) {
    let kind = |name: &str, prefix: &str| {
        let found = row(daemon(lab, name), "routes", "prefix", prefix);
        found.map(|row| row["kind"].as_str().unwrap().to_owned())
    };
    for (name, prefix) in [
        ("node-a", ANYCAST.0),
        ("node-b", ANYCAST.0),
        ("node-a", ANYCAST_V6.0),
        ("node-b", ANYCAST_V6.0),
    ] {
        await_that(&format!("two ways to {prefix} at {name}"), || {
            kind(name, prefix).as_deref() == Some("spread")
        });
    }
    let at = SocketAddr::new(ANYCAST.1.parse().unwrap(), PORT);
    let _answerers = answerers(lab, at);
    for name in ["pod-a1", "pod-b1"] {
        let flows: Vec<Flow> = (0..FLOWS).map(|_| Flow::open(pod(lab, name), at)).collect();
        let first = ask_all(&flows);
        assert!(
            first.contains(&b'c') && first.contains(&b'd'),
            "{name}: {first:?}"
        );
        assert_eq!(ask_all(&flows), first, "{name}: a flow stays with one");
        d.tell("disable anycast");
        await_that("one way to be left", || {
            ["node-a", "node-b"]
                .iter()
                .all(|name| kind(name, ANYCAST.0).as_deref() == Some("via"))
        });
        assert_eq!(
            ask_all(&flows),
            vec![b'c'; FLOWS],
            "{name}: all are with the one that is left"
        );
        d.tell("enable anycast");
        await_that("both ways to be back", || {
            ["node-a", "node-b"]
                .iter()
                .all(|name| kind(name, ANYCAST.0).as_deref() == Some("spread"))
        });
        assert_eq!(ask_all(&flows), first, "{name}: as before");
    }
}

/// Has each of the machines answer at an address, with a letter of its own.
fn answerers(lab: &Lab, at: SocketAddr) -> Vec<Answerer> {
    let machines = lab.guests().iter().zip(*b"cd");
    machines
        .map(|(guest, letter)| Answerer::start(guest.namespace(), at, letter))
        .collect()
}

/// Swings a route between the machines, and measures how long it takes until packets go the other way. Shown, not judged.
fn swing(lab: &Lab, machines: &[Ipv4Addr; 2]) {
    let at = SocketAddr::new(SWUNG.1.parse().unwrap(), PORT);
    let _answerers = answerers(lab, at);
    let node = node(lab, "node-a");
    let swing_to = |place: usize| {
        let via = machines[place].to_string();
        node.ip(&[
            "route", "replace", SWUNG.0, "via", &via, "dev", UPLINK, "proto", "bird", "metric", "32",
        ])
        .unwrap();
    };
    swing_to(0);
    let flow = Flow::open(pod(lab, "pod-a1"), at);
    await_that("the first of the two to answer", || flow.ask() == b'c');
    let mut times = Vec::new();
    for turn in 1..=SWINGS {
        let place = turn % 2;
        let since = Instant::now();
        swing_to(place);
        while flow.ask() != b"cd"[place] {}
        times.push(since.elapsed());
    }
    times.sort();
    println!(
        "a route that changes is gone by after: median {:?}, {:?} at most, the command and one answer included",
        times[times.len() / 2],
        times[times.len() - 1]
    );
    node.ip(&["route", "del", SWUNG.0]).unwrap();
}

#[test]
fn the_stand_in_outlives_the_process_and_goes_with_uninstall() {
    let _machine = alone();
    let Scene { mut lab, .. } = scene("stand-in");
    let nodes = ["node-a", "node-b"].map(|name| underlay(&lab, name));
    let lead = |lab: &Lab| {
        for (name, other) in [("node-a", 1), ("node-b", 0)] {
            let cidr = lab.node(["node-a", "node-b"][other]).unwrap().plan().pod_cidr();
            let via = nodes[other].to_string();
            node(lab, name)
                .ip(&[
                    "route", "replace", &cidr, "via", &via, "dev", TUNL, "onlink", "proto", "bird", "metric",
                    "32",
                ])
                .unwrap();
        }
    };
    lead(&lab);
    let to = address(&lab, "pod-b1");
    await_reach(pod(&lab, "pod-a1"), to);
    daemon_mut(&mut lab, "node-a").stop().unwrap();
    let shown = node(&lab, "node-a").ip(&["-o", "link", "show", TUNL]).unwrap();
    assert!(shown.contains("NO-CARRIER"), "{shown}");
    // What the kernel does not say then is said at the start.
    let log = || std::fs::read_to_string(daemon(&lab, "node-a").log()).unwrap();
    assert!(!log().contains("nexthop_compat_mode"), "{}", log());
    node(&lab, "node-a").set("ipv4/nexthop_compat_mode", "0").unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    await_reach(pod(&lab, "pod-a1"), to);
    let log = std::fs::read_to_string(daemon(&lab, "node-a").log()).unwrap();
    assert!(log.contains("nexthop_compat_mode is 0"), "{log}");
    let shown = node(&lab, "node-a").ip(&["-o", "link", "show", TUNL]).unwrap();
    assert!(
        shown.contains("LOWER_UP") && shown.contains("mtu 1480"),
        "{shown}"
    );
    daemon_mut(&mut lab, "node-a").stop().unwrap();
    let config = daemon(&lab, "node-a").config();
    let done = daemon(&lab, "node-a")
        .client_output(&["uninstall", "--config", config.to_str().unwrap()])
        .unwrap();
    assert!(done.contains(TUNL), "{done}");
    assert!(node(&lab, "node-a").ip(&["link", "show", TUNL]).is_err());
    finish(lab);
}
