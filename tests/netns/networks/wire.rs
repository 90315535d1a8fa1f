//! What a virtual machine's program does, without a machine: a thread that carries frames between a tap device of the node, a
//! port of the switch, and one in a namespace, whose kernel is the station. Of a trunk there is one station for each VLAN, whose
//! frames get their tag here: not every kernel has VLAN devices.

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

/// Where a frame's tag is, how long it is, and what it begins with (IEEE 802.1Q 9.6).
const TAG_AT: usize = 12;
const TAG: usize = 4;
const TAG_TYPE: [u8; 2] = [0x81, 0x00];

/// A station's end of a wire.
struct End {
    file: OwnedFd,
    /// Of a trunk: the VLAN of its frames.
    vlan: Option<u16>,
}

/// A wire between a tap device of node-a and others, until it is dropped.
pub(crate) struct Wire {
    is_over: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Wire {
    /// Connects a tap device of node-a, which is a port already, with `net1`, which is made in the namespace and brought up.
    pub(crate) fn new(rig: &Rig, tap: &str, namespace: &Namespace) -> Self {
        Self::start(rig, tap, &[(None, namespace)])
    }

    /// The same with a station for each VLAN.
    pub(crate) fn trunk(rig: &Rig, tap: &str, places: &[(u16, &Namespace)]) -> Self {
        let places: Vec<_> = places.iter().map(|(vlan, place)| (Some(*vlan), *place)).collect();
        Self::start(rig, tap, &places)
    }

    fn start(rig: &Rig, tap: &str, places: &[(Option<u16>, &Namespace)]) -> Self {
        let open = |namespace: &Namespace, name: &str| {
            let file = namespace.within(|| open_tap(name, false)).unwrap();
            file.unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let node = rig.with(|lab| open(lab.node("node-a").unwrap().namespace(), tap));
        let ends: Vec<End> = places
            .iter()
            .map(|(vlan, namespace)| {
                let file = open(namespace, "net1");
                let mtu = MTU.to_string();
                namespace.ip(&["link", "set", "net1", "mtu", &mtu, "up"]).unwrap();
                End { file, vlan: *vlan }
            })
            .collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let carrier = std::thread::spawn(move || carry(&node, &ends, &flag));
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

fn carry(node: &OwnedFd, ends: &[End], is_over: &AtomicBool) {
    let mut buffer = vec![0; FRAME_MAX];
    while !is_over.load(Ordering::Relaxed) {
        let files = [node].into_iter().chain(ends.iter().map(|end| &end.file));
        let mut wanted: Vec<PollFd<'_>> = files.map(|file| PollFd::new(file, PollFlags::IN)).collect();
        poll(&mut wanted, Some(&LOOK)).unwrap();
        let has_frame: Vec<bool> = wanted
            .iter()
            .map(|file| file.revents().contains(PollFlags::IN))
            .collect();
        // A device that is down, or that is gone, neither gives frames nor takes them.
        if has_frame[0]
            && let Ok(length) = rustix::io::read(node, &mut buffer)
        {
            let (end, frame) = untagged(ends, &buffer[..length]);
            let _ = rustix::io::write(&end.file, &frame);
        }
        for (end, _) in ends
            .iter()
            .zip(&has_frame[1..])
            .filter(|(_, has_frame)| **has_frame)
        {
            if let Ok(length) = rustix::io::read(&end.file, &mut buffer) {
                let mut frame = buffer[..length].to_vec();
                if let Some(vlan) = end.vlan {
                    let tag = TAG_TYPE.into_iter().chain(vlan.to_be_bytes());
                    frame.splice(TAG_AT..TAG_AT, tag);
                }
                let _ = rustix::io::write(node, &frame);
            }
        }
    }
}

/// Whose a frame of the switch's is, and what it gets of it. A frame that is nobody's is none that the switch may send.
fn untagged<'a>(ends: &'a [End], frame: &[u8]) -> (&'a End, Vec<u8>) {
    let tag = &frame[TAG_AT..TAG_AT + TAG];
    let vlan = (tag[..2] == TAG_TYPE).then(|| u16::from_be_bytes([tag[2], tag[3]]));
    let Some(end) = ends.iter().find(|end| end.vlan == vlan) else {
        panic!("a frame of VLAN {vlan:?}: {frame:02x?}");
    };
    let mut frame = frame.to_vec();
    if vlan.is_some() {
        frame.drain(TAG_AT..TAG_AT + TAG);
    }
    (end, frame)
}
