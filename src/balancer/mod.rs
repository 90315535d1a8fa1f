//! Addresses for Services of type LoadBalancer: which Service gets which, which node announces them, and the announcing.
//!
//! What is decided is decided by pure functions: [`allocate()`] gives out addresses, [`elect`] says which node announces
//! one. [`claim`] makes their inputs from the store of objects. [`announce`] speaks ARP and neighbour discovery on the
//! uplink's network; nothing else here knows of packets.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod allocate;
pub mod announce;
pub mod aside;
pub mod claim;
pub mod cluster;
pub mod elect;
mod members;
mod saved;

pub use allocate::{Allocation, Claimant, Given, Refusal, RefusalReason, Sharing, Taken, allocate};
pub use members::Members;
pub use saved::SavedAddresses;
