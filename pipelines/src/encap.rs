//! `encap`: puts the outer header into the headroom; the packet stays where it is.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::outer::{
    IPIP_LEN, Inherited, OuterFields, VXLAN_LEN, VXLAN_V6_LEN, VxlanV6Outer,
};
use millrace_dataplane::table::{HashKey, NetworkId, OuterHeader};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::checksum::{Sum, packet_sum};
use millrace_dataplane::wire::{Ecn, EtherType, eth};

use crate::packet::Packet;
use crate::route::Way;

/// The first outer UDP source port: the first of the kernel's default ephemeral range (`ip_local_port_range`),
/// from which its own tunnels choose.
pub const OUTER_SOURCE_PORT_FIRST: u16 = 32768;

/// The last outer UDP source port: the last of the kernel's default ephemeral range.
pub const OUTER_SOURCE_PORT_LAST: u16 = 60999;

/// What one worker needs to fill outer headers in.
#[derive(Debug)]
pub(crate) struct Wrapper {
    key: HashKey,
    next_id: u16,
}

impl Wrapper {
    /// Workers start their identifications far apart, since they send between the same two addresses.
    pub(crate) fn new(key: HashKey, worker: usize) -> Self {
        // INVARIANT: masked to 16 bits.
        #[allow(clippy::cast_possible_truncation)]
        let next_id = (key.hash([worker as u64]) & 0xffff) as u16;
        Self { key, next_id }
    }

    /// The key of the hashes that choose outer source ports.
    #[inline]
    pub(crate) fn key(&self) -> &HashKey {
        &self.key
    }

    /// What a packet gives to its outer header.
    #[inline]
    pub(crate) fn fields(&mut self, inner: &Inner) -> OuterFields {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        OuterFields {
            inner_len: inner.len,
            id,
            ecn: inner.ecn.encapsulate(),
        }
    }
}

/// What the outer header says of the packet inside.
pub(crate) struct Inner {
    /// Length of the IP packet, in bytes.
    pub(crate) len: u16,
    pub(crate) ecn: Ecn,
    pub(crate) ether_type: EtherType,
    /// The keyed hash of its flow.
    pub(crate) flow: u64,
}

impl Inner {
    /// The flow's outer UDP source port, which spreads flows over paths and queues.
    #[inline]
    pub(crate) fn source_port(&self) -> u16 {
        const CHOICES: u64 = (OUTER_SOURCE_PORT_LAST - OUTER_SOURCE_PORT_FIRST) as u64 + 1;
        // The high half of a product by the number of choices is below it, and needs no division.
        let choice = ((self.flow >> 32) * CHOICES) >> 32;
        // INVARIANT: `choice` is below CHOICES, so the sum is at most the last port.
        #[allow(clippy::cast_possible_truncation)]
        OUTER_SOURCE_PORT_FIRST.wrapping_add(choice as u16)
    }
}

/// Wraps a packet that goes through a tunnel. The outer header takes the place of the Ethernet header too.
#[inline(always)]
pub(crate) fn encap(
    wrapper: &mut Wrapper,
    frame: &mut Frame,
    (packet, network): (&Packet, NetworkId),
    way: &Way<'_>,
) -> Result<(), Exit> {
    let Way::Tunnel { outer, .. } = way else {
        return Ok(());
    };
    let inner = Inner {
        len: packet.len,
        ecn: packet.ecn,
        ether_type: packet.addresses.ether_type(),
        flow: packet.flow_hash(wrapper.key(), network),
    };
    wrap(wrapper, frame, outer, &inner)
}

/// Puts an outer header before a packet.
#[inline(always)]
pub(crate) fn wrap(
    wrapper: &mut Wrapper,
    frame: &mut Frame,
    outer: &OuterHeader,
    inner: &Inner,
) -> Result<(), Exit> {
    let fields = wrapper.fields(inner);
    let source_port = inner.source_port();
    // What spreads flows over the paths of the network also spreads them over the queues of a NIC.
    frame.set_lane(source_port);
    match outer {
        OuterHeader::VxlanV4(template) => {
            let header = push::<VXLAN_LEN, { VXLAN_LEN - eth::HEADER_LEN }>(frame)?;
            template.emit(header, fields, source_port, inner.ether_type);
        }
        OuterHeader::VxlanV6(template) => {
            wrap_in_v6(frame, template, fields, (source_port, inner.ether_type))?;
        }
        OuterHeader::Ipip(template) => {
            // INVARIANT: `route` leads IPv4 here only, and its header is whole. It is as it leaves, its TTL one less.
            let ip = frame.bytes().get(eth::HEADER_LEN..);
            let inherited = ip.and_then(Inherited::of).ok_or(DropReason::NoRoom)?;
            let header = push::<IPIP_LEN, { IPIP_LEN - eth::HEADER_LEN }>(frame)?;
            template.emit(header, fields, inherited);
        }
    }
    Ok(())
}

/// By itself, so that what it needs does not crowd out what the others need.
#[inline(never)]
fn wrap_in_v6(
    frame: &mut Frame,
    template: &VxlanV6Outer,
    fields: OuterFields,
    (source_port, inner): (u16, EtherType),
) -> Result<(), Exit> {
    let packet = frame.bytes().get(eth::HEADER_LEN..);
    let sum = packet.map_or(Sum::ZERO, packet_sum);
    let header = push::<VXLAN_V6_LEN, { VXLAN_V6_LEN - eth::HEADER_LEN }>(frame)?;
    template.emit(header, fields, source_port, inner, sum);
    Ok(())
}

/// Grows the frame by `GROWTH` bytes and answers its first `LEN`, the old Ethernet header among them.
#[inline]
pub(crate) fn push<const LEN: usize, const GROWTH: usize>(frame: &mut Frame) -> Result<&mut [u8; LEN], Exit> {
    frame.push::<GROWTH>().map_err(|_| DropReason::NoRoom)?;
    // INVARIANT: the Ethernet header before made up the difference.
    frame
        .bytes_mut()
        .first_chunk_mut()
        .ok_or(DropReason::NoRoom.into())
}
