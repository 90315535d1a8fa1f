//! Routed networks with real stations: pods of two Millrace nodes, a stock node, a virtual machine.

mod machine;
mod policies;
mod rig;
mod stock;

use std::collections::BTreeSet;
use std::net::IpAddr;

use millrace_tools::lab::NodeKind::{Millrace, Stock};

use crate::meet;
use crate::station::{Scene as _, Station};
use rig::{AMBER, BLUE, GREEN, RED, Routed, VIOLET};

/// An echo's identifier that all networks have at once.
const IDENTIFIER: &str = "77";

/// Every two of them, both ways.
fn all_meet(rig: &Routed, stations: &[&Station]) {
    for (place, one) in stations.iter().enumerate() {
        for other in &stations[place + 1..] {
            meet(rig, one, other);
            meet(rig, other, one);
        }
    }
}

/// Whether the connection of the echoes is there three times, once in each network.
fn echoes_in_all(rig: &Routed, to: &str) {
    let flows = rig.json(1, &["show", "flows", "--address", to]);
    let of_echo = flows["flows"].as_array().unwrap().iter();
    let of_echo = of_echo.filter(|row| row["protocol"] == "icmp" && row["original"]["source_port"] == 77);
    let networks: Vec<&str> = of_echo
        .map(|row| row["network"].as_str().unwrap_or("cluster"))
        .collect();
    let distinct: BTreeSet<&str> = networks.iter().copied().collect();
    let expected = ["cluster", "lab/amber", "lab/violet"].into();
    assert_eq!((networks.len(), distinct), (3, expected), "{flows}");
}

#[test]
fn the_same_addresses_in_the_clusters_network_and_in_two_others_never_meet() {
    let rig = Routed::new("overlap", &[Millrace, Millrace], &[AMBER, VIOLET]);
    let cluster = [rig.cluster_pod(1, "twin-a"), rig.cluster_pod(2, "twin-b")];
    let host = |pod: &Station| match pod.addresses()[0] {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => panic!("{address}"),
    };
    let hosts = [host(&cluster[0]), host(&cluster[1])];
    let twins = |network| [rig.pod(network, 1, hosts[0]), rig.pod(network, 2, hosts[1])];
    let (amber, violet) = (twins(AMBER), twins(VIOLET));
    assert_eq!(amber[0].addresses()[0], cluster[0].addresses()[0]);
    for [one, other] in [&cluster, &amber, &violet] {
        all_meet(&rig, &[one, other]);
    }
    // One that is in violet alone is there for violet alone.
    let alone = rig.pod(VIOLET, 2, 99);
    let at = alone.addresses()[0];
    meet(&rig, &violet[0], &alone);
    meet(&rig, &alone, &violet[1]);
    for stranger in amber.iter().chain(&cluster) {
        stranger.cannot_ping(at);
    }
    // One connection in three networks, by its numbers.
    let to = cluster[1].addresses()[0].to_string();
    for from in [&cluster[0], &amber[0], &violet[0]] {
        let (answered, said) = from.run("ping", &["-n", "-c", "2", "-e", IDENTIFIER, &to]);
        assert!(answered, "{}: {said}\n{}", from.name(), rig.told());
    }
    echoes_in_all(&rig, &to);
    let of_amber = rig.json(1, &["show", "flows", "--network", "lab/amber", "--address", &to]);
    let of_amber = of_amber["flows"].as_array().unwrap();
    assert!(
        !of_amber.is_empty() && of_amber.iter().all(|row| row["network"] == "lab/amber"),
        "{of_amber:?}"
    );
    rig.restart(1);
    echoes_in_all(&rig, &to);
    for [one, other] in [&cluster, &amber, &violet] {
        all_meet(&rig, &[one, other]);
    }
    rig.finish();
}

#[test]
fn a_network_that_goes_leaves_its_ports_in_none_and_comes_back_with_them() {
    let rig = Routed::new("gone", &[Millrace], &[AMBER, VIOLET]);
    let cluster = [rig.cluster_pod(1, "one"), rig.cluster_pod(1, "two")];
    let [amber, other] = [rig.pod(AMBER, 1, 100), rig.pod(AMBER, 1, 101)];
    let violet = rig.pod(VIOLET, 1, 101);
    all_meet(&rig, &[&amber, &other]);
    rig.undefine(AMBER);
    // Not even to the cluster's pods, whose addresses are amber's too.
    for to in [&other, &cluster[0], &cluster[1], &violet] {
        amber.cannot_ping(to.addresses()[0]);
    }
    amber.cannot_ping(AMBER.gateways()[0]);
    all_meet(&rig, &[&cluster[0], &cluster[1]]);
    let flows = rig.json(1, &["show", "flows"]);
    let all = flows["flows"].as_array().unwrap();
    assert!(
        all.iter()
            .all(|row| row["network"].as_str().unwrap_or("cluster") == "cluster"),
        "{flows}"
    );
    rig.define(&[AMBER]);
    all_meet(&rig, &[&amber, &other]);
    rig.finish();
}

#[test]
fn a_stock_node_takes_part_with_a_vxlan_device_and_routes() {
    let rig = Routed::new("routedstock", &[Millrace, Millrace, Stock], &[BLUE]);
    let [one, two, other] = [rig.pod(BLUE, 1, 10), rig.pod(BLUE, 1, 11), rig.pod(BLUE, 2, 10)];
    let far = stock::station(&rig, BLUE, 3, 22);
    all_meet(&rig, &[&one, &two, &other, &far]);
    // The switch's own addresses answer, and what is nobody's is told so.
    for gateway in BLUE.gateways() {
        one.ping(&rig, gateway, 56);
        other.ping(&rig, gateway, 1000);
    }
    let (_, said) = one.run(
        "ping",
        &["-n", "-c", "1", "-W", "5", &BLUE.v4(2, 200).to_string()],
    );
    assert!(
        said.contains("From 10.9.0.1") && said.contains("nreachable"),
        "{said}"
    );
    let networks = rig.json(1, &["show", "networks"]);
    let blue = &networks[0];
    assert_eq!(
        (&blue["kind"], &blue["routes_to"], &blue["gateways"][0]),
        (
            &"routed".into(),
            &serde_json::json!(["cluster"]),
            &"10.9.0.1".into()
        ),
        "{networks}"
    );
    assert_eq!(blue["remotes"][1]["mac"], "02:4d:c0:00:02:03", "{networks}");
    let from = BLUE.v4(1, 10).to_string();
    let to = format!("{}:7000", BLUE.v4(3, 22));
    let explained = rig.json(
        1,
        &["explain", "--network", BLUE.name, "--from", &from, "--to", &to],
    );
    assert_eq!(explained["allowed"], true, "{explained}");
    rig.finish();
}

#[test]
fn between_networks_only_that_is_routed_which_both_name() {
    let rig = Routed::new("between", &[Millrace, Millrace], &[BLUE, RED, GREEN]);
    let blue = [rig.pod(BLUE, 1, 10), rig.pod(BLUE, 2, 10)];
    let red = [rig.pod(RED, 1, 10), rig.pod(RED, 2, 10)];
    let green = rig.pod(GREEN, 1, 10);
    let cluster = [rig.cluster_pod(1, "pod-a"), rig.cluster_pod(2, "pod-b")];
    for one in &blue {
        for other in red.iter().chain(&cluster) {
            meet(&rig, one, other);
            meet(&rig, other, one);
        }
    }
    for [one, other] in [&blue, &red, &cluster] {
        all_meet(&rig, &[one, other]);
    }
    // Green names blue, which does not name it; red and the cluster name each other not at all.
    for (from, to) in [
        (&green, &blue[0]),
        (&blue[0], &green),
        (&red[0], &cluster[0]),
        (&cluster[0], &red[0]),
        (&red[1], &green),
    ] {
        from.cannot_ping(to.addresses()[0]);
    }
    // A network that is crossed is a hop as any other.
    for (hops, words) in [("1", "Time to live exceeded"), ("2", "1 received")] {
        let to = RED.v4(1, 10).to_string();
        let (_, said) = blue[0].run("ping", &["-n", "-c", "1", "-W", "5", "-t", hops, &to]);
        assert!(said.contains(words), "{hops}: {said}\n{}", rig.told());
    }
    let [from, to] = [BLUE.v4(1, 10), RED.v4(1, 10)].map(|address| address.to_string());
    let explained = rig.json(
        1,
        &["explain", "--network", BLUE.name, "--from", &from, "--to", &to],
    );
    assert!(
        explained["allowed"] == true && explained.to_string().contains("into lab/red"),
        "{explained}"
    );
    rig.restart(2);
    meet(&rig, &blue[0], &red[1]);
    meet(&rig, &red[1], &blue[0]);
    meet(&rig, &blue[1], &cluster[0]);
    rig.finish();
}

#[test]
fn a_virtual_machine_is_a_station_of_a_routed_network() {
    let rig = Routed::new("routedvm", &[Millrace, Millrace], &[BLUE, RED]);
    let vm = machine::boot(&rig, BLUE, 7);
    let others = [
        rig.pod(BLUE, 1, 10),
        rig.pod(BLUE, 2, 10),
        rig.pod(RED, 1, 10),
        rig.pod(RED, 2, 10),
        rig.cluster_pod(1, "pod-a"),
        rig.cluster_pod(2, "pod-b"),
    ];
    for other in &others {
        meet(&rig, other, &vm);
        meet(&rig, &vm, other);
    }
    vm.end();
    rig.finish();
}
