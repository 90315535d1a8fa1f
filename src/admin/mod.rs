//! The admin socket: how the command line, and nobody else, speaks with the running daemon.
//!
//! [`protocol`] is what is said, [`server`] the daemon's side on tokio, [`client`] the command's, blocking;
//! [`listen`] makes the socket so that only its owner can ever reach it. [`scrape`] is the exception: numbers over HTTP, where
//! the node file asks for them.

pub mod client;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod lab;
pub mod listen;
pub mod openmetrics;
pub mod protocol;
pub mod scrape;
pub mod server;
