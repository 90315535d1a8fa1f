//! Reading a plain packet, a word at a time.
//!
//! Offsets and masks are those of RFC 791 (IPv4), RFC 768 (UDP) and RFC 9293 (TCP). What does not fit is not judged here:
//! the stages do, and name it.

use std::net::Ipv4Addr;

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::NodeTables;
use millrace_dataplane::table::flow::{FlowShard, Hash, KeyV4, Spot};
use millrace_dataplane::wire::checksum::{self, Sum};
use millrace_dataplane::wire::{Ecn, IpProtocol, Udp, Vxlan, eth, ipv4, tcp, udp, vxlan};

use super::gate::{Entrance, Gate, VxlanEnd};
use super::senders::{Senders, Sent};
use crate::martian::is_martian_v4;
use crate::packet::{Addresses, Carries, Packet};

/// The first two words of an IPv4 header, of which version and header length are `0x45`, and of the fragment field all is
/// zero but "don't fragment".
const SHAPE: u64 = 0x4500_0000_0000_0000;
const SHAPE_MASK: u64 = 0xff00_0000_0000_bfff;
/// Where a TCP header's data offset stands.
const DATA_OFFSET: usize = 12;
/// Where the transport begins behind an IPv4 header without options, in bytes.
#[allow(clippy::cast_possible_truncation)] // INVARIANT: a constant below 2^16.
const TRANSPORT_AT: u16 = ipv4::HEADER_LEN as u16;
/// The headers of a tunnel packet between its Ethernet header and the packet inside, in bytes.
#[allow(clippy::cast_possible_truncation)] // INVARIANT: a constant below 2^8.
const PULL_IPIP: u8 = ipv4::HEADER_LEN as u8;
#[allow(clippy::cast_possible_truncation)] // INVARIANT: as above.
const PULL_VXLAN: u8 = vxlan::PUSH_LEN_IPV4 as u8;

/// A plain packet, and where its flow is looked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain {
    pub(super) key: KeyV4,
    hash: Hash,
    pub(super) spot: Spot,
    /// Whether the next packet of the batch is on the lane and of the same flow.
    pub(crate) leads: bool,
    /// Length of the IP packet, in bytes.
    pub(super) len: u16,
    /// Bytes of the tunnel's headers before it.
    pub(super) pull: u8,
    /// TTL.
    pub(super) hops: u8,
    pub(super) ecn: Ecn,
}

/// An IPv4 header without options, of a packet that is whole.
#[derive(Clone, Copy)]
struct Ip {
    /// Source and destination, in network byte order.
    addresses: u64,
    protocol: IpProtocol,
    len: u16,
    hops: u8,
    ecn: Ecn,
}

/// The same, and what there is to know of its transport, whose header is whole.
struct Found {
    ip: Ip,
    /// Source and destination, in network byte order.
    ports: u32,
    checksum: u16,
}

impl Ip {
    #[inline(always)]
    fn source(&self) -> Ipv4Addr {
        // INVARIANT: the upper half of 64 bits.
        #[allow(clippy::cast_possible_truncation)]
        Ipv4Addr::from_bits((self.addresses >> 32) as u32)
    }

    #[inline(always)]
    fn destination(&self) -> Ipv4Addr {
        // INVARIANT: masked to 32 bits.
        #[allow(clippy::cast_possible_truncation)]
        Ipv4Addr::from_bits((self.addresses & 0xffff_ffff) as u32)
    }
}

impl Found {
    #[inline(always)]
    fn destination_port(&self) -> u16 {
        // INVARIANT: masked to 16 bits.
        #[allow(clippy::cast_possible_truncation)]
        let port = (self.ports & 0xffff) as u16;
        port
    }

    /// Whether its checksum was left half computed.
    #[inline(always)]
    fn is_partial(&self) -> bool {
        let len = usize::from(self.ip.len).saturating_sub(ipv4::HEADER_LEN);
        let (source, destination) = (self.ip.source(), self.ip.destination());
        let pseudo = checksum::pseudo_v4(source, destination, self.ip.protocol, len);
        checksum::is_partial(pseudo, self.checksum)
    }
}

impl Plain {
    /// Looks where its flow would be, and asks the memory for the flow itself; the packet `before` it in the batch may have
    /// done that already, for packets of a flow come in rows.
    #[inline(always)]
    pub(crate) fn look(&mut self, flows: &FlowShard<Ipv4Addr>, before: Option<&mut Self>) {
        self.spot = match before {
            Some(before) if before.key == self.key => {
                before.leads = true;
                before.spot
            }
            _ => flows.spot(self.hash),
        };
    }
}

impl Plain {
    /// What the first half of a walk would find in a packet that is in no tunnel, and the hash of its flow; `None` if it is in
    /// one, or has an address that no packet may bear: that walks from the beginning.
    #[inline(always)]
    pub(crate) fn unwrapped(&self) -> Option<(Packet, Hash)> {
        let tuple = self.key.tuple();
        let (source, destination) = (tuple.source, tuple.destination);
        let is_good = self.pull == 0 && !is_martian_v4(source) && !is_martian_v4(destination);
        is_good.then_some((
            Packet {
                addresses: Addresses::V4 { source, destination },
                protocol: tuple.protocol,
                carries: Carries::Connection,
                ports: Some(tuple.ports),
                transport_at: TRANSPORT_AT,
                fragment: None,
                len: self.len,
                hops: self.hops,
                ecn: self.ecn,
                is_tunnelled: false,
            },
            self.hash,
        ))
    }
}

/// Reads a frame that came in at the port of `gate`; `None` if it is to walk the stages.
///
/// `IS_SECOND` says that the network is another than the cluster's own. A word by which that one's flows are found is the same as if there
/// were no others, and costs nothing to make.
///
/// That no address is one that no packet may bear is not asked here: the lane goes by a flow's stored answer, and a flow has
/// one only once the stages have let a packet with these very addresses pass.
#[inline(always)]
pub(crate) fn read<const IS_SECOND: bool>(
    gate: &Gate,
    tables: &NodeTables,
    flows: &FlowShard<Ipv4Addr>,
    senders: &mut Senders,
    frame: &mut Frame,
) -> Option<Plain> {
    let (link, packet) = frame.bytes().split_first_chunk()?;
    if !gate.link.fits(link) {
        return None;
    }
    let (pull, found) = match &gate.entrance {
        Entrance::Pod(address) => {
            let found = found(packet)?;
            let may_be_tunnel =
                found.ip.protocol == IpProtocol::UDP && gate.tunnel_ports.contains(&found.destination_port());
            (found.ip.source() == *address && !may_be_tunnel).then_some((0, found))?
        }
        Entrance::Host => (0, found(packet)?),
        Entrance::Wire { vxlan, ipip } => {
            from_wire::<IS_SECOND>(tables, senders, packet, gate, (vxlan.as_ref(), *ipip))?
        }
    };
    if gate.finish_checksums && found.is_partial() {
        finish_checksum(frame, pull, found.ip)?;
    }
    let mut key = KeyV4::new(found.ip.addresses, found.ports, found.ip.protocol);
    if IS_SECOND {
        key = key.in_network(gate.network);
    }
    if pull == 0 {
        frame.prefetch_headroom();
    }
    let hash = flows.hash_of(&key);
    flows.prefetch_bucket(hash);
    Some(Plain {
        key,
        hash,
        spot: Spot::NOWHERE,
        leads: false,
        len: found.ip.len,
        pull,
        hops: found.ip.hops,
        ecn: found.ip.ecn,
    })
}

/// Reads an IPv4 header, if it is plain and the packet no longer than what is there.
#[inline(always)]
fn ip(header: &[u8; ipv4::HEADER_LEN], available: usize) -> Option<Ip> {
    let (words, _) = header.as_chunks::<4>();
    let [first, second, third, source, destination] = *words else {
        return None;
    };
    let [first, second, third, source, destination] =
        [first, second, third, source, destination].map(u32::from_be_bytes);
    let shape = u64::from(first) << 32 | u64::from(second);
    if shape & SHAPE_MASK != SHAPE || !Sum::ZERO.add_bytes(header).is_valid() {
        return None;
    }
    // INVARIANT: each is cut to its own width.
    #[allow(clippy::cast_possible_truncation)]
    let (len, tos, hops, protocol) = (
        (first & 0xffff) as u16,
        (first >> 16) as u8,
        (third >> 24) as u8,
        (third >> 16) as u8,
    );
    (usize::from(len) <= available).then_some(Ip {
        addresses: u64::from(source) << 32 | u64::from(destination),
        protocol: IpProtocol(protocol),
        len,
        hops,
        ecn: Ecn::from_bits(tos),
    })
}

/// Reads a packet's own header and its transport's, if both are plain and whole.
#[inline(always)]
fn found(packet: &[u8]) -> Option<Found> {
    let (header, segment) = packet.split_first_chunk()?;
    let ip = ip(header, packet.len())?;
    let len = usize::from(ip.len).checked_sub(ipv4::HEADER_LEN)?;
    let start = u64::from_be_bytes(*segment.first_chunk()?);
    // INVARIANT: each is cut to its own width.
    #[allow(clippy::cast_possible_truncation)]
    let (ports, third, fourth) = ((start >> 32) as u32, (start >> 16) as u16, start as u16);
    let (least, claimed, checksum) = match ip.protocol {
        // The third field is the length, the fourth the checksum.
        IpProtocol::UDP => (udp::HEADER_LEN, usize::from(third), fourth),
        IpProtocol::TCP => {
            let header: &[u8; tcp::HEADER_LEN] = segment.first_chunk()?;
            let checksum = [header[tcp::CHECKSUM_OFFSET], header[tcp::CHECKSUM_OFFSET + 1]];
            let claimed = usize::from(header[DATA_OFFSET] >> 4) * 4;
            (tcp::HEADER_LEN, claimed, u16::from_be_bytes(checksum))
        }
        _ => return None,
    };
    (least <= claimed && claimed <= len).then_some(Found { ip, ports, checksum })
}

/// Reads the plain packet that comes from the wire, out of a tunnel to one of our ends or as it is, from somebody who may
/// send it so; answers the length of the tunnel's headers, too.
#[inline(always)]
fn from_wire<const IS_SECOND: bool>(
    tables: &NodeTables,
    senders: &mut Senders,
    packet: &[u8],
    gate: &Gate,
    (vxlan, ipip): (Option<&VxlanEnd>, Option<Ipv4Addr>),
) -> Option<(u8, Found)> {
    let (header, _) = packet.split_first_chunk()?;
    let outer = ip(header, packet.len())?;
    if outer.protocol == IpProtocol::IPIP {
        let payload = packet.get(ipv4::HEADER_LEN..usize::from(outer.len))?;
        // Nothing may follow the packet in it (`decap`).
        let inner = found(payload).filter(|inner| usize::from(inner.ip.len) == payload.len())?;
        let may = ipip == Some(outer.destination()) && may_send(tables, senders, &outer, &inner, Sent::IPIP);
        return may.then_some((PULL_IPIP, inner));
    }
    let outer = found(packet)?;
    if outer.ip.protocol == IpProtocol::UDP && gate.tunnel_ports.contains(&outer.destination_port()) {
        let ours = (outer.ip.destination(), outer.destination_port());
        let end = vxlan.filter(|end| (end.local, end.port) == ours)?;
        let inner = in_vxlan(packet.get(ipv4::HEADER_LEN..)?, end)?;
        let sent = if IS_SECOND {
            Sent::network(gate.network)
        } else {
            Sent::vxlan(end.port)
        };
        return may_send(tables, senders, &outer.ip, &inner, sent).then_some((PULL_VXLAN, inner));
    }
    let ends = (Ipv4Addr::UNSPECIFIED, outer.ip.source());
    senders.may(tables, ends, Sent::PLAIN).then_some((0, outer))
}

/// Whether a packet came in a tunnel from a node that may send it, and leaves it with the ECN field that it has.
#[inline(always)]
fn may_send(tables: &NodeTables, senders: &mut Senders, outer: &Ip, inner: &Found, sent: Sent) -> bool {
    keeps_ecn(outer.ecn, inner.ip.ecn) && senders.may(tables, (outer.source(), inner.ip.source()), sent)
}

/// Reads the plain packet in a VXLAN datagram to our end.
#[inline(always)]
fn in_vxlan(datagram: &[u8], end: &VxlanEnd) -> Option<Found> {
    let tunnel = Vxlan::parse(Udp::parse(datagram).ok()?.payload()).ok()?;
    let (link, packet) = tunnel.payload().split_first_chunk()?;
    if tunnel.vni() != end.vni || !end.inner.fits(link) {
        return None;
    }
    found(packet)
}

/// Whether the inner ECN field stays as it is (RFC 6040 section 4.2): so where both agree, and under an outer one that says
/// nothing.
#[inline(always)]
fn keeps_ecn(outer: Ecn, inner: Ecn) -> bool {
    outer == inner || outer == Ecn::NotEct
}

/// Completes a checksum that is half computed.
#[inline(never)]
fn finish_checksum(frame: &mut Frame, pull: u8, ip: Ip) -> Option<()> {
    let at = eth::HEADER_LEN + usize::from(pull);
    let segment = frame
        .bytes_mut()
        .get_mut(at + ipv4::HEADER_LEN..at + usize::from(ip.len))?;
    let addresses = checksum::addresses_v4(ip.source(), ip.destination());
    checksum::complete_partial(addresses, ip.protocol, segment);
    Some(())
}
