//! A port that is in two networks by the VLAN tags of its frames.

use crate::meet;
use crate::rig::{BLUE, DEFINITION, Rig, address};
use crate::station::Station;
use crate::stock::give;
use crate::wire::Wire;

/// The other network, which has the same addresses.
const RED: &str = "lab/red";
/// The tap device, and the host number and MAC address of the stations behind it, one in each network.
const TAP: &str = "router";
const BEHIND: u8 = 40;
const MAC: &str = "02:00:00:00:09:40";
/// A pod that is in the other network only.
const RED_ONLY: u8 = 51;

#[test]
fn a_trunk_is_in_each_of_its_networks_and_they_never_meet() {
    let rig = Rig::new("trunks");
    let red = DEFINITION.replace("blue", "red").replace("100", "200");
    rig.define(RED, &red);
    let red_pods = [1, RED_ONLY].map(|host| rig.pod_in(RED, host));
    let [red_one, red_only] = [(0, 1), (1, RED_ONLY)].map(|(at, host)| Station::within(&red_pods[at], host));
    let trunk = [&format!("10={BLUE}"), &format!("20={RED}")];
    rig.ask(&["attach", "--tap", TAP, "--trunk", trunk[0], "--trunk", trunk[1]]);
    let [blue, red] = ["behind-10", "behind-20"].map(|role| rig.with(|lab| lab.namespace(role)).unwrap());
    let wire = Wire::trunk(&rig, TAP, &[(10, &blue), (20, &red)]);
    // The same MAC and IP addresses in both.
    for place in [&blue, &red] {
        place.ip(&["link", "set", "net1", "address", MAC]).unwrap();
        give(place, BEHIND);
    }
    let [in_blue, in_red] = [&blue, &red].map(|place| Station::within(place, BEHIND));
    let both = [&in_blue, &in_red, &red_one, &red_only];
    let echoes: Vec<_> = both.iter().flat_map(|station| station.echo(&rig)).collect();
    for (behind, pod) in [(&in_blue, &rig.pod(1)), (&in_red, &red_one)] {
        meet(&rig, behind, pod);
        meet(&rig, pod, behind);
        assert_eq!(
            behind.neighbour(address(1, true)),
            pod.link_address(),
            "{}",
            rig.told()
        );
    }
    meet(&rig, &in_blue, &rig.pod(2));
    meet(&rig, &in_blue, &rig.far());
    meet(&rig, &in_red, &red_only);
    in_blue.cannot_ping(address(RED_ONLY, true));
    in_blue.cannot_ping(address(RED_ONLY, false));
    in_red.cannot_ping(address(2, true));
    in_red.cannot_ping(rig.far().addresses()[0]);
    red_only.cannot_ping(address(2, true));
    rig.restart();
    meet(&rig, &in_blue, &rig.far());
    meet(&rig, &in_red, &red_only);
    drop((echoes, wire));
    drop((red_pods, blue, red));
    rig.finish();
}
