//! The frames of each port: what stations say to one another, and what storms are made of.

use millrace_dataplane::wire::{MacAddr, eth};

/// Length of all frames, in bytes.
const LEN: usize = 64;
/// A kind of frame that means nothing to a bridge (IEEE 802 section 9.2.4, for experiments).
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];
/// Stations behind each port.
pub(super) const STATIONS: u8 = 64;
/// Stations that are behind one port, and then another.
const MOVERS: u8 = 8;

/// The ports, by number: the established traffic goes from A to B, storms come in at C and D, and what they send to one station is
/// for those behind the last.
pub(super) const PORT_A: u16 = 0;
pub(super) const PORT_B: u16 = 1;
pub(super) const PORT_C: u16 = 2;
pub(super) const PORT_D: u16 = 3;
pub(super) const PORT_SINK: u16 = 4;
pub(super) const PORTS: u16 = 5;

/// Frames without end.
#[derive(Debug)]
pub(super) enum Frames {
    /// These, again and again.
    Again(Box<[[u8; LEN]]>, usize),
    /// Each from a station that nobody has seen.
    Strangers([u8; LEN], u32),
}

/// A station behind a port.
pub(super) fn station(port: u16, number: u8) -> MacAddr {
    let [_, port] = port.to_be_bytes();
    MacAddr([0x02, port, 0, 0, 0, number])
}

fn frame(source: MacAddr, destination: MacAddr) -> [u8; LEN] {
    let mut frame = [0; LEN];
    let (head, _) = frame.split_at_mut(eth::HEADER_LEN);
    let parts = destination.0.iter().chain(&source.0).chain(&ETHER_TYPE);
    head.iter_mut().zip(parts).for_each(|(to, from)| *to = *from);
    frame
}

/// What the stations behind one port say to those behind another.
pub(super) fn frames_between(from: u16, to: u16) -> Frames {
    let all = (0..STATIONS).map(|number| frame(station(from, number), station(to, STATIONS - 1 - number)));
    Frames::Again(all.collect(), 0)
}

/// What a few stations say that are behind whichever port sends it.
pub(super) fn movers() -> Frames {
    let all = (0..MOVERS).map(|number| frame(station(PORTS, number), station(PORT_SINK, number)));
    Frames::Again(all.collect(), 0)
}

/// What one station says to everybody.
pub(super) fn broadcasts(from: u16) -> Frames {
    Frames::Again(Box::new([frame(station(from, 0), MacAddr::BROADCAST)]), 0)
}

/// What stations say that nobody has seen, each once: to one that is known, or to one that is not.
pub(super) fn strangers(to_known: bool) -> Frames {
    let nobody = station(PORTS + 1, 0);
    let to = if to_known { station(PORT_SINK, 0) } else { nobody };
    Frames::Strangers(frame(station(PORTS + 2, 0), to), 0)
}

impl Frames {
    /// The next one.
    pub(super) fn next(&mut self) -> &[u8] {
        match self {
            Self::Again(frames, next) => {
                let place = *next;
                *next = if place + 1 < frames.len() { place + 1 } else { 0 };
                frames.get(place).map_or(&[], <[u8; LEN]>::as_slice)
            }
            Self::Strangers(frame, number) => {
                // The source's last four bytes.
                let source = frame.get_mut(eth::MAC_LEN + 2..2 * eth::MAC_LEN);
                if let Some(place) = source {
                    place.copy_from_slice(&number.to_be_bytes());
                }
                *number = number.wrapping_add(1);
                frame
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use millrace_dataplane::wire::Ethernet;

    use super::*;

    fn sources(frames: &mut Frames, count: usize) -> BTreeSet<[u8; 6]> {
        (0..count)
            .map(|_| Ethernet::parse(frames.next()).unwrap().source().0)
            .collect()
    }

    #[test]
    fn strangers_are_each_another_and_movers_are_few() {
        assert_eq!(sources(&mut strangers(true), 5000).len(), 5000);
        assert_eq!(sources(&mut movers(), 5000).len(), usize::from(MOVERS));
        assert_eq!(
            sources(&mut frames_between(PORT_A, PORT_B), 5000).len(),
            usize::from(STATIONS)
        );
        let mut to_all = broadcasts(PORT_C);
        assert!(
            Ethernet::parse(to_all.next())
                .unwrap()
                .destination()
                .is_broadcast()
        );
    }
}
