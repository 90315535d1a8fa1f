//! The node's own resolver, as pods use it that were told of it by the plugin: `dig`, libc's getaddrinfo and `curl`, from
//! both nodes and from a node itself, in both families, by UDP and TCP.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use millrace_tools::lab::plan::Families;
use millrace_tools::lab::traffic::HttpServer;
use millrace_tools::lab::{Guest, Lab, MillraceOptions, Namespace, NodeKind, Topology, wait_until};
use serde_json::{Value, json};

use crate::runtime::{PATIENCE, Runtime, Sandbox, addresses, daemon, daemon_mut, finish};

/// Where the resolver is, and whom it asks: the lab's first guest.
const DNS: &str = "\n[services]\ncidrs = [\"10.96.0.0/12\", \"fd96::/108\"]\n\
    [dns]\naddresses = [\"10.96.0.10\", \"fd96::a\"]\nupstreams = [\"192.0.2.100\"]\n";
const RESOLVERS: [&str; 2] = ["10.96.0.10", "fd96::a"];
/// The endpoints of a Service whose answer fits no datagram.
const MANY: usize = 120;

#[test]
fn pods_reach_services_of_every_type_by_name() {
    let topology = Topology {
        pods_per_node: 0,
        families: Families::Dual,
        millrace: MillraceOptions {
            extra: DNS.to_owned(),
            ..MillraceOptions::default()
        },
        ..Topology::of(&[NodeKind::Millrace, NodeKind::Millrace])
    };
    let mut lab = Lab::bring_up("cni-names", &topology).unwrap();
    lab.add_guest("outside").unwrap();
    let guest = &lab.guests()[0];
    let upper = Upper::start(guest);
    let (here, there) = (Runtime::new(&lab, "node-a"), Runtime::new(&lab, "node-b"));
    let (near, far) = (Sandbox::new(&lab, "near"), Sandbox::new(&lab, "far"));
    let server = Sandbox::new(&lab, "server");
    let at_server = there.add(&server).unwrap();
    let told = [here.add(&near).unwrap(), there.add(&far).unwrap()];
    for result in &told {
        assert_eq!(
            result["dns"],
            json!({
                "nameservers": RESOLVERS,
                "search": ["lab.svc.cluster.local", "svc.cluster.local", "cluster.local"],
                "options": ["ndots:5"],
            })
        );
    }
    let resolv_conf = resolv_conf(&lab, &told[0]["dns"]);
    let (v4, v6) = addresses(&at_server);
    let serve =
        |namespace: &Namespace, name: &str, at: IpAddr| HttpServer::start(namespace, name, at).unwrap();
    let servers = [
        serve(&server.namespace, "server", v4.into()),
        serve(&server.namespace, "server", v6.into()),
        serve(guest.namespace(), "outside", guest.address().into()),
    ];
    let ports = servers.each_ref().map(|server| server.address().port());
    for node in ["node-a", "node-b"] {
        daemon(&lab, node)
            .write_manifest("names.yaml", &objects((v4, v6), ports))
            .unwrap();
    }
    let node = lab.node("node-a").unwrap().namespace();
    for from in [&near.namespace, &far.namespace, node] {
        wait_until("the last object's name", PATIENCE, || {
            Ok(dig(from, RESOLVERS[0], &["+short", "last.lab.svc.cluster.local"]).trim() == "10.96.0.29")
        })
        .unwrap();
        for resolver in RESOLVERS {
            assert_answers(from, resolver);
        }
    }
    for from in [&near.namespace, &far.namespace] {
        assert_found_by_libc(from, &resolv_conf);
        assert_served_by_name(from, &resolv_conf, ports);
    }
    assert_closed_to_the_underlay(&lab);
    assert_isolated_pods_resolve(&lab, &near, &at_server, &told[0], ports[0]);
    let shown = daemon(&lab, "node-a").json(&["show", "dns"]).unwrap();
    assert_eq!(
        shown["listens_at"],
        json!(["10.244.1.0:10053", "[fd00:1::]:10053"])
    );
    assert!(shown["upstreams"][0]["answered"].as_u64().unwrap() > 0, "{shown}");
    let counted = daemon(&lab, "node-a").json(&["stats"]).unwrap();
    for name in [
        "queries_udp",
        "queries_tcp",
        "truncated",
        "no_such_name",
        "no_data",
        "forwarded",
    ] {
        assert!(
            counted["dns"][name].as_u64().unwrap() > 0,
            "{name}: {}",
            counted["dns"]
        );
    }
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    assert_answers(&near.namespace, RESOLVERS[1]);
    drop((upper, servers));
    for (runtime, sandbox) in [(&here, &near), (&there, &far), (&there, &server)] {
        runtime.del(sandbox).unwrap();
    }
    finish(lab, &[&here, &there], vec![near, far, server]);
}

/// A Service of every type, and a headless one with many endpoints. The servers' ports are those of IPv4, of IPv6, and of
/// the machine outside.
fn objects((v4, v6): (Ipv4Addr, Ipv6Addr), ports: [u16; 3]) -> String {
    let service = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: lab}}\nspec: {{{spec}}}\n"
        )
    };
    let slice = |service: &str, address: IpAddr, port: u16| {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {service}-{}, namespace: lab, labels: {{kubernetes.io/service-name: {service}}}}}\n\
             addressType: {family}\nports: [{{name: http, port: {port}}}]\n\
             endpoints: [{{addresses: ['{address}'], hostname: zero}}]\n",
            family.to_lowercase()
        )
    };
    let port = "ports: [{name: http, port: 80}]";
    let mut text = [
        service("web", &format!("clusterIPs: [10.96.0.20, 'fd96::20'], {port}")),
        service(
            "nodes",
            "type: NodePort, clusterIPs: [10.96.0.21, 'fd96::21'], ports: [{name: http, port: 80, nodePort: 30080}]",
        ),
        service("balanced", &format!("type: LoadBalancer, clusterIPs: [10.96.0.22, 'fd96::22'], {port}")),
        service("headless", &format!("clusterIP: None, {port}")),
        service("outside", "type: ExternalName, externalName: www.example.test"),
        service("alias", "type: ExternalName, externalName: web.lab.svc.cluster.local"),
        service("many", "clusterIP: None"),
        service("last", &format!("clusterIP: 10.96.0.29, {port}")),
    ]
    .concat();
    for name in ["web", "nodes", "balanced", "headless"] {
        text.push_str(&slice(name, v4.into(), ports[0]));
        text.push_str(&slice(name, v6.into(), ports[1]));
    }
    let many = (1..=MANY).map(|number| format!("{{addresses: [10.244.9.{number}]}}"));
    text.push_str(&format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: many, namespace: lab, labels: {{kubernetes.io/service-name: many}}}}\naddressType: IPv4\n\
         ports: []\nendpoints: [{}]\n",
        many.collect::<Vec<_>>().join(", ")
    ));
    text
}

/// What `dig` prints, asked of a resolver.
fn dig(from: &Namespace, resolver: &str, words: &[&str]) -> String {
    let at = format!("@{resolver}");
    let line = [&[at.as_str(), "+tries=2", "+timeout=3"], words].concat();
    from.complete("dig", &line, Duration::from_secs(30))
        .unwrap()
        .stdout
}

/// Names are answered, and wrong ones told from those that have nothing of the kind; by UDP and by TCP.
fn assert_answers(from: &Namespace, resolver: &str) {
    let domain = |name: &str| format!("{name}.lab.svc.cluster.local");
    for (name, kind, expected) in [
        ("web", "A", "10.96.0.20"),
        ("web", "AAAA", "fd96::20"),
        ("zero.headless", "AAAA", "fd00:2::2"),
        ("_http._tcp.web", "SRV", "0 100 80 web.lab.svc.cluster.local."),
        ("alias", "A", "web.lab.svc.cluster.local.\n10.96.0.20"),
        ("outside", "A", "www.example.test.\n192.0.2.100"),
    ] {
        for transport in ["+notcp", "+tcp"] {
            let said = dig(from, resolver, &["+short", transport, &domain(name), kind]);
            assert_eq!(
                said.trim(),
                expected,
                "{name} {kind} {transport} from {}",
                from.name()
            );
        }
    }
    let said = dig(from, resolver, &["+short", "-x", "10.96.0.20"]);
    assert_eq!(said.trim(), "web.lab.svc.cluster.local.");
    for (name, kind, status) in [("wrong", "A", "NXDOMAIN"), ("last", "AAAA", "NOERROR")] {
        let said = dig(from, resolver, &[&domain(name), kind]);
        assert!(said.contains(&format!("status: {status}")), "{said}");
        assert!(
            said.contains("ANSWER: 0, AUTHORITY: 1") && said.contains("SOA"),
            "{said}"
        );
    }
    // 120 addresses do not fit, and it says so; dig asks again by TCP unless it is told not to.
    let cut = dig(from, resolver, &["+ignore", &domain("many")]);
    assert!(cut.contains(" tc ") && cut.contains("ANSWER: 0"), "{cut}");
    let whole = dig(from, resolver, &["+short", &domain("many")]);
    let found = whole.lines().filter(|line| line.starts_with("10.244.9.")).count();
    assert_eq!(found, MANY, "{whole}");
}

/// The file as a runtime writes it from what the plugin answered.
fn resolv_conf(lab: &Lab, dns: &Value) -> PathBuf {
    let words = |key: &str| {
        let list = dns[key].as_array().unwrap().iter();
        list.map(|word| word.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut text: String = words("nameservers")
        .iter()
        .map(|at| format!("nameserver {at}\n"))
        .collect();
    text.push_str(&format!(
        "search {}\noptions {}\n",
        words("search").join(" "),
        words("options").join(" ")
    ));
    let path = lab.folder().join("resolv.conf");
    fs::write(&path, text).unwrap();
    path
}

/// Runs a command in a pod with that file in place; what it prints.
fn with_names(from: &Namespace, resolv_conf: &Path, line: &str) -> String {
    let script = format!(
        "mount --bind {} /etc/resolv.conf && exec {line}",
        resolv_conf.display()
    );
    from.complete("sh", &["-c", &script], Duration::from_secs(30))
        .unwrap()
        .success()
        .unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// getaddrinfo finds short names over the search path, and names elsewhere behind it.
fn assert_found_by_libc(from: &Namespace, resolv_conf: &Path) {
    for (name, expected) in [
        ("web", &["10.96.0.20", "fd96::20"][..]),
        ("web.lab", &["10.96.0.20", "fd96::20"]),
        ("alias", &["10.96.0.20", "fd96::20"]),
        ("headless", &["10.244.2.2", "fd00:2::2"]),
        ("www.example.test", &["192.0.2.100"]),
    ] {
        let said = with_names(from, resolv_conf, &format!("getent ahosts {name}"));
        let mut found: Vec<&str> = said
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, expected, "{name}: {said}");
    }
}

/// A Service of every type is called by its name, in each family that it has.
fn assert_served_by_name(from: &Namespace, resolv_conf: &Path, ports: [u16; 3]) {
    let [v4, v6, outside] = ports;
    for (url, family, server) in [
        ("web".to_owned(), "-4", "server"),
        ("web".to_owned(), "-6", "server"),
        ("nodes.lab".to_owned(), "-4", "server"),
        ("nodes.lab".to_owned(), "-6", "server"),
        ("balanced.lab.svc".to_owned(), "-4", "server"),
        ("balanced.lab.svc.cluster.local".to_owned(), "-6", "server"),
        (format!("headless:{v4}"), "-4", "server"),
        (format!("zero.headless:{v6}"), "-6", "server"),
        ("alias".to_owned(), "-4", "server"),
        (format!("outside:{outside}"), "-4", "outside"),
    ] {
        let said = with_names(
            from,
            resolv_conf,
            &format!("curl {family} -sS -i --max-time 10 http://{url}/10"),
        );
        assert!(
            said.contains(&format!("X-Served-By: {server}")),
            "{url} {family}: {said}"
        );
    }
}

/// At the node's own address on the underlay there is no resolver, for anybody.
fn assert_closed_to_the_underlay(lab: &Lab) {
    let (guest, node) = (lab.guests()[0].namespace(), lab.node("node-a").unwrap().plan());
    let at = node.underlay_address().to_string();
    for (port, transport) in [("53", "+notcp"), ("10053", "+notcp"), ("10053", "+tcp")] {
        let words = ["-p", port, "+tries=1", "+timeout=1", transport, "cluster.local"];
        let said = dig(guest, &at, &words);
        assert!(!said.contains("status:"), "{said}");
    }
}

/// A pod that may talk to nobody still resolves names, since its own node is always allowed.
fn assert_isolated_pods_resolve(lab: &Lab, pod: &Sandbox, server: &Value, result: &Value, port: u16) {
    let (v4, v6) = addresses(result);
    let objects = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: lab}}\n\
         spec: {{nodeName: node-a, containers: [{{name: main, image: none}}]}}\n\
         status: {{podIP: {v4}, podIPs: [{{ip: {v4}}}, {{ip: '{v6}'}}]}}\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: alone, namespace: lab}}\n\
         spec: {{podSelector: {{}}, policyTypes: [Egress]}}\n",
        pod.pod
    );
    daemon(lab, "node-a")
        .write_manifest("alone.yaml", &objects)
        .unwrap();
    let url = format!("http://{}:{port}/1", addresses(server).0);
    wait_until("a closed pod", PATIENCE, || {
        let line = ["-sS", "--max-time", "1", url.as_str()];
        Ok(!pod.namespace.complete("curl", &line, PATIENCE)?.status.success())
    })
    .unwrap();
    for resolver in RESOLVERS {
        assert_answers(&pod.namespace, resolver);
    }
    daemon(lab, "node-a").remove_manifest("alone.yaml").unwrap();
}

/// A name server outside of the cluster that knows one address for all names.
struct Upper {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upper {
    fn start(guest: &Guest) -> Self {
        let at = (guest.address(), 53);
        let socket = guest.namespace().within(|| UdpSocket::bind(at)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (ends, address) = (Arc::new(AtomicBool::new(false)), guest.address());
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&answer(&buffer[..length], address), client);
                }
            }
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Upper {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The answer to a query with one question (RFC 1035, section 4): the address, if one of IPv4 is asked for.
fn answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let name = query[12..].iter().position(|byte| *byte == 0).unwrap() + 13;
    let question = &query[12..name + 4];
    let is_a = query[name..name + 2] == [0, 1];
    let head = [0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
    let mut answer = [&query[..2], &head, question].concat();
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
