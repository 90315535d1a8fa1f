//! What the daemon may do at the API server is what it asks for there, no more and no less.

use std::collections::{BTreeMap, BTreeSet};

use millrace::objects::WATCHED;
use serde_json::Value;

use crate::{deployed, words};

/// API group (empty for the core's), resource.
type Resource = (String, String);

/// What is asked for beside lists and watches, and the file that does so, with words of it.
const WRITES: &[(&str, &str, &[&str], &str, &str)] = &[];

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
    for (group, resource, verbs, file, marker) in WRITES {
        let text = std::fs::read_to_string(crate::root().join(file)).unwrap();
        assert!(
            text.contains(marker),
            "{file} has no {marker}: who asks for {resource}?"
        );
        let all = wanted
            .entry(((*group).to_owned(), (*resource).to_owned()))
            .or_default();
        all.extend(verbs.iter().map(|verb| (*verb).to_owned()));
    }
    assert_eq!(allowed(&deployed("ClusterRole")), wanted);
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
