//! What the uplink's program decides by, fed from user space.
//!
//! Each table is replaced as a whole by its `set_` function, which compares it with what is there: new
//! entries go in before old ones leave, so a packet that was ours before and after is ours all the time.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::net::IpAddr;

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapError};

use super::error::map_error;
use super::program::{is_no_entry, missing};
use super::{ProgramKind, SteeringProgram, XdpError};

const LOCAL_ADDRESSES: &str = "local_addresses";
const POD_PREFIXES: &str = "pod_prefixes";
const TUNNEL_PORTS: &str = "tunnel_ports";
const FAILSAFE_PORTS: &str = "failsafe_ports";
const SETTINGS: &str = "settings";

/// `SETTING_IPIP` of `uplink.bpf.c`.
const SETTING_IPIP: u32 = 0;
/// The tables are sets; the value of an entry says nothing.
const PRESENT: u8 = 1;
/// Length of an address in the programs' form, in bits.
const ADDRESS_BITS: u8 = 128;
/// Length of an IPv4 address, in bits.
const IPV4_BITS: u8 = 32;

/// An address as the program keys it: IPv6, or IPv4 in its mapped form (RFC 4291 section 2.5.5.2); network
/// byte order.
type AddressKey = [u8; 16];

impl SteeringProgram {
    /// Sets the addresses of this node itself: tunnel packets to them are ours, everything else to them is
    /// the kernel's, also where a pod prefix holds them.
    ///
    /// # Errors [`XdpError::Map`], with a hint if the table is full; and for a program of kind
    /// [`ProgramKind::Port`], which has no tables.
    pub fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), XdpError> {
        self.set_hash(
            LOCAL_ADDRESSES,
            addresses.iter().map(|address| address_key(*address)).collect(),
        )
    }

    /// Sets the UDP destination ports, host byte order, by which a packet to this node is a tunnel packet.
    ///
    /// # Errors
    /// As [`Self::set_local_addresses`].
    pub fn set_tunnel_ports(&mut self, ports: &[u16]) -> Result<(), XdpError> {
        self.set_hash(TUNNEL_PORTS, ports.iter().copied().collect())
    }

    /// Sets the TCP and UDP destination ports, host byte order, of this node that always stay with the
    /// kernel.
    ///
    /// # Errors
    /// As [`Self::set_local_addresses`].
    pub fn set_failsafe_ports(&mut self, ports: &[u16]) -> Result<(), XdpError> {
        self.set_hash(FAILSAFE_PORTS, ports.iter().copied().collect())
    }

    /// Sets whether IP-in-IP (protocol 4 over IPv4, RFC 2003) to this node is ours. It is not in a program
    /// just loaded.
    ///
    /// # Errors
    /// As [`Self::set_local_addresses`].
    pub fn set_ipip(&mut self, ours: bool) -> Result<(), XdpError> {
        let program = self.kind().name();
        let failed = |error: MapError| map_error(program, SETTINGS, "write", &error);
        let mut settings: Array<_, u32> = self.map(SETTINGS)?.try_into().map_err(failed)?;
        settings.set(SETTING_IPIP, u32::from(ours), 0).map_err(failed)
    }

    /// Sets the prefixes of this node's pods: what is routed plainly to them is ours. Bits after the length
    /// are ignored.
    ///
    /// # Errors [`XdpError::BadPrefix`] if a length is zero, which would take everything from the node, or
    /// too long for its family; otherwise as [`Self::set_local_addresses`]. Nothing is changed by a bad
    /// prefix.
    pub fn set_pod_prefixes(&mut self, prefixes: &[(IpAddr, u8)]) -> Result<(), XdpError> {
        let program = self.kind().name();
        let wanted = prefixes
            .iter()
            .map(|(address, length)| prefix_key(*address, *length))
            .collect::<Result<_, _>>()?;
        let failed = |error: MapError| map_error(program, POD_PREFIXES, "read", &error);
        let mut trie: LpmTrie<_, AddressKey, u8> = self.map(POD_PREFIXES)?.try_into().map_err(failed)?;
        let mut present = BTreeSet::new();
        for key in trie.keys() {
            let key = key.map_err(failed)?;
            present.insert((key.prefix_len(), key.data()));
        }
        for change in changes(&present, &wanted) {
            let result = match change {
                Change::Add((length, address)) => trie.insert(&Key::new(length, address), PRESENT, 0),
                Change::Remove((length, address)) => trie.remove(&Key::new(length, address)),
            };
            change
                .finish(result)
                .map_err(|error| map_error(program, POD_PREFIXES, change.action(), &error))?;
        }
        Ok(())
    }

    fn set_hash<K>(&mut self, name: &'static str, wanted: BTreeSet<K>) -> Result<(), XdpError>
    where
        K: Pod + Ord + Hash + Eq,
    {
        let program = self.kind().name();
        let failed = |error: MapError| map_error(program, name, "read", &error);
        let mut map: HashMap<_, K, u8> = self.map(name)?.try_into().map_err(failed)?;
        let present = map.keys().collect::<Result<_, _>>().map_err(failed)?;
        for change in changes(&present, &wanted) {
            let result = match change {
                Change::Add(key) => map.insert(key, PRESENT, 0),
                Change::Remove(key) => map.remove(&key),
            };
            change
                .finish(result)
                .map_err(|error| map_error(program, name, change.action(), &error))?;
        }
        Ok(())
    }

    fn map(&mut self, name: &'static str) -> Result<&mut Map, XdpError> {
        let program = self.kind().name();
        if self.kind() != ProgramKind::Uplink {
            return Err(XdpError::NoSuchTable { program, map: name });
        }
        self.object.map_mut(name).ok_or_else(|| missing(program))
    }
}

/// One step from a table as it is to the table as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change<K> {
    Add(K),
    Remove(K),
}

impl<K> Change<K> {
    fn action(&self) -> &'static str {
        match self {
            Self::Add(_) => "add to",
            Self::Remove(_) => "remove from",
        }
    }

    /// An entry that is gone already need not be removed.
    fn finish(&self, result: Result<(), MapError>) -> Result<(), MapError> {
        match (self, result) {
            (Self::Remove(_), Err(error)) if is_no_entry(&error) => Ok(()),
            (_, result) => result,
        }
    }
}

/// Everything new first, then what is to go.
fn changes<K: Ord + Copy>(present: &BTreeSet<K>, wanted: &BTreeSet<K>) -> Vec<Change<K>> {
    let added = wanted.difference(present).map(|key| Change::Add(*key));
    let removed = present.difference(wanted).map(|key| Change::Remove(*key));
    added.chain(removed).collect()
}

fn address_key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Length and address in the mapped form, bits after the length cleared.
fn prefix_key(address: IpAddr, length: u8) -> Result<(u32, AddressKey), XdpError> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn new_entries_come_before_old_ones_go() {
        let set = |keys: &[u16]| keys.iter().copied().collect::<BTreeSet<_>>();
        type Row = (&'static [u16], &'static [u16], &'static [Change<u16>]);
        let rows: [Row; 5] = [
            (&[], &[], &[]),
            (&[1, 2], &[1, 2], &[]),
            (&[1, 2], &[2, 3], &[Change::Add(3), Change::Remove(1)]),
            (
                &[5, 6],
                &[1, 2],
                &[
                    Change::Add(1),
                    Change::Add(2),
                    Change::Remove(5),
                    Change::Remove(6),
                ],
            ),
            (&[1], &[], &[Change::Remove(1)]),
        ];
        for (present, wanted, expected) in rows {
            assert_eq!(
                changes(&set(present), &set(wanted)),
                expected,
                "{present:?} to {wanted:?}"
            );
        }
    }

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
    fn setting_agrees_with_the_c_source() {
        assert!(include_str!("uplink.bpf.c").contains(&format!("SETTING_IPIP = {SETTING_IPIP},")));
    }
}
