//! Brings the files with a model together with what they are built on, built for loom.
#![cfg(crossbeam_loom)]

// `publish.rs` finds the epoch where the `crossbeam` crate has it.
extern crate self as crossbeam;
pub use crossbeam_epoch as epoch;

#[path = "../../dataplane/src/table/publish.rs"]
pub mod publish;

#[path = "../../dataplane/src/port/ring.rs"]
mod ring;

/// Packets from one worker to another.
#[path = "../../dataplane/src/worker/belt.rs"]
#[allow(dead_code, reason = "the model asks for less than a worker does")]
mod belt;

/// The flow table without its types: the store names nothing around it.
#[path = "../../dataplane/src/table"]
pub mod table {
    pub mod flow {
        #[allow(dead_code, reason = "the model asks for less than the table does")]
        mod store;
    }

    /// The forwarding database without its types, likewise.
    pub mod fdb {
        #[allow(dead_code, reason = "the model asks for less than the database does")]
        mod shelf;
    }
}
