//! The meaning of Millrace: what happens to a packet between the port it comes in at and the exit it leaves by.
//!
//! One file per stage, and [`node`] that lists them in order. A stage sees a frame, table snapshots pinned for the
//! batch, and what earlier stages found out. Nothing here makes a system call, takes a lock, sends on a channel,
//! formats text or allocates, so all of it runs in a test, a fuzzer or a benchmark without privileges.
//!
//! A stage that ends the walk answers with an [`Exit`](millrace_dataplane::verdict::Exit). Every punt is decided
//! before the packet is changed for its way out: a punted packet is as it came (out of its tunnel, if it came
//! through one), so that the slow path can quote it, and let it walk again later.
#![forbid(unsafe_code)]

mod admit;
mod apart;
mod bridge;
mod bridging;
mod clamp;
mod classify;
mod connections;
mod converse;
mod cross;
mod decap;
mod depart;
mod encap;
mod entry;
mod express;
mod family;
mod limit;
mod martian;
pub mod node;
mod open;
mod packet;
mod pass;
mod piece;
mod pieces;
mod police;
mod related;
mod rewrite;
mod route;
mod scout;
mod source;
mod sweep;
pub mod switch;
mod track;
mod translate;

pub use bridging::Bridging;
pub use connections::Connections;
pub use encap::{OUTER_SOURCE_PORT_FIRST, OUTER_SOURCE_PORT_LAST};
pub use node::NodePipeline;
pub use switch::SwitchPipeline;
