//! Routes from routing daemons: BIRD and FRR in the nodes' namespaces, with BGP sessions over the underlay to each other
//! and to two machines that are no nodes. What they put into the kernel's tables, the switches go by.

mod balancers;
mod flows;
mod speakers;
mod ways;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use millrace_tools::lab::plan::Families;
use millrace_tools::lab::{Lab, MillraceOptions, NodeKind, Topology};

use crate::pulse::Pulse;
use crate::rig::{
    address, alone, assert_reaches, await_reach, await_that, daemon, daemon_mut, finish, lab, node, pod, row,
    rows, underlay,
};
use speakers::{Bird, Frr, SYSTEM};
use ways::{ANYCAST, ANYCAST_V6, FAMILIES, share_flows, swing};

/// The stand-in for an ipip device.
const TUNL: &str = "tunl0";
const PORT: u16 = 7000;
/// Routes that come and go at once.
const MANY: u32 = 10_000;
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
            families: Families::Dual,
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
    for guest in lab.guests() {
        for address in FAMILIES.iter().flat_map(|ways| [ways.shared.1, ways.swung.1]) {
            guest
                .namespace()
                .ip(&["address", "add", address, "dev", "lo"])
                .unwrap();
        }
    }
    Scene { lab, machines }
}

/// What BIRD is told: who it is and what it announces, whom it talks with, and what goes to the kernel.
fn bird(
    (own, own_v6): (Ipv4Addr, Ipv6Addr),
    announced: &str,
    neighbours: &[Ipv4Addr],
    to_kernel: &str,
) -> String {
    let mut text = format!(
        "router id {own};\nprotocol device {{ scan time 1; }}\n\
         filter to_kernel {{ if source != RTS_BGP then reject; {to_kernel} accept; }}\n\
         protocol kernel k4 {{ merge paths on; ipv4 {{ export filter to_kernel; }}; }}\n\
         protocol kernel k6 {{ merge paths on; ipv6 {{ export where source = RTS_BGP; }}; }}\n\
         {announced}\n\
         template bgp speaker {{\n  local {own} as {SYSTEM};\n  direct;\n  connect retry time 1;\n  connect delay time 1;\n  \
         error wait time 1, 2;\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};\n  \
         ipv6 {{ import all; export where source = RTS_STATIC; next hop address {own_v6}; }};\n}}\n"
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
        ANYCAST.shared.0, ANYCAST_V6.shared.0
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
fn frr(own: Ipv4Addr, neighbours: &[Ipv4Addr], pods: (&str, &str), pods_v6: &str) -> String {
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
    let _ = write!(
        text,
        " exit-address-family\n address-family ipv6 unicast\n  network {pods_v6}\n  maximum-paths ibgp 8\n"
    );
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
    let Scene { mut lab, machines } = scene("routing");
    let nodes = ["node-a", "node-b"].map(|name| underlay(&lab, name));
    let cidrs = ["node-a", "node-b"].map(|name| lab.node(name).unwrap().plan().pod_cidr());
    let v6 = ["node-a", "node-b"].map(|name| lab.node(name).unwrap().plan().v6().unwrap());
    let machines_v6 = [0, 1].map(|place: usize| lab.guests()[place].address_v6().unwrap());
    let everyone = [nodes[0], nodes[1], machines[0], machines[1]];
    let others =
        |own: Ipv4Addr| -> Vec<Ipv4Addr> { everyone.into_iter().filter(|other| *other != own).collect() };
    let (from, to) = (pod(&lab, "pod-a1"), address(&lab, "pod-b1"));

    let by_tunnel =
        format!("if net ~ 10.244.0.0/16 then {{ ifname = \"{TUNL}\"; onlink = true; gw = bgp_next_hop; }}");
    let own_pods = format!(
        "protocol static pods {{ ipv4; route {} unreachable; }}\n\
         protocol static pods6 {{ ipv6; route {} unreachable; }}",
        cidrs[0],
        v6[0].pod_cidr()
    );
    let own = (nodes[0], v6[0].underlay_address());
    let text = bird(own, &own_pods, &others(nodes[0]), &by_tunnel);
    let a = Bird::start(&lab, "a", node(&lab, "node-a"), &text);
    let pods = (cidrs[0].as_str(), cidrs[1].as_str());
    let b = Frr::start(
        &lab,
        "b",
        node(&lab, "node-b"),
        &frr(nodes[1], &others(nodes[1]), pods, &v6[1].pod_cidr().to_string()),
    );
    let machine = |place: usize, name, many| {
        let own = (machines[place], machines_v6[place]);
        let text = bird(own, &machine_announces(many), &others(own.0), "");
        Bird::start(&lab, name, lab.guests()[place].namespace(), &text)
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

    for ways in FAMILIES {
        share_flows(&lab, &d, ways);
    }
    let few = count(&lab, "node-a");
    c.tell("enable many");
    let came = await_counts(&lab, "thousands of routes", |count| count >= MANY as usize);
    c.tell("disable many");
    let went = await_counts(&lab, "thousands of routes are gone", |count| count < few + 100);
    println!("{MANY} routes by BGP to two nodes at once: there after {came:?}, gone after {went:?}");
    for ways in FAMILIES {
        swing(&lab, ways);
    }

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
    restart_under(&mut lab, &cidrs, &nodes);
    drop((a, b, c, d));
    let carried = daemon(&lab, "node-a").json(&["stats"]).unwrap();
    assert!(
        carried["slow_path"]["stand_in_carried"].as_u64().unwrap() >= 3,
        "{}",
        carried["slow_path"]
    );
    finish(lab);
}

/// Both switches start anew under their routing daemons: what leads by the stand-in is there again and followed again,
/// without a word to the daemons.
fn restart_under(lab: &mut Lab, cidrs: &[String; 2], nodes: &[Ipv4Addr; 2]) {
    let pairs = [("node-a", 1), ("node-b", 0)];
    let in_kernel = |lab: &Lab, (name, other): (&str, usize)| {
        let shown = node(lab, name).ip(&["route", "show", &cidrs[other]]).unwrap();
        shown.contains(&format!("via {} dev {TUNL}", nodes[other]))
    };
    for (name, _) in pairs {
        daemon_mut(lab, name).stop().unwrap();
    }
    // BIRD leaves it: the device is there. FRR takes back what leads by a device without a carrier.
    assert!(in_kernel(lab, pairs[0]), "BIRD's route outlives the process");
    await_that("FRR to see that the stand-in has no carrier", || {
        !in_kernel(lab, pairs[1])
    });
    for (name, _) in pairs {
        daemon_mut(lab, name).start().unwrap();
    }
    for pair in pairs {
        await_that(
            &format!("{}'s daemon to have its route by {TUNL}", pair.0),
            || in_kernel(lab, pair),
        );
        let (name, other) = pair;
        await_that(&format!("{name} to follow it"), || {
            row(daemon(lab, name), "routes", "prefix", &cidrs[other])
                .is_some_and(|row| row["kind"] == "tunnel" && row["to"] == nodes[other].to_string())
        });
    }
    for (from, to) in [("pod-a1", "pod-b1"), ("pod-b1", "pod-a1")] {
        await_reach(pod(lab, from), address(lab, to));
    }
    assert_reaches(node(lab, "node-a"), address(lab, "pod-b1"));
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
    // Deleted by hand it comes back at once; the routes by it are for who made them to make again.
    node(&lab, "node-a").ip(&["link", "del", TUNL]).unwrap();
    await_that("the stand-in to be back", || {
        let shown = node(&lab, "node-a").ip(&["-o", "link", "show", TUNL]);
        shown.is_ok_and(|shown| shown.contains("LOWER_UP") && shown.contains("mtu 1480"))
    });
    lead(&lab);
    await_reach(pod(&lab, "pod-a1"), to);
    assert_reaches(node(&lab, "node-a"), to);
    daemon_mut(&mut lab, "node-a").stop().unwrap();
    let config = daemon(&lab, "node-a").config();
    let done = daemon(&lab, "node-a")
        .client_output(&["uninstall", "--config", config.to_str().unwrap()])
        .unwrap();
    assert!(done.contains(TUNL), "{done}");
    assert!(node(&lab, "node-a").ip(&["link", "show", TUNL]).is_err());
    finish(lab);
}
