//! The daemon as `deploy/millrace.yaml` has it run: with the capabilities of its container and no others, and with
//! a `/proc/sys` that cannot be written beside one that can; and taken away again as `deploy/uninstall.yaml` does.

use std::path::Path;

use millrace_tools::lab::{Lab, NodeKind, Process, Topology};
use serde_json::Value;

use crate::rig::{PATIENCE, await_reach, await_that, daemon, finish, lab, node, pod, side_by_side};

/// What a container runtime does for a container that is not privileged, as far as the daemon can tell.
const CONTAINER: &str = "set -e; proc=$1; capabilities=$2; shift 2; mkdir -p $proc/net; \
    mount --bind /proc/sys/net $proc/net; mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys; \
    exec setpriv --bounding-set=-all,$capabilities \"$@\"";
/// What the node file in the manifest has in the place of a name.
const NAME: &str = "set-by-millrace-node-name";

/// The capabilities of a container of a manifest, as setpriv takes them.
fn capabilities(manifest: &str, key: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(manifest);
    let text = std::fs::read_to_string(path).unwrap();
    let objects = text
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).unwrap());
    let daemon_set = objects
        .filter(|object| object["kind"] == "DaemonSet")
        .last()
        .unwrap();
    let list = &daemon_set["spec"]["template"]["spec"][key][0]["securityContext"]["capabilities"]["add"];
    let names = list
        .as_array()
        .unwrap()
        .iter()
        .map(|name| format!("+{}", name.as_str().unwrap().to_lowercase()));
    names.collect::<Vec<_>>().join(",")
}

/// Runs the program on node-b as in a container with these capabilities.
fn contained(lab: &Lab, capabilities: &str, arguments: &[&str]) -> Process {
    let proc = lab.folder().join("proc-sys").display().to_string();
    let mut command = node(lab, "node-b").command("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            CONTAINER,
            "sh",
            &proc,
            capabilities,
        ])
        .arg(env!("CARGO_BIN_EXE_millrace"))
        .args(arguments)
        .env("MILLRACE_NODE_NAME", "node-b")
        .env("MILLRACE_PROC_SYS", &proc);
    Process::spawn(command, &daemon(lab, "node-b").log()).unwrap()
}

#[test]
fn the_container_of_the_manifest_has_all_that_the_daemon_needs() {
    let _machine = side_by_side();
    let topology = Topology {
        pods_per_node: 1,
        ..Topology::of(&[NodeKind::Stock])
    };
    let mut lab = lab("container", &topology);
    lab.add_idle_node(NodeKind::Millrace).unwrap();
    let here = daemon(&lab, "node-b");
    let text = std::fs::read_to_string(here.config()).unwrap();
    let anonymous = text.replace("name = \"node-b\"", &format!("name = \"{NAME}\""));
    assert_ne!(anonymous, text, "{text}");
    here.write_config(&anonymous).unwrap();
    let config = here.config().display().to_string();
    let mut process = contained(
        &lab,
        &capabilities("millrace.yaml", "containers"),
        &["run", "--config", &config],
    );
    let socket = here.socket().display().to_string();
    let says = |words: &[&str]| {
        let words = [&["--socket", socket.as_str()], words].concat();
        node(&lab, "node-b").run(env!("CARGO_BIN_EXE_millrace"), &words)
    };
    await_that("a switch that is ready", || {
        process.check_running().unwrap();
        says(&["health", "--ready"]).is_ok_and(|said| said == "ready\n")
    });
    assert_eq!(says(&["health"]).unwrap(), "alive\n");
    let reserved = || node(&lab, "node-b").get("ipv4/ip_local_reserved_ports").unwrap();
    assert_eq!(reserved().trim(), "61000-65535");
    lab.add_pod("node-b", "pod-b1").unwrap();
    await_reach(pod(&lab, "pod-a1"), crate::rig::address(&lab, "pod-b1"));
    // A link that goes makes it unready, and no reason to start it anew.
    let uplink = |state: &str| {
        node(&lab, "node-b")
            .ip(&["link", "set", "dev", "eth1", state])
            .unwrap()
    };
    let says = |words: &[&str]| {
        let words = [&["--socket", socket.as_str()], words].concat();
        node(&lab, "node-b").run(env!("CARGO_BIN_EXE_millrace"), &words)
    };
    uplink("down");
    await_that("an unready switch", || says(&["health", "--ready"]).is_err());
    assert_eq!(says(&["health"]).unwrap(), "alive\n");
    uplink("up");
    await_that("a ready switch", || says(&["health", "--ready"]).is_ok());

    let folders =
        [lab.folder().join("bin"), lab.folder().join("net.d")].map(|path| path.display().to_string());
    let [bin, conf] = &folders;
    let arguments = [
        "uninstall",
        "--cni",
        "--cni-bin-dir",
        bin,
        "--cni-conf-dir",
        conf,
        "--stop",
        "--config",
        &config,
    ];
    let mut uninstall = contained(
        &lab,
        &capabilities("uninstall.yaml", "initContainers"),
        &arguments,
    );
    let status = uninstall.wait(PATIENCE).unwrap();
    assert!(status.success(), "{}", daemon(&lab, "node-b").log_end());
    process.wait(PATIENCE).unwrap();
    let reserved = node(&lab, "node-b").get("ipv4/ip_local_reserved_ports").unwrap();
    assert_eq!(reserved.trim(), "");
    let link = node(&lab, "node-b")
        .ip(&["-d", "link", "show", "dev", "eth1"])
        .unwrap();
    assert!(!link.contains("xdp"), "{link}");
    finish(lab);
}
