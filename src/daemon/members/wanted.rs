//! What is asked for when a port is to be made, judged.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use millrace_dataplane::table::Role;
use millrace_dataplane::wire::vlan::VlanId;
use sha2::{Digest as _, Sha256};

use super::{MemberRow, with_prefix};
use crate::admin::protocol::{Attachment, Failure, Join, MemberEnd, NetworkFacts};
use crate::daemon::Daemon;
use crate::daemon::compile::networks::mtu_of;
use crate::daemon::pods::parse_pod;
use crate::kernel::{check_interface_name, member_interface_name};
use crate::objects::{NetworkKey, NetworkRecord, UnicastMac};

impl Daemon {
    /// The port that is asked for, as it will be written down.
    pub(super) fn wanted_member(&self, join: &Join) -> Result<MemberRow, Failure> {
        let interface = match &join.end {
            MemberEnd::Tap(tap) => {
                check_interface_name(&tap.name).map_err(|error| Failure::wrong(error.to_string()))?;
                tap.name.clone()
            }
            MemberEnd::Pod(end) => {
                parse_pod(&end.pod)?;
                if join.network.is_none() || !join.trunk.is_empty() {
                    return Err(Failure::wrong(
                        "a pod's interface is in one network, without tags",
                    ));
                }
                member_interface_name(&end.pod, &end.interface)
            }
        };
        let mut row = MemberRow {
            was_there: false,
            interface,
            end: join.end.clone(),
            network: join.network.clone(),
            trunk: join.trunk.clone(),
            mac: self.wanted_mac(join)?,
            addresses: self.wanted_addresses(join)?,
            attachment: None,
            bandwidth: join.bandwidth,
        };
        let wrong = |reason| Failure::wrong(format!("bandwidth of {}: {reason}", row.interface));
        row.bandwidth.check().map_err(wrong)?;
        if let (MemberEnd::Pod(end), Some(container)) = (&join.end, &join.container) {
            row.attachment = Some(Attachment {
                network: container.network.clone(),
                container: container.id.clone(),
                interface: end.interface.clone(),
            });
        }
        // Whether it was there is told by who made it first.
        if let Some(there) = self.members.of_interface(&row.interface) {
            row.was_there = there.was_there;
        } else if self.ports.iter().any(|(_, port)| port.interface == row.interface) {
            let reason = format!("{} is a port of the switch already", row.interface);
            return Err(Failure::wrong(reason));
        }
        self.check_networks(&row)?;
        self.check_routed(&row)?;
        self.check_claims(&row)?;
        Ok(row)
    }

    /// A network by its name.
    pub(in crate::daemon) fn second_network(&self, name: &str) -> Result<&NetworkRecord, Failure> {
        let key: NetworkKey = name
            .parse()
            .map_err(|error| Failure::wrong(format!("{name} is no network: {error}")))?;
        self.store.second_network(&key).map(|network| &**network).ok_or_else(|| {
            let all: Vec<String> = self.store.networks().map(|other| other.key.to_string()).collect();
            let all = if all.is_empty() {
                "there are none".to_owned()
            } else {
                format!("there are {}", all.join(", "))
            };
            Failure::wrong(format!(
                "there is no network {name}: {all}; a NetworkAttachmentDefinition of type millrace-cni makes one"
            ))
        })
    }

    /// What an interface's addresses in a network are chosen by.
    pub(in crate::daemon) fn network_facts(
        &self,
        (vni, port): (u32, u16),
        name: Option<&str>,
    ) -> Result<NetworkFacts, Failure> {
        let mut networks = self.store.networks();
        let network = networks.find(|network| (network.vni.get(), network.port) == (vni, port));
        // The definition may be younger than what is in force here.
        let missing = || {
            Failure::failed(format!(
                "there is no network with VNI {vni} at UDP port {port} in force"
            ))
        };
        let network = network.ok_or_else(missing)?;
        check_cni_name(network, name)?;
        let whole = network.subnets.iter();
        let ends = whole.flat_map(|subnet| {
            let broadcast = subnet.addr().is_ipv4().then(|| subnet.broadcast());
            [Some(subnet.network()), broadcast]
        });
        let taken = self.members.rows().filter(|row| {
            row.attachment.is_none() && row.network.as_deref() == Some(network.key.to_string().as_str())
        });
        let taken = taken.flat_map(|row| row.addresses.iter().map(IpNet::addr));
        Ok(NetworkFacts {
            network: network.key.to_string(),
            subnets: network.subnets.clone(),
            blocks: network
                .node_blocks
                .get(&self.own.name)
                .cloned()
                .unwrap_or_default(),
            reserved: ends
                .flatten()
                .chain(network.gateways.iter().copied())
                .chain(taken)
                .collect(),
            gateways: network.gateways.clone(),
            mtu: self.mtu_of_network(network).map(u32::from),
            ports_free: self
                .ports
                .room()
                .saturating_sub(self.unserved.len() + self.members.waiting()),
        })
    }

    /// The longest packet in a network's frames: its own word, at most what the uplink takes in a tunnel.
    pub(in crate::daemon) fn mtu_of_network(&self, network: &NetworkRecord) -> Option<u16> {
        let uplink = self.ports.of_role(Role::Uplink)?.1.facts.mtu;
        Some(mtu_of(network, &self.own, uplink))
    }

    /// The least of its networks'.
    pub(super) fn mtu_of_member(&self, row: &MemberRow) -> Result<u32, Failure> {
        let mut least = None;
        for name in row.networks() {
            let network = self.second_network(name)?;
            let mtu = self.mtu_of_network(network).ok_or_else(|| {
                Failure::failed("the uplink is gone, so the network's MTU is not known; bring it back first")
            })?;
            least = Some(least.map_or(mtu, |least: u16| least.min(mtu)));
        }
        least.map(u32::from).ok_or_else(|| {
            Failure::wrong("it is to be in no network at all; --network or --trunk would name one")
        })
    }

    fn wanted_mac(&self, join: &Join) -> Result<Option<UnicastMac>, Failure> {
        if join.mac.is_some() && !join.trunk.is_empty() {
            return Err(Failure::wrong(
                "what is behind a trunk may send from any MAC address; leave it out",
            ));
        }
        match (&join.mac, &join.end) {
            (Some(text), _) => {
                let mac = text.parse();
                mac.map(Some)
                    .map_err(|error: crate::objects::MacError| Failure::wrong(error.to_string()))
            }
            (None, MemberEnd::Tap(_)) => Ok(None),
            (None, MemberEnd::Pod(end)) => {
                let mac = UnicastMac::new(derived_mac(&end.pod, &end.interface));
                mac.map(Some).map_err(|error| Failure::failed(error.to_string()))
            }
        }
    }

    fn wanted_addresses(&self, join: &Join) -> Result<Vec<IpNet>, Failure> {
        let Some(name) = &join.network else {
            if join.addresses.is_empty() {
                return Ok(Vec::new());
            }
            return Err(Failure::wrong(
                "addresses are those of one network; leave them out where frames are tagged",
            ));
        };
        if !join.trunk.is_empty() && !join.addresses.is_empty() {
            return Err(Failure::wrong(
                "what is behind a trunk may send from any address; leave addresses out",
            ));
        }
        let network = self.second_network(name)?;
        let mut addresses = Vec::new();
        for address in &join.addresses {
            let Some(subnet) = network.subnet_of(*address) else {
                let subnets: Vec<String> = network.subnets.iter().map(ToString::to_string).collect();
                return Err(Failure::wrong(format!(
                    "{address} is in none of the subnets of {name} ({})",
                    subnets.join(", ")
                )));
            };
            addresses.push(with_prefix(*address, subnet));
        }
        Ok(addresses)
    }

    fn check_networks(&self, row: &MemberRow) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        for name in row.networks() {
            self.second_network(name)?;
            if !seen.insert(name) {
                return Err(Failure::wrong(format!("{name} is named twice")));
            }
        }
        let mut vlans = BTreeSet::new();
        for vlan in &row.trunk {
            if VlanId::new(vlan.vlan).is_none() {
                return Err(Failure::wrong(format!(
                    "{} is no VLAN, one is within 1..=4094",
                    vlan.vlan
                )));
            }
            if !vlans.insert(vlan.vlan) {
                return Err(Failure::wrong(format!("VLAN {} is named twice", vlan.vlan)));
            }
        }
        Ok(())
    }

    /// Nobody else in a network has its MAC address or one of its addresses.
    fn check_claims(&self, row: &MemberRow) -> Result<(), Failure> {
        let others = self
            .members
            .rows()
            .filter(|other| other.interface != row.interface);
        for other in others {
            if !other.networks().any(|name| row.networks().any(|own| own == name)) {
                continue;
            }
            let taken = |what: String| {
                Err(Failure::wrong(format!(
                    "{what} is that of {} already",
                    other.interface
                )))
            };
            if let Some(mac) = row.mac.filter(|mac| other.mac == Some(*mac)) {
                return taken(mac.to_string());
            }
            let theirs: Vec<IpAddr> = other.addresses.iter().map(IpNet::addr).collect();
            if let Some(address) = row.addresses.iter().find(|own| theirs.contains(&own.addr())) {
                return taken(address.addr().to_string());
            }
        }
        Ok(())
    }
}

/// Who asks by a configuration of another name has that of a definition that is refused, since an older one has its number: its
/// pods are not to come into that one's network.
fn check_cni_name(network: &NetworkRecord, name: Option<&str>) -> Result<(), Failure> {
    match name.filter(|name| *name != network.cni_name) {
        None => Ok(()),
        Some(name) => Err(Failure::wrong(format!(
            "VNI {} at UDP port {} is that of network {}, whose configuration is called {}, not {name}; another number would be right",
            network.vni.get(),
            network.port,
            network.key,
            network.cni_name
        ))),
    }
}

/// The MAC address of a pod's interface: locally administered, from its names, so that it keeps it.
fn derived_mac(pod: &str, interface: &str) -> [u8; 6] {
    let digest = Sha256::digest(format!("millrace member {pod}/{interface}"));
    let mut mac = [0; 6];
    for (byte, from) in mac.iter_mut().zip(digest.iter()) {
        *byte = *from;
    }
    // Unicast and locally administered (IEEE 802, section 8.4.4).
    mac[0] = (mac[0] & 0xfc) | 0x02;
    mac
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::objects::{NetworkKind, PeerChoice, Routing, Vni};

    #[test]
    fn a_number_that_is_anothers_leads_into_no_network() {
        let network = NetworkRecord {
            key: NetworkKey::new("lab", "red").unwrap(),
            cni_name: "red".to_owned(),
            vni: Vni::new(100).unwrap(),
            port: 8472,
            subnets: Vec::new(),
            gateways: Vec::new(),
            node_blocks: [].into(),
            peers: PeerChoice {
                nodes: true,
                addresses: Vec::new(),
            },
            mtu: None,
            kind: NetworkKind::Routed(Routing {
                routes_to: Vec::new(),
            }),
        };
        assert_eq!(check_cni_name(&network, None), Ok(()));
        assert_eq!(check_cni_name(&network, Some("red")), Ok(()));
        let failure = check_cni_name(&network, Some("blue")).unwrap_err();
        assert!(
            failure.status == 2 && failure.message.contains("that of network lab/red"),
            "{failure:?}"
        );
    }

    #[test]
    fn a_members_mac_address_is_its_own_and_stays() {
        assert_eq!(derived_mac("shop/web", "net1"), derived_mac("shop/web", "net1"));
        assert_ne!(derived_mac("shop/web", "net1"), derived_mac("shop/web", "net2"));
        assert_eq!(derived_mac("shop/web", "net1")[0] & 3, 2);
    }
}
