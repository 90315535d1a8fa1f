//! What the slow path has done for it, by workers and by the control plane.

use std::net::IpAddr;

use millrace_dataplane::port::PortId;
use millrace_dataplane::verdict::Awaited;
use millrace_dataplane::worker::Injection;

/// Asks the control plane to have a neighbour's link address found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighbourRequest {
    /// On whose link.
    pub port: PortId,
    /// Whose.
    pub address: IpAddr,
}

/// Asks the control plane to have answers steered to the switch that come to no port of ours, and to send on what they
/// answer.
#[derive(Debug)]
pub struct SteerRequest {
    /// What will be answered.
    pub awaited: Awaited,
    /// By whom.
    pub remote: IpAddr,
    /// Which worker sends it.
    pub worker: usize,
    /// The packet.
    pub injection: Injection,
}

/// What comes of one packet: at most one packet for the worker it came from, and at most one request.
#[derive(Debug, Default)]
pub struct Actions {
    /// A packet for the worker that sent the punt.
    pub injection: Option<Injection>,
    /// A neighbour to be found.
    pub request: Option<NeighbourRequest>,
    /// Answers to be steered.
    pub steer: Option<SteerRequest>,
}

impl From<Injection> for Actions {
    fn from(injection: Injection) -> Self {
        Self {
            injection: Some(injection),
            ..Self::default()
        }
    }
}
