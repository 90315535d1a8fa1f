//! Millrace end to end: nodes with their pods on a rack, each in a network namespace of its own, with the Linux kernel
//! as peer and as judge.
//!
//! Needs root, and `iproute2`, `ping`, `iperf3`, `tcpdump`, `ethtool`, `clang` and util-linux, BIRD 2 and FRR. The tests may run side by
//! side; those whose judgement depends on time take the machine for themselves ([`rig::alone`]).
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::type_complexity
)]

mod api;
mod capture;
mod checksums;
mod container;
mod control;
mod counters;
mod dual;
#[allow(dead_code, reason = "the API's own tests use the rest")]
#[path = "../../cluster_api/fake/mod.rs"]
mod fake;
mod frames;
mod guard;
mod icmp;
mod jumbo;
mod life;
mod nic;
mod picture;
mod policies;
mod ports;
mod pulse;
mod queues;
mod refuse;
mod rig;
mod routing;
mod services;
mod wire;
