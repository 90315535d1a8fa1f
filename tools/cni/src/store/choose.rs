//! Which address is next.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::StoreError;

/// The prefixes that addresses are from, without those that nobody may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pools {
    prefixes: Vec<IpNet>,
    reserved: BTreeSet<IpAddr>,
}

impl Pools {
    /// Addresses of these prefixes without the reserved ones. A prefix within another adds nothing.
    #[must_use]
    pub fn new(prefixes: &[IpNet], reserved: &[IpAddr]) -> Self {
        let mut prefixes: Vec<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
        prefixes.sort_unstable();
        let prefixes = IpNet::aggregate(&prefixes);
        Self {
            prefixes,
            reserved: reserved.iter().copied().collect(),
        }
    }

    /// Whether there are any of a family.
    #[must_use]
    pub fn has_family(&self, is_ipv4: bool) -> bool {
        self.of_family(is_ipv4).next().is_some()
    }

    /// Whether an address may be given.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&address)) && !self.reserved.contains(&address)
    }

    /// An address that is asked for, if it can be had.
    pub(super) fn check(&self, address: IpAddr, taken: &BTreeSet<IpAddr>) -> Result<IpAddr, StoreError> {
        let why = if !self.prefixes.iter().any(|prefix| prefix.contains(&address)) {
            format!("it is not in {}", words(self.prefixes.iter()))
        } else if self.reserved.contains(&address) {
            "no pod may have it".to_owned()
        } else if taken.contains(&address) {
            "another container has it".to_owned()
        } else {
            return Ok(address);
        };
        Err(StoreError::Unfit { address, why })
    }

    /// The first free address behind the last one that was given, and from the beginning again; `None` if there is no prefix
    /// of the family.
    pub(super) fn next(
        &self,
        is_ipv4: bool,
        last: Option<IpAddr>,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Option<IpAddr>, StoreError> {
        let Some(first) = self.of_family(is_ipv4).next() else {
            return Ok(None);
        };
        // So many different ones cannot all be taken or reserved, and fewer than that go round at least once.
        let looks = taken.len() + self.reserved.len() + 1;
        let mut candidate = match last {
            Some(last) => self.after(last),
            None => first.network(),
        };
        for _ in 0..looks {
            if !taken.contains(&candidate) && !self.reserved.contains(&candidate) {
                return Ok(Some(candidate));
            }
            candidate = self.after(candidate);
        }
        Err(StoreError::Exhausted {
            family: if is_ipv4 { "IPv4" } else { "IPv6" },
            cidrs: words(self.of_family(is_ipv4)),
            taken: taken
                .iter()
                .filter(|address| address.is_ipv4() == is_ipv4)
                .count(),
        })
    }

    /// The address behind one: in its prefix, else the first of the next prefix, else of the first.
    fn after(&self, address: IpAddr) -> IpAddr {
        let is_ipv4 = address.is_ipv4();
        let next = match address {
            IpAddr::V4(v4) => v4
                .to_bits()
                .checked_add(1)
                .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
            IpAddr::V6(v6) => v6
                .to_bits()
                .checked_add(1)
                .map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
        };
        if let Some(next) = next
            && self.of_family(is_ipv4).any(|prefix| prefix.contains(&next))
        {
            return next;
        }
        let behind = self.of_family(is_ipv4).find(|prefix| prefix.network() > address);
        let first = behind.or_else(|| self.of_family(is_ipv4).next());
        first.map_or(address, |prefix| prefix.network())
    }

    fn of_family(&self, is_ipv4: bool) -> impl Iterator<Item = &IpNet> {
        self.prefixes
            .iter()
            .filter(move |prefix| prefix.addr().is_ipv4() == is_ipv4)
    }
}

fn words<'a>(prefixes: impl Iterator<Item = &'a IpNet>) -> String {
    prefixes.map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
