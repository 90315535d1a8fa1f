//! A NIC that stops sending, and one whose driver is taken off and given back.

use millrace_tools::lab::plan::UPLINK;

use crate::counters::Counters;
use crate::rig::{PODS, Rig, await_that};
use crate::traffic::talk;

/// Answers that show that the machine's own connection lives.
const SOME: u64 = 20;
/// How a full transmit ring is named among the reasons for drops.
const RING_FULL: &str = "transmit_ring_full";

/// All that is below, on a switch that carries traffic.
pub(crate) fn assert_outlives_all(rig: &Rig, queues: &[u32]) {
    assert_outlives_stalled_ring(rig);
    assert_outlives_driver(rig, queues);
}

/// The wire takes nothing more, so the device's descriptors are used up, and then the socket's ring is full. What comes on top
/// of that is dropped by its name, pods reach each other meanwhile, and when the wire takes packets again all is as before.
pub(crate) fn assert_outlives_stalled_ring(rig: &Rig) {
    /// Far more packets than a socket's transmit ring and the device's descriptors have entries together.
    const FLOOD: u64 = 6000;
    /// What a queue takes at the most that does not send: entries of its socket's transmit ring (`[uplink] socket-ring`) and of
    /// its completion ring, without a place in which the kernel takes no packet out of the first.
    const TAKEN_MAX: u64 = 1024 + 2048;
    let session = rig.open_session();
    session.await_answers("before the wire stands still", SOME);
    let before = Counters::settled(&rig.node);
    let wire = rig.lab.nodes()[0].name();
    rig.lab.switch().hold(&wire).unwrap();
    {
        let _step = rig.step("a transmit ring that stands still");
        let outside = rig.stock_pod().1;
        // How many a flood is depends on how busy the machine is.
        let mut stalled = before.clone();
        await_that("a drop for a full transmit ring", || {
            rig.told_inside(&format!(
                "ip netns exec {} ping -n -q -c {FLOOD} -l {FLOOD} -w 2 {outside}",
                PODS[0]
            ));
            stalled = Counters::settled(&rig.node);
            stalled.dropped_for(RING_FULL) > before.dropped_for(RING_FULL)
        });
        let taken = stalled.uplink_growth(&before);
        assert!(taken.iter().all(|(_, sent)| *sent <= TAKEN_MAX), "{taken:?}");
        rig.assert_pods_reach_each_other();
    }
    let _step = rig.step("the same ring when the wire takes packets again");
    rig.lab.switch().release(&wire).unwrap();
    rig.await_reach();
    session.await_answers("after the wire stood still", SOME);
    session.end();
    Counters::settled(&rig.node);
}

/// The NIC's driver is taken off under the running switch, which says that the uplink is gone; it is given back, which
/// resets the device, and the switch has sockets on all queues of the new interface.
pub(crate) fn assert_outlives_driver(rig: &Rig, queues: &[u32]) {
    let session = rig.open_session();
    session.await_answers("before the driver goes", SOME);
    let device = {
        let _step = rig.step("the driver is taken off");
        let device = rig.node.unbind_driver().unwrap();
        await_that("the switch's word that the uplink is gone", || {
            rig.find_uplink().is_none()
        });
        rig.assert_said(&format!("{UPLINK} is gone"));
        rig.assert_pods_reach_each_other();
        Counters::settled(&rig.node);
        device
    };
    {
        let _step = rig.step("the driver is given back");
        rig.node.bind_driver(&device).unwrap();
        await_that("the uplink among the switch's ports", || {
            rig.find_uplink().is_some()
        });
        rig.assert_said(&format!("{UPLINK} is back"));
        rig.await_reach();
        session.await_answers("after the driver came back", SOME);
        session.end();
    }
    talk(rig, queues);
}
