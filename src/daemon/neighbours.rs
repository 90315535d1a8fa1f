//! Neighbours on the uplink are the kernel's: it is asked for those that are missing, and again while they are in use.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::debug;

use super::Daemon;
use crate::slowpath::NeighbourRequest;

/// How long the same missing neighbour is not asked for again.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// New neighbours that are asked for in that time, at most.
const ASKED_MAX: usize = 64;

impl Daemon {
    /// Asks the kernel for a neighbour on behalf of the slow path, unless it was asked a moment ago. Bounded: whoever
    /// scans the uplink's subnet must not fill the kernel's own table of neighbours.
    pub(super) async fn ask_neighbour(&mut self, request: NeighbourRequest) {
        let Some(ifindex) = self
            .ports
            .get(request.port)
            .map(|port| port.attached.spec.bearer())
        else {
            return;
        };
        let now = Instant::now();
        self.asked.retain(|_, at| now.duration_since(*at) < ASK_PAUSE);
        let asked = (ifindex, request.address);
        if self.asked.len() < ASKED_MAX && self.asked.insert(asked, now).is_none() {
            self.resolve(ifindex, request.address).await;
        }
    }

    /// Has the kernel resolve or confirm a neighbour.
    pub(super) async fn resolve(&self, ifindex: u32, address: IpAddr) {
        if let Err(failure) = self.kernel.request_resolution(ifindex, address).await {
            debug!("{failure}");
        }
    }

    /// Keeps alive every neighbour that packets are sent to.
    pub(super) async fn refresh_neighbours(&mut self) {
        let used: Vec<_> = self
            .tables
            .neighbours
            .take_used()
            .filter_map(|(port, address)| Some((self.ports.get(port)?.attached.spec.bearer(), address)))
            .chain(self.next_hops.iter().copied())
            .collect();
        for (ifindex, address) in used {
            self.resolve(ifindex, address).await;
        }
    }
}
