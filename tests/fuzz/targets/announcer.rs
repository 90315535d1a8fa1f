//! ARP and neighbour discovery as the announcer of load balancers' addresses hears them: whatever it is, it is heard without
//! a panic; nothing is said but about addresses that are announced, and what is said can be heard again. What nodes write to
//! each other of hosts that have such addresses is read back as it was.
#![no_main]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use millrace::balancer::announce::frames::{self, What};
use millrace::balancer::announce::{Begin, Speaker, Standing, Task};
use millrace::balancer::aside;
use millrace_dataplane::table::HashKey;
use millrace_dataplane::wire::MacAddr;

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Announced, and probed for.
const ADDRESSES: [(IpAddr, Begin); 4] = [
    (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), Begin::TakeOver),
    (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 8)), Begin::Probe),
    (
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
        Begin::TakeOver,
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 8)),
        Begin::Probe,
    ),
];

fuzz_target!(|data: &[u8]| {
    let begin = Instant::now();
    let mut speaker = Speaker::new(OWN, HashKey::from_words([1, 2, 3]));
    let task = Task {
        addresses: BTreeMap::from(ADDRESSES),
        ..Task::default()
    };
    speaker.set(task, begin);
    let mut out = Vec::new();
    speaker.tick(begin, &mut out);
    // Frames stand one after the other, each behind its length.
    let mut rest = data;
    let mut now = begin;
    while let [len, behind @ ..] = rest {
        let (frame, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        now += Duration::from_millis(u64::from(*len));
        out.clear();
        speaker.hear(frame, now, &mut out);
        assert!(out.len() <= 2, "a frame says a thing and asks one: {out:?}");
        check(&speaker, &out, now);
    }
    let counts = speaker.counts();
    assert!(counts.answered + counts.rate_limited <= 2 * data.len() as u64);
    if let Ok(text) = std::str::from_utf8(data) {
        let claims = aside::read(text);
        assert_eq!(aside::read(&aside::write(&claims)), claims);
    }
});

fn check(speaker: &Speaker, out: &[Vec<u8>], now: Instant) {
    let statuses = speaker.statuses(now);
    for frame in out {
        let [Some(said), None] = frames::read(frame) else {
            panic!("nobody would hear {frame:02x?}");
        };
        assert_eq!((said.from, said.what), (OWN, What::Claims));
        assert_eq!(statuses[&said.address].standing, Standing::Announced);
    }
    for (address, begin) in ADDRESSES {
        // Without a clock that goes on, what is probed for is not announced, and what is announced is not given up.
        let standing = statuses[&address].standing;
        match begin {
            Begin::TakeOver => assert_eq!(standing, Standing::Announced),
            Begin::Probe => assert!(matches!(standing, Standing::Probing | Standing::Refused)),
        }
    }
}
