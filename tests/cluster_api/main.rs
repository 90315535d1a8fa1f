//! Objects from an API server, and what this program tells it.
//!
//! `anywhere` holds against any server: the one of the tests ([`fake`]), which is started for each, or a real one, where
//! `MILLRACE_TEST_API` names its address, `MILLRACE_TEST_API_TOKEN` a token that may do everything, and
//! `MILLRACE_TEST_API_CA` the file of its certificates (not needed for `http://127.0.0.1`, as `kubectl proxy` has it). They
//! make Nodes, Namespaces and what is in them, under names that begin with `millrace-test`, and delete them.
//!
//! `real` is about what a real server alone shows: `make test-api` builds one, starts it, and runs both. All else is of the
//! tests' own server: `faults` is about what a real one cannot be asked to do, `writes` looks at requests byte by byte, `tls`
//! at certificates.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod anywhere;
mod fake;
mod faults;
mod log;
mod memory;
mod node;
mod real;
mod tls;
mod writes;
