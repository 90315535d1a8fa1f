//! The node file: everything that Kubernetes does not know about this node, in TOML.
//!
//! Every key stands in [`Config`], with its meaning, its range and its default. Unknown keys are an error, so
//! that a mistyped one is not silently without effect. `examples/millrace.toml` shows all of them.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod dns;
mod flows;
mod kubernetes;
mod load_balancer;
mod metrics;
mod named;
mod overlay;
mod portless;
mod services;
mod source;
mod text;
mod uplink;
mod value;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::objects::NodeName;
use value::{Choice, choice};

pub use dns::{ClusterDomain, DNS_QUERIES_MAX, DNS_TTL_MAX_S, Dns, Upstream};
pub use flows::{CONNECTIONS_MAX, FLOW_TIMEOUT_MAX_S, FlowTimeout, Flows};
pub use kubernetes::{ApiServer, Kubernetes};
pub use load_balancer::{AddressRange, Announce, LoadBalancer, Pool};
pub use metrics::{ListenAddress, Metrics};
pub use overlay::{Overlay, OverlayKind};
pub use portless::{PortlessProtocol, PortlessProtocols};
pub use services::{BackendChoice, HashSeed, PortRange, Services};
pub use source::ObjectSource;
pub use uplink::{
    BUSY_POLL_BUDGET_MAX, BUSY_POLL_USECS_MAX, BindMode, DEFER_HARD_IRQS_MAX, DEVICE_RING_MAX, QUEUES_MAX,
    Uplink, XdpMode,
};
pub use value::{
    CORE_MAX, CoreList, FRAMES_MAX, FRAMES_MIN, FrameCount, HOST_PORT_PEER_SUFFIX, HostPortName,
    INTERFACE_NAME_MAX_BYTES, InterfaceName, PowerOfTwo, QueueList, Ranged, RingLength, ValueError,
};

/// Most packets in a batch.
pub const BATCH_MAX: usize = 64;
/// Most packets that may wait for the slow path, per worker.
pub const SLOW_PATH_QUEUE_MAX: usize = 65_536;
/// Most ICMP errors a second that may be asked for.
pub const ICMP_ERRORS_PER_SECOND_MAX: usize = 1_000_000;

/// The node file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table")]
pub struct Config {
    /// `[node]`: who this node is, and where its objects and its state are. Required.
    pub node: Node,
    /// `[kubernetes]`: the API server that the objects come from, where they come from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// `[uplink]`: the interface towards the other nodes. Required.
    pub uplink: Uplink,
    /// `[workers]`: cores and memory. Required.
    pub workers: Workers,
    /// `[host-port]`: the node's own port of the switch.
    #[serde(default)]
    pub host_port: HostPort,
    /// `[overlay]`: the tunnels to the other nodes.
    #[serde(default)]
    pub overlay: Overlay,
    /// `[flows]`: the connections that this node remembers.
    #[serde(default)]
    pub flows: Flows,
    /// `[services]`: Services as this node serves them.
    #[serde(default)]
    pub services: Services,
    /// `[load-balancer]`: addresses for Services of type LoadBalancer.
    #[serde(default)]
    pub load_balancer: LoadBalancer,
    /// `[dns]`: the node's own resolver for the cluster's names.
    #[serde(default)]
    pub dns: Dns,
    /// `[metrics]`: the counters for monitoring systems.
    #[serde(default)]
    pub metrics: Metrics,
    /// `[slow-path]`: bounds on the work that is done packet by packet outside the workers.
    #[serde(default)]
    pub slow_path: SlowPath,
}

/// `[node]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table")]
pub struct Node {
    /// `name`: `metadata.name` of this node's Node object. Required.
    pub name: NodeName,
    /// `manifests`: folder of Kubernetes objects (`*.yaml`, `*.yml`, `*.json`), watched for changes; a
    /// relative path begins at the node file's folder. Required, unless there is a `[kubernetes]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifests: Option<PathBuf>,
    /// `state-dir`: folder of the admin socket, the list of ports, the lock and the copy of an API server's
    /// objects; made if absent; a relative path begins at the node file's folder. Default `/run/millrace`.
    #[serde(default = "defaults::state_dir")]
    pub state_dir: PathBuf,
}

/// `[workers]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table")]
pub struct Workers {
    /// `cores`: one worker for each of these cores, pinned to it; none twice. Required.
    pub cores: CoreList,
    /// `frames`: packet buffers of 2 KiB for each worker, a power of two within 1024..=262144. Default 16384.
    #[serde(default = "defaults::frames")]
    pub frames: FrameCount,
    /// `batch`: most packets handled in one turn, within 1..=64. Default 64.
    #[serde(default = "defaults::batch")]
    pub batch: Ranged<1, BATCH_MAX>,
    /// `idle`: what a worker without work does. Default `sleep`.
    #[serde(default, deserialize_with = "choice")]
    pub idle: Idle,
    /// `hugepages`: whether packet buffers lie on huge pages. Default `auto`.
    #[serde(default, deserialize_with = "choice")]
    pub hugepages: HugePages,
    /// `jumbo`: whether packets longer than a buffer are carried. Default `auto`.
    #[serde(default, deserialize_with = "choice")]
    pub jumbo: Jumbo,
    /// `spread`: whether tunnel packets that all come in by one queue are shared among workers. Default `off`.
    #[serde(default, deserialize_with = "choice")]
    pub spread: Spread,
}

/// `jumbo`: whether packets longer than a buffer are carried, of several buffers each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Jumbo {
    /// `auto`: if the uplink's MTU is larger than a buffer when the switch starts.
    #[default]
    Auto,
    /// `off`: no; larger packets are lost, and the log says so.
    Off,
}

impl Choice for Jumbo {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Auto, "auto"), (Self::Off, "off")];
}

/// `spread`: whether tunnel packets that all come in by one queue are shared among workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// `auto`: while a worker has more than it can do, and another has less.
    Auto,
    /// `always`: each worker has its share, at the price of a copy.
    Always,
    /// `off`: each worker does what comes in by its queues.
    #[default]
    Off,
}

impl Choice for Spread {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Auto, "auto"), (Self::Always, "always"), (Self::Off, "off")];
}

/// `hugepages`: whether packet buffers lie on huge pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HugePages {
    /// `auto`: if enough of them are free; the log says so.
    #[default]
    Auto,
    /// `always`: on them, or the switch does not start.
    Always,
    /// `never`: on ordinary pages.
    Never,
}

impl Choice for HugePages {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Auto, "auto"),
        (Self::Always, "always"),
        (Self::Never, "never"),
    ];
}

/// `idle`: what a worker without work does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Idle {
    /// `sleep`: after a while without work it waits in the kernel, and the core is free for others.
    #[default]
    Sleep,
    /// `poll`: it looks for work without end; lowest delay, one whole core.
    Poll,
}

impl Choice for Idle {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Sleep, "sleep"), (Self::Poll, "poll")];
}

/// `[host-port]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct HostPort {
    /// `name`: the kernel's side of the veth pair, at most 14 characters; the switch's side has a `p` after
    /// it. Default `millrace0`.
    pub name: HostPortName,
}

/// `[slow-path]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct SlowPath {
    /// `queue`: packets of each worker that may wait for the slow-path thread, within 1..=65536; more are
    /// dropped and counted. Default 1024.
    pub queue: Ranged<1, SLOW_PATH_QUEUE_MAX>,
    /// `icmp-errors-per-second`: most ICMP errors sent in a second, within 0..=1000000; 0 sends none. Default
    /// 1000.
    pub icmp_errors_per_second: Ranged<0, ICMP_ERRORS_PER_SECOND_MAX>,
}

/// Every default, in one place.
mod defaults {
    use super::*;

    pub(super) fn state_dir() -> PathBuf {
        PathBuf::from("/run/millrace")
    }

    pub(super) fn frames() -> FrameCount {
        FrameCount::of::<16_384>()
    }

    pub(super) fn batch() -> Ranged<1, BATCH_MAX> {
        Ranged::of::<BATCH_MAX>()
    }

    impl Default for HostPort {
        fn default() -> Self {
            // INVARIANT: the name is nine letters and digits, which `HostPortName` accepts.
            #[allow(clippy::expect_used)]
            let name = HostPortName::new("millrace0").expect("the default name is a good one");
            Self { name }
        }
    }

    impl Default for SlowPath {
        fn default() -> Self {
            Self {
                queue: Ranged::of::<1024>(),
                icmp_errors_per_second: Ranged::of::<1000>(),
            }
        }
    }
}

/// A node file that cannot be used, on one line: file, line, key, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the node file {}: {error}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The file is no TOML, or a key or value in it is wrong.
    #[error("{}{}: {}{reason}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default(),
        key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
    Content {
        /// Path of the file.
        path: PathBuf,
        /// Line, from 1, where one can be told.
        line: Option<usize>,
        /// Key with its table, such as `workers.batch`, where one can be told.
        key: Option<String>,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl Config {
    /// Reads and checks a node file.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be read, is no TOML, has an unknown key, lacks a required one, or has a
    /// value that makes no sense.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|error| ConfigError::Read {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(&text, path)
    }

    /// As [`Config::load`], for the text of a node file; `path` is what errors name and where relative paths
    /// begin.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let content = |key: Option<String>, error: &toml::de::Error| ConfigError::Content {
            path: path.to_owned(),
            line: error.span().map(|span| line_at(text, span.start)),
            key,
            reason: error.message().split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let document = toml::Deserializer::parse(text).map_err(|error| content(None, &error))?;
        let mut config: Self = serde_path_to_error::deserialize(document).map_err(|error| {
            let key = Some(error.path().to_string()).filter(|key| key != ".");
            content(key, error.inner())
        })?;
        config.check_source(text, path)?;
        config.check_interfaces(text, path)?;
        config.check_contradictions(text, path)?;
        config.check_pools(text, path)?;
        config.begin_at(path.parent().unwrap_or(Path::new("")));
        Ok(config)
    }

    /// The uplink cannot be a side of the host port, which is made and removed.
    fn check_interfaces(&self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let host_port = &self.host_port.name;
        let uplink = &self.uplink.interface;
        if *uplink != host_port.kernel_side() && *uplink != host_port.switch_side() {
            return Ok(());
        }
        // The fault is that of the key that was chosen, not of the one that has its default.
        let (table, key, reason) = match line_of_key(text, "host-port", "name") {
            Some(_) => {
                let other = host_port.switch_side();
                let reason = format!(
                    "`{host_port}` makes the interfaces {host_port} and {other}, one of which is the uplink"
                );
                ("host-port", "name", reason)
            }
            None => (
                "uplink",
                "interface",
                format!("`{uplink}` is an interface that host-port.name `{host_port}` makes"),
            ),
        };
        Err(ConfigError::Content {
            path: path.to_owned(),
            line: line_of_key(text, table, key),
            key: Some(format!("{table}.{key}")),
            reason: format!("{reason}; name another interface"),
        })
    }
}

/// Line, from 1, of a key in a table of a node file.
fn line_of_key(text: &str, table: &str, key: &str) -> Option<usize> {
    let document = toml::de::DeTable::parse(text).ok()?;
    let (key, _) = document
        .get_ref()
        .get(table)?
        .get_ref()
        .as_table()?
        .get_key_value(key)?;
    Some(line_at(text, key.span().start))
}

/// Line, from 1, of a byte of the text.
fn line_at(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

#[cfg(test)]
mod tests;
