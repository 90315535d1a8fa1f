//! Addresses of load balancers: given out, probed for, announced by ARP and neighbour discovery, and kept over a kill.
//! Clients are stock kernels on the rack, which find the addresses as they find any other.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use millrace_tools::lab::plan::{Families, UPLINK};
use millrace_tools::lab::traffic::tcp_connect;
use millrace_tools::lab::{Daemon, Lab, MillraceOptions, Namespace, NodeKind, Topology, wait_until};
use serde_json::Value;

use super::BEAT;
use crate::frames::mac_of;
use crate::rig::{
    PATIENCE, SILENCE, address, await_that, daemon, daemon_mut, finish, guest, lab, node, pod, rows,
    side_by_side,
};

/// A few addresses of each family, on the rack's own network.
const POOL: &str = "\n[[load-balancer.pools]]\nname = \"rack\"\n\
                    addresses = [\"192.0.2.200-192.0.2.202\", \"2001:db8::200-2001:db8::201\"]\n";

/// Where the switch answers Prometheus.
const METRICS: &str = "127.0.0.1:9631";

const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 201));
const THIRD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 202));

fn first_v6() -> IpAddr {
    "2001:db8::200".parse().unwrap()
}

/// A Service of type LoadBalancer with one pod behind it.
fn service(name: &str, cluster_ips: &str, pods: &[IpAddr]) -> String {
    let slices: Vec<String> = pods
        .iter()
        .map(|pod| {
            let family = if pod.is_ipv4() { "IPv4" } else { "IPv6" };
            format!(
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{name: {name}-{}, labels: {{kubernetes.io/service-name: {name}}}}}\naddressType: {family}\n\
                 ports: [{{port: 8080}}]\nendpoints: [{{addresses: ['{pod}'], nodeName: node-a}}]\n",
                family.to_lowercase()
            )
        })
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{type: LoadBalancer, clusterIPs: [{cluster_ips}], ports: [{{port: 80}}]}}\n{}",
        slices.concat()
    )
}

/// Says hello to every caller.
struct Greeter {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Greeter {
    fn start(namespace: &Namespace, at: &[IpAddr]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let greet = |at: &IpAddr| {
            let listener = namespace
                .within(|| TcpListener::bind((*at, 8080)))
                .unwrap()
                .unwrap();
            listener.set_nonblocking(true).unwrap();
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    match listener.accept() {
                        // A caller that has gone already needs no greeting.
                        Ok((mut stream, _)) => drop(stream.write_all(b"hello")),
                        Err(_) => std::thread::sleep(BEAT / 5),
                    }
                }
            })
        };
        let threads = at.iter().map(greet).collect();
        Self { over, threads }
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Whether whoever has the address greets.
fn greets(from: &Namespace, to: IpAddr, patience: Duration) -> bool {
    let Ok(mut stream) = tcp_connect(from, SocketAddr::new(to, 80), patience) else {
        return false;
    };
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).is_ok() && said == "hello"
}

/// What `show load-balancers` says of an address.
fn row_of(daemon: &Daemon, address: IpAddr) -> Value {
    let text = address.to_string();
    let rows = rows(daemon, "load-balancers");
    rows.into_iter()
        .find(|row| row["address"] == text.as_str())
        .unwrap_or_default()
}

fn await_state(lab: &Lab, address: IpAddr, state: &str) -> Value {
    let daemon = daemon(lab, "node-a");
    let mut row = Value::Null;
    let came = wait_until(&format!("{address} to be {state}"), PATIENCE, || {
        row = row_of(daemon, address);
        Ok(row["state"] == state)
    });
    came.unwrap_or_else(|error| {
        panic!(
            "{error}: {:?}\n{}",
            rows(daemon, "load-balancers"),
            daemon.log_end()
        )
    });
    row
}

/// The link address that a machine has found for an address.
fn neighbour(of: &Namespace, address: IpAddr) -> String {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    of.ip(&[family, "neigh", "show", &address.to_string(), "dev", UPLINK])
        .unwrap()
}

#[test]
fn a_balancers_address_is_found_by_arp_and_by_neighbour_discovery() {
    let _machine = side_by_side();
    let topology = Topology {
        pods_per_node: 1,
        families: Families::Dual,
        millrace: MillraceOptions {
            extra: format!("{POOL}\n[metrics]\nlisten = \"{METRICS}\"\n"),
            ..MillraceOptions::default()
        },
        ..Topology::of(&[NodeKind::Millrace])
    };
    let mut lab = lab("balancers", &topology);
    let (client, _) = guest(&lab, "client", 77);
    client
        .ip(&["address", "add", "2001:db8::77/64", "dev", UPLINK, "nodad"])
        .unwrap();
    // A machine that has one of the pool's addresses, as nobody told the switch.
    let (owner, _) = guest(&lab, "owner", 201);
    let pods = [
        IpAddr::V4(address(&lab, "pod-a1")),
        IpAddr::V6(lab.pod("pod-a1").unwrap().address_v6().unwrap()),
    ];
    let _greeter = Greeter::start(pod(&lab, "pod-a1"), &pods);
    let switch = daemon(&lab, "node-a");
    switch
        .write_manifest("web.yaml", &service("web", "10.96.0.30, 'fd00:96::30'", &pods))
        .unwrap();
    for address in [FIRST, first_v6()] {
        let row = await_state(&lab, address, "announced");
        assert_eq!(
            (&row["announced_by"], &row["pool"]),
            (&"node-a".into(), &"rack".into()),
            "{row}"
        );
        assert!(greets(&client, address, PATIENCE), "{address}");
        let found = neighbour(&client, address);
        let mac = mac_of(node(&lab, "node-a"), UPLINK).to_string();
        assert!(found.contains(&mac), "{address} is at {mac}: {found}");
    }
    found_again(&lab, &client);
    taken(&lab, &client, &owner);
    scraped(&lab);
    // A fourth Service gets none, and is told so.
    switch
        .write_manifest("more.yaml", &service("more", "10.96.0.33", &pods[..1]))
        .unwrap();
    let exhausted = |row: &Value| {
        let reason = row["reason"].as_str().unwrap_or_default();
        row["services"][0] == "default/more"
            && reason.contains("is given out, or another host's, of pool `rack`")
    };
    await_that("a refusal", || {
        rows(switch, "load-balancers").iter().any(exhausted)
    });
    switch.remove_manifest("more.yaml").unwrap();
    // After a kill the Services have the same addresses, and what was announced is announced at once.
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    daemon_mut(&mut lab, "node-a").start().unwrap();
    let again = row_of(daemon(&lab, "node-a"), FIRST);
    assert!(again["services"][0] == "default/web", "{again}");
    assert!(greets(&client, FIRST, PATIENCE) && greets(&client, first_v6(), PATIENCE));
    await_state(&lab, SECOND, "conflict");
    // What is deleted is given up, and nobody answers for it.
    daemon(&lab, "node-a").remove_manifest("web.yaml").unwrap();
    await_that("no address of web's", || {
        row_of(daemon(&lab, "node-a"), FIRST).is_null()
    });
    for address in [FIRST, first_v6()] {
        let _ = client.ip(&["neigh", "flush", "dev", UPLINK]);
        assert!(!greets(&client, address, SILENCE), "{address}");
        let found = neighbour(&client, address);
        assert!(!found.contains("lladdr"), "{found}");
    }
    drop((client, owner));
    finish(lab);
}

/// A machine that has forgotten the address asks again; so do others.
fn found_again(lab: &Lab, client: &Namespace) {
    let before = answered(lab);
    for address in [FIRST, first_v6()] {
        client
            .ip(&["neigh", "del", &address.to_string(), "dev", UPLINK])
            .unwrap();
        assert!(greets(client, address, PATIENCE), "{address}");
    }
    assert!(answered(lab) >= before + 2, "both were answered: {before}");
    // One that knows it makes sure by asking at the address itself (RFC 4861 section 7.3.3).
    let mac = mac_of(node(lab, "node-a"), UPLINK).to_string();
    for address in [FIRST, first_v6()] {
        let text = address.to_string();
        client
            .ip(&[
                "neigh", "replace", &text, "lladdr", &mac, "dev", UPLINK, "nud", "probe",
            ])
            .unwrap();
        await_that("a neighbour that is sure", || {
            neighbour(client, address).contains("REACHABLE")
        });
    }
}

fn answered(lab: &Lab) -> u64 {
    let stats = daemon(lab, "node-a").json(&["stats"]).unwrap();
    stats["load_balancers"]["answered"].as_u64().unwrap()
}

/// The second address is somebody's: the probe finds that out, and the switch keeps off it. A Service that was just given it
/// gets the next one, and one that asks for it waits for it.
fn taken(lab: &Lab, client: &Namespace, owner: &Namespace) {
    let switch = daemon(lab, "node-a");
    let pods = [IpAddr::V4(address(lab, "pod-a1"))];
    let mac = mac_of(owner, UPLINK).to_string();
    switch
        .write_manifest("late.yaml", &service("late", "10.96.0.31", &pods))
        .unwrap();
    let row = await_state(lab, THIRD, "announced");
    assert_eq!(row["services"][0], "default/late", "{row}");
    assert!(greets(client, THIRD, PATIENCE));
    let row = await_state(lab, SECOND, "set-aside");
    assert_eq!(row["claimed_by"], mac.as_str(), "{row}");
    let log = std::fs::read_to_string(switch.log()).unwrap();
    for said in [
        format!("192.0.2.201 of Service default/late is also at {mac}"),
        format!("another host ({mac}) answers for 192.0.2.201, so 192.0.2.202 is given in its place"),
    ] {
        assert!(log.contains(&said), "{said}: {log}");
    }
    let asking = service("asked", "10.96.0.32", &pods);
    let asking = asking.replace("LoadBalancer,", "LoadBalancer, loadBalancerIP: 192.0.2.201,");
    switch.write_manifest("asked.yaml", &asking).unwrap();
    let row = await_state(lab, SECOND, "conflict");
    assert_eq!(row["services"][0], "default/asked", "{row}");
    assert_eq!(
        (&row["claimed_by"], &row["announced_by"]),
        (&mac.into(), &Value::Null),
        "{row}"
    );
}

/// The counters are had over HTTP too.
fn scraped(lab: &Lab) {
    let mut stream = tcp_connect(node(lab, "node-a"), METRICS.parse().unwrap(), PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: node-a\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(
        answer.contains("\nmillrace_transmitted_packets_total ") && answer.ends_with("# EOF\n"),
        "{answer}"
    );
}
