//! What is decided outside the workers: manifests that change, neighbours that move, and what the daemon tells.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Daemon, Lab, NodeKind, Process, complete};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::counters::{Counters, growth, number};
use crate::frames::{ETHERNET, mac_of};
use crate::rig::{
    PATIENCE, address, assert_cut_off, assert_reaches, await_reach, await_that, daemon, finish, node, pair,
    pod, row, rows, side_by_side, try_ping, underlay,
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

/// The packets of a pcapng file, each with its comment.
fn commented(file: &Path) -> Vec<(Vec<u8>, String)> {
    let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let comment = packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                _ => None,
            });
            packets.push((packet.data.to_vec(), comment.expect("a comment")));
        }
    }
    packets
}

/// Starts a capture, and waits until it counts.
fn capture(lab: &Lab, words: &[&str], file: &str) -> Process {
    let mut line = daemon(lab, "node-a").client(&[&["capture"], words].concat());
    line.args(["-w", lab.folder().join(file).to_str().unwrap()]);
    let process = Process::spawn(line, &lab.folder().join(file).with_extension("log")).unwrap();
    await_that("the capture's file", || {
        lab.folder()
            .join(file)
            .metadata()
            .is_ok_and(|found| found.len() > 0)
    });
    process
}

#[test]
fn captures_hold_what_the_switch_saw_and_thought() {
    let _turn = side_by_side();
    let lab = pair("capture", 2);
    let (from, to) = (pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
    assert_reaches(from, to);
    let read = |file: &str| {
        let mut line = Command::new("tcpdump");
        line.args(["-nn", "-r", lab.folder().join(file).to_str().unwrap()]);
        complete(line, PATIENCE).unwrap().success().unwrap()
    };
    let own_socket = daemon(&lab, "node-a");

    let mut at_pod = capture(
        &lab,
        &["--port", "lab/pod-a1", "--filter", "icmp", "--count", "7"],
        "pod.pcapng",
    );
    // tcpdump, on the interface itself, hears nothing of it: that is why there is a capture.
    assert_reaches(from, to);
    let _ = try_ping(from, Ipv4Addr::new(10, 244, 1, 77));
    assert!(
        at_pod.wait(PATIENCE).unwrap().success(),
        "it ends after 7 packets"
    );
    let packets = commented(&lab.folder().join("pod.pcapng"));
    assert_eq!(packets.len(), 7);
    let comments: Vec<&str> = packets.iter().map(|(_, comment)| comment.as_str()).collect();
    let count = |word: &str| comments.iter().filter(|comment| comment.contains(word)).count();
    assert_eq!(
        (count("forward to eth1"), count("came in at eth1")),
        (3, 3),
        "{comments:#?}"
    );
    assert_eq!(count("punt unreachable"), 1, "{comments:#?}");
    let text = read("pod.pcapng");
    assert_eq!(text.lines().count(), 7, "{text}");
    let requests = text
        .lines()
        .filter(|line| line.contains("10.244.1.2 > 10.244.2.2: ICMP echo request"))
        .count();
    assert_eq!(requests, 3, "{text}");

    // On the uplink they are seen in their tunnel, as received and as sent; and a drop says why.
    let mut at_uplink = capture(&lab, &["--port", "uplink", "--count", "9"], "uplink.pcapng");
    assert_reaches(from, to);
    own_socket.remove_manifest("node-b.yaml").unwrap();
    await_that("node-b gone", || {
        row(own_socket, "peers", "node", "node-b").is_none()
    });
    assert_cut_off(pod(&lab, "pod-b1"), address(&lab, "pod-a1"));
    assert!(at_uplink.wait(PATIENCE).unwrap().success());
    let packets = commented(&lab.folder().join("uplink.pcapng"));
    let dropped: Vec<_> = packets
        .iter()
        .filter(|(_, comment)| comment.contains("drop tunnel_unknown_peer"))
        .collect();
    assert_eq!(dropped.len(), 3, "{packets:?}");
    assert!(
        packets.iter().all(|(bytes, _)| bytes[ETHERNET + 9] == 17),
        "outer UDP"
    );
    assert_eq!(
        read("uplink.pcapng").matches("VXLAN").count() + read("uplink.pcapng").matches("OTV").count(),
        9
    );

    // To standard output, into tcpdump; ended by the reader's hanging up.
    let line = format!(
        "{:?} capture --port host -w - | tcpdump -nn -c 2 -r - 2>/dev/null",
        own_socket.client(&[])
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &line]);
    let log = lab.folder().join("pipe.log");
    let mut piped = Process::spawn(shell, &log).unwrap();
    await_that("two packets through the pipe", || {
        assert_reaches(node(&lab, "node-a"), address(&lab, "pod-a1"));
        piped.status().unwrap().is_some()
    });
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        text.lines().filter(|line| line.contains("ICMP echo")).count(),
        2,
        "{text}"
    );

    // One that nobody reads from loses its own copies, and traffic goes on.
    let mut line = own_socket.client(&["capture", "--port", "lab/pod-a1", "-w"]);
    line.arg(lab.folder().join("stuck.pcapng"));
    let mut stuck = Process::spawn(line, &lab.folder().join("stuck.log")).unwrap();
    await_that("the capture's file", || {
        lab.folder().join("stuck.pcapng").exists()
    });
    stuck.signal(millrace_tools::lab::Signal::STOP).unwrap();
    flood_until_lost(&lab);
    assert_reaches(from, address(&lab, "pod-a2"));
    stuck.signal(millrace_tools::lab::Signal::CONT).unwrap();
    // Time to take what waits for it, and to be told what does not.
    std::thread::sleep(Duration::from_secs(1));
    stuck.signal(millrace_tools::lab::Signal::INT).unwrap();
    assert!(stuck.wait(PATIENCE).unwrap().success());
    let said = std::fs::read_to_string(lab.folder().join("stuck.log")).unwrap();
    assert!(
        said.contains("captured") && said.contains("lost") && !said.contains(" 0 copies lost"),
        "{said}"
    );
    finish(lab);
}

/// Sends more packets from pod-a1 than a capture can hold for a reader that has stopped: in the queue, the lines, and the
/// socket.
fn flood_until_lost(lab: &Lab) {
    let socket = pod(lab, "pod-a1").within(|| std::net::UdpSocket::bind("0.0.0.0:0"));
    let (socket, to) = (socket.unwrap().unwrap(), (address(lab, "pod-a2"), 9));
    await_that("copies lost", || {
        for _ in 0..1000 {
            let _ = socket.send_to(&[0; 1400], to);
        }
        let counters = Counters::read(daemon(lab, "node-a"));
        counters
            .workers()
            .iter()
            .any(|worker| number(&worker["capture_lost"]) > 0)
    });
}
