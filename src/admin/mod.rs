//! The admin socket: how the command line, and nobody else, speaks with the running daemon.
//!
//! [`protocol`] is what is said, [`server`] the daemon's side on tokio, [`client`] the command's side, blocking.
//! [`listen`] makes the socket so that only its owner can ever reach it.

pub mod client;
pub mod listen;
pub mod protocol;
pub mod server;
