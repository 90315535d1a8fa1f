//! Networks in which nobody learns: a kernel's VXLAN device and the switch are told where stations are.

use millrace_tools::lab::Namespace;

use crate::meet;
use crate::rig::{DEFINITION, Rig};
use crate::station::Station;
use crate::stock;

/// The network, and its number on the wire.
const RED: &str = "lab/red";
const VNI: &str = "200";
/// Host numbers: of pods on the Millrace node, and of the station that the switch is not told of.
const PODS: [u8; 2] = [11, 12];
const UNTOLD: u8 = 23;
/// The MAC address of the station that the switch is told of.
const TOLD_MAC: &str = "02:00:00:00:09:22";
const PINGS: u64 = 20;

/// The definition of the network: `stations` is what is known without being heard.
fn definition(peer: &str) -> String {
    let stations = format!(
        r#""learning": false, "peers": {{"nodes": false, "addresses": ["{peer}"]}},
                 "stations": [{{"mac": "{TOLD_MAC}", "at": "{peer}"}}], "subnets""#
    );
    DEFINITION
        .replace("blue", "red")
        .replace("100", VNI)
        .replace(r#""subnets""#, &stations)
}

/// How many frames more are copied when a station pings another.
fn copies(rig: &Rig, from: &Station, to: &Station) -> u64 {
    let copied = || {
        let stats = rig.daemon().json(&["stats"]).unwrap();
        let workers = stats["workers"].as_array().unwrap();
        workers
            .iter()
            .map(|worker| worker["replicated"].as_u64().unwrap())
            .sum::<u64>()
    };
    let (before, to) = (copied(), to.addresses()[0].to_string());
    let (answered, said) = from.run("ping", &["-n", "-i", "0.02", "-c", &PINGS.to_string(), &to]);
    assert!(answered, "{said}\n{}", rig.told());
    copied() - before
}

#[test]
fn stations_that_are_told_by_hand_are_reached_where_nobody_learns() {
    let rig = Rig::new("fixed");
    let underlay =
        |rig: &Rig, node: &str| rig.with(|lab| lab.node(node).unwrap().plan().underlay_address().to_string());
    rig.define(RED, &definition(&underlay(&rig, "node-b")));
    let pods: [Namespace; 2] = PODS.map(|host| rig.pod_in(RED, host));
    let [one, two] = [0, 1].map(|at| Station::within(&pods[at], PODS[at]));
    let to = underlay(&rig, "node-a");
    let (told, untold) = rig.with(|lab| {
        let told = stock::bridge(lab, VNI, "nolearning");
        told.ip(&["link", "set", "net1", "address", TOLD_MAC]).unwrap();
        for pod in [&one, &two] {
            stock::append(lab, VNI, &pod.link_address(), &to);
        }
        (told, stock::station(lab, VNI, "untold", UNTOLD))
    });
    let [told_one, untold_one] = [
        Station::within(&told, stock::FAR),
        Station::within(&untold, UNTOLD),
    ];
    let echoes: Vec<_> = [&one, &two, &told_one]
        .iter()
        .flat_map(|station| station.echo(&rig))
        .collect();
    meet(&rig, &one, &told_one);
    meet(&rig, &told_one, &two);
    // More of this would be a storm.
    one.ping(&rig, untold_one.addresses()[0], 56);
    // What goes to the one goes to it alone; the other is looked for everywhere by each frame.
    let [few, many] = [&told_one, &untold_one].map(|far| copies(&rig, &one, far));
    assert!(few < PINGS && many >= PINGS, "{few}, {many}: {}", rig.told());
    drop(echoes);
    drop((pods, told, untold));
    rig.finish();
}
