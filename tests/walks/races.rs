//! Workers that meet at one new connection: none of its packets is lost to that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use millrace_dataplane::verdict::Verdict;

use crate::packets::{Body, Family, Ip};
use crate::rows::sent;
use crate::world::{Node, connections, pod, pod_port, tables};

const WORKERS: usize = 3;
/// As many as fit the flow table of the tests' node.
const ROUNDS: u16 = 200;

#[test]
fn a_new_connection_that_several_workers_see_at_once_loses_no_packet() {
    for family in Family::BOTH {
        let (shared, met) = (connections(), AtomicUsize::new(0));
        let work = || {
            let mut node = Node::sharing(tables(1), shared.clone());
            let mut lost = Vec::new();
            for round in 1..=ROUNDS {
                let ip = Ip::udp(pod(family, 1, 2), pod(family, 1, 3));
                let ip = ip.body(Body::Udp(1000 + round, 53, vec![0x5a; 20]));
                let packet = sent(&ip, pod_port(2));
                met.fetch_add(1, Ordering::AcqRel);
                while met.load(Ordering::Acquire) < usize::from(round) * WORKERS {
                    // There may be fewer cores than workers.
                    thread::yield_now();
                }
                // Who panicked here would leave the others waiting.
                let verdict = node.receive(pod_port(2), &packet).0;
                if verdict != Verdict::Forward(pod_port(3)) {
                    lost.push((round, verdict));
                }
            }
            lost
        };
        thread::scope(|scope| {
            for worker in [(); WORKERS].map(|()| scope.spawn(work)) {
                assert_eq!(worker.join().unwrap(), [], "{family:?}");
            }
        });
    }
}
