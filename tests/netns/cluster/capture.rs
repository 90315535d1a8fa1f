//! `millrace capture`: what the switch saw and thought, for tcpdump to read.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use millrace_tools::lab::{Lab, Process, complete};
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::counters::{Counters, number};
use crate::frames::ETHERNET;
use crate::rig::{
    PATIENCE, address, assert_cut_off, assert_reaches, await_that, daemon, finish, node, pair, pod, row,
    side_by_side, try_ping,
};
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
        "{:?} capture --port host -w - | tcpdump -nn -c 2 -r - icmp 2>/dev/null",
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
