//! Starts that fail.

use std::fs;
use std::path::Path;
use std::process::Command;

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Lab, complete};

use super::{FAILED, WRONG, assert_refused, run};
use crate::picture::Picture;
use crate::rig::{PATIENCE, daemon, finish, node, side_by_side, untouched};
/// A start that must fail: what is changed in the node file, through what it is run, and what it is to say.
struct Start<'a> {
    name: &'static str,
    change: (&'a str, &'a str),
    through: &'a [&'a str],
    status: i32,
    words: &'a [&'a str],
}

const AS_IT_IS: (&str, &str) = ("", "");

#[test]
fn a_start_that_fails_leaves_what_it_found() {
    let _turn = side_by_side();
    let lab = untouched("refuse", "auto");
    let namespace = node(&lab, "node-b");
    let switch = daemon(&lab, "node-b");
    let good = fs::read_to_string(switch.config()).unwrap();
    let manifests = switch.manifests();
    // An interface that is nobody's, and a folder that is a file.
    namespace
        .ip(&["link", "add", "bridge0", "type", "bridge"])
        .unwrap();
    let file = lab.folder().join("a-file");
    fs::write(&file, "").unwrap();
    let state = format!("state-dir = {:?}", switch.state());
    let file_state = format!("state-dir = {file:?}");
    let old_manifests = format!("manifests = {manifests:?}");
    let before = Picture::of(namespace);

    let no_capabilities = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"];
    let no_network = [
        "setpriv",
        "--bounding-set",
        "-net_admin",
        "--inh-caps",
        "-net_admin",
    ];
    let no_bpf = [
        "setpriv",
        "--bounding-set",
        "-bpf,-sys_admin,-perfmon",
        "--inh-caps",
        "-all",
    ];
    let no_memory = [
        "prlimit",
        "--memlock=65536:65536",
        "setpriv",
        "--bounding-set",
        "-ipc_lock",
        "--inh-caps",
        "-ipc_lock",
    ];
    let many_frames = "cores = [0, 1]\nframes = 65536";
    let rows = [
        Start {
            name: "no such interface",
            change: ("\"eth1\"", "\"eth9\""),
            through: &[],
            status: WRONG,
            words: &["eth9", "interface"],
        },
        Start {
            name: "an interface that is none",
            change: ("\"eth1\"", "\"eth 1\""),
            through: &[],
            status: WRONG,
            words: &["interface", "eth 1"],
        },
        Start {
            name: "no core of that number",
            change: ("cores = [0, 1]", "cores = [0, 900]"),
            through: &[],
            status: WRONG,
            words: &["900", "cores"],
        },
        Start {
            name: "ports of source NAT that the kernel gives out",
            change: ("[workers]", "[services]\nsnat-ports = \"60000-65535\"\n[workers]"),
            through: &[],
            status: WRONG,
            words: &["60000-65535", "32768-60999", "ip_local_port_range", "snat-ports"],
        },
        Start {
            name: "no cores",
            change: ("cores = [0, 1]", "cores = []"),
            through: &[],
            status: WRONG,
            words: &["cores"],
        },
        Start {
            name: "a core twice",
            change: ("cores = [0, 1]", "cores = [1, 1]"),
            through: &[],
            status: WRONG,
            words: &["cores", "1"],
        },
        Start {
            name: "frames",
            change: ("cores = [0, 1]", "cores = [0, 1]\nframes = 1000"),
            through: &[],
            status: WRONG,
            words: &["frames", "1000", "1024"],
        },
        Start {
            name: "an unknown key",
            change: ("[uplink]", "[uplink]\ninterfaces = 1"),
            through: &[],
            status: WRONG,
            words: &["interfaces", "millrace.toml:7"],
        },
        Start {
            name: "an unknown kind",
            change: ("\"vxlan\"", "\"geneve\""),
            through: &[],
            status: WRONG,
            words: &["geneve", "vxlan", "ipip"],
        },
        Start {
            name: "a port that is none",
            change: ("port = 8472", "port = 0"),
            through: &[],
            status: WRONG,
            words: &["port", "65535"],
        },
        Start {
            name: "a mode that is none",
            change: ("\"auto\"", "\"fast\""),
            through: &[],
            status: WRONG,
            words: &["fast", "native", "generic"],
        },
        Start {
            name: "another node's name",
            change: ("\"node-b\"", "\"node-q\""),
            through: &[],
            status: WRONG,
            words: &["node-q", "podCIDR"],
        },
        Start {
            name: "no manifests",
            change: (&old_manifests, "manifests = \"/nowhere/manifests\""),
            through: &[],
            status: WRONG,
            words: &["/nowhere/manifests"],
        },
        Start {
            name: "a state folder that is a file",
            change: (&state, &file_state),
            through: &[],
            status: FAILED,
            words: &["a-file", "state"],
        },
        Start {
            name: "the host port's name taken",
            change: ("[workers]", "[host-port]\nname = \"bridge0\"\n[workers]"),
            through: &[],
            status: FAILED,
            words: &["bridge0", "veth"],
        },
        Start {
            name: "no capability at all",
            change: AS_IT_IS,
            through: &no_capabilities,
            status: FAILED,
            words: &["root"],
        },
        Start {
            name: "no capability for the network",
            change: AS_IT_IS,
            through: &no_network,
            status: FAILED,
            words: &["root"],
        },
        Start {
            name: "no capability for programs",
            change: AS_IT_IS,
            through: &no_bpf,
            status: FAILED,
            words: &["root"],
        },
        Start {
            name: "no memory to lock",
            change: ("cores = [0, 1]", many_frames),
            through: &no_memory,
            status: FAILED,
            words: &["65536", "128 MiB", "ulimit -l"],
        },
    ];
    for Start {
        name,
        change: (old, new),
        through,
        status,
        words,
    } in rows
    {
        assert!(good.contains(old), "{name}: {good}");
        let text = if old.is_empty() {
            good.clone()
        } else {
            good.replacen(old, new, 1)
        };
        switch.write_config(&text).unwrap();
        assert_refused(name, &run(namespace, switch, through), status, words);
        let changes = before.changes(&Picture::of(namespace));
        assert!(changes.is_empty(), "{name}: {changes:#?}");
    }
    nic_that_cannot(&lab, &good);
    switch.write_config(&good).unwrap();
    let saved = switch.state().join("ports.json");
    fs::write(&saved, "{\"ports\": 7}").unwrap();
    let words = ["ports.json", "remove it"];
    assert_refused(
        "a state that is none",
        &run(namespace, switch, &[]),
        FAILED,
        &words,
    );
    assert_eq!(before.changes(&Picture::of(namespace)), [""; 0]);
    fs::remove_file(&saved).unwrap();
    someone_elses_program(&lab, &before);
    finish(lab);
}

/// What is asked of a NIC that a veth is not: lines of the node file, and what is to be said of them.
const NIC: [(&str, &str, &[&str]); 9] = [
    (
        "zero-copy",
        "mode = \"zero-copy\"",
        &[
            "queue 0 of eth1",
            "driver veth",
            "zero-copy",
            "not supported",
            "mode = \"copy\"",
        ],
    ),
    (
        "zero-copy in generic mode",
        "mode = \"zero-copy\"\nxdp-mode = \"generic\"",
        &["uplink.mode", "xdp-mode"],
    ),
    (
        "more queues than there can be",
        "queues = 3",
        &["queues = 3", "eth1 (driver veth)", "at most 2"],
    ),
    // One queue can be had, and is given back when the next thing fails.
    (
        "queues and then zero-copy",
        "queues = 1\nmode = \"zero-copy\"",
        &["driver veth", "zero-copy"],
    ),
    (
        "descriptors of a device that has none",
        "rx-ring = 64",
        &["rx-ring", "eth1 (driver veth)", "ring sizes"],
    ),
    (
        "a queue left to the kernel that cannot be kept free",
        "kernel-queues = [0]",
        &[
            "kernel-queues",
            "eth1 (driver veth)",
            "come in by those queues too",
        ],
    ),
    (
        "a queue left to the kernel that is not there",
        "kernel-queues = [2]",
        &["eth1 has no queue 2", "it has 2", "kernel-queues"],
    ),
    (
        "all queues left to the kernel",
        "kernel-queues = [0, 1]",
        &["eth1 has 2 queue(s)", "one for the switch"],
    ),
    (
        "more huge pages than there are",
        "[workers]\nframes = 262144\nhugepages = \"always\"",
        &["huge pages", "262144", "512 MiB", "vm.nr_hugepages"],
    ),
];

/// A NIC that is not as the node file wants it keeps the switch from starting, and is left as it was.
fn nic_that_cannot(lab: &Lab, good: &str) {
    let (namespace, switch) = (node(lab, "node-b"), daemon(lab, "node-b"));
    // With as many transmit queues the wire's other end would keep ours from having fewer.
    lab.switch()
        .namespace()
        .run("ethtool", &["-L", "node-b", "tx", "1"])
        .unwrap();
    let before = Picture::of(namespace);
    for (name, lines, words) in NIC {
        let text = match lines.strip_prefix("[workers]") {
            Some(lines) => good.replacen("[workers]", &format!("[workers]{lines}"), 1),
            None if lines.contains("xdp-mode") => good.replacen("xdp-mode = \"auto\"", lines, 1),
            None => good.replacen("[uplink]", &format!("[uplink]\n{lines}"), 1),
        };
        assert_ne!(text, good, "{name}");
        switch.write_config(&text).unwrap();
        assert_refused(name, &run(namespace, switch, &[]), WRONG, words);
        let changes = before.changes(&Picture::of(namespace));
        assert!(changes.is_empty(), "{name}: {changes:#?}");
    }
}

/// An XDP program that is not ours stays, and keeps us out; gone, it is no more in the way.
fn someone_elses_program(lab: &Lab, before: &Picture) {
    let (namespace, switch) = (node(lab, "node-b"), daemon(lab, "node-b"));
    let object = compile(lab.folder());
    for mode in ["xdpdrv", "xdpgeneric"] {
        let load = ["link", "set", "dev", UPLINK, mode, "obj", &object, "sec", "xdp"];
        namespace.ip(&load).unwrap();
        let with_it = Picture::of(namespace);
        assert_refused(
            "another program",
            &run(namespace, switch, &[]),
            FAILED,
            &[UPLINK, "XDP program", "xdp off"],
        );
        assert_eq!(with_it.changes(&Picture::of(namespace)), [""; 0]);
        namespace
            .ip(&["link", "set", "dev", UPLINK, mode, "off"])
            .unwrap();
    }
    assert_eq!(before.changes(&Picture::of(namespace)), [""; 0]);
}

/// The least XDP program, as somebody else would have it.
fn compile(folder: &Path) -> String {
    let (source, object) = (folder.join("foreign.c"), folder.join("foreign.o"));
    let text = "__attribute__((section(\"xdp\"), used)) int foreign(void *ctx) { return 2; }\n\
                char terms[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";
    fs::write(&source, text).unwrap();
    let mut line = Command::new("clang");
    line.args(["-O2", "-g", "-target", "bpf", "-c"])
        .arg(&source)
        .arg("-o")
        .arg(&object);
    complete(line, PATIENCE).unwrap().success().unwrap();
    object.to_str().unwrap().to_owned()
}
