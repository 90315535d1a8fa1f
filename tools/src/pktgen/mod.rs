//! The load generator: sends UDP over IPv4, plain or in a tunnel, from one interface, and counts what arrives at
//! another.
//!
//! Both ends are AF_XDP sockets like the switch's own. Every packet carries a [`Marker`]: a magic number, the run, and a
//! sequence number; so the receiving end ([`Receiver`]) tells its packets from everybody else's, in a tunnel too, and
//! checks their checksums. Where only the number of packets matters, a [`Sink`] counts and drops them in the kernel.
//!
//! [`Sender`] and both counting ends run on their own and can be read at any moment; [`run()`](run::run) puts them
//! together for a timed run, as `millrace-pktgen` does.

mod affinity;
mod error;
mod flows;
mod marker;
mod pace;
mod place;
mod receiver;
pub mod run;
mod sender;
mod sink;
mod steering;
mod template;

pub use affinity::{check_core, pin};
pub use error::PktgenError;
pub use flows::{AddressRange, Flow, FlowSpace, Flows, InvalidRange, PortRange, TooFewFlows};
pub use marker::{MARKER_LEN, Marker, Recognised, Wrapping, recognise};
pub use place::{Facts, Place};
pub use receiver::{Received, Receiver, ReceiverOptions};
pub use sender::{Order, Sender, SenderOptions, Sent};
pub use sink::Sink;
pub use steering::Steering;
pub use template::{Link, Outer, SHORTEST, Shape, Template, TemplateError, Tunnel};
