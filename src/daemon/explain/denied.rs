//! `millrace denied`: what policies have denied, for whoever goes on asking.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_dataplane::table::policy::{Denied, Query, Side};

use super::Reasons;
use crate::admin::protocol::{DeniedPackets, DeniedRow};
use crate::daemon::Daemon;

/// Rows of denied packets in one answer.
const DENIED_ROWS_MAX: usize = 512;
/// Who does not ask for this long follows no more.
const DENIED_FOLLOWED: Duration = Duration::from_secs(10);

impl Daemon {
    /// What was denied since this was last asked; the first time nothing, and from then on it is remembered.
    pub(in crate::daemon) fn denied(&mut self) -> DeniedPackets {
        let log = Arc::clone(self.policing.compiler.denied());
        if self.policing.denied_asked.replace(Instant::now()).is_none() {
            log.follow(true);
        }
        let reasons = self.reasons();
        let mut rows: BTreeMap<DeniedRow, u64> = BTreeMap::new();
        for denied in log.take(DENIED_ROWS_MAX) {
            *rows.entry(denied_row(&reasons, &denied)).or_default() += 1;
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
            .policing
            .denied_asked
            .is_some_and(|asked| asked.elapsed() > DENIED_FOLLOWED)
        {
            self.policing.denied_asked = None;
            self.policing.compiler.denied().follow(false);
        }
    }
}

fn denied_row(reasons: &Reasons, denied: &Denied) -> DeniedRow {
    let Query {
        source,
        destination,
        protocol,
        port,
    } = denied.query;
    DeniedRow {
        source,
        source_pod: reasons.pod(source),
        destination,
        destination_pod: reasons.pod(destination),
        service: (denied.sent_to != destination).then_some(denied.sent_to),
        protocol: protocol.to_string(),
        port: protocol.has_ports().then_some(port),
        side: side(denied.side).to_owned(),
        by: reasons.rule(denied.rule),
        packets: 0,
    }
}

fn side(side: Side) -> &'static str {
    match side {
        Side::Egress => "egress",
        Side::Ingress => "ingress",
    }
}
