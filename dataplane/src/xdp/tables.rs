//! What the uplink's program decides by, fed from user space.
//!
//! [`SteeringProgram::set_tables`] replaces all tables at once, and each `set_` function one, without a gap: new
//! entries go in before old ones leave, so a packet that was ours before and after is ours all the time. The
//! order matters between tables too. An address that is this node's own is asked for ports, one that is not is
//! taken whole; so where an address changes sides, its ports are there first and go last.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, MapError};
use rustix::thread::{MembarrierCommand, membarrier};

use super::set::{
    AddressKey, AwaitedKey, KernelSet, NodePortKey, PrefixKey, ServicePortKey, address_key, awaited_key,
    failure, map, node_port_key, prefix_key, service_port_key,
};
use super::{ProgramKind, SteeringProgram, XdpError};
use crate::verdict::Awaited;
use crate::wire::IpProtocol;
use crate::wire::vlan::VlanId;

/// How long no run of a program takes.
const RUNS_HAVE_ENDED: Duration = Duration::from_millis(10);

const SETTINGS: &str = "settings";
/// The map of answers that come to no port of ours.
const AWAITED: &str = "awaited";
/// `SETTING_IPIP` of `uplink_tables.bpf.h`.
const SETTING_IPIP: u32 = 0;
/// `SETTING_SNAT_PORTS` of the same.
const SETTING_SNAT_PORTS: u32 = 1;
/// `SETTING_VLAN` of the same.
const SETTING_VLAN: u32 = 2;
/// A port of a Service at an address that is this node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePort {
    /// The address.
    pub address: IpAddr,
    /// TCP, UDP or SCTP.
    pub protocol: IpProtocol,
    /// The destination port, host byte order.
    pub port: u16,
}

/// A port of a Service at every address of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodePort {
    /// TCP, UDP or SCTP.
    pub protocol: IpProtocol,
    /// The destination port, host byte order.
    pub port: u16,
}

/// Everything that the uplink's program decides by, save answers that are awaited. Ports are in host byte order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SteeringTables {
    /// The addresses of this node itself: of what comes to them, only what the other tables name is ours.
    pub local_addresses: Vec<IpAddr>,
    /// UDP destination ports by which a packet to this node is a tunnel packet.
    pub tunnel_ports: Vec<u16>,
    /// Destination ports of this node that always stay with the kernel, in every protocol.
    pub failsafe_ports: Vec<u16>,
    /// Whether IP-in-IP (protocol 4 over IPv4, RFC 2003) to this node is ours.
    pub ipip: bool,
    /// Prefixes of this node's pods: address, length in bits.
    pub pod_prefixes: Vec<(IpAddr, u8)>,
    /// Prefixes of virtual addresses: whatever comes to them is ours, unless the address is this node's own.
    pub service_prefixes: Vec<(IpAddr, u8)>,
    /// Ports of Services at addresses of this node.
    pub service_ports: Vec<ServicePort>,
    /// Ports of Services at every address of this node.
    pub node_ports: Vec<NodePort>,
    /// Ports from which source NAT sends, at every address of this node; `None` if it does not.
    pub snat_ports: Option<RangeInclusive<u16>>,
    /// The VLAN that the underlay is in, whose frames bear its tag; `None` if frames are untagged.
    pub vlan: Option<VlanId>,
}

/// All tables that are sets.
#[derive(Debug)]
pub(super) struct Tables {
    local_addresses: KernelSet<AddressKey>,
    pod_prefixes: KernelSet<PrefixKey>,
    service_prefixes: KernelSet<PrefixKey>,
    tunnel_ports: KernelSet<u16>,
    failsafe_ports: KernelSet<u16>,
    service_ports: KernelSet<ServicePortKey>,
    node_ports: KernelSet<NodePortKey>,
    awaited: KernelSet<AwaitedKey>,
}

impl Tables {
    /// The tables of a program just loaded.
    pub(super) const fn new() -> Self {
        Self {
            local_addresses: KernelSet::new("local_addresses"),
            pod_prefixes: KernelSet::new("pod_prefixes"),
            service_prefixes: KernelSet::new("service_prefixes"),
            tunnel_ports: KernelSet::new("tunnel_ports"),
            failsafe_ports: KernelSet::new("failsafe_ports"),
            service_ports: KernelSet::new("service_ports"),
            node_ports: KernelSet::new("node_ports"),
            awaited: KernelSet::new(AWAITED),
        }
    }

    /// Adds what is wanted to all tables but the one of local addresses.
    fn grow(&mut self, object: &mut Ebpf, wanted: &Wanted) -> Result<(), XdpError> {
        let outcomes = [
            self.failsafe_ports.grow(object, &wanted.failsafe_ports),
            self.pod_prefixes.grow(object, &wanted.pod_prefixes),
            self.service_prefixes.grow(object, &wanted.service_prefixes),
            self.service_ports.grow(object, &wanted.service_ports),
            self.node_ports.grow(object, &wanted.node_ports),
            self.tunnel_ports.grow(object, &wanted.tunnel_ports),
        ];
        outcomes.into_iter().collect()
    }

    /// Removes what is not wanted from all tables but the one of local addresses.
    fn shrink(&mut self, object: &mut Ebpf, wanted: &Wanted) -> Result<(), XdpError> {
        let outcomes = [
            self.tunnel_ports.shrink(object, &wanted.tunnel_ports),
            self.node_ports.shrink(object, &wanted.node_ports),
            self.service_ports.shrink(object, &wanted.service_ports),
            self.service_prefixes.shrink(object, &wanted.service_prefixes),
            self.pod_prefixes.shrink(object, &wanted.pod_prefixes),
            self.failsafe_ports.shrink(object, &wanted.failsafe_ports),
        ];
        outcomes.into_iter().collect()
    }
}

/// What is wanted, as keys.
struct Wanted {
    local_addresses: BTreeSet<AddressKey>,
    pod_prefixes: BTreeSet<PrefixKey>,
    service_prefixes: BTreeSet<PrefixKey>,
    tunnel_ports: BTreeSet<u16>,
    failsafe_ports: BTreeSet<u16>,
    service_ports: BTreeSet<ServicePortKey>,
    node_ports: BTreeSet<NodePortKey>,
}

impl Wanted {
    fn of(tables: &SteeringTables) -> Result<Self, XdpError> {
        Ok(Self {
            local_addresses: address_keys(&tables.local_addresses),
            pod_prefixes: prefix_keys(&tables.pod_prefixes)?,
            service_prefixes: prefix_keys(&tables.service_prefixes)?,
            tunnel_ports: tables.tunnel_ports.iter().copied().collect(),
            failsafe_ports: tables.failsafe_ports.iter().copied().collect(),
            service_ports: tables
                .service_ports
                .iter()
                .copied()
                .map(service_port_key)
                .collect(),
            node_ports: tables.node_ports.iter().copied().map(node_port_key).collect(),
        })
    }
}

fn address_keys(addresses: &[IpAddr]) -> BTreeSet<AddressKey> {
    addresses.iter().copied().map(address_key).collect()
}

fn prefix_keys(prefixes: &[(IpAddr, u8)]) -> Result<BTreeSet<PrefixKey>, XdpError> {
    prefixes
        .iter()
        .map(|(address, length)| prefix_key(*address, *length))
        .collect()
}

impl SteeringProgram {
    /// Replaces all tables, without a gap for any packet that is ours before and after, also where an address
    /// becomes this node's own or ceases to be. What cannot be written is told, and the rest is written all the
    /// same; the next call tries again.
    ///
    /// # Errors
    /// [`XdpError::BadPrefix`], and nothing is changed; [`XdpError::Map`], with a hint if a table is full; and
    /// for a program of kind [`ProgramKind::Port`], which has no tables.
    pub fn set_tables(&mut self, tables: &SteeringTables) -> Result<(), XdpError> {
        let wanted = Wanted::of(tables)?;
        let (object, held) = self.tables("local_addresses")?;
        let mut outcomes = vec![
            set(object, SETTING_IPIP, u32::from(tables.ipip)),
            set(
                object,
                SETTING_SNAT_PORTS,
                snat_setting(tables.snat_ports.as_ref()),
            ),
            set(object, SETTING_VLAN, vlan_setting(tables.vlan)),
        ];
        let grown = held.grow(object, &wanted);
        let sides_change = held.local_addresses.differs(&wanted.local_addresses);
        let local = held.local_addresses.grow(object, &wanted.local_addresses);
        if sides_change {
            await_running_programs();
        }
        outcomes.push(held.local_addresses.shrink(object, &wanted.local_addresses));
        if sides_change {
            await_running_programs();
        }
        outcomes.push(held.shrink(object, &wanted));
        // What there was no room for may have it now.
        outcomes.push(grown.or_else(|_| held.grow(object, &wanted)));
        outcomes.push(local.or_else(|_| held.local_addresses.grow(object, &wanted.local_addresses)));
        outcomes.into_iter().collect()
    }

    /// Sets the addresses of this node itself, as [`SteeringTables::local_addresses`].
    ///
    /// # Errors
    /// As [`Self::set_tables`].
    pub fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), XdpError> {
        let (object, held) = self.tables("local_addresses")?;
        held.local_addresses.replace(object, &address_keys(addresses))
    }

    /// Sets the tunnels' ports, as [`SteeringTables::tunnel_ports`].
    ///
    /// # Errors
    /// As [`Self::set_tables`].
    pub fn set_tunnel_ports(&mut self, ports: &[u16]) -> Result<(), XdpError> {
        let (object, held) = self.tables("tunnel_ports")?;
        held.tunnel_ports
            .replace(object, &ports.iter().copied().collect())
    }

    /// Sets the fail-safe ports, as [`SteeringTables::failsafe_ports`].
    ///
    /// # Errors
    /// As [`Self::set_tables`].
    pub fn set_failsafe_ports(&mut self, ports: &[u16]) -> Result<(), XdpError> {
        let (object, held) = self.tables("failsafe_ports")?;
        held.failsafe_ports
            .replace(object, &ports.iter().copied().collect())
    }

    /// Sets whether IP-in-IP is ours, as [`SteeringTables::ipip`]. It is not in a program just loaded.
    ///
    /// # Errors
    /// As [`Self::set_tables`].
    pub fn set_ipip(&mut self, ours: bool) -> Result<(), XdpError> {
        let (object, _) = self.tables(SETTINGS)?;
        set(object, SETTING_IPIP, u32::from(ours))
    }

    /// Sets the VLAN, as [`SteeringTables::vlan`]. A program just loaded has none.
    ///
    /// # Errors
    /// As [`Self::set_tables`].
    pub fn set_vlan(&mut self, vlan: Option<VlanId>) -> Result<(), XdpError> {
        let (object, _) = self.tables(SETTINGS)?;
        set(object, SETTING_VLAN, vlan_setting(vlan))
    }

    /// Sets the prefixes of this node's pods, as [`SteeringTables::pod_prefixes`]. Bits after the length are
    /// ignored.
    ///
    /// # Errors [`XdpError::BadPrefix`] if a length is zero, which would take everything from the node, or
    /// too long for its family; otherwise as [`Self::set_tables`]. Nothing is changed by a bad prefix.
    pub fn set_pod_prefixes(&mut self, prefixes: &[(IpAddr, u8)]) -> Result<(), XdpError> {
        let wanted = prefix_keys(prefixes)?;
        let (object, held) = self.tables("pod_prefixes")?;
        held.pod_prefixes.replace(object, &wanted)
    }

    /// Makes answers ours that `remote` sends to an address of this node, to what source NAT sent from there. To be called
    /// before that leaves.
    ///
    /// # Errors
    /// As [`Self::set_tables`]; a full table means that what is sent cannot be answered.
    pub fn steer_answers(&mut self, remote: IpAddr, awaited: Awaited) -> Result<(), XdpError> {
        let (object, held) = self.tables(AWAITED)?;
        held.awaited.add(object, awaited_key(remote, awaited))
    }

    /// Leaves such answers to the kernel again.
    ///
    /// # Errors
    /// As [`Self::set_tables`].
    pub fn release_answers(&mut self, remote: IpAddr, awaited: Awaited) -> Result<(), XdpError> {
        let (object, held) = self.tables(AWAITED)?;
        held.awaited.remove(object, awaited_key(remote, awaited))
    }

    /// Makes exactly these answers, as [`Self::steer_answers`], ours.
    ///
    /// # Errors
    /// As [`Self::set_tables`].
    pub fn set_awaited(
        &mut self,
        awaited: impl IntoIterator<Item = (IpAddr, Awaited)>,
    ) -> Result<(), XdpError> {
        let wanted = awaited
            .into_iter()
            .map(|(remote, awaited)| awaited_key(remote, awaited))
            .collect();
        let (object, held) = self.tables(AWAITED)?;
        held.awaited.replace(object, &wanted)
    }

    /// The maps, and what they hold; `map` is the one asked for.
    fn tables(&mut self, map: &'static str) -> Result<(&mut Ebpf, &mut Tables), XdpError> {
        if self.kind() != ProgramKind::Uplink {
            let program = self.kind().name();
            return Err(XdpError::NoSuchTable { program, map });
        }
        Ok((&mut self.object, &mut self.held))
    }
}

/// Waits until every run of a program that may have read a table before now has ended: a run asks one table after
/// the other, and must not miss in each what was in the other at the time.
///
/// `MEMBARRIER_CMD_GLOBAL` waits for a grace period of RCU, within which programs run (membarrier(2)). Where the
/// kernel does not offer it (with `nohz_full` cores), a pause does that is a thousand times as long as a run.
fn await_running_programs() {
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(RUNS_HAVE_ENDED);
    }
}

fn set(object: &mut Ebpf, setting: u32, value: u32) -> Result<(), XdpError> {
    let failed = |error: MapError| failure(SETTINGS, "write", &error);
    let mut settings: Array<_, u32> = map(object, SETTINGS)?.try_into().map_err(failed)?;
    settings.set(setting, value, 0).map_err(failed)
}

/// Its number; 0 for none.
fn vlan_setting(vlan: Option<VlanId>) -> u32 {
    vlan.map_or(0, |vlan| u32::from(vlan.number()))
}

/// The range in one word, so that it changes in one step; 0 for none.
fn snat_setting(ports: Option<&RangeInclusive<u16>>) -> u32 {
    match ports {
        Some(ports) if !ports.is_empty() => u32::from(*ports.end()) << 16 | u32::from(*ports.start()),
        _ => 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn settings_agree_with_the_c_source() {
        let source = include_str!("uplink_tables.bpf.h");
        for (name, number) in [
            ("SETTING_IPIP", SETTING_IPIP),
            ("SETTING_SNAT_PORTS", SETTING_SNAT_PORTS),
            ("SETTING_VLAN", SETTING_VLAN),
        ] {
            assert!(source.contains(&format!("{name} = {number},")), "{name}");
        }
    }

    #[test]
    fn a_range_of_ports_is_one_word() {
        assert_eq!(snat_setting(Some(&(61_000..=65_535))), 0xffff_ee48);
        assert_eq!(snat_setting(Some(&(7..=7))), 0x0007_0007);
        let empty = RangeInclusive::new(8, 7);
        assert_eq!((snat_setting(None), snat_setting(Some(&empty))), (0, 0));
    }
}
