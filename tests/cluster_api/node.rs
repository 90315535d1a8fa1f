//! A node that takes its objects from an API server, and somebody who makes them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use hyper::{Method, Request};
use millrace::cluster::{Client, ClusterOptions, ClusterSource, Pace};
use millrace::config::Kubernetes;
use millrace::objects::{NetworkChoice, Source as _, Store};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fake::Fake;
use crate::log;

pub(crate) const NODES: &str = "/api/v1/nodes";
pub(crate) const PODS: &str = "/api/v1/pods";
pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// The longest that anything may take, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The times of a test: what takes minutes with a real server takes no longer than it must.
pub(crate) fn pace() -> Pace {
    Pace {
        retry_min: Duration::from_millis(20),
        retry_max: Duration::from_millis(1500),
        answer_max: Duration::from_secs(2),
        silence_max: Duration::from_secs(2),
        absent: Duration::from_millis(100),
        absent_after: Duration::from_millis(300),
        gather: Duration::from_millis(5),
        copy_after: Duration::from_millis(300),
        save: Duration::from_millis(20),
        subnet_file: Duration::from_millis(30),
        ..Pace::default()
    }
}

/// The server that a test is about.
pub(crate) struct Server {
    /// The tests' own, unless the environment names another.
    _fake: Option<Fake>,
    pub(crate) config: Kubernetes,
    folder: TempDir,
}

impl Server {
    pub(crate) fn any() -> Self {
        let token = TempDir::new().unwrap();
        let Ok(url) = env::var("MILLRACE_TEST_API") else {
            let fake = Fake::start();
            return Self {
                config: config(&fake.url()),
                _fake: Some(fake),
                folder: token,
            };
        };
        let file = token.path().join("token");
        let text = env::var("MILLRACE_TEST_API_TOKEN").unwrap_or_default();
        fs::write(&file, text.trim()).unwrap();
        let mut config = config(&url);
        config.token_file = (!text.is_empty()).then_some(file);
        config.ca_file = env::var_os("MILLRACE_TEST_API_CA").map(Into::into);
        Self {
            _fake: None,
            config,
            folder: token,
        }
    }

    /// Somebody who makes objects, for as long as the first of the two is there.
    pub(crate) fn maker(&self) -> (TestNode, Maker) {
        // Whose Events they are is what some tests are about.
        let config = Kubernetes {
            events: false,
            ..self.config.clone()
        };
        let by = TestNode::start(&config, &unique("maker"), self.folder.path());
        let maker = Maker::of(&by);
        (by, maker)
    }
}

pub(crate) fn config(url: &str) -> Kubernetes {
    Kubernetes {
        server: Some(url.parse().unwrap()),
        ..Kubernetes::default()
    }
}

/// A name that no other test has.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("millrace-test-{what}-{}-{number}", process::id())
}

/// A node.
pub(crate) struct TestNode {
    pub(crate) source: ClusterSource,
}

impl TestNode {
    /// Starts one with that name, whose state is in a folder.
    pub(crate) fn start(config: &Kubernetes, name: &str, state_dir: &Path) -> Self {
        Self::start_at(pace(), config, name, state_dir)
    }

    pub(crate) fn start_at(pace: Pace, config: &Kubernetes, name: &str, state_dir: &Path) -> Self {
        log::listen();
        let options = ClusterOptions {
            kubernetes: config.clone(),
            own: name.parse().unwrap(),
            network: NetworkChoice::Auto,
            state_dir: state_dir.to_owned(),
            pace,
        };
        Self {
            source: ClusterSource::start(options).unwrap(),
        }
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        self.source.subscribe().borrow().clone()
    }

    /// Waits for a store of which something is true.
    pub(crate) fn wait(&self, what: &str, is_true: impl Fn(&Store) -> bool) -> Arc<Store> {
        let store = || Some(self.store()).filter(|store| is_true(store));
        patiently(what, store)
    }

    /// Waits until a count has come to at least so much.
    pub(crate) fn wait_count(&self, name: &str, least: u64) {
        patiently(name, || (self.count(name) >= least).then_some(()));
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        self.source.status().counts[name]
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn patiently<T>(what: &str, ask: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "waited in vain: {what}; what was said:\n{}",
            log::said()
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whoever makes objects, over the API.
pub(crate) struct Maker {
    client: Client,
    runtime: tokio::runtime::Handle,
}

impl Maker {
    pub(crate) fn of(node: &TestNode) -> Self {
        Self {
            client: node.source.client(),
            runtime: node.source.handle().clone(),
        }
    }

    fn ask(&self, method: Method, path: &str, content_type: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type);
        let request = request.body(body).unwrap();
        let client = self.client.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        self.runtime.spawn(async move {
            let answer = client.request::<Value>(request).await;
            let _ = sender.send(answer.map_err(|error| error.to_string()));
        });
        receiver.recv_timeout(PATIENCE).unwrap()
    }

    /// Path of an object.
    fn path(kind: &str, object: &Value) -> (String, String) {
        let name = object["metadata"]["name"].as_str().unwrap();
        let all = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => {
                let (group, plural) = kind.rsplit_once('/').unwrap();
                format!("{group}/namespaces/{namespace}/{plural}")
            }
            None => kind.to_owned(),
        };
        (format!("{all}/{name}"), all)
    }

    /// Makes an object, and then its status, as those do whose it is to say.
    pub(crate) fn make(&self, kind: &str, object: &Value) -> Value {
        let (path, all) = Self::path(kind, object);
        let made = self.post(&all, object);
        let Some(status) = object.get("status") else {
            return made;
        };
        self.patch(&format!("{path}/status"), &json!({"status": status}))
    }

    /// Makes an object that may be there already.
    pub(crate) fn try_make(&self, kind: &str, object: &Value) -> Result<Value, String> {
        self.ask(
            Method::POST,
            &Self::path(kind, object).1,
            "application/json",
            object,
        )
    }

    pub(crate) fn post(&self, path: &str, object: &Value) -> Value {
        self.ask(Method::POST, path, "application/json", object).unwrap()
    }

    pub(crate) fn patch(&self, path: &str, patch: &Value) -> Value {
        self.try_patch(path, patch).unwrap()
    }

    pub(crate) fn try_patch(&self, path: &str, patch: &Value) -> Result<Value, String> {
        self.ask(Method::PATCH, path, "application/merge-patch+json", patch)
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(Method::GET, path, "application/json", &Value::Null)
    }

    pub(crate) fn replace(&self, kind: &str, object: &Value) -> Result<Value, String> {
        self.ask(
            Method::PUT,
            &Self::path(kind, object).0,
            "application/json",
            object,
        )
    }

    /// Deletes an object at once.
    pub(crate) fn delete(&self, kind: &str, object: &Value) {
        self.try_delete(kind, object).unwrap();
    }

    pub(crate) fn try_delete(&self, kind: &str, object: &Value) -> Result<Value, String> {
        let now = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        let path = Self::path(kind, object).0;
        self.ask(Method::DELETE, &path, "application/json", &now)
    }
}

/// A Node with a pod CIDR.
pub(crate) fn node(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})
}

/// A Pod that runs on a node.
pub(crate) fn pod(namespace: &str, name: &str, node: &str, ip: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "none", "ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}})
}

/// A Service without addresses of its own.
pub(crate) fn service(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 80}]}})
}

/// An EndpointSlice of a Service.
pub(crate) fn slice(namespace: &str, name: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "endpoints": endpoints})
}
