//! The packet socket, by way of libpcap.

use std::os::fd::{AsFd, BorrowedFd};

use pcap::{Active, Capture, Direction, Linktype};

use super::frames::Frame;

/// ARP, and neighbour solicitations and advertisements: told apart in the kernel, so that the rest of the uplink's traffic
/// costs the thread nothing.
const FILTER: &str = "arp or (icmp6 and (ip6[40] = 135 or ip6[40] = 136))";
/// More than such a frame has, in bytes.
const SNAP_LEN: i32 = 256;
/// What may wait to be heard, in bytes.
const BUFFER_BYTES: i32 = 256 << 10;
/// Why it cannot be heard or said.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// In libpcap's words.
    #[error("{0}")]
    Pcap(#[from] pcap::Error),
    /// There is no ARP on it.
    #[error("it is no Ethernet interface")]
    NoEthernet,
}

/// A packet socket on one interface.
pub(super) struct Link {
    capture: Capture<Active>,
}

impl Link {
    /// Opens the socket; needs CAP_NET_RAW.
    pub(super) fn open(interface: &str) -> Result<Self, LinkError> {
        let mut capture = Capture::from_device(interface)?
            .immediate_mode(true)
            .snaplen(SNAP_LEN)
            .buffer_size(BUFFER_BYTES)
            .open()?;
        if capture.get_datalink() != Linktype::ETHERNET {
            return Err(LinkError::NoEthernet);
        }
        capture.filter(FILTER, true)?;
        capture.direction(Direction::In)?;
        // In immediate mode libpcap's own timeout does not end its waiting.
        let capture = capture.setnonblock()?;
        Ok(Self { capture })
    }

    /// The next frame, if one is there.
    pub(super) fn hear(&mut self) -> Result<Option<&[u8]>, LinkError> {
        match self.capture.next_packet() {
            Ok(packet) => Ok(Some(packet.data)),
            Err(pcap::Error::TimeoutExpired) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a frame.
    pub(super) fn say(&mut self, frame: &Frame) -> Result<(), LinkError> {
        Ok(self.capture.sendpacket(frame.as_slice())?)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.capture.as_fd()
    }
}
