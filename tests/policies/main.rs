//! Policies against an oracle: what the compiler and the classifier say must be what a plain reading of the objects says.
//!
//! `cases/` holds sets of policies, each with what is special about it; for each the whole matrix of who may reach whom is
//! compared: what the tables say, and what becomes of packets that are sent through every node's pipeline, between ports in
//! memory. [`random`] does the same for policies that nobody wrote, [`networks`] for those of networks beside the cluster's own. The oracle shares no code with what it judges: it
//! reads the objects as trees, and asks them again for every packet.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails may panic"
)]

mod cases;
mod networks;
mod oracle;
#[path = "../walks/packets.rs"]
#[allow(dead_code, unreachable_pub, reason = "the walks need more kinds of packets")]
mod packets;
/// Nodes with their pipelines.
#[path = "../walks/world.rs"]
#[allow(dead_code, unreachable_pub, reason = "the walks need more of the world")]
mod rack;
mod random;
mod switch;
mod table;
mod wire;
mod world;
