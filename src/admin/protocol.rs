//! What is said over the admin socket: one JSON object per line, each way.
//!
//! Unix stream socket, mode 0600. A [`Request`] is answered by one [`Response`]; after the answer to
//! [`Request::Capture`] the daemon goes on to send one [`CaptureLine`] per packet until the client hangs up.

mod attachments;
mod bandwidth;
mod capture;
mod dns;
mod health;
mod load_balancers;
mod networks;
mod policies;
mod services;
mod stations;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use crate::cluster::SourceStatus;
pub use attachments::{Attach, Attached, Attachment, Container, HostPort, NodeFacts, Retain, Verify};
pub use bandwidth::{Bandwidth, LimitRow, PortRate};
pub use capture::{CaptureDirection, CaptureLine, CapturedPacket};
pub use dns::{DnsFacts, DnsRow, DnsUpstreamRow};
pub use health::HealthReport;
pub use load_balancers::LoadBalancerRow;
pub use networks::{
    Join, Joined, MemberEnd, MemberName, MemberRoute, NetworkFacts, NetworkRow, PodInterface, RemoteRow,
    TapDevice, TrunkVlan,
};
pub use policies::{DeniedPackets, DeniedRow, Explain, ExplainedStage, Explanation, PolicyRow, RuleRow};
pub use services::{EndpointCounts, EndpointRow, ServiceCounts, ServicePortRow, ServiceRow, ShowFilter};
pub use stations::{ExplainFrame, ExplainPacket, StationRow, Stations};

/// Longest line either side accepts, in bytes.
pub const LINE_MAX_BYTES: usize = 16 << 20;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// All counters.
    Stats,
    /// Whether the switch is well.
    Health,
    /// The ports.
    ShowPorts,
    /// The routes the workers use.
    ShowRoutes,
    /// The neighbours the workers use.
    ShowNeighbours,
    /// The other nodes.
    ShowPeers,
    /// The workers.
    ShowWorkers,
    /// The connections.
    ShowFlows(ShowFilter),
    /// The Services.
    ShowServices(ShowFilter),
    /// Load balancers' addresses.
    ShowLoadBalancers,
    /// The policies.
    ShowPolicies,
    /// The node's own resolver.
    ShowDns,
    /// Whether a connection would be allowed, and by what.
    Explain(Explain),
    /// Where a frame between two stations of a bridged network would go.
    ExplainFrame(ExplainFrame),
    /// Whether a packet between two addresses of a routed network, or of one that it is routed to, would arrive, and by what.
    ExplainPacket(ExplainPacket),
    /// What policies have denied since this was last asked for; nobody but who goes on asking is told of all.
    Denied,
    /// Make a port for a pod.
    Attach(Attach),
    /// Take a pod's port away.
    Detach {
        /// The pod, `NAMESPACE/NAME`.
        pod: String,
    },
    /// Make a port in networks beside the cluster's own: a tap device, or an interface of a pod beside its first.
    Join(Join),
    /// Take such a port away.
    Part(MemberName),
    /// What an interface's addresses in a network are chosen by; by the network's number.
    NetworkFacts {
        /// Its VXLAN network identifier.
        vni: u32,
        /// The UDP port of its tunnels.
        port: u16,
        /// `name` of the CNI configuration that has this number: another definition may have it too, and not be in force.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// The networks beside the cluster's own.
    ShowNetworks,
    /// The stations of bridged networks.
    ShowFdb(ShowFilter),
    /// Whether a container's port is as it was made: served, and the pod's end with its addresses and routes.
    Verify(Verify),
    /// Take a container's port away; one that is not there, or is another container's by now, is left alone.
    Release(Attachment),
    /// Take all ports of a network's containers away but those that are named.
    Retain(Retain),
    /// What a pod's addresses are chosen by.
    ShowNode,
    /// Take the uplink's steering program off, then close all sockets and end: the first step of uninstalling.
    Leave,
    /// Copy what passes a port.
    Capture {
        /// The port: an interface's name, `NAMESPACE/POD`, `uplink` or `host`.
        port: String,
    },
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// Done, with what was asked for.
    Ok(serde_json::Value),
    /// Not done.
    Error(Failure),
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line: what, where, and what would be right.
    pub message: String,
    /// The exit status for the command: 1 the operation failed, 2 the request was wrong.
    pub status: u8,
}

impl Failure {
    /// The operation failed.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: 1,
        }
    }

    /// The request made no sense.
    #[must_use]
    pub fn wrong(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            status: 2,
        }
    }
}

/// The answer to [`Request::Stats`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// The node's name.
    pub node: String,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Where objects come from, and how that goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// Sums over all workers.
    pub totals: Totals,
    /// Per worker: `dataplane::stats::WorkerCounters`.
    pub workers: Vec<serde_json::Value>,
    /// Per port and queue, with the port's name.
    pub ports: Vec<PortStats>,
    /// Counters of the slow path, by name.
    pub slow_path: std::collections::BTreeMap<String, u64>,
    /// Counters of the node's own resolver, by name; none without one.
    #[serde(default)]
    pub dns: std::collections::BTreeMap<String, u64>,
    /// Ports of Services that were given connections.
    #[serde(default)]
    pub services: Vec<ServiceCounts>,
    /// What was heard and said about load balancers' addresses, by name.
    #[serde(default)]
    pub load_balancers: std::collections::BTreeMap<String, u64>,
    /// Connections that there are, and that there is room for, by name.
    pub connections: std::collections::BTreeMap<String, u64>,
}

/// Sums over all workers; `received + originated = transmitted + dropped + punted`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Packets taken from ports.
    pub received: u64,
    /// Packets the switch made itself or held for a while.
    pub originated: u64,
    /// Packets put into transmit rings.
    pub transmitted: u64,
    /// Packets dropped, by reason.
    pub dropped: std::collections::BTreeMap<String, u64>,
    /// Packets handed to the slow path, by reason.
    pub punted: std::collections::BTreeMap<String, u64>,
}

/// Counters of one port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortStats {
    /// Its name: the interface's, with the pod's where it is one.
    pub name: String,
    /// The network beside the cluster's own, `NAMESPACE/NAME`, of its frames without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Per queue: `dataplane::stats::QueueCounters`.
    pub queues: Vec<serde_json::Value>,
    /// The steering program's own counters, by name.
    pub steering: std::collections::BTreeMap<String, u64>,
}

/// A row of [`Request::ShowPorts`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRow {
    /// The port's number.
    pub id: u16,
    /// The interface on the node.
    pub interface: String,
    /// uplink, host, pod or segment: in networks beside the cluster's own.
    pub role: String,
    /// The pod, `NAMESPACE/NAME`.
    pub pod: Option<String>,
    /// The networks beside the cluster's own that it is in, `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Addresses that may send here.
    pub addresses: Vec<IpAddr>,
    /// The switch's MAC address on this port.
    pub mac: String,
    /// The MAC address at the other end.
    pub peer_mac: Option<String>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Queues that it receives by.
    pub queues: u32,
    /// Whose each of them is.
    #[serde(default)]
    pub per_queue: Vec<QueueRow>,
    /// zero-copy if the device itself reads and writes packet memory; copy if the kernel does so for any queue.
    #[serde(default)]
    pub bind_mode: String,
    /// The device that packets come and go by, where the interface is a VLAN on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The number in its packets' tags, where it is a VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// native or generic; with the driver's refusal where native was tried in vain.
    pub xdp_mode: String,
    /// Whether the interface is up.
    pub up: bool,
    /// What it is held to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitRow>,
}

/// A queue of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    /// Its number, from 0.
    pub queue: u32,
    /// The worker that serves it.
    pub worker: Option<usize>,
    /// How its socket is bound: zero-copy or copy.
    pub bind_mode: Option<String>,
    /// Whether it is left to the kernel, and has no socket.
    pub kernel: bool,
    /// For how long frames have waited in its transmit ring without any being taken or coming back, in milliseconds; 0 for
    /// a queue that sends.
    #[serde(default)]
    pub stalled_ms: u64,
}

/// A row of [`Request::ShowRoutes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRow {
    /// Destination, `ADDRESS/LENGTH`.
    pub prefix: String,
    /// What kind of way it is: port, tunnel, via, on-link, switch, network, blackhole, unreachable.
    pub kind: String,
    /// In words: the pod, the peer, the gateway.
    pub to: String,
    /// The port it leaves by.
    pub port: Option<String>,
}

/// A row of [`Request::ShowNeighbours`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeighbourRow {
    /// The neighbour's address.
    pub address: IpAddr,
    /// The port it is at.
    pub port: String,
    /// Its MAC address, if it is known.
    pub mac: Option<String>,
    /// The kernel's state of it: reachable, stale, permanent…
    pub state: String,
    /// Whether a worker used it lately.
    pub used: bool,
}

/// A row of [`Request::ShowPeers`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRow {
    /// The node's name.
    pub node: String,
    /// Its address on the underlay.
    pub remote: IpAddr,
    /// vxlan or ipip, with what belongs to it.
    pub tunnel: String,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<String>,
    /// Largest inner packet, in bytes.
    pub mtu: u32,
    /// The next hop on the underlay, and its MAC address when it is known.
    pub next_hop: String,
    /// Whether packets can be sent to it now.
    pub ready: bool,
}

/// A row of [`Request::ShowWorkers`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// The worker's number.
    pub worker: usize,
    /// The core it is pinned to.
    pub core: usize,
    /// Share of cycles that did work in the last second, in thousandths.
    pub load_permille: u64,
    /// Times it went to sleep.
    pub sleeps: u64,
    /// Its frames: free, in hand, with ports.
    pub frames_free: u32,
    /// Frames in the worker's hands.
    pub frames_in_tokens: u32,
    /// Frames with its ports and the kernel.
    pub frames_in_ports: u32,
    /// Port queues it owns, as `interface/queue`.
    pub queues: Vec<String>,
}

/// The answer to [`Request::ShowFlows`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Connections there are.
    pub connections: u64,
    /// Connections there is room for.
    pub capacity: u64,
    /// Connections that match; of these as many are shown as were asked for.
    pub matching: u64,
    /// The connections.
    pub flows: Vec<FlowRow>,
}

/// A row of [`Request::ShowFlows`]: a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// The network beside the cluster's own, `NAMESPACE/NAME`, that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// tcp, udp, icmp, icmpv6, sctp, or the protocol's number.
    pub protocol: String,
    /// How far it has come. TCP: syn-sent, syn-received, picked-up, established, half-closed, closing, time-wait,
    /// reset; others: unreplied, replied.
    pub state: String,
    /// As its first packet came.
    pub original: FlowTuple,
    /// As the replies come.
    pub reply: FlowTuple,
    /// The pod that opened it, or the port it came by, if it was one of this node's pods.
    pub opener: Option<String>,
    /// The Service and the backend that it was given to, by their numbers.
    pub binding: Option<(u32, u32)>,
    /// Where packets as the first one go, as was last found out.
    pub onward: Option<String>,
    /// The rules of policies that decide about it, where any have something to say.
    #[serde(default)]
    pub policies: Option<String>,
    /// Seconds since it began.
    pub age_seconds: u32,
    /// Seconds since the last packet of either side.
    pub idle_seconds: u32,
}

/// Addresses and ports of one direction of a [`FlowRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTuple {
    /// Source address.
    pub source: IpAddr,
    /// Source port; the id of an ICMP echo request.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port; the id of an ICMP echo reply.
    pub destination_port: u16,
}
