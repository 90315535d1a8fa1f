//! Traffic between any two places of a lab, and what came of it.
//!
//! A helper fails only if the traffic could not be tried at all. Packets that did not arrive are no failure of the
//! helper: they stand in its report, for the caller to judge.

mod capture;
mod http;
mod iperf;
pub mod named;
mod ping;
pub mod talk;
mod tcp;
mod udp;

pub use capture::Capture;
pub use http::{Download, DownloadReport, HttpServer, download};
pub use iperf::{BulkReport, Ends, Load, bulk_transfer};
pub use ping::{Ping, PingReport, ping};
pub use tcp::{Amount, TcpReport, TcpTransfer, tcp_connect, tcp_transfer};
pub use udp::{UdpEcho, UdpExchange, UdpReport, udp_exchange};
