//! `millrace denied`: what policies have denied, for whoever goes on asking.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_dataplane::table::policy::{Denied, Query, RuleId, Side};

use crate::admin::protocol::{DeniedPackets, DeniedRow};
use crate::daemon::Daemon;

/// Rows of denied packets in one answer.
const DENIED_ROWS_MAX: usize = 512;
/// Who does not ask for this long follows no more.
const DENIED_FOLLOWED: Duration = Duration::from_secs(10);

impl Daemon {
    /// What was denied since this was last asked; the first time nothing, and from then on it is remembered.
    pub(in crate::daemon) fn denied(&mut self) -> DeniedPackets {
        self.policing.denied_asked = Some(Instant::now());
        let reasons = self.reasons();
        let mut rows: BTreeMap<DeniedRow, u64> = BTreeMap::new();
        let mut lost: u64 = 0;
        for (network, compiler) in self.policing.compilers.iter() {
            let log = compiler.denied();
            // One that has come since is followed from now on.
            log.follow(true);
            lost = lost.saturating_add(log.lost());
            let taken = log.take(DENIED_ROWS_MAX);
            if taken.is_empty() {
                continue;
            }
            let (pods, rules) = (compiler.pods_by_address(), compiler.names());
            for denied in taken {
                let mut row = denied_row(&denied, |rule| rules.words(rule));
                let pod = |address| match network {
                    None => reasons.pod(address),
                    Some(_) => pods.get(&address).map(ToString::to_string),
                };
                row.source_pod = pod(row.source);
                row.destination_pod = pod(row.destination);
                row.network = network.map(ToString::to_string);
                *rows.entry(row).or_default() += 1;
            }
        }
        DeniedPackets {
            rows: rows
                .into_iter()
                .map(|(row, packets)| DeniedRow { packets, ..row })
                .collect(),
            lost,
        }
    }

    /// Remembers no more what nobody asks for.
    pub(in crate::daemon) fn end_denied(&mut self) {
        if self
            .policing
            .denied_asked
            .is_some_and(|asked| asked.elapsed() > DENIED_FOLLOWED)
        {
            self.policing.denied_asked = None;
            for (_, compiler) in self.policing.compilers.iter() {
                compiler.denied().follow(false);
            }
        }
    }
}

/// A denied packet, without the names of who is at its ends.
fn denied_row(denied: &Denied, words: impl Fn(RuleId) -> String) -> DeniedRow {
    let Query {
        source,
        destination,
        protocol,
        port,
    } = denied.query;
    DeniedRow {
        source,
        source_pod: None,
        destination,
        destination_pod: None,
        network: None,
        service: (denied.sent_to != destination).then_some(denied.sent_to),
        protocol: protocol.to_string(),
        port: protocol.has_ports().then_some(port),
        side: side(denied.side).to_owned(),
        by: words(denied.rule),
        packets: 0,
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Egress => "egress",
        Side::Ingress => "ingress",
    }
}
