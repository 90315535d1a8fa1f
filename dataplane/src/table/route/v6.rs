//! Longest-prefix match over 128 bits: nodes of 8 bits with the paths between them compressed.
//!
//! A plain multi-level table would need up to fifteen nodes for one /128. Here a node says which bytes lead to it, so
//! a chain without branches costs one comparison and no memory: the depth of a lookup is the number of places where
//! prefixes part on the way, and a table of n prefixes has fewer than 2n nodes.

use super::Slot;
use super::v4::paint;

const NODE_SLOTS: usize = 256;
const BYTE_BITS: u8 = 8;

/// The trie of IPv6 prefixes.
#[derive(Clone)]
pub(super) struct TrieV6 {
    root: Slot,
    nodes: Vec<Node>,
}

/// Decides on one byte of the address, if all bytes before it are the node's own.
#[derive(Clone)]
struct Node {
    /// An address that has the bytes before this node's.
    path: u128,
    /// Which byte of the address this node decides on, `0..16`.
    depth: u8,
    /// The leaf for an address whose earlier bytes are not the path's.
    elsewhere: Slot,
    slots: [Slot; NODE_SLOTS],
}

impl TrieV6 {
    /// Builds the trie from addresses, prefix lengths and leaves; of equal prefixes the later counts.
    pub(super) fn build(mut prefixes: Vec<(u128, u8, Slot)>) -> Self {
        // By address, then by length; the sort is stable, so of equal prefixes the later stays behind.
        prefixes.sort_by_key(|(address, len, _)| (*address, *len));
        let of_everything = prefixes
            .iter()
            .rev()
            .find(|(_, len, _)| *len == 0)
            .map_or(Slot::NONE, |p| p.2);
        prefixes.retain(|(_, len, _)| *len > 0);
        let mut nodes = Vec::new();
        let root = grow(&mut nodes, &prefixes, of_everything);
        nodes.shrink_to_fit();
        Self { root, nodes }
    }

    /// The leaf of the longest prefix that `address` lies in.
    #[inline]
    pub(super) fn lookup(&self, address: u128) -> Slot {
        let bytes = address.to_be_bytes();
        let mut slot = self.root;
        // A node's depth is greater than its parent's, so this ends after at most sixteen steps.
        while let Some(node) = slot.as_node().and_then(|index| self.nodes.get(index)) {
            slot = if differs_before(address, node.path, node.depth) {
                node.elsewhere
            } else {
                bytes
                    .get(usize::from(node.depth))
                    .map_or(Slot::NONE, |byte| node.slots[usize::from(*byte)])
            };
        }
        slot
    }

    pub(super) fn memory(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
    }
}

/// Whether two addresses differ in one of their first `bytes` bytes.
#[inline]
fn differs_before(a: u128, b: u128, bytes: u8) -> bool {
    let rest = 128 - u32::from(bytes) * u32::from(BYTE_BITS);
    (a ^ b).checked_shr(rest).unwrap_or(0) != 0
}

/// Makes the node that decides between `prefixes` (sorted, none of zero length) and all nodes below it;
/// `elsewhere` is the leaf of the shorter prefix around them. Recurses at most once per byte of an address.
fn grow(nodes: &mut Vec<Node>, prefixes: &[(u128, u8, Slot)], elsewhere: Slot) -> Slot {
    let (Some((first, ..)), Some((last, ..))) = (prefixes.first(), prefixes.last()) else {
        return elsewhere;
    };
    let shortest = prefixes.iter().map(|(_, len, _)| *len).min().unwrap_or(1).max(1);
    // The first byte in which two of them part, or in which one of them ends.
    let common = (first ^ last).leading_zeros() / u32::from(BYTE_BITS);
    let ends = u32::from((shortest - 1) / BYTE_BITS);
    // INVARIANT: `ends` is at most 15.
    let depth = u8::try_from(common.min(ends)).unwrap_or(15);
    let through = (depth + 1) * BYTE_BITS;

    let mut slots = [elsewhere; NODE_SLOTS];
    let (mut here, mut below) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        if prefix.1 <= through {
            here.push(*prefix)
        } else {
            below.push(*prefix)
        }
    }
    here.sort_by_key(|(_, len, _)| *len);
    for (address, len, leaf) in here {
        paint(&mut slots, usize::from(byte(address, depth)), through - len, leaf);
    }
    for group in below.chunk_by(|a, b| byte(a.0, depth) == byte(b.0, depth)) {
        let Some((address, ..)) = group.first() else {
            continue;
        };
        let slot = &mut slots[usize::from(byte(*address, depth))];
        *slot = grow(nodes, group, *slot);
    }
    let index = nodes.len();
    nodes.push(Node {
        path: *first,
        depth,
        elsewhere,
        slots,
    });
    Slot::node(index)
}

/// Byte `at` of an address, `0..16`.
fn byte(address: u128, at: u8) -> u8 {
    address.to_be_bytes().get(usize::from(at)).copied().unwrap_or(0)
}
