//! The switch on a NIC with queues: a virtual machine with a virtio NIC is a Millrace node, with pods inside, and a stock
//! Linux node in flannel's shape is outside. With two and with four queues, in copy mode and in zero-copy mode.
//!
//! Needs root, QEMU, and a kernel that `tools/kernel.sh` fetched and `MILLRACE_KERNEL` names: `make test-nic` sees to all of
//! it. A test prints its steps, and what is known when one fails.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod counters;
mod faults;
mod generator;
mod life;
mod picture;
mod reach;
mod rig;
mod session;
mod traffic;
mod vlan;
mod ways;
mod wire;

use picture::Picture;
use rig::Rig;
use traffic::{Mode, Setting, assert_near_the_nic, carry, survive};

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// What has to pass before a change lands: `make test-nic`.
    Short,
    /// All there is: `make test-nic-long`.
    Long,
}

#[test]
fn two_queues() {
    try_two_queues(Extent::Short);
}

#[test]
fn four_queues() {
    try_four_queues(Extent::Short);
}

#[test]
fn the_generator_in_zero_copy() {
    let rig = Rig::new(2, false);
    generator::assert_counts_exactly(&rig);
    generator::assert_counts_the_kernels_own(&rig);
    rig.close();
}

#[test]
fn in_a_vlan() {
    let mut rig = Rig::new(2, false);
    vlan::assert_carries(&mut rig);
    rig.close();
}

#[test]
#[ignore = "make test-nic-long"]
fn two_queues_at_length() {
    try_two_queues(Extent::Long);
}

#[test]
#[ignore = "make test-nic-long"]
fn four_queues_at_length() {
    try_four_queues(Extent::Long);
}

fn try_two_queues(extent: Extent) {
    const QUEUES: &[u32] = &[0, 1];
    let mut rig = Rig::new(2, extent == Extent::Long);
    let before = Picture::of(&rig);
    if extent == Extent::Long {
        life::assert_refuses_too_much(&mut rig);
        let changes = before.changes(&Picture::of(&rig));
        assert!(changes.is_empty(), "a start that is refused: {changes:#?}");
        rig.start("native", &[("uplink", "queues = 2")]);
        assert_eq!(rig.uplink()["bind_mode"], "copy", "chosen for this driver");
        rig.assert_said("virtio_net as a module was seen");
        rig.end("TERM");
    }
    carry(&mut rig, &Setting::of(Mode::Copy, QUEUES));
    assert_near_the_nic(&rig);
    if extent == Extent::Long {
        survive(&mut rig);
        faults::assert_outlives_all(&rig, QUEUES);
    }
    rig.end("TERM");

    if extent == Extent::Long {
        // Fewer queues than workers: one of them has none.
        let one = Setting {
            uplink: "queues = 1",
            ..Setting::of(Mode::ZeroCopy, &[0])
        };
        carry(&mut rig, &one);
        rig.end("TERM");
    }

    let both = Setting {
        uplink: "queues = 2",
        ..Setting::of(Mode::ZeroCopy, QUEUES)
    };
    carry(&mut rig, &both);
    survive(&mut rig);
    life::assert_recovers(&mut rig, QUEUES);
    life::assert_host_outlives_a_stuck_switch(&rig, QUEUES);
    if extent == Extent::Long {
        faults::assert_outlives_stalled_ring(&rig);
    }
    faults::assert_outlives_driver(&rig, QUEUES);
    rig.end("TERM");
    life::assert_uninstalls(&mut rig, &before);
    rig.close();
}

/// As many queues as the machine has processors are in use at first; the switch asks for twice that, and puts it back.
fn try_four_queues(extent: Extent) {
    const QUEUES: &[u32] = &[0, 1, 2, 3];
    let mut rig = Rig::new(4, extent == Extent::Long);
    let before = Picture::of(&rig);
    if extent == Extent::Long {
        // The driver takes two queues more for the program, by which it only receives.
        carry(&mut rig, &Setting::of(Mode::Copy, QUEUES));
        rig.end("TERM");
        carry(&mut rig, &Setting::of(Mode::ZeroCopy, QUEUES));
        rig.end("TERM");
        rig.inside("ip link set dev eth1 xdp off");
        let generic = Setting {
            xdp_mode: "generic",
            ..Setting::of(Mode::Copy, &[0, 1])
        };
        carry(&mut rig, &generic);
        life::assert_follows_queues(&rig, QUEUES);
        rig.end("TERM");
        // Our program in one mode is not replaced by one in another, and there are no fewer queues while it is there.
        rig.inside("ip link set dev eth1 xdpgeneric off");
        rig.inside("ethtool -L eth1 combined 2");
    }
    let settings = [
        Setting {
            uplink: "queues = 4\nkernel-queues = [0]",
            ..Setting::of(Mode::Copy, &[1, 2, 3])
        },
        Setting {
            uplink: "queues = 4\nbusy-poll = true\ntx-ring = 128",
            workers: "hugepages = \"always\"",
            ..Setting::of(Mode::ZeroCopy, QUEUES)
        },
    ];
    rig.inside("sysctl -w vm.nr_hugepages=64");
    for setting in settings {
        carry(&mut rig, &setting);
        if setting.uplink.contains("tx-ring") {
            life::assert_set(&rig, 128);
        }
        // The short form does this with two queues.
        if extent == Extent::Long {
            survive(&mut rig);
            faults::assert_outlives_all(&rig, setting.queues);
        }
        rig.end("TERM");
    }
    life::assert_uninstalls(&mut rig, &before);
    rig.close();
}
