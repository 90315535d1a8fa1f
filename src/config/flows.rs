//! `[flows]`: the connections that this node remembers.

use millrace_dataplane::table::flow::{FlowOptions, Timeouts};
use serde::{Deserialize, Serialize};

use super::value::Ranged;

/// Most connections of one family, and most that one pod may be allowed.
pub const CONNECTIONS_MAX: usize = 1 << 24;
/// Longest time that a connection can be remembered without a packet, in seconds: thirty days.
pub const FLOW_TIMEOUT_MAX_S: usize = 30 * 86_400;

/// A time that a connection is remembered without a packet, in seconds.
pub type FlowTimeout = Ranged<1, FLOW_TIMEOUT_MAX_S>;

/// `[flows]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct Flows {
    /// `ipv4`: IPv4 connections that there is room for, within 1..=16777216; at most 256 bytes each are taken as they
    /// come into use. Default 1048576.
    pub ipv4: Ranged<1, CONNECTIONS_MAX>,
    /// `ipv6`: as `ipv4`, at most 384 bytes each. Default 262144.
    pub ipv6: Ranged<1, CONNECTIONS_MAX>,
    /// `per-pod`: connections that one pod may have open at once, within 0..=16777216; 0 for as many as there is room
    /// for. Default 131072.
    pub per_pod: Ranged<0, CONNECTIONS_MAX>,
    /// `loose`: whether TCP connections that are met in their middle are taken up, as after a restart without their
    /// state. Default true.
    pub loose: bool,
    /// `tcp-established-seconds`: how long a TCP connection is remembered without a packet. Default 86400.
    pub tcp_established_seconds: FlowTimeout,
    /// `tcp-half-open-seconds`: the same while its handshake is not done. Default 60.
    pub tcp_half_open_seconds: FlowTimeout,
    /// `tcp-half-closed-seconds`: the same once one side is done. Default 3600.
    pub tcp_half_closed_seconds: FlowTimeout,
    /// `udp-seconds`: how long a UDP flow is remembered that only one side has spoken. Default 30.
    pub udp_seconds: FlowTimeout,
    /// `udp-replied-seconds`: the same once both sides have. Default 120.
    pub udp_replied_seconds: FlowTimeout,
    /// `icmp-seconds`: how long an echo is remembered. Default 30.
    pub icmp_seconds: FlowTimeout,
}

impl Default for Flows {
    fn default() -> Self {
        Self {
            ipv4: Ranged::of::<{ 1 << 20 }>(),
            ipv6: Ranged::of::<{ 1 << 18 }>(),
            per_pod: Ranged::of::<{ 1 << 17 }>(),
            loose: true,
            tcp_established_seconds: Ranged::of::<86_400>(),
            tcp_half_open_seconds: Ranged::of::<60>(),
            tcp_half_closed_seconds: Ranged::of::<3_600>(),
            udp_seconds: Ranged::of::<30>(),
            udp_replied_seconds: Ranged::of::<120>(),
            icmp_seconds: Ranged::of::<30>(),
        }
    }
}

impl Flows {
    /// How the flow table is made.
    #[must_use]
    pub fn options(&self) -> FlowOptions {
        FlowOptions {
            ipv4: number(self.ipv4.get()),
            ipv6: number(self.ipv6.get()),
            per_pod: number(self.per_pod.get()),
            loose: self.loose,
        }
    }

    /// How long connections are remembered; what has no key keeps its default.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        Timeouts {
            tcp_established_s: number(self.tcp_established_seconds.get()),
            tcp_half_open_s: number(self.tcp_half_open_seconds.get()),
            tcp_half_closed_s: number(self.tcp_half_closed_seconds.get()),
            udp_s: number(self.udp_seconds.get()),
            udp_replied_s: number(self.udp_replied_seconds.get()),
            icmp_s: number(self.icmp_seconds.get()),
            ..Timeouts::default()
        }
    }
}

/// Every number here is within bounds that fit.
fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_flow_table() {
        let flows = Flows::default();
        assert_eq!(flows.timeouts(), Timeouts::default());
        let FlowOptions {
            ipv4, ipv6, loose, ..
        } = FlowOptions::default();
        let options = flows.options();
        assert_eq!((options.ipv4, options.ipv6, options.loose), (ipv4, ipv6, loose));
    }
}
