//! The switch on a NIC with queues: a virtual machine with a virtio NIC is a Millrace node, with pods inside, and a stock
//! Linux node in flannel's shape is outside. With two and with four queues, in copy mode and in zero-copy mode.
//!
//! Needs root, QEMU, and a kernel that `tools/kernel.sh` fetched and `MILLRACE_KERNEL` names: `make test-nic` sees to all of
//! it. A test prints its steps, and what is known when one fails.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod counters;
mod life;
mod picture;
mod rig;
mod session;
mod traffic;

use picture::Picture;
use rig::Rig;
use traffic::{Mode, Setting, carry, survive};

#[test]
fn two_queues() {
    let mut rig = Rig::new(2);
    let before = Picture::of(&rig);
    for mode in [Mode::Copy, Mode::ZeroCopy] {
        let setting = Setting {
            mode,
            uplink: "",
            workers: "",
            queues: &[0, 1],
        };
        carry(&mut rig, &setting);
        survive(&mut rig);
        if mode == Mode::ZeroCopy {
            life::assert_recovers(&mut rig, setting.queues);
        }
        rig.end("TERM");
    }
    life::assert_uninstalls(&mut rig, &before);
    rig.close();
}

/// As many queues as the machine has processors are in use at first; the switch asks for twice that, and puts it back.
#[test]
fn four_queues() {
    const QUEUES: &[u32] = &[0, 1, 2, 3];
    let mut rig = Rig::new(4);
    let before = Picture::of(&rig);
    let copy = Setting {
        mode: Mode::Copy,
        uplink: "queues = 4",
        workers: "",
        queues: QUEUES,
    };
    let zero_copy = Setting {
        mode: Mode::ZeroCopy,
        uplink: "queues = 4\nbusy-poll = true",
        workers: "hugepages = \"always\"",
        queues: QUEUES,
    };
    rig.inside("sysctl -w vm.nr_hugepages=64");
    for setting in [copy, zero_copy] {
        carry(&mut rig, &setting);
        survive(&mut rig);
        rig.end("TERM");
    }
    life::assert_uninstalls(&mut rig, &before);
    rig.close();
}
