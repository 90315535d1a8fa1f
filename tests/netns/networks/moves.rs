//! A station that moves from one node to another and back, as a virtual machine that is migrated.

use millrace_tools::lab::{Namespace, wait_until};

use crate::rig::{BLUE, PATIENCE, Rig, address};
use crate::station::Station;
use crate::stock::plug;
use crate::wire::Wire;

/// The tap device, the station's host number, and its MAC address.
const TAP: &str = "vm3";
const HOST: u8 = 33;
const MAC: &str = "02:00:00:00:09:33";
/// What an interface has for a MAC address while the station is elsewhere.
const NOBODY: [&str; 2] = ["02:00:00:00:09:01", "02:00:00:00:09:02"];

/// A place where the station may be.
fn prepare(place: &Namespace, nobody: &str) {
    // Nothing but a gratuitous ARP says that it is there.
    place.set("ipv6/conf/net1/disable_ipv6", "1").unwrap();
    place.set("ipv4/conf/net1/arp_notify", "1").unwrap();
    place.ip(&["link", "set", "net1", "address", nobody]).unwrap();
}

/// The station comes, and says so.
fn come(place: &Namespace) {
    let with_length = format!("{}/16", address(HOST, true));
    place
        .ip(&["address", "add", &with_length, "dev", "net1"])
        .unwrap();
    place.ip(&["link", "set", "net1", "address", MAC]).unwrap();
}

fn leave(place: &Namespace, nobody: &str) {
    place.ip(&["address", "flush", "dev", "net1"]).unwrap();
    place.ip(&["link", "set", "net1", "address", nobody]).unwrap();
}

/// A station that may be at two places.
struct Scene {
    rig: Rig,
    /// Behind node-a's tap device, and behind the stock node.
    places: [Namespace; 2],
    wire: Wire,
    others: [Station; 3],
}

/// The station is at the tap device, which was attached with these words, and everybody has met it there.
fn scene(name: &str, words: &[&str]) -> Scene {
    let rig = Rig::new(name);
    let places = rig.with(|lab| {
        let places = ["here", "there"].map(|role| lab.namespace(role).unwrap());
        plug(lab, "100", "there", &places[1]);
        places
    });
    rig.ask(&[&["attach", "--tap", TAP, "--network", BLUE], words].concat());
    let wire = Wire::new(&rig, TAP, &places[0]);
    for (place, nobody) in places.iter().zip(NOBODY) {
        prepare(place, nobody);
    }
    let others = [rig.pod(1), rig.pod(2), rig.far()];
    come(&places[0]);
    for other in &others {
        other.ping(&rig, address(HOST, true), 56);
    }
    Scene {
        rig,
        places,
        wire,
        others,
    }
}

/// A machine whose address was given is where it was given while its program runs, and then wherever it is heard.
#[test]
fn a_machine_with_an_address_of_its_own_moves_with_its_program() {
    let Scene {
        rig,
        places,
        wire,
        others,
    } = scene("migrates", &["--mac", MAC]);
    let ([here, there], at) = (&places, address(HOST, true));
    // Who says elsewhere that it is there, is not believed while it is here.
    let dropped = || {
        let stats = rig.daemon().json(&["stats"]).unwrap();
        stats["totals"]["dropped"]["spoofed_mac"].as_u64().unwrap_or(0)
    };
    let before = dropped();
    come(there);
    wait_until("an impostor's word", PATIENCE, || Ok(dropped() > before))
        .unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    leave(there, NOBODY[1]);
    leave(here, NOBODY[0]);
    drop(wire);
    let learned = rig.daemon().slow_path("stations_learned");
    let is_gone = || Ok(!rig.ask(&["show", "fdb", "--network", BLUE]).contains(MAC));
    wait_until("the station to be given no longer", PATIENCE, is_gone)
        .unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    come(there);
    let heard = wait_until("the machine to be heard", PATIENCE, || {
        Ok(rig.daemon().slow_path("stations_learned") > learned)
    });
    heard.unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    for other in &others {
        other.ping_once(&rig, at);
    }
    drop(places);
    rig.finish();
}

#[test]
fn a_station_that_moves_is_reached_at_its_new_place_by_the_first_packet() {
    let Scene {
        rig,
        places,
        wire,
        others,
    } = scene("moves", &[]);
    let ([here, there], at) = (&places, address(HOST, true));
    let moved = rig.daemon().slow_path("stations_moved");
    let at_places = [(here, NOBODY[0]), (there, NOBODY[1])];
    for (move_number, [from, to]) in (1..).zip([[0, 1], [1, 0], [0, 1]]) {
        let ((old, nobody), (new, _)) = (at_places[from], at_places[to]);
        leave(old, nobody);
        come(new);
        let heard = wait_until("the move", PATIENCE, || {
            Ok(rig.daemon().slow_path("stations_moved") == moved + move_number)
        });
        heard.unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
        for other in &others {
            other.ping_once(&rig, at);
        }
    }
    drop(wire);
    drop(places);
    rig.finish();
}
