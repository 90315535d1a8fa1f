//! The answers to what left by a VXLAN tunnel: for each flow, what the other end would send back.

use anyhow::{Context as _, ensure};
use millrace_dataplane::wire::{MacAddr, eth, vxlan};
use millrace_tools::pktgen::recognise;

use super::family::Family;

/// Where both IP headers stand.
const OUTER: usize = eth::HEADER_LEN;
const INNER: usize = vxlan::PUSH_LEN_IPV4 + eth::HEADER_LEN;

/// What is exchanged in an answer to a packet of this family: pairs of neighbouring fields by the first one's offset, and
/// the length of each, in bytes.
fn exchanged(family: Family) -> [(usize, usize); 5] {
    let beyond = |header: usize, (at, len): (usize, usize)| (header + at, len);
    [
        (0, size_of::<MacAddr>()),                       // link addresses
        beyond(OUTER, Family::V4.source()),              // the nodes
        (vxlan::PUSH_LEN_IPV4, size_of::<MacAddr>()),    // the tunnel's ends
        beyond(INNER, family.source()),                  // the pods
        (INNER + family.header_len(), size_of::<u16>()), // the ports
    ]
}

/// One answer for each flow: of each packet as much as differs between them.
pub(super) struct Answers {
    family: Family,
    head_len: usize,
    heads: Vec<u8>,
    /// One of them, whole.
    whole: Vec<u8>,
}

impl Answers {
    /// To packets of this family, of so many flows; `head_len` is how much of the packets differs from one that left to the next.
    pub(super) fn new(family: Family, flows: u32, head_len: usize) -> Self {
        Self {
            family,
            head_len,
            heads: vec![0; flows as usize * head_len],
            whole: Vec::new(),
        }
    }

    /// Notes down the answer to a packet that left; its sequence number is that of its flow.
    pub(super) fn note(&mut self, left: &[u8]) -> anyhow::Result<()> {
        let found = recognise(left).context("what left is not what came in")?;
        let mut answer = left.to_vec();
        for (at, len) in exchanged(self.family) {
            ensure!(
                answer.len() >= at + 2 * len,
                "a packet of {} bytes left",
                answer.len()
            );
            let (one, other) = answer[at..at + 2 * len].split_at_mut(len);
            one.swap_with_slice(other);
        }
        // No checksum changes: the sums are over the same words.
        let at = usize::try_from(found.marker.sequence)? * self.head_len;
        let place = self
            .heads
            .get_mut(at..at + self.head_len)
            .context("no such flow")?;
        place.copy_from_slice(answer.get(..self.head_len).context("a short packet left")?);
        self.whole = answer;
        Ok(())
    }

    /// An answer that others are made of.
    pub(super) fn whole(&self) -> &[u8] {
        &self.whole
    }

    /// Makes such a copy the answer in this flow.
    pub(super) fn write(&self, flow: u32, packet: &mut [u8]) -> anyhow::Result<()> {
        let at = flow as usize * self.head_len;
        let head = self.heads.get(at..at + self.head_len).context("no such flow")?;
        packet
            .get_mut(..self.head_len)
            .context("a frame is shorter than its head")?
            .copy_from_slice(head);
        Ok(())
    }
}
