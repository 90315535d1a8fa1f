//! Who floods the network with stations that nobody has seen, and stations that move to and fro without end: others' traffic goes on.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use millrace_dataplane::port::tun::open_tap;
use millrace_tools::lab::{Namespace, wait_until};

use crate::meet;
use crate::rig::{BLUE, PATIENCE, Rig, address};
use crate::stock::FAR;

/// The tap devices: one that floods, and two between which stations move.
const FLOOD: &str = "flood";
const MOVES: [&str; 2] = ["here", "there"];
/// Stations that move, and those that are learned behind one port unless told otherwise.
const MOVERS: u64 = 4;
const LEARNED: u64 = 1024;
/// Datagrams of a stream, the pause before each, and how many have to arrive of a hundred.
const DATAGRAMS: u32 = 1500;
const PAUSE: Duration = Duration::from_millis(1);
const ARRIVE: u32 = 95;
/// How long a datagram may take that is to come at all.
const SILENCE: Duration = Duration::from_secs(3);

/// Frames by tap devices without a pause, until it is dropped.
struct Storm {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Storm {
    /// `number` is that of a frame; of which station it is, follows from it.
    fn start(rig: &Rig, taps: &[&str], station: fn(u64) -> u64) -> Self {
        let open = |name: &&str| {
            let node = |lab: &millrace_tools::lab::Lab| {
                let node = lab.node("node-a").unwrap().namespace();
                node.within(|| open_tap(name, false))
                    .unwrap()
                    .unwrap_or_else(|error| panic!("{name}: {error}"))
            };
            rig.with(node)
        };
        let files: Vec<OwnedFd> = taps.iter().map(open).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&is_over);
        let blow = move || {
            for number in 0_u64.. {
                if flag.load(Ordering::Relaxed) {
                    break;
                }
                let place = usize::try_from(number).unwrap() % files.len();
                // A device that takes nothing now loses it.
                let _ = rustix::io::write(&files[place], &frame(station(number)));
            }
        };
        Self {
            is_over,
            thread: Some(thread::spawn(blow)),
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(
            !matches!(ended, Some(Err(_))) || thread::panicking(),
            "a storm broke"
        );
    }
}

/// A frame of a station to nobody that is known.
fn frame(station: u64) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..6].copy_from_slice(&[0x06, 0xff, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&station.to_be_bytes()[2..]);
    frame[6] = 0x06;
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// How many datagrams of a stream arrive; none is sent sooner because another was late.
fn stream(from: &Namespace, to: &Namespace, at: SocketAddr) -> u32 {
    let bound = |place: &Namespace, at: SocketAddr| place.within(|| UdpSocket::bind(at)).unwrap().unwrap();
    let receiver = bound(to, at);
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = bound(from, any.parse().unwrap());
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    receiver.set_read_timeout(Some(SILENCE)).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..DATAGRAMS {
                thread::sleep(PAUSE);
                sender.send(&number.to_be_bytes()).unwrap();
            }
        });
        let mut seen = vec![false; DATAGRAMS as usize];
        let mut bytes = [0; 4];
        while seen.contains(&false) && receiver.recv(&mut bytes).is_ok() {
            let number = usize::try_from(u32::from_be_bytes(bytes)).unwrap();
            assert!(!std::mem::replace(&mut seen[number], true), "{number} came twice");
        }
        u32::try_from(seen.iter().filter(|seen| **seen).count()).unwrap()
    })
}

fn known(rig: &Rig) -> u64 {
    let told = rig.daemon().json(&["show", "fdb", "--network", BLUE]).unwrap();
    told["matching"]
        .as_u64()
        .unwrap_or_else(|| panic!("how many: {told}"))
}

#[test]
fn floods_of_stations_and_moves_leave_others_their_traffic() {
    let rig = Rig::new("storms");
    let [one, two, far] = [rig.pod(1), rig.pod(2), rig.far()];
    for (from, to) in [(&one, &two), (&one, &far), (&far, &two)] {
        meet(&rig, from, to);
    }
    let before = known(&rig);
    for tap in [FLOOD].into_iter().chain(MOVES) {
        rig.ask(&["attach", "--tap", tap, "--network", BLUE]);
    }
    let flood = Storm::start(&rig, &[FLOOD], |number| 0x1_0000_0000 + number);
    // Each of them by the one device and then by the other.
    let moves = Storm::start(&rig, &MOVES, |number| number / 2 % MOVERS);
    let raging = wait_until("the storms", PATIENCE, || {
        let daemon = rig.daemon();
        Ok(daemon.slow_path("stations_no_room") > 0 && daemon.slow_path("moves_refused") > 0)
    });
    raging.unwrap_or_else(|error| panic!("{error}\n{}", rig.told()));
    let streams = [(1, 2, true), (2, 1, false), (1, FAR, true), (FAR, 2, false)];
    for (from, to, is_ipv4) in streams {
        let at = SocketAddr::new(address(to, is_ipv4), 0);
        let arrived = rig.between(from, to, |from, to| stream(from, to, at));
        assert!(
            arrived * 100 >= DATAGRAMS * ARRIVE,
            "{arrived} of {DATAGRAMS} from {from} to {at}\n{}",
            rig.told()
        );
    }
    for (from, to) in [(&one, 2), (&far, 1)] {
        from.talk(&rig, address(to, true));
    }
    // Nothing grew beyond its bound, and who was known is.
    assert_eq!(known(&rig), before + LEARNED + MOVERS, "{}", rig.told());
    drop((flood, moves));
    for tap in [FLOOD].into_iter().chain(MOVES) {
        rig.ask(&["detach", "--tap", tap]);
    }
    assert_eq!(known(&rig), before, "{}", rig.told());
    meet(&rig, &one, &far);
    rig.finish();
}
