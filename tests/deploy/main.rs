//! What is applied to a cluster: the manifests in `deploy` and `examples/ingress` are objects of Kubernetes without a
//! field that Kubernetes does not know, and what they hand to the program is what the program takes.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod objects;
mod rights;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use millrace::cli::{Cli, ClientCommand, Command};
use millrace::config::Config;
use millrace::install::Wanted;
use objects::{Fault, check};
use serde_json::{Value, json};

/// What takes Millrace off a node.
const UNINSTALL: &str = "deploy/uninstall.yaml";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The objects of a manifest.
fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.split("\n---\n")
        .map(|document| {
            serde_saphyr::from_str(document).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        })
        .collect()
}

fn manifests() -> Vec<PathBuf> {
    let deployed = ["deploy/millrace.yaml", "deploy/load-balancer.yaml", UNINSTALL];
    let mut paths: Vec<PathBuf> = deployed.map(|path| root().join(path)).to_vec();
    let examples = std::fs::read_dir(root().join("examples/ingress")).unwrap();
    paths.extend(examples.map(|entry| entry.unwrap().path()));
    assert!(paths.len() >= 5, "{paths:?}");
    paths
}

/// The one object of a kind in `deploy/millrace.yaml`.
fn deployed(kind: &str) -> Value {
    object_of("deploy/millrace.yaml", kind)
}

/// The one object of a kind in a manifest.
fn object_of(manifest: &str, kind: &str) -> Value {
    let objects = read(&root().join(manifest));
    let of_kind: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(of_kind.len(), 1, "{kind}");
    of_kind[0].clone()
}

fn container(name: &str) -> Value {
    let spec = &deployed("DaemonSet")["spec"]["template"]["spec"];
    let lists = ["containers", "initContainers"].map(|key| spec[key].as_array().unwrap().clone());
    lists
        .concat()
        .into_iter()
        .find(|container| container["name"] == name)
        .unwrap()
}

fn words(list: &Value) -> Vec<String> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap().to_owned())
        .collect()
}

fn parse(words: &[String]) -> Cli {
    let line = std::iter::once("millrace").chain(words.iter().map(String::as_str));
    Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

#[test]
fn manifests_are_objects_without_an_unknown_field() {
    for path in manifests() {
        for object in read(&path) {
            let faults = check(&object);
            assert!(
                faults.is_empty(),
                "{}: {} {}: {faults:?}",
                path.display(),
                object["kind"],
                object["metadata"]["name"]
            );
        }
    }
}

#[test]
fn a_wrong_manifest_would_be_found() {
    let good = deployed("DaemonSet");
    let wrong = |change: fn(&mut Value)| {
        let mut object = good.clone();
        change(&mut object);
        check(&object)
    };
    let unknown = wrong(|object| object["spec"]["template"]["spec"]["hostNetwrk"] = json!(true));
    assert_eq!(unknown, [Fault::Unknown("spec.template.spec.hostNetwrk".into())]);
    let inside = wrong(|object| {
        object["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["exec"]["cmd"] = json!([])
    });
    assert_eq!(
        inside,
        [Fault::Unknown(
            "spec.template.spec.containers[0].livenessProbe.exec.cmd".into()
        )]
    );
    let kind = wrong(|object| object["spec"]["template"]["spec"]["hostNetwork"] = json!("yes"));
    assert!(matches!(kind.as_slice(), [Fault::NotOfKind(_)]), "{kind:?}");
    let kindless = wrong(|object| object["apiVersion"] = json!("apps/v1beta1"));
    assert!(
        matches!(kindless.as_slice(), [Fault::NoSuchKind(_)]),
        "{kindless:?}"
    );
    let mount = wrong(|object| {
        object["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0]["name"] = json!("x")
    });
    assert_eq!(mount, [Fault::NoSuchVolume("x".into())]);
    let label = wrong(|object| object["spec"]["template"]["metadata"]["labels"] = json!({"a": "b"}));
    assert_eq!(label, [Fault::SelectorMisses]);
}

#[test]
fn the_node_file_and_the_network_are_good_ones() {
    let data = &deployed("ConfigMap")["data"];
    let text = data["millrace.toml"].as_str().unwrap();
    let config = Config::parse(text, Path::new("/etc/millrace/millrace.toml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("10-millrace.conflist");
    std::fs::write(&path, data["10-millrace.conflist"].as_str().unwrap()).unwrap();
    Wanted::new(PathBuf::new(), Some(&path), Path::new("/")).unwrap();
    let socket = millrace::install::socket_of(&path).unwrap();
    assert_eq!(socket, config.node.state_dir.join(millrace::daemon::SOCKET_NAME));
    assert_eq!(
        socket,
        Path::new(millrace::cli::DEFAULT_SOCKET),
        "probes ask there"
    );
    // What the daemon keeps survives it: the folder is the node's.
    let mounts = container("millrace")["volumeMounts"].as_array().unwrap().clone();
    assert!(
        mounts
            .iter()
            .any(|mount| Path::new(mount["mountPath"].as_str().unwrap()) == config.node.state_dir)
    );
}

#[test]
fn commands_and_probes_are_understood() {
    let run = parse(&words(&container("millrace")["args"]));
    assert!(
        matches!(run.command, Command::Run(argument) if argument.config == Path::new("/etc/millrace/millrace.toml"))
    );
    let install = parse(&words(&container("install")["args"]));
    let Command::Install(arguments) = install.command else {
        panic!("{:?}", install.command);
    };
    let mounts = words(&json!(
        container("install")["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|mount| &mount["mountPath"])
            .collect::<Vec<_>>()
    ));
    for folder in [arguments.cni.cni_bin_dir, arguments.cni.cni_conf_dir] {
        assert!(
            mounts.contains(&folder.display().to_string()),
            "{}",
            folder.display()
        );
    }
    for (probe, is_ready) in [
        ("startupProbe", false),
        ("livenessProbe", false),
        ("readinessProbe", true),
    ] {
        let mut command = words(&container("millrace")[probe]["exec"]["command"]);
        assert_eq!(command.remove(0), "millrace");
        match parse(&command).command {
            Command::Client(ClientCommand::Health(arguments)) => {
                assert_eq!(arguments.ready, is_ready, "{probe}")
            }
            other => panic!("{probe}: {other:?}"),
        }
    }
}

/// It names what was installed, and runs where the daemon does not.
#[test]
fn what_is_uninstalled_is_what_was_installed() {
    let objects = read(&root().join(UNINSTALL));
    let pod = &objects[0]["spec"]["template"]["spec"];
    let uninstall = parse(&words(&pod["initContainers"][0]["args"]));
    let (Command::Uninstall(took), Command::Install(put)) = (
        uninstall.command,
        parse(&words(&container("install")["args"])).command,
    ) else {
        panic!("other commands");
    };
    assert!(took.cni_files && took.stop);
    assert_eq!(
        took.config.as_deref(),
        Some(Path::new("/etc/millrace/millrace.toml"))
    );
    assert_eq!(
        (took.cni.cni_bin_dir, took.cni.cni_conf_dir),
        (put.cni.cni_bin_dir, put.cni.cni_conf_dir)
    );
    assert_eq!(pod["nodeSelector"]["millrace"], "off");
    let daemon = &deployed("DaemonSet")["spec"]["template"]["spec"];
    let place = |pod: &Value, name: &str| {
        let volumes = pod["volumes"].as_array().unwrap();
        volumes.iter().find(|volume| volume["name"] == name).unwrap()["hostPath"]["path"].clone()
    };
    for volume in ["state", "cni-bin", "cni-conf", "proc-sys-net", "sys"] {
        assert_eq!(place(pod, volume), place(daemon, volume), "{volume}");
    }
}

/// The daemon gives up all but what it uses; the container has that, and what giving up takes.
#[test]
fn the_container_has_the_capabilities_that_the_daemon_uses_and_no_more() {
    let capabilities = &container("millrace")["securityContext"]["capabilities"];
    assert_eq!(capabilities["drop"], json!(["ALL"]));
    let has: BTreeSet<String> = words(&capabilities["add"])
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
    let mut uses: BTreeSet<String> = millrace::privileges::KEPT
        .iter()
        .map(ToString::to_string)
        .collect();
    uses.insert("CAP_SETPCAP".to_owned());
    assert_eq!(has, uses);
    assert_eq!(
        container("millrace")["securityContext"]["privileged"],
        Value::Null
    );
    assert_eq!(
        container("install")["securityContext"]["capabilities"],
        json!({"drop": ["ALL"]})
    );
}

/// No node has both: the daemon, and what takes its work away.
#[test]
fn the_daemon_keeps_off_nodes_that_lose_it() {
    let term = "/spec/template/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let expected =
        json!([{"matchExpressions": [{"key": "millrace", "operator": "NotIn", "values": ["off"]}]}]);
    assert_eq!(deployed("DaemonSet").pointer(term), Some(&expected));
}

/// The patches that the guide has somebody type are JSON, and keep the old network where the daemon does not go.
#[test]
fn patches_of_the_guide_are_json() {
    let guide = std::fs::read_to_string(root().join("docs/migrate.md")).unwrap();
    let quoted = |line: &str, mark: &str| {
        let text = line.split_once(mark).unwrap().1;
        text.strip_suffix('\'').unwrap().to_owned()
    };
    let is_off = guide
        .lines()
        .find(|line| line.trim().starts_with("is_off="))
        .unwrap();
    let is_off = quoted(is_off, "is_off='");
    let expression: Value = serde_json::from_str(&is_off).unwrap();
    assert_eq!(
        expression,
        json!({"key": "millrace", "operator": "In", "values": ["off"]})
    );
    let patches: Vec<Value> = guide
        .lines()
        .filter(|line| line.contains(" patch daemonset "))
        .map(|line| serde_json::from_str(&quoted(line, " -p '").replace("'\"$is_off\"'", &is_off)).unwrap())
        .collect();
    let [proxy, flannel] = patches.as_slice() else {
        panic!("{patches:?}");
    };
    let terms = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let pod = "/spec/template/spec";
    let term = proxy.pointer(&format!("{pod}{terms}/0/matchExpressions/0"));
    assert_eq!(term, Some(&expression));
    assert_eq!(flannel[0]["path"], format!("{pod}{terms}/0/matchExpressions/-"));
    assert_eq!(flannel[0]["value"], expression);
}
