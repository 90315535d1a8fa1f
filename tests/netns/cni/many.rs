//! As many pods as a node may have, with a daemon that dies in the middle.

use std::collections::BTreeSet;

use millrace_tools::lab::wait_until;
use serde_json::Value;

use crate::runtime::{
    PATIENCE, Runtime, Sandbox, addresses, assert_reaches, daemon_mut, finish, lab, pod_ports,
};

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
    let (before, after) = pods.split_at(PODS / 2);
    let mut added: Vec<Value> = before.iter().map(|pod| runtime.add(pod).unwrap()).collect();
    daemon_mut(&mut lab, "node-a").kill().unwrap();
    assert_eq!(runtime.add(&after[0]).unwrap_err().code, 11);
    daemon_mut(&mut lab, "node-a").start().unwrap();
    assert_eq!(pod_ports(&lab, "node-a").len(), before.len(), "taken up again");
    // All at once, as after a node's start; that is more than the daemon takes clients.
    added.extend(std::thread::scope(|scope| -> Vec<Value> {
        let adding: Vec<_> = after
            .iter()
            .map(|pod| scope.spawn(|| runtime.add(pod).unwrap()))
            .collect();
        adding.into_iter().map(|adding| adding.join().unwrap()).collect()
    }));
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
    // Some go one by one, some at once, and the rest with their namespaces.
    for pod in &pods[..20] {
        runtime.del(pod).unwrap();
    }
    let valid: Vec<&Sandbox> = pods[40..].iter().chain(others).collect();
    runtime.gc(&valid).unwrap();
    assert_eq!(
        (runtime.stored(), pod_ports(&lab, "node-a").len()),
        (valid.len(), valid.len())
    );
    assert_reaches(&pods[PODS - 1], &added[PODS / 2]);
    drop((pods, more));
    wait_until("the daemon to see that they are gone", PATIENCE, || {
        Ok(pod_ports(&lab, "node-a").is_empty())
    })
    .unwrap();
    runtime.gc(&[]).unwrap();
    finish(lab, &[&runtime], Vec::new());
}
