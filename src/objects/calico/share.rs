//! Which node has which addresses, from all pools, blocks and affinities together.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Serialize;

use super::{BlockRecord, CalicoFault, PoolMode, PoolRecord};
use crate::objects::name::{NodeName, ObjectId};
use crate::objects::notice::Origin;

/// The gateway that every pod of a Calico cluster has: an address of the link that no pod can have.
pub(in crate::objects) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// As [`GATEWAY_V4`]. Calico's own is the link-local address of the node's end of the veth, which says nothing without the
/// link; this one is unique-local (RFC 4193), and seen by this node's pods alone.
pub(in crate::objects) const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd6d, 0x696c, 0x6c72, 0, 0, 0, 0, 1);

/// How packets go to addresses of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Encapsulation {
    /// As they are.
    #[default]
    Plain,
    /// In IP-in-IP.
    Ipip {
        /// Whether they go as they are to nodes on one's own subnet.
        cross_subnet: bool,
    },
    /// In VXLAN.
    Vxlan {
        /// As for IP-in-IP.
        cross_subnet: bool,
    },
}

impl From<&PoolRecord> for Encapsulation {
    fn from(pool: &PoolRecord) -> Self {
        let cross_subnet = |mode| mode == PoolMode::CrossSubnet;
        match (pool.ipip, pool.vxlan) {
            (PoolMode::Never, PoolMode::Never) => Self::Plain,
            (PoolMode::Never, mode) => Self::Vxlan {
                cross_subnet: cross_subnet(mode),
            },
            (mode, _) => Self::Ipip {
                cross_subnet: cross_subnet(mode),
            },
        }
    }
}

/// Addresses that a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Block {
    /// A block, or a single address that is borrowed from another node's.
    pub cidr: IpNet,
    /// Whether it is borrowed.
    pub is_borrowed: bool,
    /// How packets go there.
    pub encapsulation: Encapsulation,
}

/// Where a record stands, for what is to be said of it.
#[derive(Debug, Clone, Copy)]
pub(in crate::objects) struct Deed<'e, R> {
    pub(in crate::objects) id: &'e ObjectId,
    pub(in crate::objects) origin: &'e Origin,
    pub(in crate::objects) record: &'e R,
}

/// What was said of an object.
type Said<'e> = (&'e Origin, &'e ObjectId, CalicoFault);

/// All pools and blocks, in the order in which they count.
#[derive(Debug, Default)]
pub(in crate::objects) struct Shares<'e> {
    pub(in crate::objects) pools: Vec<Deed<'e, PoolRecord>>,
    pub(in crate::objects) blocks: Vec<Deed<'e, BlockRecord>>,
    pub(in crate::objects) affinities: Vec<Deed<'e, BlockRecord>>,
}

/// CIDRs that do not overlap, by their first addresses.
type Claims<V> = BTreeMap<IpAddr, (IpNet, V)>;

/// Whose CIDR holds (a part of) another; they never overlap, so a neighbour in their order is the only one that can.
fn overlapping<V>(claims: &Claims<V>, cidr: IpNet) -> Option<&(IpNet, V)> {
    let before = claims.range(..=cidr.network()).next_back();
    let before = before
        .map(|(_, claim)| claim)
        .filter(|(other, _)| other.contains(&cidr.network()));
    before.or_else(|| {
        let within = claims.range(cidr.network()..=cidr.broadcast()).next();
        within.map(|(_, claim)| claim)
    })
}

impl<'e> Shares<'e> {
    /// The pools that count, with what is said of the others.
    fn pools(&self, said: &mut Vec<Said<'e>>) -> Claims<(&'e ObjectId, Encapsulation)> {
        let mut pools: Claims<(&ObjectId, Encapsulation)> = Claims::new();
        for Deed { id, origin, record } in &self.pools {
            let cidr = record.cidr;
            match overlapping(&pools, cidr) {
                Some((other, (first, _))) => said.push((
                    origin,
                    id,
                    CalicoFault::Overlap {
                        cidr,
                        other: *other,
                        what: first.to_string(),
                    },
                )),
                None => {
                    let _ = pools.insert(cidr.network(), (cidr, (*id, Encapsulation::from(*record))));
                }
            }
        }
        pools
    }

    /// The blocks that count: what an IPAMBlock says goes before what a BlockAffinity says.
    fn blocks(&self, said: &mut Vec<Said<'e>>) -> Claims<&Deed<'e, BlockRecord>> {
        let mut blocks: Claims<&Deed<'e, BlockRecord>> = Claims::new();
        for deed in self.blocks.iter().chain(&self.affinities) {
            let cidr = deed.record.cidr;
            let fault = match overlapping(&blocks, cidr) {
                None => {
                    blocks.insert(cidr.network(), (cidr, deed));
                    continue;
                }
                Some((other, first)) if *other == cidr && first.id.kind != deed.id.kind => {
                    if first.record.node == deed.record.node {
                        continue;
                    }
                    let other = first.record.node.as_ref().map_or("nobody", NodeName::as_str);
                    CalicoFault::AffinityStale {
                        cidr,
                        other: other.to_owned(),
                    }
                }
                Some((other, first)) => CalicoFault::Overlap {
                    cidr,
                    other: *other,
                    what: first.id.to_string(),
                },
            };
            said.push((deed.origin, deed.id, fault));
        }
        blocks
    }

    /// What each node has, and the CIDRs of all pools. `address_of` tells which of a block's addresses is some node's own, and
    /// whose; `is_node` whether there is a good Node of a name.
    pub(in crate::objects) fn divide(
        &self,
        address_of: impl Fn(IpNet) -> Option<(IpAddr, NodeName)>,
        is_node: impl Fn(&NodeName) -> bool,
    ) -> Division<'e> {
        let mut said = Vec::new();
        let pools = self.pools(&mut said);
        let mut nodes: BTreeMap<NodeName, Vec<Block>> = BTreeMap::new();
        for (_, (cidr, deed)) in self.blocks(&mut said) {
            let mut say = |fault| said.push((deed.origin, deed.id, fault));
            if let Some((address, node)) = address_of(cidr) {
                say(CalicoFault::CoversNode {
                    cidr,
                    address,
                    node: node.to_string(),
                });
                continue;
            }
            let pool = overlapping(&pools, cidr).filter(|(pool, _)| pool.contains(&cidr));
            let encapsulation = pool.map(|(_, (_, encapsulation))| *encapsulation);
            let Some(encapsulation) = encapsulation else {
                say(CalicoFault::NoPool(cidr));
                continue;
            };
            let record = deed.record;
            let whole = record.node.iter().map(|node| (cidr, false, node));
            let single = record.borrowed.iter();
            let single = single.map(|(address, node)| (IpNet::from(*address), true, node));
            for (cidr, is_borrowed, node) in whole.chain(single) {
                if !is_node(node) {
                    let node = node.to_string();
                    say(CalicoFault::NodeUnknown { node, cidr });
                    continue;
                }
                nodes.entry(node.clone()).or_default().push(Block {
                    cidr,
                    is_borrowed,
                    encapsulation,
                });
            }
        }
        for blocks in nodes.values_mut() {
            blocks.sort_by_key(|block| (block.is_borrowed, block.cidr));
        }
        Division {
            nodes,
            pools: pools.into_values().map(|(cidr, _)| cidr).collect(),
            said,
        }
    }
}

/// What comes of it.
#[derive(Debug)]
pub(in crate::objects) struct Division<'e> {
    /// What each node has.
    pub(in crate::objects) nodes: BTreeMap<NodeName, Vec<Block>>,
    /// The CIDRs of all pools.
    pub(in crate::objects) pools: Vec<IpNet>,
    /// What is to be said.
    pub(in crate::objects) said: Vec<Said<'e>>,
}
