//! The cluster as OpenFlow rules for Open vSwitch.
//!
//! A known connection that was let through takes its tracker's entry, with its NAT, and its route. A new one is first
//! turned to an endpoint of its Service, of several by a hash of the connection. Then both its ends are made numbers in
//! registers, and so is whether its port is one of those that most policies open; so a policy's rule takes few matches,
//! however many pods it is about. Nothing passes an isolated pod that no rule names. What passes is marked in the
//! tracker: the connection's later packets need no judgement. A connection that was refused keeps its entry, without a mark.
//!
//! Each policy's rules have a priority of their own: so all of them are there, as in the other arms, though many say the same.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use millrace_dataplane::wire::MacAddr;
use millrace_tools::lab::plan::{NodePlan, VNI};
use serde_json::json;

use super::cluster::{
    Cluster, GROUPS, OPEN_PORTS, Policy, SERVICE_CIDR, SERVICE_PORT, Service, backend, group, own_ports,
};
use crate::arms::{POD_NUMBER, Rules, TUNNEL_NUMBER, ZONE};

/// The tables, in the order in which they are asked.
const ENTRY: u8 = 0;
const STATE: u8 = 1;
const SERVICES: u8 = 2;
const ENDPOINTS: u8 = 3;
const DESTINATION: u8 = 4;
const SOURCE: u8 = 5;
const PORT: u8 = 6;
const EGRESS: u8 = 7;
const INGRESS: u8 = 8;
const COMMIT: u8 = 9;
const ROUTE: u8 = 10;
/// Registers: which endpoint, of which Service; to whom, from whom; whether the port is an open one.
const WHICH: &str = "reg0";
const SERVICE: &str = "reg1";
const TO: &str = "reg6";
const FROM: &str = "reg7";
const OPEN: &str = "reg8";
/// In [`TO`] and [`FROM`]: the calling pod, and a backend, whose group is in the lower half.
const LAB: u32 = 0x2_0000;
const BACKEND: u32 = 0x1_0000;
/// The mark of a connection that was let through.
const ALLOWED: u32 = 1;
/// The priority of the first policy's rules; of what is not one policy's; and of what is left.
const POLICIES_FROM: u32 = 1_000;
const USUAL: u32 = 100;
const LAST: u32 = 1;
/// What any hash takes for its start.
const BASIS: u32 = 50;

/// A node's ends that the rules write into packets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    /// This node, and the one the backends are on.
    pub(super) node: NodePlan,
    pub(super) peer: NodePlan,
    /// The pod that calls.
    pub(super) pod: Ipv4Addr,
}

/// The rules, for a pod with this link address.
pub(super) fn rules(cluster: Cluster, ends: Ends, pod_mac: MacAddr) -> Rules {
    let mut writer = Writer::default();
    writer.known(ends);
    for (number, service) in (1..).zip(cluster.services()) {
        writer.service(number, &service);
    }
    writer.identities(ends);
    for (number, policy) in (0..).zip(cluster.policies()) {
        writer.policy(POLICIES_FROM + number, policy);
    }
    writer.isolation(cluster);
    writer.routes(ends, pod_mac);
    Rules {
        counts: json!({ "flows": writer.flows }),
        text: writer.text,
    }
}

#[derive(Debug, Default)]
struct Writer {
    text: String,
    flows: u32,
}

impl Writer {
    fn flow(&mut self, table: u8, priority: u32, matches: &str, actions: &str) {
        let comma = if matches.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = writeln!(
            self.text,
            "table={table},priority={priority}{comma}{matches},actions={actions}"
        );
        self.flows += 1;
    }

    /// What comes in, and what is known of it. What no rule takes is dropped.
    fn known(&mut self, ends: Ends) {
        let track = format!("ct(zone={ZONE},nat,table={STATE})");
        let gateway = ends.node.bridge_mac();
        let pod = ends.pod;
        self.flow(
            ENTRY,
            USUAL,
            &format!("in_port={POD_NUMBER},ip,nw_src={pod},dl_dst={gateway}"),
            &track,
        );
        self.flow(
            ENTRY,
            USUAL,
            &format!("in_port={TUNNEL_NUMBER},ip,tun_id={VNI}"),
            &track,
        );
        // The mark tells, and not whether it is new: to the tracker TCP is, until both ends have said more than SYN.
        let known = format!("ip,ct_state=+trk-inv,ct_mark={ALLOWED}");
        self.flow(STATE, USUAL, &known, &format!("goto_table:{ROUTE}"));
        let new = "ip,ct_state=+trk+new-inv,ct_mark=0";
        self.flow(STATE, USUAL, new, &format!("goto_table:{SERVICES}"));
        self.flow(SERVICES, USUAL - 1, &format!("ip,nw_dst={SERVICE_CIDR}"), "drop");
        self.flow(SERVICES, LAST, "ip", &format!("goto_table:{DESTINATION}"));
    }

    /// From a Service's address to one of its endpoints.
    fn service(&mut self, number: u32, service: &Service) {
        let protocol = service.protocol.to_lowercase();
        let front = format!("{protocol},nw_dst={},tp_dst={SERVICE_PORT}", service.address);
        let nat = |(pod, port): (u32, u16)| {
            let address = backend(pod);
            format!("ct(commit,zone={ZONE},nat(dst={address}:{port}),table={DESTINATION})")
        };
        if let [only] = service.endpoints[..] {
            self.flow(SERVICES, USUAL, &front, &nat(only));
            return;
        }
        let count = service.endpoints.len();
        let choose = format!(
            "multipath(symmetric_l4,{BASIS},modulo_n,{count},0,NXM_NX_REG0[]),\
             set_field:{number}->{SERVICE},goto_table:{ENDPOINTS}"
        );
        self.flow(SERVICES, USUAL, &front, &choose);
        for (which, endpoint) in service.endpoints.iter().enumerate() {
            let matches = format!("{protocol},{SERVICE}={number},{WHICH}={which}");
            self.flow(ENDPOINTS, USUAL, &matches, &nat(*endpoint));
        }
    }

    /// Numbers for both ends, and for the port.
    fn identities(&mut self, ends: Ends) {
        for (table, field, register, next) in [
            (DESTINATION, "nw_dst", TO, SOURCE),
            (SOURCE, "nw_src", FROM, PORT),
        ] {
            let mut identity = |address: Ipv4Addr, number: u32| {
                self.flow(
                    table,
                    USUAL,
                    &format!("ip,{field}={address}"),
                    &format!("set_field:{number:#x}->{register},goto_table:{next}"),
                );
            };
            identity(ends.pod, LAB);
            for number in 0..GROUPS {
                for pod in group(number) {
                    identity(backend(pod), BACKEND | number);
                }
            }
            self.flow(table, LAST, "", &format!("goto_table:{next}"));
        }
        let (first, last) = OPEN_PORTS;
        for (value, mask) in blocks(first, last) {
            for protocol in ["tcp", "udp"] {
                self.flow(
                    PORT,
                    USUAL,
                    &format!("{protocol},tp_dst={value:#x}/{mask:#x}"),
                    &format!("set_field:1->{OPEN},goto_table:{EGRESS}"),
                );
            }
        }
        self.flow(PORT, LAST, "", &format!("goto_table:{EGRESS}"));
    }

    /// A policy's rules, at a priority of their own.
    fn policy(&mut self, priority: u32, policy: Policy) {
        let (to_ingress, commit) = (format!("goto_table:{INGRESS}"), format!("goto_table:{COMMIT}"));
        match policy {
            Policy::Backends => {
                let matches = format!("ip,{FROM}={LAB:#x},{TO}={BACKEND:#x}/{BACKEND:#x},{OPEN}=1");
                self.flow(EGRESS, priority, &matches, &to_ingress);
            }
            Policy::Own { number, group } => {
                let (in_port, out_port) = own_ports(number);
                let other = BACKEND | group;
                self.flow(
                    EGRESS,
                    priority,
                    &format!("tcp,{FROM}={LAB:#x},{TO}={other:#x},tp_dst={out_port}"),
                    &to_ingress,
                );
                self.flow(
                    INGRESS,
                    priority,
                    &format!("tcp,{FROM}={other:#x},{TO}={LAB:#x},tp_dst={in_port}"),
                    &commit,
                );
            }
            Policy::Shop { number, group, from } => {
                let (to, from) = (BACKEND | group, BACKEND | from);
                let port = own_ports(number).0;
                self.flow(
                    INGRESS,
                    priority,
                    &format!("ip,{FROM}={LAB:#x},{TO}={to:#x},{OPEN}=1"),
                    &commit,
                );
                self.flow(
                    INGRESS,
                    priority,
                    &format!("tcp,{FROM}={from:#x},{TO}={to:#x},tp_dst={port}"),
                    &commit,
                );
            }
        }
    }

    /// What remains of isolated pods, and of the others, whom anybody may call.
    fn isolation(&mut self, cluster: Cluster) {
        self.flow(EGRESS, USUAL, &format!("ip,{FROM}={LAB:#x}"), "drop");
        self.flow(EGRESS, LAST, "ip", &format!("goto_table:{INGRESS}"));
        self.flow(INGRESS, USUAL, &format!("ip,{TO}={LAB:#x}"), "drop");
        for number in 0..GROUPS {
            let is_isolated = cluster
                .policies()
                .any(|policy| matches!(policy, Policy::Shop { group, .. } if group == number));
            if is_isolated {
                let to = BACKEND | number;
                self.flow(INGRESS, USUAL, &format!("ip,{TO}={to:#x}"), "drop");
            }
        }
        self.flow(INGRESS, LAST, "ip", &format!("goto_table:{COMMIT}"));
        let mark = format!("ct(commit,zone={ZONE},exec(set_field:{ALLOWED}->ct_mark)),goto_table:{ROUTE}");
        self.flow(COMMIT, USUAL, "ip", &mark);
    }

    /// To the pod, and to the other node's pods.
    fn routes(&mut self, ends: Ends, pod_mac: MacAddr) {
        let Ends { node, peer, .. } = ends;
        let to_pod = format!(
            "dec_ttl,set_field:{}->eth_src,set_field:{}->eth_dst,output:{POD_NUMBER}",
            node.bridge_mac(),
            pod_mac
        );
        self.flow(ROUTE, USUAL, &format!("ip,nw_dst={}", ends.pod), &to_pod);
        let to_peer = format!(
            "dec_ttl,set_field:{}->eth_src,set_field:{}->eth_dst,set_field:{}->tun_dst,\
             set_field:{VNI}->tun_id,output:{TUNNEL_NUMBER}",
            node.vtep_mac(),
            peer.vtep_mac(),
            peer.underlay_address()
        );
        self.flow(ROUTE, USUAL, &format!("ip,nw_dst={}", peer.pod_cidr()), &to_peer);
    }
}

/// A range of ports as values under masks, as OpenFlow matches them.
fn blocks(first: u16, last: u16) -> Vec<(u16, u16)> {
    let mut blocks = Vec::new();
    let (mut from, last) = (u32::from(first), u32::from(last));
    while from <= last {
        // As large as its start allows, and no larger than what is left.
        let mut size = 1 << from.trailing_zeros().min(16);
        while from + size - 1 > last {
            size /= 2;
        }
        // INVARIANT: the start is a port, and the mask has 16 bits.
        let (value, mask) = (u16::try_from(from), u16::try_from(0x1_0000 - size));
        blocks.push((value.unwrap_or(0), mask.unwrap_or(u16::MAX)));
        from += size;
    }
    blocks
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_range_and_nothing_else() {
        for (first, last) in [(8000, 8999), (0, u16::MAX), (5, 5), (1, 2), (65_535, 65_535)] {
            let blocks = blocks(first, last);
            for port in 0..=u16::MAX {
                let hits = blocks
                    .iter()
                    .filter(|(value, mask)| port & mask == *value)
                    .count();
                assert_eq!(
                    hits,
                    usize::from((first..=last).contains(&port)),
                    "{first}-{last}: {port}"
                );
            }
        }
    }

    #[test]
    fn every_service_and_policy_has_rules_and_no_two_are_one() {
        let ends = Ends {
            node: NodePlan::of(0).unwrap(),
            peer: NodePlan::of(1).unwrap(),
            pod: Ipv4Addr::new(10, 244, 1, 2),
        };
        for size in [10, 500] {
            let cluster = Cluster {
                services: size,
                policies: size,
            };
            let rules = rules(cluster, ends, MacAddr([2; 6]));
            let matches: std::collections::HashSet<_> = rules
                .text
                .lines()
                .map(|line| line.split_once(",actions=").unwrap().0)
                .collect();
            assert_eq!(matches.len(), rules.text.lines().count(), "a rule hides another");
            assert_eq!(rules.counts["flows"], matches.len());
            for service in cluster.services() {
                let front = format!("nw_dst={},tp_dst={SERVICE_PORT}", service.address);
                assert!(rules.text.contains(&front), "{}", service.name);
            }
            for number in 0..size {
                let own = format!("priority={},", POLICIES_FROM + number);
                assert!(rules.text.contains(&own), "policy {number}");
            }
        }
    }
}
