//! Networks beside the cluster's own with real stations. Bridged ones: second interfaces of pods on a Millrace node, a virtual machine on a tap device there, and a
//! stock Linux bridge behind a kernel's VXLAN device that learns, as another node's. Routed ones are in `routed`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fixed;
mod loops;
mod machine;
mod moves;
mod nodes;
mod rig;
mod routed;
mod station;
mod stock;
mod storms;
mod trunks;
mod wire;

use std::net::IpAddr;

use millrace_tools::lab::traffic::talk::Talk;

use rig::{BLUE, MTU, Rig};

/// What every two stations say to each other.
pub(crate) const WORDS: Talk = Talk {
    flows: 3,
    bytes: 40_000,
    datagrams: 4,
};

/// Pings of both families and of the largest size, TCP and UDP.
fn meet(rig: &dyn station::Scene, from: &station::Station, to: &station::Station) {
    let has = |target: &IpAddr| {
        from.addresses()
            .iter()
            .any(|own| own.is_ipv4() == target.is_ipv4())
    };
    for target in to.addresses().into_iter().filter(has) {
        from.ping(rig, target, 56);
        from.ping(rig, target, MTU - headers(target));
        from.talk(rig, target);
    }
}

fn headers(target: IpAddr) -> u32 {
    if target.is_ipv4() { 28 } else { 48 }
}

#[test]
fn pods_and_a_stock_bridge_are_in_one_network() {
    let rig = Rig::new("networks");
    let [one, two, far] = [rig.pod(1), rig.pod(2), rig.far()];
    meet(&rig, &one, &two);
    meet(&rig, &one, &far);
    meet(&rig, &far, &two);
    // What is said in the cluster's own network is none of this one's, and the other way round.
    one.cannot_ping("10.244.1.1".parse().unwrap());
    // A pod sends as itself only.
    one.takes("10.9.0.77/16");
    far.cannot_ping("10.9.0.77".parse().unwrap());
    let networks = rig.daemon().json(&["show", "networks"]).unwrap();
    let blue = &networks.as_array().unwrap()[0];
    assert_eq!(
        (blue["network"].as_str(), blue["mtu"].as_u64()),
        (Some(BLUE), Some(MTU.into()))
    );
    assert_eq!(blue["members"].as_array().unwrap().len(), 2);
    assert_eq!(blue["remotes"][0]["ready"], true, "{networks}");
    let far_mac = far.mac();
    let stations = rig.daemon().json(&["show", "fdb", "--network", BLUE]).unwrap();
    let told = stations["stations"].as_array().unwrap();
    let known = told
        .iter()
        .find(|row| row["mac"] == far_mac)
        .expect("the far station");
    assert_eq!(
        (&known["node"], &known["static"]),
        (&"node-b".into(), &false.into()),
        "{stations}"
    );
    let pod = told.iter().find(|row| row["pod"] == "lab/blue-1").expect("a pod");
    let pod = pod["mac"].as_str().unwrap();
    let ask = ["explain", "--network", BLUE, "--from", pod, "--to", &far_mac];
    let explained = rig.daemon().json(&ask).unwrap();
    assert_eq!(explained["allowed"], true, "{explained}");
    rig.restart();
    meet(&rig, &one, &far);
    rig.finish();
}

#[test]
fn a_virtual_machine_is_a_station_like_others() {
    let rig = Rig::new("machine");
    let vm = machine::boot(&rig);
    let (pod, far) = (rig.pod(1), rig.far());
    for station in [&pod, &far] {
        meet(&rig, station, &vm);
        meet(&rig, &vm, station);
    }
    vm.end();
    rig.finish();
}
