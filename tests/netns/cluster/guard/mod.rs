//! What must never pass: each crafted frame is dropped, counted under its own reason where it came in, and reaches nobody.

mod pod;
mod wire;

use std::net::{Ipv4Addr, SocketAddrV4};

use millrace_tools::lab::plan::Mac;
use millrace_tools::lab::{Lab, Namespace};

use crate::counters::{Counters, Counts, growth};
use crate::frames::{Ear, send, udp_packet};
use crate::rig::{SILENCE, daemon, node};

/// How often each frame is sent.
const TIMES: u64 = 3;
/// The payload of every crafted packet, by which it would be known anywhere.
const MARK: &[u8] = b"crafted by the guard test";
/// A peer that is only in the manifests: the address of its node, and its pods.
const PHANTOM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const PHANTOM_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 9, 2);

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const BROADCAST: Mac = Mac([0xff; 6]);
const SOMEONE: Mac = Mac([2, 0, 0, 0, 7, 7]);

/// A frame, and the reason it is dropped for.
type Row = (&'static str, &'static str, Vec<u8>);

/// A datagram with [`MARK`] in it.
fn marked(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    udp_packet(SocketAddrV4::new(from, 5000), SocketAddrV4::new(to, port), MARK)
}

/// Sends every row [`TIMES`] times and checks that just its reason grew, by as many, at the port called `port`.
fn check_rows(lab: &Lab, (from, interface): (&Namespace, &str), port: &str, rows: &[Row]) {
    let daemon = daemon(lab, "node-a");
    for (name, reason, frame) in rows {
        let before = Counters::settled(daemon);
        send(from, interface, &vec![frame.clone(); TIMES as usize]);
        let expected = Counts::from([((*reason).to_owned(), TIMES)]);
        let deadline = std::time::Instant::now() + SILENCE * 10;
        let after = loop {
            let now = Counters::settled(daemon);
            if growth(&before.dropped(), &now.dropped()) == expected || std::time::Instant::now() > deadline {
                break now;
            }
        };
        let (all, here) = (
            growth(&before.dropped(), &after.dropped()),
            growth(&before.dropped_at(port), &after.dropped_at(port)),
        );
        assert_eq!(
            (&all, &here),
            (&expected, &expected),
            "{name}; punted {:?}",
            growth(&before.punted(), &after.punted())
        );
    }
}

/// Everything that would be heard of a crafted packet, wherever one could go.
struct Watch(Vec<(String, Ear)>);

impl Watch {
    fn set(lab: &Lab, others: &[(&str, &Namespace, &str)]) -> Self {
        let mut ears = Vec::new();
        for (name, namespace, interface) in others {
            ears.push(((*name).to_owned(), Ear::incoming(namespace, interface, "")));
        }
        let host = Ear::incoming(node(lab, "node-a"), "millrace0", "");
        ears.push(("the host port".to_owned(), host));
        Self(ears)
    }

    fn assert_unseen(self) {
        for (name, mut ear) in self.0 {
            let seen = ear
                .rest()
                .into_iter()
                .find(|frame| frame.windows(MARK.len()).any(|bytes| bytes == MARK));
            assert!(seen.is_none(), "{name} got {:02x?}", seen.unwrap());
        }
    }
}
