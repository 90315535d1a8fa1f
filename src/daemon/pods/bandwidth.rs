//! What pods' ports are held to: from what was asked for to the workers' buckets, and back to what is shown.

use std::sync::Arc;

use millrace_dataplane::clock::{self, Clock};
use millrace_dataplane::table::{Bucket, Rate};
use millrace_dataplane::worker::Limits;
use tracing::{info, warn};

use crate::admin::protocol::{Bandwidth, Failure, LimitRow, PortRate};
use crate::daemon::Daemon;
use crate::daemon::ports::Port;
use crate::objects::PodKey;

impl Daemon {
    /// Holds a pod's port that is served to what is asked for now; if that is what it was, its buckets stay as full as they are.
    pub(super) fn limit_pod(&mut self, pod: &PodKey, bandwidth: Bandwidth) -> Result<(), Failure> {
        let found = self.ports.of_pod(pod);
        let Some((id, _)) = found.filter(|(_, port)| port.bandwidth != bandwidth) else {
            return Ok(());
        };
        let limits = limits(&bandwidth);
        self.fabric
            .limit(id, &limits)
            .map_err(|error| Failure::failed(error.to_string()))?;
        if let Some(port) = self.ports.get_mut(id) {
            (port.bandwidth, port.limits) = (bandwidth, limits);
        }
        info!(%pod, "bandwidth is {} from now on", words(&bandwidth));
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        Ok(())
    }
}

/// Full buckets for what is asked for.
pub(in crate::daemon) fn limits(bandwidth: &Bandwidth) -> Limits {
    let bucket = |rate: PortRate| {
        let cycles_per_second = Clock::calibrated().cycles_per_second();
        Arc::new(Bucket::new(effective(rate), cycles_per_second, clock::cycles()))
    };
    Limits {
        ingress: bandwidth.ingress.map(bucket),
        egress: bandwidth.egress.map(bucket),
    }
}

/// The limits of a port as they are shown.
pub(in crate::daemon) fn limit_rows(port: &Port) -> Vec<LimitRow> {
    let (bandwidth, limits) = (&port.bandwidth, &port.limits);
    let directions = [
        ("ingress", bandwidth.ingress, &limits.ingress),
        ("egress", bandwidth.egress, &limits.egress),
    ];
    let rows = directions.into_iter().filter_map(|(direction, rate, bucket)| {
        let rate = effective(rate?);
        Some(LimitRow {
            direction: direction.into(),
            rate: rate.bits_per_second.get(),
            burst: rate.burst_bits,
            dropped: bucket.as_ref()?.refused(),
        })
    });
    rows.collect()
}

/// What is said where a port is held to something else than it should be.
pub(in crate::daemon) fn differs(port: &str, there: &Bandwidth, wanted: &Bandwidth) -> Failure {
    let (there, wanted) = (words(there), words(wanted));
    Failure::failed(format!(
        "the bandwidth of {port} is {there}, and should be {wanted}"
    ))
}

/// As it is said.
pub(super) fn words(bandwidth: &Bandwidth) -> String {
    if bandwidth.is_unlimited() {
        return "unlimited".into();
    }
    bandwidth.to_string()
}

fn effective(rate: PortRate) -> Rate {
    Rate::new(rate.rate, rate.burst.map(std::num::NonZeroU64::get))
}
