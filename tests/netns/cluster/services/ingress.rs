//! nginx and HAProxy as ingress pods, as `examples/ingress` has them: a client outside is seen by its own address, and a
//! pod of another node answers, by either family.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use millrace_tools::lab::plan::Families;
use millrace_tools::lab::{Lab, MillraceOptions, Namespace, NodeKind, Process, Topology};
use serde_json::{Value, json};

use super::{await_endpoints, declare};
use crate::rig::{PATIENCE, address, await_that, finish, lab, node, pod, side_by_side, underlay};

/// What the examples lead to, by the name that they have for it.
const WEB_NAME: &str = "web.default.svc.cluster.local";
const WEB: &str = "10.96.0.50";
/// How long a call may take that nobody is to answer.
const REFUSED_AFTER: Duration = Duration::from_secs(1);

/// An ingress of the examples: its file, the pod that it runs in, its key in its ConfigMap, its program with arguments
/// before the file, and its load balancer's addresses.
struct Ingress {
    name: &'static str,
    pod: &'static str,
    key: &'static str,
    program: &'static [&'static str],
    cluster_ips: [&'static str; 2],
    addresses: [&'static str; 2],
}

const INGRESSES: [Ingress; 2] = [
    Ingress {
        name: "nginx",
        pod: "pod-a1",
        key: "nginx.conf",
        program: &["nginx", "-g", "daemon off;", "-c"],
        cluster_ips: ["10.96.0.51", "fd96::51"],
        addresses: ["198.51.100.51", "2001:db8:51::51"],
    },
    Ingress {
        name: "haproxy",
        pod: "pod-a2",
        key: "haproxy.cfg",
        program: &["haproxy", "-db", "-f"],
        cluster_ips: ["10.96.0.52", "fd96::52"],
        addresses: ["198.51.100.52", "2001:db8:51::52"],
    },
];

/// The objects of an example, by kind.
fn example(name: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/ingress/{name}.yaml"));
    let text = std::fs::read_to_string(path).unwrap();
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str(document).unwrap())
        .collect()
}

fn of_kind(objects: &[Value], kind: &str) -> Value {
    objects
        .iter()
        .find(|object| object["kind"] == kind)
        .unwrap()
        .clone()
}

/// The example's Service as the cluster would complete it, with the slices of its one pod.
fn declared(service: Value, cluster_ips: &[&str], pod: (&[IpAddr], &str, u16)) -> String {
    let mut service = service;
    let (addresses, node, port) = pod;
    service["spec"]["clusterIP"] = json!(cluster_ips[0]);
    service["spec"]["clusterIPs"] = json!(cluster_ips);
    service["spec"]["ports"][0]["protocol"] = json!("TCP");
    let name = service["metadata"]["name"].as_str().unwrap().to_owned();
    let families: Vec<&str> = cluster_ips
        .iter()
        .map(|ip| if ip.contains(':') { "IPv6" } else { "IPv4" })
        .collect();
    service["spec"]["ipFamilies"] = json!(families);
    let slices = addresses
        .iter()
        .filter(|address| cluster_ips.iter().any(|ip| ip.contains(':') == address.is_ipv6()));
    let slices = slices.map(|address| {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{}", family.to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": family,
            "ports": [{"name": "http", "protocol": "TCP", "port": port}],
            "endpoints": [{"addresses": [address], "nodeName": node, "conditions": {"ready": true}}],
        })
    });
    let objects: Vec<String> = std::iter::once(service.clone())
        .chain(slices)
        .map(|object| object.to_string())
        .collect();
    objects.join("\n---\n")
}

/// Answers every request with who it is and whom it was told that it serves.
struct Web {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    fn start(namespace: &Namespace, at: SocketAddr) -> Self {
        let listener = namespace.within(|| TcpListener::bind(at)).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => answer(stream),
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self {
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(stream: std::net::TcpStream) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = stream;
    let lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let head: Vec<String> = lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .collect();
    let told: Vec<&str> = head
        .iter()
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("x-forwarded-for").then_some(value)
        })
        .collect();
    let body = format!("pod-b1 serves {}\n", told.join(" and "));
    let _ = write!(
        stream,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
}

/// What curl gets, if anything; it claims to be somebody else, which must not be believed.
fn call(from: &Namespace, to: &str, patience: Duration) -> Option<String> {
    let url = if to.contains(':') {
        format!("http://[{to}]/")
    } else {
        format!("http://{to}/")
    };
    let seconds = patience.as_secs().to_string();
    let arguments = [
        "-sS",
        "-g",
        "--noproxy",
        "*",
        "--max-time",
        &seconds,
        "-H",
        "X-Forwarded-For: 203.0.113.9",
        &url,
    ];
    from.run("curl", &arguments).ok()
}

/// Starts an ingress in its pod, with the configuration that its ConfigMap has.
fn start(lab: &Lab, ingress: &Ingress, objects: &[Value]) -> (Process, std::path::PathBuf) {
    let text = of_kind(objects, "ConfigMap")["data"][ingress.key]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(text.contains(WEB_NAME), "{text}");
    let folder = lab.folder().display().to_string();
    let path = lab.folder().join(ingress.key);
    std::fs::write(&path, text.replace(WEB_NAME, WEB).replace("/tmp", &folder)).unwrap();
    let (program, arguments) = ingress.program.split_first().unwrap();
    let mut command = pod(lab, ingress.pod).command(program);
    command.args(arguments).arg(&path);
    let log = lab.folder().join(format!("{}.log", ingress.name));
    (Process::spawn(command, &log).unwrap(), log)
}

#[test]
fn ingress_pods_see_clients_by_their_own_addresses() {
    let _machine = side_by_side();
    let millrace = MillraceOptions {
        extra: "\n[services]\ncidrs = [\"10.96.0.0/12\", \"fd96::/108\"]\n".to_owned(),
        ..MillraceOptions::default()
    };
    let topology = Topology {
        families: Families::Dual,
        millrace,
        ..Topology::of(&[NodeKind::Millrace, NodeKind::Millrace])
    };
    let mut lab = lab("ingress", &topology);
    lab.add_guest("client").unwrap();
    let at: SocketAddr = (address(&lab, "pod-b1"), 80).into();
    let _web = Web::start(pod(&lab, "pod-b1"), at);
    let service = of_kind(&example("web"), "Service");
    declare(
        &lab,
        "web",
        &declared(service, &[WEB], (&[at.ip()], "node-b", 80)),
    );
    await_endpoints(&lab, "web", 1);
    let client = &lab.guests()[0];
    let sees = [
        IpAddr::from(client.address()),
        client.address_v6().unwrap().into(),
    ];
    let a_v6 = lab
        .node("node-a")
        .unwrap()
        .plan()
        .v6()
        .unwrap()
        .underlay_address();
    let a = [underlay(&lab, "node-a").to_string(), a_v6.to_string()];
    for ingress in &INGRESSES {
        let objects = example(ingress.name);
        let here = lab.pod(ingress.pod).unwrap();
        let pods = [IpAddr::from(here.address()), here.address_v6().unwrap().into()];
        let mut service = of_kind(&objects, "Service");
        assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
        service["spec"]["healthCheckNodePort"] = json!(if ingress.name == "nginx" { 30551 } else { 30552 });
        service["status"] =
            json!({"loadBalancer": {"ingress": ingress.addresses.map(|ip| json!({"ip": ip}))}});
        declare(
            &lab,
            ingress.name,
            &declared(service, &ingress.cluster_ips, (&pods, "node-a", 8080)),
        );
        await_endpoints(&lab, &format!("ingress-{}", ingress.name), 1);
        let (mut process, log) = start(&lab, ingress, &objects);
        for ((to, via), sees) in ingress.addresses.iter().zip(&a).zip(sees) {
            client.namespace().ip(&["route", "add", to, "via", via]).unwrap();
            let what = format!("{} by {to}", ingress.name);
            let mut got = None;
            await_that(&format!("an answer of {what}"), || {
                process.check_running().unwrap();
                got = call(client.namespace(), to, PATIENCE);
                got.is_some()
            });
            assert_eq!(got.unwrap(), format!("pod-b1 serves {sees}\n"), "{what}");
            let logged = || std::fs::read_to_string(&log).unwrap();
            await_that(&format!("{what} in the log"), || {
                logged().contains(&format!("{sees} \"GET / HTTP/1.1\" 200 "))
            });
        }
        // A node without such a pod takes no connection; load balancers hear so from its health check.
        let b = underlay(&lab, "node-b").to_string();
        client
            .namespace()
            .ip(&["route", "replace", ingress.addresses[0], "via", &b])
            .unwrap();
        assert_eq!(
            call(client.namespace(), ingress.addresses[0], REFUSED_AFTER),
            None
        );
        process.terminate(PATIENCE).unwrap();
    }
    // Each node tells load balancers whether it has one.
    for (name, expected) in [("node-a", "200"), ("node-b", "503")] {
        let url = format!("http://{}:30551/", Ipv4Addr::LOCALHOST);
        let arguments = [
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--noproxy",
            "*",
            &url,
        ];
        assert_eq!(
            node(&lab, name).run("curl", &arguments).unwrap(),
            expected,
            "{name}"
        );
    }
    finish(lab);
}
