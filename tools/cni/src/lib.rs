//! The CNI plugin `millrace-cni`: gives a container an interface at the switch.
//!
//! It follows the Container Network Interface, version 1.1.0
//! (<https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md>), and back to 0.3.1. A runtime starts it with a
//! verb in `CNI_COMMAND` and the network's configuration on standard input. It chooses the addresses, in a store of its
//! own ([`store`]), and has the daemon make the interface, over the admin socket ([`daemon`]): the veth pair with a queue
//! for each worker, offloads off, addresses, routes and MTU.
//!
//! What must survive a kill at any instant: an address is written down, durably, before anyone hears of it, and is free
//! again only after its interface is gone. Everything else can be asked for again.
#![forbid(unsafe_code)]

pub mod bandwidth;
pub mod call;
pub mod config;
pub mod daemon;
pub mod error;
mod link;
mod network;
mod report;
pub mod store;
mod verbs;

pub use verbs::answer;
