//! The policies of the node whose walks are measured: both pods are isolated, for both directions, and the last of their
//! ten rules lets everything through that the walks send.

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
use super::scene::{POD_A, POD_B};

/// Rules that accept, of each pod and direction.
const RULES: u32 = 10;

/// The table, for pods with addresses of this family.
pub(super) fn policy_table(family: Family) -> anyhow::Result<PolicyTable> {
    let mut stations = Stations::with_hasher(HashKey::random());
    let mut pods = Vec::new();
    let rules = Arc::new(rules(family)?);
    for number in [POD_A, POD_B] {
        let port = PortId::new(number).context("there is no such port number")?;
        let station = Station::Pod {
            identity: Some(Identity::new(number.into())),
            port: Some(port),
        };
        stations.insert(family.local_pod(number), station);
        let policies = PodPolicies {
            egress: Some(Arc::clone(&rules)),
            ingress: Some(Arc::clone(&rules)),
            ..PodPolicies::default()
        };
        pods.push((port, policies));
    }
    let mut counts = PolicyCounts::new(1);
    counts.grow(RULES as usize + 2);
    let denied = Arc::new(DeniedLog::new(1));
    Ok(PolicyTable::build(
        Arc::new(stations),
        pods,
        Arc::new(counts),
        denied,
    ))
}

/// Nine rules for somebody else, one for the walks, and the isolation.
fn rules(family: Family) -> anyhow::Result<RuleSet> {
    let accept = |number: u32, (first, last): (IpAddr, IpAddr)| RuleSpec {
        id: RuleId::new(number),
        tier: Tier::Middle,
        action: Action::Accept,
        addresses: Some(vec![AddressRange { first, last }]),
        ports: Some(vec![PortRange {
            protocol: IpProtocol::UDP,
            first: 1,
            last: u16::MAX,
        }]),
    };
    let mut specs: Vec<_> = (1..RULES)
        .map(|number| {
            let addresses = (family.elsewhere(number), family.elsewhere(number + 1));
            accept(number, addresses)
        })
        .collect();
    specs.push(accept(RULES, family.all_pods()));
    specs.push(RuleSpec {
        id: RuleId::new(RULES + 1),
        tier: Tier::Middle,
        action: Action::Deny,
        addresses: None,
        ports: None,
    });
    Ok(RuleSet::build(&specs)?)
}
