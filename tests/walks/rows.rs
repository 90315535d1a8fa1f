//! Rows, and how they are run.

use std::collections::HashSet;

use millrace_dataplane::port::PortId;
use millrace_dataplane::verdict::{DropReason, PuntDetail, PuntReason, Verdict};
use millrace_pipelines::{OUTER_SOURCE_PORT_FIRST, OUTER_SOURCE_PORT_LAST};

use crate::packets::{IPV6, Ip, patch, patch_ipv4, with_udp_checksum_v6};
use crate::world::{Node, station_mac, switch_mac};

/// Which exit a packet takes, and what it looks like there.
#[derive(Debug, Clone)]
pub enum Expect {
    /// Leaves by this port as these bytes.
    Forward(PortId, Vec<u8>),
    /// Leaves by this port in a tunnel, as these bytes but for what only the switch decides: outer identification
    /// and, for VXLAN, UDP source port.
    Tunnel(PortId, Vec<u8>),
    /// Is dropped.
    Drop(DropReason),
    /// Goes to the slow path as these bytes.
    Punt(PuntReason, PuntDetail, Vec<u8>),
}

/// One packet's walk on node 1.
pub struct Row {
    pub name: String,
    pub ingress: PortId,
    pub packet: Vec<u8>,
    pub expect: Expect,
}

impl Row {
    pub fn new(name: impl Into<String>, ingress: PortId, packet: Vec<u8>, expect: Expect) -> Self {
        Self {
            name: name.into(),
            ingress,
            packet,
            expect,
        }
    }

    pub fn drop(name: impl Into<String>, ingress: PortId, packet: Vec<u8>, reason: DropReason) -> Self {
        Self::new(name, ingress, packet, Expect::Drop(reason))
    }

    fn verdict(&self) -> Verdict {
        match &self.expect {
            Expect::Forward(port, _) | Expect::Tunnel(port, _) => Verdict::Forward(*port),
            Expect::Drop(reason) => Verdict::Drop(*reason),
            Expect::Punt(reason, detail, _) => Verdict::Punt(*reason, *detail),
        }
    }

    /// Compares what came out with what was to come out.
    pub fn check(&self, verdict: Verdict, left: &[u8]) {
        assert_eq!(verdict, self.verdict(), "{}", self.name);
        match &self.expect {
            Expect::Drop(_) => {}
            Expect::Forward(_, bytes) | Expect::Punt(_, _, bytes) => {
                assert_eq!(hex(left), hex(bytes), "{}", self.name);
            }
            Expect::Tunnel(_, bytes) => {
                assert_eq!(hex(left), hex(&with_choices_of(left, bytes)), "{}", self.name);
            }
        }
    }
}

/// `expected`, with what the switch may choose as it chose it in `seen`.
fn with_choices_of(seen: &[u8], expected: &[u8]) -> Vec<u8> {
    assert_eq!(seen.len(), expected.len());
    if expected[12..14] == IPV6.to_be_bytes() {
        assert_chosen(u16::from_be_bytes([seen[54], seen[55]]));
        return with_udp_checksum_v6(patch(expected.to_vec(), 54, &seen[54..56]));
    }
    let mut expected = patch_ipv4(expected.to_vec(), 18, &seen[18..20]);
    if expected[23] == 17 {
        let port = u16::from_be_bytes([seen[34], seen[35]]);
        assert_chosen(port);
        expected[34..36].copy_from_slice(&seen[34..36]);
    }
    expected
}

fn assert_chosen(port: u16) {
    assert!(
        (OUTER_SOURCE_PORT_FIRST..=OUTER_SOURCE_PORT_LAST).contains(&port),
        "source port {port}"
    );
}

/// Bytes for a person to compare, sixteen a line.
pub fn hex(bytes: &[u8]) -> String {
    let line = |line: &[u8]| line.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
    bytes.chunks(16).map(line).collect::<Vec<_>>().join("\n")
}

/// A frame from the station behind a port of node 1 to the switch.
pub fn sent(ip: &Ip, from: PortId) -> Vec<u8> {
    ip.frame(switch_mac(1, from), station_mac(1, from))
}

/// How a packet leaves node 1 by the port of a single station.
pub fn delivered(ip: &Ip, port: PortId) -> Expect {
    Expect::Forward(port, ip.frame(station_mac(1, port), switch_mac(1, port)))
}

/// A packet that goes to the slow path as it came.
pub fn punt(reason: PuntReason, detail: PuntDetail, packet: &[u8]) -> Expect {
    Expect::Punt(reason, detail, packet.to_vec())
}

/// Every row there is.
pub fn all() -> Vec<Row> {
    let sets = [
        crate::admit::rows(),
        crate::direct::rows(),
        crate::decap::rows(),
        crate::ecn::rows(),
        crate::plain::rows(),
        crate::malformed::rows(),
        crate::forward::rows(),
        crate::checksum::rows(),
        crate::limit::rows(),
        crate::encap::rows(),
    ];
    sets.into_iter().flatten().collect()
}

#[test]
fn every_row_takes_its_exit() {
    let mut node = Node::new(1);
    for row in all() {
        let (verdict, left) = node.receive(row.ingress, &row.packet);
        row.check(verdict, &left);
    }
}

/// A packet's exit depends on nothing but the packet: neither on its place in a batch nor on its neighbours there.
#[test]
fn a_row_takes_the_same_exit_in_any_batch() {
    let mut node = Node::new(1);
    let mut rows = all();
    rows.sort_by_key(|row| row.ingress);
    for port_rows in rows.chunk_by(|a, b| a.ingress == b.ingress) {
        for batch_len in [1, 3, 64] {
            for batch in port_rows.chunks(batch_len) {
                let packets: Vec<_> = batch.iter().map(|row| row.packet.clone()).collect();
                let walks = node.receive_all(batch[0].ingress, &packets);
                for (row, (verdict, left)) in batch.iter().zip(walks) {
                    row.check(verdict, &left);
                }
            }
        }
    }
}

/// Link padding changes nothing: what is forwarded or punted is cut to the packet.
#[test]
fn trailing_padding_is_cut_off() {
    let mut node = Node::new(1);
    for mut row in all() {
        if let Expect::Punt(PuntReason::Arp | PuntReason::NeighbourSolicitation, ..) = row.expect {
            continue;
        }
        if !matches!(row.expect, Expect::Drop(_)) {
            row.packet.extend([0x77; 18]);
            let (verdict, left) = node.receive(row.ingress, &row.packet);
            row.check(verdict, &left);
        }
    }
}

#[test]
fn every_reason_of_the_pipeline_has_a_row() {
    // Decided by the worker, which has rings and queues. It has no packet to show here.
    let workers = [
        DropReason::TransmitRingFull,
        DropReason::SlowPathFull,
        DropReason::OriginatedStuck,
        DropReason::HandoverFull,
        DropReason::SpreadFull,
        DropReason::BandwidthEgress,
        DropReason::BandwidthIngress,
        DropReason::BridgeAlone,
        // Takes two workers that do the same at once; the models of the flow table show it.
        DropReason::FlowRaced,
    ];
    // Needs a headroom that a received frame always has; shown in `encap`.
    let elsewhere = [DropReason::NoRoom];
    let mut drops = HashSet::from(crate::services::DROPS);
    drops.extend(crate::policies::DROPS);
    drops.extend(crate::bridge::DROPS);
    drops.extend(crate::routed::DROPS);
    let mut punts = HashSet::from(crate::services::PUNTS);
    punts.extend(crate::bridge::PUNTS);
    for row in all() {
        match row.expect {
            Expect::Drop(reason) => drops.insert(reason),
            Expect::Punt(reason, ..) => punts.insert(reason),
            Expect::Forward(..) | Expect::Tunnel(..) => false,
        };
    }
    for reason in DropReason::ALL
        .iter()
        .filter(|r| !workers.contains(r) && !elsewhere.contains(r))
    {
        assert!(drops.contains(reason), "no row for {reason}");
    }
    for reason in PuntReason::ALL {
        assert!(punts.contains(reason), "no row for {reason}");
    }
}
