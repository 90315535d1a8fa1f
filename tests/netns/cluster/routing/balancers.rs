//! Load balancers' addresses handed to a routing daemon: BIRD or FRR takes them from a table of the node's and tells two machines
//! on the rack, one of which has BIRD and the other FRR. Their kernels then go to the node for them, in both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use millrace_tools::lab::plan::Families;
use millrace_tools::lab::{Lab, MillraceOptions, Namespace, NodeKind, Topology};

use super::speakers::{Bird, Frr, Frr10, SYSTEM};
use crate::rig::{address, await_that, daemon, finish, lab, node, pod, row, side_by_side, underlay};
use crate::services::{Call, Server};

/// On no network that the rack has.
const POOL: &str = "\n[load-balancer]\nannounce = \"route\"\n[[load-balancer.pools]]\nname = \"far\"\n\
                    addresses = [\"198.51.100.64/28\", \"2001:db8:5::40/124\"]\n";
const FIRST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 64)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x40)),
];

/// What the node's BIRD does: it learns what is in the table, and tells the machines.
fn of_node((own, own_v6): (Ipv4Addr, Ipv6Addr), machines: &[Ipv4Addr]) -> String {
    let mut text = format!("router id {own};\nprotocol device {{ scan time 1; }}\n");
    for family in ["ipv4", "ipv6"] {
        text.push_str(&format!(
            "protocol kernel balancers_{family} {{ learn; kernel table 77; scan time 1; \
             {family} {{ import all; export none; }}; }}\n"
        ));
    }
    let told = "import none; export where source = RTS_INHERIT;";
    let channels = format!("ipv4 {{ {told} next hop self; }}; ipv6 {{ {told} next hop address {own_v6}; }};");
    for machine in machines {
        text.push_str(&session(own, *machine, &channels));
    }
    text
}

/// The same for the node's FRR: it tells what is in the table, whatever of it the node's own network stack goes by.
fn of_node_by_frr(own: Ipv4Addr, machines: &[Ipv4Addr]) -> String {
    let mut text =
        format!("frr defaults traditional\nhostname a\nrouter bgp {SYSTEM}\n bgp router-id {own}\n");
    for machine in machines {
        text.push_str(&format!(
            " neighbor {machine} remote-as {SYSTEM}\n neighbor {machine} timers connect 1\n"
        ));
    }
    for family in ["ipv4", "ipv6"] {
        text.push_str(&format!(
            " address-family {family} unicast\n  redistribute table-direct 77\n"
        ));
        for machine in machines {
            text.push_str(&format!("  neighbor {machine} activate\n"));
        }
        text.push_str(" exit-address-family\n");
    }
    text
}

/// What a machine's BIRD does: it believes the node, and gives its kernel the routes.
fn of_machine(own: Ipv4Addr, node: Ipv4Addr) -> String {
    let to_kernel = |family: &str| {
        format!("protocol kernel {{ {family} {{ import none; export where source = RTS_BGP; }}; }}\n")
    };
    let channels = "ipv4 { import all; export none; }; ipv6 { import all; export none; };";
    format!(
        "router id {own};\nprotocol device {{ scan time 1; }}\n{}{}{}",
        to_kernel("ipv4"),
        to_kernel("ipv6"),
        session(own, node, channels)
    )
}

fn session(own: Ipv4Addr, other: Ipv4Addr, channels: &str) -> String {
    format!(
        "protocol bgp {{ local {own} as {SYSTEM}; neighbor {other} as {SYSTEM}; direct; connect retry time 1; \
         connect delay time 1; error wait time 1, 2; {channels} }}\n"
    )
}

/// The same for a machine's FRR.
fn of_frr(own: Ipv4Addr, node: Ipv4Addr) -> String {
    format!(
        "frr defaults traditional\nhostname d\nrouter bgp {SYSTEM}\n bgp router-id {own}\n \
         neighbor {node} remote-as {SYSTEM}\n neighbor {node} timers connect 1\n \
         address-family ipv6 unicast\n  neighbor {node} activate\n exit-address-family\n"
    )
}

fn service(pods: &[IpAddr], is_ready: bool) -> String {
    let slices = pods.iter().map(|pod| {
        let family = if pod.is_ipv4() { "IPv4" } else { "IPv6" };
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: web-{}, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: {family}\nports: [{{port: 8080}}]\n\
             endpoints: [{{addresses: ['{pod}'], nodeName: node-a, conditions: {{ready: {is_ready}}}}}]\n",
            family.to_lowercase()
        )
    });
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\n\
         spec: {{type: LoadBalancer, clusterIPs: [10.96.0.50, 'fd00:96::50'], externalTrafficPolicy: Local, \
         ports: [{{port: 80}}]}}\n{}",
        slices.collect::<String>()
    )
}

/// What `ip` says of routes: those to one address, or those of the table, of an address' family.
fn routes(namespace: &Namespace, address: IpAddr, which: &[&str]) -> String {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    // A table that was never made is an error to `ip`.
    let line = [&[family, "route", "show"], which].concat();
    namespace.ip(&line).unwrap_or_default()
}

fn table(lab: &Lab, address: IpAddr) -> String {
    routes(node(lab, "node-a"), address, &["table", "77"])
}

#[test]
fn a_balancers_address_is_told_by_bird_while_it_is_served() {
    told_while_served("told", |lab, (own, own_v6), machines| {
        let text = of_node((own, own_v6), machines);
        Bird::start(lab, "node-a", node(lab, "node-a"), &text)
    });
}

#[test]
fn a_balancers_address_is_told_by_frr_while_it_is_served() {
    told_while_served("told-frr", |lab, (own, _), machines| {
        let text = of_node_by_frr(own, machines);
        Frr10::start(lab, "node-a", node(lab, "node-a"), &text)
    });
}

/// A node whose routing daemon is what `speak` starts, given the node's addresses and those of the machines that it tells.
fn told_while_served<S>(name: &str, speak: impl FnOnce(&Lab, (Ipv4Addr, Ipv6Addr), &[Ipv4Addr]) -> S) {
    let _machine = side_by_side();
    let topology = Topology {
        pods_per_node: 1,
        families: Families::Dual,
        millrace: MillraceOptions {
            extra: POOL.to_owned(),
            ..MillraceOptions::default()
        },
        ..Topology::of(&[NodeKind::Millrace])
    };
    let mut lab = lab(name, &topology);
    let machines = ["c", "d"].map(|name| lab.add_guest(name).unwrap().address());
    let own = underlay(&lab, "node-a");
    let own_v6 = lab
        .node("node-a")
        .unwrap()
        .plan()
        .v6()
        .unwrap()
        .underlay_address();
    let pods = [
        IpAddr::V4(address(&lab, "pod-a1")),
        IpAddr::V6(lab.pod("pod-a1").unwrap().address_v6().unwrap()),
    ];
    let _servers = pods.map(|at| Server::start(pod(&lab, "pod-a1"), "pod-a1", (at, 8080)));
    let guests = [0, 1].map(|place: usize| lab.guests()[place].namespace());
    let _speaker = speak(&lab, (own, own_v6), &machines);
    let _bird = Bird::start(&lab, "c", guests[0], &of_machine(machines[0], own));
    let _frr = Frr::start(&lab, "d", guests[1], &of_frr(machines[1], own));
    let switch = daemon(&lab, "node-a");
    let state = |address: IpAddr| {
        let row = row(switch, "load-balancers", "address", &address.to_string());
        row.unwrap_or_default()["state"].clone()
    };
    switch.write_manifest("web.yaml", &service(&pods, false)).unwrap();
    for address in FIRST {
        await_that("an address that nobody may announce", || {
            state(address) == "no-node"
        });
        assert_eq!(table(&lab, address), "");
    }
    switch.write_manifest("web.yaml", &service(&pods, true)).unwrap();
    for address in FIRST {
        await_that("its route", || {
            let shown = table(&lab, address);
            shown.contains(&format!("blackhole {address} ")) && shown.contains("proto 77")
        });
        assert_eq!(state(address), "routed");
        for (guest, machine) in guests.into_iter().zip(["c, by BIRD", "d, by FRR"]) {
            await_that(&format!("a route to {address} at machine {machine}"), || {
                // By IPv6, FRR goes by the address of the node's link.
                let shown = routes(guest, address, &[&address.to_string()]);
                [
                    format!("via {own} "),
                    format!("via {own_v6} "),
                    "via fe80:".to_owned(),
                ]
                .iter()
                .any(|way| shown.contains(way))
            });
            let mut call = Call::open(guest, SocketAddr::new(address, 80));
            let (who, caller) = call.ask().unwrap();
            assert_eq!((who.as_str(), caller.is_ipv4()), ("pod-a1", address.is_ipv4()));
        }
    }
    switch.write_manifest("web.yaml", &service(&pods, false)).unwrap();
    for address in FIRST {
        await_that("no route", || {
            let left = guests.map(|guest| routes(guest, address, &[&address.to_string()]));
            table(&lab, address).is_empty() && left.iter().all(String::is_empty)
        });
    }
    finish(lab);
}
