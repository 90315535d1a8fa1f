//! Packets of a capture file, to be sent again.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::frame::MAX_PACKET_LEN;
use millrace_dataplane::wire::checksum::{Delta, Sum, fill_transport};
use millrace_dataplane::wire::{IpProtocol, eth, icmp, tcp, udp};
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

use super::marker::{MARKER_LEN, Marker};
use super::order::Share;
use super::recognise::{Place, Walk};
use super::stamp::{Prepared, Stamp};

/// What a pcapng file begins with.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Why a capture file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file cannot be opened.
    #[error("cannot open the capture file {path}: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is neither pcap nor pcapng, or breaks off.
    #[error("{path} is no readable pcap or pcapng file: {source}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What the reader said.
        source: PcapError,
    },
    /// Its packets are not Ethernet frames.
    #[error("{path} holds packets of link type {found:?}; Ethernet would be right")]
    LinkType {
        /// Which file.
        path: PathBuf,
        /// What it holds.
        found: DataLink,
    },
    /// Nothing in it can be sent.
    #[error(
        "{path} has no packet to send: {skipped} in it are cut short by the capture, shorter than an Ethernet header or longer than \
         {MAX_PACKET_LEN} bytes"
    )]
    Empty {
        /// Which file.
        path: PathBuf,
        /// Packets that were left out.
        skipped: usize,
    },
}

/// One packet of a file.
#[derive(Debug)]
struct Recorded {
    bytes: Vec<u8>,
    /// How it is stamped, if there is room for a mark in its payload and it is to have one.
    stamp: Option<Prepared>,
    /// Packets before it that have a mark.
    marked_before: u64,
    at_ns: u64,
}

/// How a packet is stamped, and with which sequence number.
pub(crate) type Numbered = (Prepared, u64);

/// The packets of a file.
#[derive(Debug, Clone)]
pub struct Replay {
    packets: Arc<[Recorded]>,
    marked: u64,
    skipped: usize,
}

impl Replay {
    /// Reads a pcap or pcapng file whole. With `is_marked`, a mark is written over the start of every payload of UDP, TCP
    /// or ICMP that has room for one, in tunnels too; packets stay as they are otherwise.
    ///
    /// # Errors
    /// [`ReplayError`] names the file and what is wrong with it.
    pub fn read(path: &Path, is_marked: bool) -> Result<Self, ReplayError> {
        let raw = read_file(path)?;
        let found = raw.len();
        let sound = raw.into_iter().filter(|packet| {
            packet.is_whole && (eth::HEADER_LEN..=MAX_PACKET_LEN).contains(&packet.bytes.len())
        });
        let replay = Self::of(sound.map(|packet| (packet.at, packet.bytes)).collect(), is_marked);
        let skipped = found - replay.packets.len();
        if replay.packets.is_empty() {
            let path = path.to_owned();
            return Err(ReplayError::Empty { path, skipped });
        }
        Ok(Self { skipped, ..replay })
    }

    /// Ethernet frames that are no file's, one after the other, marked as in [`Self::read`]. Those that cannot be sent, as
    /// they are too short or too long, are left out.
    #[must_use]
    pub fn from_frames(frames: Vec<Vec<u8>>, is_marked: bool) -> Self {
        let found = frames.len();
        let sound = frames
            .into_iter()
            .filter(|frame| (eth::HEADER_LEN..=MAX_PACKET_LEN).contains(&frame.len()));
        let replay = Self::of(sound.map(|frame| (Duration::ZERO, frame)).collect(), is_marked);
        let skipped = found - replay.packets.len();
        Self { skipped, ..replay }
    }

    fn of(packets: Vec<(Duration, Vec<u8>)>, is_marked: bool) -> Self {
        let first = packets.first().map_or(Duration::ZERO, |(at, _)| *at);
        let mut marked = 0;
        let packets: Vec<_> = packets
            .into_iter()
            .map(|(at, mut bytes)| {
                let stamp = if is_marked { prepare(&mut bytes) } else { None };
                let marked_before = marked;
                marked += u64::from(stamp.is_some());
                let since = at.saturating_sub(first).as_nanos();
                Recorded {
                    bytes,
                    stamp,
                    marked_before,
                    at_ns: u64::try_from(since).unwrap_or(u64::MAX),
                }
            })
            .collect();
        Self {
            packets: packets.into(),
            marked,
            skipped: 0,
        }
    }

    /// The packets that one of several senders sends: every so manyth.
    #[must_use]
    pub fn share(&self, share: Share) -> Self {
        if share == Share::WHOLE {
            return self.clone();
        }
        let every = share.of.max(1) as usize;
        let mine = self.packets.iter().skip(share.number as usize).step_by(every);
        let mut marked = 0;
        let packets: Vec<_> = mine
            .map(|packet| {
                let marked_before = marked;
                marked += u64::from(packet.stamp.is_some());
                Recorded {
                    bytes: packet.bytes.clone(),
                    marked_before,
                    ..*packet
                }
            })
            .collect();
        Self {
            packets: packets.into(),
            marked,
            skipped: self.skipped,
        }
    }

    /// How many packets there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether a share has got none of them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packets in the file that are not sent.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The lengths of all packets, in bytes.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        self.packets.iter().map(|packet| packet.bytes.len())
    }

    /// When each was recorded, in nanoseconds after the first, and how long a round takes: the last gap is the mean one.
    pub(crate) fn times(&self, speed: f64) -> (Arc<[u64]>, u64) {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )] // INVARIANT: days of nanoseconds are far below 2^52.
        let scaled = |ns: u64| (ns as f64 / speed.max(f64::MIN_POSITIVE)) as u64;
        let at: Arc<[u64]> = self.packets.iter().map(|packet| scaled(packet.at_ns)).collect();
        let (last, gaps) = (at.last().copied().unwrap_or(0), at.len().saturating_sub(1) as u64);
        let round = last.saturating_add(last / gaps.max(1)).max(1);
        (at, round)
    }

    /// How many of the first `packets` sent have a mark.
    pub(crate) fn marked_among(&self, packets: u64) -> u64 {
        let (round, packet) = self.place(packets);
        round * self.marked + packet.map_or(0, |packet| packet.marked_before)
    }

    /// Packet `number` of the endless round.
    #[inline]
    fn place(&self, number: u64) -> (u64, Option<&Recorded>) {
        let count = self.packets.len().max(1) as u64;
        // INVARIANT: below the number of packets, which is a usize.
        #[allow(clippy::cast_possible_truncation)]
        let place = (number % count) as usize;
        (number / count, self.packets.get(place))
    }

    /// Packet `number`: its bytes, and how to stamp it with which sequence number.
    #[inline]
    pub(crate) fn packet(&self, number: u64) -> Option<(&[u8], Option<Numbered>)> {
        let (round, packet) = self.place(number);
        let packet = packet?;
        let stamp = packet
            .stamp
            .map(|stamp| (stamp, round * self.marked + packet.marked_before));
        Some((&packet.bytes, stamp))
    }
}

/// A packet as it stands in a file.
struct Raw {
    at: Duration,
    bytes: Vec<u8>,
    is_whole: bool,
}

fn read_file(path: &Path) -> Result<Vec<Raw>, ReplayError> {
    let opened = |source| ReplayError::Open {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(opened)?);
    let mut magic = [0; PCAPNG_MAGIC.len()];
    let is_pcapng = file.read_exact(&mut magic).is_ok() && magic == PCAPNG_MAGIC;
    file.seek(SeekFrom::Start(0)).map_err(opened)?;
    if is_pcapng {
        read_pcapng(path, file)
    } else {
        read_pcap(path, file)
    }
}

fn format(path: &Path) -> impl Fn(PcapError) -> ReplayError + '_ {
    |source| ReplayError::Format {
        path: path.to_owned(),
        source,
    }
}

fn check_link(path: &Path, found: DataLink) -> Result<(), ReplayError> {
    if found == DataLink::ETHERNET {
        return Ok(());
    }
    let path = path.to_owned();
    Err(ReplayError::LinkType { path, found })
}

fn read_pcap(path: &Path, file: BufReader<File>) -> Result<Vec<Raw>, ReplayError> {
    let mut reader = PcapReader::new(file).map_err(format(path))?;
    check_link(path, reader.header().datalink)?;
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(format(path))?;
        packets.push(Raw {
            at: packet.timestamp,
            is_whole: packet.orig_len as usize == packet.data.len(),
            bytes: packet.data.into_owned(),
        });
    }
    Ok(packets)
}

fn read_pcapng(path: &Path, file: BufReader<File>) -> Result<Vec<Raw>, ReplayError> {
    let mut reader = PcapNgReader::new(file).map_err(format(path))?;
    let (mut packets, mut resolutions) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.map_err(format(path))? {
            Block::SectionHeader(_) => resolutions.clear(),
            Block::InterfaceDescription(interface) => {
                check_link(path, interface.linktype)?;
                resolutions.push(ticks_per_second(&interface.options));
            }
            Block::EnhancedPacket(packet) => {
                let resolution = resolutions.get(packet.interface_id as usize).copied();
                packets.push(Raw {
                    at: time_of(
                        packet.timestamp.as_nanos(),
                        resolution.unwrap_or(TICKS_PER_SECOND),
                    ),
                    is_whole: packet.original_len as usize == packet.data.len(),
                    bytes: packet.data.into_owned(),
                });
            }
            _ => {}
        }
    }
    Ok(packets)
}

/// Without an `if_tsresol`, a pcapng file counts time in microseconds.
const TICKS_PER_SECOND: u64 = 1_000_000;

/// What an interface's `if_tsresol` says: a power of ten, or with the highest bit set of two.
fn ticks_per_second(options: &[InterfaceDescriptionOption<'_>]) -> u64 {
    let resolution = options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    let ticks = resolution.and_then(|byte| {
        let base: u64 = if byte & 0x80 == 0 { 10 } else { 2 };
        base.checked_pow(u32::from(byte & 0x7f))
    });
    ticks.unwrap_or(TICKS_PER_SECOND)
}

/// The reader takes every tick for a nanosecond.
fn time_of(ticks: u128, per_second: u64) -> Duration {
    let ns = ticks * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// Puts a mark into a packet; none, and the packet as it was, if there is no room, or the packet would not be sound with it
/// (one that was not before, or whose outer checksum covers the inner packet).
fn prepare(packet: &mut [u8]) -> Option<Prepared> {
    let before = packet.to_vec();
    let prepared = put_mark(packet).filter(|_| Walk::through(packet).is_intact);
    if prepared.is_none() {
        packet.copy_from_slice(&before);
    }
    prepared
}

/// Puts a mark at the start of the innermost payload and makes its checksum right.
fn put_mark(packet: &mut [u8]) -> Option<Prepared> {
    let Place {
        at,
        end,
        l4_at,
        protocol,
        addresses,
        ..
    } = Walk::through(packet).payload?;
    let (payload, checksum_at) = (
        packet.get_mut(at..end)?,
        match protocol {
            IpProtocol::UDP => udp::CHECKSUM_OFFSET,
            IpProtocol::TCP => tcp::CHECKSUM_OFFSET,
            _ => icmp::CHECKSUM_OFFSET,
        },
    );
    payload.get_mut(..MARKER_LEN)?.fill(0);
    let l4 = packet.get_mut(l4_at..end)?;
    if protocol == IpProtocol::ICMP {
        l4.get_mut(checksum_at..checksum_at + 2)?.fill(0);
        let sum = Sum::ZERO.add_bytes(l4).checksum();
        l4.get_mut(checksum_at..checksum_at + 2)?
            .copy_from_slice(&sum.to_be_bytes());
    } else {
        fill_transport(addresses, protocol, l4);
    }
    let stamp = Stamp {
        mark_at: at,
        end,
        checksum_at: l4_at + checksum_at,
        is_udp: protocol == IpProtocol::UDP,
    };
    let prepared = stamp.prepared(packet);
    let is_writable = prepared.write(packet, Marker::default(), Delta::ZERO).is_ok();
    // The mark that stands there now is the one that every stamp replaces.
    is_writable.then(|| stamp.prepared(packet))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::recognise::recognise;
    use super::*;
    use etherparse::PacketBuilder;
    use pcap_file::pcap::{PcapPacket, PcapWriter};

    fn datagram(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut frame, &vec![0x5a; payload])
            .unwrap();
        frame
    }

    fn file(packets: &[(u64, Vec<u8>, u32)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = PcapWriter::new(file.reopen().unwrap()).unwrap();
        for (at_us, bytes, cut) in packets {
            let len = u32::try_from(bytes.len()).unwrap() + cut;
            let packet = PcapPacket::new(Duration::from_micros(*at_us), len, bytes);
            writer.write_packet(&packet).unwrap();
        }
        file
    }

    #[test]
    fn packets_with_room_are_marked_and_the_others_sent_as_they_are() {
        let file = file(&[
            (100, datagram(100), 0),
            (150, datagram(MARKER_LEN - 1), 0),
            (180, datagram(40), 7),
            (200, datagram(MARKER_LEN), 0),
        ]);
        let replay = Replay::read(file.path(), true).unwrap();
        assert_eq!((replay.len(), replay.skipped(), replay.marked), (3, 1, 2));
        assert_eq!(replay.times(1.0), (Arc::from([0, 50_000, 100_000]), 150_000));
        assert_eq!(replay.times(2.0).1, 75_000);
        let mut sequences = Vec::new();
        for number in 0..7 {
            let (bytes, stamp) = replay.packet(number).unwrap();
            let mut packet = bytes.to_vec();
            if let Some((stamp, sequence)) = stamp {
                let marker = Marker {
                    run: 3,
                    sequence,
                    time: 9,
                };
                stamp.write(&mut packet, marker, Delta::ZERO).unwrap();
                let found = recognise(&packet).unwrap();
                assert!(found.is_intact);
                assert_eq!(found.marker, marker);
                sequences.push(sequence);
            } else {
                assert_eq!(packet, datagram(MARKER_LEN - 1));
            }
        }
        assert_eq!(sequences, [0, 1, 2, 3, 4]);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|sent| replay.marked_among(sent)),
            [0, 1, 1, 2, 3]
        );
        let whole = Replay::read(file.path(), false).unwrap();
        assert_eq!(whole.packet(0).unwrap().0, datagram(100));
        assert!(whole.packet(0).unwrap().1.is_none());
    }

    #[test]
    fn a_pcapng_file_is_read_with_its_own_clock() {
        use pcap_file::pcapng::PcapNgWriter;
        use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
        use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = PcapNgWriter::new(file.reopen().unwrap()).unwrap();
        let interface = |linktype| InterfaceDescriptionBlock {
            linktype,
            snaplen: 0,
            options: vec![InterfaceDescriptionOption::IfTsResol(3)],
        };
        writer.write_pcapng_block(interface(DataLink::ETHERNET)).unwrap();
        // The writer takes every tick for a nanosecond, as the reader does; here it is a millisecond.
        for at in [1000, 1250] {
            let bytes = datagram(50);
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_nanos(at),
                original_len: u32::try_from(bytes.len()).unwrap(),
                data: bytes.into(),
                options: Vec::new(),
            };
            writer.write_pcapng_block(packet).unwrap();
        }
        let replay = Replay::read(file.path(), true).unwrap();
        assert_eq!((replay.len(), replay.marked), (2, 2));
        assert_eq!(replay.times(1.0).0, Arc::from([0, 250_000_000]));
        writer.write_pcapng_block(interface(DataLink::RAW)).unwrap();
        assert!(matches!(
            Replay::read(file.path(), true),
            Err(ReplayError::LinkType { .. })
        ));
    }

    #[test]
    fn shares_are_disjoint_and_whole() {
        let packets = (0..10).map(|number| (Duration::from_millis(1), datagram(20 + number)));
        let replay = Replay::of(packets.collect(), true);
        let lengths = |number| {
            let share = replay.share(Share { number, of: 3 });
            share.lengths().collect::<Vec<_>>()
        };
        let mut all: Vec<_> = (0..3).flat_map(lengths).collect();
        all.sort_unstable();
        assert_eq!(all, replay.lengths().collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_replayed_is_named() {
        let absent = Replay::read(Path::new("/no/such/file.pcap"), true).unwrap_err();
        assert!(absent.to_string().contains("/no/such/file.pcap"), "{absent}");
        let text = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            text.path(),
            "this is no capture file at all, but long enough for its header",
        )
        .unwrap();
        assert!(matches!(
            Replay::read(text.path(), true),
            Err(ReplayError::Format { .. })
        ));
        let empty = file(&[(0, datagram(40), 1)]);
        assert!(matches!(
            Replay::read(empty.path(), true),
            Err(ReplayError::Empty { skipped: 1, .. })
        ));
    }

    #[test]
    fn ticks_are_what_the_interface_says() {
        use InterfaceDescriptionOption::IfTsResol;
        assert_eq!(ticks_per_second(&[]), 1_000_000);
        assert_eq!(ticks_per_second(&[IfTsResol(9)]), 1_000_000_000);
        assert_eq!(ticks_per_second(&[IfTsResol(0x8a)]), 1024);
        assert_eq!(time_of(1_500_000, 1_000_000), Duration::from_millis(1500));
    }
}
