//! `[services]`: Services as this node serves them.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use millrace_dataplane::table::HashKey;
use serde::{Deserialize, Serialize};

use super::text::by_text;
use super::value::{Choice, Ranged, ValueError, choice};

/// Where kube-proxy answers `/healthz`, too.
const HEALTH_PORT: usize = 10_256;

/// `[services]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct Services {
    /// `cidrs`: the prefixes that the cluster takes Services' cluster IPs from, the same on every node. An address in
    /// them that belongs to no Service is not there. Default `["10.96.0.0/12"]`, as with kubeadm.
    pub cidrs: Vec<IpNet>,
    /// `node-port-range`: the ports that the cluster takes node ports from, as in its API server. Default
    /// `"30000-32767"`.
    pub node_port_range: PortRange,
    /// `snat-ports`: the ports of this node's own address that source NAT towards the uplink uses, kept free of the
    /// kernel's own. Default `"61000-65535"`.
    pub snat_ports: PortRange,
    /// `backend-choice`: how a new connection is given a backend. Default `maglev`.
    #[serde(deserialize_with = "choice")]
    pub backend_choice: BackendChoice,
    /// `hash-seed`: what the choice is hashed with, a whole number that is the same on every node of the cluster.
    /// Default 0.
    pub hash_seed: HashSeed,
    /// `reset-removed-endpoints`: whether TCP connections to an endpoint that is gone are reset towards the client.
    /// Default false: they end by themselves.
    pub reset_removed_endpoints: bool,
    /// `health-port`: the TCP port of the node on which `/healthz` and `/livez` are answered, within 0..=65535; 0 for
    /// none. Default 10256, as with kube-proxy.
    pub health_port: Ranged<0, { u16::MAX as usize }>,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            cidrs: vec![IpNet::V4(ipnet::Ipv4Net::new_assert(
                std::net::Ipv4Addr::new(10, 96, 0, 0),
                12,
            ))],
            node_port_range: PortRange {
                first: 30_000,
                last: 32_767,
            },
            snat_ports: PortRange {
                first: 61_000,
                last: u16::MAX,
            },
            backend_choice: BackendChoice::default(),
            hash_seed: HashSeed::default(),
            reset_removed_endpoints: false,
            health_port: Ranged::of::<HEALTH_PORT>(),
        }
    }
}

/// `backend-choice`: how a new connection is given a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendChoice {
    /// `maglev`: by a consistent hash of the client, so that all nodes choose alike and a changed endpoint moves few.
    #[default]
    Maglev,
    /// `random`: by chance.
    Random,
}

impl Choice for BackendChoice {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Maglev, "maglev"), (Self::Random, "random")];
}

/// What the choice of backends is hashed with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HashSeed(u32);

impl HashSeed {
    /// The hash key that this seed makes: the same in every version of this program, or nodes would choose differently
    /// while they are updated one by one.
    #[must_use]
    pub fn key(self) -> HashKey {
        // Three words of SplitMix64, whose constants these are.
        let mut state = u64::from(self.0);
        let words = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        });
        HashKey::from_words(words)
    }
}

/// A range of ports, both ends included, never port 0: written `FIRST-LAST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The range from `first` to `last`.
    ///
    /// # Errors
    /// [`ValueError`] if that is none.
    pub fn new(first: u16, last: u16) -> Result<Self, ValueError> {
        if first == 0 || first > last {
            return Err(ValueError::because(format!(
                "`{first}-{last}` is no range of ports, write the lower one first and no port 0"
            )));
        }
        Ok(Self { first, last })
    }

    /// The first port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port, which belongs to it.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether a port lies in it.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let ends = text.split_once('-');
        let ends = ends.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        let Some((first, last)) = ends else {
            return Err(ValueError::because(format!(
                "`{text}` is no range of ports, write it as in 30000-32767"
            )));
        };
        Self::new(first, last)
    }
}

by_text!(PortRange);

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}
