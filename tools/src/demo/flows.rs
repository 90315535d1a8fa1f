//! Who talks to whom in the demo.

use std::net::Ipv4Addr;

use crate::lab::traffic::Amount;
use crate::lab::{Lab, Namespace, Node, NodeKind, Pod};

/// How long a transfer between two pods lasts: long enough for a rate that means something.
const POD_TRANSFER: Amount = Amount::Seconds(1);
/// How much a node and a pod transfer: enough to open the windows.
const NODE_TRANSFER: Amount = Amount::Bytes(16 << 20);

/// A kind of traffic: one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    SameNode,
    MillraceToMillrace,
    MillraceToStock,
    StockToStock,
    NodeToPod,
    PodToNode,
    PodToService,
    NodeToService,
    NodePort,
    LoadBalancer,
    Held,
}

impl Row {
    /// Every row, in the table's order.
    pub(crate) const ALL: [Self; 11] = [
        Self::SameNode,
        Self::MillraceToMillrace,
        Self::MillraceToStock,
        Self::StockToStock,
        Self::NodeToPod,
        Self::PodToNode,
        Self::PodToService,
        Self::NodeToService,
        Self::NodePort,
        Self::LoadBalancer,
        Self::Held,
    ];

    /// The row's name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SameNode => "pod -> pod, same node",
            Self::MillraceToMillrace => "pod -> pod, millrace <-> millrace",
            Self::MillraceToStock => "pod -> pod, millrace <-> stock",
            Self::StockToStock => "pod -> pod, stock <-> stock",
            Self::NodeToPod => "node -> pod",
            Self::PodToNode => "pod -> node",
            Self::PodToService => "pod -> ClusterIP",
            Self::NodeToService => "node -> ClusterIP",
            Self::NodePort => "outside -> NodePort",
            Self::LoadBalancer => "outside -> LoadBalancer IP",
            Self::Held => "held while endpoints change",
        }
    }

    /// The row of two pods' traffic, from where they are.
    fn of_pods(from: &Node, to: &Node) -> Self {
        if from.name() == to.name() {
            return Self::SameNode;
        }
        match (from.kind(), to.kind()) {
            (NodeKind::Millrace, NodeKind::Millrace) => Self::MillraceToMillrace,
            (NodeKind::Stock, NodeKind::Stock) => Self::StockToStock,
            (NodeKind::Millrace, NodeKind::Stock) | (NodeKind::Stock, NodeKind::Millrace) => {
                Self::MillraceToStock
            }
        }
    }
}

/// Traffic from one place to one address.
#[derive(Clone, Debug)]
pub(crate) struct Flow<'lab> {
    /// Its row in the table.
    pub(crate) row: Row,
    /// The two ends, for people.
    pub(crate) label: String,
    /// Where it starts.
    pub(crate) from: &'lab Namespace,
    /// Where the address is.
    pub(crate) to: &'lab Namespace,
    /// The address it is sent to.
    pub(crate) address: Ipv4Addr,
    /// The largest IP packet that must pass whole.
    pub(crate) mtu: u32,
    /// The TCP transfer to make, if this flow's turn is not taken by its opposite.
    pub(crate) tcp: Option<Amount>,
}

/// All flows of a lab.
pub(crate) fn all(lab: &Lab) -> Vec<Flow<'_>> {
    let mut flows = between_pods(lab);
    flows.extend(from_nodes(lab));
    flows.extend(to_nodes(lab));
    flows
}

/// The pods of a lab, each with its node.
fn pods(lab: &Lab) -> Vec<(&Node, &Pod)> {
    lab.nodes()
        .iter()
        .flat_map(|node| node.pods().iter().map(move |pod| (node, pod)))
        .collect()
}

/// Every ordered pair of pods. TCP goes one way only, since its answers go the other way anyhow; which way alternates,
/// so that each row has both.
fn between_pods(lab: &Lab) -> Vec<Flow<'_>> {
    let pods = pods(lab);
    let mut flows = Vec::new();
    for (first, (from_node, from)) in pods.iter().enumerate() {
        for (second, (to_node, to)) in pods.iter().enumerate().filter(|(second, _)| *second != first) {
            let upwards = (first + second) % 2 == 0;
            flows.push(Flow {
                row: Row::of_pods(from_node, to_node),
                label: format!("{} -> {}", from.name(), to.name()),
                from: from.namespace(),
                to: to.namespace(),
                address: to.address(),
                mtu: from_node.pod_mtu(),
                tcp: (upwards == (first < second)).then_some(POD_TRANSFER),
            });
        }
    }
    flows
}

/// Every node to every pod, its own and others'.
fn from_nodes(lab: &Lab) -> Vec<Flow<'_>> {
    let mut flows = Vec::new();
    for node in lab.nodes() {
        for (_, pod) in pods(lab) {
            flows.push(Flow {
                row: Row::NodeToPod,
                label: format!("{} -> {}", node.name(), pod.name()),
                from: node.namespace(),
                to: pod.namespace(),
                address: pod.address(),
                mtu: node.pod_mtu(),
                tcp: Some(NODE_TRANSFER),
            });
        }
    }
    flows
}

/// Every pod to every node's tunnel address, and to its own node's underlay address. (Another node's underlay address
/// is outside the overlay: on the way there a cluster masquerades.)
fn to_nodes(lab: &Lab) -> Vec<Flow<'_>> {
    let mut flows = Vec::new();
    for (home, pod) in pods(lab) {
        for node in lab.nodes() {
            let plan = node.plan();
            let own = (node.name() == home.name()).then(|| plan.underlay_address());
            for address in std::iter::once(plan.tunnel_address()).chain(own) {
                flows.push(Flow {
                    row: Row::PodToNode,
                    label: format!("{} -> {} ({address})", pod.name(), node.name()),
                    from: pod.namespace(),
                    to: node.namespace(),
                    address,
                    mtu: home.pod_mtu(),
                    tcp: Some(NODE_TRANSFER),
                });
            }
        }
    }
    flows
}
