//! A port in a VLAN: its frames bear an IEEE 802.1Q tag on the wire, and none in the switch.
//!
//! The tag comes off as frames are received and is put on as they are sent, by moving the two link addresses over it; so
//! nothing behind a port knows of VLANs, and a packet in one takes the same lane as any other. A frame that is not of the
//! port's VLAN is handed on with its tag, an untagged one with a tag of its own making that names no VLAN (what it means
//! by IEEE 802.1Q clause 6.9.1): either is dropped by the pipeline as one with a tag.

use std::os::fd::BorrowedFd;

use super::{Port, Settled, Transmission};
use crate::frame::{Frame, NoRoom, Pool};
use crate::stats::DeviceStatistics;
use crate::wire::eth::MAC_LEN;
use crate::wire::vlan::{TAG_LEN, VlanId};
use crate::wire::{EtherType, Ethernet, VlanTag};

/// Both link addresses, in bytes: what stands before a tag.
const ADDRESSES_LEN: usize = 2 * MAC_LEN;

/// What stands in a tag in the place of a number where there is none.
const NO_VLAN: u16 = 0;

/// Which tag a port's frames bear; `None` for a port in no VLAN.
pub type Tagging = Option<VlanId>;

/// A port whose frames bear a tag, or none.
#[derive(Debug)]
pub struct TaggedPort<P> {
    inner: P,
    tag: Tagging,
}

impl<P: Port> TaggedPort<P> {
    /// A port that tags what it sends, and takes tags off.
    #[must_use]
    pub fn new(inner: P, tag: Tagging) -> Self {
        Self { inner, tag }
    }

    /// The port under it.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// The port under it.
    pub fn inner_mut(&mut self) -> &mut P {
        &mut self.inner
    }

    #[inline(never)]
    fn send_tagged(&mut self, pool: &mut Pool, mut frame: Frame, tag: VlanId) -> Result<(), Frame> {
        // INVARIANT: outer headers leave most of the headroom free.
        if put_on(&mut frame, tag.number()).is_err() {
            return Err(frame);
        }
        self.inner.send(pool, frame).map_err(|mut frame| {
            // As it came, for it may be tried again.
            take_off(&mut frame, tag);
            frame
        })
    }
}

/// Puts a tag between a frame's link addresses and its EtherType.
fn put_on(frame: &mut Frame, id: u16) -> Result<(), NoRoom> {
    frame.push::<TAG_LEN>()?;
    let bytes = frame.bytes_mut();
    if let Some((start, _)) = bytes.split_first_chunk_mut::<{ ADDRESSES_LEN + TAG_LEN }>() {
        start.copy_within(TAG_LEN.., 0);
        start[ADDRESSES_LEN..ADDRESSES_LEN + 2].copy_from_slice(&EtherType::VLAN.0.to_be_bytes());
        start[ADDRESSES_LEN + 2..].copy_from_slice(&id.to_be_bytes());
    }
    Ok(())
}

/// Takes the tag of this VLAN off a frame; answers whether it had one.
fn take_off(frame: &mut Frame, tag: VlanId) -> bool {
    let has_tag = Ethernet::parse(frame.bytes()).is_ok_and(|ethernet| {
        ethernet.ether_type() == EtherType::VLAN
            && VlanTag::parse(ethernet.payload()).is_ok_and(|found| found.id() == tag.number())
    });
    if has_tag {
        frame.bytes_mut().copy_within(..ADDRESSES_LEN, TAG_LEN);
        // INVARIANT: the tag was just read out of it.
        return frame.pull(TAG_LEN).is_ok();
    }
    false
}

/// Makes a frame what the switch is to see of it.
fn receive_one(frame: &mut Frame, tag: VlanId) {
    // One that is cut short is dropped for that.
    let is_untagged =
        |frame: &Frame| Ethernet::parse(frame.bytes()).is_ok_and(|ethernet| !ethernet.ether_type().is_vlan());
    if !take_off(frame, tag) && is_untagged(frame) {
        // INVARIANT: a frame just received has all of its headroom.
        let _ = put_on(frame, NO_VLAN);
    }
}

impl<P: Port> Port for TaggedPort<P> {
    #[inline]
    fn receive(&mut self, pool: &mut Pool, into: &mut Vec<Frame>, max: usize) -> usize {
        let count = self.inner.receive(pool, into, max);
        if let Some(tag) = self.tag {
            let first = into.len().saturating_sub(count);
            into.iter_mut()
                .skip(first)
                .for_each(|frame| receive_one(frame, tag));
        }
        count
    }

    #[inline]
    fn send(&mut self, pool: &mut Pool, frame: Frame) -> Result<(), Frame> {
        match self.tag {
            None => self.inner.send(pool, frame),
            Some(tag) => self.send_tagged(pool, frame, tag),
        }
    }

    #[inline]
    fn flush(&mut self) {
        self.inner.flush();
    }

    #[inline]
    fn pending(&mut self) -> bool {
        self.inner.pending()
    }

    fn transmission(&mut self) -> Transmission {
        self.inner.transmission()
    }

    fn urge(&mut self) {
        self.inner.urge();
    }

    fn let_go(&mut self, pool: &mut Pool) {
        self.inner.let_go(pool);
    }

    fn sends(&self) -> bool {
        self.inner.sends()
    }

    fn strays(&self) -> u64 {
        self.inner.strays()
    }

    #[inline]
    fn settle(&mut self, pool: &mut Pool) -> Settled {
        self.inner.settle(pool)
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.fd()
    }

    fn last_error(&mut self) -> Option<i32> {
        self.inner.last_error()
    }

    fn device_statistics(&self) -> Option<DeviceStatistics> {
        self.inner.device_statistics()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::frame::HEADROOM;
    use crate::port::memory::{MemoryPort, Wire};

    const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

    fn id() -> VlanId {
        VlanId::new(10).unwrap()
    }

    fn port(tag: Tagging) -> (TaggedPort<MemoryPort>, Wire, Pool) {
        let (inner, wire) = MemoryPort::new(1);
        (TaggedPort::new(inner, tag), wire, Pool::on_heap(4))
    }

    fn frame(more: &[u8]) -> Vec<u8> {
        [&ADDRESSES[..], more, b"payload"].concat()
    }

    /// What the switch sees of a frame on the wire, by a port with this tag.
    fn seen(tag: Tagging, on_wire: &[u8]) -> Vec<u8> {
        let (mut port, wire, mut pool) = port(tag);
        wire.put(on_wire);
        let mut frames = Vec::new();
        assert_eq!(port.receive(&mut pool, &mut frames, 4), 1);
        let frame = frames.pop().unwrap();
        let bytes = frame.bytes().to_vec();
        pool.give(frame);
        assert_eq!(pool.census().free, 4);
        bytes
    }

    #[test]
    fn the_tag_of_its_own_vlan_comes_off_whatever_its_priority() {
        for control in [[0, 10], [0xe0, 10], [0x10, 10]] {
            let tagged = frame(&[0x81, 0, control[0], control[1], 8, 0]);
            assert_eq!(seen(Some(id()), &tagged), frame(&[8, 0]), "{control:?}");
        }
    }

    #[test]
    fn what_is_not_of_its_vlan_is_seen_with_a_tag() {
        for other in [
            &[0x81, 0, 0, 11, 8, 0][..],
            &[0x81, 0, 0, 0, 8, 0],
            &[0x81, 0, 0x0f, 0xff, 8, 0],
            &[0x88, 0xa8, 0, 10, 8, 0],
            &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 10, 8, 0],
        ] {
            assert_eq!(seen(Some(id()), &frame(other)), frame(other), "{other:?}");
        }
        // Its second tag is the pipeline's to refuse.
        assert_eq!(
            seen(Some(id()), &frame(&[0x81, 0, 0, 10, 0x81, 0, 0, 10, 8, 0])),
            frame(&[0x81, 0, 0, 10, 8, 0])
        );
        assert_eq!(
            seen(Some(id()), &frame(&[8, 0])),
            frame(&[0x81, 0, 0, 0, 8, 0]),
            "an untagged one is given a tag that names no VLAN"
        );
    }

    #[test]
    fn frames_cut_short_are_left_to_whoever_parses_them() {
        let tagged = frame(&[0x81, 0, 0, 10, 8, 0]);
        for len in 0..18 {
            let bytes = seen(Some(id()), &tagged[..len]);
            let is_refused = match Ethernet::parse(&bytes) {
                Ok(ethernet) => ethernet.ether_type().is_vlan(),
                Err(_) => true,
            };
            assert!(is_refused, "{len}: {bytes:x?}");
        }
    }

    #[test]
    fn what_is_sent_bears_the_tag_once_however_often_it_is_tried() {
        let (mut port, wire, mut pool) = port(Some(id()));
        let first = pool.take_with(&frame(&[8, 0])).unwrap();
        let second = pool.take_with(&frame(&[0x86, 0xdd])).unwrap();
        port.send(&mut pool, first).unwrap();
        let second = port.send(&mut pool, second).unwrap_err();
        assert_eq!(second.bytes(), frame(&[0x86, 0xdd]), "as it came");
        assert_eq!(second.headroom(), HEADROOM);
        port.flush();
        port.settle(&mut pool);
        port.send(&mut pool, second).unwrap();
        port.flush();
        port.settle(&mut pool);
        assert_eq!(wire.take().unwrap(), frame(&[0x81, 0, 0, 10, 8, 0]));
        assert_eq!(wire.take().unwrap(), frame(&[0x81, 0, 0, 10, 0x86, 0xdd]));
        assert_eq!(pool.census().free, 4);
    }

    #[test]
    fn whatever_is_sent_in_a_vlan_is_what_its_other_end_receives() {
        let runner = &mut proptest::test_runner::TestRunner::default();
        let frames = proptest::collection::vec(proptest::num::u8::ANY, 0..200);
        let ids = 1..=4094_u16;
        let outcome = runner.run(&(frames, ids), |(mut bytes, number)| {
            if let Some(ether_type) = bytes.get_mut(12..14) {
                ether_type.copy_from_slice(&[8, 0]);
            }
            let id = VlanId::new(number);
            let (mut sender, wire, mut pool) = port(id);
            let frame = pool.take_with(&bytes).unwrap();
            sender.send(&mut pool, frame).unwrap();
            sender.flush();
            sender.settle(&mut pool);
            let on_wire = wire.take().unwrap();
            let is_whole = bytes.len() >= 14;
            if is_whole {
                proptest::prop_assert_eq!(seen(id, &on_wire), bytes);
            }
            let other = VlanId::new(number % 4094 + 1);
            let elsewhere = seen(other, &on_wire);
            let is_refused =
                Ethernet::parse(&elsewhere).is_ok_and(|ethernet| ethernet.ether_type().is_vlan());
            proptest::prop_assert!(is_refused || !is_whole);
            Ok(())
        });
        assert_eq!(outcome, Ok(()));
    }

    #[test]
    fn a_port_in_no_vlan_leaves_frames_alone() {
        for bytes in [frame(&[8, 0]), frame(&[0x81, 0, 0, 10, 8, 0])] {
            assert_eq!(seen(None, &bytes), bytes);
            let (mut port, wire, mut pool) = port(None);
            let sent = pool.take_with(&bytes).unwrap();
            port.send(&mut pool, sent).unwrap();
            port.flush();
            port.settle(&mut pool);
            assert_eq!(wire.take().unwrap(), bytes);
        }
    }
}
