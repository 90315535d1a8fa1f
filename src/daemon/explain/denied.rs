//! `millrace denied`: what policies have denied, for whoever goes on asking.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use millrace_dataplane::table::policy::{Denied, Query, Side};

use super::rule_name;
use crate::admin::protocol::{DeniedPackets, DeniedRow};
use crate::daemon::Daemon;

/// Rows of denied packets in one answer.
const DENIED_ROWS_MAX: usize = 512;
/// Who does not ask for this long follows no more.
const DENIED_FOLLOWED: Duration = Duration::from_secs(10);

impl Daemon {
    /// What was denied since this was last asked; the first time nothing, and from then on it is remembered.
    pub(in crate::daemon) fn denied(&mut self) -> DeniedPackets {
        let log = self.policies.denied();
        if self.denied_asked.replace(Instant::now()).is_none() {
            log.follow(true);
        }
        let mut rows: BTreeMap<DeniedRow, u64> = BTreeMap::new();
        for denied in log.take(DENIED_ROWS_MAX) {
            *rows.entry(self.denied_row(&denied)).or_default() += 1;
        }
        DeniedPackets {
            rows: rows
                .into_iter()
                .map(|(row, packets)| DeniedRow { packets, ..row })
                .collect(),
            lost: log.lost(),
        }
    }

    /// Remembers no more what nobody asks for.
    pub(in crate::daemon) fn end_denied(&mut self) {
        if self
            .denied_asked
            .is_some_and(|asked| asked.elapsed() > DENIED_FOLLOWED)
        {
            self.denied_asked = None;
            self.policies.denied().follow(false);
        }
    }

    fn denied_row(&self, denied: &Denied) -> DeniedRow {
        let Query {
            source,
            destination,
            protocol,
            port,
        } = denied.query;
        let pod = |address| self.pod_at(address);
        DeniedRow {
            source,
            source_pod: pod(source),
            destination,
            destination_pod: pod(destination),
            service: (denied.sent_to != destination).then_some(denied.sent_to),
            protocol: protocol.to_string(),
            port: protocol.has_ports().then_some(port),
            side: side(denied.side).to_owned(),
            by: rule_name(&self.policies, denied.rule),
            packets: 0,
        }
    }

    /// The pod that has an address: one of this node's ports, or one that an object tells of.
    fn pod_at(&self, address: IpAddr) -> Option<String> {
        let mut ports = self
            .ports
            .iter()
            .filter_map(|(_, port)| Some((port, port.pod.as_ref()?)));
        let own = ports
            .find(|(port, _)| port.facts.sources.contains(&address))
            .map(|(_, pod)| pod);
        let known = || self.store.pod_by_ip(address).map(|pod| &pod.key);
        own.or_else(known).map(ToString::to_string)
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Egress => "egress",
        Side::Ingress => "ingress",
    }
}
