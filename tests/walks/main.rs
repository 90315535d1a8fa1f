//! The walk of single packets through a node's pipeline: tables, packet in, verdict, packet out.
//!
//! Every row says all there is to say about one packet: where it comes in, what it is, which exit it takes and what it
//! looks like there, byte by byte. Rows that mean the same for both families of IP are run for both.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod admit;
mod apart;
mod bridge;
mod checksum;
mod clamp;
mod decap;
mod direct;
mod ecn;
mod encap;
mod floods;
mod forward;
mod jumbo;
mod limit;
mod malformed;
mod mirror;
mod originate;
mod packets;
mod plain;
mod policies;
mod races;
mod random;
mod routed;
mod rows;
mod rows_of_one;
mod services;
mod spread;
mod vectors;
mod world;
