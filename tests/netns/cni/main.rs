//! The CNI plugin, driven as a container runtime drives it: the built program, environment variables, the configuration on
//! standard input, each container a network namespace, on nodes of the lab.
//!
//! Needs root, and `iproute2`, `ping`, `ethtool`, `strace`, `dig`, `curl` and the reference plugins of Debian's
//! `containernetworking-plugins`; and the `millrace` program built beside (`cargo test --workspace` does so).
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod bandwidth;
mod chain;
mod host_ports;
mod kills;
mod many;
mod names;
mod routed;
mod runtime;
mod second;
mod verbs;
