//! `millrace show`, and what `attach` prints.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::output::{Table, grouped, understand};
use super::{Subject, dns, load_balancers, networks, policies, services, stations};
use crate::admin::protocol::{
    DnsRow, Failure, Flows, NeighbourRow, PeerRow, PortRow, QueueRow, Request, RouteRow, ServiceRow,
    ShowFilter, WorkerRow,
};

/// Stands where there is nothing to say.
const NOTHING: &str = "-";

/// Flows, or stations, that are shown unless another number is asked for.
const ROWS_SHOWN: usize = 1000;

/// What the daemon is asked for.
///
/// # Errors
/// There is a filter, and no way to filter what is asked for.
pub(super) fn request(what: Subject, filter: ShowFilter) -> Result<Request, Failure> {
    check_filter(what, &filter)?;
    Ok(match what {
        Subject::Flows => Request::ShowFlows(ShowFilter {
            limit: filter.limit.or(Some(ROWS_SHOWN)),
            ..filter
        }),
        Subject::Fdb => Request::ShowFdb(ShowFilter {
            limit: filter.limit.or(Some(ROWS_SHOWN)),
            ..filter
        }),
        Subject::Ports => Request::ShowPorts,
        Subject::Routes => Request::ShowRoutes,
        Subject::Neighbours => Request::ShowNeighbours,
        Subject::Peers => Request::ShowPeers,
        Subject::Workers => Request::ShowWorkers,
        Subject::Services => Request::ShowServices(filter),
        Subject::LoadBalancers => Request::ShowLoadBalancers,
        Subject::Policies => Request::ShowPolicies,
        Subject::Dns => Request::ShowDns,
        Subject::Networks => Request::ShowNetworks,
    })
}

/// That what is asked for can be chosen from in this way.
fn check_filter(what: Subject, filter: &ShowFilter) -> Result<(), Failure> {
    // What chooses among stations, and what among Services; connections are chosen by all of it.
    let of_stations = ShowFilter {
        network: filter.network.clone(),
        limit: filter.limit,
        ..ShowFilter::default()
    };
    let others = ShowFilter {
        network: None,
        ..filter.clone()
    };
    let allowed = match what {
        Subject::Fdb => &of_stations,
        Subject::Services => &others,
        Subject::Flows => filter,
        _ => &ShowFilter::default(),
    };
    if filter == allowed {
        return Ok(());
    }
    Err(Failure::wrong(
        "--pod, --address, --port and --state choose among services and flows, --network among flows and stations (fdb); leave them out",
    ))
}

/// The daemon's answer, a list of rows, as a table.
///
/// # Errors
/// The answer is not such a list.
pub(super) fn render(what: Subject, answer: Value) -> Result<String, Failure> {
    let (name, table) = match what {
        Subject::Flows => return Ok(flows(understand(answer)?)),
        Subject::Fdb => return Ok(stations::page(&understand(answer)?)),
        Subject::Dns => return Ok(dns::page(understand::<Option<DnsRow>>(answer)?.as_ref())),
        Subject::Ports => ("ports", ports(&understand::<Vec<_>>(answer)?)),
        Subject::Routes => ("routes", routes(understand(answer)?)),
        Subject::Neighbours => ("neighbours", neighbours(understand(answer)?)),
        Subject::Peers => ("peers", peers(understand(answer)?)),
        Subject::Workers => ("workers", workers(understand(answer)?)),
        Subject::Networks => ("networks", networks::table(&understand::<Vec<_>>(answer)?)),
        Subject::Policies => ("policies", policies::table(&understand::<Vec<_>>(answer)?)),
        Subject::LoadBalancers => (
            "load balancers",
            load_balancers::table(&understand::<Vec<_>>(answer)?),
        ),
        Subject::Services => (
            "services",
            services::table(&understand::<Vec<ServiceRow>>(answer)?),
        ),
    };
    Ok(if table.is_empty() {
        format!("no {name}\n")
    } else {
        table.render("")
    })
}

/// What is said of a pod that has been attached: its port, if the daemon describes it.
pub(super) fn render_attached(pod: &str, answer: Value) -> String {
    match understand::<PortRow>(answer) {
        Ok(port) => format!("attached {pod}\n{}", ports(&[port]).render("  ")),
        Err(_) => format!("attached {pod}\n"),
    }
}

pub(super) fn or_nothing(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| NOTHING.to_owned())
}

pub(super) fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    or_nothing(Some(items.join(",")))
}

fn either(condition: bool, yes: &str, no: &str) -> String {
    if condition { yes.to_owned() } else { no.to_owned() }
}

fn role(row: &PortRow) -> String {
    if row.networks.is_empty() {
        return row.role.clone();
    }
    format!("{} {}", row.role, row.networks.join(","))
}

fn ports(rows: &[PortRow]) -> Table {
    let mut table = Table::new(&[
        ">ID",
        "INTERFACE",
        "ROLE",
        "POD",
        "ADDRESSES",
        "MAC",
        "PEER-MAC",
        ">MTU",
        ">QUEUES",
        "STATE",
        "XDP",
        "BIND",
        "BANDWIDTH",
    ]);
    for row in rows {
        table.row([
            row.id.to_string(),
            row.interface.clone(),
            role(row),
            or_nothing(row.pod.clone()),
            list(&row.addresses),
            row.mac.clone(),
            or_nothing(row.peer_mac.clone()),
            row.mtu.to_string(),
            queues(row),
            either(row.up, "up", "down"),
            row.xdp_mode.clone(),
            or_nothing(Some(row.bind_mode.clone())),
            list(&row.limits),
        ]);
    }
    table
}

/// How many queues, which of them are left to the kernel, and which have frames to send and do not.
fn queues(row: &PortRow) -> String {
    let named = |what: &str, belongs: fn(&QueueRow) -> bool| {
        let numbers = row.per_queue.iter().filter(|queue| belongs(queue));
        let numbers: Vec<String> = numbers.map(|queue| queue.queue.to_string()).collect();
        (!numbers.is_empty()).then(|| format!("{what}: {}", numbers.join(",")))
    };
    let notes = [
        named("kernel", |queue| queue.kernel),
        named("stalled", |queue| queue.stalled_ms > 0),
    ];
    let notes: Vec<String> = notes.into_iter().flatten().collect();
    if notes.is_empty() {
        return row.queues.to_string();
    }
    format!("{} ({})", row.queues, notes.join("; "))
}

fn routes(rows: Vec<RouteRow>) -> Table {
    let mut table = Table::new(&["DESTINATION", "KIND", "PORT", "TO"]);
    for row in rows {
        table.row([
            row.prefix,
            row.kind,
            or_nothing(row.port),
            or_nothing(Some(row.to)),
        ]);
    }
    table
}

fn neighbours(rows: Vec<NeighbourRow>) -> Table {
    let mut table = Table::new(&["ADDRESS", "PORT", "MAC", "STATE", "IN-USE"]);
    for row in rows {
        let used = either(row.used, "yes", "no");
        table.row([
            row.address.to_string(),
            row.port,
            or_nothing(row.mac),
            row.state,
            used,
        ]);
    }
    table
}

fn peers(rows: Vec<PeerRow>) -> Table {
    let mut table = Table::new(&[
        "NODE",
        "ADDRESS",
        "TUNNEL",
        "POD-CIDRS",
        ">MTU",
        "NEXT-HOP",
        "READY",
    ]);
    for row in rows {
        table.row([
            row.node,
            row.remote.to_string(),
            row.tunnel,
            list(row.pod_cidrs),
            row.mtu.to_string(),
            or_nothing(Some(row.next_hop)),
            either(row.ready, "yes", "no"),
        ]);
    }
    table
}

fn workers(rows: Vec<WorkerRow>) -> Table {
    let mut table = Table::new(&[
        ">WORKER",
        ">CORE",
        ">LOAD",
        ">SLEEPS",
        ">FRAMES-FREE",
        ">IN-HAND",
        ">IN-PORTS",
        "QUEUES",
    ]);
    for row in rows {
        table.row([
            row.worker.to_string(),
            row.core.to_string(),
            percent(row.load_permille),
            grouped(row.sleeps),
            grouped(row.frames_free.into()),
            grouped(row.frames_in_tokens.into()),
            grouped(row.frames_in_ports.into()),
            list(row.queues),
        ]);
    }
    table
}

/// The connections, and how many there are that are not shown.
fn flows(answer: Flows) -> String {
    // Most clusters have one network.
    let has_networks = answer.flows.iter().any(|row| row.network.is_some());
    let network = if has_networks { &["NETWORK"][..] } else { &[] };
    let columns = [
        "PROTOCOL",
        "STATE",
        "FROM",
        "TO",
        "REPLIES-FROM",
        "REPLIES-TO",
        "OPENED-BY",
        "ONWARD",
        ">AGE",
        ">IDLE",
        "POLICIES",
    ];
    let mut table = Table::new(&[network, &columns].concat());
    let shown = answer.flows.len();
    for row in answer.flows {
        let network = has_networks.then(|| or_nothing(row.network));
        table.row(network.into_iter().chain([
            row.protocol,
            row.state,
            end(row.original.source, row.original.source_port),
            end(row.original.destination, row.original.destination_port),
            end(row.reply.source, row.reply.source_port),
            end(row.reply.destination, row.reply.destination_port),
            or_nothing(row.opener),
            or_nothing(row.onward),
            format!("{} s", row.age_seconds),
            format!("{} s", row.idle_seconds),
            or_nothing(row.policies),
        ]));
    }
    let mut text = if table.is_empty() {
        String::new()
    } else {
        table.render("")
    };
    text.push_str(&format!(
        "{} of {} matching flows; {} connections, room for {}\n",
        grouped(shown as u64),
        grouped(answer.matching),
        grouped(answer.connections),
        grouped(answer.capacity),
    ));
    text
}

/// One end of a connection.
fn end(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// Thousandths as per cent.
pub(super) fn percent(permille: u64) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(what: Subject, answer: Value) -> Vec<String> {
        render(what, answer).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn ports_with_and_without_a_pod() {
        let uplink = json!({"id": 1, "interface": "eth1", "role": "uplink", "pod": null, "addresses": [],
            "mac": "02:00:00:00:00:01", "peer_mac": null, "mtu": 1500, "queues": 4, "up": true,
            "xdp_mode": "generic (native refused: EOPNOTSUPP)", "bind_mode": "copy", "per_queue": [
                {"queue": 0, "worker": null, "bind_mode": null, "kernel": true},
                {"queue": 1, "worker": 1, "bind_mode": "copy", "kernel": false},
                {"queue": 3, "worker": 1, "bind_mode": "copy", "kernel": false, "stalled_ms": 4000}]});
        let pod = json!({"id": 12, "interface": "mr1", "role": "pod", "pod": "default/web-0",
            "addresses": ["10.244.1.7", "fd00::7"], "mac": "02:00:00:00:00:02", "peer_mac": "02:00:00:00:00:03",
            "mtu": 1450, "queues": 1, "up": false, "xdp_mode": "native", "limits": [
                {"direction": "ingress", "rate": 10_000_000, "burst": 2_500_000, "dropped": 7},
                {"direction": "egress", "rate": 1500, "burst": 131_072, "dropped": 0}]});
        let lines = table(Subject::Ports, json!([uplink, pod]));
        assert_eq!(
            lines,
            [
                "ID  INTERFACE  ROLE    POD            ADDRESSES           MAC                PEER-MAC            \
                 MTU                     QUEUES  STATE  XDP                                   BIND  BANDWIDTH",
                " 1  eth1       uplink  -              -                   02:00:00:00:00:01  -                  \
                 1500  4 (kernel: 0; stalled: 3)  up     generic (native refused: EOPNOTSUPP)  copy  -",
                "12  mr1        pod     default/web-0  10.244.1.7,fd00::7  02:00:00:00:00:02  02:00:00:00:00:03  \
                 1450                          1  down   native                                -     ingress 10 Mbit/s (7 dropped),egress 1500 bit/s (0 dropped)",
            ]
        );
        let attached = render_attached("default/web-0", lines_of_pod());
        assert!(
            attached.starts_with("attached default/web-0\n  ID  INTERFACE"),
            "{attached}"
        );
    }

    fn lines_of_pod() -> Value {
        json!({"id": 3, "interface": "mr1", "role": "pod", "pod": "default/web-0", "addresses": ["10.244.1.7"],
            "mac": "", "peer_mac": null, "mtu": 1450, "queues": 1, "up": true, "xdp_mode": "native"})
    }

    #[test]
    fn attached_without_description_is_said_shortly() {
        assert_eq!(render_attached("a/b", json!({})), "attached a/b\n");
    }

    #[test]
    fn routes_neighbours_peers_and_workers() {
        let rows = [
            (
                Subject::Routes,
                json!([{"prefix": "10.244.2.0/24", "kind": "tunnel", "to": "node-b", "port": "eth1"},
                    {"prefix": "0.0.0.0/0", "kind": "unreachable", "to": "", "port": null}]),
                vec![
                    "DESTINATION    KIND         PORT  TO",
                    "10.244.2.0/24  tunnel       eth1  node-b",
                    "0.0.0.0/0      unreachable  -     -",
                ],
            ),
            (
                Subject::Neighbours,
                json!([{"address": "192.0.2.2", "port": "eth1", "mac": null, "state": "failed", "used": true}]),
                vec![
                    "ADDRESS    PORT  MAC  STATE   IN-USE",
                    "192.0.2.2  eth1  -    failed  yes",
                ],
            ),
            (
                Subject::Peers,
                json!([{"node": "node-b", "remote": "192.0.2.2", "tunnel": "vxlan vni 1", "mtu": 1450,
                    "pod_cidrs": ["10.244.2.0/24"], "next_hop": "192.0.2.2 at ?", "ready": false}]),
                vec![
                    "NODE    ADDRESS    TUNNEL       POD-CIDRS       MTU  NEXT-HOP        READY",
                    "node-b  192.0.2.2  vxlan vni 1  10.244.2.0/24  1450  192.0.2.2 at ?  no",
                ],
            ),
            (
                Subject::Workers,
                json!([{"worker": 0, "core": 1, "load_permille": 67, "sleeps": 1234, "frames_free": 16000,
                    "frames_in_tokens": 0, "frames_in_ports": 384, "queues": ["eth1/0", "mr1/0"]}]),
                vec![
                    "WORKER  CORE  LOAD  SLEEPS  FRAMES-FREE  IN-HAND  IN-PORTS  QUEUES",
                    "     0     1  6.7%   1,234       16,000        0       384  eth1/0,mr1/0",
                ],
            ),
        ];
        for (what, answer, expected) in rows {
            assert_eq!(table(what, answer), expected, "{what:?}");
            assert_eq!(
                render(what, json!([])).unwrap().split(' ').next(),
                Some("no"),
                "{what:?}"
            );
        }
    }

    #[test]
    fn flows_are_shown_with_what_is_left_out_and_filters_are_for_flows_only() {
        let tuple = |source: &str, destination: &str| json!({"source": source, "source_port": 4000, "destination": destination, "destination_port": 53});
        let row = json!({"protocol": "udp", "state": "replied", "original": tuple("10.244.1.2", "10.96.0.10"),
            "reply": tuple("10.244.2.3", "10.244.1.2"), "opener": "default/a", "binding": [1, 2],
            "onward": "tunnel to node-b", "policies": "allowed by NetworkPolicy default/dns, egress rule 0",
            "age_seconds": 7, "idle_seconds": 0});
        let answer = json!({"connections": 1234, "capacity": 4096, "matching": 2, "flows": [&row]});
        assert_eq!(
            table(Subject::Flows, answer),
            [
                "PROTOCOL  STATE    FROM             TO             REPLIES-FROM     REPLIES-TO     OPENED-BY  \
                 ONWARD            AGE  IDLE  POLICIES",
                "udp       replied  10.244.1.2:4000  10.96.0.10:53  10.244.2.3:4000  10.244.1.2:53  default/a  \
                 tunnel to node-b  7 s   0 s  allowed by NetworkPolicy default/dns, egress rule 0",
                "1 of 2 matching flows; 1,234 connections, room for 4,096",
            ]
        );
        let mut other = row.clone();
        other["network"] = json!("shop/blue");
        let answer = json!({"connections": 2, "capacity": 4096, "matching": 2, "flows": [row, other]});
        let lines = table(Subject::Flows, answer);
        assert!(
            lines[0].starts_with("NETWORK    PROTOCOL")
                && lines[1].starts_with("-          udp ")
                && lines[2].starts_with("shop/blue  udp "),
            "{lines:?}"
        );
        let filter = ShowFilter {
            port: Some(53),
            ..ShowFilter::default()
        };
        let blue = ShowFilter {
            network: Some("shop/blue".to_owned()),
            ..ShowFilter::default()
        };
        let wrong = [
            (Subject::Peers, &filter),
            (Subject::Fdb, &filter),
            (Subject::Services, &blue),
            (Subject::Networks, &blue),
        ];
        for (what, filter) in wrong {
            assert_eq!(request(what, filter.clone()).unwrap_err().status, 2, "{what:?}");
        }
        assert!(matches!(
            request(Subject::Fdb, blue),
            Ok(Request::ShowFdb(ShowFilter {
                network: Some(_),
                limit: Some(ROWS_SHOWN),
                ..
            }))
        ));
        assert!(matches!(
            request(Subject::Flows, filter),
            Ok(Request::ShowFlows(ShowFilter {
                port: Some(53),
                limit: Some(ROWS_SHOWN),
                ..
            }))
        ));
    }

    #[test]
    fn answer_of_another_version_is_an_error_and_no_empty_table() {
        let failure = render(Subject::Peers, json!([{"node": "b"}])).unwrap_err();
        assert_eq!(failure.status, 1);
        assert!(failure.message.contains("missing field"), "{}", failure.message);
    }
}
