//! What is said of policies.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A policy, as `millrace show policies` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyRow {
    /// Which policy.
    pub policy: String,
    /// The network beside the cluster's own that it is for, `NAMESPACE/NAME`, where it is shown once for each; empty if it names
    /// none. Absent for the cluster's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// When it counts.
    pub tier: String,
    /// The pods that it is about.
    pub subject: String,
    /// How many of this node's pods it selects.
    pub pods: usize,
    /// Its rules, and for each direction in which it isolates pods, what that forbade.
    pub rules: Vec<RuleRow>,
}

/// A rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuleRow {
    /// `ingress` or `egress`.
    pub side: String,
    /// Its place in the list, from 0; absent for the isolation of pods.
    pub rule: Option<usize>,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What it does.
    pub action: String,
    /// Whom it matches.
    pub peers: String,
    /// Connections that it decided about on this node.
    pub connections: u64,
}

/// Would a connection be allowed?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explain {
    /// The pod that would open it, `NAMESPACE/NAME`.
    pub from: String,
    /// To whom: `NAMESPACE/POD:PORT`, `NAMESPACE/SERVICE:PORT` or `IP:PORT`.
    pub to: String,
    /// `tcp`, `udp`, `sctp` or `icmp`.
    pub protocol: String,
    /// A folder of manifests to be laid over the objects in force.
    pub manifests: Option<PathBuf>,
}

/// The answer to [`Explain`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Whether it would be allowed, to whichever backend it goes; of a frame, whether it would be forwarded.
    pub allowed: bool,
    /// What each stage says, in their order.
    pub stages: Vec<ExplainedStage>,
}

/// What one stage says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedStage {
    /// Which stage.
    pub stage: String,
    /// What it says.
    pub answer: String,
}

/// What was denied since this was last asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedPackets {
    /// Those of one kind in one row.
    pub rows: Vec<DeniedRow>,
    /// Packets that were denied and not remembered, since the daemon began.
    pub lost: u64,
}

/// Packets that a policy has denied.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeniedRow {
    /// Who sent them.
    pub source: IpAddr,
    /// That pod, if it is one.
    pub source_pod: Option<String>,
    /// To whom they would have gone.
    pub destination: IpAddr,
    /// That pod, if it is one.
    pub destination_pod: Option<String>,
    /// The network beside the cluster's own in which both are, `NAMESPACE/NAME`; absent for the cluster's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The Service's address that they were sent to, if it was one.
    pub service: Option<IpAddr>,
    /// The protocol.
    pub protocol: String,
    /// The port, if the protocol has ports.
    pub port: Option<u16>,
    /// `egress` or `ingress`.
    pub side: String,
    /// The policy and rule, for a person.
    pub by: String,
    /// How many.
    pub packets: u64,
}
