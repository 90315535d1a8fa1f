//! Longest-prefix match over 32 bits: a root for the first 16, then nodes of 8.

use super::Slot;

const ROOT_BITS: u8 = 16;
const NODE_SLOTS: usize = 256;

/// The trie of IPv4 prefixes. Values are pushed down to where a lookup ends, so a lookup never turns back.
#[derive(Clone)]
pub(super) struct TrieV4 {
    root: Vec<Slot>,
    nodes: Vec<[Slot; NODE_SLOTS]>,
}

impl TrieV4 {
    /// Builds the trie from addresses, prefix lengths and leaves; of equal prefixes the later counts.
    pub(super) fn build(mut prefixes: Vec<(u32, u8, Slot)>) -> Self {
        // Shorter ones first: what is painted later is never hidden by what was painted before. The sort is stable.
        prefixes.sort_by_key(|(_, len, _)| *len);
        // Without any prefix there is no root either, and a lookup finds nothing in it.
        let places = if prefixes.is_empty() { 0 } else { 1 << ROOT_BITS };
        let mut trie = Self {
            root: vec![Slot::NONE; places],
            nodes: Vec::new(),
        };
        for (address, len, leaf) in prefixes {
            trie.insert(address, len, leaf);
        }
        trie.nodes.shrink_to_fit();
        trie
    }

    fn insert(&mut self, address: u32, len: u8, leaf: Slot) {
        let [a, b, c, d] = address.to_be_bytes();
        let first = usize::from(u16::from_be_bytes([a, b]));
        if len <= ROOT_BITS {
            paint(&mut self.root, first, ROOT_BITS - len, leaf);
            return;
        }
        let Some(middle) = descend(&mut self.root, first, &mut self.nodes) else {
            return;
        };
        if len <= 24 {
            if let Some(node) = self.nodes.get_mut(middle) {
                paint(node, usize::from(c), 24 - len, leaf);
            }
            return;
        }
        // A node's slots are taken out while the list may grow, since both lie in the same list.
        let Some(mut slots) = self.nodes.get(middle).copied() else {
            return;
        };
        let Some(last) = descend(&mut slots, usize::from(c), &mut self.nodes) else {
            return;
        };
        if let Some(node) = self.nodes.get_mut(middle) {
            *node = slots;
        }
        if let Some(node) = self.nodes.get_mut(last) {
            paint(node, usize::from(d), 32 - len.min(32), leaf);
        }
    }

    /// The leaf of the longest prefix that `address` lies in: at most three dependent loads.
    #[inline]
    pub(super) fn lookup(&self, address: u32) -> Slot {
        let [a, b, c, d] = address.to_be_bytes();
        let first = self
            .root
            .get(usize::from(u16::from_be_bytes([a, b])))
            .copied()
            .unwrap_or(Slot::NONE);
        let Some(middle) = first.as_node() else {
            return first;
        };
        let second = self
            .nodes
            .get(middle)
            .map_or(Slot::NONE, |node| node[usize::from(c)]);
        let Some(last) = second.as_node() else {
            return second;
        };
        self.nodes
            .get(last)
            .map_or(Slot::NONE, |node| node[usize::from(d)])
    }

    pub(super) fn memory(&self) -> usize {
        self.root.capacity() * size_of::<Slot>() + self.nodes.capacity() * size_of::<[Slot; NODE_SLOTS]>()
    }
}

/// Writes `leaf` into the 2^`bits` slots from `start` on.
pub(super) fn paint(slots: &mut [Slot], start: usize, bits: u8, leaf: Slot) {
    for slot in slots.iter_mut().skip(start).take(1 << bits) {
        *slot = leaf;
    }
}

/// The node below a slot, made if there is none, with the slot's leaf pushed down into it.
fn descend(slots: &mut [Slot], at: usize, nodes: &mut Vec<[Slot; NODE_SLOTS]>) -> Option<usize> {
    let slot = slots.get_mut(at)?;
    if let Some(index) = slot.as_node() {
        return Some(index);
    }
    let index = nodes.len();
    nodes.push([*slot; NODE_SLOTS]);
    *slot = Slot::node(index);
    Some(index)
}
