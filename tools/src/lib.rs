//! The tools that stand beside the switch.
//!
//! - [`lab`]: Kubernetes nodes on one machine, in network namespaces. Tests and benchmarks with real interfaces use it.
//! - [`demo`]: what `make demo` runs: a lab, traffic between everyone in it, and a table of what passed.
//! - [`pktgen`]: the load generator: sends packets as fast as an interface takes them, and counts what arrives.
//! - [`chart`]: figures as pictures, for the load generator and the benchmarks.
//!
//! The lab drives the stock programs (`ip`, `bridge`, `ethtool`, `ping`, `iperf3`, `tcpdump`), because the kernel set up
//! by its own tools is the judge the switch is held against. It must run as root.
#![forbid(unsafe_code)]

pub mod chart;
pub mod demo;
pub mod lab;
pub mod pktgen;
