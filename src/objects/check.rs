//! `millrace check`: what the node file and the manifests come to, without starting anything.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Serialize;

use super::address::UnicastMac;
use super::flannel::Family;
use super::folder::Folder;
use super::name::NodeName;
use super::network::Network;
use super::notice::{Notice, Severity};
use super::store::Store;
use crate::config::{Config, ObjectSource};

/// What `millrace check` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    /// Path of the node file.
    pub config: PathBuf,
    /// The folder of manifests, if the node file could be read and names one.
    pub manifests: Option<PathBuf>,
    /// Where objects come from in its place. It is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// How much there is of what.
    pub counts: CheckCounts,
    /// This node as its peers see it, if there is a good object for it.
    pub own_node: Option<OwnNode>,
    /// What is wrong with the node file, or missing for this node: each a sentence.
    pub errors: Vec<String>,
    /// What is to be said about the manifests.
    pub notices: Vec<Notice>,
}

/// How much there is of what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckCounts {
    /// Manifest files.
    pub files: usize,
    /// Good Nodes, the own one among them.
    pub nodes: usize,
    /// Nodes to which there is a tunnel for at least one family of pods.
    pub peers: usize,
    /// Good Pods that have not ended.
    pub pods: usize,
    /// Those of them that are ports of this node's switch.
    pub own_pods: usize,
    /// Good NetworkPolicies, ClusterNetworkPolicies and MultiNetworkPolicies.
    pub policies: usize,
    /// Good networks beside the cluster's own.
    pub networks: usize,
    /// Pods that have ended.
    pub finished_pods: usize,
    /// Good Services.
    pub services: usize,
    /// What was refused.
    pub refused: usize,
    /// What is only worth a warning.
    pub warnings: usize,
    /// What is rightly not used.
    pub skipped: usize,
}

/// This node as its peers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OwnNode {
    /// Its name.
    pub name: NodeName,
    /// The cluster network it is in.
    pub network: Network,
    /// Addresses of its pods, single ones that are borrowed in a Calico cluster among them.
    pub pod_cidrs: Vec<IpNet>,
    /// The CIDRs of a Calico cluster's IPPools.
    pub pools: Vec<IpNet>,
    /// Where it takes tunnel packets, if it has published that.
    pub public_ips: Vec<IpAddr>,
    /// The VtepMAC for IPv4 pods: the published one, else the derived one.
    pub vtep_mac_v4: UnicastMac,
    /// As [`Self::vtep_mac_v4`], for IPv6 pods.
    pub vtep_mac_v6: UnicastMac,
}

impl CheckReport {
    /// Whether nothing is wrong: no error and nothing refused.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.errors.is_empty() && self.counts.refused == 0
    }
}

/// Reads a node file, for the node of this name if one is given, and the manifests that it names, and reports what they come
/// to.
#[must_use]
pub fn check(config_path: &Path, name: Option<&NodeName>) -> CheckReport {
    let mut report = CheckReport {
        config: config_path.to_owned(),
        manifests: None,
        api: None,
        counts: CheckCounts::default(),
        own_node: None,
        errors: Vec::new(),
        notices: Vec::new(),
    };
    let config = match Config::load_for(config_path, name) {
        Ok(config) => config,
        Err(error) => {
            report.errors.push(error.to_string());
            return report;
        }
    };
    let ObjectSource::Folder(manifests) = config.objects() else {
        report.api = Some(config.objects().to_string());
        return report;
    };
    let mut folder = Folder::new(manifests).in_network(config.overlay.network);
    folder.scan();
    let store = folder.store(&config.node.name, &[]);
    report.manifests = Some(manifests.to_owned());
    report.counts = count(&store, folder.file_count());
    report.own_node = store.own_node().map(|node| OwnNode {
        name: node.name.clone(),
        network: store.network(),
        pod_cidrs: node.pod_prefixes().collect(),
        pools: store.pools().to_vec(),
        public_ips: node.public_ips().collect(),
        vtep_mac_v4: node.vtep_mac_or_derived(Family::V4),
        vtep_mac_v6: node.vtep_mac_or_derived(Family::V6),
    });
    report.errors.extend(own_node_error(&store, manifests));
    report.notices = store.notices().to_vec();
    report
}

fn count(store: &Store, files: usize) -> CheckCounts {
    let of = |severity| {
        store
            .notices()
            .iter()
            .filter(|notice| notice.severity == severity)
            .count()
    };
    let peer_names: std::collections::BTreeSet<&NodeName> = store
        .peers(Family::V4)
        .chain(store.peers(Family::V6))
        .map(|peer| &peer.node.name)
        .collect();
    CheckCounts {
        files,
        nodes: store.nodes().count(),
        peers: peer_names.len(),
        pods: store.pods().count(),
        own_pods: store.own_pods().count(),
        policies: store.policies().len(),
        networks: store.networks().count(),
        finished_pods: store.finished_pods(),
        services: store.services().len(),
        refused: of(Severity::Refused),
        warnings: of(Severity::Warning),
        skipped: of(Severity::Skipped),
    }
}

/// Without its own Node and pod CIDR a node cannot carry pods.
fn own_node_error(store: &Store, manifests: &Path) -> Option<String> {
    let (name, folder) = (store.own_name(), manifests.display());
    match store.own_node() {
        None => Some(format!(
            "there is no good Node named {name} in {folder}; add it with spec.podCIDRs, or set [node] name to the metadata.name of this node's Node"
        )),
        // Calico gives a node its first block with its first pod.
        Some(node) if node.blocks.is_none() && node.pod_cidrs().next().is_none() => Some(format!(
            "Node {name} in {folder} has no spec.podCIDRs; give it the addresses of its pods, as in podCIDRs: [10.244.1.0/24]"
        )),
        Some(_) => None,
    }
}

impl fmt::Display for CheckReport {
    /// The report for a person, without a line break at its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        for notice in &self.notices {
            writeln!(f, "{notice}")?;
        }
        if let Some(api) = &self.api {
            let config = self.config.display();
            return write!(f, "{config}: good; objects come from {api}, which is not asked");
        }
        let Some(manifests) = &self.manifests else {
            return write!(f, "{}: not usable", self.config.display());
        };
        let counts = &self.counts;
        writeln!(
            f,
            "{}: {} files, {} nodes ({} peers), {} pods ({} of this node, {} ended and left out), {} services, {} policies{}",
            manifests.display(),
            counts.files,
            counts.nodes,
            counts.peers,
            counts.pods,
            counts.own_pods,
            counts.finished_pods,
            counts.services,
            counts.policies,
            match counts.networks {
                0 => String::new(),
                networks => format!(", {networks} networks"),
            },
        )?;
        if let Some(own) = &self.own_node {
            let text = |cidrs: &[IpNet]| {
                let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
                if cidrs.is_empty() {
                    "none yet".to_owned()
                } else {
                    cidrs.join(" ")
                }
            };
            let network = match own.network {
                Network::Flannel => String::new(),
                Network::Calico => format!(", in {}'s network with pools {}", own.network, text(&own.pools)),
            };
            writeln!(
                f,
                "this node: {}, pods {}, VtepMAC {}{network}",
                own.name,
                text(&own.pod_cidrs),
                own.vtep_mac_v4
            )?;
        }
        write!(
            f,
            "{}: {} ({} refused, {} warnings, {} skipped)",
            self.config.display(),
            if self.is_good() { "good" } else { "not good" },
            counts.refused,
            counts.warnings,
            counts.skipped
        )
    }
}

#[cfg(test)]
mod tests;
