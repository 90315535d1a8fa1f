//! The kernel module against the real kernel, in network namespaces of the test's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod doctor;
mod follow;
mod host_port;
mod namespaces;
mod neighbours;
mod own_services;
mod pod_port;
mod reserved_ports;
mod routes;
