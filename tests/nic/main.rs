//! The switch on a NIC with queues.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use millrace_tools::lab::machine::MachineNode;
use millrace_tools::lab::{Lab, MillraceOptions, NodeKind, Topology};
use std::time::Instant;

#[test]
fn boots() {
    let lab = Lab::bring_up("nic", &Topology::of(&[NodeKind::Stock])).unwrap();
    let started = Instant::now();
    let mut node = MachineNode::join(&lab, 2).unwrap();
    eprintln!("joined after {:?}", started.elapsed());
    if let Ok(probe) = std::env::var("PROBE") {
        node.machine()
            .write("/tmp/probe.b64", &std::fs::read_to_string(probe).unwrap())
            .unwrap();
        for line in [
            "base64 -d /tmp/probe.b64 > /tmp/probe; chmod +x /tmp/probe; /tmp/probe eth1 0; /tmp/probe eth1 1; ethtool -i eth1; ethtool -l eth1; ethtool -g eth1; uname -a; free -m; cat /proc/cpuinfo | grep MHz; dmesg | tail -20",
        ] {
            eprintln!(
                "{:?}",
                node.machine()
                    .complete(&["sh", "-c", line], std::time::Duration::from_secs(20))
                    .map(|f| f.stdout + &f.stderr)
                    .unwrap_or_else(|e| e.to_string())
                    .replace("\\n", "\n")
            );
        }
    }
    node.configure(&MillraceOptions::default(), "").unwrap();
    let started = Instant::now();
    node.start().unwrap_or_else(|e| panic!("{e}"));
    eprintln!("started after {:?}", started.elapsed());
    node.add_pod("pod-b1").unwrap();
    eprintln!("{}", node.machine().run(&["ss", "--xdp", "-a", "-e"]).unwrap());
    eprintln!("{}", node.ask(&["show", "ports"]).unwrap().stdout);
    let ping = lab
        .pod("pod-a1")
        .unwrap()
        .namespace()
        .complete(
            "ping",
            &["-c", "3", "10.244.2.2"],
            std::time::Duration::from_secs(20),
        )
        .unwrap();
    eprintln!("{}", ping.stdout);
    eprintln!("{}", node.log_end());
    eprintln!("{}", node.machine().console_end());
    drop(node);
    lab.close().unwrap();
}
