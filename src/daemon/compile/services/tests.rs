//! Objects in, decisions out: the Services part of what this switch promises, sentence by sentence.
#![allow(clippy::unwrap_used, clippy::panic)]

mod changes;
mod claims;
mod endpoints;
mod host_ports;
mod rules;
mod shown;
mod world;
