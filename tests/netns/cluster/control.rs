//! What is decided outside the workers: manifests that change, neighbours that move, and what the daemon tells.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use std::time::Duration;

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Daemon, Lab, NodeKind, TUNNEL};

use crate::counters::{Counters, growth, number};
use crate::frames::mac_of;
use crate::rig::{
    PATIENCE, address, assert_cut_off, assert_reaches, await_reach, await_that, daemon, finish, guest, node,
    pair, pod, row, rows, side_by_side, try_ping, underlay,
};

/// A Node object in flannel's shape.
pub(crate) fn node_object(name: &str, public: Ipv4Addr, cidr: &str, vtep_mac: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  annotations:\n    \
         flannel.alpha.coreos.com/kube-subnet-manager: \"true\"\n    \
         flannel.alpha.coreos.com/backend-type: vxlan\n    \
         flannel.alpha.coreos.com/public-ip: {public}\n    \
         flannel.alpha.coreos.com/backend-data: '{{\"VNI\":1,\"VtepMAC\":\"{vtep_mac}\"}}'\n\
         spec:\n  podCIDR: {cidr}\n  podCIDRs: [{cidr}]\n\
         status:\n  addresses:\n  - {{type: InternalIP, address: {public}}}\n"
    )
}

fn log_of(daemon: &Daemon) -> String {
    std::fs::read_to_string(daemon.log()).unwrap()
}

#[test]
fn manifests_are_followed_and_a_broken_one_harms_no_other() {
    let _turn = side_by_side();
    let mut lab = pair("manifests", 1);
    // A node that joins a running cluster: one line of text, and its pods are there.
    lab.add_node(NodeKind::Stock).unwrap();
    lab.add_pod("node-c", "pod-c1").unwrap();
    let (from, there) = (pod(&lab, "pod-a1"), address(&lab, "pod-c1"));
    await_reach(from, there);
    await_reach(pod(&lab, "pod-c1"), address(&lab, "pod-a1"));
    await_reach(node(&lab, "node-a"), there);

    let switch = daemon(&lab, "node-a");
    let text = std::fs::read_to_string(switch.manifests().join("node-c.yaml")).unwrap();
    let gone = |lab: &Lab| row(daemon(lab, "node-a"), "peers", "node", "node-c").is_none();
    let routes = || node(&lab, "node-a").ip(&["route", "show"]).unwrap();
    assert!(routes().contains("10.244.3.0/24"), "{}", routes());

    // Removed: its pods are nobody's, the sender is told, and its tunnel packets are a stranger's.
    switch.remove_manifest("node-c.yaml").unwrap();
    await_that("node-c gone", || gone(&lab));
    let report = try_ping(from, there);
    let told = report
        .complaints
        .iter()
        .any(|said| said.starts_with("From 10.244.1.1 ") && said.contains("Unreachable"));
    assert!(report.received == 0 && told, "{report:?}");
    let before = Counters::settled(switch);
    assert_cut_off(pod(&lab, "pod-c1"), address(&lab, "pod-a1"));
    let dropped = growth(&before.dropped(), &Counters::settled(switch).dropped());
    assert_eq!(dropped, [("tunnel_unknown_peer".to_owned(), 3)].into());
    assert!(!routes().contains("10.244.3.0/24"), "{}", routes());
    assert_reaches(from, address(&lab, "pod-b1"));

    // Broken, each in its way: named in the log with the reason, and the others stay.
    let no_address = node_object(
        "node-x",
        Ipv4Addr::new(192, 0, 2, 7),
        "10.244.7.0/24",
        "02:00:00:00:01:07",
    )
    .replace("192.0.2.7", "here");
    let overlap = node_object(
        "node-z",
        Ipv4Addr::new(192, 0, 2, 8),
        "10.244.2.0/24",
        "02:00:00:00:01:08",
    );
    for (file, text, word) in [
        ("broken.yaml", "apiVersion: v1\nkind: [", "broken.yaml"),
        ("no-address.yaml", no_address.as_str(), "node-x"),
        ("overlap.yaml", overlap.as_str(), "overlaps"),
    ] {
        switch.write_manifest(file, text).unwrap();
        await_that(&format!("{file} refused in the log"), || {
            log_of(switch)
                .lines()
                .any(|line| line.contains(file) && line.contains(word))
        });
        assert_reaches(from, address(&lab, "pod-b1"));
        let config = switch.config();
        let check = switch.ask(&["check", config.to_str().unwrap()]).unwrap();
        assert_eq!(check.status.code(), Some(2), "{check:?}");
        assert!(check.stdout.contains(file), "{check:?}");
    }
    // The rest of the folder is still followed, and what is put right comes back.
    switch.write_manifest("node-c.yaml", &text).unwrap();
    await_reach(from, there);
    for file in ["broken.yaml", "no-address.yaml", "overlap.yaml"] {
        switch.remove_manifest(file).unwrap();
    }
    let config = switch.config();
    let check = switch.ask(&["check", config.to_str().unwrap()]).unwrap();
    assert!(check.status.success(), "{check:?}");
    // A node that was set up anew has another MAC at its end of the tunnel.
    let renewed = "02:00:00:00:77:03";
    node(&lab, "node-c")
        .ip(&["link", "set", TUNNEL, "address", renewed])
        .unwrap();
    // The kernel forgets the neighbours of a device whose own MAC changes; flannel puts them back.
    for peer in ["node-a", "node-b"].map(|name| lab.node(name).unwrap().plan()) {
        let (tunnel, mac) = (peer.tunnel_address().to_string(), peer.vtep_mac().to_string());
        let words = [
            "replace",
            &tunnel,
            "lladdr",
            &mac,
            "dev",
            TUNNEL,
            "nud",
            "permanent",
        ];
        node(&lab, "node-c")
            .ip(&[&["neighbour"], &words[..]].concat())
            .unwrap();
    }
    assert_cut_off(from, there);
    let old = lab.node("node-c").unwrap().plan().vtep_mac().to_string();
    switch
        .write_manifest("node-c.yaml", &text.replace(&old, renewed))
        .unwrap();
    await_reach(from, there);
    // Its own object may break as well: the last good one stays in force.
    switch.write_manifest("node-a.yaml", "kind: Node").unwrap();
    await_that("its own object refused", || {
        log_of(switch).contains("last good version stays")
    });
    assert_reaches(from, there);
    finish(lab);
}

#[test]
fn a_peers_link_address_is_followed() {
    let _turn = side_by_side();
    let lab = pair("moving", 1);
    let (from, there) = (pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
    let peer = underlay(&lab, "node-b");
    assert_reaches(from, there);
    let stock = node(&lab, "node-b");
    // A new card that announces itself, as a failover does.
    stock.set("ipv4/conf/eth1/arp_notify", "1").unwrap();
    stock
        .ip(&["link", "set", UPLINK, "address", "02:00:00:00:99:02"])
        .unwrap();
    await_that("the announced address among the neighbours", || {
        row(daemon(&lab, "node-a"), "neighbours", "address", &peer.to_string())
            .is_some_and(|row| row["mac"] == "02:00:00:00:99:02")
    });
    await_reach(from, there);
    // One that the kernel is told of by hand, wrong and right again.
    let set = |mac: &str| {
        node(&lab, "node-a")
            .ip(&[
                "neighbour",
                "replace",
                &peer.to_string(),
                "lladdr",
                mac,
                "dev",
                UPLINK,
                "nud",
                "permanent",
            ])
            .unwrap();
    };
    set("02:00:00:00:99:99");
    await_that("the wrong address in use", || try_ping(from, there).received == 0);
    set("02:00:00:00:99:02");
    await_reach(from, there);
    // Forgotten altogether: asked for anew, and packets wait meanwhile.
    node(&lab, "node-a")
        .ip(&["neighbour", "delete", &peer.to_string(), "dev", UPLINK])
        .unwrap();
    await_reach(from, there);
    let shown = row(daemon(&lab, "node-a"), "peers", "node", "node-b").unwrap();
    assert_eq!(shown["ready"], true, "{shown:#}");
    assert!(
        shown["next_hop"].as_str().unwrap().contains("02:00:00:00:99:02"),
        "{shown:#}"
    );
    finish(lab);
}

#[test]
fn the_kernels_routes_are_followed() {
    let _turn = side_by_side();
    let lab = pair("routes", 1);
    let (from, switch) = (pod(&lab, "pod-a1"), node(&lab, "node-a"));
    // Two routers on the rack, both with the same far network behind them, told apart by the TTL their echoes come with.
    let routers = [("left", 100, 50), ("right", 101, 90)].map(|(name, host, ttl)| {
        let (router, own) = guest(&lab, name, host);
        router
            .ip(&["address", "add", "198.51.100.1/32", "dev", "lo"])
            .unwrap();
        router
            .ip(&["address", "add", "198.51.100.2/32", "dev", "lo"])
            .unwrap();
        router.set("ipv4/ip_default_ttl", &ttl.to_string()).unwrap();
        let back = underlay(&lab, "node-a").to_string();
        router
            .ip(&["route", "add", "10.244.1.0/24", "via", &back])
            .unwrap();
        (router, own.to_string())
    });
    let [left, right] = [routers[0].1.as_str(), routers[1].1.as_str()];
    // Which router answers for an address, as the pod sees it; a hop is counted on the way back.
    let answers_from = |last: u8| {
        let words = ["-n", "-c", "1", "-W", "1", &format!("198.51.100.{last}")];
        let said = from.complete("ping", &words, PATIENCE).unwrap().stdout;
        match (
            said.contains("ttl=49"),
            said.contains("ttl=89"),
            said.contains("Unreachable"),
        ) {
            (true, ..) => "left",
            (_, true, _) => "right",
            (.., true) => "nobody",
            _ => "silence",
        }
    };
    let await_from = |last: u8, who: &str| {
        await_that(&format!("198.51.100.{last} from {who}"), || {
            answers_from(last) == who
        });
    };
    let route = |words: &[&str]| switch.ip(&[&["route"], words].concat()).unwrap();

    assert_eq!(answers_from(1), "nobody");
    route(&["add", "default", "via", left]);
    await_from(1, "left");
    route(&["add", "198.51.100.2/32", "via", right]);
    await_from(2, "right");
    assert_eq!(answers_from(1), "left", "the longer prefix takes its own only");
    route(&["replace", "default", "via", right]);
    await_from(1, "right");
    route(&["add", "default", "via", left, "metric", "10"]);
    assert_eq!(answers_from(1), "right", "the lower metric counts");
    route(&["delete", "default", "via", right]);
    await_from(1, "left");
    route(&["add", "unreachable", "198.51.100.1/32"]);
    await_from(1, "nobody");
    route(&["delete", "198.51.100.1/32"]);
    route(&["add", "blackhole", "198.51.100.1/32"]);
    await_from(1, "silence");
    route(&["delete", "198.51.100.1/32"]);
    await_from(1, "left");
    assert_reaches(from, address(&lab, "pod-b1"));
    drop(routers);
    finish(lab);
}

#[test]
fn what_is_shown_is_so() {
    let _turn = side_by_side();
    let lab = pair("shown", 2);
    let switch = daemon(&lab, "node-a");
    assert_reaches(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
    let own = lab.node("node-a").unwrap().plan();

    let port = row(switch, "ports", "pod", "lab/pod-a1").unwrap();
    let interface = port["interface"].as_str().unwrap();
    assert_eq!(port["mac"], mac_of(node(&lab, "node-a"), interface).to_string());
    assert_eq!(port["peer_mac"], mac_of(pod(&lab, "pod-a1"), "eth0").to_string());
    assert_eq!(
        port["addresses"],
        serde_json::json!([address(&lab, "pod-a1").to_string()])
    );
    assert_eq!(
        (&port["mtu"], &port["up"], &port["xdp_mode"]),
        (&1450.into(), &true.into(), &"native".into())
    );
    let interfaces: Vec<_> = rows(switch, "ports")
        .iter()
        .map(|row| row["interface"].clone())
        .collect();
    assert!(
        interfaces.contains(&UPLINK.into()) && interfaces.contains(&"millrace0p".into()),
        "{interfaces:?}"
    );

    for (prefix, kind, to) in [
        ("10.244.1.2/32", "port", "lab/pod-a1"),
        ("10.244.2.0/24", "tunnel", "node-b"),
        ("10.244.1.1/32", "switch", ""),
        ("192.0.2.0/24", "on-link", ""),
        ("192.0.2.1/32", "port", "millrace0p"),
        ("10.244.1.0/24", "unreachable", ""),
    ] {
        let route = row(switch, "routes", "prefix", prefix).unwrap_or_else(|| panic!("no route to {prefix}"));
        assert_eq!(route["kind"], kind, "{route:#}");
        assert!(route["to"].as_str().unwrap().contains(to), "{route:#}");
    }
    let peer = row(switch, "peers", "node", "node-b").unwrap();
    assert_eq!(
        (&peer["remote"], &peer["mtu"], &peer["ready"]),
        (&"192.0.2.2".into(), &1450.into(), &true.into())
    );
    assert!(
        peer["tunnel"].as_str().unwrap().contains("02:00:00:00:01:02"),
        "{peer:#}"
    );
    let neighbour = row(switch, "neighbours", "address", "192.0.2.2").unwrap();
    assert_eq!(
        neighbour["mac"],
        lab.node("node-b").unwrap().plan().uplink_mac().to_string()
    );

    // The pages for people name the same things.
    for (what, words) in [
        ("ports", ["lab/pod-a1", interface]),
        ("routes", ["10.244.2.0/24", "node-b"]),
        ("neighbours", ["192.0.2.2", UPLINK]),
        ("peers", ["node-b", "192.0.2.2"]),
        ("workers", ["eth1/0", "eth1/1"]),
    ] {
        let page = switch.client_output(&["show", what]).unwrap();
        assert!(
            words.iter().all(|word| page.contains(word)),
            "show {what}:\n{page}"
        );
    }
    let page = switch.client_output(&["stats"]).unwrap();
    for words in [
        "received",
        "originated",
        "transmitted",
        "to_switch_tunnel",
        "lab/pod-a1",
        "arp_replies",
    ] {
        assert!(page.contains(words), "{words} is not in\n{page}");
    }
    let counters = Counters::settled(switch);
    assert!(
        counters.total("received") >= 3 && counters.steering(UPLINK)["to_switch_tunnel"] >= 3,
        "{counters:?}"
    );
    assert_eq!(
        std::fs::metadata(switch.socket()).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // Nothing to do, and little done.
    std::thread::sleep(Duration::from_millis(1500));
    for worker in rows(switch, "workers") {
        assert!(
            number(&worker["sleeps"]) > 0 && number(&worker["load_permille"]) < 100,
            "{worker:#}"
        );
    }
    // What the kernel has for the pods' sake.
    let routes = node(&lab, "node-a").ip(&["route", "show"]).unwrap();
    for cidr in [own.pod_cidr(), "10.244.2.0/24".to_owned()] {
        let route = routes
            .lines()
            .find(|line| line.starts_with(&cidr))
            .unwrap_or_else(|| panic!("{cidr}: {routes}"));
        let words = [
            format!("via {}", own.gateway()),
            "dev millrace0".into(),
            format!("src {}", own.tunnel_address()),
        ];
        assert!(words.iter().all(|word| route.contains(word)), "{route}");
    }
    finish(lab);
}
