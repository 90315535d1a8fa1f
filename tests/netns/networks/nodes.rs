//! More nodes in one network: two of Millrace's, and a stock bridge.

use std::path::PathBuf;

use millrace_tools::lab::{NodeKind, Process, Signal, complete, wait_until};

use crate::meet;
use crate::rig::{PATIENCE, Rig};
use crate::station::Station;

/// An address that nobody has, and the one of all.
const NOBODY: &str = "10.9.0.99";
const EVERYBODY: &str = "10.9.255.255";

/// A capture of the broadcasts that a station hears, and of its own.
struct Broadcasts {
    capture: Process,
    file: PathBuf,
}

impl Broadcasts {
    fn of(rig: &Rig, place: usize, station: &Station) -> Self {
        let file = rig.with(|lab| lab.folder().join(format!("broadcasts-{place}.pcap")));
        let mut line = station.command("tcpdump");
        line.args(["-i", "net1", "-n", "-U", "--immediate-mode", "-Z", "root", "-w"]);
        line.arg(&file).arg("ether broadcast");
        let capture = Process::spawn(line, &file.with_extension("log")).unwrap();
        let own = Self { capture, file };
        // Its header is written once it captures.
        wait_until("a capture", PATIENCE, || {
            Ok(own.file.metadata().is_ok_and(|found| found.len() > 0))
        })
        .unwrap();
        own
    }

    /// Each frame so far that is for all as a line, in an order that does not depend on when they came: questions for the address
    /// of a station that is known are answered by the switch.
    fn frames(&self) -> Vec<String> {
        let mut line = std::process::Command::new("tcpdump");
        line.args(["-n", "-t", "-r"]).arg(&self.file);
        // One that is just being written is cut off.
        let told = complete(line, PATIENCE).unwrap().stdout;
        let mut frames: Vec<String> = told
            .lines()
            .filter(|line| line.contains(EVERYBODY) || line.contains(NOBODY))
            .map(str::to_owned)
            .collect();
        frames.sort();
        frames
    }
}

#[test]
fn nodes_and_a_stock_bridge_are_one_network_in_which_nothing_comes_twice() {
    let rig = Rig::of(
        "nodes",
        &[NodeKind::Millrace, NodeKind::Stock, NodeKind::Millrace],
    );
    let stations = [rig.pod(1), rig.pod(2), rig.pod(3), rig.far()];
    let [one, _, other, far] = &stations;
    for (from, to) in [(one, other), (other, one), (far, other), (other, far), (one, far)] {
        meet(&rig, from, to);
    }
    let captures: Vec<Broadcasts> = (0..)
        .zip(&stations)
        .map(|(place, station)| Broadcasts::of(&rig, place, station))
        .collect();
    for from in [one, other, far] {
        // One question, and none that comes later.
        let (done, said) = from.run("sysctl", &["-w", "net.ipv4.neigh.net1.mcast_solicit=1"]);
        assert!(done, "{said}");
        let _ = from.run(
            "ping",
            &["-n", "-b", "-c", "3", "-i", "0.2", "-W", "0.2", EVERYBODY],
        );
        from.cannot_ping(NOBODY.parse().unwrap());
        for to in &stations {
            from.ping_once(&rig, to.addresses()[0]);
        }
    }
    // Nothing that came before it is still on its way to a file once the last one is in it.
    let _ = one.run("ping", &["-n", "-b", "-c", "1", "-W", "0.2", EVERYBODY]);
    let sent = 3 * (3 + 1) + 1;
    for capture in &captures {
        let heard = wait_until("the broadcasts", PATIENCE, || Ok(capture.frames().len() >= sent));
        heard.unwrap_or_else(|error| panic!("{error}: {:#?}\n{}", capture.frames(), rig.told()));
    }
    let all: Vec<Vec<String>> = captures
        .into_iter()
        .map(|mut broadcasts| {
            broadcasts.capture.signal(Signal::TERM).unwrap();
            broadcasts.capture.wait(PATIENCE).unwrap();
            broadcasts.frames()
        })
        .collect();
    for heard in &all {
        assert_eq!((heard.len(), heard), (sent, &all[0]), "{}", rig.told());
    }
    for word in ["ICMP echo request", "who-has"] {
        assert!(
            all[0].iter().any(|frame| frame.contains(word)),
            "{word}: {all:#?}"
        );
    }
    rig.finish();
}
