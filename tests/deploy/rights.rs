//! What the daemon may do at the API server is what it asks for there, no more and no less.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use millrace::config::Config;
use millrace::objects::WATCHED;
use serde_json::Value;

use crate::{deployed, object_of, words};

/// API group (empty for the core's), resource.
type Resource = (String, String);

/// What giving out addresses for LoadBalancers needs beside.
const LOAD_BALANCER: &str = "deploy/load-balancer.yaml";
/// What is asked for beside lists and watches, anywhere: group, resource, verb, the file that asks, and its words for it.
const WRITES: &[[&str; 5]] = &[
    ["", "nodes", "get", "src/cluster/lease.rs", "self.nodes.get("],
    [
        "",
        "nodes/status",
        "patch",
        "src/cluster/lease.rs",
        ".patch_status(",
    ],
    [
        "events.k8s.io",
        "events",
        "create",
        "src/cluster/events.rs",
        "events.create(",
    ],
];
/// The same for addresses of LoadBalancers.
const BALANCING: &[[&str; 5]] = &[["", "services/status", "patch", SERVER, ".patch_status("]];
/// The same in the namespace of Leases.
const LEASES: &[[&str; 5]] = &[
    ["coordination.k8s.io", "leases", "get", SERVER, ".get_opt("],
    [
        "coordination.k8s.io",
        "leases",
        "list",
        SERVER,
        "self.api().list(",
    ],
    [
        "coordination.k8s.io",
        "leases",
        "create",
        SERVER,
        "self.api().create(",
    ],
    [
        "coordination.k8s.io",
        "leases",
        "update",
        SERVER,
        "self.api().replace(",
    ],
    ["coordination.k8s.io", "leases", "patch", SERVER, ".patch(&name"],
];
const SERVER: &str = "src/balancer/cluster/server.rs";

/// Files that talk to the API server, each of which is among those above, or lists and watches.
const OTHERS: [&str; 1] = ["src/cluster/request.rs"];

/// Verbs by resource that rows stand for, each of which is somewhere in the program.
fn asked(rows: &[[&str; 5]]) -> BTreeMap<Resource, BTreeSet<String>> {
    let mut asked: BTreeMap<Resource, BTreeSet<String>> = BTreeMap::new();
    for [group, resource, verb, file, words] in rows {
        let text = std::fs::read_to_string(crate::root().join(file)).unwrap();
        assert!(
            text.contains(words),
            "{file} has no {words}: who asks for {verb} of {resource}?"
        );
        let verbs = asked
            .entry(((*group).to_owned(), (*resource).to_owned()))
            .or_default();
        verbs.insert((*verb).to_owned());
    }
    asked
}

/// Verbs by resource, of a ClusterRole or Role.
fn allowed(role: &Value) -> BTreeMap<Resource, BTreeSet<String>> {
    let mut allowed: BTreeMap<Resource, BTreeSet<String>> = BTreeMap::new();
    for rule in role["rules"].as_array().unwrap() {
        let keys: Vec<&String> = rule.as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            ["apiGroups", "resources", "verbs"],
            "nothing else is looked at here"
        );
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                assert!(
                    !group.contains('*') && !resource.contains('*'),
                    "{group} {resource}"
                );
                let verbs = allowed.entry((group.clone(), resource)).or_default();
                verbs.extend(words(&rule["verbs"]));
            }
        }
    }
    allowed
}

/// Group and resource of a path such as `/apis/apps/v1/daemonsets`.
fn resource(path: &str) -> Resource {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["", "api", "v1", resource] => (String::new(), (*resource).to_owned()),
        ["", "apis", group, _, resource] => ((*group).to_owned(), (*resource).to_owned()),
        _ => panic!("{path}"),
    }
}

#[test]
fn rights_are_what_is_asked_for() {
    let mut wanted: BTreeMap<Resource, BTreeSet<String>> = BTreeMap::new();
    for served in WATCHED.iter().flat_map(|watched| watched.served) {
        let verbs = wanted.entry(resource(served.path)).or_default();
        verbs.extend(["list", "watch"].map(str::to_owned));
    }
    for (resource, verbs) in asked(WRITES) {
        wanted.entry(resource).or_default().extend(verbs);
    }
    assert_eq!(allowed(&deployed("ClusterRole")), wanted);
}

#[test]
fn leases_are_written_where_the_node_file_has_them() {
    assert_eq!(
        allowed(&object_of(LOAD_BALANCER, "ClusterRole")),
        asked(BALANCING)
    );
    let role = object_of(LOAD_BALANCER, "Role");
    assert_eq!(allowed(&role), asked(LEASES));
    let text = deployed("ConfigMap")["data"]["millrace.toml"]
        .as_str()
        .unwrap()
        .to_owned();
    let config = Config::parse(&text, Path::new("/etc/millrace/millrace.toml")).unwrap();
    assert_eq!(
        role["metadata"]["namespace"],
        config.load_balancer.lease_namespace.as_str()
    );
    let binding = object_of(LOAD_BALANCER, "RoleBinding");
    assert_eq!(binding["metadata"]["namespace"], role["metadata"]["namespace"]);
    assert_eq!(binding["roleRef"]["name"], role["metadata"]["name"]);
    let others = object_of(LOAD_BALANCER, "ClusterRoleBinding");
    for binding in [binding, others] {
        assert_eq!(binding["subjects"], deployed("ClusterRoleBinding")["subjects"]);
    }
}

/// Whoever else comes to talk to the server has to be among those whose rights are looked at here.
#[test]
fn nobody_else_asks_the_server() {
    let mut known: BTreeSet<String> = OTHERS.map(str::to_owned).into();
    known.extend(
        [WRITES, BALANCING, LEASES]
            .into_iter()
            .flatten()
            .map(|row| row[3].to_owned()),
    );
    let mut folders = vec![crate::root().join("src")];
    let mut found = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            if text.contains("Api::all(")
                || text.contains("Api::namespaced(")
                || text.contains("kube::core::Request")
            {
                found.insert(path.strip_prefix(crate::root()).unwrap().display().to_string());
            }
        }
    }
    assert_eq!(found, known);
}

#[test]
fn rights_are_the_daemons() {
    let binding = deployed("ClusterRoleBinding");
    assert_eq!(
        binding["roleRef"]["name"],
        deployed("ClusterRole")["metadata"]["name"]
    );
    let account = &deployed("ServiceAccount")["metadata"];
    let subject = &binding["subjects"][0];
    assert_eq!(
        (&subject["name"], &subject["namespace"]),
        (&account["name"], &account["namespace"])
    );
    let pod = &deployed("DaemonSet")["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], account["name"]);
    for kind in ["DaemonSet", "ConfigMap", "ServiceAccount"] {
        assert_eq!(
            deployed(kind)["metadata"]["namespace"],
            deployed("Namespace")["metadata"]["name"],
            "{kind}"
        );
    }
}
