//! What only a real API server shows. `make test-api` starts one (`tools/api-server.sh`) and runs these one after the other:
//! they stop it, start it again, make it forget, and read what it wrote down of every request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use millrace::balancer::Members;
use millrace::balancer::cluster::{Options, Order, spawn};
use millrace::cluster::Pace;
use millrace::config::Kubernetes;
use millrace::objects::ServiceKey;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::anywhere::{Made, NAMESPACES, namespace, services_of};
use crate::log;
use crate::node::{
    Maker, NODES, SERVICES, SLICES, Server, TestNode, node, pace, patiently, service, slice, unique,
};
use crate::writes::{facts, with_file};

const ACCOUNT: &str = "/api/v1/namespaces/millrace-system/serviceaccounts/millrace";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Who the daemon is to the server.
const USER: &str = "system:serviceaccount:millrace-system:millrace";
/// How long the tokens that are asked for are good for, in seconds: the least that the server gives.
const TOKEN_SECONDS: u64 = 600;

/// The server, and whoever may do everything there.
struct Real {
    /// As the administrator sees it.
    server: Server,
    folder: PathBuf,
    /// Where tests have their files.
    files: tempfile::TempDir,
}

impl Real {
    fn at_hand() -> Self {
        let folder = env::var_os("MILLRACE_TEST_API_FOLDER");
        let folder = folder.expect("these are about the server that `make test-api` starts");
        Self {
            server: Server::any(),
            folder: folder.into(),
            files: tempfile::tempdir().unwrap(),
        }
    }

    /// Runs `tools/api-server.sh`.
    fn script(&self, command: &str, arguments: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/api-server.sh");
        let mut line = Command::new(script);
        line.arg(command).arg(&self.folder).args(arguments);
        let output = line.output().unwrap();
        assert!(output.status.success(), "{line:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The node file of who has a token of their own.
    fn config_with(&self, token: &str) -> Kubernetes {
        let file = self.files.path().join(unique("token"));
        fs::write(&file, token).unwrap();
        Kubernetes {
            token_file: Some(file),
            ..self.server.config.clone()
        }
    }

    /// What was asked by the daemon's account in requests that name this node, or anything, as verb, group and resource;
    /// with the answers' codes.
    fn asked(&self) -> BTreeMap<Right, BTreeSet<u64>> {
        let mut asked: BTreeMap<Right, BTreeSet<u64>> = BTreeMap::new();
        for line in fs::read_to_string(self.folder.join("run/audit.log"))
            .unwrap()
            .lines()
        {
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            if line["user"]["username"] != USER {
                continue;
            }
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let object = &line["objectRef"];
            let resource = match word(&object["subresource"]) {
                none if none.is_empty() => word(&object["resource"]),
                sub => format!("{}/{sub}", word(&object["resource"])),
            };
            let right = (word(&line["verb"]), word(&object["apiGroup"]), resource);
            let code = line["responseStatus"]["code"].as_u64().unwrap_or_default();
            asked.entry(right).or_default().insert(code);
        }
        asked
    }
}

/// Verb, API group, resource.
type Right = (String, String, String);

/// The objects of a manifest of `deploy/`.
fn deployed(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let text = fs::read_to_string(path).unwrap();
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

/// Makes the account, and what it may do, as `deploy/` has it; answers what that is.
fn deploy(maker: &Maker) -> BTreeSet<Right> {
    let mut allowed = BTreeSet::new();
    for object in ["millrace.yaml", "load-balancer.yaml"].map(deployed).concat() {
        let path = match object["kind"].as_str().unwrap() {
            "Namespace" => NAMESPACES,
            "ServiceAccount" => "/api/v1/serviceaccounts",
            "ClusterRole" => "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "ClusterRoleBinding" => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            "Role" => "/apis/rbac.authorization.k8s.io/v1/roles",
            "RoleBinding" => "/apis/rbac.authorization.k8s.io/v1/rolebindings",
            "ConfigMap" | "DaemonSet" => continue,
            other => panic!("{other}: is it needed to run?"),
        };
        let made = maker.try_make(path, &object);
        let is_there = |words: &String| words.contains("already exists");
        assert!(made.as_ref().err().is_none_or(is_there), "{made:?}");
        for rule in object["rules"].as_array().into_iter().flatten() {
            let words = |key: &str| {
                let words = rule[key].as_array().unwrap().iter();
                words
                    .map(|word| word.as_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            };
            for verb in words("verbs") {
                for group in words("apiGroups") {
                    let rights = words("resources").into_iter();
                    allowed.extend(rights.map(|resource| (verb.clone(), group.clone(), resource)));
                }
            }
        }
    }
    allowed
}

/// A token of the daemon's account, as a kubelet asks for it.
fn token(maker: &Maker) -> String {
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS}});
    let given = maker.post(&format!("{ACCOUNT}/token"), &request);
    given["status"]["token"].as_str().unwrap().to_owned()
}

/// A definition of a kind that holds anything.
fn definition(group: &str, version: &str, plural: &str, kind: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"}},
        "spec": {"group": group, "scope": "Cluster", "names": {"plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List")},
            "versions": [{"name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

/// Every kind of request that the daemon makes is allowed by what `deploy/` gives its account, and every right there is used.
#[test]
#[ignore = "stops and reads a server of its own: make test-api"]
fn the_rights_of_deploy_are_what_the_daemon_needs() {
    let real = Real::at_hand();
    let (_by, maker) = real.server.maker();
    let allowed = deploy(&maker);
    let mut made = Made::by(&maker);
    made.make(
        DEFINITIONS,
        definition(
            "policy.networking.k8s.io",
            "v1alpha2",
            "clusternetworkpolicies",
            "ClusterNetworkPolicy",
        ),
    );
    let networks = definition(
        "k8s.cni.cncf.io",
        "v1",
        "network-attachment-definitions",
        "NetworkAttachmentDefinition",
    );
    made.make(DEFINITIONS, networks);
    let policies = definition(
        "k8s.cni.cncf.io",
        "v1beta1",
        "multi-networkpolicies",
        "MultiNetworkPolicy",
    );
    made.make(DEFINITIONS, policies);
    for (plural, kind) in [
        ("ippools", "IPPool"),
        ("ipamblocks", "IPAMBlock"),
        ("blockaffinities", "BlockAffinity"),
    ] {
        made.make(
            DEFINITIONS,
            definition("crd.projectcalico.org", "v1", plural, kind),
        );
    }
    let (own, space) = (unique("own"), unique("space"));
    let state = tempfile::tempdir().unwrap();
    let config = with_file(&real.config_with(&token(&maker)), state.path());
    let daemon = TestNode::start(&config, &own, state.path());
    made.make(NODES, node(&own, "10.250.1.0/24"));
    made.make(NAMESPACES, namespace(&space));
    made.make(SERVICES, service(&space, "web"));
    daemon.wait("the Service", |store| services_of(store, &space).eq([("web", 0)]));
    // flannel's lease, and an Event about what is refused.
    daemon
        .source
        .keep_lease()
        .unwrap()
        .send_replace(Some(facts(&own)));
    daemon.wait_count("leases_written", 1);
    // One of 1.20 on a Node would have to be in another Namespace than those of later servers.
    made.make(SLICES, slice(&space, "wrong", "web", &["10.250.1.1000"]));
    daemon.wait_count("events", 1);
    let events = maker.get(&format!("/apis/events.k8s.io/v1/namespaces/{space}/events"));
    let event = events.unwrap()["items"][0].clone();
    let said = [
        "type",
        "reason",
        "action",
        "reportingController",
        "reportingInstance",
    ];
    assert_eq!(
        said.map(|field| event[field].as_str().unwrap()),
        ["Warning", "Refused", "Refuse", "millrace", &own]
    );
    assert_eq!(event["regarding"]["name"], "wrong");
    // Another node says the same, which is there already.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = TestNode::start(&config, &unique("other"), elsewhere.path());
    other.wait_count("events_left_out", 1);
    drop(other);
    let given = balance(&config, &own, &space);
    let ingress = patiently("the Service's address", || {
        let path = format!("/api/v1/namespaces/{space}/services/web");
        let ingress = maker.get(&path).unwrap()["status"]["loadBalancer"]["ingress"].clone();
        ingress.is_array().then_some(ingress)
    });
    assert_eq!(ingress[0]["ip"], "198.51.100.7");
    patiently("all of it", || {
        let asked = real.asked();
        let used: BTreeSet<Right> = asked.keys().cloned().collect();
        let unused: Vec<_> = allowed
            .difference(&used)
            // A cluster has Calico's objects by one of its two groups.
            .filter(|(_, group, _)| group != "projectcalico.org")
            .collect();
        unused.is_empty().then_some(())
    });
    drop((given, daemon));
    let asked = real.asked();
    let refused: Vec<_> = asked
        .iter()
        .filter(|(_, codes)| codes.contains(&401) || codes.contains(&403))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    let needless: Vec<_> = asked.keys().filter(|right| !allowed.contains(*right)).collect();
    assert!(needless.is_empty(), "{needless:?}");
}

/// Who gives out addresses for LoadBalancers: a Lease, leading, a Service's status.
fn balance(
    config: &Kubernetes,
    own: &str,
    space: &str,
) -> (mpsc::Sender<Order>, watch::Receiver<Arc<Members>>) {
    let (orders, taken) = mpsc::channel(8);
    let (members_in, members) = watch::channel(Arc::default());
    let options = Options {
        own: own.parse().unwrap(),
        lease: Duration::from_secs(2),
    };
    spawn(
        (config.clone(), "kube-system".to_owned()),
        options,
        taken,
        members_in,
    )
    .unwrap();
    let key = ServiceKey::new(space, "web").unwrap();
    let address: IpAddr = "198.51.100.7".parse().unwrap();
    let order = Order::Ingress(BTreeMap::from([(key, vec![address])]));
    orders.blocking_send(order).unwrap();
    (orders, members)
}

/// An account that may nothing is told so by name, and works as soon as it may.
#[test]
#[ignore = "is about a server's authorization: make test-api"]
fn an_account_without_rights_is_said_and_works_once_it_has_them() {
    const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let real = Real::at_hand();
    let (_by, maker) = real.server.maker();
    deploy(&maker);
    let mut made = Made::by(&maker);
    let name = unique("nobody");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}});
    let account = made.make("/api/v1/serviceaccounts", account);
    let uid = account["metadata"]["uid"].as_str().unwrap();
    let token = real.script("token", &["default", &name, uid, "3600"]);
    let state = tempfile::tempdir().unwrap();
    let daemon = TestNode::start(&real.config_with(&token), &unique("own"), state.path());
    let words = format!(
        "listing Pod: 403 pods is forbidden: User \"system:serviceaccount:default:{name}\" cannot list resource \"pods\" in API group \"\" at the cluster scope (the service account's ClusterRole must allow it)"
    );
    log::wait_for(&[&words]);
    assert_eq!(daemon.count("lists"), 0);
    made.make(
        BINDINGS,
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "millrace"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]}),
    );
    daemon.wait("all", |store| store.namespaces().contains_key("kube-system"));
}

/// A token that is over is said to be; the one that a kubelet writes in its place is used.
#[test]
#[ignore = "is about a server's tokens: make test-api"]
fn an_expired_token_is_said_and_the_next_one_in_its_file_is_used() {
    let real = Real::at_hand();
    let (_by, maker) = real.server.maker();
    deploy(&maker);
    let account = maker.get(ACCOUNT).unwrap();
    let uid = account["metadata"]["uid"].as_str().unwrap();
    let signed = |seconds: &str| real.script("token", &["millrace-system", "millrace", uid, seconds]);
    let config = real.config_with(&signed("-60"));
    let state = tempfile::tempdir().unwrap();
    let daemon = TestNode::start(&config, &unique("own"), state.path());
    log::wait_for(&["listing Node: 401 Unauthorized (the token is not accepted)"]);
    assert_eq!(daemon.count("lists"), 0);
    // As a kubelet does: another file in its place.
    let file = config.token_file.unwrap();
    let next = file.with_extension("next");
    fs::write(&next, signed("3600")).unwrap();
    fs::rename(&next, &file).unwrap();
    daemon.wait("all", |store| store.namespaces().contains_key("kube-system"));
}

/// The server goes and comes back without what it had in memory: nothing is taken away, all is listed anew, and followed.
#[test]
#[ignore = "stops the server: make test-api"]
fn a_server_that_is_started_anew_is_followed() {
    let real = Real::at_hand();
    let (_by, maker) = real.server.maker();
    let mut made = Made::by(&maker);
    let (own, space) = (unique("own"), unique("space"));
    let state = tempfile::tempdir().unwrap();
    let daemon = TestNode::start(&real.server.config, &own, state.path());
    // One that asks so seldom that its watches are where they were when the server is there again.
    let seldom = Duration::from_secs(20);
    let pace = Pace {
        retry_min: seldom,
        retry_max: seldom,
        ..Pace::default()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let slow = TestNode::start_at(pace, &real.server.config, &own, elsewhere.path());
    made.make(NODES, node(&own, "10.250.1.0/24"));
    made.make(NAMESPACES, namespace(&space));
    made.make(SERVICES, service(&space, "web"));
    made.make(SLICES, slice(&space, "web-1", "web", &["10.250.1.7"]));
    for node in [&daemon, &slow] {
        node.wait("the Service", |store| services_of(store, &space).eq([("web", 1)]));
    }
    real.script("stop", &[]);
    patiently("it is said to be away", || {
        (daemon.source.status().reachable == Some(false)).then_some(())
    });
    // Who starts meanwhile has the copy.
    drop(daemon);
    let daemon = TestNode::start(&real.server.config, &own, state.path());
    daemon.wait("the copy", |store| services_of(store, &space).eq([("web", 1)]));
    assert!(daemon.source.status().from_copy);
    real.script("again", &[]);
    patiently("its word", || (!daemon.source.status().from_copy).then_some(()));
    assert!(services_of(&daemon.store(), &space).eq([("web", 1)]));
    // Versions of before are too old for a server that has just started.
    slow.wait_count("expired", 1);
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{space}/endpointslices/web-1");
    let two = json!({"endpoints": [{"addresses": ["10.250.1.7"]}, {"addresses": ["10.250.1.8"]}]});
    maker.patch(&path, &two);
    for node in [&daemon, &slow] {
        node.wait("a change", |store| services_of(store, &space).eq([("web", 2)]));
    }
}

/// More objects than a page has; and what was before is forgotten while a list is under way.
#[test]
#[ignore = "makes thousands of objects, and the server forget: make test-api"]
fn lists_come_in_pages_that_a_real_server_may_forget() {
    const COUNT: usize = 1203;
    let real = Real::at_hand();
    let (_by, maker) = real.server.maker();
    let mut made = Made::by(&maker);
    let (own, space) = (unique("own"), unique("space"));
    made.make(NAMESPACES, namespace(&space));
    made.make(SERVICES, service(&space, "web"));
    let addresses: Vec<String> = (0..COUNT)
        .map(|number| format!("10.250.{}.{}", 1 + number / 200, 2 + number % 200))
        .collect();
    for (number, address) in addresses.iter().enumerate() {
        made.make(SLICES, slice(&space, &format!("web-{number}"), "web", &[address]));
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = TestNode::start(&real.server.config, &own, state.path());
    let all = |count| move |of: (&str, usize)| of == ("web", count);
    daemon.wait("all of them", |store| {
        services_of(store, &space).all(all(COUNT)) && services_of(store, &space).count() == 1
    });
    // What the code under test does with this answer, `faults` shows; that this is the answer, this does.
    let first = maker.get(&format!("{SLICES}?limit=500")).unwrap();
    assert_eq!(first["items"].as_array().unwrap().len(), 500);
    let next = first["metadata"]["continue"].as_str().unwrap();
    maker.delete(SLICES, &slice(&space, "web-0", "web", &[]));
    made.objects
        .retain(|(_, object)| object["metadata"]["name"] != "web-0");
    real.script("compact", &[]);
    let refused = maker
        .get(&format!("{SLICES}?limit=500&continue={next}"))
        .unwrap_err();
    assert!(
        refused.contains("410") || refused.contains("too old") || refused.contains("Expired"),
        "{refused}"
    );
    // A watch goes on all the same, and a list begins anew.
    daemon.wait("one fewer", |store| {
        services_of(store, &space).all(all(COUNT - 1))
    });
    assert_eq!(daemon.count("failures"), 0);
}

/// Watches end when their time is over, with a word about where they are; the next ones go on from there.
#[test]
#[ignore = "is about the server's watches: make test-api"]
fn watches_that_end_go_on() {
    let real = Real::at_hand();
    let (_by, maker) = real.server.maker();
    let mut made = Made::by(&maker);
    let state = tempfile::tempdir().unwrap();
    let pace = Pace {
        watch_max: Duration::from_secs(4),
        silence_max: Duration::from_secs(60),
        ..pace()
    };
    let own = unique("own");
    let daemon = TestNode::start_at(pace, &real.server.config, &own, state.path());
    daemon.wait_count("watches", 1);
    daemon.wait("all", |store| store.namespaces().contains_key("kube-system"));
    let (lists, watches) = (daemon.count("lists"), daemon.count("watches"));
    // Each kind's once more, and again.
    daemon.wait_count("watches", 3 * watches);
    made.make(NODES, node(&own, "10.250.1.0/24"));
    daemon.wait("the node", |store| store.own_node().is_some());
    assert_eq!(
        (
            daemon.count("lists"),
            daemon.count("expired"),
            daemon.count("changes_stale")
        ),
        (lists, 0, 0)
    );
}

/// By a kubeconfig, and past a server that somebody else's certificate vouches for.
#[test]
#[ignore = "is about the server's certificate: make test-api"]
fn the_servers_certificate_is_looked_at() {
    let real = Real::at_hand();
    let state = tempfile::tempdir().unwrap();
    let config = &real.server.config;
    let (server, ca) = (config.server.as_ref().unwrap(), config.ca_file.as_ref().unwrap());
    let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "a",
        "clusters": [{"name": "a", "cluster": {"server": server.to_string(), "certificate-authority": ca}}],
        "users": [{"name": "a", "user": {"tokenFile": config.token_file}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]});
    let file = real.files.path().join("kubeconfig");
    fs::write(&file, text.to_string()).unwrap();
    let by_file = Kubernetes {
        kubeconfig: Some(file),
        ..Kubernetes::default()
    };
    let daemon = TestNode::start(&by_file, &unique("own"), state.path());
    daemon.wait("all", |store| store.namespaces().contains_key("kube-system"));
    drop(daemon);
    let wrong = Kubernetes {
        ca_file: Some(crate::tls::authority(real.files.path(), "others")),
        ..config.clone()
    };
    let other_state = tempfile::tempdir().unwrap();
    let daemon = TestNode::start(&wrong, &unique("own"), other_state.path());
    let server = server.to_string();
    log::wait_for(&["the API server", &server, "cannot be reached", "UnknownIssuer"]);
    assert_eq!(daemon.count("lists"), 0);
}
