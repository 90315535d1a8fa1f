//! Policies against an oracle: what the compiler and the classifier say must be what a plain reading of the objects says.
//!
//! `cases/` holds sets of policies, each with what is special about it; for each the whole matrix of who may reach whom is
//! compared. [`random`] does the same for policies that nobody wrote. The oracle shares no code with what it judges: it
//! reads the objects as trees, and asks them again for every packet.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that fails may panic"
)]

mod cases;
mod oracle;
mod random;
mod switch;
mod world;
