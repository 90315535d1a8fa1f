//! ARP on ports with exactly one station behind them: a pod's, and the host's.
//!
//! Such a station reaches everyone through the switch, so the switch answers for every address but the station's own
//! with its own link address (RFC 826, as proxy ARP does, RFC 1027).

use std::net::{IpAddr, Ipv4Addr};

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{Local, NodeTables, PortFacts, Role};
use millrace_dataplane::wire::{Arp, ArpFields, ArpOperation, EtherType, Ethernet, MacAddr, arp, eth};

use super::stats::Silence;

/// The answer to an ARP packet that came in at `ingress`, to be sent out of that port as it is.
///
/// # Errors
/// Why there is none.
pub(super) fn answer(tables: &NodeTables, ingress: PortId, frame: &[u8]) -> Result<PacketCopy, Silence> {
    let facts = tables.ports.get(ingress).ok_or(Silence::PortGone)?;
    let ethernet = Ethernet::parse(frame)?;
    if ethernet.ether_type() != EtherType::ARP {
        return Err(Silence::Malformed);
    }
    let request = Arp::parse(ethernet.payload())?;
    if !is_answered(&tables.local, facts, &request) {
        return Err(Silence::ArpIgnored);
    }
    reply(&request.fields(), facts.mac).ok_or(Silence::Malformed)
}

/// The reply to a request that says `mac` has the address asked for, from there.
pub(super) fn reply(request: &ArpFields, mac: MacAddr) -> Option<PacketCopy> {
    // The shortest frame holds an ARP packet; the rest of it is padding.
    let mut reply = [0; eth::MIN_FRAME_LEN];
    let (link, payload) = reply.split_first_chunk_mut()?;
    eth::emit(link, request.sender_hardware, mac, EtherType::ARP);
    let packet = payload.first_chunk_mut::<{ arp::PACKET_LEN }>()?;
    request.reply_with(mac).emit(packet);
    Some(PacketCopy::new(&reply))
}

/// Whether the switch answers this packet.
fn is_answered(local: &Local, facts: &PortFacts, arp: &Arp<'_>) -> bool {
    // An announcement asks nothing (RFC 5227 section 2.3), and an answer would be heard as an objection.
    if arp.operation() != ArpOperation::REQUEST || arp.is_announcement() {
        return false;
    }
    if !arp.sender_hardware().is_unicast() || !is_host_address(arp.target_protocol()) {
        return false;
    }
    let target = IpAddr::V4(arp.target_protocol());
    let is_probe = arp.sender_protocol().is_unspecified();
    match facts.role {
        Role::Pod => !facts.may_send_from(target),
        // The host may be about to take an address that the tables do not know yet. It probes first (RFC 5227
        // section 2.1), and an answer would tell it that the address is taken.
        Role::Host if is_probe => local.gateways.contains(&target),
        Role::Host => !local.owns(target),
        // The node's own stack speaks for itself there, and in a bridged network everybody does.
        Role::Uplink | Role::Segment => false,
    }
}

/// Whether anyone can have this address.
fn is_host_address(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && !address.is_multicast() && !address.is_broadcast()
}
