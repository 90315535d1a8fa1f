//! The load generator on real interfaces, in network namespaces: what it counts is held against a node between its ends
//! that loses, doubles, delays and damages on purpose and says how much, and against the kernel's own counters. Needs root
//! and `iproute2` and `nft`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ends;
mod middle;
mod program;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use millrace_tools::lab::Namespace;
use millrace_tools::pktgen::example::Stage;
use millrace_tools::pktgen::settings::{Settings, setup, trial};
use millrace_tools::pktgen::{Outcome, PktgenError, Session};

/// Slow enough for the queues of any machine to hold what comes while it does something else.
const RATE: &str = "4000";

/// What the kernel answers while a queue is in use.
const BUSY: i32 = rustix::io::Errno::BUSY.raw_os_error();

/// The lab's settings, for so many packets.
fn settings(stage: &Stage, packets: u64) -> Settings {
    let mut settings = stage.settings();
    settings.run.rate = RATE.parse().ok();
    settings.run.packets = Some(packets);
    settings.time.seconds = Some(120.0);
    settings.time.drain = Some(3.0);
    settings
}

fn run(settings: &Settings) -> Outcome {
    go(&mut open(settings), settings)
}

/// Opens both ends. The kernel gives a queue free some time after its socket is closed, on a busy machine much later.
fn open(settings: &Settings) -> Session {
    let mut opened = None;
    eventually("a free queue", || {
        match Session::open(setup(settings).unwrap().setup) {
            Ok(session) => opened = Some(session),
            Err(PktgenError::Bind(error)) if error.errno == Some(BUSY) => {}
            Err(error) => panic!("{error}"),
        }
        opened.is_some()
    });
    opened.unwrap()
}

fn go(session: &mut Session, settings: &Settings) -> Outcome {
    let trial = trial(settings).unwrap().0;
    session.run(&trial, &AtomicBool::new(false), &mut |_| {}).unwrap()
}

/// What the generator's own ends lost, and says so.
fn own_losses(outcome: &Outcome) -> u64 {
    outcome.received.unwrap().overrun
}

/// How `ip -details` describes an interface.
fn link(namespace: &Namespace, interface: &str) -> String {
    namespace.ip(&["-details", "link", "show", interface]).unwrap()
}

/// Waits for something that other threads bring about.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come about");
}
