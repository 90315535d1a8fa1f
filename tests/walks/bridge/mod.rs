//! Bridged networks: every rule of learning, flooding and forwarding, on single frames.

mod admit;
mod flood;
mod guard;
mod listen;
mod random;
mod scene;
mod tunnel;
mod unicast;

use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{
    Location, Member, NetworkId, Networks, NodeTables, PortTable, Segment, Tick,
};
use millrace_dataplane::verdict::{Audience, Cast, DropReason, PuntReason, Verdict};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::worker::{Lesson, Pipeline};

use crate::packets::{Body, Family, Ip, Outer, ethernet};
use crate::world::{self, node_address, port, router_mac, switch_mac, underlay, uplink};
use scene::*;

/// Why a frame of a bridged network is dropped, and nothing else is; each has a row here.
pub const DROPS: [DropReason; 7] = [
    DropReason::BridgeSource,
    DropReason::BridgeReserved,
    DropReason::BridgeHairpin,
    DropReason::BridgeSplitHorizon,
    DropReason::BridgeStorm,
    DropReason::BridgeTooBig,
    DropReason::BridgeUnresolved,
];

/// What of a bridged network alone goes to the slow path; each has a row here.
pub const PUNTS: [PuntReason; 2] = [PuntReason::NeighbourAdvertisement, PuntReason::GroupMembership];
