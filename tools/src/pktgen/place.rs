//! An interface, wherever it is: in this process's network namespace or in another.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use millrace_dataplane::wire::MacAddr;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Deserialize;

use super::error::PktgenError;

/// Where `ip netns` keeps its named namespaces.
const NAMESPACE_FOLDER: &str = "/run/netns";

/// An interface and its network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The interface's name.
    pub interface: String,
    /// The file of its namespace; `None` for the one this process is in.
    pub namespace: Option<PathBuf>,
}

/// What has to be known of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Its number in its namespace.
    pub ifindex: u32,
    /// Its link address.
    pub mac: MacAddr,
    /// How many queues it may receive by; it may use fewer of them.
    pub queues: u32,
    /// The longest packet it takes, in bytes behind the Ethernet header.
    pub mtu: u32,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether it was told to take frames for anybody.
    pub is_promiscuous: bool,
}

/// One interface in the output of `ip -json -details link show`.
#[derive(Debug, Deserialize)]
struct Link {
    ifindex: u32,
    address: String,
    num_rx_queues: Option<u32>,
    mtu: Option<u32>,
    #[serde(default)]
    flags: Vec<String>,
}

impl Place {
    /// An interface of this process's own namespace.
    #[must_use]
    pub fn here(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            namespace: None,
        }
    }

    /// An interface in the namespace with this name (as `ip netns` lists it) or file.
    #[must_use]
    pub fn inside(interface: &str, namespace: &str) -> Self {
        let path = if namespace.contains('/') {
            PathBuf::from(namespace)
        } else {
            Path::new(NAMESPACE_FOLDER).join(namespace)
        };
        Self {
            interface: interface.to_owned(),
            namespace: Some(path),
        }
    }

    /// Calls `work` in the interface's namespace, on a thread of its own. A socket made there stays in it.
    ///
    /// # Errors
    /// [`PktgenError::Namespace`] when it cannot be entered, [`PktgenError::Thread`] without a thread.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, PktgenError> {
        const NAME: &str = "in-namespace";
        let enter = || match &self.namespace {
            None => Ok(()),
            Some(path) => File::open(path).and_then(|file| {
                Ok(move_into_link_name_space(
                    file.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )?)
            }),
        };
        let ended = thread::scope(|scope| {
            let body = || enter().map(|()| work());
            let started = thread::Builder::new()
                .name(NAME.to_owned())
                .spawn_scoped(scope, body);
            started.map(thread::ScopedJoinHandle::join)
        });
        let ended = ended.map_err(|source| PktgenError::Thread { name: NAME, source })?;
        ended
            .map_err(|_| PktgenError::Panicked(NAME))?
            .map_err(|source| PktgenError::Namespace {
                namespace: self
                    .namespace
                    .as_ref()
                    .map_or_else(String::new, |path| path.display().to_string()),
                source,
            })
    }

    /// What `ip` says of the interface.
    ///
    /// # Errors
    /// [`PktgenError::Interface`] when there is none, or `ip` (package iproute2) is not there.
    pub fn facts(&self) -> Result<Facts, PktgenError> {
        let failed = |reason: String| PktgenError::Interface {
            place: self.to_string(),
            reason,
        };
        let arguments = ["-json", "-details", "link", "show", "dev", &self.interface];
        parse_facts(&self.ip(&arguments)?).map_err(failed)
    }

    /// Takes frames for anybody from now on, or no longer.
    ///
    /// # Errors
    /// [`PktgenError::Interface`] with what `ip` said.
    pub(crate) fn set_promiscuous(&self, is_on: bool) -> Result<(), PktgenError> {
        let state = if is_on { "on" } else { "off" };
        self.ip(&["link", "set", "dev", &self.interface, "promisc", state])
            .map(drop)
    }

    /// Has `ip` do something in the interface's namespace; answers what it printed.
    fn ip(&self, arguments: &[&str]) -> Result<Vec<u8>, PktgenError> {
        let failed = |reason: String| PktgenError::Interface {
            place: self.to_string(),
            reason,
        };
        let mut line = Command::new("ip");
        line.args(arguments);
        let output = self
            .within(move || line.output())?
            .map_err(|e| failed(format!("`ip` does not run: {e}")))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(output.stdout)
    }
}

/// Reads what `ip` printed.
fn parse_facts(json: &[u8]) -> Result<Facts, String> {
    let links: Vec<Link> =
        serde_json::from_slice(json).map_err(|e| format!("`ip` printed something else: {e}"))?;
    let link = links.into_iter().next().ok_or("`ip` printed no interface")?;
    let mac = link
        .address
        .parse()
        .map_err(|_| format!("it has no Ethernet address, but {:?}", link.address))?;
    let has = |flag: &str| link.flags.iter().any(|other| other == flag);
    Ok(Facts {
        ifindex: link.ifindex,
        mac,
        queues: link.num_rx_queues.unwrap_or(1).max(1),
        mtu: link.mtu.unwrap_or(u32::MAX),
        is_up: has("UP"),
        is_promiscuous: has("PROMISC"),
    })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            None => f.write_str(&self.interface),
            Some(path) => write!(f, "{} in {}", self.interface, path.display()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_ip_prints_is_understood() {
        let json = br#"[{"ifindex":7,"link_index":2,"ifname":"eth0","flags":["UP"],"mtu":1500,
            "address":"02:00:00:00:00:07","num_tx_queues":2,"num_rx_queues":2}]"#;
        let facts = Facts {
            ifindex: 7,
            mac: MacAddr([2, 0, 0, 0, 0, 7]),
            queues: 2,
            mtu: 1500,
            is_up: true,
            is_promiscuous: false,
        };
        assert_eq!(parse_facts(json), Ok(facts));
        for (text, problem) in [
            ("", "something else"),
            ("[]", "no interface"),
            (r#"[{"ifindex":1,"address":"0.0.0.0"}]"#, "no Ethernet address"),
        ] {
            let error = parse_facts(text.as_bytes()).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn a_namespace_is_a_name_or_a_file() {
        let file = |namespace| Place::inside("eth0", namespace).namespace.unwrap();
        assert_eq!(file("sink"), Path::new("/run/netns/sink"));
        assert_eq!(file("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = Place::inside("eth0", "/nowhere/at/all")
            .facts()
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
        let error = Place::here("no-such-link").facts().unwrap_err().to_string();
        assert!(error.contains("no-such-link"), "{error}");
    }
}
