//! The switch's ports: their numbers, and what has to be remembered of pods' ports across a restart.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{PortFacts, Role};
use millrace_dataplane::worker::Limits;
use serde::{Deserialize, Serialize};

use super::compile::{NetworkNumbers, PortInput};
use super::fabric::AttachedPort;
use super::members::MemberRow;
use super::nic::NicBefore;
use crate::admin::protocol::{Attachment, Bandwidth, HostPort};
use crate::durable::{StateError, StateFile};
use crate::objects::PodKey;

/// One port of the switch.
pub struct Port {
    /// The interface.
    pub interface: String,
    /// The pod behind it.
    pub pod: Option<PodKey>,
    /// What the tables know of it.
    pub facts: PortFacts,
    /// Its sockets' and its program's handle.
    pub attached: AttachedPort,
    /// By what a container runtime knows it, if one asked for it.
    pub attachment: Option<Attachment>,
    /// Ports of the node that lead to the pod.
    pub host_ports: Vec<HostPort>,
    /// What it may send and be sent in a second, as it was asked for.
    pub bandwidth: Bandwidth,
    /// What the workers hold it to.
    pub limits: Limits,
}

impl Port {
    /// What a person calls it.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.pod {
            Some(pod) => pod.to_string(),
            None => self.interface.clone(),
        }
    }

    /// Whether a person means this port: its interface, its pod, or its role.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        let role = match self.facts.role {
            Role::Uplink => "uplink",
            Role::Host => "host",
            Role::Pod | Role::Segment => "",
        };
        name == self.interface || name == role || self.pod.as_ref().is_some_and(|pod| pod.to_string() == name)
    }
}

/// All ports, by number.
#[derive(Default)]
pub struct Ports {
    ports: BTreeMap<PortId, Port>,
    /// Where the search for a free number begins: one just given up is the last to be given again.
    next: u16,
}

impl Ports {
    /// A number that is free; `None` when all are taken.
    #[must_use]
    pub fn free_id(&mut self) -> Option<PortId> {
        let numbers = (self.next..PortId::LIMIT).chain(0..self.next);
        let id = numbers
            .filter_map(PortId::new)
            .find(|id| !self.ports.contains_key(id))?;
        // INVARIANT: a port's number is below PortId::LIMIT, which fits.
        self.next = u16::try_from(id.index() + 1).unwrap_or(0) % PortId::LIMIT;
        Some(id)
    }

    /// Adds a port under the number it was attached with.
    pub fn insert(&mut self, port: Port) {
        self.ports.insert(port.attached.spec.id, port);
    }

    /// Takes a port out.
    pub fn remove(&mut self, id: PortId) -> Option<Port> {
        self.ports.remove(&id)
    }

    /// A port by its number.
    #[must_use]
    pub fn get(&self, id: PortId) -> Option<&Port> {
        self.ports.get(&id)
    }

    /// A port by its number, to be changed.
    pub fn get_mut(&mut self, id: PortId) -> Option<&mut Port> {
        self.ports.get_mut(&id)
    }

    /// All ports with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        self.ports.iter().map(|(id, port)| (*id, port))
    }

    /// The port of this role; for uplink and host.
    #[must_use]
    pub fn of_role(&self, role: Role) -> Option<(PortId, &Port)> {
        self.iter().find(|(_, port)| port.facts.role == role)
    }

    /// The port of a pod.
    #[must_use]
    pub fn of_pod(&self, pod: &PodKey) -> Option<(PortId, &Port)> {
        self.iter().find(|(_, port)| port.pod.as_ref() == Some(pod))
    }

    /// How many more there is room for.
    #[must_use]
    pub fn room(&self) -> usize {
        usize::from(PortId::LIMIT).saturating_sub(self.ports.len())
    }

    /// What a person calls the port of this number.
    #[must_use]
    pub fn name(&self, id: PortId) -> String {
        self.get(id).map_or_else(|| format!("port {id}"), Port::name)
    }

    /// As input for the tables.
    #[must_use]
    pub fn inputs(&self) -> Vec<PortInput> {
        self.iter()
            .map(|(id, port)| PortInput {
                id,
                ifindex: port.attached.spec.bearer(),
                vlan: port.attached.spec.vlan.map(|vlan| vlan.id),
                facts: port.facts.clone(),
                pod: port.pod.clone(),
                host_ports: port.host_ports.clone(),
            })
            .collect()
    }

    /// Ends the handles of all ports without touching the interfaces.
    pub fn into_attached(self) -> impl Iterator<Item = AttachedPort> {
        self.ports.into_values().map(|port| port.attached)
    }
}

/// What a pod's port is remembered by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PodRow {
    /// The pod, `NAMESPACE/NAME`.
    pub pod: String,
    /// The interface on the node.
    pub interface: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The MAC address of the pod's end.
    pub pod_mac: String,
    /// By what a container runtime knows it, if one asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// Ports of the node that lead to the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// What it may send and be sent in a second.
    #[serde(default, skip_serializing_if = "Bandwidth::is_unlimited")]
    pub bandwidth: Bandwidth,
}

/// What is kept in the state folder for the next start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Saved {
    /// The pods' ports.
    pub ports: Vec<PodRow>,
    /// Ports in networks beside the cluster's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberRow>,
    /// The numbers of networks beside the cluster's own, by which connections name them.
    #[serde(default, skip_serializing_if = "NetworkNumbers::is_empty")]
    pub networks: NetworkNumbers,
    /// Interfaces on which receive merging was turned off, to be turned on again by uninstall.
    #[serde(default)]
    pub gro_was_on: Vec<String>,
    /// Ports that the kernel keeps back for our sake only, as it writes them, to be let go by uninstall.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reserved_ports: String,
    /// What the uplink's device was before it was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nic: Option<NicBefore>,
    /// The stand-in for an ipip device that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stand_in: Option<String>,
    /// The device that the steering program is on, where the uplink is a VLAN on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan_device: Option<String>,
}

impl Saved {
    /// The file.
    pub const FILE: StateFile = StateFile {
        name: "ports.json",
        holds: "state of Millrace",
        remedy: "remove it, and attach the pods anew",
    };

    /// Reads what the last run left; nothing if there was none.
    ///
    /// # Errors
    /// [`StateError`] names the file.
    pub fn load(folder: &Path) -> Result<Self, StateError> {
        Self::FILE.load(folder)
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// [`StateError`] names the file.
    pub fn store(&self, folder: &Path) -> Result<(), StateError> {
        Self::FILE.store(folder, self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::num::{NonZeroU16, NonZeroU64};

    use super::*;
    use crate::admin::protocol::{MemberEnd, PortRate, TapDevice, TrunkVlan};
    use crate::objects::Protocol;

    #[test]
    fn state_is_kept_whole_and_a_wrong_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Saved::load(folder.path()).unwrap(), Saved::default());
        let saved = Saved {
            ports: vec![PodRow {
                pod: "default/web".into(),
                interface: "mr0123456789abc".into(),
                addresses: vec!["10.244.1.2".parse().unwrap()],
                pod_mac: "02:00:00:00:00:01".into(),
                attachment: Some(Attachment {
                    network: "pods".into(),
                    container: "c0ffee".into(),
                    interface: "eth0".into(),
                }),
                host_ports: vec![HostPort {
                    host_ip: None,
                    protocol: Protocol::Udp,
                    host_port: NonZeroU16::new(5353).unwrap(),
                    container_port: NonZeroU16::new(53).unwrap(),
                }],
                bandwidth: Bandwidth {
                    ingress: None,
                    egress: Some(PortRate {
                        rate: NonZeroU64::new(10_000_000).unwrap(),
                        burst: None,
                    }),
                },
            }],
            members: vec![MemberRow {
                interface: "tap0".into(),
                end: MemberEnd::Tap(TapDevice {
                    name: "tap0".into(),
                    user: Some(64_055),
                    group: None,
                }),
                was_there: true,
                network: Some("shop/blue".into()),
                trunk: vec![TrunkVlan {
                    vlan: 7,
                    network: "shop/red".into(),
                }],
                mac: Some("02:00:00:00:00:07".parse().unwrap()),
                addresses: vec!["10.9.0.7/16".parse().unwrap()],
                attachment: None,
                bandwidth: Bandwidth {
                    ingress: Some(PortRate {
                        rate: NonZeroU64::new(5_000_000).unwrap(),
                        burst: NonZeroU64::new(9_000_000),
                    }),
                    egress: None,
                },
            }],
            networks: serde_json::from_str(r#"{"given": {"shop/blue": 7}, "next": 8}"#).unwrap(),
            gro_was_on: vec!["eth1".into()],
            reserved_ports: "61000-65535".into(),
            nic: None,
            stand_in: Some("tunl0".into()),
            vlan_device: Some("eth1".into()),
        };
        saved.store(folder.path()).unwrap();
        assert_eq!(Saved::load(folder.path()).unwrap(), saved);
        std::fs::write(folder.path().join("ports.json"), b"{\"ports\": 7}").unwrap();
        let error = Saved::load(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("ports.json does not read as state of Millrace (")
                && error.ends_with("); remove it, and attach the pods anew"),
            "{error}"
        );
    }
}
