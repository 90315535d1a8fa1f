//! The lane of frames to and from stations that are known, both behind ports: most of what a bridge does, in few instructions.
//!
//! What a frame must bear to take it is found once for a batch. Whatever is not plain walks the stages, and so does what the
//! lane has read but finds nothing about: it says the same as they do, or nothing.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::fdb::Station;
use millrace_dataplane::table::{Fdb, Location, Member, NetworkId, NodeTables, Tick};
use millrace_dataplane::wire::checksum::Sum;
use millrace_dataplane::wire::{EtherType, IpProtocol, MacAddr, checksum, eth, ipv4, tcp, udp};

use super::admit::finish_checksum;
use super::{Entrance, Step};

/// What a port's frames have in common, where they are of one network and only their MAC address may be told them.
#[derive(Debug)]
pub(super) struct Lane<'t> {
    network: NetworkId,
    port: PortId,
    tables: &'t NodeTables,
    /// The only source address, as the lower 48 bits of a word.
    only: Option<u64>,
    finish_checksums: bool,
}

/// A frame on the lane: its stations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    source: Station,
    destination: Station,
}

/// The first byte of an IPv4 header without options, and where protocol and addresses stand in it, in bytes.
const PLAIN: u8 = 0x45;
const PROTOCOL: usize = 9;
const ADDRESSES: usize = 12;
/// A group's address has this bit, in the lower 48 bits of a word.
const GROUP: u64 = 1 << 40;

impl<'t> Lane<'t> {
    /// The lane of what comes in there; `None` if nothing takes it.
    pub(super) fn of(tables: &'t NodeTables, entrance: Entrance<'_>) -> Option<Self> {
        let Entrance::Member(port, facts, Member::Access { network, guard }) = entrance else {
            return None;
        };
        tables.networks.segment(*network)?;
        guard.sources.is_empty().then_some(Self {
            network: *network,
            port,
            tables,
            only: guard.mac.map(word),
            finish_checksums: facts.finish_checksums,
        })
    }

    /// Reads a frame that is plain.
    #[inline(always)]
    pub(super) fn read(&self, fdb: &Fdb, frame: &mut Frame) -> Option<Plain> {
        let header: &[u8; eth::HEADER_LEN] = frame.bytes().first_chunk()?;
        let (first, last) = (header.first_chunk()?, header.last_chunk()?);
        let (destination, last) = (u64::from_be_bytes(*first) >> 16, u64::from_be_bytes(*last));
        let source = last >> 16;
        // INVARIANT: cut to its width.
        #[allow(clippy::cast_possible_truncation)]
        let ether_type = EtherType(last as u16);
        let is_odd = (source | destination) & GROUP != 0 || source == 0 || ether_type.is_vlan();
        if is_odd || self.only.is_some_and(|only| only != source) {
            return None;
        }
        if self.finish_checksums && may_be_partial(ether_type, frame.bytes().get(eth::HEADER_LEN..)?) {
            finish_checksum(frame);
        }
        let station = |mac| {
            let station = fdb.station(self.network, mac);
            fdb.prefetch(station);
            station
        };
        Some(Plain {
            source: station(address(source)),
            destination: station(address(destination)),
        })
    }

    /// Takes it to the port that it leaves by, if both stations are where a lane leads from and to.
    #[inline(always)]
    pub(super) fn go(&self, fdb: &Fdb, plain: &Plain, frame: &Frame, now: Tick) -> Option<PortId> {
        let source = fdb.find_near(plain.source)?;
        if source.location() != Location::Port(self.port) {
            return None;
        }
        fdb.refresh(&source, now);
        let Location::Port(port) = fdb.find_near(plain.destination)?.location() else {
            return None;
        };
        let (Member::Access { network, .. }, facts) =
            (self.tables.networks.member(port)?, self.tables.ports.get(port)?)
        else {
            return None;
        };
        let fits = frame.len() <= eth::HEADER_LEN + usize::from(facts.mtu);
        (port != self.port && *network == self.network && fits).then_some(port)
    }

    /// The frame as one that walks the stages.
    pub(super) fn step(&self, plain: &Plain) -> Step {
        Step {
            network: self.network,
            from: Location::Port(self.port),
            mac: plain.source.mac(),
            source: plain.source,
            destination: Some(plain.destination),
        }
    }
}

/// Whether a TCP or UDP checksum may be half computed: not where a plain IPv4 packet's is whole.
#[inline(always)]
fn may_be_partial(ether_type: EtherType, packet: &[u8]) -> bool {
    if ether_type != EtherType::IPV4 {
        return ether_type == EtherType::IPV6;
    }
    let Some((header, segment)) = packet.split_first_chunk::<{ ipv4::HEADER_LEN }>() else {
        return false;
    };
    let [shape, _, high, low, ..] = *header;
    let protocol = IpProtocol(header[PROTOCOL]);
    let field = match protocol {
        IpProtocol::TCP => segment.get(tcp::CHECKSUM_OFFSET..),
        IpProtocol::UDP => segment.get(udp::CHECKSUM_OFFSET..),
        _ => return false,
    };
    let (Some(field), PLAIN) = (field.and_then(<[u8]>::first_chunk), shape) else {
        return true;
    };
    let len = usize::from(u16::from_be_bytes([high, low])).wrapping_sub(ipv4::HEADER_LEN);
    let pseudo = Sum::ZERO
        .add_bytes(&header[ADDRESSES..])
        .add_transport(protocol, len);
    checksum::is_partial(pseudo, u16::from_be_bytes(*field))
}

/// An address as the lower 48 bits of a word.
fn word(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.octets();
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// The address that such a word is.
#[inline(always)]
fn address(word: u64) -> MacAddr {
    let [_, _, mac @ ..] = word.to_be_bytes();
    MacAddr(mac)
}
