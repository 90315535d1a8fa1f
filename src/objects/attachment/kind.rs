//! What only one kind of network has.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Serialize;

use super::field::{address, bounded, within};
use super::read::{RawNetwork, RawStation};
use super::{AGEING_DEFAULT_S, AttachmentFault, MAC_LIMIT_DEFAULT, NetworkKey, STORM_LIMIT_DEFAULT};
use crate::objects::address::UnicastMac;
use crate::objects::fault::Fault;

const STATIONS_MAX: usize = 1024;
const STORM_LIMITS: RangeInclusive<u64> = 0..=10_000_000;
const MAC_LIMITS: RangeInclusive<u64> = 1..=65_536;
/// As IEEE 802.1Q has it (table 8-6), in seconds.
const AGEING_S: RangeInclusive<u64> = 10..=1_000_000;
/// What the cluster's own network is called among others.
const CLUSTER: &str = "cluster";

/// What a network is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// An Ethernet over all nodes.
    Bridged(Bridge),
    /// A network in which the switch is everybody's router, with routes by node as in the cluster's own.
    Routed(Routing),
}

/// What only a bridged network has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Bridge {
    /// Stations elsewhere that are known without being heard.
    pub stations: Vec<(UnicastMac, IpAddr)>,
    /// Whether stations of other nodes are learned from the frames that come from there.
    pub learning: bool,
    /// Whether questions for addresses of stations that are known are answered here.
    pub suppression: bool,
    /// Whether multicasts go only to who asked for them.
    pub snooping: bool,
    /// Frames a second that a port may have copied; `None`: any number.
    pub storm_limit: Option<NonZeroU32>,
    /// Stations that are learned from one port.
    pub mac_limit: u32,
    /// For how long a silent station is remembered, in seconds.
    pub ageing_s: u32,
}

/// What only a routed network has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Routing {
    /// Networks that may be reached from it, each once, in the order of the definition. Between two of them only what both name
    /// is routed; the cluster's own needs no word of its own.
    pub routes_to: Vec<RouteTo>,
}

/// A network that may be reached from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub enum RouteTo {
    /// The cluster's own.
    Cluster,
    /// A routed network beside it.
    Network(NetworkKey),
}

impl fmt::Display for RouteTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str(CLUSTER),
            Self::Network(key) => key.fmt(f),
        }
    }
}

impl From<RouteTo> for String {
    fn from(to: RouteTo) -> Self {
        to.to_string()
    }
}

impl FromStr for RouteTo {
    type Err = AttachmentFault;

    fn from_str(text: &str) -> Result<Self, AttachmentFault> {
        if text == CLUSTER {
            return Ok(Self::Cluster);
        }
        let key = text
            .parse()
            .map_err(|_| AttachmentFault::RouteName(text.to_owned()))?;
        Ok(Self::Network(key))
    }
}

impl NetworkKind {
    /// How it is written.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bridged(_) => "bridged",
            Self::Routed(_) => "routed",
        }
    }
}

impl RawNetwork {
    /// Reads what only a bridged network has.
    pub(super) fn bridged(&self) -> Result<Bridge, Fault> {
        if self.routes_to.is_some() {
            return Err(AttachmentFault::OtherKind {
                key: "routesTo",
                of: "routed",
                kind: "bridged",
            }
            .into());
        }
        let storm_limit = within("stormLimit", self.storm_limit, STORM_LIMITS)?;
        Ok(Bridge {
            stations: stations(self.stations.as_deref().unwrap_or_default())?,
            learning: self.learning.unwrap_or(true),
            suppression: self.suppression.unwrap_or(true),
            snooping: self.snooping.unwrap_or(false),
            // 0 says that there is no limit.
            storm_limit: NonZeroU32::new(storm_limit.unwrap_or(STORM_LIMIT_DEFAULT)),
            mac_limit: within("macLimit", self.mac_limit, MAC_LIMITS)?.unwrap_or(MAC_LIMIT_DEFAULT),
            ageing_s: within("ageingSeconds", self.ageing_seconds, AGEING_S)?.unwrap_or(AGEING_DEFAULT_S),
        })
    }
}

fn stations(raw: &[RawStation]) -> Result<Vec<(UnicastMac, IpAddr)>, Fault> {
    bounded("stations", raw.len(), STATIONS_MAX)?;
    let mut stations: BTreeMap<UnicastMac, IpAddr> = BTreeMap::new();
    for station in raw {
        let mac: UnicastMac =
            station
                .mac
                .parse()
                .map_err(|error: crate::objects::MacError| AttachmentFault::Config {
                    field: "network.stations".to_owned(),
                    reason: error.to_string(),
                })?;
        if stations.insert(mac, address("stations", &station.at)?).is_some() {
            let value = mac.to_string();
            return Err(AttachmentFault::Twice {
                field: "stations",
                value,
            }
            .into());
        }
    }
    Ok(stations.into_iter().collect())
}
