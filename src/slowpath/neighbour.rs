//! Neighbour discovery on ports with exactly one station behind them: a pod's, and the host's.
//!
//! As with ARP, such a station reaches everyone through the switch, so the switch answers for every address but the
//! station's own with its own link address (RFC 4861 section 7.2.8). It never asks, and advertises no routes: a pod has
//! its own from whoever made its port.

use std::net::{IpAddr, Ipv6Addr};

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{Local, NodeTables, PortFacts, Role};
use millrace_dataplane::wire::{
    Dscp, Ecn, EtherType, Ethernet, Icmp, IcmpFamily, IpProtocol, Ipv6, Ipv6Fields, MacAddr, checksum, eth,
    icmp, ipv6, ndp,
};

use super::stats::Silence;

/// All nodes on the link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// The same on Ethernet (RFC 2464 section 7).
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Length of an answer's frame, in bytes; more than the shortest there is.
const FRAME_LEN: usize = eth::HEADER_LEN + ipv6::HEADER_LEN + ndp::ADVERTISEMENT_LEN;

/// The answer to a neighbour solicitation that came in at `ingress`, to be sent out of that port as it is.
///
/// # Errors
/// Why there is none.
pub(super) fn answer(tables: &NodeTables, ingress: PortId, frame: &[u8]) -> Result<PacketCopy, Silence> {
    let facts = tables.ports.get(ingress).ok_or(Silence::PortGone)?;
    let ethernet = Ethernet::parse(frame)?;
    if ethernet.ether_type() != EtherType::IPV6 {
        return Err(Silence::Malformed);
    }
    let ip = Ipv6::parse(ethernet.payload())?;
    let asked = ndp::Neighbour::parse(ip.payload())?;
    if ip.next_header() != IpProtocol::ICMPV6 || !asked.is_solicitation() {
        return Err(Silence::NeighbourIgnored);
    }
    let is_sound = Icmp::parse(IcmpFamily::V6, ip.payload())?.verify_checksum(ip.address_sum());
    is_sound.map_err(|_| Silence::BadChecksum)?;
    let asker = Asker::of(&ip, ethernet.source(), &asked)?;
    if !is_answered(&tables.local, facts, asked.target(), asker.is_probe) {
        return Err(Silence::NeighbourIgnored);
    }
    // The switch is everybody's router there.
    advertise((facts.mac, asked.target()), true, &asker).ok_or(Silence::Malformed)
}

/// Who gets the answer.
pub(super) struct Asker {
    address: Ipv6Addr,
    pub(super) link: MacAddr,
    /// Whether it asks if an address is taken, and has none yet (RFC 4862 section 5.4).
    pub(super) is_probe: bool,
}

impl Asker {
    /// Makes the checks of RFC 4861 section 7.1.1.
    pub(super) fn of(ip: &Ipv6<'_>, link: MacAddr, asked: &ndp::Neighbour<'_>) -> Result<Self, Silence> {
        let is_probe = ip.source().is_unspecified();
        if ip.hop_limit() != ndp::HOP_LIMIT || (is_probe && asked.source_link().is_some()) {
            return Err(Silence::NeighbourIgnored);
        }
        if is_probe {
            return Ok(Self {
                address: ALL_NODES,
                link: ALL_NODES_MAC,
                is_probe,
            });
        }
        Ok(Self {
            address: ip.source(),
            link,
            is_probe,
        })
    }
}

/// Whether the switch answers for this address.
fn is_answered(local: &Local, facts: &PortFacts, target: Ipv6Addr, is_probe: bool) -> bool {
    let is_hosts = !(target.is_unspecified() || target.is_loopback() || target.is_multicast());
    // A link-local address that a station probes for is its own: there is nobody else on its link.
    if !is_hosts || (is_probe && target.is_unicast_link_local()) {
        return false;
    }
    let target = IpAddr::V6(target);
    match facts.role {
        Role::Pod => !facts.may_send_from(target),
        // The host may be about to take an address that the tables do not know yet.
        Role::Host if is_probe => local.gateways.contains(&target),
        Role::Host => !local.owns(target),
        // The node's own stack speaks for itself there, and in a bridged network everybody does.
        Role::Uplink | Role::Segment => false,
    }
}

/// The frame that says which link address `target` has, from there.
pub(super) fn advertise(
    (own, target): (MacAddr, Ipv6Addr),
    is_router: bool,
    asker: &Asker,
) -> Option<PacketCopy> {
    let mut frame = [0; FRAME_LEN];
    let (link, rest) = frame.split_first_chunk_mut()?;
    let (header, message) = rest.split_first_chunk_mut()?;
    eth::emit(link, asker.link, own, EtherType::IPV6);
    let fields = Ipv6Fields {
        dscp: Dscp::DEFAULT,
        ecn: Ecn::NotEct,
        flow_label: 0,
        payload_len: u16::try_from(ndp::ADVERTISEMENT_LEN).ok()?,
        next_header: IpProtocol::ICMPV6,
        hop_limit: ndp::HOP_LIMIT,
        source: target,
        destination: asker.address,
    };
    fields.emit(header);
    let fields = ndp::Advertisement {
        target,
        link: own,
        is_solicited: !asker.is_probe,
        is_router,
    };
    fields.emit(message.first_chunk_mut()?);
    let addresses = checksum::addresses_v6(target, asker.address);
    icmp::fill_checksum(IcmpFamily::V6, addresses, message);
    Some(PacketCopy::new(&frame))
}
