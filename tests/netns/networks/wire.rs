//! What a virtual machine's program does, without a machine: a thread that carries frames between a tap device of the node, a
//! port of the switch, and one in a namespace, whose kernel is the station.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use millrace_dataplane::port::tun::open_tap;
use millrace_tools::lab::Namespace;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::rig::{MTU, Rig};

/// Longer than any frame.
const FRAME_MAX: usize = 1 << 16;
/// How often is looked whether to end.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// A wire between two tap devices, until it is dropped.
pub(crate) struct Wire {
    is_over: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Wire {
    /// Connects a tap device of node-a, which is a port already, with `inside`, which is made in the namespace and brought up.
    pub(crate) fn new(rig: &Rig, tap: &str, namespace: &Namespace, inside: &str) -> Self {
        let open = |namespace: &Namespace, name: &str| {
            let file = namespace.within(|| open_tap(name, false)).unwrap();
            file.unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let node = rig.with(|lab| open(lab.node("node-a").unwrap().namespace(), tap));
        let ends = [node, open(namespace, inside)];
        let mtu = MTU.to_string();
        namespace.ip(&["link", "set", inside, "mtu", &mtu, "up"]).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let carrier = std::thread::spawn(move || carry(&ends, &flag));
        Self {
            is_over,
            carrier: Some(carrier),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.carrier.take().map(JoinHandle::join);
        assert!(
            !matches!(ended, Some(Err(_))) || std::thread::panicking(),
            "the wire broke"
        );
    }
}

fn carry(ends: &[OwnedFd; 2], is_over: &AtomicBool) {
    let mut buffer = vec![0; FRAME_MAX];
    while !is_over.load(Ordering::Relaxed) {
        let mut wanted = [
            PollFd::new(&ends[0], PollFlags::IN),
            PollFd::new(&ends[1], PollFlags::IN),
        ];
        poll(&mut wanted, Some(&LOOK)).unwrap();
        let has_frame = wanted.map(|end| end.revents().contains(PollFlags::IN));
        for (from, to) in [(0, 1), (1, 0)] {
            if has_frame[from] {
                // A device that is down, or that is gone, neither gives frames nor takes them.
                let Ok(length) = rustix::io::read(&ends[from], &mut buffer) else {
                    continue;
                };
                let _ = rustix::io::write(&ends[to], &buffer[..length]);
            }
        }
    }
}
