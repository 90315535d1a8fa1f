//! What goes wrong between a node and its API server, none of which a real one can be asked to do.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use millrace::cluster::Pace;
use millrace::objects::{NetworkKey, PodKey, Source as _, Store};
use serde_json::{Value, json};

use crate::fake::{Fake, Fault};
use crate::node::{NODES, PODS, TestNode, config, node, pace, patiently, pod};

const POOLS: &str = "/apis/crd.projectcalico.org/v1/ippools";
const POOLS_V3: &str = "/apis/projectcalico.org/v3/ippools";
const OWN: &str = "node-a";

/// A server with this node and some pods, and the node.
struct Bench {
    fake: Fake,
    node: TestNode,
    state: tempfile::TempDir,
}

impl Bench {
    /// Pods that are there before the node, whose addresses come after one another.
    fn start(pods: usize) -> Self {
        Self::start_with(pace(), pods, |_| {})
    }

    fn start_with(pace: Pace, pods: usize, before: impl FnOnce(&Fake)) -> Self {
        let fake = Fake::start();
        fake.put(NODES, node(OWN, "10.244.0.0/16"));
        for number in 0..pods {
            fake.put(PODS, numbered(number));
        }
        before(&fake);
        let state = tempfile::tempdir().unwrap();
        let node = TestNode::start_at(pace, &config(&fake.url()), OWN, state.path());
        Self { fake, node, state }
    }

    fn wait_pods(&self, count: usize) {
        self.node
            .wait(&format!("{count} pods"), |store| store.pods().count() == count);
    }

    /// How often the server was asked.
    fn asked(&self, verb: &str, path: &str) -> usize {
        let seen = self.fake.seen();
        seen.iter()
            .filter(|seen| seen.verb == verb && seen.path == path)
            .count()
    }

    fn wait_watch(&self, path: &str) {
        patiently("a watch", || (self.fake.watches(path) == 1).then_some(()));
    }

    /// Watches all stores until it is dropped: never fewer pods than these.
    fn never_fewer(&self, pods: usize) -> Never {
        let stop = Arc::new(AtomicBool::new(false));
        let mut stores = self.node.source.subscribe();
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                while !told.load(Ordering::Acquire) {
                    let _ = tokio::time::timeout(Duration::from_millis(20), stores.changed()).await;
                    let count = stores.borrow_and_update().pods().count();
                    assert!(count >= pods, "{count} pods of {pods}");
                }
            });
        });
        Never {
            stop,
            thread: Some(thread),
        }
    }
}

/// Somebody who watches that something does not happen.
struct Never {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Never {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok(), "something was taken away");
    }
}

fn numbered(number: usize) -> Value {
    let ip = format!("10.244.{}.{}", 1 + number / 200, 2 + number % 200);
    pod("default", &format!("p{number}"), OWN, &ip)
}

fn ip_of(store: &Store, name: &str) -> Option<String> {
    let pod = store.pod(&PodKey::new("default", name).unwrap())?;
    pod.ips.first().map(ToString::to_string)
}

#[test]
fn lists_come_in_pages() {
    let bench = Bench::start(1203);
    bench.wait_pods(1203);
    let seen = bench.fake.seen();
    let pages: Vec<_> = seen
        .iter()
        .filter(|seen| seen.verb == "list" && seen.path == PODS)
        .collect();
    assert_eq!(pages.len(), 3);
    assert!(
        pages.iter().all(|page| page.query.contains("limit=500")),
        "{pages:?}"
    );
    let has_place = |query: &str| query.contains("continue=") && !query.contains("continue=&");
    let places: Vec<_> = pages.iter().map(|page| has_place(&page.query)).collect();
    assert_eq!(places, [false, true, true]);
}

/// The server has forgotten where a list was when its second page is asked for.
#[test]
fn a_list_that_expires_midway_begins_anew() {
    let bench = Bench::start_with(pace(), 1203, |fake| {
        fake.fail("list", PODS, Fault::Slow(Duration::ZERO));
        fake.fail("list", PODS, Fault::Refuse(410, None));
    });
    bench.wait_pods(1203);
    assert_eq!((bench.fake.faults_left(), bench.asked("list", PODS)), (0, 5));
    assert!(bench.node.count("expired") >= 1);
}

#[test]
fn what_is_gone_from_a_watch_is_listed_anew_and_nothing_is_taken_away_meanwhile() {
    let bench = Bench::start(700);
    bench.wait_pods(700);
    bench.wait_watch(PODS);
    let never = bench.never_fewer(699);
    // Changes that are told to nobody, and then forgotten.
    bench.fake.mute(true);
    bench.fake.delete(PODS, "default", "p0");
    bench.fake.put(PODS, pod("default", "p1", OWN, "10.244.99.9"));
    bench.fake.mute(false);
    bench
        .fake
        .fail("list", PODS, Fault::Slow(Duration::from_millis(100)));
    bench.fake.expire();
    let store = bench.node.wait("what changed", |store| {
        ip_of(store, "p1").as_deref() == Some("10.244.99.9")
    });
    assert_eq!((store.pods().count(), ip_of(&store, "p0")), (699, None));
    // Again and again.
    for round in 1..=3 {
        bench.wait_watch(PODS);
        bench.fake.expire();
        bench.fake.put(PODS, numbered(700 + round));
        bench.wait_pods(699 + round);
    }
    drop(never);
    assert!(bench.node.count("expired") >= 4);
}

#[test]
fn connections_that_are_cut_lose_nothing() {
    let bench = Bench::start_with(pace(), 600, |fake| {
        // In the middle of an object, and before the first byte.
        fake.fail("list", PODS, Fault::Cut(100_000));
        fake.fail("list", PODS, Fault::Cut(0));
    });
    bench.wait_pods(600);
    bench.wait_watch(PODS);
    let lists = bench.asked("list", PODS);
    for round in 0..5 {
        bench.fake.mute(true);
        bench.fake.put(PODS, numbered(600 + 2 * round));
        bench.fake.mute(false);
        // What the watch missed it is told when it goes on; in the middle of a line it is cut again.
        bench.fake.fail("watch", PODS, Fault::Cut(200));
        bench.fake.cut_watches();
        bench.fake.put(PODS, numbered(601 + 2 * round));
        bench.wait_pods(602 + 2 * round);
        bench.wait_watch(PODS);
    }
    assert_eq!(
        bench.asked("list", PODS),
        lists,
        "a watch goes on from where it was"
    );
    assert_eq!(bench.fake.faults_left(), 0);
}

#[test]
fn a_slow_server_is_waited_for_and_a_dead_one_asked_again() {
    let bench = Bench::start_with(pace(), 10, |fake| {
        fake.fail("list", PODS, Fault::Slow(Duration::from_millis(300)));
    });
    bench.wait_pods(10);
    assert_eq!(bench.asked("list", PODS), 1);
    let late = Bench::start_with(pace(), 10, |fake| {
        fake.fail("list", PODS, Fault::Slow(Duration::from_secs(3600)));
    });
    late.wait_pods(10);
    assert_eq!(late.asked("list", PODS), 2);
}

#[test]
fn a_watch_that_is_silent_is_begun_anew_where_it_was() {
    let bench = Bench::start(3);
    bench.wait_pods(3);
    bench.wait_watch(PODS);
    bench.fake.mute(true);
    bench.fake.put(PODS, numbered(3));
    // Nothing ends the watch but its own patience.
    bench.wait_pods(4);
    assert_eq!(bench.asked("list", PODS), 1);
}

#[test]
fn refusals_are_waited_out_as_long_as_the_server_asks() {
    for code in [500, 503, 401, 403] {
        let bench = Bench::start_with(pace(), 5, |fake| {
            for _ in 0..3 {
                fake.fail("list", PODS, Fault::Refuse(code, None));
            }
        });
        bench.wait_pods(5);
        assert_eq!(
            (bench.fake.faults_left(), bench.asked("list", PODS)),
            (0, 4),
            "{code}"
        );
    }
    let begun = Instant::now();
    let bench = Bench::start_with(pace(), 5, |fake| {
        fake.fail("list", PODS, Fault::Refuse(429, Some(1)));
    });
    bench.wait_pods(5);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!((bench.asked("list", PODS), bench.node.count("throttled")), (2, 1));
}

#[test]
fn answers_that_make_no_sense_are_asked_for_again() {
    let bodies = [
        "",
        "{",
        "[]",
        "null",
        "{\"items\": 7}",
        "{\"items\": [7, {}, {\"metadata\": {}}]}",
        "<html>",
        "{\"metadata\": {}}",
    ];
    let bench = Bench::start_with(pace(), 5, |fake| {
        for body in bodies {
            fake.fail("list", PODS, Fault::Body(body));
        }
    });
    bench.wait_pods(5);
    bench.wait_watch(PODS);
    // In a watch, too; what stands beside it is not lost.
    bench.fake.tell(PODS, &json!({"type": "NONSENSE", "object": {}}));
    bench.fake.put(PODS, numbered(5));
    bench.wait_pods(6);
    bench.wait_watch(PODS);
    bench.fake.tell(PODS, &json!([1]));
    bench.fake.put(PODS, numbered(6));
    bench.wait_pods(7);
}

#[test]
fn changes_that_come_twice_or_in_another_order_are_harmless() {
    let bench = Bench::start(2);
    bench.wait_pods(2);
    bench.wait_watch(PODS);
    bench.fake.mute(true);
    let told = |kind: &str, object: &Value| bench.fake.tell(PODS, &json!({"type": kind, "object": object}));
    let first = bench.fake.put(PODS, pod("default", "p0", OWN, "10.244.50.1"));
    let second = bench.fake.put(PODS, pod("default", "p0", OWN, "10.244.50.2"));
    let new = bench.fake.put(PODS, pod("default", "new", OWN, "10.244.50.3"));
    bench.fake.delete(PODS, "default", "new");
    let mut deleted = new.clone();
    deleted["metadata"]["resourceVersion"] = json!("1000000");
    for (kind, object) in [
        ("ADDED", &second),
        ("MODIFIED", &first),
        ("MODIFIED", &second),
        ("ADDED", &new),
        ("DELETED", &deleted),
        ("DELETED", &deleted),
        ("ADDED", &new),
        ("MODIFIED", &first),
    ] {
        told(kind, object);
    }
    // A store may be made in between; one that has what came last has all of them.
    let last = bench.fake.put(PODS, pod("default", "last", OWN, "10.244.50.4"));
    told("ADDED", &last);
    bench.node.wait_count("changes", 9);
    let store = bench
        .node
        .wait("the last of them", |store| ip_of(store, "last").is_some());
    assert_eq!(ip_of(&store, "p0").as_deref(), Some("10.244.50.2"));
    assert_eq!((store.pods().count(), ip_of(&store, "new")), (3, None));
    assert!(bench.node.count("changes_stale") >= 4);
}

#[test]
fn a_watch_goes_on_from_a_bookmark() {
    let bench = Bench::start(2);
    bench.wait_pods(2);
    bench.wait_watch(PODS);
    bench.fake.bookmark();
    let marked = bench.fake.put(NODES, node("node-z", "10.9.0.0/24"))["metadata"]["resourceVersion"].clone();
    let marked: u64 = marked.as_str().unwrap().parse::<u64>().unwrap() - 1;
    bench
        .node
        .wait("the node after the bookmark", |store| store.nodes().count() == 2);
    patiently("the watch from the bookmark on", || {
        bench.fake.cut_watches();
        let seen = bench.fake.seen();
        let last = seen
            .iter()
            .rfind(|seen| seen.verb == "watch" && seen.path == PODS)?;
        last.query
            .contains(&format!("resourceVersion={marked}"))
            .then_some(())
    });
    assert_eq!(bench.asked("list", PODS), 1);
}

/// Set back to an earlier state, as from a backup of etcd: its versions are lower than those that were told before.
#[test]
fn a_server_that_was_set_back_is_believed() {
    let bench = Bench::start(3);
    bench.wait_pods(3);
    bench.fake.set_back();
    bench.wait_watch(PODS);
    bench.fake.delete(PODS, "default", "p0");
    bench.fake.bookmark();
    bench.wait_pods(2);
    bench.wait_watch(PODS);
    bench.fake.put(PODS, numbered(7));
    bench.wait_pods(3);
}

#[test]
fn a_kind_that_the_server_does_not_have_is_looked_for() {
    let bench = Bench::start(2);
    bench.wait_pods(2);
    let pool = |path: &str| {
        let api = path.trim_start_matches("/apis/").trim_end_matches("/ippools");
        json!({"apiVersion": api, "kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.5.0.0/16"}})
    };
    for path in [POOLS, POOLS_V3] {
        bench.fake.serve(path);
        bench.fake.put(path, pool(path));
        bench.node.wait("the pool", |store| {
            store.encapsulations().count() == 1 || !store.pools().is_empty()
        });
        // Away for a moment, as when a server has just started: nothing is taken away.
        for _ in 0..3 {
            bench.fake.fail("list", path, Fault::Refuse(404, None));
        }
        bench.fake.expire();
        patiently("the moment", || (bench.fake.faults_left() == 0).then_some(()));
        bench.fake.withdraw(path);
        bench.node.wait("no pool", |store| store.pools().is_empty());
    }
}

/// Policies of networks come with their kind, in whichever of its versions, and the addresses of Pods there by an annotation.
#[test]
fn policies_of_networks_are_followed_where_there_is_such_a_kind() {
    let status = |ips: &[&str]| {
        let interfaces = json!([
            {"name": "cbr0", "interface": "eth0", "ips": ["10.244.0.9"], "default": true, "dns": {}},
            {"name": "shop/red", "interface": "net1", "ips": ips, "mac": "02:00:00:00:00:09", "dns": {}},
        ]);
        json!({"k8s.v1.cni.cncf.io/network-status": interfaces.to_string()})
    };
    let attached = |ips: &[&str]| {
        let mut pod = numbered(0);
        pod["metadata"]["annotations"] = status(ips);
        pod
    };
    let bench = Bench::start_with(pace(), 2, |fake| {
        fake.put(PODS, attached(&["10.9.1.5"]));
    });
    let red: NetworkKey = "shop/red".parse().unwrap();
    let ips = |store: &Store| -> Vec<String> {
        let ips = store.pods().flat_map(|pod| pod.ips_in(&red));
        ips.map(ToString::to_string).collect()
    };
    bench.node.wait("the address", |store| ips(store) == ["10.9.1.5"]);
    bench.fake.put(PODS, attached(&["10.9.1.5", "fd09::5"]));
    bench
        .node
        .wait("both", |store| ips(store) == ["10.9.1.5", "fd09::5"]);
    for version in ["v1beta1", "v1beta2"] {
        let path = match version {
            "v1beta1" => "/apis/k8s.cni.cncf.io/v1beta1/multi-networkpolicies",
            _ => "/apis/k8s.cni.cncf.io/v1beta2/multi-networkpolicies",
        };
        bench.fake.serve(path);
        let policy = json!({"apiVersion": format!("k8s.cni.cncf.io/{version}"), "kind": "MultiNetworkPolicy",
            "metadata": {"name": "closed", "namespace": "shop",
                "annotations": {"k8s.v1.cni.cncf.io/policy-for": "red"}},
            "spec": {"podSelector": {}}});
        bench.fake.put(path, policy);
        let store = bench.node.wait("the policy", |store| store.policies().len() == 1);
        assert!(store.policies().values().all(|policy| policy.is_for(Some(&red))));
        let notices: Vec<String> = store.notices().iter().map(ToString::to_string).collect();
        assert_eq!(
            notices,
            [
                "API server: warning: MultiNetworkPolicy shop/closed: annotation k8s.v1.cni.cncf.io/policy-for: there is no network shop/red; it would be a NetworkAttachmentDefinition of type millrace-cni with `\"kind\": \"routed\"`"
            ]
        );
        bench.fake.withdraw(path);
        bench.node.wait("no policy", |store| store.policies().is_empty());
    }
}

#[test]
fn a_server_that_goes_leaves_all_in_force_and_is_followed_when_it_comes_back() {
    let mut bench = Bench::start(5);
    bench.wait_pods(5);
    bench.wait_watch(PODS);
    let never = bench.never_fewer(5);
    assert_eq!(bench.node.source.status().reachable, Some(true));
    bench.fake.pause();
    patiently("it is said to be away", || {
        (bench.node.source.status().reachable == Some(false)).then_some(())
    });
    bench.fake.put(PODS, numbered(5));
    let failures = bench.node.count("failures");
    bench.node.wait_count("failures", failures + 20);
    assert_eq!(bench.node.store().pods().count(), 5);
    bench.fake.resume();
    bench.wait_pods(6);
    let status = bench.node.source.status();
    assert_eq!((status.reachable, status.from_copy), (Some(true), false));
    assert!(status.last_contact_seconds.is_some());
    drop(never);
}

#[test]
fn a_start_without_the_server_goes_on_from_the_copy() {
    let Bench {
        mut fake,
        node: first,
        state,
    } = Bench::start(5);
    first.wait("the pods", |store| store.pods().count() == 5);
    // Ending saves what is not saved yet.
    drop(first);
    fake.pause();
    let start = |name: &str, folder: &std::path::Path| TestNode::start(&config(&fake.url()), name, folder);
    let second = start(OWN, state.path());
    second.wait("the copy", |store| {
        store.pods().count() == 5 && store.own_node().is_some()
    });
    let status = second.source.status();
    assert_eq!(
        (status.reachable, status.from_copy, status.last_contact_seconds),
        (Some(false), true, None)
    );
    drop(second);
    // What is another's or torn is no copy, and keeps nobody from starting.
    let whole = fs::read(state.path().join("objects.json")).unwrap();
    for (name, bytes) in [
        ("node-b", &whole[..]),
        (OWN, &whole[..whole.len() - 1]),
        (OWN, b""),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("objects.json"), bytes).unwrap();
        let node = start(name, folder.path());
        node.wait_count("failures", 40);
        assert_eq!(node.store().pods().count(), 0, "{name}");
    }
    // The server comes back: its word counts.
    let third = start(OWN, state.path());
    third.wait("the copy", |store| store.pods().count() == 5);
    fake.resume();
    fake.delete(PODS, "default", "p0");
    third.wait("what is so now", |store| store.pods().count() == 4);
    patiently("no copy any more", || {
        (!third.source.status().from_copy).then_some(())
    });
    patiently("a copy of that", || {
        let saved = fs::read_to_string(state.path().join("objects.json")).unwrap();
        (!saved.contains("\"p0\"")).then_some(())
    });
}

/// Nothing is in force before all kinds have been listed: pods before the policies that protect them would be open.
#[test]
fn the_first_store_has_all_kinds() {
    const POLICIES: &str = "/apis/networking.k8s.io/v1/networkpolicies";
    let bench = Bench::start_with(pace(), 5, |fake| {
        for _ in 0..4 {
            fake.fail("list", POLICIES, Fault::Refuse(500, None));
        }
        fake.put(
            POLICIES,
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "closed", "namespace": "default"}, "spec": {"podSelector": {}}}),
        );
    });
    let store = bench
        .node
        .wait("the first store", |store| store.pods().count() > 0);
    assert_eq!(
        (
            store.pods().count(),
            store.policies().len(),
            store.nodes().count()
        ),
        (5, 1, 1)
    );
    assert_eq!(bench.node.count("stores"), 1);
    assert_eq!(bench.fake.all(POLICIES).len(), 1);
    assert!(bench.fake.get(POLICIES, "default", "closed").is_some());
}
