//! What is remembered of a port in networks beside the cluster's own.

use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::admin::protocol::{Attachment, Bandwidth, MemberEnd, TrunkVlan};
use crate::objects::UnicastMac;

/// What a port is remembered by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MemberRow {
    /// The interface on the node.
    pub interface: String,
    /// What is at its other end.
    pub end: MemberEnd,
    /// Whether a tap device was there before, so that it is somebody else's to remove.
    #[serde(default)]
    pub was_there: bool,
    /// The network of frames without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// The networks of frames with a tag, by its number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trunk: Vec<TrunkVlan>,
    /// The only MAC address that may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<UnicastMac>,
    /// The only addresses that may send, with their subnets' prefixes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// By what a container runtime knows it, if one asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// What it may send and be sent in a second.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

impl MemberRow {
    /// The networks that it is in.
    pub fn networks(&self) -> impl Iterator<Item = &String> {
        let tagged = self.trunk.iter().map(|vlan| &vlan.network);
        self.network.iter().chain(tagged)
    }

    /// Whether a tap device is its other end.
    #[must_use]
    pub fn is_tap(&self) -> bool {
        matches!(self.end, MemberEnd::Tap(_))
    }

    /// The pod behind it, `NAMESPACE/NAME`.
    #[must_use]
    pub fn pod(&self) -> Option<&String> {
        match &self.end {
            MemberEnd::Tap(_) => None,
            MemberEnd::Pod(end) => Some(&end.pod),
        }
    }

    /// Where its other end is; nowhere for a tap.
    pub(super) fn netns(&self) -> &Path {
        match &self.end {
            MemberEnd::Tap(_) => Path::new(""),
            MemberEnd::Pod(end) => &end.netns,
        }
    }

    /// Whether the device is somebody else's.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        self.was_there
    }
}
