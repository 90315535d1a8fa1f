//! `dpdk-test-fib` beside our longest-prefix match: the very same routes, and the very same addresses looked up.
//!
//! It measures two tables of DPDK's, 64 addresses at a time: its FIB (DIR-24-8 for IPv4, a trie for IPv6) and its LPM.

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use millrace_dataplane::clock;
use millrace_dataplane::table::{Lpm, Prefix};

use super::memory::Memory;
use super::program::Program;
use crate::random::Random;

/// Addresses looked up.
const LOOKUPS: u32 = 1 << 20;
/// One address in so many lies in no route, as in `dpdk-test`'s own lpm_perf_autotest.
const MISS_EVERY: u32 = 8;
/// Next hops, so that each is a number that DPDK can store.
const NEXT_HOPS: u32 = 250;
/// Groups of 256 entries that DPDK's tables have room for.
const GROUPS_V4: &str = "32768";
const GROUPS_V6: &str = "131072";
/// How long it may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it says of its two tables.
const FIB: &str = "AVG FIB lookup ";
const LPM: &str = "AVG LPM lookup ";
const AGREED: &str = "FIB and LPM lookup returns same values";

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// Its name in the summary.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

/// Routes and addresses, and our table of them.
pub(super) struct Prefixes {
    family: Family,
    table: Lpm<u32>,
    addresses: Vec<IpAddr>,
    hits: usize,
    routes_file: PathBuf,
    addresses_file: PathBuf,
}

impl Prefixes {
    /// So many routes, written into a folder for DPDK too.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn new(
        folder: &Path,
        family: Family,
        count: u32,
        random: &mut Random,
    ) -> anyhow::Result<Self> {
        let mut routes = Vec::new();
        for number in 0..count {
            routes.push((route(family, random)?, 1 + number % NEXT_HOPS));
        }
        let mut addresses = Vec::new();
        let mut hits = 0;
        for _ in 0..LOOKUPS {
            let is_hit = random.below(MISS_EVERY) > 0;
            hits += usize::from(is_hit);
            addresses.push(if is_hit {
                within(routes[random.below(count) as usize].0, random)
            } else {
                nowhere(family, random)
            });
        }
        let name = format!("{}-{count}", family.name());
        let prefixes = Self {
            family,
            table: Lpm::build(routes.iter().copied()),
            addresses,
            hits,
            routes_file: folder.join(format!("routes-{name}")),
            addresses_file: folder.join(format!("addresses-{name}")),
        };
        prefixes.write(&routes)?;
        Ok(prefixes)
    }

    fn write(&self, routes: &[(Prefix, u32)]) -> anyhow::Result<()> {
        let (mut text, mut looked_up) = (String::new(), String::new());
        for (prefix, next_hop) in routes {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}/{} {next_hop}", long(prefix.address()), prefix.len());
        }
        for address in &self.addresses {
            let _ = writeln!(looked_up, "{}", long(*address));
        }
        for (path, text) in [(&self.routes_file, text), (&self.addresses_file, looked_up)] {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    /// Cycles for each lookup in DPDK's FIB, and in its LPM.
    ///
    /// # Errors
    /// When it does not start, or says something else than it should.
    pub(super) fn theirs(&self, memory: &Memory, core: usize) -> anyhow::Result<(f64, f64)> {
        let (routes, addresses) = (
            self.routes_file.to_string_lossy(),
            self.addresses_file.to_string_lossy(),
        );
        let mut own = vec!["-f", &routes, "-t", &addresses, "-c"];
        own.extend(match self.family {
            Family::V4 => ["-g", GROUPS_V4].as_slice(),
            Family::V6 => &["-6", "-g", GROUPS_V6],
        });
        let mut program = Program::start("dpdk-test-fib", memory, &["-l", &core.to_string()], &own)?;
        read(|| program.line(PATIENCE))
    }

    /// Cycles for each lookup in ours.
    ///
    /// # Errors
    /// When something else is found than is there.
    pub(super) fn ours(&self) -> anyhow::Result<f64> {
        let mut found = 0;
        let began = clock::cycles();
        for address in &self.addresses {
            found += usize::from(black_box(self.table.lookup(*black_box(address))).is_some());
        }
        let cycles = clock::cycles().wrapping_sub(began);
        ensure!(
            found == self.hits,
            "{found} addresses were found; {} would be right",
            self.hits
        );
        // INVARIANT: far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        Ok(cycles as f64 / f64::from(LOOKUPS))
    }
}

/// Reads its figures: of the FIB, and of the LPM.
fn read(mut line: impl FnMut() -> anyhow::Result<String>) -> anyhow::Result<(f64, f64)> {
    let (mut fib, mut lpm) = (None, None);
    loop {
        let said = line()?;
        if said.starts_with(FIB) {
            fib = Some(cycles(&said, FIB)?);
        } else if said.starts_with(LPM) {
            lpm = Some(cycles(&said, LPM)?);
        } else if said == AGREED {
            return fib.zip(lpm).context("dpdk-test-fib gave no figures");
        } else if said.starts_with("Can not") || said == "FAIL" {
            bail!("dpdk-test-fib fails: {said:?}");
        }
    }
}

fn cycles(line: &str, label: &str) -> anyhow::Result<f64> {
    line.strip_prefix(label)
        .and_then(|figure| figure.parse().ok())
        .with_context(|| format!("dpdk-test-fib's cycles are not written as they used to be: {line:?}"))
}

/// A route at random. Half of IPv4's are a /24, one in twenty is longer and the others shorter, much as on the internet;
/// half of IPv6's are a node's /64.
fn route(family: Family, random: &mut Random) -> anyhow::Result<Prefix> {
    let (address, len) = match family {
        Family::V4 => {
            let len = match random.below(20) {
                0..=10 => 24,
                11 => 25 + random.below(8),
                _ => 12 + random.below(12),
            };
            // Below 224.0.0.0.
            let address = random.below(0xe000_0000);
            (IpAddr::V4(Ipv4Addr::from_bits(address)), len)
        }
        Family::V6 => {
            let len = match random.below(8) {
                0..=3 => 64,
                4 | 5 => 48,
                6 => 32,
                _ => 128,
            };
            // In 2000::/3.
            let address = 1 << 125 | (bits(random) & (u128::MAX >> 3));
            (IpAddr::V6(Ipv6Addr::from_bits(address)), len)
        }
    };
    Ok(Prefix::containing(address, u8::try_from(len)?)?)
}

/// An address in a prefix.
fn within(prefix: Prefix, random: &mut Random) -> IpAddr {
    let len = u32::from(prefix.len());
    match prefix.address() {
        IpAddr::V4(address) => {
            let free = u32::MAX.checked_shr(len).unwrap_or(0);
            // INVARIANT: the lower half of a number.
            #[allow(clippy::cast_possible_truncation)]
            let random = bits(random) as u32;
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() | (random & free)))
        }
        IpAddr::V6(address) => {
            let free = u128::MAX.checked_shr(len).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() | (bits(random) & free)))
        }
    }
}

/// An address where there are no routes: 224.0.0.0/3, fc00::/7.
fn nowhere(family: Family, random: &mut Random) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(0xe000_0000 | random.below(1 << 29))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(0xfc << 120 | (bits(random) >> 7))),
    }
}

fn bits(random: &mut Random) -> u128 {
    (0..8).fold(0, |bits, _| bits << 16 | u128::from(random.below(1 << 16)))
}

/// An address as DPDK reads it: nothing left out.
fn long(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address.segments().map(|word| format!("{word:04x}")).join(":"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> anyhow::Result<(f64, f64)> {
        let mut lines = text.lines();
        read(|| lines.next().map(str::to_owned).context("no line is left"))
    }

    #[test]
    fn its_figures_are_read() {
        let said = "AVG FIB add 5\nAVG LPM add 6\nAVG FIB lookup 55.8\nAVG LPM lookup 56.8\n\
            FIB and LPM lookup returns same values\n";
        assert_eq!(read_text(said).unwrap(), (55.8, 56.8));
        for (from, to) in [
            ("55.8", "55,8"),
            ("AVG FIB lookup 55.8\n", ""),
            ("FIB and LPM lookup returns same values", "FAIL"),
            ("AVG LPM add 6", "Can not add a route to LPM, err -28"),
            ("FIB and LPM lookup returns same values\n", ""),
        ] {
            assert!(read_text(&said.replacen(from, to, 1)).is_err(), "{from}");
        }
    }

    #[test]
    fn as_many_addresses_are_found_as_lie_in_routes() {
        let folder = tempfile::tempdir().unwrap();
        for family in Family::ALL {
            let prefixes = Prefixes::new(folder.path(), family, 100, &mut Random::new()).unwrap();
            prefixes.ours().unwrap();
            let file = fs::read_to_string(&prefixes.routes_file).unwrap();
            assert_eq!(file.lines().count(), 100);
            for line in file.lines() {
                let (prefix, next_hop) = line.split_once(' ').unwrap();
                let (address, len) = prefix.split_once('/').unwrap();
                let prefix = Prefix::new(address.parse().unwrap(), len.parse().unwrap()).unwrap();
                let found = prefixes.table.lookup(prefix.address());
                assert!(found.is_some() && next_hop.parse::<u32>().unwrap() > 0, "{line}");
            }
        }
    }
}
