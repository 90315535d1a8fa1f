//! A virtual machine in a routed network: a kernel of its own behind a tap device that is a port of the switch.

use std::net::SocketAddr;

use millrace_tools::lab::machine::Machine;
use millrace_tools::lab::plan::NodePlan;
use millrace_tools::lab::wait_until;

use super::rig::{Net, Routed};
use crate::rig::{ECHO_PORT, MTU, PATIENCE};
use crate::station::{Scene, Station};

const TAP: &str = "vm7";

/// Attaches a tap device of node-a, starts a machine on it and gives it its addresses and default routes, and an echo at each.
pub(crate) fn boot(rig: &Routed, network: Net, host: u8) -> Station {
    let plan = NodePlan::of(5).unwrap();
    let mac = plan.uplink_mac().to_string();
    let addresses = network.addresses(1, host);
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut words = vec!["attach", "--tap", TAP, "--network", network.name];
    let refused = rig.daemon(1, |daemon| daemon.ask(&words)).unwrap();
    assert!(
        !refused.status.success() && refused.stderr.contains("--mac MAC"),
        "{}",
        refused.stderr
    );
    words.extend(["--mac", &mac]);
    words.extend(texts.iter().flat_map(|address| ["--address", address]));
    let attached = rig.daemon(1, |daemon| daemon.client_output(&words));
    attached.unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    let machine = rig.with(|lab| {
        let node = lab.node("node-a").unwrap().namespace();
        Machine::boot_on(lab, plan, node, TAP, true)
    });
    let machine = machine.unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    let run = |words: &[&str]| {
        machine.run(words).unwrap_or_else(|error| panic!("{error}"));
    };
    // What the machine would have cut by others is lost, so it cuts by itself.
    run(&["ethtool", "-K", "eth0", "tso", "off", "gso", "off"]);
    run(&["ip", "link", "set", "eth0", "mtu", &MTU.to_string(), "up"]);
    for (address, gateway) in addresses.iter().zip(network.gateways()) {
        let length = if address.is_ipv4() { 16 } else { 64 };
        let (with_length, by) = (format!("{address}/{length}"), gateway.to_string());
        let mut words = vec!["ip", "address", "add", &with_length, "dev", "eth0"];
        words.extend((!address.is_ipv4()).then_some("nodad"));
        run(&words);
        run(&["ip", "route", "add", "default", "via", &by, "dev", "eth0"]);
        let at = SocketAddr::new(*address, ECHO_PORT).to_string();
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
    Station::machine(machine, addresses)
}
