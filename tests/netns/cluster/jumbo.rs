//! Links that take 9000 bytes: packets of every length between pods of one node, and through the tunnel to a stock node's.

use millrace_tools::lab::traffic::{
    Amount, Ping, TcpTransfer, UdpEcho, UdpExchange, ping, tcp_transfer, udp_exchange,
};
use millrace_tools::lab::{Lab, Topology, Wire};
use serde_json::json;

use crate::counters::Counters;
use crate::rig::{PAIR, PATIENCE, address, await_reach, daemon, finish, lab, pod, row, side_by_side};

const LINK_MTU: u32 = 9000;
/// What a VXLAN tunnel leaves of it.
const POD_MTU: u32 = LINK_MTU - 50;
/// The longest packet that lies in one buffer of the switch's, less its Ethernet header, and in several less the tunnel.
const ONE_BUFFER: u32 = 1792 - 14;
/// Bytes sent over TCP, in segments as large as packets can be; iperf3 counts those that came before it was told of the end.
const BYTES: u64 = 20_000_000;

fn jumbo(name: &str) -> Lab {
    lab(
        name,
        &Topology {
            pods_per_node: 2,
            wire: Wire {
                mtu: LINK_MTU,
                ..Wire::default()
            },
            ..Topology::of(&PAIR)
        },
    )
}

fn assert_carries(lab: &Lab, from: &str, to: &str) {
    let target = address(lab, to);
    await_reach(pod(lab, from), target);
    for mtu in [
        84,
        ONE_BUFFER - 51,
        ONE_BUFFER - 50,
        ONE_BUFFER,
        ONE_BUFFER + 1,
        2 * ONE_BUFFER,
        POD_MTU - 1,
        POD_MTU,
    ] {
        let report = ping(pod(lab, from), target.into(), &Ping::full_size(mtu)).unwrap();
        assert_eq!(
            report.received, report.sent,
            "{from} -> {to}, {mtu} bytes: {report:?}"
        );
    }
    let echo = UdpEcho::start(pod(lab, to), target.into()).unwrap();
    let what = UdpExchange::up_to(POD_MTU);
    let report = udp_exchange(pod(lab, from), echo.address(), &what).unwrap();
    assert!(report.is_whole(), "{from} -> {to}: {report:?}");
    let transfer = TcpTransfer {
        from: pod(lab, from),
        to: pod(lab, to),
        address: target,
        amount: Amount::Bytes(BYTES),
        timeout: PATIENCE,
    };
    let report = tcp_transfer(&transfer).unwrap();
    assert!(report.received_bytes > BYTES / 2, "{from} -> {to}: {report:?}");
}

#[test]
fn packets_of_nine_thousand_bytes_are_carried() {
    let _turn = side_by_side();
    let lab = jumbo("jumbo");
    let uplink = row(daemon(&lab, "node-a"), "ports", "role", "uplink").unwrap();
    assert_eq!(uplink["mtu"], json!(LINK_MTU), "{uplink:#}");
    for (from, to) in [("pod-a1", "pod-a2"), ("pod-a1", "pod-b1"), ("pod-b1", "pod-a2")] {
        assert_carries(&lab, from, to);
    }
    let counters = Counters::settled(daemon(&lab, "node-a"));
    assert_eq!(counters.dropped(), [].into());
    finish(lab);
}
