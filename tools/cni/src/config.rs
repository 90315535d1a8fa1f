//! The network's configuration, as it comes on standard input (CNI 1.1, section 1).

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::bandwidth::{Bandwidth, RawBandwidth};
use crate::call::{Command, is_name};
use crate::error::{CniError, DECODING_FAILURE, INCOMPATIBLE_VERSION, INVALID_CONFIG};

/// The daemon's admin socket, where the configuration does not say: that of the node file's own default.
pub const DEFAULT_SOCKET: &str = "/run/millrace/millrace.sock";
/// The folder of the store of addresses, where the configuration does not say.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/millrace/ipam";
/// Longest name of a network, in bytes: what still fits a file's name together with container and interface.
const NETWORK_MAX_BYTES: usize = 100;
/// In the store's folder, that of networks beside the cluster's own; hidden from who looks for attachments.
const NETWORKS_FOLDER: &str = ".networks";
/// Where GC finds what is still there.
const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.1.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: no family beside an address.
    V1_0_0,
    /// 1.1.0: GC and STATUS; MTUs in results.
    V1_1_0,
}

impl Version {
    /// All that are spoken, the oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As it is written.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    fn read(text: &str) -> Result<Self, CniError> {
        let found = Self::ALL.into_iter().find(|version| version.text() == text);
        found.ok_or_else(|| CniError {
            code: INCOMPATIBLE_VERSION,
            msg: format!("cniVersion {text:?} is not spoken here"),
            details: format!("these are: {}", Self::ALL.map(Self::text).join(", ")),
        })
    }

    /// The first version that has the verb.
    fn with(command: Command) -> Self {
        match command {
            Command::Add | Command::Del | Command::Version => Self::V0_3_1,
            Command::Check => Self::V0_4_0,
            Command::Gc | Command::Status => Self::V1_1_0,
        }
    }
}

/// A network's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `cniVersion`.
    pub version: Version,
    /// `name`.
    pub network: String,
    /// `socket`: the daemon's admin socket.
    pub socket: PathBuf,
    /// `dataDir`: the folder of the store of addresses.
    pub data_dir: PathBuf,
    /// `dns`, of the runtime's own configuration before the network's; an object.
    pub dns: Option<Value>,
    /// `prevResult`: what the plugins before this one made, for CHECK and DEL what all made.
    pub previous: Option<Value>,
    /// `runtimeConfig.ips`: the addresses that are asked for, at most one of a family.
    pub ips: Vec<IpAddr>,
    /// `network`: one beside the cluster's own.
    pub second: Option<SecondNetwork>,
    /// `runtimeConfig.mac`, in such a network.
    pub mac: Option<String>,
    /// `runtimeConfig.portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// The network's own rates, and those of `runtimeConfig.bandwidth`.
    pub bandwidth: Bandwidth,
    /// What GC is to leave, container and interface; `None` where nothing is said of it.
    pub valid: Option<Vec<(String, String)>>,
}

/// A network beside the cluster's own, by its number. What else its definition says is the daemon's business, which has
/// checked it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct SecondNetwork {
    /// Its VXLAN network identifier.
    pub vni: u32,
    /// The UDP port of its tunnels.
    #[serde(default = "default_port")]
    pub port: u16,
}

/// As the daemon has it where a definition does not say.
fn default_port() -> u16 {
    8472
}

/// A port of the node that is to lead to the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// The node's address at which it does; all of them where it is absent.
    pub host_ip: Option<IpAddr>,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// The node's port.
    pub host_port: u16,
    /// The container's.
    pub container_port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    cni_version: String,
    #[serde(default)]
    name: String,
    #[serde(default, rename = "type")]
    _kind: Option<String>,
    #[serde(default)]
    socket: Option<PathBuf>,
    #[serde(default)]
    data_dir: Option<PathBuf>,
    #[serde(default)]
    ipam: Option<Map<String, Value>>,
    #[serde(default)]
    dns: Option<Map<String, Value>>,
    #[serde(default)]
    network: Option<SecondNetwork>,
    #[serde(default)]
    prev_result: Option<Map<String, Value>>,
    #[serde(default)]
    runtime_config: Option<RawRuntime>,
    // Said to the runtime, and not to us.
    #[serde(default, rename = "capabilities")]
    _capabilities: Option<Value>,
    #[serde(default, rename = "args")]
    _args: Option<Value>,
    #[serde(flatten)]
    bandwidth: RawBandwidth,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRuntime {
    #[serde(default)]
    port_mappings: Option<Vec<RawMapping>>,
    #[serde(default)]
    ips: Option<Vec<String>>,
    #[serde(default)]
    mac: Option<String>,
    bandwidth: Option<Map<String, Value>>,
    #[serde(default)]
    dns: Option<Map<String, Value>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMapping {
    #[serde(default)]
    host_port: i64,
    #[serde(default)]
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

#[derive(Deserialize)]
struct RawAttachment {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

/// The `cniVersion` of a configuration, as it is written; empty if that cannot be read.
#[must_use]
pub fn version_text(input: &[u8]) -> String {
    let object: Result<Value, _> = serde_json::from_slice(input);
    let text = object
        .ok()
        .and_then(|object| Some(object.get("cniVersion")?.as_str()?.to_owned()));
    text.unwrap_or_default()
}

impl Config {
    /// The folder of the store of addresses: each network has its own, since addresses of two may be the same.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        match self.second {
            None => self.data_dir.clone(),
            Some(network) => self
                .data_dir
                .join(NETWORKS_FOLDER)
                .join(format!("{}-{}", network.vni, network.port)),
        }
    }

    /// Reads a configuration for a verb.
    ///
    /// # Errors
    /// [`CniError`], with what is wrong and where.
    pub fn read(input: &[u8], command: Command) -> Result<Self, CniError> {
        let raw: Raw = serde_json::from_slice(input).map_err(|error| {
            CniError::new(
                DECODING_FAILURE,
                format!("the configuration does not read as one of CNI: {error}"),
            )
        })?;
        let version = Version::read(&raw.cni_version)?;
        if version < Version::with(command) {
            return Err(CniError::new(
                INCOMPATIBLE_VERSION,
                format!("cniVersion {} has no {}", version.text(), command.word()),
            ));
        }
        if !is_name(&raw.name) || raw.name.len() > NETWORK_MAX_BYTES {
            return Err(CniError::new(
                INVALID_CONFIG,
                format!(
                    "name is {:?}, and has to be of letters, digits, '_', '.' and '-', the first of them a letter or digit, \
                     and at most {NETWORK_MAX_BYTES} long",
                    raw.name
                ),
            ));
        }
        if let Some(ipam) = raw.ipam.filter(|ipam| !ipam.is_empty()) {
            let why = "addresses are given by this plugin itself, from the node's pod CIDRs; leave it out";
            return Err(CniError::field("ipam", Value::Object(ipam), why));
        }
        let valid = valid(&raw.rest)?;
        // Keys with a domain in them are of whoever has that domain, a runtime's say.
        if let Some((key, value)) = raw.rest.iter().find(|(key, _)| !key.contains('/')) {
            return Err(CniError::field(key, value, "there is no such key"));
        }
        let runtime = raw.runtime_config.unwrap_or_default();
        refuse_unknown(&runtime.rest)?;
        let mac = runtime.mac.filter(|mac| !mac.is_empty());
        if let (Some(mac), None) = (&mac, &raw.network) {
            return Err(CniError::field(
                "runtimeConfig.mac",
                mac,
                "a pod's first MAC address follows from its name",
            ));
        }
        let dns = runtime.dns.filter(|dns| !dns.is_empty()).or(raw.dns);
        Ok(Self {
            version,
            network: raw.name,
            socket: raw.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            data_dir: raw.data_dir.unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            dns: dns.map(Value::Object),
            previous: raw.prev_result.map(Value::Object),
            ips: ips(runtime.ips.unwrap_or_default())?,
            second: raw.network,
            mac,
            port_mappings: mappings(runtime.port_mappings.unwrap_or_default())?,
            bandwidth: Bandwidth::read(&raw.bandwidth, runtime.bandwidth)?,
            valid,
        })
    }
}

/// A list that is null is an empty one: that is how libcni writes it.
fn valid(rest: &Map<String, Value>) -> Result<Option<Vec<(String, String)>>, CniError> {
    let Some(value) = rest.get(VALID_ATTACHMENTS) else {
        return Ok(None);
    };
    let list: Option<Vec<RawAttachment>> = serde_json::from_value(value.clone()).map_err(|error| {
        CniError::new(
            DECODING_FAILURE,
            format!("{VALID_ATTACHMENTS} is no list of attachments: {error}"),
        )
    })?;
    let pairs = list.unwrap_or_default().into_iter();
    Ok(Some(
        pairs
            .map(|attachment| (attachment.container, attachment.ifname))
            .collect(),
    ))
}

/// What a runtime passes on because the configuration says that we can do it, and we cannot.
fn refuse_unknown(rest: &Map<String, Value>) -> Result<(), CniError> {
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::Object(map) => map.values().any(|value| !matches!(value.as_f64(), Some(0.0))),
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    };
    let Some((key, value)) = rest.iter().find(|(_, value)| is_set(value)) else {
        return Ok(());
    };
    let why = match key.as_str() {
        "ipRanges" => "addresses are from the node's pod CIDRs",
        _ => "this plugin has no such capability; take it out of capabilities",
    };
    Err(CniError::field(&format!("runtimeConfig.{key}"), value, why))
}

/// The addresses that are asked for; a prefix length may stand behind one.
fn ips(texts: Vec<String>) -> Result<Vec<IpAddr>, CniError> {
    let mut ips: Vec<IpAddr> = Vec::new();
    for text in texts {
        let address = text
            .parse()
            .ok()
            .or_else(|| text.parse::<IpNet>().ok().map(|net| net.addr()));
        let refuse = |why| Err(CniError::field("runtimeConfig.ips", &text, why));
        match address {
            None => return refuse("that is no IP address"),
            Some(ip) if ips.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {
                return refuse("a pod has one address of a family");
            }
            Some(ip) => ips.push(ip),
        }
    }
    Ok(ips)
}

fn mappings(raw: Vec<RawMapping>) -> Result<Vec<PortMapping>, CniError> {
    let mut mappings = Vec::new();
    // Some runtimes name container ports that have no host port, too.
    for mapping in raw.into_iter().filter(|mapping| mapping.host_port != 0) {
        let refuse = |field: &str, value: &dyn std::fmt::Display, why| {
            CniError::field(&format!("runtimeConfig.portMappings.{field}"), value, why)
        };
        let port = |field, number: i64| {
            let port = u16::try_from(number).ok().filter(|port| *port != 0);
            port.ok_or_else(|| refuse(field, &number, "a port is within 1..=65535"))
        };
        let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => "TCP",
            "udp" => "UDP",
            "sctp" => "SCTP",
            _ => {
                return Err(refuse(
                    "protocol",
                    &mapping.protocol,
                    "one of tcp, udp, sctp would be right",
                ));
            }
        };
        let host_ip = match mapping.host_ip.as_str() {
            "" => None,
            text => {
                let ip = text.parse();
                Some(ip.map_err(|_| refuse("hostIP", &text, "that is no IP address"))?)
            }
        };
        let mapping = PortMapping {
            host_ip,
            protocol,
            host_port: port("hostPort", mapping.host_port)?,
            container_port: port("containerPort", mapping.container_port)?,
        };
        // kubelet passes one on twice where a pod names it twice.
        if !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::UNSUPPORTED_FIELD;

    /// The least configuration, with more keys.
    fn read(more: &Value, command: Command) -> Result<Config, CniError> {
        let mut config = json!({"cniVersion": "1.1.0", "name": "pods", "type": "millrace-cni"});
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        Config::read(config.to_string().as_bytes(), command)
    }

    #[test]
    fn the_least_is_enough() {
        let config = read(&json!({}), Command::Add).unwrap();
        assert_eq!(
            (config.socket.to_str(), config.data_dir.to_str()),
            (Some(DEFAULT_SOCKET), Some(DEFAULT_DATA_DIR))
        );
        assert_eq!(
            (config.valid, config.previous, config.port_mappings.len()),
            (None, None, 0)
        );
    }

    #[test]
    fn the_example_is_a_list_with_one_plugin_whose_keys_are_all_there_are() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/10-millrace.conflist");
        let list: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut config = list["plugins"][0].clone();
        for key in ["cniVersion", "name"] {
            config[key] = list[key].clone();
        }
        assert_eq!(
            Config::read(config.to_string().as_bytes(), Command::Add),
            read(&json!({}), Command::Add)
        );
    }

    #[test]
    fn what_makes_no_sense_is_named_with_the_code_of_the_specification() {
        for (more, code, words) in [
            (json!({"cniVersion": "0.2.0"}), INCOMPATIBLE_VERSION, "0.2.0"),
            (json!({"cniVersion": "9.9"}), INCOMPATIBLE_VERSION, "9.9"),
            (json!({"cniVersion": ""}), INCOMPATIBLE_VERSION, "cniVersion"),
            (json!({"cniVersion": 7}), DECODING_FAILURE, "invalid type"),
            (json!({"name": ""}), INVALID_CONFIG, "name is"),
            (json!({"name": "../x"}), INVALID_CONFIG, "name is"),
            (json!({"datadir": "/x"}), UNSUPPORTED_FIELD, "datadir = \"/x\""),
            (
                json!({"ipam": {"type": "host-local"}}),
                UNSUPPORTED_FIELD,
                "ipam = ",
            ),
            (
                json!({"runtimeConfig": {"bandwidth": {"ingressBurst": 1000}}}),
                UNSUPPORTED_FIELD,
                "runtimeConfig.bandwidth.ingressBurst = 1000",
            ),
            (
                json!({"egressBurst": 1000}),
                UNSUPPORTED_FIELD,
                "egressBurst = 1000",
            ),
            (
                json!({"runtimeConfig": {"bandwith": {"ingressRate": 1000}}}),
                UNSUPPORTED_FIELD,
                "runtimeConfig.bandwith = ",
            ),
            (
                json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}}),
                UNSUPPORTED_FIELD,
                "runtimeConfig.mac = ",
            ),
            (
                json!({"runtimeConfig": {"ips": ["nonsense"]}}),
                UNSUPPORTED_FIELD,
                "runtimeConfig.ips = nonsense",
            ),
            (
                json!({"runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2/24"]}}),
                UNSUPPORTED_FIELD,
                "10.0.0.2/24",
            ),
            (
                json!({"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 80}]}}),
                UNSUPPORTED_FIELD,
                "hostPort = 70000",
            ),
            (
                json!({"runtimeConfig": {"portMappings": [{"hostPort": 80}]}}),
                UNSUPPORTED_FIELD,
                "containerPort = 0",
            ),
            (
                json!({"runtimeConfig": {"portMappings": [{"hostPort": 8, "containerPort": 80, "protocol": "icmp"}]}}),
                UNSUPPORTED_FIELD,
                "protocol = icmp",
            ),
            (
                json!({"runtimeConfig": {"portMappings": [{"hostPort": 8, "containerPort": 80, "hostIP": "x"}]}}),
                UNSUPPORTED_FIELD,
                "hostIP = x",
            ),
        ] {
            let error = read(&more, Command::Add).unwrap_err();
            assert_eq!(error.code, code, "{more}: {error}");
            assert!(error.msg.contains(words), "{more}: {error}");
        }
        let error = Config::read(b"{", Command::Add).unwrap_err();
        assert_eq!(error.code, DECODING_FAILURE, "{error}");
    }

    #[test]
    fn a_verb_is_there_from_its_version_on() {
        for (version, command, is_there) in [
            ("0.3.1", Command::Add, true),
            ("0.3.1", Command::Del, true),
            ("0.3.1", Command::Check, false),
            ("0.4.0", Command::Check, true),
            ("1.0.0", Command::Gc, false),
            ("1.0.0", Command::Status, false),
            ("1.1.0", Command::Gc, true),
            ("1.1.0", Command::Status, true),
        ] {
            let read = read(&json!({"cniVersion": version}), command);
            assert_eq!(read.is_ok(), is_there, "{version} {command:?}");
            assert!(read.is_ok() || read.unwrap_err().code == INCOMPATIBLE_VERSION);
        }
    }

    #[test]
    fn port_mappings_are_read_as_runtimes_write_them() {
        let config = read(
            &json!({"runtimeConfig": {"bandwidth": {"ingressRate": 0}, "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                {"hostPort": 8080, "containerPort": 80, "protocol": "TCP"},
                {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "::1"},
                {"hostPort": 0, "containerPort": 9},
            ]}}),
            Command::Add,
        );
        let mappings = config.unwrap().port_mappings;
        let rows: Vec<_> = mappings
            .iter()
            .map(|m| {
                (
                    m.host_ip.map(|ip| ip.to_string()),
                    m.protocol,
                    m.host_port,
                    m.container_port,
                )
            })
            .collect();
        assert_eq!(
            rows,
            [(None, "TCP", 8080, 80), (Some("::1".into()), "UDP", 53, 5353)]
        );
    }

    #[test]
    fn what_is_still_there_may_be_nothing_but_has_to_be_said() {
        let key = VALID_ATTACHMENTS;
        let valid = |value: Value| read(&json!({key: value, "cni.dev/attachments": []}), Command::Gc);
        let one = valid(json!([{"containerID": "a", "ifname": "eth0"}])).unwrap();
        assert_eq!(one.valid, Some(vec![("a".into(), "eth0".into())]));
        assert_eq!(valid(Value::Null).unwrap().valid, Some(Vec::new()));
        assert_eq!(valid(json!("x")).unwrap_err().code, DECODING_FAILURE);
        assert_eq!(read(&json!({}), Command::Gc).unwrap().valid, None);
    }
}
