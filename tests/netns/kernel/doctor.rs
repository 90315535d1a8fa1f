//! `millrace doctor` on a host with planted faults, and on the same host without them.

use std::path::Path;
use std::process::Command;

use millrace::kernel::sysctl::Setting;
use serde_json::Value;

use super::namespaces::{Namespace, join, sh};

/// A program that somebody else has on an interface.
const FOREIGN: &str = "__attribute__((section(\"xdp\"), used)) int foreign(void *ctx) { return 2; }\n\
                       char terms[] __attribute__((section(\"license\"), used)) = \"GPL\";\n";

/// What doctor says of this namespace: whether it ended well, and its findings.
fn examine(node: &Namespace, folder: &Path) -> (bool, Vec<Value>) {
    let output = Command::new("ip")
        .args([
            "netns",
            "exec",
            node.name(),
            env!("CARGO_BIN_EXE_millrace"),
            "doctor",
            "--json",
        ])
        .arg("--config")
        .arg(folder.join("millrace.toml"))
        .arg("--cni-bin-dir")
        .arg(folder.join("bin"))
        .arg("--cni-conf-dir")
        .arg(folder.join("net.d"))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(report["good"], output.status.success());
    (
        output.status.success(),
        report["findings"].as_array().unwrap().clone(),
    )
}

/// The findings of a level, as `check: what was found -> what to do`.
fn of_level(findings: &[Value], level: &str) -> Vec<String> {
    let rows = findings.iter().filter(|finding| finding["level"] == level);
    rows.map(|row| {
        let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        format!("{}: {} -> {}", word("check"), word("found"), word("to-do"))
    })
    .collect()
}

fn assert_says(lines: &[String], check: &str, words: &[&str]) {
    let line = lines.iter().find(|line| line.starts_with(&format!("{check}: ")));
    let line = line.unwrap_or_else(|| panic!("nothing of {check} in {lines:#?}"));
    for word in words {
        assert!(line.contains(word), "{word:?} is not in {line}");
    }
}

/// A node file, a Node with pod CIDRs, and a network of another plugin.
fn write_files(folder: &Path) {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "millrace.toml",
        "[node]\nname = \"node-a\"\nmanifests = \"manifests\"\nstate-dir = \"run\"\n\
         [uplink]\ninterface = \"eth1\"\n[workers]\ncores = [0]\nframes = 1024\n",
    );
    write(
        "manifests/node.yaml",
        "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\nspec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}\n",
    );
    write("net.d/05-other.conflist", "{}");
    write("foreign.c", FOREIGN);
}

/// Has the kernel give out these ports.
fn give_out(node: &Namespace, ports: &str) {
    node.run(|| async {
        let _ = Setting::new("net/ipv4/ip_local_port_range")
            .unwrap()
            .write(ports)
            .unwrap();
    });
}

fn plant(node: &Namespace, folder: &Path) {
    let (source, object) = (folder.join("foreign.c"), folder.join("foreign.o"));
    sh(&format!(
        "clang -O2 -g -target bpf -c {} -o {}",
        source.display(),
        object.display()
    ));
    node.ip(&format!(
        "link set dev eth1 xdpgeneric obj {} sec xdp",
        object.display()
    ));
    node.ip("link set dev eth1 mtu 1300");
    give_out(node, "1024\t65535");
    node.ip("link add flannel.1 type vxlan id 1 dev eth1 dstport 8472");
    node.ip("address add 10.244.9.1/16 dev eth1");
    node.sh("nft add table ip nat");
    node.sh("nft add chain ip nat KUBE-SERVICES");
}

fn clear(node: &Namespace, folder: &Path) {
    node.ip("link set dev eth1 xdpgeneric off");
    node.ip("link set dev eth1 mtu 1500");
    give_out(node, "32768\t60999");
    node.ip("link del flannel.1");
    node.ip("address del 10.244.9.1/16 dev eth1");
    node.sh("nft delete table ip nat");
    for (name, text) in [("bin/millrace-cni", "#!/bin/sh\n"), ("plugin", "#!/bin/sh\n")] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    sh(&format!(
        "{} --socket {folder}/run/millrace.sock install --plugin {folder}/plugin --cni-bin-dir {folder}/bin --cni-conf-dir {folder}/net.d",
        env!("CARGO_BIN_EXE_millrace"),
        folder = folder.display()
    ));
}

#[test]
fn what_keeps_millrace_from_running_is_found_and_what_does_not_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (node, rack) = (Namespace::new(), Namespace::new());
    join(&node, "eth1", &rack, "node");
    node.ip("address add 192.0.2.1/24 dev eth1");
    write_files(folder);
    plant(&node, folder);
    let (good, findings) = examine(&node, folder);
    assert!(!good, "{findings:#?}");
    let failed = of_level(&findings, "fail");
    assert_says(
        &failed,
        "xdp-program",
        &["foreign", "ip link set dev eth1 xdp off"],
    );
    assert_says(&failed, "snat-ports", &["61000-65535", "1024-65535"]);
    assert_says(&failed, "mtu", &["1300", "1230"]);
    assert_says(&failed, "pod-cidrs", &["10.244.1.0/24", "10.244.0.0/16", "eth1"]);
    assert_eq!(failed.len(), 4, "{failed:#?}");
    let warned = of_level(&findings, "warn");
    assert_says(&warned, "interfaces", &["flannel has left flannel.1"]);
    assert_says(&warned, "packet-filter", &["nat KUBE-SERVICES"]);
    assert_says(&warned, "cni-network", &["05-other.conflist"]);
    assert_says(&warned, "cni-plugin", &["bin/millrace-cni"]);

    // It changed nothing: what was planted is all still there to be found again.
    let (_, again) = examine(&node, folder);
    assert_eq!(of_level(&again, "fail"), failed);

    clear(&node, folder);
    let (good, findings) = examine(&node, folder);
    assert!(good, "{findings:#?}");
    for check in [
        "kernel",
        "af-xdp",
        "bpf",
        "uplink",
        "link",
        "queues",
        "xdp-program",
        "snat-ports",
        "mtu",
        "pod-cidrs",
        "cni-network",
        "packet-filter",
        "nftables",
    ] {
        assert_says(&of_level(&findings, "ok"), check, &[]);
    }
}

/// In a bond's place, which not every kernel has: a port of a bridge. Daemon and doctor refuse it in the same words.
#[test]
fn a_port_of_a_bridge_is_refused_by_doctor_and_daemon_alike() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (node, rack) = (Namespace::new(), Namespace::new());
    join(&node, "eth1", &rack, "node");
    node.ip("address add 192.0.2.1/24 dev eth1");
    node.ip("link add br0 type bridge");
    node.ip("link set dev eth1 master br0");
    write_files(folder);
    let (good, findings) = examine(&node, folder);
    assert!(!good);
    let words = "eth1 is a port of the bridge br0, which has its addresses";
    assert_says(&of_level(&findings, "fail"), "uplink", &[words]);
    let run = Command::new("ip")
        .args([
            "netns",
            "exec",
            node.name(),
            env!("CARGO_BIN_EXE_millrace"),
            "run",
            "--config",
        ])
        .arg(folder.join("millrace.toml"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.code() == Some(2) && said.contains(words), "{said}");
}
