//! The machine of Millrace: packets, frames, rings, tables and cores.
//!
//! This crate knows how a packet looks ([`wire`]), who owns its memory ([`frame`]), where it comes from and
//! goes to ([`port`], [`xdp`]), what the tables say ([`table`]) and how a core spends its time ([`worker`]).
//! It knows no word of Kubernetes: meaning lives one storey up, in `millrace-pipelines`.

pub mod capture;
pub mod clock;
pub mod frame;
pub mod port;
pub mod stats;
pub mod table;
pub mod verdict;
pub mod wire;
pub mod worker;
#[allow(unsafe_code)]
pub mod xdp;
