//! A port whose wire is a capture file: it receives the packets of one pcap file and writes what it sends to another.
//!
//! For replaying what a user sent in with a bug report, and for looking at the answer with any pcap reader.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::{DataLink, PcapError};

use super::{Port, Settled};
use crate::frame::{Frame, MAX_PACKET_LEN, Pool};

/// Why a capture file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PcapPortError {
    /// The file cannot be opened or made.
    #[error("cannot open the capture file {path}: {source}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no pcap file, or breaks off.
    #[error("{path} is not a readable pcap file: {source}")]
    Format {
        /// Which file.
        path: PathBuf,
        /// What the reader said.
        source: PcapError,
    },
    /// The packets in the file are not Ethernet frames.
    #[error("{path} holds packets of link type {found:?}; Ethernet would be right")]
    LinkType {
        /// Which file.
        path: PathBuf,
        /// What it holds.
        found: DataLink,
    },
}

/// One queue of a port between two pcap files.
#[derive(Debug)]
pub struct PcapPort {
    input: PcapReader<BufReader<File>>,
    output: PcapWriter<BufWriter<File>>,
    queued: Vec<Frame>,
    sent: Vec<Frame>,
    /// Time stamp of the packet received last; what is sent in answer carries it.
    time: Duration,
    unreadable: u64,
    error: Option<i32>,
}

impl PcapPort {
    /// Receives the packets of the file `input`, in order, and writes what is sent to the file `output`.
    ///
    /// # Errors
    /// [`PcapPortError`] names the file and what is wrong with it.
    pub fn open(input: &Path, output: &Path) -> Result<Self, PcapPortError> {
        let open = |path: &Path| {
            let path = path.to_owned();
            move |source| PcapPortError::Open { path, source }
        };
        let format = |path: &Path| {
            let path = path.to_owned();
            move |source| PcapPortError::Format { path, source }
        };
        let reader = BufReader::new(File::open(input).map_err(open(input))?);
        let reader = PcapReader::new(reader).map_err(format(input))?;
        let found = reader.header().datalink;
        if found != DataLink::ETHERNET {
            return Err(PcapPortError::LinkType {
                path: input.to_owned(),
                found,
            });
        }
        let writer = BufWriter::new(File::create(output).map_err(open(output))?);
        let writer = PcapWriter::with_header(writer, PcapHeader::default()).map_err(format(output))?;
        Ok(Self {
            input: reader,
            output: writer,
            queued: Vec::new(),
            sent: Vec::new(),
            time: Duration::ZERO,
            unreadable: 0,
            error: None,
        })
    }

    /// Packets of the input that could not be received: cut short by the capture, broken, or larger than a frame.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }
}

impl Port for PcapPort {
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let mut count = 0;
        while count < max && pool.available() > 0 {
            let Some(next) = self.input.next_packet() else {
                break;
            };
            let Ok(packet) = next else {
                self.unreadable += 1;
                break;
            };
            let whole = packet.orig_len as usize == packet.data.len() && packet.data.len() <= MAX_PACKET_LEN;
            let frame = if whole { pool.take_with(&packet.data) } else { None };
            match frame {
                Some(frame) => {
                    self.time = packet.timestamp;
                    into.push(frame);
                    count += 1;
                }
                None => self.unreadable += 1,
            }
        }
        count
    }

    fn send(&mut self, _pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        self.queued.push(frame);
        Ok(())
    }

    fn flush(&mut self) {
        for frame in self.queued.drain(..) {
            // INVARIANT: a frame is at most a chunk long.
            let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
            if self
                .output
                .write_packet(&PcapPacket::new(self.time, len, frame.bytes()))
                .is_err()
            {
                self.error = Some(libc::EIO);
            }
            self.sent.push(frame);
        }
    }

    fn settle(&mut self, pool: &mut Pool) -> Settled {
        let completed = self.sent.len();
        self.sent.drain(..).for_each(|frame| pool.give(frame));
        Settled {
            completed,
            ..Settled::default()
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn last_error(&mut self) -> Option<i32> {
        self.error.take()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn packets_go_from_file_to_file() {
        let folder = std::env::temp_dir().join(format!("millrace-pcap-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (first, second, third) = (folder.join("a"), folder.join("b"), folder.join("c"));
        let mut writer = PcapWriter::new(File::create(&first).unwrap()).unwrap();
        for (data, orig_len) in [(vec![1u8; 60], 60), (vec![2; 1514], 1514), (vec![3; 60], 1514)] {
            writer
                .write_packet(&PcapPacket::new(Duration::from_secs(7), orig_len, &data))
                .unwrap();
        }
        drop(writer);

        let mut pool = Pool::on_heap(8);
        let mut port = PcapPort::open(&first, &second).unwrap();
        let mut frames = Vec::new();
        assert_eq!(port.receive(&mut pool, &mut frames, 64), 2);
        assert_eq!(port.unreadable(), 1, "the third was cut by its capture");
        frames
            .drain(..)
            .for_each(|frame| port.send(&mut pool, frame).unwrap());
        port.flush();
        assert_eq!(port.settle(&mut pool).completed, 2);
        drop(port);
        assert_eq!(pool.census().free, 8);

        let mut again = PcapPort::open(&second, &third).unwrap();
        assert_eq!(again.receive(&mut pool, &mut frames, 64), 2);
        assert_eq!(frames[1].bytes(), [2; 1514]);
        assert_eq!(again.time, Duration::from_secs(7));
        frames.drain(..).for_each(|frame| pool.give(frame));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_wrong_file_is_named() {
        let missing = PcapPort::open(Path::new("/nonexistent/in"), Path::new("/dev/null")).unwrap_err();
        assert!(missing.to_string().contains("/nonexistent/in"));
        let empty = PcapPort::open(Path::new("/dev/null"), Path::new("/dev/null")).unwrap_err();
        assert!(empty.to_string().contains("not a readable pcap file"), "{empty}");
    }
}
