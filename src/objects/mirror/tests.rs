use serde_json::{Value, json};

use super::*;

const NODE: &str = "Node";
const POD: &str = "Pod";

fn watched(kind: &str) -> &'static Watched {
    WATCHED.iter().find(|watched| watched.kind == kind).unwrap()
}

fn sight(kind: &str, tree: Value) -> Sighting {
    let watched = watched(kind);
    Sighting::new(watched, &watched.served[0], tree).unwrap()
}

fn node(name: &str, version: u64, cidr: &str) -> Sighting {
    sight(
        NODE,
        json!({"metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
            "spec": {"podCIDR": cidr}}),
    )
}

fn service(name: &str, version: u64, ip: &str) -> Sighting {
    sight(
        "Service",
        json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()},
            "spec": {"clusterIP": ip, "ports": [{"port": 80}]}}),
    )
}

/// A mirror with what was told of it.
#[derive(Default)]
struct Bench {
    mirror: Mirror,
}

impl Bench {
    fn store(&mut self) -> Store {
        self.mirror
            .store(&"node-a".parse().unwrap(), NetworkChoice::Flannel)
    }

    /// The nodes with their CIDRs.
    fn nodes(&mut self) -> String {
        let store = self.store();
        let nodes = store.nodes().map(|node| {
            let cidrs: Vec<_> = node.pod_cidrs().map(|cidr| cidr.to_string()).collect();
            format!("{}={}", node.name, cidrs.join("+"))
        });
        nodes.collect::<Vec<_>>().join(" ")
    }

    fn list(&mut self, kind: &str, sightings: Vec<Sighting>) -> bool {
        self.mirror.begin(watched(kind));
        sightings
            .into_iter()
            .for_each(|sighting| self.mirror.list(sighting));
        self.mirror.complete(watched(kind))
    }

    /// What is refused.
    fn refusals(&mut self) -> Vec<String> {
        self.store().refusals().map(ToString::to_string).collect()
    }
}

#[test]
fn nothing_is_taken_away_before_a_list_is_complete() {
    let mut bench = Bench::default();
    let (a, b) = (node("a", 1, "10.244.1.0/24"), node("b", 2, "10.244.2.0/24"));
    assert!(bench.list(NODE, vec![a.clone(), b.clone()]));
    bench.mirror.begin(watched(NODE));
    assert_eq!(bench.nodes(), "a=10.244.1.0/24 b=10.244.2.0/24");
    bench.mirror.list(node("b", 5, "10.244.3.0/24"));
    assert_eq!(bench.nodes(), "a=10.244.1.0/24 b=10.244.2.0/24");
    // Broken off: as before. Complete: what is not in it is gone.
    bench.mirror.abandon(watched(NODE));
    assert!(!bench.mirror.complete(watched(NODE)), "there is no list");
    assert_eq!(bench.nodes(), "a=10.244.1.0/24 b=10.244.2.0/24");
    assert!(bench.list(NODE, vec![node("b", 5, "10.244.3.0/24")]));
    assert_eq!(bench.nodes(), "b=10.244.3.0/24");
    assert!(
        !bench.list(NODE, vec![node("b", 6, "10.244.3.0/24")]),
        "only its version is another"
    );
    assert!(bench.mirror.absent(watched(NODE)));
    assert_eq!(bench.nodes(), "");
}

#[test]
fn changes_that_come_twice_late_or_out_of_order_are_harmless() {
    let mut bench = Bench::default();
    bench.list(NODE, vec![node("a", 5, "10.244.1.0/24")]);
    let mirror = &mut bench.mirror;
    assert!(mirror.apply(node("a", 8, "10.244.8.0/24")));
    assert!(!mirror.apply(node("a", 8, "10.244.8.0/24")), "twice");
    assert!(!mirror.apply(node("a", 7, "10.244.7.0/24")), "late");
    assert!(
        !mirror.remove(&node("a", 6, "10.244.6.0/24")),
        "deleted and made again since"
    );
    assert!(mirror.apply(node("c", 12, "10.244.12.0/24")));
    assert!(
        mirror.apply(node("b", 11, "10.244.11.0/24")),
        "another object's change may overtake"
    );
    assert!(mirror.remove(&node("b", 13, "10.244.11.0/24")));
    assert!(!mirror.remove(&node("b", 13, "10.244.11.0/24")), "twice");
    assert!(
        !mirror.apply(node("b", 11, "10.244.11.0/24")),
        "what is deleted stays so"
    );
    assert!(
        !mirror.apply(node("b", 13, "10.244.11.0/24")),
        "what is deleted stays so"
    );
    assert!(mirror.apply(node("b", 14, "10.244.14.0/24")), "made again");
    // Deleted with the version that it had, as some servers have it.
    assert!(mirror.remove(&node("b", 14, "10.244.14.0/24")));
    assert_eq!(bench.nodes(), "a=10.244.8.0/24 c=10.244.12.0/24");
    // A server that was set back to an earlier state is believed once it has told of all.
    assert!(bench.list(
        NODE,
        vec![node("a", 3, "10.244.3.0/24"), node("b", 2, "10.244.2.0/24")]
    ));
    assert_eq!(bench.nodes(), "a=10.244.3.0/24 b=10.244.2.0/24");
    assert!(bench.mirror.apply(node("b", 4, "10.244.4.0/24")));
    assert_eq!(bench.nodes(), "a=10.244.3.0/24 b=10.244.4.0/24");
}

/// In whatever order changes come, twice or not, what is last is in force.
#[test]
fn any_order_of_changes_ends_the_same() {
    let changes = [
        (1, node("a", 1, "10.244.1.0/24"), true),
        (2, node("b", 2, "10.244.2.0/24"), true),
        (3, node("a", 3, "10.244.3.0/24"), true),
        (4, node("b", 4, "10.244.2.0/24"), false),
        (5, node("c", 5, "10.244.5.0/24"), true),
    ];
    let mut orders = vec![vec![]];
    for _ in 0..changes.len() {
        orders = orders
            .iter()
            .flat_map(|order: &Vec<usize>| {
                let rest = (0..changes.len()).filter(|index| !order.contains(index));
                rest.map(|index| order.iter().copied().chain([index]).collect())
                    .collect::<Vec<_>>()
            })
            .collect();
    }
    assert_eq!(orders.len(), 120);
    for order in orders {
        let mut bench = Bench::default();
        for index in order.iter().chain(&order) {
            let (_, sighting, is_there) = &changes[*index];
            if *is_there {
                bench.mirror.apply(sighting.clone());
            } else {
                bench.mirror.remove(sighting);
            }
        }
        assert_eq!(bench.nodes(), "a=10.244.3.0/24 c=10.244.5.0/24", "{order:?}");
    }
}

#[test]
fn a_refused_version_leaves_the_last_good_one_in_force() {
    let mut bench = Bench::default();
    assert!(bench.mirror.apply(node("a", 1, "10.244.1.0/24")));
    assert!(bench.mirror.apply(node("a", 2, "nonsense")));
    assert_eq!(bench.nodes(), "a=10.244.1.0/24");
    let refusals = bench.refusals();
    assert_eq!(
        refusals,
        [
            "API server: refused: Node a: spec.podCIDR: `nonsense` is no CIDR, write it as in 10.244.1.0/24; the last good version stays in force"
        ]
    );
    // Once more, by a list, and then put right.
    assert!(bench.list(NODE, vec![node("a", 3, "7")]));
    assert_eq!(
        (bench.nodes().as_str(), bench.refusals().len()),
        ("a=10.244.1.0/24", 1)
    );
    assert!(bench.mirror.apply(node("a", 4, "10.244.4.0/24")));
    assert_eq!(
        (bench.nodes().as_str(), bench.refusals().len()),
        ("a=10.244.4.0/24", 0)
    );
    // One that is refused at first sight has no good version.
    bench.mirror.apply(node("b", 5, "x"));
    assert_eq!(
        (bench.nodes().as_str(), bench.refusals().len()),
        ("a=10.244.4.0/24", 1)
    );
    bench.mirror.remove(&node("b", 6, "x"));
    assert_eq!(bench.refusals().len(), 0);
}

#[test]
fn a_refusal_in_a_list_that_is_broken_off_is_not_said() {
    let mut bench = Bench::default();
    bench.list(NODE, vec![node("a", 1, "10.244.1.0/24")]);
    bench.mirror.begin(watched(NODE));
    bench.mirror.list(node("a", 2, "nonsense"));
    bench.mirror.abandon(watched(NODE));
    assert_eq!(
        (bench.nodes().as_str(), bench.refusals().len()),
        ("a=10.244.1.0/24", 0)
    );
}

#[test]
fn what_does_not_change_stays_the_same_by_pointer() {
    let mut bench = Bench::default();
    bench.list(
        "Service",
        vec![service("a", 1, "10.96.0.1"), service("b", 2, "10.96.0.2")],
    );
    let before = bench.store();
    bench.list(
        "Service",
        vec![service("a", 3, "10.96.0.1"), service("b", 4, "10.96.0.3")],
    );
    let after = bench.store();
    assert!(Arc::ptr_eq(&before.services()[0], &after.services()[0]));
    assert!(!Arc::ptr_eq(&before.services()[1], &after.services()[1]));
}

/// Of two that claim one address the older has it, and of two of one second the first by name: on every node, in whatever
/// order they are told of.
#[test]
fn who_has_what_two_claim_does_not_depend_on_the_order() {
    for names in [["a", "b"], ["b", "a"]] {
        let mut bench = Bench::default();
        for name in names {
            bench.mirror.apply(service(name, 1, "10.96.0.1"));
        }
        let store = bench.store();
        let lost: Vec<_> = store
            .services()
            .iter()
            .map(|service| service.lost.len())
            .collect();
        assert_eq!(lost, [0, 1], "{names:?}");
    }
}

#[test]
fn lines_give_all_of_it_back() {
    let mut bench = Bench::default();
    bench.list(NODE, vec![node("a", 1, "10.244.1.0/24"), node("b", 2, "x")]);
    bench.list("Service", vec![service("a", 1, "10.96.0.1")]);
    bench.list(
        POD,
        vec![sight(
            POD,
            json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"nodeName": "a"},
            "status": {"podIP": "10.244.1.5"}}),
        )],
    );
    let lines: Vec<Arc<str>> = bench.mirror.lines().cloned().collect();
    assert_eq!((lines.len(), bench.mirror.len()), (4, 4));
    let mut again = Bench::default();
    again.mirror.restore(lines.iter().map(|line| &**line)).unwrap();
    assert_eq!(again.store(), bench.store());
    let wrong = lines.iter().map(|line| &**line).chain(["{}"]);
    let mut refused = Bench::default();
    assert_eq!(refused.mirror.restore(wrong), Err(4));
    assert!(refused.mirror.is_empty());
    // Whoever restored goes on with what is told: a version of none yields to any.
    assert!(again.mirror.apply(node("a", 1, "10.244.9.0/24")));
    assert_eq!(again.nodes(), "a=10.244.9.0/24");
}

#[test]
fn an_object_is_referred_to_by_its_version_and_uid() {
    let mut bench = Bench::default();
    let sighting = node("a", 1, "10.244.1.0/24");
    let id = sighting.id.clone();
    assert_eq!(bench.mirror.reference(&id), None);
    bench.mirror.apply(sighting);
    let reference = bench.mirror.reference(&id).unwrap();
    assert_eq!((reference.api_version.as_str(), reference.uid()), ("v1", "uid-a"));
    assert!(bench.mirror.text(&id).unwrap().contains("10.244.1.0/24"));
}
