//! What is seen at a station of either network: each network's frames have marks by which the other's are told, whatever addresses
//! they have.

use std::path::PathBuf;

use pcap_file::pcap::PcapReader;

use super::station::{PATIENCE, Place, Station};
use crate::lab::machine::Machine;
use crate::lab::traffic::Capture;
use crate::lab::{Lab, LabError, wait_until};

/// What the machine captures of a frame, in bytes: the marks are behind the headers and a server's name.
const SNAPPED: &str = "192";
/// The machine's capture, and what tcpdump says meanwhile.
const FILE: &str = "/tmp/seen.pcap";
const LOG: &str = "/tmp/seen.log";

/// What frames of one network have and those of the other have not.
pub(super) struct Marks {
    /// What a ping is filled with; at most 16 bytes.
    pub(super) ping: String,
    /// What TCP and UDP are.
    pub(super) talk: String,
    /// The link addresses of its stations.
    macs: Vec<[u8; 6]>,
}

impl Marks {
    pub(super) fn of(network: &str, stations: &[Station<'_>]) -> Result<Self, LabError> {
        Ok(Self {
            ping: format!("ping-{network}"),
            talk: format!("talk-{network}"),
            macs: stations.iter().map(Station::mac).collect::<Result<_, _>>()?,
        })
    }

    fn words(&self) -> [&str; 2] {
        [&self.ping, &self.talk]
    }

    /// Whether a frame is of this network.
    fn are_in(&self, frame: &[u8]) -> bool {
        let words = self.words().into_iter().map(str::as_bytes);
        let macs = self.macs.iter().map(<[u8; 6]>::as_slice);
        words.chain(macs).any(|mark| contains(frame, mark))
    }
}

fn contains(frame: &[u8], mark: &[u8]) -> bool {
    frame.windows(mark.len()).any(|part| part == mark)
}

/// A capture of all that a station sends and gets.
pub(super) struct Watch<'a> {
    station: &'a str,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Here(Capture),
    Machine { machine: &'a Machine, pid: String },
}

impl<'a> Watch<'a> {
    pub(super) fn start(lab: &Lab, station: &Station<'a>) -> Result<Self, LabError> {
        let kind = match station.place {
            Place::Namespace(namespace) => {
                let file: PathBuf = lab.folder().join(format!("seen-{}.pcap", station.name));
                Kind::Here(Capture::start(namespace, station.interface, "", &file)?)
            }
            Place::Machine(machine) => {
                let line = [
                    "tcpdump",
                    "-Z",
                    "root",
                    "-n",
                    "-U",
                    "--immediate-mode",
                    "-s",
                    SNAPPED,
                ];
                let rest = ["-i", station.interface, "-w", FILE];
                let pid = machine.spawn(&[&line[..], &rest].concat(), LOG)?.to_string();
                let mut said = None;
                let listens = wait_until("tcpdump in the machine", PATIENCE, || {
                    said = machine.read(LOG)?;
                    Ok(said.as_ref().is_some_and(|said| said.contains("listening on")))
                });
                listens.map_err(|error| LabError::Output {
                    command: "tcpdump in the machine".to_owned(),
                    problem: format!("{error}: {}", said.unwrap_or_default()),
                })?;
                Kind::Machine { machine, pid }
            }
        };
        let station = station.name;
        Ok(Self { station, kind })
    }

    /// Ends the capture. Frames of its own network have to be in it, of both kinds, and none of the other's. Answers with where it
    /// was and how many frames there are.
    pub(super) fn judge(self, own: &Marks, other: &Marks) -> Result<String, LabError> {
        let station = self.station;
        let bytes = self.stop()?;
        judge(&bytes, own, other)
            .map(|count| format!("{count} frames at {station}"))
            .map_err(|problem| LabError::Output {
                command: format!("tcpdump at {station}"),
                problem,
            })
    }

    /// Ends the capture, and answers with its file.
    fn stop(self) -> Result<Vec<u8>, LabError> {
        match self.kind {
            Kind::Here(capture) => {
                let file = capture.stop()?;
                std::fs::read(&file).map_err(LabError::io(format!("read {}", file.display())))
            }
            Kind::Machine { machine, pid } => {
                machine.run(&["kill", "-INT", &pid])?;
                let process = format!("/proc/{pid}/stat");
                wait_until("the end of tcpdump in the machine", PATIENCE, || {
                    Ok(machine.read(&process)?.is_none())
                })?;
                let text = machine.run(&["xxd", "-p", FILE])?;
                Ok(from_hex(&text))
            }
        }
    }
}

/// Bytes of hexadecimal digits, whatever is between them.
fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let bytes = digits.chunks_exact(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).unwrap_or(u8::MAX),
        _ => 0,
    });
    bytes.collect()
}

/// How many frames are in a capture, unless there is none with one of the words, or one of the other network.
fn judge(capture: &[u8], own: &Marks, other: &Marks) -> Result<usize, String> {
    let mut reader = PcapReader::new(capture).map_err(|error| error.to_string())?;
    let mut frames = Vec::new();
    // Raw, since the reader knows of no frame that was captured in part.
    while let Some(frame) = reader.next_raw_packet() {
        frames.push(frame.map_err(|error| error.to_string())?.data.into_owned());
    }
    for word in own.words() {
        if !frames.iter().any(|frame| contains(frame, word.as_bytes())) {
            return Err(format!("{} frames, and none with {word:?}", frames.len()));
        }
    }
    match frames.iter().find(|frame| other.are_in(frame)) {
        None => Ok(frames.len()),
        Some(frame) => Err(format!("a frame of the other network: {frame:02x?}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use pcap_file::pcap::{PcapPacket, PcapWriter};

    use super::*;

    fn marks(network: &str, mac: u8) -> Marks {
        Marks {
            ping: format!("ping-{network}"),
            talk: format!("talk-{network}"),
            macs: vec![[2, 0, 0, 0, 0, mac]],
        }
    }

    fn capture(frames: &[&[u8]]) -> Vec<u8> {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap();
            writer
                .write_packet(&PcapPacket::new(Duration::ZERO, length, frame))
                .unwrap();
        }
        writer.into_writer()
    }

    #[test]
    fn a_frame_of_the_other_network_is_found_by_a_word_or_a_link_address() {
        let (own, other) = (marks("cluster", 1), marks("network", 2));
        let both: [&[u8]; 3] = [b"..ping-cluster..", b"talk-cluster", b"an ARP question"];
        assert_eq!(judge(&capture(&both), &own, &other).unwrap(), 3);
        assert!(judge(&capture(&both[..1]), &own, &other).is_err(), "no talk");
        for strange in [&b"..talk-network"[..], &[0xff, 2, 0, 0, 0, 0, 2, 0xff]] {
            let all = [&both[..], &[strange]].concat();
            let told = judge(&capture(&all), &own, &other).unwrap_err();
            assert!(told.contains("of the other network"), "{told}");
        }
        assert!(judge(b"no capture", &own, &other).is_err());
    }

    #[test]
    fn hexadecimal_digits_are_read_over_lines() {
        assert_eq!(from_hex("d4c3\nb2a1\n"), [0xd4, 0xc3, 0xb2, 0xa1]);
    }
}
