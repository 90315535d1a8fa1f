//! The steering programs in the kernel: frame by frame without an interface (`packets`, `services`, `errors`, `tables`), and with
//! real traffic on a veth pair between namespaces of their own (`traffic`, `own`, `attaching`). Needs root and
//! `iproute2`, `ping` and `clang`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod attaching;
mod errors;
mod frames;
mod lab;
mod own;
mod packets;
mod services;
mod tables;
mod taps;
mod traffic;
mod vlan;
