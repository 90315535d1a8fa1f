//! Calico's objects as their API has them, and their reading.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::{BlockRecord, CalicoFault, PoolMode, PoolRecord};
use crate::objects::address::usable_cidr;
use crate::objects::fault::Fault;
use crate::objects::name::{NodeName, check_subdomain};

/// The groups in which each of these kinds is found: as it is stored, and as Calico's API server has it.
pub(in crate::objects) const CALICO_API_VERSIONS: [&str; 2] =
    ["crd.projectcalico.org/v1", "projectcalico.org/v3"];

/// Prefix lengths of blocks (`spec.blockSize` of an IPPool).
const BLOCK_V4: (u8, u8) = (20, 32);
const BLOCK_V6: (u8, u8) = (116, 128);
/// What stands before a node's name in `spec.affinity`.
const AFFINITY_HOST: &str = "host:";
/// The attribute of an allocation that names the node on which its address is.
const ATTRIBUTE_NODE: &str = "node";
/// `state` of an affinity that holds.
const CONFIRMED: &str = "confirmed";

/// An IPPool.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct IpPool {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    spec: PoolSpec,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PoolSpec {
    cidr: String,
    #[serde(default)]
    ipip_mode: String,
    #[serde(default)]
    vxlan_mode: String,
    #[serde(default)]
    nat_outgoing: bool,
}

/// An IPAMBlock.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct IpamBlock {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    spec: BlockSpec,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct BlockSpec {
    cidr: String,
    affinity: Option<String>,
    #[serde(default)]
    allocations: Vec<Option<u64>>,
    #[serde(default)]
    attributes: Vec<Attribute>,
    #[serde(default)]
    deleted: Value,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Attribute {
    #[serde(default)]
    secondary: Option<BTreeMap<String, Option<String>>>,
}

/// A BlockAffinity.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct BlockAffinity {
    /// `metadata`.
    #[serde(default)]
    pub metadata: ObjectMeta,
    spec: AffinitySpec,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct AffinitySpec {
    cidr: String,
    node: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    deleted: Value,
}

impl IpPool {
    /// `kind`.
    pub const KIND: &'static str = "IPPool";
}

impl IpamBlock {
    /// `kind`.
    pub const KIND: &'static str = "IPAMBlock";
}

impl BlockAffinity {
    /// `kind`.
    pub const KIND: &'static str = "BlockAffinity";
}

impl PoolRecord {
    /// Reads an IPPool.
    ///
    /// # Errors
    /// [`Fault`] if it makes no sense by itself.
    pub(in crate::objects) fn read(pool: &IpPool) -> Result<Self, Fault> {
        let cidr = cidr(&pool.spec.cidr)?;
        let ipip = mode("spec.ipipMode", &pool.spec.ipip_mode)?;
        let vxlan = mode("spec.vxlanMode", &pool.spec.vxlan_mode)?;
        if ipip != PoolMode::Never && vxlan != PoolMode::Never {
            return Err(CalicoFault::TwoModes.into());
        }
        if ipip != PoolMode::Never && cidr.network().is_ipv6() {
            return Err(CalicoFault::IpipV6(cidr).into());
        }
        Ok(Self {
            name: name(&pool.metadata)?,
            cidr,
            ipip,
            vxlan,
            nat_outgoing: pool.spec.nat_outgoing,
        })
    }
}

impl BlockRecord {
    /// Reads an IPAMBlock, with what is only worth a warning; `None` if it is being deleted.
    ///
    /// # Errors
    /// [`Fault`] if it makes no sense by itself.
    pub(in crate::objects) fn read(block: &IpamBlock) -> Result<(Option<Self>, Vec<Fault>), Fault> {
        let (name, spec) = (name(&block.metadata)?, &block.spec);
        let cidr = block_cidr(&spec.cidr)?;
        let mut warnings = Vec::new();
        let node = match spec.affinity.as_deref().filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => match text.strip_prefix(AFFINITY_HOST) {
                Some(name) => Some(node_name("spec.affinity", name)?),
                None => {
                    warnings.push(CalicoFault::Affinity(text.to_owned()).into());
                    None
                }
            },
        };
        let borrowed = borrowed(spec, cidr, node.as_ref())?;
        let record = Self {
            name,
            cidr,
            node,
            borrowed,
        };
        Ok(((!is_true(&spec.deleted)).then_some(record), warnings))
    }

    /// Reads a BlockAffinity; `None` if it does not hold, or not any more.
    ///
    /// # Errors
    /// [`Fault`] if it makes no sense by itself.
    pub(in crate::objects) fn read_affinity(affinity: &BlockAffinity) -> Result<Option<Self>, Fault> {
        let spec = &affinity.spec;
        let record = Self {
            name: name(&affinity.metadata)?,
            cidr: block_cidr(&spec.cidr)?,
            node: Some(node_name("spec.node", &spec.node)?),
            borrowed: Vec::new(),
        };
        Ok((spec.state == CONFIRMED && !is_true(&spec.deleted)).then_some(record))
    }
}

/// The addresses of a block that are on other nodes.
fn borrowed(
    spec: &BlockSpec,
    cidr: IpNet,
    node: Option<&NodeName>,
) -> Result<Vec<(IpAddr, NodeName)>, Fault> {
    let room = 1u64 << (cidr.max_prefix_len() - cidr.prefix_len());
    if u64::try_from(spec.allocations.len()).is_ok_and(|count| count > room) {
        return Err(CalicoFault::TooManyAllocations {
            count: spec.allocations.len(),
            cidr,
            room,
        }
        .into());
    }
    let mut borrowed = Vec::new();
    for (place, attribute) in spec.allocations.iter().enumerate() {
        let Some(attribute) = *attribute else { continue };
        let found = usize::try_from(attribute).ok();
        let found = found.and_then(|index| spec.attributes.get(index));
        let found = found.ok_or(CalicoFault::NoAttribute { place, attribute })?;
        let holder = found.secondary.as_ref().and_then(|said| said.get(ATTRIBUTE_NODE));
        let holder = holder.and_then(Option::as_deref).filter(|name| !name.is_empty());
        let Some(holder) = holder else { continue };
        let holder = node_name("spec.attributes", holder)?;
        if node != Some(&holder) {
            borrowed.push((address_at(cidr, place), holder));
        }
    }
    Ok(borrowed)
}

/// The address at a place in a block, counted from 0; the place is in it.
fn address_at(cidr: IpNet, place: usize) -> IpAddr {
    match cidr {
        IpNet::V4(net) => {
            let place = u32::try_from(place).unwrap_or(u32::MAX);
            IpAddr::V4(net.network().to_bits().saturating_add(place).into())
        }
        IpNet::V6(net) => IpAddr::V6(net.network().to_bits().saturating_add(place as u128).into()),
    }
}

/// `metadata.name`.
fn name(metadata: &ObjectMeta) -> Result<String, Fault> {
    let name = metadata.name.clone().unwrap_or_default();
    check_subdomain(&name).map_err(|error| Fault::Name {
        field: "metadata.name",
        error,
    })?;
    Ok(name)
}

fn node_name(field: &'static str, text: &str) -> Result<NodeName, Fault> {
    NodeName::new(text).map_err(|error| Fault::Name { field, error })
}

fn cidr(text: &str) -> Result<IpNet, Fault> {
    usable_cidr("spec.cidr".to_owned(), text)
}

fn block_cidr(text: &str) -> Result<IpNet, Fault> {
    let cidr = cidr(text)?;
    let (shortest, longest) = if cidr.network().is_ipv4() {
        BLOCK_V4
    } else {
        BLOCK_V6
    };
    if (shortest..=longest).contains(&cidr.prefix_len()) {
        return Ok(cidr);
    }
    Err(CalicoFault::BlockSize {
        cidr,
        shortest,
        longest,
    }
    .into())
}

fn mode(field: &'static str, text: &str) -> Result<PoolMode, CalicoFault> {
    match text {
        "" | "Never" => Ok(PoolMode::Never),
        "Always" => Ok(PoolMode::Always),
        "CrossSubnet" => Ok(PoolMode::CrossSubnet),
        _ => Err(CalicoFault::Mode {
            field,
            value: text.to_owned(),
        }),
    }
}

/// `true` as JSON has it, or as text, as the stored form of a BlockAffinity does.
fn is_true(value: &Value) -> bool {
    matches!(value, Value::Bool(true)) || value.as_str() == Some("true")
}
