//! What is asked of the daemon, over its admin socket: one line of JSON each way, as `millrace` itself asks.

use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::bandwidth::Bandwidth;
use crate::call::Call;
use crate::config::{Config, SecondNetwork};
use crate::store::Owner;
use crate::store::disk::take;

/// How long the daemon may take for an answer; it gives up by itself before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// The file whose lock is the turn to speak.
const TURN: &str = ".turn";
/// The daemon's status for a request that makes no sense.
const WRONG: u8 = 2;

/// Why the daemon did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// It cannot be reached, or was gone before it answered: whether it did anything is not known.
    #[error("the daemon does not answer at {}: {reason}", .socket.display())]
    Away {
        /// Its socket.
        socket: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// Nobody can have the turn to speak to it.
    #[error("cannot lock {TURN} in {}: {source}", .folder.display())]
    Turn {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It says that it failed.
    #[error("{0}")]
    Failed(String),
    /// It says that it will not.
    #[error("{0}")]
    Refused(String),
}

/// What a container's addresses are chosen by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NodeFacts {
    /// The prefixes of the node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses in them that no pod may have.
    pub reserved: Vec<IpAddr>,
    /// The longest packet of a pod; `None` while the uplink is gone.
    pub mtu: Option<u32>,
    /// How many ports there is room for still.
    pub ports_free: usize,
    /// How a container resolves names, where the node has a resolver of its own.
    #[serde(default)]
    pub dns: Option<Resolver>,
}

/// The node's own resolver, as containers are told of it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Resolver {
    /// Its addresses.
    pub nameservers: Vec<IpAddr>,
    /// The cluster's domain.
    pub domain: String,
}

/// An interface that was made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Attached {
    /// The interface on the node.
    pub interface: String,
    /// Its MAC address.
    pub host_mac: String,
    /// The container's addresses.
    pub addresses: Vec<IpAddr>,
    /// The gateways of their families.
    pub gateways: Vec<IpAddr>,
    /// The MAC address of the container's end.
    pub mac: String,
    /// The longest packet of the container, in bytes.
    pub mtu: u32,
}

/// What addresses in a network beside the cluster's own are chosen by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NetworkFacts {
    /// The network, `NAMESPACE/NAME` of its definition.
    pub network: String,
    /// The prefixes of its addresses.
    pub subnets: Vec<IpNet>,
    /// The parts of them from which this node gives addresses.
    pub blocks: Vec<IpNet>,
    /// Addresses that nobody may be given.
    pub reserved: Vec<IpAddr>,
    /// The longest packet; `None` while the uplink is gone.
    pub mtu: Option<u32>,
    /// How many ports there is room for still.
    pub ports_free: usize,
}

/// An interface in a network beside the cluster's own that was made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Joined {
    /// The interface on the node.
    pub interface: String,
    /// Its MAC address.
    pub host_mac: String,
    /// The MAC address of the container's end.
    pub mac: Option<String>,
    /// The container's addresses, with their subnets' prefixes.
    pub addresses: Vec<IpNet>,
    /// The network's routers.
    pub gateways: Vec<IpAddr>,
    /// The routes that the container was given.
    #[serde(default)]
    pub routes: Vec<JoinedRoute>,
    /// The longest packet of the container, in bytes.
    pub mtu: u32,
}

/// A route of an interface in a network beside the cluster's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct JoinedRoute {
    /// Where to.
    pub destination: IpNet,
    /// By which router.
    pub gateway: IpAddr,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Response {
    Ok(Value),
    Error { message: String, status: u8 },
}

/// The daemon, as it is reached.
#[derive(Debug)]
pub struct Daemon<'a> {
    socket: &'a Path,
    /// The folder of the file whose lock is the turn to speak.
    turns: &'a Path,
}

impl<'a> Daemon<'a> {
    /// The daemon of a configuration; it is connected to with each request. One plugin at a time does so: the daemon does
    /// one thing after the other, and has room for so many clients only, fewer than a node has pods after its start.
    #[must_use]
    pub fn of(config: &'a Config) -> Self {
        Self {
            socket: &config.socket,
            turns: &config.data_dir,
        }
    }

    /// What a container's addresses are chosen by.
    ///
    /// # Errors
    /// [`DaemonError`]
    pub fn node_facts(&self) -> Result<NodeFacts, DaemonError> {
        self.ask(&json!({"request": "show-node"}))
    }

    /// Makes a container's interface, or finds that it is there.
    ///
    /// # Errors
    /// [`DaemonError`]
    pub fn attach(
        &self,
        call: &Call,
        config: &Config,
        addresses: &[IpAddr],
    ) -> Result<Attached, DaemonError> {
        let host_ports: Vec<Value> = config
            .port_mappings
            .iter()
            .map(|mapping| {
                let mut port = json!({
                    "protocol": mapping.protocol, "host-port": mapping.host_port,
                    "container-port": mapping.container_port,
                });
                if let Some(host_ip) = mapping.host_ip {
                    port["host-ip"] = json!(host_ip);
                }
                port
            })
            .collect();
        let mut request = json!({
            "request": "attach", "pod": call.pod, "netns": call.netns, "addresses": addresses,
            "interface": call.interface, "container": {"network": config.network, "id": call.container},
            "host_ports": host_ports,
        });
        // A daemon of before there was such a thing refuses it.
        if config.bandwidth != Bandwidth::default() {
            request["bandwidth"] = json!(config.bandwidth);
        }
        self.ask(&request)
    }

    /// What addresses in a network beside the cluster's own are chosen by; `name` is that of its configuration.
    ///
    /// # Errors
    /// [`DaemonError`]
    pub fn network_facts(&self, network: SecondNetwork, name: &str) -> Result<NetworkFacts, DaemonError> {
        self.ask(&json!({"request": "network-facts", "vni": network.vni, "port": network.port, "name": name}))
    }

    /// Makes a container's interface in a network beside the cluster's own, or finds that it is there.
    ///
    /// # Errors
    /// [`DaemonError`]
    pub fn join(
        &self,
        call: &Call,
        config: &Config,
        network: &str,
        addresses: &[IpAddr],
    ) -> Result<Joined, DaemonError> {
        let end = json!({"pod": {"pod": call.pod, "netns": call.netns, "interface": call.interface}});
        let mut request = json!({
            "request": "join", "end": end, "network": network, "mac": config.mac, "addresses": addresses,
            "container": {"network": config.network, "id": call.container},
        });
        // A daemon of before there was such a thing refuses it.
        if config.bandwidth != Bandwidth::default() {
            request["bandwidth"] = json!(config.bandwidth);
        }
        self.ask(&request)
    }

    /// Sees whether a container's interface is as it was made.
    ///
    /// # Errors
    /// [`DaemonError::Failed`] says what is not; otherwise as the others.
    pub fn verify(
        &self,
        owner: &Owner,
        netns: Option<&Path>,
        (addresses, bandwidth): (&[IpAddr], &Bandwidth),
    ) -> Result<(), DaemonError> {
        let mut request = json!({
            "request": "verify", "attachment": owner, "netns": netns, "addresses": addresses,
        });
        // Not every runtime says again with CHECK what it said with ADD.
        if *bandwidth != Bandwidth::default() {
            request["bandwidth"] = json!(bandwidth);
        }
        self.ask(&request).map(|_: Value| ())
    }

    /// Has a container's interface taken away, if it is there.
    ///
    /// # Errors
    /// [`DaemonError`]
    pub fn release(&self, owner: &Owner) -> Result<(), DaemonError> {
        self.ask(&json!({
            "request": "release", "network": owner.network, "container": owner.container,
            "interface": owner.interface,
        }))
        .map(|_: Value| ())
    }

    /// Has the interfaces of all containers of a network taken away but those that are named.
    ///
    /// # Errors
    /// [`DaemonError`]
    pub fn retain(&self, network: &str, valid: &[(String, String)]) -> Result<(), DaemonError> {
        self.ask(&json!({"request": "retain", "network": network, "valid": valid}))
            .map(|_: Value| ())
    }

    fn ask<T: DeserializeOwned>(&self, request: &Value) -> Result<T, DaemonError> {
        let away = |reason: String| DaemonError::Away {
            socket: self.socket.to_owned(),
            reason,
        };
        let _turn = take(self.turns, TURN).map_err(|source| DaemonError::Turn {
            folder: self.turns.to_owned(),
            source,
        })?;
        let line = self.converse(request).map_err(|error| away(error.to_string()))?;
        let answer = serde_json::from_slice(&line)
            .map_err(|error| away(format!("an answer that does not read: {error}")))?;
        match answer {
            Response::Ok(value) => serde_json::from_value(value)
                .map_err(|error| away(format!("an answer of another kind: {error}"))),
            Response::Error {
                message,
                status: WRONG,
            } => Err(DaemonError::Refused(message)),
            Response::Error { message, .. } => Err(DaemonError::Failed(message)),
        }
    }

    fn converse(&self, request: &Value) -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(self.socket)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let sent = stream.write_all(format!("{request}\n").as_bytes());
        let mut line = Vec::new();
        // A daemon that refuses to listen says why and hangs up, maybe before it has read anything.
        let heard = BufReader::new(stream).read_until(b'\n', &mut line);
        if line.last() == Some(&b'\n') {
            return Ok(line);
        }
        sent.and(heard)?;
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "it hung up before it had answered",
        ))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What comes of a daemon that says this and hangs up.
    fn after(answer: &'static str) -> Result<NodeFacts, DaemonError> {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                assert_eq!(line, "{\"request\":\"show-node\"}\n");
                (&stream).write_all(answer.as_bytes()).unwrap();
            });
            let (socket, turns) = (&socket, folder.path());
            Daemon { socket, turns }.node_facts()
        })
    }

    #[test]
    fn an_answer_is_what_was_asked_for_a_failure_or_none() {
        let facts = after(
            "{\"ok\":{\"node\":\"a\",\"pod_cidrs\":[\"10.0.0.0/24\"],\"reserved\":[],\"mtu\":1450,\"ports_free\":7}}\n",
        );
        assert_eq!(facts.unwrap().mtu, Some(1450));
        let failed = after("{\"error\":{\"message\":\"busy\",\"status\":1}}\n");
        assert!(matches!(failed, Err(DaemonError::Failed(message)) if message == "busy"));
        let refused = after("{\"error\":{\"message\":\"no\",\"status\":2}}\n");
        assert!(matches!(refused, Err(DaemonError::Refused(message)) if message == "no"));
        for answer in ["", "{\"ok\":{}", "nonsense\n", "{\"ok\":{}}\n"] {
            assert!(matches!(after(answer), Err(DaemonError::Away { .. })), "{answer}");
        }
        let folder = tempfile::tempdir().unwrap();
        let (socket, turns) = (Path::new("/nowhere/s"), folder.path());
        let nobody = Daemon { socket, turns }.node_facts();
        assert!(nobody.unwrap_err().to_string().contains("/nowhere/s"));
    }
}
