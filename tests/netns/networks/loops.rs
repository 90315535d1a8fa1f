//! Two ports of one network that somebody has connected with one another.

use millrace_tools::lab::wait_until;

use crate::meet;
use crate::rig::{BLUE, PATIENCE, Rig, address};
use crate::station::Station;
use crate::wire::Wire;

/// The tap devices.
const TAPS: [&str; 2] = ["loop1", "loop2"];
const EVERYBODY: &str = "10.9.255.255";

#[test]
fn a_loop_is_held_down_and_others_go_on() {
    let rig = Rig::new("loops");
    let [one, two, far] = [rig.pod(1), rig.pod(2), rig.far()];
    meet(&rig, &one, &two);
    let (inside, _) = rig.cluster_pod("node-a", "pod-a1");
    let (_, outside) = rig.cluster_pod("node-b", "pod-b1");
    let in_cluster = Station::stranger(inside);
    in_cluster.ping(&rig, outside, 56);
    // A kernel's bridge without a spanning tree, and both ports in it.
    let cable = rig.with(|lab| lab.namespace("cable")).unwrap();
    cable.ip(&["link", "add", "br0", "up", "type", "bridge"]).unwrap();
    let wires = TAPS.map(|tap| {
        rig.ask(&["attach", "--tap", tap, "--network", BLUE]);
        let wire = Wire::new(&rig, tap, &cable);
        cable.ip(&["link", "set", "net1", "down"]).unwrap();
        cable.ip(&["link", "set", "net1", "name", tap]).unwrap();
        cable.ip(&["link", "set", tap, "master", "br0", "up"]).unwrap();
        wire
    });
    // What goes round: a pod's frames, and those of a station whose place is learned.
    let stirred = wait_until("the storm", PATIENCE, || {
        for from in [&one, &far] {
            let _ = from.run(
                "ping",
                &["-n", "-b", "-c", "20", "-i", "0.01", "-W", "0.1", EVERYBODY],
            );
        }
        let stats = rig.daemon().json(&["stats"]).unwrap();
        let storm = stats["totals"]["dropped"]["bridge_storm"].as_u64().unwrap_or(0);
        Ok(storm > 0 && rig.daemon().slow_path("moves_refused") > 0)
    });
    stirred.unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    for _ in 0..5 {
        let _ = one.run(
            "ping",
            &["-n", "-b", "-c", "20", "-i", "0.01", "-W", "0.1", EVERYBODY],
        );
        two.ping(&rig, address(1, true), 56);
        in_cluster.ping(&rig, outside, 56);
    }
    one.talk(&rig, address(2, true));
    // A port that goes takes what it has taught along.
    for tap in TAPS {
        rig.ask(&["detach", "--tap", tap]);
    }
    meet(&rig, &one, &far);
    drop(wires);
    drop(cable);
    rig.finish();
}
