//! `rewrite`: what every hop changes in the packet (TTL) and on the link (Ethernet header). What a connection changes is
//! written by `translate`, just before.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{Ipv4Mut, Ipv6Mut, eth};

use crate::limit::Hop;
use crate::packet::{Addresses, Packet};
use crate::route::Way;

/// Counts the hop, and writes the Ethernet header of a packet that leaves as it is; a tunnel brings its own.
#[inline(always)]
pub(crate) fn rewrite(frame: &mut Frame, packet: &Packet, way: &Way<'_>, hop: Hop) -> Result<(), Exit> {
    let bytes = frame.bytes_mut();
    // INVARIANT: `classify` has seen both headers in this frame.
    let (link, ip) = bytes
        .split_first_chunk_mut()
        .ok_or(DropReason::EthernetTruncated)?;
    match (hop, packet.addresses) {
        (Hop::Free, _) => {}
        (Hop::Counted, Addresses::V4 { .. }) => {
            Ipv4Mut::header_of(ip)?.decrement_ttl();
        }
        (Hop::Counted, Addresses::V6 { .. }) => {
            Ipv6Mut::parse(ip)?.decrement_hop_limit();
        }
    }
    match way {
        Way::Link { exit, next_hop, .. } => {
            eth::emit(link, *next_hop, exit.mac, packet.addresses.ether_type())
        }
        Way::Tunnel { .. } => {}
    }
    Ok(())
}
