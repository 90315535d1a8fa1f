//! `[load-balancer]`: the addresses that Services of type LoadBalancer are given, and how they become known.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::text::by_text;
use super::value::{Choice, Ranged, ValueError, choice};
use super::{Config, ConfigError, line_of_key};
use crate::objects::{check_label, refused_class};

/// Most pools.
const POOLS_MAX: usize = 256;
/// Most ranges of a pool.
const POOL_RANGES_MAX: usize = 256;
/// Shortest and longest time after which a node that is not heard of counts as dead, in milliseconds.
const LEASE_MIN_MS: usize = 500;
/// As [`LEASE_MIN_MS`].
const LEASE_MAX_MS: usize = 60_000;
/// Highest number of a routing table that FRR imports from (its `ip import-table`).
const ROUTE_TABLE_MAX: usize = 252;

/// `[load-balancer]`. Without pools, no addresses are given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct LoadBalancer {
    /// `default-class`: whether Services without a `loadBalancerClass` get addresses here; those of a class
    /// `millrace.io/...` always do, those of any other never. Default true.
    pub default_class: bool,
    /// `announce`: how the network learns of the addresses. Default `local`.
    #[serde(deserialize_with = "choice")]
    pub announce: Announce,
    /// `lease-ms`: in a cluster, after how many milliseconds a node that is not heard of counts as dead and another announces
    /// its addresses, within 500..=60000. Each node renews its Lease three times in that time. Default 2000.
    pub lease_ms: Ranged<LEASE_MIN_MS, LEASE_MAX_MS>,
    /// `lease-namespace`: in a cluster, the namespace of the Leases. Default `kube-system`.
    pub lease_namespace: String,
    /// `route-table`: with `announce = "route"`, the number of the kernel's routing table that the routing daemon imports
    /// from, within 1..=252. Default 77.
    pub route_table: Ranged<1, ROUTE_TABLE_MAX>,
    /// `state-dir`: folder of the list of what was given out, where manifests are the source and nothing can be written
    /// back; a relative path begins at the node file's folder. One that outlives a reboot, such as `/var/lib/millrace`,
    /// keeps addresses over it. Default: that of `[node]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// `pools`: where addresses are taken from, in this order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            default_class: true,
            announce: Announce::default(),
            lease_ms: Ranged::of::<2000>(),
            lease_namespace: "kube-system".to_owned(),
            route_table: Ranged::of::<77>(),
            state_dir: None,
            pools: Vec::new(),
        }
    }
}

/// `announce`: how the network learns of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Announce {
    /// `local`: one node answers ARP and neighbour solicitations for an address on the uplink's network.
    #[default]
    Local,
    /// `route`: every node that serves an address has a route for it in a table that a routing daemon exports.
    Route,
    /// `none`: whoever routes to the nodes knows already.
    None,
}

impl Choice for Announce {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Local, "local"),
        (Self::Route, "route"),
        (Self::None, "none"),
    ];
}

/// `[[load-balancer.pools]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table")]
pub struct Pool {
    /// `name`: by which Services ask for it, a DNS label. Required.
    pub name: String,
    /// `addresses`: CIDRs, ranges `FIRST-LAST` and single addresses, of either family. Required.
    pub addresses: Vec<AddressRange>,
    /// `auto-assign`: whether addresses of it are given to Services that ask for none by address or pool. Default true.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// `skip-0-and-255`: whether IPv4 addresses that end in .0 or .255 are left out, which some equipment takes for broadcast.
    /// Default false.
    #[serde(default, rename = "skip-0-and-255")]
    pub skip_0_and_255: bool,
    /// `namespaces`: only Services of these may use it. Default: those of all.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// `namespace-labels`: Services of Namespaces with these labels may use it too; without `namespaces`, only they.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, String>,
    /// `service-labels`: only Services with these labels may use it. Default: all.
    #[serde(default)]
    pub service_labels: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

impl Pool {
    /// Whether an address lies in it, and is not left out.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        !self.skips(address) && self.addresses.iter().any(|range| range.contains(address))
    }

    /// Whether an address is left out by `skip-0-and-255`.
    #[must_use]
    pub fn skips(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.skip_0_and_255 && matches!(address.octets()[3], 0 | 255),
            IpAddr::V6(_) => false,
        }
    }
}

/// Addresses from the first to the last, both of one family and both included: written as a CIDR, as `FIRST-LAST`, or as one
/// address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The range from `first` to `last`.
    ///
    /// # Errors
    /// [`ValueError`] if they are of two families, in the wrong order, or a kind of address between them is never a
    /// Service's.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<Self, ValueError> {
        let range = Self { first, last };
        if first.is_ipv4() != last.is_ipv4() || first > last {
            return Err(ValueError::because(format!(
                "`{first}-{last}` is no range of addresses, write the lower one first and both of one family"
            )));
        }
        match range.blocks().find_map(refused_class) {
            None => Ok(range),
            Some(class) => Err(ValueError::because(format!(
                "`{range}` holds {class} address, which cannot lead to a Service; leave it out"
            ))),
        }
    }

    /// The first address.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address, which belongs to it.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether it is one of IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// Whether an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_ipv6() == address.is_ipv6() && (self.first..=self.last).contains(&address)
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.is_ipv6() == other.is_ipv6() && self.first <= other.last && other.first <= self.last
    }

    /// The addresses of a CIDR.
    #[must_use]
    pub fn of_cidr(cidr: IpNet) -> Self {
        Self {
            first: cidr.network(),
            last: cidr.broadcast(),
        }
    }

    /// The fewest CIDRs that make it up.
    fn blocks(&self) -> impl Iterator<Item = IpNet> {
        let (v4, v6) = match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => (Some(ipnet::Ipv4Subnets::new(first, last, 0)), None),
            (IpAddr::V6(first), IpAddr::V6(last)) => (None, Some(ipnet::Ipv6Subnets::new(first, last, 0))),
            _ => (None, None),
        };
        let v4 = v4.into_iter().flatten().map(IpNet::V4);
        v4.chain(v6.into_iter().flatten().map(IpNet::V6))
    }

    /// An address as a number that its neighbours follow.
    #[must_use]
    pub fn number(address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        }
    }

    /// The address of a number in this range's family; `None` if it has none.
    #[must_use]
    pub fn address(&self, number: u128) -> Option<IpAddr> {
        let address = if self.is_ipv6() {
            IpAddr::V6(Ipv6Addr::from_bits(number))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).ok()?))
        };
        Some(address).filter(|address| self.contains(*address))
    }
}

impl FromStr for AddressRange {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        let no_range = || {
            ValueError::because(format!(
                "`{text}` is no range of addresses, write it as in 192.0.2.0/28, 192.0.2.10-192.0.2.20 or 2001:db8::7"
            ))
        };
        if let Some((first, last)) = text.split_once('-') {
            let read = |text: &str| text.trim().parse().map_err(|_| no_range());
            return Self::new(read(first)?, read(last)?);
        }
        if let Ok(address) = text.parse() {
            return Self::new(address, address);
        }
        let cidr: IpNet = text.parse().map_err(|_| no_range())?;
        if cidr.addr() != cidr.network() {
            return Err(ValueError::because(format!(
                "`{text}` has bits after its prefix, write {} for all of it, or the one address",
                cidr.trunc()
            )));
        }
        Self::new(cidr.network(), cidr.broadcast())
    }
}

by_text!(AddressRange);

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "{}", self.first);
        }
        let mut blocks = self.blocks();
        match (blocks.next(), blocks.next()) {
            (Some(whole), None) => write!(f, "{whole}"),
            _ => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Config {
    /// Pools that contradict each other, or what else is configured.
    pub(super) fn check_pools(&self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let Some((key, reason)) = self.load_balancer.contradiction(&self.services.cidrs) else {
            return Ok(());
        };
        Err(ConfigError::Content {
            path: path.to_owned(),
            line: line_of_key(text, "load-balancer", "pools"),
            key: Some(format!("load-balancer.{key}")),
            reason,
        })
    }
}

impl LoadBalancer {
    /// Has a relative path begin at `folder`.
    pub(super) fn begin_at(&mut self, folder: &Path) {
        if let Some(own) = &mut self.state_dir {
            *own = folder.join(&*own);
        }
    }

    /// What of the pools makes no sense, with the key that says so; `services` are the prefixes of cluster IPs.
    fn contradiction(&self, services: &[IpNet]) -> Option<(String, String)> {
        if let Err(error) = check_label(&self.lease_namespace) {
            return Some(("lease-namespace".to_owned(), error.to_string()));
        }
        if self.pools.len() > POOLS_MAX {
            let reason = format!("{} pools, at most {POOLS_MAX} are allowed", self.pools.len());
            return Some(("pools".to_owned(), reason));
        }
        let faults = self.pools.iter().enumerate();
        faults
            .filter_map(|(index, pool)| {
                let (key, reason) = self.fault_of(index, pool, services)?;
                Some((format!("pools[{index}].{key}"), reason))
            })
            .next()
    }

    fn fault_of(&self, index: usize, pool: &Pool, services: &[IpNet]) -> Option<(&'static str, String)> {
        if let Err(error) = check_label(&pool.name) {
            return Some(("name", error.to_string()));
        }
        let mut before = self.pools.iter().take(index);
        if before.any(|other| other.name == pool.name) {
            return Some((
                "name",
                format!("another pool is `{}` too, name each otherwise", pool.name),
            ));
        }
        if pool.addresses.is_empty() {
            return Some(("addresses", "a pool needs at least one address".to_owned()));
        }
        if pool.addresses.len() > POOL_RANGES_MAX {
            let reason = format!(
                "{} ranges, at most {POOL_RANGES_MAX} are allowed",
                pool.addresses.len()
            );
            return Some(("addresses", reason));
        }
        for (place, range) in pool.addresses.iter().enumerate() {
            if let Some(cidr) = services
                .iter()
                .find(|cidr| AddressRange::of_cidr(**cidr).overlaps(range))
            {
                let reason = format!("`{range}` overlaps {cidr} of services.cidrs, take other addresses");
                return Some(("addresses", reason));
            }
            let earlier = self.pools.iter().take(index);
            let earlier = earlier.flat_map(|other| other.addresses.iter().map(|range| (&other.name, range)));
            let own = pool.addresses.iter().take(place).map(|range| (&pool.name, range));
            if let Some((name, other)) = earlier.chain(own).find(|(_, other)| other.overlaps(range)) {
                let reason =
                    format!("`{range}` overlaps `{other}` of pool `{name}`, an address is in one pool");
                return Some(("addresses", reason));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Result<AddressRange, String> {
        text.parse().map_err(|error: ValueError| error.to_string())
    }

    #[test]
    fn ranges_are_read_and_written() {
        for (text, written, first, last) in [
            ("192.0.2.0/28", "192.0.2.0/28", "192.0.2.0", "192.0.2.15"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.7", "192.0.2.7"),
            (
                " 192.0.2.10 - 192.0.2.20 ",
                "192.0.2.10-192.0.2.20",
                "192.0.2.10",
                "192.0.2.20",
            ),
            (
                "192.0.2.0-192.0.2.255",
                "192.0.2.0/24",
                "192.0.2.0",
                "192.0.2.255",
            ),
            ("2001:db8::/120", "2001:db8::/120", "2001:db8::", "2001:db8::ff"),
            (
                "2001:db8::1-2001:db8::3",
                "2001:db8::1-2001:db8::3",
                "2001:db8::1",
                "2001:db8::3",
            ),
        ] {
            let read = range(text).unwrap();
            assert_eq!(read.to_string(), written);
            assert_eq!(read, range(&read.to_string()).unwrap());
            assert_eq!(read.first(), first.parse::<IpAddr>().unwrap(), "{text}");
            assert_eq!(read.last(), last.parse::<IpAddr>().unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "is no range"),
            ("192.0.2.1/33", "is no range"),
            ("192.0.2.300", "is no range"),
            ("192.0.2.1-", "is no range"),
            ("192.0.2.9-192.0.2.1", "lower one first"),
            ("192.0.2.9-2001:db8::1", "one family"),
            ("192.0.2.1/24", "write 192.0.2.0/24"),
            ("127.0.0.0/8", "a loopback"),
            ("126.0.0.0-128.0.0.0", "a loopback"),
            ("0.0.0.0/0", "an unspecified"),
            ("223.255.255.0-224.0.0.1", "a multicast"),
            ("169.254.1.1", "a link-local"),
            ("::/0", "an unspecified"),
            ("fe80::/64", "a link-local"),
            ("ff02::1", "a multicast"),
            ("255.255.255.255", "address"),
        ] {
            let error = range(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_are_addresses_of_the_range() {
        let four = range("192.0.2.254-192.0.3.1").unwrap();
        let all: Vec<_> = (AddressRange::number(four.first())..)
            .map_while(|number| four.address(number))
            .collect();
        let texts: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["192.0.2.254", "192.0.2.255", "192.0.3.0", "192.0.3.1"]);
        assert_eq!(four.address(u128::MAX), None);
        let six = range("2001:db8::ffff-2001:db8::1:1").unwrap();
        assert_eq!(
            six.address(AddressRange::number(six.first()) + 2),
            Some(six.last())
        );
    }
}
