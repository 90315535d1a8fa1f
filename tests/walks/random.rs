//! Random packets, and good ones with something broken: never a panic, always one exit, never a way around a guard.

use std::net::IpAddr;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use proptest::prelude::*;

use millrace_dataplane::port::PortId;
use millrace_dataplane::verdict::Verdict;

use crate::packets::Family;
use crate::rows;
use crate::world::{
    FROM_SWITCH, NODES, Node, gone, host, narrow, node_address, node_v4, pod, pod_port, underlay, uplink,
    waited,
};

/// One thing done to a packet.
#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Extend(Vec<u8>),
    Double(prop::sample::Index, usize),
}

impl Damage {
    fn strategy() -> impl Strategy<Value = Self> {
        let at = any::<prop::sample::Index>;
        prop_oneof![
            6 => (at(), any::<u8>()).prop_map(|(at, byte)| Self::Flip(at, byte)),
            1 => at().prop_map(Self::Cut),
            1 => proptest::collection::vec(any::<u8>(), 0..64).prop_map(Self::Extend),
            1 => (at(), 1_usize..40).prop_map(|(at, len)| Self::Double(at, len)),
        ]
    }

    fn apply(&self, packet: &mut Vec<u8>) {
        if packet.is_empty() {
            return;
        }
        match self {
            // Headers are where a changed byte means something.
            Self::Flip(at, byte) => {
                let len = packet.len().min(120);
                packet[at.index(len)] = *byte;
            }
            Self::Cut(at) => packet.truncate(at.index(packet.len())),
            Self::Extend(bytes) => packet.extend(bytes),
            Self::Double(at, len) => {
                let start = at.index(packet.len());
                let copy = packet[start..packet.len().min(start + len)].to_vec();
                packet.splice(start..start, copy);
            }
        }
        packet.truncate(1700);
    }
}

fn any_port() -> impl Strategy<Value = PortId> {
    prop::sample::select(vec![uplink(), host(), pod_port(2), pod_port(3), narrow(), gone()])
}

/// Source and destination of the IP packet in a frame, by a stranger's parser; an error if its header lies.
fn addresses(frame: &[u8]) -> Result<(IpAddr, IpAddr), String> {
    let (ether_type, ip) = (frame.get(12..14), frame.get(14..).unwrap_or(&[]));
    match ether_type {
        Some([0x08, 0x00]) => {
            let header = Ipv4HeaderSlice::from_slice(ip)
                .map_err(|error| error.to_string())?
                .to_header();
            if header.header_checksum != header.calc_header_checksum()
                || usize::from(header.total_len) > ip.len()
            {
                return Err(format!("{header:?} over {} bytes", ip.len()));
            }
            Ok((IpAddr::from(header.source), IpAddr::from(header.destination)))
        }
        Some([0x86, 0xdd]) => {
            let header = Ipv6HeaderSlice::from_slice(ip)
                .map_err(|error| error.to_string())?
                .to_header();
            if usize::from(header.payload_length) + 40 > ip.len() {
                return Err(format!("{header:?} over {} bytes", ip.len()));
            }
            Ok((IpAddr::from(header.source), IpAddr::from(header.destination)))
        }
        other => Err(format!("EtherType {other:?}")),
    }
}

/// What holds for every forwarded packet, whatever came in.
fn check_guards(ingress: PortId, packet: &[u8], exit: PortId, left: &[u8]) -> Result<(), TestCaseError> {
    let seen = addresses(left).map_err(|why| {
        TestCaseError::fail(format!(
            "forwarded: {why}
{}",
            rows::hex(left)
        ))
    });
    let (source, destination) = seen?;
    prop_assert!(!source.is_multicast() && !source.is_loopback() && !destination.is_loopback());
    if exit == uplink() {
        prop_assert!(destination != IpAddr::V4(node_v4(1)), "sent to ourselves");
    }
    if let Some(own) = [(pod_port(2), 2), (pod_port(3), 3), (narrow(), 9)]
        .iter()
        .find(|(port, _)| *port == ingress)
    {
        let came_from = addresses(packet).map(|(source, _)| source);
        let is_own = Family::BOTH
            .iter()
            .any(|family| Ok(pod(*family, 1, own.1)) == came_from);
        prop_assert!(is_own, "a pod sent from {came_from:?}");
    }
    if ingress == uplink() && exit == pod_port(2) {
        let (outer_source, outer_destination) = addresses(packet).unwrap();
        if Family::BOTH
            .iter()
            .any(|f| outer_destination == node_address(*f, 1))
        {
            let mut nodes = NODES.skip(1);
            let sender = nodes.find(|n| outer_source == node_address(underlay(1, *n), *n));
            let block = |n: u8| match source {
                IpAddr::V4(v4) if v4.octets()[..3] == [10, 244, n] => true,
                IpAddr::V6(v6) if v6.segments()[..4] == [0xfd00, u16::from(n), 0, 0] => true,
                other => other == node_address(underlay(1, n), n),
            };
            prop_assert!(sender.is_some_and(block), "{outer_source} sent from {source}");
        }
    }
    Ok(())
}

fn run(node: &mut Node, ingress: PortId, packets: &[Vec<u8>]) -> Result<(), TestCaseError> {
    for (packet, (verdict, left)) in packets.iter().zip(node.receive_all(ingress, packets)) {
        if let Verdict::Forward(exit) = verdict {
            check_guards(ingress, packet, exit, &left)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn noise_takes_an_exit(
        ingress in any_port(),
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..64),
    ) {
        run(&mut Node::new(1), ingress, &packets)?;
    }

    #[test]
    fn damaged_packets_take_an_exit_and_pass_no_guard(
        damages in proptest::collection::vec(
            (any::<prop::sample::Index>(), proptest::collection::vec(Damage::strategy(), 1..4)),
            1..200,
        ),
        elsewhere in any_port(),
        moved in 0..8,
    ) {
        let rows = rows::all();
        let mut node = Node::new(1);
        for (at, damages) in damages {
            let row = &rows[at.index(rows.len())];
            let mut packet = row.packet.clone();
            damages.iter().for_each(|damage| damage.apply(&mut packet));
            let ingress = if moved == 0 { elsewhere } else { row.ingress };
            run(&mut node, ingress, std::slice::from_ref(&packet))?;
            node.originate(waited(ingress), &packet);
            node.originate(FROM_SWITCH, &packet);
        }
    }
}

/// Every packet of every row, cut at every byte.
#[test]
fn cut_at_every_byte_nothing_reads_past_the_end() {
    let mut node = Node::new(1);
    for row in rows::all() {
        let headers = row.packet.len().min(130);
        let cuts: Vec<_> = (0..headers).map(|len| row.packet[..len].to_vec()).collect();
        for batch in cuts.chunks(64) {
            for (packet, (verdict, left)) in batch.iter().zip(node.receive_all(row.ingress, batch)) {
                if let Verdict::Forward(exit) = verdict {
                    check_guards(row.ingress, packet, exit, &left).unwrap();
                }
            }
        }
    }
}
