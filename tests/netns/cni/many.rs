//! As many pods as a node may have, with a daemon that dies in the middle.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::runtime::{Runtime, Sandbox, addresses, assert_reaches, daemon_mut, finish, lab, pod_ports};

/// What a node's /24 has addresses for: of 256 all but the tunnel's, the gateway's and the broadcast address.
const ROOM: usize = 253;
/// How many a node has.
const PODS: usize = 250;

#[test]
fn two_hundred_and_fifty_pods_and_a_daemon_that_dies_in_the_middle() {
    let mut lab = lab("cni-many", 1);
    let runtime = Runtime::new(&lab, "node-a");
    let pods: Vec<Sandbox> = (0..PODS)
        .map(|number| Sandbox::new(&lab, &format!("p{number}")))
        .collect();
    let mut added: Vec<Value> = Vec::new();
    for (number, pod) in pods.iter().enumerate() {
        if number == PODS / 2 {
            daemon_mut(&mut lab, "node-a").kill().unwrap();
            assert_eq!(runtime.add(pod).unwrap_err().code, 11);
            daemon_mut(&mut lab, "node-a").start().unwrap();
            assert_eq!(pod_ports(&lab, "node-a").len(), PODS / 2, "taken up again");
        }
        added.push(runtime.add(pod).unwrap());
    }
    let different: BTreeSet<_> = added.iter().map(addresses).collect();
    assert_eq!((different.len(), runtime.stored()), (PODS, PODS));
    runtime.status().unwrap();
    // From before the restart to after it, and the other way round.
    for place in (0..PODS).step_by(25) {
        runtime.check(&pods[place]).unwrap();
        assert_reaches(&pods[place], &added[PODS - 1 - place]);
    }
    // Until there is no address any more.
    let more: Vec<Sandbox> = (PODS..=ROOM)
        .map(|number| Sandbox::new(&lab, &format!("p{number}")))
        .collect();
    let (last, others) = more.split_last().unwrap();
    for pod in others {
        runtime.add(pod).unwrap();
    }
    let (status, refused) = (runtime.status().unwrap_err(), runtime.add(last).unwrap_err());
    assert!(
        status.code == 50 && status.msg.contains("no IPv4 address is left"),
        "{status:?}"
    );
    assert!(
        refused.code == 11 && refused.msg.contains("253 are taken"),
        "{refused:?}"
    );
    // Half of them go one by one, the rest at once.
    for pod in &pods[..PODS / 2] {
        runtime.del(pod).unwrap();
    }
    assert_reaches(&pods[PODS - 1], &added[PODS / 2]);
    runtime.gc(&[]).unwrap();
    finish(lab, &[&runtime], pods.into_iter().chain(more).collect());
}
