//! Labs for the tests, and the questions that every test asks of them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use millrace_tools::lab::plan::{PREFIX_LENGTH, UPLINK};
use millrace_tools::lab::traffic::{Ping, PingReport, ping};
use millrace_tools::lab::{
    Daemon, Lab, MillraceOptions, Namespace, NodeKind, PROGRAM_VARIABLE, Topology, WireEnd, find_program,
    wait_until,
};
use serde_json::Value;

use crate::counters::Counters;

/// Longer than anything takes that is to come about at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Longer than any packet takes to arrive; short enough to wait for one that must not.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);

/// Two nodes, the first with Millrace, the second of stock Linux.
pub(crate) const PAIR: [NodeKind; 2] = [NodeKind::Millrace, NodeKind::Stock];

static MACHINE: RwLock<()> = RwLock::new(());

/// For tests that bear others beside them.
pub(crate) fn side_by_side() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// For tests that measure time or load the machine.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Brings a lab up, and fails loudly where that cannot be.
pub(crate) fn lab(name: &str, topology: &Topology) -> Lab {
    assert!(
        rustix::process::geteuid().is_root(),
        "the cluster tests make network namespaces and load XDP programs: run them as root"
    );
    check_program();
    Lab::bring_up(name, topology).unwrap_or_else(|error| panic!("lab {name}: {error}"))
}

/// A lab of [`PAIR`] with so many pods on each node.
pub(crate) fn pair(name: &str, pods_per_node: usize) -> Lab {
    lab(
        name,
        &Topology {
            pods_per_node,
            ..Topology::of(&PAIR)
        },
    )
}

/// A stock node and node-b, which is to run Millrace in this mode and has never done so.
pub(crate) fn untouched(name: &str, mode: &str) -> Lab {
    const NONSENSE: &str = "\n[nonsense]\n";
    let millrace = MillraceOptions {
        xdp_mode: mode.to_owned(),
        extra: NONSENSE.to_owned(),
        ..MillraceOptions::default()
    };
    let mut lab = lab(
        name,
        &Topology {
            pods_per_node: 0,
            millrace,
            ..Topology::of(&[NodeKind::Stock])
        },
    );
    // A lab starts what it makes, so the first start is made to fail before it looks at anything.
    let refused = lab.add_node(NodeKind::Millrace).unwrap_err().to_string();
    assert!(refused.contains("nonsense"), "{refused}");
    let daemon = daemon(&lab, "node-b");
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    daemon.write_config(&text.replace(NONSENSE, "")).unwrap();
    lab
}

/// A machine on the rack that is no node, with 192.0.2.`host` on its uplink. To be dropped before the lab is.
pub(crate) fn guest(lab: &Lab, name: &str, host: u8) -> (Namespace, Ipv4Addr) {
    let (namespace, address) = (lab.namespace(name).unwrap(), Ipv4Addr::new(192, 0, 2, host));
    let end = WireEnd {
        namespace: &namespace,
        interface: UPLINK,
        mac: None,
    };
    lab.switch().join(name, end).unwrap();
    let prefix = format!("{address}/{PREFIX_LENGTH}");
    namespace.ip(&["address", "add", &prefix, "dev", UPLINK]).unwrap();
    (namespace, address)
}

/// The labs find the program by themselves, beside the tests; it must be the one that belongs to them.
fn check_program() {
    if std::env::var_os(PROGRAM_VARIABLE).is_none() {
        let (found, built) = (find_program().unwrap(), Path::new(env!("CARGO_BIN_EXE_millrace")));
        assert_eq!(
            found.canonicalize().unwrap(),
            built.canonicalize().unwrap(),
            "the labs would start another program than the one that was built with the tests"
        );
    }
}

/// The end of every test: the counters of each switch that runs add up, its frames are all there, and the lab leaves
/// nothing behind.
pub(crate) fn finish(mut lab: Lab) {
    let names: Vec<String> = lab.nodes().iter().map(|node| node.name()).collect();
    for name in names {
        let running = lab.node_mut(&name).unwrap().daemon_mut();
        if running.is_some_and(|daemon| daemon.is_running().unwrap()) {
            Counters::settled(daemon(&lab, &name));
        }
    }
    lab.close().unwrap();
}

/// The daemon of a Millrace node.
pub(crate) fn daemon<'a>(lab: &'a Lab, node: &str) -> &'a Daemon {
    lab.node(node).unwrap().daemon().expect("a Millrace node")
}

/// The daemon of a Millrace node, to be stopped and started.
pub(crate) fn daemon_mut<'a>(lab: &'a mut Lab, node: &str) -> &'a mut Daemon {
    lab.node_mut(node).unwrap().daemon_mut().expect("a Millrace node")
}

/// A node's namespace.
pub(crate) fn node<'a>(lab: &'a Lab, name: &str) -> &'a Namespace {
    lab.node(name).unwrap().namespace()
}

/// A pod's namespace.
pub(crate) fn pod<'a>(lab: &'a Lab, name: &str) -> &'a Namespace {
    lab.pod(name).unwrap().namespace()
}

/// A pod's address.
pub(crate) fn address(lab: &Lab, pod: &str) -> Ipv4Addr {
    lab.pod(pod).unwrap().address()
}

/// The underlay address of a node.
pub(crate) fn underlay(lab: &Lab, node: &str) -> Ipv4Addr {
    lab.node(node).unwrap().plan().underlay_address()
}

/// Three echo requests in quick succession.
pub(crate) fn try_ping(from: &Namespace, to: Ipv4Addr) -> PingReport {
    let brief = Ping {
        patience: SILENCE / 2,
        ..Ping::default()
    };
    ping(from, to.into(), &brief).unwrap()
}

/// Every echo request is answered, the first one too.
pub(crate) fn assert_reaches(from: &Namespace, to: Ipv4Addr) {
    let patient = Ping {
        patience: PATIENCE,
        ..Ping::default()
    };
    let report = ping(from, to.into(), &patient).unwrap();
    assert!(
        report.sent == report.received && report.complaints.is_empty(),
        "{} -> {to}: {report:?}",
        from.name()
    );
}

/// No echo request is answered.
pub(crate) fn assert_cut_off(from: &Namespace, to: Ipv4Addr) {
    let report = try_ping(from, to);
    assert_eq!(report.received, 0, "{} -> {to}: {report:?}", from.name());
}

/// Waits until an echo request is answered, and then all of them are.
pub(crate) fn await_reach(from: &Namespace, to: Ipv4Addr) {
    let once = Ping {
        count: 1,
        patience: SILENCE,
        ..Ping::default()
    };
    wait_until(
        &format!("an answer to {} from {to}", from.name()),
        PATIENCE,
        || Ok(ping(from, to.into(), &once)?.received == 1),
    )
    .unwrap();
    assert_reaches(from, to);
}

/// Waits until a condition holds; a panic in it is the failure.
pub(crate) fn await_that(what: &str, mut condition: impl FnMut() -> bool) {
    wait_until(what, PATIENCE, || Ok(condition())).unwrap();
}

/// The rows of `millrace show WHAT --json`.
pub(crate) fn rows(daemon: &Daemon, what: &str) -> Vec<Value> {
    match daemon.json(&["show", what]).unwrap() {
        Value::Array(rows) => rows,
        other => panic!("show {what}: {other}"),
    }
}

/// The one row of `millrace show WHAT --json` in which `key` is `value`.
pub(crate) fn row(daemon: &Daemon, what: &str, key: &str, value: &str) -> Option<Value> {
    rows(daemon, what).into_iter().find(|row| row[key] == value)
}

/// The row of a pod's port.
pub(crate) fn port_of(daemon: &Daemon, pod: &str) -> Option<Value> {
    row(daemon, "ports", "pod", pod)
}
