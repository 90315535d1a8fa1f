//! Addresses of a CIDR without those that are excepted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use millrace_dataplane::table::policy::AddressRange;

/// The ranges that remain of `cidr`, in ascending order.
pub(super) fn ranges(cidr: IpNet, except: &[IpNet]) -> Vec<AddressRange> {
    let mut holes: Vec<(IpAddr, IpAddr)> = except
        .iter()
        .filter(|hole| cidr.contains(*hole))
        .map(|hole| (hole.network(), hole.broadcast()))
        .collect();
    holes.sort_unstable();
    let mut ranges = Vec::with_capacity(holes.len() + 1);
    // `None` once the end of the family is reached.
    let mut next = Some(cidr.network());
    for (first, last) in holes {
        let Some(from) = next else { break };
        if from < first
            && let Some(before) = before(first)
        {
            ranges.push(AddressRange {
                first: from,
                last: before,
            });
        }
        // Holes may lie within one another.
        if from <= last {
            next = after(last);
        }
    }
    if let Some(from) = next.filter(|from| *from <= cidr.broadcast()) {
        ranges.push(AddressRange {
            first: from,
            last: cidr.broadcast(),
        });
    }
    ranges
}

/// One address alone.
pub(super) fn one(address: IpAddr) -> AddressRange {
    AddressRange {
        first: address,
        last: address,
    }
}

fn before(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_sub(1)
            .map(Ipv4Addr::from_bits)
            .map(IpAddr::V4),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_sub(1)
            .map(Ipv6Addr::from_bits)
            .map(IpAddr::V6),
    }
}

fn after(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => v4
            .to_bits()
            .checked_add(1)
            .map(Ipv4Addr::from_bits)
            .map(IpAddr::V4),
        IpAddr::V6(v6) => v6
            .to_bits()
            .checked_add(1)
            .map(Ipv6Addr::from_bits)
            .map(IpAddr::V6),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_of_a_block() {
        for (cidr, except, expected) in [
            ("10.0.0.0/8", "", "10.0.0.0-10.255.255.255"),
            ("10.0.0.0/24", "10.0.0.0/25", "10.0.0.128-10.0.0.255"),
            ("10.0.0.0/24", "10.0.0.128/25", "10.0.0.0-10.0.0.127"),
            (
                "10.0.0.0/24",
                "10.0.0.4/32 10.0.0.2/32",
                "10.0.0.0-10.0.0.1 10.0.0.3-10.0.0.3 10.0.0.5-10.0.0.255",
            ),
            (
                "10.0.0.0/24",
                "10.0.0.0/25 10.0.0.4/30 10.0.0.200/32",
                "10.0.0.128-10.0.0.199 10.0.0.201-10.0.0.255",
            ),
            ("10.0.0.0/24", "10.0.0.0/24", ""),
            ("10.0.0.0/24", "10.0.0.0/25 10.0.0.128/25", ""),
            (
                "0.0.0.0/0",
                "255.255.255.255/32 0.0.0.0/32",
                "0.0.0.1-255.255.255.254",
            ),
            ("::/0", "8000::/1", "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fd00::/64", "fd00::/64", ""),
        ] {
            let except: Vec<IpNet> = except
                .split_whitespace()
                .map(|net| net.parse().unwrap())
                .collect();
            let found = ranges(cidr.parse().unwrap(), &except);
            let found: Vec<String> = found
                .iter()
                .map(|range| format!("{}-{}", range.first, range.last))
                .collect();
            assert_eq!(found.join(" "), expected, "{cidr} without {except:?}");
        }
    }
}
