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

use crate::packets::{Family, Ip, Outer, ethernet};
use crate::world::{self, node_address, port, router_mac, switch_mac, underlay, uplink};
use scene::*;
