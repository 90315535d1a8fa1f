//! Captured packets as a pcapng file (draft-ietf-opsawg-pcapng) that tcpdump and Wireshark read.

use std::borrow::Cow;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, Endianness, PcapError};

use crate::admin::protocol::CaptureDirection;

/// `if_tsresol`: time stamps count units of ten to the minus this, in seconds.
const TIMESTAMP_RESOLUTION: u8 = 9;
/// No bound on the length of a captured packet (section 4.2).
const SNAPLEN_UNBOUNDED: u32 = 0;
/// `epb_flags`, bits 0 and 1: the packet's direction (section 4.3.1).
const FLAG_INBOUND: u32 = 1;
const FLAG_OUTBOUND: u32 = 2;
/// Longest comment that is written, in characters; an option's length has 16 bits.
const COMMENT_MAX_CHARS: usize = 1000;

/// A pcapng file being written, with one interface.
pub(super) struct PcapngFile<W: Write> {
    writer: PcapNgWriter<W>,
}

impl<W: Write> PcapngFile<W> {
    /// Writes the file's head: who wrote it, and the interface, of Ethernet link type, with its port's name.
    pub(super) fn new(writer: W, interface: &str, port: &str) -> io::Result<Self> {
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
                "millrace ",
                env!("CARGO_PKG_VERSION")
            )))],
            ..Default::default()
        };
        let mut writer = PcapNgWriter::with_section_header(writer, section).map_err(into_io)?;
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: SNAPLEN_UNBOUNDED,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(interface)),
                InterfaceDescriptionOption::IfDescription(Cow::Borrowed(port)),
                InterfaceDescriptionOption::IfTsResol(TIMESTAMP_RESOLUTION),
            ],
        };
        writer
            .write_block(&interface.into_owned().into_block())
            .map_err(into_io)?;
        Ok(Self { writer })
    }

    /// Writes a packet, taken `time` after the epoch, with its comment.
    pub(super) fn write(
        &mut self,
        time: Duration,
        direction: CaptureDirection,
        comment: &str,
        packet: &[u8],
    ) -> io::Result<()> {
        let flags = match direction {
            CaptureDirection::Received => FLAG_INBOUND,
            CaptureDirection::Sent => FLAG_OUTBOUND,
        };
        let end = comment
            .char_indices()
            .nth(COMMENT_MAX_CHARS)
            .map_or(comment.len(), |(end, _)| end);
        let comment = comment.get(..end).unwrap_or_default();
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: time,
            original_len: u32::try_from(packet.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(packet),
            options: vec![
                EnhancedPacketOption::Comment(Cow::Borrowed(comment)),
                EnhancedPacketOption::Flags(flags),
            ],
        };
        self.writer.write_block(&block.into_block()).map_err(into_io)?;
        Ok(())
    }

    /// Hands what is buffered to the operating system.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

/// The kind of error is kept: a closed pipe is no failure.
fn into_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
#[path = "pcapng_tests.rs"]
mod tests;
