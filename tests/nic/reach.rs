//! Answers of the machine and its pods, waited for on a QEMU that may stop reading its tap.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use millrace_tools::lab::traffic::{Ping, ping};
use millrace_tools::lab::{LabError, wait_until};

use crate::counters::Counters;
use crate::rig::{PATIENCE, PODS, Rig, STOCK_POD, await_that};

/// How long an answer of the machine may be missing before QEMU is roused, and before it is again.
const ROUSE_BEAT: Duration = Duration::from_secs(1);
/// Fewer packets than any flood has: what comes anyway while nobody talks with pods.
const A_FEW: u64 = 32;

impl Rig {
    /// Waits for something that packets to the machine bring about, and rouses QEMU while it does not come.
    ///
    /// QEMU may stop reading a queue of the tap (see [`Machine::rouse`](millrace_tools::lab::machine::Machine::rouse)), which
    /// a NIC does not: what waits in that queue, and what comes after it, is lost to the machine, whatever runs in it. Who
    /// waits for an answer would wait for ever for QEMU's sake. Rousing gives the machine nothing but those packets; it
    /// fills no ring and kicks no queue, so a switch that does not take its packets, or has nothing for the NIC to receive
    /// into, is as far from an answer as before, and the wait fails. How often it took is printed: where an answer is only slow
    /// to come, it was for nothing.
    pub(crate) fn await_answer(&self, what: &str, mut condition: impl FnMut() -> Result<bool, LabError>) {
        let (mut roused, mut latest) = (0, Instant::now());
        let waited = wait_until(what, PATIENCE, || {
            if condition()? {
                return Ok(true);
            }
            if latest.elapsed() >= ROUSE_BEAT {
                self.node.machine().rouse()?;
                roused += 1;
                latest = Instant::now();
            }
            Ok(false)
        });
        if roused > 0 {
            eprintln!(
                "nic:         {}: QEMU roused, waiting for {what}: {roused}",
                self.title
            );
        }
        waited.unwrap_or_else(|error| panic!("{error}"));
    }

    /// After a flood of packets for pods: rouses QEMU until no more of it comes to the switch. Each queue of the tap may
    /// hold more than a ring takes at once, so one time is not always enough.
    pub(crate) fn drain(&self) {
        let (mut before, mut roused) = (Counters::settled(&self.node), 0);
        await_that("the end of a flood", || {
            self.node.machine().rouse().unwrap();
            roused += 1;
            let now = Counters::settled(&self.node);
            let came: u64 = now.uplink_growth(&before).iter().map(|(came, _)| came).sum();
            before = now;
            came < A_FEW
        });
        eprintln!("nic:         {}: QEMU roused after a flood: {roused}", self.title);
    }

    /// Waits until the stock node's pod has an answer from a pod of the machine, and has three more.
    pub(crate) fn await_reach(&self) {
        let ((pod, _), target) = (self.stock_pod(), self.address(PODS[0]));
        let once = Ping {
            count: 1,
            patience: Duration::from_millis(500),
            ..Ping::default()
        };
        self.await_answer(&format!("an answer from {target}"), || {
            Ok(ping(pod, target.into(), &once)?.received == 1)
        });
        self.assert_pings();
    }

    /// Echo requests from outside to a pod inside, from inside to the pod outside and to the other inside, all answered.
    pub(crate) fn assert_pings(&self) {
        let ((pod, outside), inside) = (self.stock_pod(), self.address(PODS[0]));
        let patient = Ping {
            patience: PATIENCE,
            ..Ping::default()
        };
        let report = ping(pod, inside.into(), &patient).unwrap();
        assert!(
            report.received == report.sent && report.complaints.is_empty(),
            "{STOCK_POD} -> {inside}: {report:?}"
        );
        self.assert_pings_from_inside(outside);
        self.assert_pods_reach_each_other();
    }

    /// Echo requests from one pod of the machine to the other, all answered: the uplink has no part in it.
    pub(crate) fn assert_pods_reach_each_other(&self) {
        self.assert_pings_from_inside(self.address(PODS[1]));
    }

    fn assert_pings_from_inside(&self, to: Ipv4Addr) {
        let line = format!("ip netns exec {} ping -n -c 3 -i 0.2 -W 80 {to}", PODS[0]);
        let told = self.inside(&line);
        assert!(told.contains("3 packets transmitted, 3 received"), "{told}");
    }
}
