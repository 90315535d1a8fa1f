//! A set in the kernel: a map whose values say nothing, with what it holds remembered here.
//!
//! A program's maps are its own, and nobody else writes them. So a change is found without reading them back, and
//! costs the kernel only what has changed.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapError};

use super::error::map_error;
use super::program::{is_no_entry, missing};
use super::tables::{NodePort, ServicePort};
use super::{ProgramKind, XdpError};
use crate::verdict::Awaited;

/// The value of an entry.
const PRESENT: u8 = 1;
/// Length of an address in the programs' form, in bits.
const ADDRESS_BITS: u8 = 128;
/// Length of an IPv4 address, in bits.
const IPV4_BITS: u8 = 32;

/// An address as the program keys it: IPv6, or IPv4 in its mapped form (RFC 4291 section 2.5.5.2); network
/// byte order.
pub(super) type AddressKey = [u8; 16];
/// `struct address_prefix`: length of the 128-bit form, address.
pub(super) type PrefixKey = (u32, AddressKey);
/// `struct protocol_port`.
pub(super) type NodePortKey = [u8; 4];
/// `struct service_port`.
pub(super) type ServicePortKey = [u8; 20];
/// `struct awaited`.
pub(super) type AwaitedKey = [u8; 20];
/// `AWAITED_PROTOCOL`.
const AWAITED_PROTOCOL: u32 = 0x1_0000;

/// A key that can go into a map and leave it.
pub(super) trait Entry: Copy + Ord {
    fn insert(self, map: &mut Map) -> Result<(), MapError>;
    fn remove(self, map: &mut Map) -> Result<(), MapError>;
}

impl Entry for u16 {
    fn insert(self, map: &mut Map) -> Result<(), MapError> {
        HashMap::<_, u16, u8>::try_from(map)?.insert(self, PRESENT, 0)
    }

    fn remove(self, map: &mut Map) -> Result<(), MapError> {
        HashMap::<_, u16, u8>::try_from(map)?.remove(&self)
    }
}

impl<const LENGTH: usize> Entry for [u8; LENGTH] {
    fn insert(self, map: &mut Map) -> Result<(), MapError> {
        HashMap::<_, Self, u8>::try_from(map)?.insert(self, PRESENT, 0)
    }

    fn remove(self, map: &mut Map) -> Result<(), MapError> {
        HashMap::<_, Self, u8>::try_from(map)?.remove(&self)
    }
}

impl Entry for PrefixKey {
    fn insert(self, map: &mut Map) -> Result<(), MapError> {
        LpmTrie::<_, AddressKey, u8>::try_from(map)?.insert(&Key::new(self.0, self.1), PRESENT, 0)
    }

    fn remove(self, map: &mut Map) -> Result<(), MapError> {
        LpmTrie::<_, AddressKey, u8>::try_from(map)?.remove(&Key::new(self.0, self.1))
    }
}

/// One of the program's tables, and what it holds.
#[derive(Debug)]
pub(super) struct KernelSet<K> {
    name: &'static str,
    held: BTreeSet<K>,
}

impl<K: Entry> KernelSet<K> {
    pub(super) const fn new(name: &'static str) -> Self {
        let held = BTreeSet::new();
        Self { name, held }
    }

    /// Adds one entry, unless it is there.
    pub(super) fn add(&mut self, object: &mut Ebpf, key: K) -> Result<(), XdpError> {
        if !self.held.contains(&key) {
            key.insert(map(object, self.name)?)
                .map_err(|error| failure(self.name, "add to", &error))?;
            self.held.insert(key);
        }
        Ok(())
    }

    /// Removes one entry, if it is there.
    pub(super) fn remove(&mut self, object: &mut Ebpf, key: K) -> Result<(), XdpError> {
        if self.held.contains(&key) {
            match key.remove(map(object, self.name)?) {
                Err(error) if !is_no_entry(&error) => return Err(failure(self.name, "remove from", &error)),
                _ => self.held.remove(&key),
            };
        }
        Ok(())
    }

    /// Adds what is wanted and not there. An entry that cannot be added does not keep out those after it; the
    /// first failure is told.
    pub(super) fn grow(&mut self, object: &mut Ebpf, wanted: &BTreeSet<K>) -> Result<(), XdpError> {
        let missing: Vec<K> = wanted.difference(&self.held).copied().collect();
        let outcomes: Vec<_> = missing.into_iter().map(|key| self.add(object, key)).collect();
        outcomes.into_iter().collect()
    }

    /// Removes what is there and not wanted.
    pub(super) fn shrink(&mut self, object: &mut Ebpf, wanted: &BTreeSet<K>) -> Result<(), XdpError> {
        let surplus: Vec<K> = self.held.difference(wanted).copied().collect();
        let outcomes: Vec<_> = surplus.into_iter().map(|key| self.remove(object, key)).collect();
        outcomes.into_iter().collect()
    }

    /// Makes it hold what is wanted: new entries go in before old ones leave. Those there was no room for are
    /// tried again then.
    pub(super) fn replace(&mut self, object: &mut Ebpf, wanted: &BTreeSet<K>) -> Result<(), XdpError> {
        let grown = self.grow(object, wanted);
        let shrunk = self.shrink(object, wanted);
        grown.or_else(|_| self.grow(object, wanted)).and(shrunk)
    }

    /// Whether it holds something else than what is wanted.
    pub(super) fn differs(&self, wanted: &BTreeSet<K>) -> bool {
        self.held != *wanted
    }
}

/// A map of the uplink's program.
pub(super) fn map<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Map, XdpError> {
    object
        .map_mut(name)
        .ok_or_else(|| missing(ProgramKind::Uplink.name()))
}

/// The error of doing `action` to a map of the uplink's program.
pub(super) fn failure(name: &'static str, action: &'static str, error: &MapError) -> XdpError {
    map_error(ProgramKind::Uplink.name(), name, action, error)
}

pub(super) fn address_key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Length and address in the mapped form, bits after the length cleared.
pub(super) fn prefix_key(address: IpAddr, length: u8) -> Result<PrefixKey, XdpError> {
    let longest = if address.is_ipv4() {
        IPV4_BITS
    } else {
        ADDRESS_BITS
    };
    if length == 0 || length > longest {
        return Err(XdpError::BadPrefix {
            address,
            length,
            longest,
        });
    }
    let bits = ADDRESS_BITS - longest + length;
    let kept = u128::MAX << (ADDRESS_BITS - bits);
    let key = u128::from_be_bytes(address_key(address)) & kept;
    Ok((u32::from(bits), key.to_be_bytes()))
}

pub(super) fn node_port_key(node_port: NodePort) -> NodePortKey {
    let [port_first, port_second] = node_port.port.to_ne_bytes();
    let [protocol_first, protocol_second] = u16::from(node_port.protocol.0).to_ne_bytes();
    [port_first, port_second, protocol_first, protocol_second]
}

pub(super) fn service_port_key(service_port: ServicePort) -> ServicePortKey {
    let ServicePort {
        address,
        protocol,
        port,
    } = service_port;
    addressed(address, node_port_key(NodePort { protocol, port }))
}

/// The key of answers from `remote`.
pub(super) fn awaited_key(remote: IpAddr, awaited: Awaited) -> AwaitedKey {
    let what = match awaited {
        Awaited::Echo(id) => u32::from(id),
        Awaited::Protocol(protocol) => AWAITED_PROTOCOL | u32::from(protocol.0),
    };
    addressed(remote, what.to_ne_bytes())
}

fn addressed(address: IpAddr, rest: [u8; 4]) -> [u8; 20] {
    let mut key = [0; 20];
    let (first, last) = key.split_at_mut(size_of::<AddressKey>());
    first.copy_from_slice(&address_key(address));
    last.copy_from_slice(&rest);
    key
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_keyed_in_the_mapped_form() {
        let rows = [
            ("10.244.1.7", 24, 120, "::ffff:10.244.1.0"),
            ("10.244.1.7", 32, 128, "::ffff:10.244.1.7"),
            ("255.255.255.255", 1, 97, "::ffff:128.0.0.0"),
            ("fd00:1::7", 64, 64, "fd00:1::"),
            ("fd00:1::7", 128, 128, "fd00:1::7"),
            ("ffff::1", 1, 1, "8000::"),
        ];
        for (address, length, bits, key) in rows {
            let key: std::net::Ipv6Addr = key.parse().unwrap();
            assert_eq!(
                prefix_key(address.parse().unwrap(), length).unwrap(),
                (bits, key.octets()),
                "{address}/{length}"
            );
        }
    }

    #[test]
    fn lengths_that_are_none_are_refused() {
        for (address, length) in [
            ("10.244.1.0", 0),
            ("10.244.1.0", 33),
            ("::", 0),
            ("fd00::", 129),
            ("fd00::", 255),
        ] {
            let refused = prefix_key(address.parse().unwrap(), length);
            assert!(
                matches!(refused, Err(XdpError::BadPrefix { .. })),
                "{address}/{length}"
            );
        }
    }

    #[test]
    fn ports_and_identifiers_follow_the_address() {
        let service_port = ServicePort {
            address: "192.0.2.1".parse().unwrap(),
            protocol: crate::wire::IpProtocol::SCTP,
            port: 0x1234,
        };
        let key = service_port_key(service_port);
        assert_eq!(
            key[..16],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1]
        );
        assert_eq!(key[16..18], 0x1234_u16.to_ne_bytes());
        assert_eq!(key[18..], 132_u16.to_ne_bytes());
        let remote = "fd00::7".parse().unwrap();
        let key = awaited_key(remote, Awaited::Echo(0x1234));
        assert_eq!(key[..2], [0xfd, 0]);
        assert_eq!(key[16..], 0x1234_u32.to_ne_bytes());
        let key = awaited_key(remote, Awaited::Protocol(crate::wire::IpProtocol::GRE));
        assert_eq!(key[16..], 0x1_002f_u32.to_ne_bytes());
        let source = include_str!("uplink_tables.bpf.h");
        assert!(source.contains("#define AWAITED_PROTOCOL 0x10000\n"));
    }
}
