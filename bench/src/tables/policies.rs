//! Judgements of new connections, with few rules on a pod and with many.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::HashKey;
use millrace_dataplane::table::policy::{
    Action, AddressRange, DeniedLog, Identity, PodPolicies, PolicyCounts, PolicyTable, PortRange, Query,
    RuleId, RuleSet, RuleSpec, Station, Stations, Tier,
};
use millrace_dataplane::wire::IpProtocol;

use super::case::{Asked, Case};
use crate::random::Random;

/// Numbers of rules on each pod and direction.
const RULES: [u32; 3] = [10, 100, 1_000];
/// Pods of the node, the usual most of the kubelet; each has rules of its own.
const PODS: u16 = 110;
/// Each rule's addresses: a /24 of 172.16.0.0/12.
const BLOCKS: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
/// Where no rule lets anybody in from.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 0);
/// Ports that rules open.
const PORTS: (u16, u16) = (8_000, 8_999);

/// Connections that a rule lets through, and such that none does.
pub(super) fn cases() -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for rules in RULES {
        let table = Arc::new(table(rules)?);
        for (name, asked, blocks) in [
            ("allowed", Asked::Present, BLOCKS),
            ("denied", Asked::Absent, ELSEWHERE),
        ] {
            let key = format!("tables/policy/{name}/{rules}");
            let table = Arc::clone(&table);
            let draw = move |random: &mut Random| Query {
                source: IpAddr::V4(Ipv4Addr::from_bits(blocks.to_bits() + random.below(rules * 256))),
                destination: IpAddr::V4(pod(u16::try_from(random.below(PODS.into())).unwrap_or_default())),
                protocol: IpProtocol::TCP,
                port: PORTS.0 + u16::try_from(random.below((PORTS.1 - PORTS.0).into())).unwrap_or_default(),
            };
            cases.push(Case::new(key, asked, draw, move |query: &Query| {
                let judgement = table.judge(query);
                judgement.denied().is_none().then_some(judgement)
            }));
        }
    }
    Ok(cases)
}

/// The address of a pod.
fn pod(number: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 2).to_bits() + u32::from(number))
}

/// A node full of pods, all isolated, with so many rules each.
fn table(rules: u32) -> anyhow::Result<PolicyTable> {
    let mut stations = Stations::with_hasher(HashKey::random());
    let mut pods = Vec::new();
    let mut counts = PolicyCounts::new(1);
    counts.grow((u32::from(PODS) * (rules + 1)) as usize);
    for number in 0..PODS {
        let port = PortId::new(number).context("there is no such port number")?;
        let station = Station::Pod {
            identity: Some(Identity::new(number.into())),
            port: Some(port),
        };
        stations.insert(IpAddr::V4(pod(number)), station);
        let first = u32::from(number) * (rules + 1);
        let policies = PodPolicies {
            ingress: Some(Arc::new(RuleSet::build(&specs(first, rules))?)),
            ..PodPolicies::default()
        };
        pods.push((port, policies));
    }
    let denied = Arc::new(DeniedLog::new(1));
    Ok(PolicyTable::build(
        Arc::new(stations),
        pods,
        Arc::new(counts),
        denied,
    ))
}

/// Rules that let a block each in, and the isolation; numbered from `first` on.
fn specs(first: u32, rules: u32) -> Vec<RuleSpec> {
    let accept = (0..rules).map(|rule| {
        let block = BLOCKS.to_bits() + rule * 256;
        RuleSpec {
            id: RuleId::new(first + rule),
            tier: Tier::Middle,
            action: Action::Accept,
            addresses: Some(vec![AddressRange {
                first: IpAddr::V4(Ipv4Addr::from_bits(block)),
                last: IpAddr::V4(Ipv4Addr::from_bits(block + 255)),
            }]),
            ports: Some(vec![PortRange {
                protocol: IpProtocol::TCP,
                first: PORTS.0,
                last: PORTS.1,
            }]),
        }
    });
    let isolation = RuleSpec {
        id: RuleId::new(first + rules),
        tier: Tier::Middle,
        action: Action::Deny,
        addresses: None,
        ports: None,
    };
    accept.chain([isolation]).collect()
}
