//! The load generator: sends packets from one interface, or into memory, and says exactly what became of them.
//!
//! Both ends are AF_XDP sockets like the switch's own. Every packet carries a [`Marker`]: a run, a sequence number, the
//! time it was due and a checksum; so the receiving end ([`Receiver`]) tells its packets from everybody else's behind
//! whatever headers they arrive, knows which are missing, which came twice, late or damaged, and how long each was
//! under way. Where only the number of packets matters, a [`Sink`] counts and drops them in the kernel.
//!
//! - [`Template`], [`Mix`], [`Replay`]: what is sent; [`Order`], [`Rate`]: in which order and how fast.
//! - [`Sender`] and the counting ends run on their own and can be read at any moment. A [`Session`] keeps both open for one
//!   run after the other; [`search()`](search::search) looks for the highest rates.
//! - [`settings`], [`table`], [`svg`]: the program `millrace-pktgen` around it; [`example`] is its lab.

mod affinity;
mod books;
mod cable;
mod error;
pub mod example;
mod faulty;
mod flows;
mod latency;
mod link;
mod marker;
mod order;
mod outcome;
mod place;
mod promiscuous;
mod protocol;
mod rate;
mod receiver;
mod recognise;
mod replay;
pub mod search;
mod sender;
mod sequence;
mod session;
pub mod settings;
mod setup;
mod sink;
mod stamp;
mod steering;
pub mod svg;
pub mod table;
mod template;
mod traffic;

pub use affinity::{check_core, pin};
pub use cable::CableEnd;
pub use error::PktgenError;
pub use faulty::{Confession, Faults, Faulty, Misdeeds};
pub use flows::{AddressRange, Flow, FlowSpace, Flows, InvalidFlows, InvalidRange, PortRange};
pub use latency::{Latency, Point};
pub use link::{Binding, ReceiveEnd, SendEnd};
pub use marker::{MARKER_LEN, Marker, Runs, elapsed_ns, now_ns};
pub use order::{Order, Share};
pub use outcome::{Outcome, Sample};
pub use place::{Facts, Place};
pub use protocol::Protocol;
pub use rate::{FCS_LEN, InvalidRate, PREAMBLE_AND_GAP_LEN, Rate};
pub use receiver::{Listening, Opened, Received, Receiver, ReceiverOptions};
pub use recognise::{Recognised, Wrapping, recognise, recognise_of};
pub use replay::{Replay, ReplayError};
pub use sender::{Job, Sender, SenderOptions, Sent};
pub use sequence::{Arrival, Tracker};
pub use session::{Progress, Session, Trial, Watch};
pub use setup::{Entry, Exit, Sending, Setup};
pub use sink::Sink;
pub use steering::Steering;
pub use template::{Link, Outer, SHORTEST, Shape, Template, TemplateError, Tunnel, shortest};
pub use traffic::{IMIX_WITHOUT_FCS, Mix, Traffic};
