//! Who talks to whom in the demo.

use std::net::IpAddr;

use crate::lab::traffic::Amount;
use crate::lab::{Lab, Namespace, Node, NodeKind, Pod};

/// How much two pods transfer: long enough for a rate that means something.
const POD_TRANSFER: Amount = Amount::Bytes(16 << 20);
/// How much a node and a pod transfer: enough to open the windows.
const NODE_TRANSFER: Amount = Amount::Bytes(4 << 20);

/// A family of addresses: with a kind of traffic, one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, in the table's order.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

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
    pub(crate) address: IpAddr,
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

/// A pod's addresses: one, or one of each family.
pub(crate) fn addresses(pod: &Pod) -> Vec<IpAddr> {
    let v6 = pod.address_v6().map(IpAddr::V6);
    std::iter::once(pod.address().into()).chain(v6).collect()
}

/// Every ordered pair of pods, by each family. TCP goes one way only, since its answers go the other way anyhow; which way alternates,
/// so that each row has both.
fn between_pods(lab: &Lab) -> Vec<Flow<'_>> {
    let pods = pods(lab);
    let mut flows = Vec::new();
    for (first, (from_node, from)) in pods.iter().enumerate() {
        for (second, (to_node, to)) in pods.iter().enumerate().filter(|(second, _)| *second != first) {
            let upwards = (first + second) % 2 == 0;
            flows.extend(addresses(to).into_iter().map(|address| Flow {
                row: Row::of_pods(from_node, to_node),
                label: format!("{} -> {} ({address})", from.name(), to.name()),
                from: from.namespace(),
                to: to.namespace(),
                address,
                mtu: from_node.pod_mtu(),
                tcp: (upwards == (first < second)).then_some(POD_TRANSFER),
            }));
        }
    }
    flows
}

/// Every node to every pod, its own and others'. One pod of each node is enough for TCP.
fn from_nodes(lab: &Lab) -> Vec<Flow<'_>> {
    let mut flows = Vec::new();
    for node in lab.nodes() {
        for (home, pod) in pods(lab) {
            let is_first = is_first(home, pod);
            flows.extend(addresses(pod).into_iter().map(|address| Flow {
                row: Row::NodeToPod,
                label: format!("{} -> {} ({address})", node.name(), pod.name()),
                from: node.namespace(),
                to: pod.namespace(),
                address,
                mtu: node.pod_mtu(),
                tcp: is_first.then_some(NODE_TRANSFER),
            }));
        }
    }
    flows
}

/// Whether a pod is its node's first.
fn is_first(home: &Node, pod: &Pod) -> bool {
    home.pods()
        .first()
        .is_some_and(|first| first.name() == pod.name())
}

/// Every pod to every node's tunnel addresses, and to its own node's underlay addresses. (Another node's underlay address
/// is outside the overlay: on the way there a cluster masquerades.)
fn to_nodes(lab: &Lab) -> Vec<Flow<'_>> {
    let mut flows = Vec::new();
    for (home, pod) in pods(lab) {
        for node in lab.nodes() {
            let plan = node.plan();
            let v4 = [plan.tunnel_address(), plan.underlay_address()].map(IpAddr::from);
            let is_own = node.name() == home.name();
            let v6 = plan.v6().map(|v6| {
                // To a pod on its bridge a stock node's .0 is the subnet's anycast address (RFC 4291 section 2.6.1), at
                // which Linux takes no TCP.
                let tunnel = match node.kind() {
                    NodeKind::Stock if is_own => v6.gateway(),
                    NodeKind::Stock | NodeKind::Millrace => v6.tunnel_address(),
                };
                [tunnel, v6.underlay_address()].map(IpAddr::from)
            });
            let all = std::iter::once(v4).chain(v6);
            let all = all.flat_map(|[tunnel, own]| [Some(tunnel), is_own.then_some(own)]);
            for address in all.flatten() {
                flows.push(Flow {
                    row: Row::PodToNode,
                    label: format!("{} -> {} ({address})", pod.name(), node.name()),
                    from: pod.namespace(),
                    to: node.namespace(),
                    address,
                    mtu: home.pod_mtu(),
                    tcp: is_first(home, pod).then_some(NODE_TRANSFER),
                });
            }
        }
    }
    flows
}
