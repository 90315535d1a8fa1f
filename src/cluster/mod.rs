//! The cluster's API server: objects from it, and what this node tells it.
//!
//! [`ClusterSource`] lists and watches the kinds that the switch works with and makes stores of them, as
//! [`FolderSource`](crate::objects::FolderSource) does of a folder; whoever takes the stores cannot tell which it is. While
//! the server cannot be reached the last state stays in force, and a start goes on from a saved copy of it. All of it runs
//! on one thread of its own: the control thread and the workers never wait for the server.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod client;
mod contact;
mod events;
mod follow;
mod keep;
mod lease;
mod pace;
mod request;
mod saved;
mod source;
mod subnet_env;
mod token;

pub use client::{ClusterError, connect};
pub use contact::{Contact, Count, SourceStatus};
pub use events::{Report, Reporter};
pub use kube::Client;
pub use lease::{LeaseBackend, LeaseFacts, annotations};
pub use pace::Pace;
pub use source::{ClusterOptions, ClusterSource};
