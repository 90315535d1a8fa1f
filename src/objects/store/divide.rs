//! The cluster network, and in Calico's which node has which of the pools' addresses.

use ipnet::IpNet;

use super::build::Builder;
use super::{Entry, Record};
use crate::objects::calico::{Deed, Division, Shares};
use crate::objects::name::NodeName;
use crate::objects::network::{Network, NetworkChoice};
use crate::objects::node::NodeRecord;
use crate::objects::notice::Notice;

/// The cluster network: by this node's own Node if it is there, else by any.
pub(super) fn network(own: &NodeName, choice: NetworkChoice, entries: &[&Entry]) -> Network {
    let nodes = || {
        entries.iter().filter_map(|entry| match &entry.record {
            Record::Node(node) => Some(&**node),
            _ => None,
        })
    };
    let own = nodes().find(|node| node.name == *own);
    let of_flannel = |node: &NodeRecord| node.lease.is_some();
    let takes_part = own.map_or_else(|| nodes().any(of_flannel), of_flannel);
    let has_pool = || {
        entries
            .iter()
            .any(|entry| matches!(entry.record, Record::Pool(_)))
    };
    let is_calicos = own.is_some_and(|node| node.calico.is_some()) || has_pool();
    choice.decide(takes_part, is_calicos)
}

pub(super) fn deed<'e, R>(entry: &'e Entry, record: &'e R) -> Deed<'e, R> {
    Deed {
        id: &entry.id,
        origin: &entry.origin,
        record,
    }
}

impl Builder<'_> {
    /// Gives every node of a Calico cluster what it has of the pools' addresses.
    pub(super) fn share_out(&mut self, shares: &Shares<'_>) {
        if self.store.network != Network::Calico {
            return;
        }
        let covered = |cidr: IpNet| {
            let found = self.node_ips.range(cidr.network()..=cidr.broadcast()).next();
            found.map(|(address, node)| (*address, node.clone()))
        };
        let Division { nodes, pools, said } =
            shares.divide(covered, |name| self.store.nodes.contains_key(name));
        for (origin, id, fault) in said {
            let notice = Notice::new(origin.clone(), Some(id.clone()), fault.into());
            self.store.notices.push(notice);
        }
        for (name, blocks) in nodes {
            let own = blocks.iter().filter(|block| !block.is_borrowed);
            self.cidrs
                .extend(own.map(|block| (block.cidr.network(), (block.cidr, name.clone()))));
            if let Some(node) = self.store.nodes.get_mut(&name) {
                node.blocks = Some(blocks);
            }
        }
        self.store.pools = pools;
    }
}
