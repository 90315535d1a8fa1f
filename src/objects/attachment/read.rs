//! Definitions of networks as their API has them, and their reading.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::field::{addresses, bounded, check_within, cidr, cidrs, overlap, overlaps, within};
use super::kind::NetworkKind;
use super::{AttachmentFault, NetworkKey, NetworkRecord, PORT_DEFAULT, PeerChoice, routed};
use crate::objects::address::Vni;
use crate::objects::fault::Fault;
use crate::objects::name::NodeName;
use crate::objects::object::namespace_of;

/// The `apiVersion` of definitions (<https://github.com/k8snetworkplumbingwg/multi-net-spec>).
pub(in crate::objects) const ATTACHMENT_API_VERSION: &str = "k8s.cni.cncf.io/v1";
/// `type` of this program's plugin in a CNI configuration.
pub const PLUGIN_TYPE: &str = "millrace-cni";

/// Longest configuration that is read, in bytes: every node of a large cluster with a block of its own fits.
const CONFIG_MAX_BYTES: usize = 256 << 10;
const SUBNETS_MAX: usize = 16;
/// A frame to everybody is copied for each of them.
const ADDRESSES_MAX: usize = 256;
const BLOCKS_MAX: usize = 4096;
/// From what IPv4 needs of every link (RFC 791) to what the switch forwards.
const MTUS: RangeInclusive<u64> = 576..=9000;
/// What IPv6 needs (RFC 8200, section 5): with less the kernel has none on an interface.
const MTU_MIN_IPV6: u64 = 1280;

/// A NetworkAttachmentDefinition.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct NetworkAttachmentDefinition {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct Spec {
    #[serde(default)]
    config: String,
}

/// What stands in `network`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawNetwork {
    kind: String,
    vni: u32,
    #[serde(default)]
    port: Option<u64>,
    #[serde(default)]
    subnets: Vec<String>,
    #[serde(default)]
    gateways: Vec<String>,
    #[serde(default)]
    node_blocks: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    peers: RawPeers,
    #[serde(default)]
    mtu: Option<u64>,
    // Of bridged networks alone.
    pub(super) stations: Option<Vec<RawStation>>,
    pub(super) learning: Option<bool>,
    pub(super) suppression: Option<bool>,
    pub(super) snooping: Option<bool>,
    pub(super) storm_limit: Option<u64>,
    pub(super) mac_limit: Option<u64>,
    pub(super) ageing_seconds: Option<u64>,
    // Of routed networks alone.
    pub(super) routes_to: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawPeers {
    #[serde(default = "yes")]
    nodes: bool,
    #[serde(default)]
    addresses: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawStation {
    pub(super) mac: String,
    pub(super) at: String,
}

impl Default for RawPeers {
    fn default() -> Self {
        Self {
            nodes: true,
            addresses: Vec::new(),
        }
    }
}

fn yes() -> bool {
    true
}

impl NetworkAttachmentDefinition {
    /// `kind`.
    pub const KIND: &'static str = "NetworkAttachmentDefinition";
}

impl NetworkRecord {
    /// Reads a definition, with what is only worth a warning; `None` if it is another plugin's.
    ///
    /// # Errors
    /// [`Fault`] if it makes no sense by itself.
    pub(in crate::objects) fn read(
        definition: &NetworkAttachmentDefinition,
    ) -> Result<(Option<Self>, Vec<Fault>), Fault> {
        let metadata = &definition.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let key = NetworkKey::new(namespace_of(metadata), name).map_err(|error| Fault::Name {
            field: "metadata",
            error,
        })?;
        let Some((cni_name, network)) = our_network(&definition.spec.config)? else {
            return Ok((None, Vec::new()));
        };
        let cni_name = cni_name.unwrap_or_else(|| key.name().to_owned());
        if !is_cni_name(&cni_name) {
            return Err(AttachmentFault::CniName(cni_name).into());
        }
        let network: RawNetwork =
            serde_path_to_error::deserialize(network).map_err(|error| AttachmentFault::Config {
                field: format!("network.{}", error.path()),
                reason: error.inner().to_string(),
            })?;
        let record = network.checked(key, cni_name)?;
        let addresses = &record.peers.addresses;
        let is_stray = |at: &IpAddr| !addresses.contains(at);
        let stations = record.bridge().map_or(&[][..], |bridge| &bridge.stations);
        let strays = stations.iter().map(|(_, at)| *at).filter(is_stray);
        let warnings = strays.map(|at| AttachmentFault::NoPeer(at).into()).collect();
        Ok((Some(record), warnings))
    }
}

/// The name of a configuration and the `network` of our plugin in it; `None` if it is another plugin's.
fn our_network(config: &str) -> Result<Option<(Option<String>, Value)>, AttachmentFault> {
    // What cannot be read may be anybody's, and is only refused where it looks like ours.
    if !config.contains(PLUGIN_TYPE) {
        return Ok(None);
    }
    if config.len() > CONFIG_MAX_BYTES {
        return Err(AttachmentFault::TooLong {
            len: config.len(),
            limit: CONFIG_MAX_BYTES,
        });
    }
    let mut tree: Value = serde_json::from_str(config).map_err(|error| AttachmentFault::Config {
        field: "the text".to_owned(),
        reason: error.to_string(),
    })?;
    let is_ours = |plugin: &Value| plugin.get("type").and_then(Value::as_str) == Some(PLUGIN_TYPE);
    let name = match tree.get("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name.clone()).filter(|name| !name.is_empty()),
        Some(_) => {
            return Err(AttachmentFault::Config {
                field: "name".to_owned(),
                reason: "it has to be text".to_owned(),
            });
        }
    };
    let ours = if is_ours(&tree) {
        Some(&mut tree)
    } else {
        let plugins = tree.get_mut("plugins").and_then(Value::as_array_mut);
        plugins.and_then(|plugins| plugins.iter_mut().find(|plugin| is_ours(plugin)))
    };
    let Some(ours) = ours else { return Ok(None) };
    match ours.get_mut("network").map(Value::take) {
        None | Some(Value::Null) => Err(AttachmentFault::NoNetwork),
        Some(network) => Ok(Some((name, network))),
    }
}

/// Whether it can be a network's name in a CNI configuration (CNI 1.1, section 1).
fn is_cni_name(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_inner)
}

impl RawNetwork {
    fn checked(self, key: NetworkKey, cni_name: String) -> Result<NetworkRecord, Fault> {
        let vni = Vni::new(self.vni).map_err(|_| AttachmentFault::Number {
            field: "vni",
            value: self.vni.into(),
            least: 1,
            most: Vni::MAX.into(),
        })?;
        let subnets = cidrs("subnets", &self.subnets, SUBNETS_MAX)?;
        let has_v6 = subnets.iter().any(|subnet| subnet.addr().is_ipv6());
        let least = if has_v6 { MTU_MIN_IPV6 } else { *MTUS.start() };
        let kind = match self.kind.as_str() {
            "bridged" => NetworkKind::Bridged(self.bridged()?),
            "routed" => NetworkKind::Routed(self.routed(&key)?),
            _ => return Err(AttachmentFault::Kind(self.kind).into()),
        };
        let mut record = NetworkRecord {
            vni,
            port: within("port", self.port, 1..=u64::from(u16::MAX))?.unwrap_or(PORT_DEFAULT),
            gateways: gateways(&self.gateways, &subnets)?,
            node_blocks: node_blocks(&self.node_blocks, &subnets)?,
            peers: PeerChoice {
                nodes: self.peers.nodes,
                addresses: addresses("peers.addresses", &self.peers.addresses, ADDRESSES_MAX)?,
            },
            mtu: within("mtu", self.mtu, least..=*MTUS.end())?,
            key,
            cni_name,
            subnets,
            kind,
        };
        if record.routing().is_some() {
            routed::complete(&mut record)?;
        }
        Ok(record)
    }
}

fn gateways(texts: &[String], subnets: &[IpNet]) -> Result<Vec<IpAddr>, Fault> {
    let gateways = addresses("gateways", texts, SUBNETS_MAX)?;
    for gateway in &gateways {
        check_within("gateways", IpNet::from(*gateway), subnets)?;
    }
    Ok(gateways)
}

fn node_blocks(
    raw: &BTreeMap<String, Vec<String>>,
    subnets: &[IpNet],
) -> Result<BTreeMap<NodeName, Vec<IpNet>>, Fault> {
    bounded("nodeBlocks", raw.values().map(Vec::len).sum(), BLOCKS_MAX)?;
    let mut blocks: BTreeMap<NodeName, Vec<IpNet>> = BTreeMap::new();
    // In the order of their addresses only neighbours can overlap.
    let mut all: BTreeMap<IpAddr, IpNet> = BTreeMap::new();
    for (name, texts) in raw {
        let node = NodeName::new(name.as_str()).map_err(|error| Fault::Name {
            field: "spec.config: network.nodeBlocks",
            error,
        })?;
        let field = format!("nodeBlocks.{node}");
        let own = blocks.entry(node).or_default();
        for text in texts {
            let block = cidr(&field, text)?;
            check_within(field.as_str(), block, subnets)?;
            let before = all.range(..=block.network()).next_back();
            let after = all.range(block.network()..).next();
            let mut near = before.into_iter().chain(after).map(|(_, other)| *other);
            if let Some(other) = near.find(|other| overlaps(block, *other)) {
                return Err(overlap(field, block, other));
            }
            all.insert(block.network(), block);
            own.push(block);
        }
    }
    Ok(blocks)
}
