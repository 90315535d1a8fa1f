//! The virtual machine: a kernel of its own behind a tap device that is a port of the switch.

use std::net::SocketAddr;

use millrace_tools::lab::machine::Machine;
use millrace_tools::lab::plan::NodePlan;
use millrace_tools::lab::wait_until;

use crate::rig::{BLUE, ECHO_PORT, MTU, PATIENCE, Rig, address};
use crate::station::Station;

/// The tap device, and the machine's host number.
const TAP: &str = "vm7";
const HOST: u8 = 7;

/// Attaches a tap device, starts a machine on it and gives it its addresses, and an echo at each.
pub(crate) fn boot(rig: &Rig) -> Station {
    let plan = NodePlan::of(5).unwrap();
    let mac = plan.uplink_mac().to_string();
    let attached = rig.ask(&["attach", "--tap", TAP, "--network", BLUE, "--mac", &mac]);
    assert!(attached.contains(TAP) && attached.contains(&mac), "{attached}");
    // Checksums are left to others: the switch finishes them. What the machine would have cut by others is lost, so it cuts by
    // itself.
    let machine = rig.with(|lab| {
        let node = lab.node("node-a").unwrap().namespace();
        Machine::boot_on(lab, plan, node, TAP, true)
    });
    let machine = machine.unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    let mtu = MTU.to_string();
    let run = |words: &[&str]| {
        machine.run(words).unwrap_or_else(|error| panic!("{error}"));
    };
    run(&["ethtool", "-K", "eth0", "tso", "off", "gso", "off"]);
    run(&["ip", "link", "set", "eth0", "mtu", &mtu, "up"]);
    for (is_ipv4, length) in [(true, 16), (false, 64)] {
        let address = address(HOST, is_ipv4);
        let with_length = format!("{address}/{length}");
        let mut words = vec!["ip", "address", "add", &with_length, "dev", "eth0"];
        words.extend((!is_ipv4).then_some("nodad"));
        run(&words);
        let at = SocketAddr::new(address, ECHO_PORT).to_string();
        machine
            .spawn(&["millrace-guest", "echo", &at], "/var/log/echo.log")
            .unwrap();
    }
    // Programs take their time to start there.
    wait_until("the echoes in the machine", PATIENCE, || {
        let sockets = machine.run(&["ss", "-Hltn"])?;
        Ok(sockets.lines().count() >= 2)
    })
    .unwrap();
    let addresses = [true, false].map(|is_ipv4| address(HOST, is_ipv4));
    Station::machine(machine, addresses.to_vec())
}
