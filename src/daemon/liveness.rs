//! Whether the switch is well, as an orchestrator asks that may start it anew.

use millrace_dataplane::table::Role;

use super::Daemon;
use crate::admin::protocol::HealthReport;

impl Daemon {
    /// That this is answered at all says that control lives, and that everything was attached and published once.
    pub(super) fn health_report(&self) -> HealthReport {
        let silent = self.fabric.silent_workers();
        let mut report = HealthReport {
            dead: silent
                .into_iter()
                .map(|worker| format!("worker {worker} does not answer"))
                .collect(),
            unready: Vec::new(),
        };
        let uplink = self.config.uplink.interface.as_str();
        if self.ports.of_role(Role::Uplink).is_none() {
            report
                .unready
                .push(format!("the uplink {uplink} is not attached"));
        } else if !self.uplink_is_up {
            report.unready.push(format!("the uplink {uplink} has no link"));
        }
        report
    }
}
