//! The admin socket: how the command line, and nobody else, speaks with the running daemon.
//!
//! [`protocol`] is what is said, [`server`] the daemon's side on tokio, [`client`] the command's, blocking;
//! [`listen`] makes the socket so that only its owner can ever reach it.

pub mod client;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod lab;
pub mod listen;
pub mod protocol;
pub mod server;
