//! The node daemon and its command line.
//!
//! `config` and `objects` say what is wanted, `kernel` what there is; `daemon` brings the two together and gives
//! the result to the workers; `slowpath` handles packets that need thought; `balancer` gives Services addresses and
//! announces them; `dns` answers for the cluster's names; `doctor` and `install` are about the host; `durable` is how files are
//! written that outlive a loss of power; `admin` and `cli` are how people ask.
#![forbid(unsafe_code)]

pub mod admin;
pub mod balancer;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod daemon;
pub mod dns;
pub mod doctor;
pub mod durable;
pub mod install;
pub mod kernel;
pub mod objects;
pub mod privileges;
pub mod slowpath;
