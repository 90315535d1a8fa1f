//! Pods' ports: what is asked for when one is made, found again and taken away.
//!
//! A container runtime tells attachments apart by the network's name, the container's id and the interface's name
//! (CNI 1.1, section 2). A pod's port that was asked for with them is found by them.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Bandwidth, DnsFacts};
use crate::objects::Protocol;

/// See [`Request::Attach`](super::Request::Attach).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// The pod, `NAMESPACE/NAME`.
    pub pod: String,
    /// Its network namespace: a path as under `/run/netns` or `/proc/PID/ns/net`.
    pub netns: PathBuf,
    /// Its addresses; empty means: those of its Pod object.
    pub addresses: Vec<IpAddr>,
    /// What the interface is to be called inside the pod.
    pub interface: String,
    /// Whose it is, where a container runtime asks. Such a request may be repeated, and takes the place of an earlier
    /// container of the same pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// Ports of the node that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// What it may send and be sent in a second.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// A container of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Container {
    /// The network's name.
    pub network: String,
    /// The container's id.
    pub id: String,
}

/// By what a container runtime tells an interface from all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The container's id.
    pub container: String,
    /// The interface's name inside the container.
    pub interface: String,
}

impl Attach {
    /// By what it is found again.
    #[must_use]
    pub fn attachment(&self) -> Option<Attachment> {
        self.container.as_ref().map(|container| Attachment {
            network: container.network.clone(),
            container: container.id.clone(),
            interface: self.interface.clone(),
        })
    }
}

/// A port of the node that leads to a port of a pod, as `hostPort` of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HostPort {
    /// The node's address at which it does; all of one family where it is unspecified (`0.0.0.0`, `::`), all of both where
    /// it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The node's port.
    pub host_port: NonZeroU16,
    /// The pod's.
    pub container_port: NonZeroU16,
}

impl HostPort {
    /// Whether a packet to this address of the node is meant, whatever its port.
    #[must_use]
    pub fn is_at(&self, address: IpAddr) -> bool {
        self.host_ip
            .is_none_or(|own| own == address || own.is_unspecified() && own.is_ipv4() == address.is_ipv4())
    }

    /// Whether some packet could be meant by both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let is_at = |one: &Self, other: &Self| other.host_ip.is_none_or(|address| one.is_at(address));
        (self.protocol, self.host_port) == (other.protocol, other.host_port)
            && (is_at(self, other) || is_at(other, self))
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host_ip {
            Some(address) => write!(f, "hostPort {address} {} {}", self.protocol, self.host_port),
            None => write!(f, "hostPort {} {}", self.protocol, self.host_port),
        }
    }
}

/// The answer to [`Request::Attach`](super::Request::Attach).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The pod, `NAMESPACE/NAME`.
    pub pod: String,
    /// The interface on the node.
    pub interface: String,
    /// The switch's MAC address on it, which is that of the gateways.
    pub host_mac: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The gateways of their families.
    pub gateways: Vec<IpAddr>,
    /// The MAC address of the pod's end.
    pub mac: String,
    /// The longest packet that the pod may send, in bytes, without the Ethernet header.
    pub mtu: u32,
}

/// See [`Request::Verify`](super::Request::Verify).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The port.
    pub attachment: Attachment,
    /// The network namespace that the pod's end is in.
    pub netns: PathBuf,
    /// The addresses it should have.
    pub addresses: Vec<IpAddr>,
    /// What it should be held to; absent if that is not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
}

/// See [`Request::Retain`](super::Request::Retain).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retain {
    /// The network's name.
    pub network: String,
    /// Its attachments that are still there, each by container and interface.
    pub valid: Vec<(String, String)>,
}

/// The answer to [`Request::ShowNode`](super::Request::ShowNode): what a pod's addresses are chosen by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The node's name.
    pub node: String,
    /// The prefixes of its pods' addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses in them that no pod may have.
    pub reserved: Vec<IpAddr>,
    /// The longest packet of a pod, in bytes; `None` while the uplink is gone.
    pub mtu: Option<u32>,
    /// How many ports there is room for still.
    pub ports_free: usize,
    /// How a pod resolves names, where the node has a resolver of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsFacts>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn host_port(host_ip: Option<&str>, protocol: Protocol, port: u16) -> HostPort {
        HostPort {
            host_ip: host_ip.map(|text| text.parse().unwrap()),
            protocol,
            host_port: NonZeroU16::new(port).unwrap(),
            container_port: NonZeroU16::new(80).unwrap(),
        }
    }

    #[test]
    fn host_ports_overlap_where_one_packet_could_be_meant_by_both() {
        let row = |a: Option<&str>, b: Option<&str>| {
            let (a, b) = (host_port(a, Protocol::Tcp, 80), host_port(b, Protocol::Tcp, 80));
            assert_eq!(a.overlaps(&b), b.overlaps(&a), "{a} {b}");
            a.overlaps(&b)
        };
        assert!(row(None, None));
        assert!(row(None, Some("192.0.2.1")));
        assert!(row(None, Some("::")));
        assert!(row(Some("192.0.2.1"), Some("192.0.2.1")));
        assert!(row(Some("0.0.0.0"), Some("192.0.2.1")));
        assert!(!row(Some("192.0.2.1"), Some("192.0.2.2")));
        assert!(!row(Some("0.0.0.0"), Some("2001:db8::1")));
        assert!(!row(Some("0.0.0.0"), Some("::")));
        let udp = host_port(None, Protocol::Udp, 80);
        assert!(!udp.overlaps(&host_port(None, Protocol::Tcp, 80)));
        assert!(!udp.overlaps(&host_port(None, Protocol::Udp, 81)));
    }

    #[test]
    fn an_attach_of_before_there_were_containers_is_still_understood() {
        let old = r#"{"pod":"default/a","netns":"/run/netns/a","addresses":[],"interface":"eth0"}"#;
        let attach: Attach = serde_json::from_str(old).unwrap();
        assert_eq!(attach.attachment(), None);
        assert_eq!(serde_json::to_string(&attach).unwrap(), old);
        let wrong = r#"{"pod":"a/b","netns":"n","addresses":[],"interface":"eth0","host_ports":[
            {"protocol":"TCP","host-port":0,"container-port":80}]}"#;
        assert!(serde_json::from_str::<Attach>(wrong).is_err());
    }
}
