//! Asking the kernel to resolve neighbours.

use std::net::IpAddr;
use std::time::Duration;

use millrace::kernel::{Kernel, KernelFollower, NeighbourState};

use super::namespaces::{Namespace, join};

/// Two namespaces on one link, `up0` with 192.0.2.1 and 2001:db8::1 and `peer0` with .2 and ::2, and a kernel
/// that forgets fast.
fn pair() -> (Namespace, Namespace) {
    let (node, other) = (Namespace::new(), Namespace::new());
    join(&node, "up0", &other, "peer0");
    other.ip("link set peer0 address 02:00:00:00:00:02");
    for (namespace, interface, end) in [(&node, "up0", 1), (&other, "peer0", 2)] {
        namespace.ip(&format!("addr add 192.0.2.{end}/24 dev {interface}"));
        namespace.ip(&format!("-6 addr add 2001:db8::{end}/64 dev {interface} nodad"));
    }
    for family in ["ipv4", "ipv6"] {
        for setting in [
            "delay_first_probe_time=1",
            "base_reachable_time_ms=3000",
            "gc_stale_time=600",
        ] {
            node.sh(&format!("sysctl -qw net.{family}.neigh.up0.{setting}"));
        }
    }
    (node, other)
}

/// Waits until the neighbour is in one of these states.
async fn wait(follower: &mut KernelFollower, ifindex: u32, address: IpAddr, states: &[NeighbourState]) {
    let waiting = async {
        while !follower
            .state()
            .neighbour(ifindex, address)
            .is_some_and(|found| states.contains(&found.state))
        {
            follower.next_change().await.unwrap();
        }
    };
    if tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .is_err()
    {
        panic!(
            "{address} never was {states:?}: {:?}",
            follower.state().neighbour(ifindex, address)
        );
    }
}

#[test]
fn an_unknown_neighbour_is_resolved_and_a_stale_one_is_asked_again() {
    let (node, _other) = pair();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let mut follower = KernelFollower::start().await.unwrap();
        let ifindex = follower.state().link_by_name("up0").unwrap().ifindex;
        for address in ["192.0.2.2", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap()) {
            assert!(follower.state().neighbour(ifindex, address).is_none());
            kernel.request_resolution(ifindex, address).await.unwrap();
            wait(&mut follower, ifindex, address, &[NeighbourState::Reachable]).await;
            let mac = follower.state().neighbour(ifindex, address).unwrap().usable_mac();
            assert_eq!(mac, Some([2, 0, 0, 0, 0, 2]));

            wait(&mut follower, ifindex, address, &[NeighbourState::Stale]).await;
            kernel.request_resolution(ifindex, address).await.unwrap();
            // Only an answer to a new probe makes it reachable again.
            wait(&mut follower, ifindex, address, &[NeighbourState::Reachable]).await;
        }
    });
}

#[test]
fn a_neighbour_that_does_not_answer_fails_and_can_be_asked_again() {
    let (node, other) = pair();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let mut follower = KernelFollower::start().await.unwrap();
        let ifindex = follower.state().link_by_name("up0").unwrap().ifindex;
        let address: IpAddr = "192.0.2.77".parse().unwrap();
        kernel.request_resolution(ifindex, address).await.unwrap();
        wait(&mut follower, ifindex, address, &[NeighbourState::Failed]).await;
        assert_eq!(
            follower.state().neighbour(ifindex, address).unwrap().usable_mac(),
            None
        );
        other.ip("addr add 192.0.2.77/24 dev peer0");
        kernel.request_resolution(ifindex, address).await.unwrap();
        wait(&mut follower, ifindex, address, &[NeighbourState::Reachable]).await;
    });
}

#[test]
fn a_neighbour_that_somebody_has_fixed_stays_as_it_is() {
    let (node, _other) = pair();
    node.ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev up0 nud permanent");
    node.ip("-6 neighbour add 2001:db8::9 lladdr 02:00:00:00:00:09 dev up0 nud permanent");
    node.ip("neighbour add 192.0.2.10 lladdr 02:00:00:00:00:0a dev up0 nud noarp");
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let follower = KernelFollower::start().await.unwrap();
        let ifindex = follower.state().link_by_name("up0").unwrap().ifindex;
        let fixed = [
            ("192.0.2.9", NeighbourState::Permanent),
            ("2001:db8::9", NeighbourState::Permanent),
            ("192.0.2.10", NeighbourState::Noarp),
        ];
        for (address, _) in fixed {
            let address = address.parse().unwrap();
            kernel.request_resolution(ifindex, address).await.unwrap();
        }
        let after = KernelFollower::start().await.unwrap();
        for (address, state) in fixed {
            let address: IpAddr = address.parse().unwrap();
            let found = after.state().neighbour(ifindex, address).unwrap();
            assert_eq!(found.state, state, "{address}");
        }
    });
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let node = Namespace::new();
    node.run(|| async {
        let kernel = Kernel::open().unwrap();
        let error = kernel
            .request_resolution(4242, "192.0.2.2".parse().unwrap())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("192.0.2.2") && error.contains("4242") && error.contains("no such interface"),
            "{error}"
        );
    });
}
