//! The kernel module against the real kernel, in network namespaces of the test's own. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod follow;
mod host_port;
mod namespaces;
mod neighbours;
mod pod_port;
mod routes;
