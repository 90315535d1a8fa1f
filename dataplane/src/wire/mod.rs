//! Checked views over packet bytes: what stands on the wire, and nothing else.
//!
//! A view is made by its `parse`, which checks every length once and answers [`Malformed`] when the bytes
//! lie. After that the accessors **cannot panic and check nothing again**: a view holds its header as a
//! reference to an array of fixed size, so every offset is known to be inside it when the code is compiled.
//! A view whose header is followed by variable parts (options, payload) holds those as slices that `parse`
//! cut out.
//!
//! Each view has a mutable twin (`Ipv4` and [`Ipv4Mut`]), made by the same checks, that edits the header
//! where it lies and keeps the checksums right incrementally ([`checksum::Delta`], RFC 1624). Headers that
//! the switch makes itself are written by an `emit` into an array of exactly the header's size, and every
//! byte of it is written.
//!
//! Integers are in host byte order on this side of every function; network byte order exists only inside
//! the bytes. Nothing here allocates, logs, reads a clock or knows a table.

#![forbid(unsafe_code)]

pub mod arp;
pub mod checksum;
pub mod ecn;
pub mod eth;
pub mod icmp;
pub mod ip;
pub mod ipip;
pub mod ipv4;
pub mod ipv6;
mod malformed;
pub mod membership;
pub mod ndp;
pub mod ports;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vlan;
pub mod vxlan;

#[cfg(test)]
mod tests;

pub use arp::{Arp, ArpFields, ArpOperation};
pub use ecn::{Ecn, EcnDrop};
pub use eth::{EtherType, Ethernet, EthernetMut, InvalidMacAddr, MacAddr};
pub use icmp::{Echo, Icmp, IcmpFamily, IcmpMut, IcmpType};
pub use ip::{Dscp, Fragment, IpProtocol};
pub use ipv4::{Ipv4, Ipv4Fields, Ipv4Mut};
pub use ipv6::{Ipv6, Ipv6Fields, Ipv6Mut, Upper};
pub use malformed::Malformed;
pub use membership::{Listening, Membership};
pub use ports::{Ports, PortsMut};
pub use tcp::{Tcp, TcpFields, TcpFlags, TcpMut};
pub use udp::{Udp, UdpMut};
pub use vlan::{Untagged, VlanTag};
pub use vxlan::{InvalidVni, Vni, Vxlan};
