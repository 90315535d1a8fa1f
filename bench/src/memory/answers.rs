//! The answers to what left by a VXLAN tunnel: for each flow, what the other end would send back.

use anyhow::{Context as _, ensure};
use millrace_dataplane::wire::{eth, ipv4, vxlan};
use millrace_tools::pktgen::recognise;

/// What is exchanged in an answer: pairs of fields by their offset, and their length, in bytes.
const EXCHANGED: [(usize, usize, usize); 5] = [
    (0, 6, 6),                                           // link addresses
    (OUTER + SOURCE, OUTER + SOURCE + 4, 4),             // the nodes
    (vxlan::PUSH_LEN_IPV4, vxlan::PUSH_LEN_IPV4 + 6, 6), // the tunnel's ends
    (INNER + SOURCE, INNER + SOURCE + 4, 4),             // the pods
    (PORTS, PORTS + 2, 2),
];
/// Where both IPv4 headers stand, and their source address in them.
const OUTER: usize = eth::HEADER_LEN;
const INNER: usize = vxlan::PUSH_LEN_IPV4 + eth::HEADER_LEN;
const SOURCE: usize = 12;
const PORTS: usize = INNER + ipv4::HEADER_LEN;

/// One answer for each flow: of each packet as much as differs between them.
pub(super) struct Answers {
    head_len: usize,
    heads: Vec<u8>,
    /// One of them, whole.
    whole: Vec<u8>,
}

impl Answers {
    /// Of so many flows; `head_len` is how much of the packets differs from one that left to the next.
    pub(super) fn new(flows: u32, head_len: usize) -> Self {
        Self {
            head_len,
            heads: vec![0; flows as usize * head_len],
            whole: Vec::new(),
        }
    }

    /// Notes down the answer to a packet that left; its sequence number is that of its flow.
    pub(super) fn note(&mut self, left: &[u8]) -> anyhow::Result<()> {
        let found = recognise(left).context("what left is not what came in")?;
        let mut answer = left.to_vec();
        for (one, other, len) in EXCHANGED {
            ensure!(
                answer.len() >= other + len,
                "a packet of {} bytes left",
                answer.len()
            );
            let (before, after) = answer.split_at_mut(other);
            before[one..one + len].swap_with_slice(&mut after[..len]);
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
