//! Routed networks beside the cluster's own: every rule of a walk there, of what keeps them apart, and of the way from one into
//! another.

mod alone;
mod apart;
mod cross;
mod guard;
mod scene;

use millrace_dataplane::verdict::DropReason;

use crate::packets::{Ip, Outer};
use crate::rows::Expect;
use crate::world::{outer, uplink};
use scene::Net;

/// Why a packet that leads into another network is dropped, and nothing else is; each has a row here.
pub const DROPS: [DropReason; 1] = [DropReason::NetworkTransit];

impl Net {
    /// How a packet leaves node 1 in its tunnel to another.
    fn to_node(self, node: u8, ip: &Ip) -> Expect {
        let outer = Outer {
            ecn: ip.ecn,
            ..outer(1, node)
        };
        Expect::Tunnel(uplink(), self.wrap(&outer, &self.inner(ip)))
    }
}
