//! The express lane: what nearly every packet is, taken from end to end in few steps.
//!
//! A packet takes it if it is *plain*: IPv4 without options, whole, TCP or UDP, by itself or in a tunnel packet of the
//! usual shape; if its sender may send it; and if its connection's stored answer stands. Everything else walks the stages,
//! and so does a plain packet about which there is more to say: the lane changes nothing in a packet before it is sure,
//! but that it completes a half-computed checksum, which the stages would do as well.
//!
//! **The lane knows no rule of its own.** It is a shorter way to what the stages answer: the walks' tests and their fuzzer
//! send every packet both ways and compare. Each check of a stage is here in one of three forms: made on words instead of
//! fields ([`read`](mod@read)); asked of the stage itself ([`go`](mod@go)); or remembered from when the stages made it for
//! the same addresses in the same snapshot ([`senders`]).

mod gate;
mod go;
mod read;
mod senders;

pub(crate) use gate::Gate;
pub(crate) use go::{go, go_on};
pub(crate) use read::{Plain, read};
pub(crate) use senders::Senders;
