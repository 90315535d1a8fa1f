#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// The longest prefix by looking at every one; of equal ones the last.
fn oracle(entries: &[(Prefix, u32)], address: IpAddr) -> Option<u32> {
    let holding = entries.iter().filter(|(prefix, _)| prefix.contains(address));
    holding
        .max_by_key(|(prefix, _)| prefix.len())
        .map(|(_, value)| *value)
}

#[test]
fn the_longest_prefix_wins() {
    let rows = [
        ("0.0.0.0/0", 0),
        ("10.0.0.0/8", 1),
        ("10.244.0.0/16", 2),
        ("10.244.1.0/24", 3),
        ("10.244.1.64/26", 4),
        ("10.244.1.65/32", 5),
        ("::/0", 10),
        ("fd00::/8", 11),
        ("fd00:1:2::/48", 12),
        ("fd00:1:2:3::/64", 13),
        ("fd00:1:2:3::80/122", 14),
        ("fd00:1:2:3::81/128", 15),
    ];
    let lpm = Lpm::build(rows.iter().rev().map(|(text, value)| (prefix(text), *value)));
    let expected = [
        ("192.0.2.1", 0),
        ("10.1.1.1", 1),
        ("10.244.200.1", 2),
        ("10.244.1.63", 3),
        ("10.244.1.64", 4),
        ("10.244.1.127", 4),
        ("10.244.1.128", 3),
        ("10.244.1.65", 5),
        ("2001:db8::1", 10),
        ("fdff::", 11),
        ("fd00:1:2:ffff::", 12),
        ("fd00:1:2:3::", 13),
        ("fd00:1:2:3::bf", 14),
        ("fd00:1:2:3::c0", 13),
        ("fd00:1:2:3::81", 15),
        ("fd00:1:2:3:8000::81", 13),
    ];
    for (address, value) in expected {
        assert_eq!(lpm.lookup(address.parse().unwrap()), Some(value), "{address}");
    }
    assert_eq!(Lpm::<u32>::default().lookup(IpAddr::from([1, 2, 3, 4])), None);
    assert_eq!(Lpm::<u32>::default().lookup("fd00::1".parse().unwrap()), None);
    let one_family = Lpm::build([(prefix("0.0.0.0/0"), 1)]);
    assert_eq!(one_family.lookup("::1".parse().unwrap()), None);
}

/// Prefixes that often share their beginning, so that every level is reached.
fn v4_prefix() -> impl Strategy<Value = Prefix> {
    let near = (0_u32..8, 0_u32..4, 0_u32..4).prop_map(|(a, b, c)| 0x0a00_0000 | a << 15 | b << 7 | c);
    (prop_oneof![near, any::<u32>()], 0_u8..=32)
        .prop_map(|(bits, len)| Prefix::containing(IpAddr::V4(Ipv4Addr::from_bits(bits)), len).unwrap())
}

fn v6_prefix() -> impl Strategy<Value = Prefix> {
    let near = (0_u128..4, 0_u128..4, 0_u128..4, 0_u128..600)
        .prop_map(|(a, b, c, d)| 0xfd00 << 112 | a << 103 | b << 79 | c << 62 | d);
    (prop_oneof![near, any::<u128>()], 0_u8..=128)
        .prop_map(|(bits, len)| Prefix::containing(IpAddr::V6(Ipv6Addr::from_bits(bits)), len).unwrap())
}

/// Addresses at and just beyond the edges of a prefix: where a wrong painting shows.
fn edges(prefix: Prefix) -> Vec<IpAddr> {
    match prefix.address() {
        IpAddr::V4(address) => {
            let low = address.to_bits();
            let high = low | u32::MAX.checked_shr(u32::from(prefix.len())).unwrap_or(0);
            let edges = [low, high, low.wrapping_sub(1), high.wrapping_add(1)];
            edges.map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))).to_vec()
        }
        IpAddr::V6(address) => {
            let low = address.to_bits();
            let high = low | u128::MAX.checked_shr(u32::from(prefix.len())).unwrap_or(0);
            let edges = [
                low,
                high,
                low.wrapping_sub(1),
                high.wrapping_add(1),
                low ^ 1 << 64,
            ];
            edges.map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))).to_vec()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_search_through_all(
        prefixes in proptest::collection::vec(prop_oneof![v4_prefix(), v6_prefix()], 0..60),
        others in proptest::collection::vec(any::<u128>(), 8),
    ) {
        let entries: Vec<_> = prefixes.iter().copied().zip(0_u32..).collect();
        let lpm = Lpm::build(entries.iter().copied());
        let strangers = others.iter().flat_map(|bits| {
            [IpAddr::V6(Ipv6Addr::from_bits(*bits)), IpAddr::V4(Ipv4Addr::from_bits(*bits as u32))]
        });
        for address in prefixes.iter().flat_map(|p| edges(*p)).chain(strangers) {
            prop_assert_eq!(lpm.lookup(address), oracle(&entries, address), "{}", address);
        }
    }
}

/// A cluster of ten thousand pods with a route each, scattered over blocks, in both families.
fn ten_thousand() -> Vec<(Prefix, u32)> {
    let v4 = (0..5_000_u32).map(|i| IpAddr::V4(Ipv4Addr::from_bits(0x0a80_0000 + i.wrapping_mul(211))));
    let v6 = (0..5_000_u128).map(|i| {
        IpAddr::V6(Ipv6Addr::from_bits(
            (0xfd00 << 112) | ((i % 100) << 64) | (i * 0x1_0001),
        ))
    });
    v4.chain(v6).map(Prefix::host).zip(0..).collect()
}

#[test]
fn ten_thousand_routes_are_built_in_milliseconds_and_fit_the_memory_they_may_take() {
    let entries = ten_thousand();
    let fastest = (0..5).map(|_| {
        let start = Instant::now();
        let lpm = Lpm::build(entries.iter().copied());
        (start.elapsed(), lpm.memory())
    });
    let (elapsed, memory) = fastest.min().unwrap();
    // The limit leaves room for a slow and busy machine; a build that copied per route would take seconds.
    assert!(elapsed.as_millis() < 500, "{} ms", elapsed.as_millis());
    let limit = (256 << 10) + 2 * entries.len() * 1100;
    assert!(memory < limit, "{memory} bytes are more than {limit}");
    let lpm = Lpm::build(entries.iter().copied());
    assert!(
        entries
            .iter()
            .all(|(prefix, value)| lpm.lookup(prefix.address()) == Some(*value))
    );
}

#[test]
fn the_table_remembers_what_it_was_built_from() {
    let routes = [
        (prefix("10.0.0.0/8"), Target::Blackhole),
        (prefix("10.0.0.0/8"), Target::Switch),
    ];
    let table = RouteTable::build(routes);
    assert_eq!(table.routes(), routes);
    assert_eq!(
        table.lookup(IpAddr::from([10, 0, 0, 1])),
        Some(Target::Switch),
        "the later one counts"
    );
    assert!(table.memory() > 256 << 10);
}
