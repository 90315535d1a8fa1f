//! Announcing addresses on the uplink's network, by ARP and neighbour discovery.
//!
//! The uplink's steering program leaves both to the kernel, so a packet socket on the interface hears them; the kernel, which
//! does not have these addresses, says nothing about them. A thread of its own holds the socket, and only while there
//! is something to announce. Everything that it hears goes through [`speaker`], which has neither socket nor clock.

pub mod frames;
mod groups;
mod link;
pub mod speaker;
mod thread;

pub use speaker::{Begin, Counts, Speaker, Standing, Status, Task};
pub use thread::{Announced, Announcer, AnnouncerError, Place};
