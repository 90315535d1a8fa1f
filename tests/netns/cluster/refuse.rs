//! Bad input and missing means: one line that says what, where, and what would be right, the right exit status, and
//! nothing changed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Daemon, Finished, Lab, Namespace, complete};

use crate::picture::Picture;
use crate::rig::{
    PATIENCE, address, assert_reaches, daemon, daemon_mut, finish, node, pair, pod, rows, side_by_side,
    untouched,
};

/// Longer than a start that fails takes.
const FAILING: Duration = Duration::from_secs(20);

/// Exit statuses, as `millrace --help` has them.
const FAILED: i32 = 1;
const WRONG: i32 = 2;

/// Checks that a command ended with this status and said one line with these words.
fn assert_refused(name: &str, ended: &Finished, status: i32, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(status), "{name}: {ended:?}");
    let said: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.starts_with("millrace: "))
        .collect();
    assert_eq!(said.len(), 1, "{name}: one line is wanted\n{}", ended.stderr);
    assert!(
        ended.stderr.trim_end().ends_with(said[0]),
        "{name}: and nothing after it\n{}",
        ended.stderr
    );
    for word in words {
        assert!(said[0].contains(word), "{name}: {word:?} is not in {}", said[0]);
    }
    assert!(!ended.stderr.contains("panicked"), "{name}: {}", ended.stderr);
}

/// `millrace run` in the node's namespace, through another command's hands (`setpriv`) if given.
fn run(namespace: &Namespace, daemon: &Daemon, through: &[&str]) -> Finished {
    let program = env!("CARGO_BIN_EXE_millrace");
    let config = daemon.config();
    let words = [through, &[program, "run", "--config", config.to_str().unwrap()]].concat();
    let mut line = namespace.command(words[0]);
    line.args(&words[1..]);
    complete(line, FAILING).unwrap()
}

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
    // An interface with one queue, one with an address and nobody's, and a folder that is a file.
    namespace
        .ip(&["link", "add", "single", "type", "veth", "peer", "name", "singlep"])
        .unwrap();
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
            name: "too few queues",
            change: ("\"eth1\"", "\"single\""),
            through: &[],
            status: WRONG,
            words: &["single", "1 queue", "2 workers", "ethtool -L single"],
        },
        Start {
            name: "no core of that number",
            change: ("cores = [0, 1]", "cores = [0, 900]"),
            through: &[],
            status: WRONG,
            words: &["900", "cores"],
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
    switch.write_config(&good).unwrap();
    someone_elses_program(&lab, &before);
    finish(lab);
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

#[test]
fn users_without_rights_and_second_daemons_are_refused() {
    let _turn = side_by_side();
    let mut lab = pair("second", 2);
    let (namespace, switch) = (node(&lab, "node-a"), daemon(&lab, "node-a"));
    let good = fs::read_to_string(switch.config()).unwrap();
    let before = Picture::of(namespace);

    assert_refused(
        "the same state folder",
        &run(namespace, switch, &[]),
        FAILED,
        &["another millrace", "state"],
    );
    // Another state folder does not make it another node.
    let other = good.replace(
        &format!("{:?}", switch.state()),
        &format!("{:?}", lab.folder().join("other")),
    );
    assert_ne!(other, good);
    switch.write_config(&other).unwrap();
    assert_refused(
        "the same uplink",
        &run(namespace, switch, &[]),
        FAILED,
        &["millrace0p", "queue"],
    );
    switch.write_config(&good).unwrap();
    assert_eq!(before.changes(&Picture::of(namespace)), [""; 0]);
    assert_reaches(pod(&lab, "pod-a1"), address(&lab, "pod-a2"));
    assert_reaches(pod(&lab, "pod-a1"), address(&lab, "pod-b1"));
    assert_reaches(namespace, address(&lab, "pod-a1"));

    // An ordinary user, who may read the node file and neither start nor ask.
    let open = tempfile::tempdir().unwrap();
    let set_mode =
        |path: &Path, mode| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode));
    set_mode(open.path(), 0o777).unwrap();
    fs::create_dir(open.path().join("manifests")).unwrap();
    fs::copy(
        switch.manifests().join("node-a.yaml"),
        open.path().join("manifests/node-a.yaml"),
    )
    .unwrap();
    let config = open.path().join("millrace.toml");
    let text = good
        .replace(&format!("{:?}", switch.manifests()), "\"manifests\"")
        .replace(&format!("{:?}", switch.state()), "\"state\"");
    fs::write(&config, text).unwrap();
    let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let program = env!("CARGO_BIN_EXE_millrace");
    let as_nobody = |words: &[&str]| {
        let mut line = namespace.command("setpriv");
        line.args(nobody).arg(program).args(words);
        complete(line, FAILING).unwrap()
    };
    assert_refused(
        "an ordinary user",
        &as_nobody(&["run", "--config", config.to_str().unwrap()]),
        FAILED,
        &["root"],
    );
    let uninstalled = as_nobody(&["uninstall", "--config", config.to_str().unwrap()]);
    assert!(!uninstalled.status.success(), "{uninstalled:?}");
    let socket = switch.socket();
    assert_refused(
        "asking",
        &as_nobody(&["--socket", socket.to_str().unwrap(), "stats"]),
        FAILED,
        &["permission", "root"],
    );
    assert_eq!(before.changes(&Picture::of(namespace)), [""; 0]);

    assert!(daemon_mut(&mut lab, "node-a").stop().unwrap().success());
    let gone = daemon(&lab, "node-a").ask(&["show", "ports"]).unwrap();
    assert_refused(
        "no daemon",
        &gone,
        FAILED,
        &["no daemon answers", "millrace.sock"],
    );
    finish(lab);
}

#[test]
fn a_request_that_fails_leaves_nothing_half_attached() {
    let _turn = side_by_side();
    let lab = pair("requests", 1);
    let (namespace, switch) = (node(&lab, "node-a"), daemon(&lab, "node-a"));
    let spare = lab.namespace("spare").unwrap();
    // A pod with an interface of that name already, which only the last steps meet.
    spare
        .ip(&["link", "add", "taken0", "type", "veth", "peer", "name", "takenp"])
        .unwrap();
    let inside = Picture::of_pod(&spare);
    let path = spare.path();
    let (path, own) = (
        path.to_str().unwrap(),
        namespace.path().to_str().unwrap().to_owned(),
    );
    let before = Picture::of(namespace);
    let ports = rows(switch, "ports");
    let rows_of_requests: Vec<(&str, Vec<&str>, i32, Vec<&str>)> = vec![
        (
            "no such namespace",
            vec![
                "attach",
                "lab/new",
                "--netns",
                "/run/netns/nowhere",
                "--address",
                "10.244.1.9",
            ],
            FAILED,
            vec!["/run/netns/nowhere"],
        ),
        (
            "a file that is no namespace",
            vec![
                "attach",
                "lab/new",
                "--netns",
                "/etc/hostname",
                "--address",
                "10.244.1.9",
            ],
            FAILED,
            vec!["/etc/hostname"],
        ),
        (
            "the node's own namespace",
            vec!["attach", "lab/new", "--netns", &own, "--address", "10.244.1.9"],
            FAILED,
            vec!["own network namespace"],
        ),
        (
            "outside the node's CIDR",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.2.9"],
            WRONG,
            vec!["10.244.2.9", "10.244.1.0/24"],
        ),
        (
            "the tunnel address",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1.0"],
            WRONG,
            vec!["10.244.1.0", "tunnel"],
        ),
        (
            "the gateway",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1.1"],
            WRONG,
            vec!["10.244.1.1", "gateway"],
        ),
        (
            "the broadcast address",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1.255"],
            WRONG,
            vec!["10.244.1.255"],
        ),
        (
            "another pod's address",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1.2"],
            WRONG,
            vec!["10.244.1.2", "lab/pod-a1"],
        ),
        (
            "an address twice",
            vec![
                "attach",
                "lab/new",
                "--netns",
                path,
                "--address",
                "10.244.1.9",
                "--address",
                "10.244.1.9",
            ],
            WRONG,
            vec!["10.244.1.9"],
        ),
        (
            "a pod that nobody knows",
            vec!["attach", "lab/ghost", "--netns", path],
            WRONG,
            vec!["lab/ghost", "--address"],
        ),
        (
            "a pod that is attached",
            vec!["attach", "lab/pod-a1", "--netns", path, "--address", "10.244.1.9"],
            FAILED,
            vec!["lab/pod-a1", "already"],
        ),
        (
            "an interface that is there",
            vec![
                "attach",
                "lab/new",
                "--netns",
                path,
                "--address",
                "10.244.1.9",
                "--interface",
                "taken0",
            ],
            FAILED,
            vec!["taken0"],
        ),
        (
            "a name that is none",
            vec![
                "attach",
                "lab/New_Pod",
                "--netns",
                path,
                "--address",
                "10.244.1.9",
            ],
            WRONG,
            vec!["lab/New_Pod"],
        ),
        (
            "a detached name that is none",
            vec!["detach", "lab/New_Pod"],
            WRONG,
            vec!["lab/New_Pod"],
        ),
        (
            "a capture of nothing",
            vec!["capture", "--port", "eth7", "--count", "1"],
            WRONG,
            vec!["eth7", "eth1"],
        ),
        (
            "a filter that is none",
            vec![
                "capture",
                "--port",
                "uplink",
                "--filter",
                "icmp and and",
                "--count",
                "1",
            ],
            WRONG,
            vec!["icmp and and"],
        ),
    ];
    for (name, words, status, said) in rows_of_requests {
        assert_refused(name, &switch.ask(&words).unwrap(), status, &said);
        assert_eq!(rows(switch, "ports"), ports, "{name}");
        assert_eq!(before.changes(&Picture::of(namespace)), [""; 0], "{name}");
        assert_eq!(inside.changes(&Picture::of_pod(&spare)), [""; 0], "{name}");
    }
    for (name, words) in [
        ("no slash", vec!["attach", "pod", "--netns", path]),
        ("no namespace", vec!["attach", "lab/new"]),
        (
            "an address that is none",
            vec!["attach", "lab/new", "--netns", path, "--address", "10.244.1"],
        ),
        ("an unknown subject", vec!["show", "queues"]),
        ("an unknown command", vec!["start"]),
    ] {
        let ended = switch.ask(&words).unwrap();
        assert_eq!(ended.status.code(), Some(WRONG), "{name}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{name}: {ended:?}");
    }

    // Detaching is repeatable, of a pod that was never there too, as CNI wants it; and attaching works at last.
    for pod in ["lab/ghost", "lab/ghost"] {
        assert!(switch.ask(&["detach", pod]).unwrap().status.success());
    }
    switch
        .client_output(&["attach", "lab/new", "--netns", path, "--address", "10.244.1.9"])
        .unwrap();
    assert_reaches(&spare, address(&lab, "pod-b1"));
    let again = switch
        .ask(&["attach", "lab/new", "--netns", path, "--address", "10.244.1.9"])
        .unwrap();
    assert_refused("attached twice", &again, FAILED, &["lab/new", "already"]);
    assert_reaches(&spare, address(&lab, "pod-b1"));
    for _ in 0..2 {
        switch.client_output(&["detach", "lab/new"]).unwrap();
    }
    assert_eq!(rows(switch, "ports"), ports);
    assert_eq!(before.changes(&Picture::of(namespace)), [""; 0]);
    drop(spare);
    finish(lab);
}
