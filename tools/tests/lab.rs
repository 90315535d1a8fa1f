//! The lab against the kernel: what it builds works, what is broken in it shows, and nothing of it stays.
//!
//! These tests make network namespaces, so they must run as root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use millrace_tools::lab::traffic::{
    Amount, Capture, Ping, TcpTransfer, UdpEcho, UdpExchange, ping, tcp_connect, tcp_transfer, udp_exchange,
};
use millrace_tools::lab::{
    Lab, LabError, NodeKind, Offloads, TUNNEL, Topology, Wire, clean_leftovers, plan::UPLINK, wait_until,
};
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_millrace-lab");
const STOCK_PAIR: [NodeKind; 2] = [NodeKind::Stock, NodeKind::Stock];

fn stock_pair(name: &str, wire: Wire) -> Lab {
    Lab::bring_up(
        name,
        &Topology {
            pods_per_node: 1,
            wire,
            ..Topology::of(&STOCK_PAIR)
        },
    )
    .unwrap()
}

/// Namespaces and folders of labs that a process owns.
fn owned_by(pid: u32) -> Vec<String> {
    let prefix = format!("mrlab-{pid}-");
    let folders = [Path::new("/run/netns").to_owned(), std::env::temp_dir()];
    let entries = folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&prefix)).collect()
}

/// A `millrace-lab up` that says how to enter.
struct Up {
    child: Child,
    said: Vec<String>,
    // Kept, since a closed pipe would end the lab.
    _output: BufReader<ChildStdout>,
}

/// Starts `millrace-lab up` and waits until the lab is there.
fn up(arguments: &[&str]) -> Up {
    let mut child = Command::new(PROGRAM)
        .arg("up")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said: Vec<String> = Vec::new();
    while !said.last().is_some_and(|line| line.starts_with("Ctrl-C")) {
        let mut line = String::new();
        assert_ne!(
            output.read_line(&mut line).unwrap(),
            0,
            "`up` ended early: {said:?}"
        );
        said.push(line);
    }
    Up {
        child,
        said,
        _output: output,
    }
}

#[test]
fn a_stock_tunnel_carries_everything_until_it_is_broken() {
    let lab = stock_pair("tunnel", Wire::default());
    let (here, there) = (lab.pod("pod-a1").unwrap(), lab.pod("pod-b1").unwrap());
    let target = IpAddr::from(there.address());
    let transfer = TcpTransfer {
        from: here.namespace(),
        to: there.namespace(),
        address: target,
        amount: Amount::Bytes(32 << 20),
        timeout: Duration::from_secs(15),
    };
    let echo = UdpEcho::start(there.namespace(), target).unwrap();
    let exchange = UdpExchange {
        patience: Duration::from_millis(300),
        ..UdpExchange::up_to(1450)
    };

    let full = ping(here.namespace(), target, &Ping::full_size(1450)).unwrap();
    assert_eq!(
        (full.sent, full.received, full.complaints.len()),
        (3, 3, 0),
        "{full:?}"
    );
    assert_eq!(full.round_trips_ms.len(), 3);
    let over = ping(
        here.namespace(),
        target,
        &Ping {
            count: 1,
            ..Ping::full_size(1451)
        },
    )
    .unwrap();
    assert_eq!(over.received, 0);
    assert!(
        over.complaints.iter().any(|said| said.contains("mtu=1450")),
        "{over:?}"
    );
    let udp = udp_exchange(here.namespace(), echo.address(), &exchange).unwrap();
    assert!(udp.is_whole() && udp.sent == exchange.count, "{udp:?}");
    // iperf3 may report before the receiver has read all that lies in its buffers, which are far smaller than this.
    assert!(tcp_transfer(&transfer).unwrap().received_bytes >= 1 << 20);

    // node-a sends what is for node-b's tunnel nowhere.
    let node = lab.node("node-a").unwrap().namespace();
    let peer = lab.node("node-b").unwrap().plan();
    let mac = peer.vtep_mac().to_string();
    let public = peer.underlay_address().to_string();
    node.bridge(&["fdb", "delete", &mac, "dev", TUNNEL, "dst", &public, "self"])
        .unwrap();
    let brief = Ping {
        patience: Duration::from_millis(200),
        ..Ping::default()
    };
    assert_eq!(ping(here.namespace(), target, &brief).unwrap().received, 0);
    let udp = udp_exchange(here.namespace(), echo.address(), &exchange).unwrap();
    assert_eq!((udp.intact, udp.is_whole()), (0, false), "{udp:?}");
    let error = tcp_transfer(&transfer).unwrap_err();
    assert!(error.to_string().contains("unable to connect"), "{error}");
    lab.close().unwrap();
}

#[test]
fn an_underlay_wire_carries_whole_packets_unless_told_otherwise() {
    for (offloads, real_wire) in [(Offloads::Off, true), (Offloads::On, false)] {
        let lab = stock_pair(
            "wire",
            Wire {
                queues: 4,
                offloads,
                ..Wire::default()
            },
        );
        let (here, there) = (lab.pod("pod-a1").unwrap(), lab.pod("pod-b1").unwrap());
        let node = lab.node("node-a").unwrap().namespace();
        let file = lab.folder().join("uplink.pcap");
        let capture = Capture::start(node, UPLINK, "udp port 8472", &file).unwrap();
        tcp_transfer(&TcpTransfer {
            from: here.namespace(),
            to: there.namespace(),
            address: there.address().into(),
            amount: Amount::Bytes(1 << 20),
            timeout: Duration::from_secs(15),
        })
        .unwrap();
        let file = capture.stop().unwrap();
        let text = read_capture(&file);
        let sizes = text.split(", length ").skip(1).filter_map(|rest| {
            rest.chars()
                .take_while(char::is_ascii_digit)
                .collect::<String>()
                .parse::<u32>()
                .ok()
        });
        assert!(
            text.contains("VXLAN") && text.contains("cksum"),
            "tcpdump saw no TCP in the tunnel:\n{text}"
        );
        assert_eq!(sizes.max().unwrap() <= 1500, real_wire, "with {offloads:?}");
        assert_eq!(!text.contains("(incorrect"), real_wire, "with {offloads:?}");

        let queues = node.run("ethtool", &["-l", UPLINK]).unwrap();
        assert!(
            queues
                .lines()
                .any(|line| line.split_whitespace().eq(["RX:", "4"])),
            "{queues}"
        );
    }
}

/// A capture in tcpdump's words, checksums judged.
fn read_capture(file: &Path) -> String {
    let read = Command::new("tcpdump")
        .args(["-nn", "-vv", "-T", "vxlan", "-r"])
        .arg(file)
        .output()
        .unwrap();
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    String::from_utf8_lossy(&read.stdout).into_owned()
}

#[test]
fn pods_nodes_and_guests_come_and_go() {
    let mut lab = stock_pair(
        "growth",
        Wire {
            mtu: 9000,
            ..Wire::default()
        },
    );
    let address = |lab: &Lab, pod: &str| IpAddr::from(lab.pod(pod).unwrap().address());
    let heard = |lab: &Lab, from: &str, to: IpAddr| {
        let brief = Ping {
            patience: Duration::from_millis(300),
            ..Ping::full_size(8950)
        };
        ping(lab.pod(from).unwrap().namespace(), to, &brief)
            .unwrap()
            .received
    };
    let second = lab.add_pod("node-a", "late").unwrap().address();
    assert_eq!(second.to_string(), "10.244.1.3");
    assert_eq!(lab.add_node(NodeKind::Stock).unwrap().name(), "node-c");
    lab.add_pod("node-c", "pod-c1").unwrap();
    assert_eq!(heard(&lab, "late", address(&lab, "pod-c1")), 3);
    assert_eq!(heard(&lab, "pod-c1", address(&lab, "pod-b1")), 3);

    let guest = lab.add_guest("client").unwrap();
    let (guest_address, patience) = (guest.address(), Duration::from_secs(5));
    let node = lab.node("node-b").unwrap();
    let listening = node
        .namespace()
        .within(|| TcpListener::bind((node.plan().underlay_address(), 0)));
    let listener = listening.unwrap().unwrap();
    let guest = lab.add_guest("other").unwrap();
    assert_ne!(guest.address(), guest_address);
    let stream = tcp_connect(guest.namespace(), listener.local_addr().unwrap(), patience).unwrap();
    assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());

    lab.remove_pod("late").unwrap();
    assert_eq!(heard(&lab, "pod-a1", second.into()), 0);
    assert!(matches!(lab.remove_pod("late"), Err(LabError::Unknown { .. })));
    assert!(matches!(
        lab.add_pod("node-a", "pod-a1"),
        Err(LabError::Unfit { .. })
    ));
    assert_eq!(
        lab.add_pod("node-a", "later").unwrap().address(),
        second,
        "a freed address is used again"
    );
    lab.close().unwrap();
}

#[test]
fn a_dropped_lab_leaves_nothing_however_far_it_came() {
    let lab = stock_pair("gone", Wire::default());
    let prefix = lab.prefix().to_owned();
    let mine = |prefix: &str| {
        owned_by(std::process::id())
            .iter()
            .any(|name| name.starts_with(prefix))
    };
    assert!(mine(&prefix));
    // What was started behind the lab's back keeps no namespace alive.
    let mut stray = lab
        .pod("pod-a1")
        .unwrap()
        .namespace()
        .command("sleep")
        .arg("60")
        .spawn()
        .unwrap();
    let inside = fs::metadata(lab.pod("pod-a1").unwrap().namespace().path()).unwrap();
    let link = format!("/proc/{}/ns/net", stray.id());
    wait_until("the stray inside", Duration::from_secs(10), || {
        use std::os::unix::fs::MetadataExt;
        Ok(fs::metadata(&link).is_ok_and(|found| found.ino() == inside.ino()))
    })
    .unwrap();
    drop(lab);
    assert!(!mine(&prefix));
    assert!(!stray.wait().unwrap().success());
}

#[test]
fn a_start_that_fails_leaves_nothing_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let ends = folder.path().join("millrace");
    fs::write(&ends, "#!/bin/sh\necho \"no such interface: eth1\" >&2\nexit 1\n").unwrap();
    fs::set_permissions(&ends, fs::Permissions::from_mode(0o755)).unwrap();
    let rows = [
        (
            "/nonexistent/millrace",
            vec![],
            1,
            "build it, or name it in MILLRACE_BIN",
        ),
        (ends.to_str().unwrap(), vec![], 1, "no such interface: eth1"),
        ("/bin/false", vec!["--queues", "0"], 2, "at least one"),
        ("/bin/false", vec!["--mtu", "100"], 2, "576"),
        ("/bin/false", vec!["--nodes", "stock,router"], 2, "router"),
        (
            "/bin/false",
            vec!["--nodes", "stock", "--queues", "100000"],
            1,
            "ip -n",
        ),
    ];
    for (program, arguments, status, words) in rows {
        let child = Command::new(PROGRAM)
            .arg("demo")
            .args(&arguments)
            .env("MILLRACE_BIN", program)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(
            ended.status.code(),
            Some(status),
            "{program} {arguments:?}: {said}"
        );
        assert!(said.contains(words), "{said:?} lacks {words:?}");
        assert_eq!(owned_by(pid), [""; 0], "{program} {arguments:?}");
    }
}

#[test]
fn a_signal_takes_the_lab_down_in_order() {
    let Up {
        mut child,
        said,
        _output,
    } = up(&["--nodes", "stock,stock", "--pods", "1"]);
    assert!(
        said.iter()
            .any(|line| line.contains(&format!("ip netns exec mrlab-{}-0-up-pod-b1", child.id())))
    );
    assert!(!owned_by(child.id()).is_empty());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success(), "Ctrl-C is how `up` ends");
    assert_eq!(owned_by(child.id()), [""; 0]);

    // A demo is cut short wherever it is: while it builds, and while it pings.
    for line in [0, 1, 6] {
        let mut demo = Command::new(PROGRAM);
        demo.args(["demo", "--nodes", "stock,stock,stock"])
            .stdout(Stdio::piped());
        let mut child = demo.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = output.lines();
        if line == 0 {
            let pid = child.id();
            wait_until("a first namespace", Duration::from_secs(10), || {
                Ok(owned_by(pid).len() > 2)
            })
            .unwrap();
        }
        (0..line).for_each(|_| drop(lines.next().unwrap().unwrap()));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        lines.for_each(drop);
        assert_eq!(
            child.wait().unwrap().code(),
            Some(130),
            "cut short after {line} lines"
        );
        assert_eq!(owned_by(child.id()), [""; 0], "cut short after {line} lines");
    }
}

#[test]
fn what_sigkill_leaves_is_cleaned_and_the_living_are_spared() {
    let Up {
        child: mut living,
        _output: _living,
        ..
    } = up(&["--nodes", "stock", "--pods", "1"]);
    let Up {
        child: mut dead,
        _output: _dead,
        ..
    } = up(&["--nodes", "stock", "--pods", "1"]);
    kill_process(Pid::from_child(&dead), Signal::KILL).unwrap();
    dead.wait().unwrap();
    // Another test's lab may clean up just now as well; either way nothing is left.
    clean_leftovers().unwrap();
    wait_until("clean", Duration::from_secs(10), || {
        Ok(owned_by(dead.id()).is_empty())
    })
    .unwrap();
    assert_eq!(
        owned_by(living.id()).len(),
        4,
        "switch, node, pod and folder: {:?}",
        owned_by(living.id())
    );
    kill_process(Pid::from_child(&living), Signal::TERM).unwrap();
    assert!(living.wait().unwrap().success());
}

#[test]
fn the_demo_passes_on_stock_nodes_and_names_what_fails() {
    let arguments = ["demo", "--nodes", "stock,stock", "--pods", "1"];
    let passed = Command::new(PROGRAM).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&passed.stdout).into_owned();
    assert!(
        passed.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&passed.stderr)
    );
    for row in [
        "pod -> pod, stock <-> stock IPv4 2/2",
        "pod -> pod, stock <-> stock IPv6 2/2",
        "node -> pod IPv4 4/4",
        "node -> pod IPv6 4/4",
        "pod -> node IPv4 6/6",
        "pod -> node IPv6 6/6",
    ] {
        let found = said.lines().any(|line| {
            line.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .starts_with(row)
        });
        assert!(found, "no row {row:?} in\n{said}");
    }
    assert!(!said.contains("FAILED"), "{said}");

    // The same with a `ping` that hears nothing.
    let folder = tempfile::tempdir().unwrap();
    let deaf = folder.path().join("ping");
    fs::write(
        &deaf,
        "#!/bin/sh\necho '1 packets transmitted, 0 received, 100% packet loss, time 0ms'\nexit 1\n",
    )
    .unwrap();
    fs::set_permissions(&deaf, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let failed = Command::new(PROGRAM)
        .args(arguments)
        .env("PATH", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{said}");
    for address in ["10.244.2.2", "fd00:2::2"] {
        let reason = format!("FAILED ping pod-a1 -> pod-b1 ({address}): 0 answers to 3 small requests");
        assert!(said.lines().any(|line| line == reason), "{said}");
    }
    assert!(said.contains("Something failed"), "{said}");
}
