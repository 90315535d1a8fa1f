//! The policies of the node whose walks are measured: both pods are isolated, for both directions, and the last of their
//! policies' rules lets everything through that the walks send.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::HashKey;
use millrace_dataplane::table::policy::{
    Action, AddressRange, DeniedLog, Identity, PodPolicies, PolicyCounts, PolicyTable, PortRange, RuleId,
    RuleSet, RuleSpec, Station, Stations, Tier,
};
use millrace_dataplane::wire::IpProtocol;

use super::family::Family;
use super::scene::{POD_A, POD_B, PORTS, Size};

/// Policies of one pod; if there are more, the others are those of pods without traffic.
const PER_POD_MAX: u32 = 1000;

/// The table, for pods with addresses of this family.
pub(crate) fn policy_table(family: Family, size: &Size) -> anyhow::Result<PolicyTable> {
    let mut stations = Stations::with_hasher(HashKey::random());
    let mut pods = Vec::new();
    let own = size.policies.min(PER_POD_MAX);
    let shared = Arc::new(rules(family, 0, own)?);
    for number in [POD_A, POD_B] {
        let port = PortId::new(number).context("there is no such port number")?;
        let station = Station::Pod {
            identity: Some(Identity::new(number.into())),
            port: Some(port),
        };
        stations.insert(family.local_pod(number), station);
        pods.push((port, both_ways(&shared)));
    }
    let mut ids = own + 1;
    for (number, first) in (PORTS..).zip((own..size.policies).step_by(PER_POD_MAX as usize)) {
        let port = PortId::new(number).context("too many policies")?;
        let count = (size.policies - first).min(PER_POD_MAX);
        pods.push((port, both_ways(&Arc::new(rules(family, ids, count)?))));
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
fn rules(family: Family, ids: u32, count: u32) -> anyhow::Result<RuleSet> {
    let accept = |number: u32, (first, last): (IpAddr, IpAddr)| RuleSpec {
        id: RuleId::new(ids + number),
        tier: Tier::Middle,
        action: Action::Accept,
        addresses: Some(vec![AddressRange { first, last }]),
        ports: Some(vec![PortRange {
            protocol: IpProtocol::UDP,
            first: 1,
            last: u16::MAX,
        }]),
    };
    let mut specs: Vec<_> = (1..count)
        .map(|number| {
            let addresses = (family.elsewhere(number), family.elsewhere(number + 1));
            accept(number, addresses)
        })
        .collect();
    specs.push(accept(count, family.all_pods()));
    specs.push(RuleSpec {
        id: RuleId::new(ids + count + 1),
        tier: Tier::Middle,
        action: Action::Deny,
        addresses: None,
        ports: None,
    });
    Ok(RuleSet::build(&specs)?)
}
