//! Load balancers' addresses handed to a routing daemon: BIRD takes them from a table of the node's and tells a machine on
//! the rack, whose kernel then goes to the node for them.

use std::net::{Ipv4Addr, SocketAddrV4};

use millrace_tools::lab::{MillraceOptions, NodeKind, Topology};

use super::speakers::{Bird, SYSTEM};
use crate::rig::{address, await_that, daemon, finish, lab, node, row, side_by_side, underlay};
use crate::services::{Call, Server};

/// On no network that the rack has.
const POOL: &str = "\n[load-balancer]\nannounce = \"route\"\n[[load-balancer.pools]]\nname = \"far\"\n\
                    addresses = [\"198.51.100.64/28\"]\n";
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 64);

/// What the node's BIRD does: it learns what is in the table, and tells the machine.
fn of_node(own: Ipv4Addr, machine: Ipv4Addr) -> String {
    format!(
        "router id {own};\nprotocol device {{ scan time 1; }}\n\
         protocol kernel balancers {{ learn; kernel table 77; scan time 1; ipv4 {{ import all; export none; }}; }}\n\
         {}",
        session(
            own,
            machine,
            "import none; export where source = RTS_INHERIT; next hop self;"
        )
    )
}

/// What the machine's does: it believes the node, and gives its kernel the routes.
fn of_machine(own: Ipv4Addr, node: Ipv4Addr) -> String {
    format!(
        "router id {own};\nprotocol device {{ scan time 1; }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n{}",
        session(own, node, "import all; export none;")
    )
}

fn session(own: Ipv4Addr, other: Ipv4Addr, channel: &str) -> String {
    format!(
        "protocol bgp {{ local {own} as {SYSTEM}; neighbor {other} as {SYSTEM}; direct; connect retry time 1; \
         connect delay time 1; error wait time 1, 2; ipv4 {{ {channel} }}; }}\n"
    )
}

fn service(pod: Ipv4Addr, is_ready: bool) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.0.50, \
         externalTrafficPolicy: Local, ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\n\
         kind: EndpointSlice\nmetadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\n\
         endpoints: [{{addresses: [{pod}], nodeName: node-a, conditions: {{ready: {is_ready}}}}}]\n"
    )
}

#[test]
fn a_balancers_address_is_told_by_a_routing_daemon_while_it_is_served() {
    let _machine = side_by_side();
    let topology = Topology {
        pods_per_node: 1,
        millrace: MillraceOptions {
            extra: POOL.to_owned(),
            ..MillraceOptions::default()
        },
        ..Topology::of(&[NodeKind::Millrace])
    };
    let mut lab = lab("told", &topology);
    let machine = lab.add_guest("c").unwrap().address();
    let (pod, own) = (address(&lab, "pod-a1"), underlay(&lab, "node-a"));
    let _server = Server::in_pod(&lab, "pod-a1");
    let guest = lab
        .guests()
        .iter()
        .find(|guest| guest.address() == machine)
        .unwrap()
        .namespace();
    let _birds = [
        Bird::start(&lab, "node-a", node(&lab, "node-a"), &of_node(own, machine)),
        Bird::start(&lab, "c", guest, &of_machine(machine, own)),
    ];
    let switch = daemon(&lab, "node-a");
    // A table that was never made is an error to `ip`.
    let table = || {
        let routes = node(&lab, "node-a").ip(&["route", "show", "table", "77"]);
        routes.unwrap_or_default()
    };
    let told = || guest.ip(&["route", "show", &FIRST.to_string()]).unwrap();
    let state =
        || row(switch, "load-balancers", "address", &FIRST.to_string()).unwrap_or_default()["state"].clone();
    switch.write_manifest("web.yaml", &service(pod, false)).unwrap();
    await_that("an address that nobody may announce", || state() == "no-node");
    assert_eq!(table(), "");
    switch.write_manifest("web.yaml", &service(pod, true)).unwrap();
    await_that("its route", || {
        table().contains("blackhole 198.51.100.64 proto 77")
    });
    assert_eq!(state(), "routed");
    await_that("the machine's route", || told().contains(&own.to_string()));
    let mut call = Call::open(guest, SocketAddrV4::new(FIRST, 80));
    let (who, caller) = call.ask().unwrap();
    assert_eq!((who.as_str(), caller.ip()), ("pod-a1", machine.into()));
    drop(call);
    switch.write_manifest("web.yaml", &service(pod, false)).unwrap();
    await_that("no route", || table().is_empty() && told().is_empty());
    finish(lab);
}
