//! The policies of the node whose walks are measured: both pods are isolated, for both directions, and the last of their
//! policies' rules lets everything through that the walks send.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::Context as _;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::HashKey;
use millrace_dataplane::table::policy::{
    Action, AddressRange, DeniedLog, Identity, PodPolicies, PolicyCounts, PolicyTable, PortRange, RuleId,
    RuleSet, RuleSpec, Station, Stations, Tier,
};
use millrace_dataplane::wire::IpProtocol;

use super::scene::{POD_A, POD_B, PORTS, Size, local_pod};

/// Policies of one pod; if there are more, the others are those of pods without traffic.
const PER_POD_MAX: u32 = 1000;

/// All pods of all nodes.
const PODS: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 244, 0, 0), Ipv4Addr::new(10, 244, 255, 255));

/// The table.
pub(crate) fn policy_table(size: &Size) -> anyhow::Result<PolicyTable> {
    let mut stations = Stations::with_hasher(HashKey::random());
    let mut pods = Vec::new();
    let own = size.policies.min(PER_POD_MAX);
    let shared = Arc::new(rules(0, own)?);
    for number in [POD_A, POD_B] {
        let port = PortId::new(number).context("there is no such port number")?;
        let station = Station::Pod {
            identity: Some(Identity::new(number.into())),
            port: Some(port),
        };
        stations.insert(IpAddr::V4(local_pod(number)), station);
        pods.push((port, both_ways(&shared)));
    }
    let mut ids = own + 1;
    for (number, first) in (PORTS..).zip((own..size.policies).step_by(PER_POD_MAX as usize)) {
        let port = PortId::new(number).context("too many policies")?;
        let count = (size.policies - first).min(PER_POD_MAX);
        pods.push((port, both_ways(&Arc::new(rules(ids, count)?))));
        ids += count + 1;
    }
    let mut counts = PolicyCounts::new(size.workers);
    counts.grow(ids as usize + 1);
    let denied = Arc::new(DeniedLog::new(size.workers));
    Ok(PolicyTable::build(
        Arc::new(stations),
        pods,
        Arc::new(counts),
        denied,
    ))
}

/// A pod that is isolated for both directions by the same rules.
fn both_ways(rules: &Arc<RuleSet>) -> PodPolicies {
    PodPolicies {
        egress: Some(Arc::clone(rules)),
        ingress: Some(Arc::clone(rules)),
        ..PodPolicies::default()
    }
}

/// All rules but one for somebody else, that one for the walks, and the isolation.
fn rules(ids: u32, count: u32) -> anyhow::Result<RuleSet> {
    let accept = |number: u32, first, last| RuleSpec {
        id: RuleId::new(ids + number),
        tier: Tier::Middle,
        action: Action::Accept,
        addresses: Some(vec![AddressRange {
            first: IpAddr::V4(first),
            last: IpAddr::V4(last),
        }]),
        ports: Some(vec![PortRange {
            protocol: IpProtocol::UDP,
            first: 1,
            last: u16::MAX,
        }]),
    };
    let elsewhere = |number: u32| Ipv4Addr::from_bits(Ipv4Addr::new(172, 16, 0, 0).to_bits() + number * 256);
    let mut specs: Vec<_> = (1..count)
        .map(|number| accept(number, elsewhere(number), elsewhere(number + 1)))
        .collect();
    specs.push(accept(count, PODS.0, PODS.1));
    specs.push(RuleSpec {
        id: RuleId::new(ids + count + 1),
        tier: Tier::Middle,
        action: Action::Deny,
        addresses: None,
        ports: None,
    });
    Ok(RuleSet::build(&specs)?)
}
