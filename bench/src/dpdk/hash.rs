//! `dpdk-test`'s `hash_perf_autotest` beside our flow table with as many keys of the same length in a table of the same size.
//!
//! Of its sections the first is taken, and then it is ended: no locks, every key where it is looked for first, no data,
//! the hash worked out by the lookup. That is where rte_hash is fastest; ours may be written to by others meanwhile, and
//! finds a whole entry.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, bail};
use millrace_dataplane::clock;

use super::memory::Memory;
use super::program::Program;
use crate::flows::{Family, Scene, Work};

/// Room in its tables, and the keys in them: three quarters (DPDK 22.11, app/test/test_hash_perf.c).
const ROOM: u32 = 1 << 19;
const KEYS: u32 = ROOM / 4 * 3;
/// So often it goes through all keys, in the same random order.
const PASSES: usize = 5;
/// Lengths of the keys, in bytes: an IPv4 and an IPv6 connection's addresses, ports and protocol.
const KEY_LEN_V4: u64 = 13;
const KEY_LEN_V6: u64 = 37;
/// How long it may say nothing.
const PATIENCE: Duration = Duration::from_secs(240);
/// The headings above the figures, in order.
const HEADINGS: [&str; 5] = [
    "Without locks in the code",
    "ALL ELEMENTS IN PRIMARY LOCATION",
    "Results (in CPU cycles/operation)",
    " Operations without data",
    "Without pre-computed hash values",
];
const COLUMNS: [&str; 5] = ["Keysize", "Add", "Lookup", "Lookup_bulk", "Delete"];

/// Cycles for each lookup of keys of both lengths: one by one, and sixteen at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Lookups {
    pub(super) single_v4: f64,
    pub(super) batch_v4: f64,
    pub(super) single_v6: f64,
    pub(super) batch_v6: f64,
}

/// DPDK's.
///
/// # Errors
/// When it does not start, or says something else than it should.
pub(super) fn theirs(memory: &Memory, core: usize) -> anyhow::Result<Lookups> {
    let mut program = Program::start("dpdk-test", memory, &["-l", &core.to_string()], &[])?;
    program.tell("hash_perf_autotest")?;
    read(|| program.line(PATIENCE))
}

/// Reads the first section of its figures.
fn read(mut line: impl FnMut() -> anyhow::Result<String>) -> anyhow::Result<Lookups> {
    for heading in HEADINGS {
        while line()?.trim_end() != heading {}
    }
    let mut head = line()?;
    while head.trim().is_empty() {
        head = line()?;
    }
    if head.split_whitespace().ne(COLUMNS) {
        bail!("hash_perf_autotest's columns are not {COLUMNS:?}: {head:?}");
    }
    let (mut v4, mut v6) = (None, None);
    while v4.is_none() || v6.is_none() {
        let row = line()?;
        let numbers = row
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>();
        let Ok([key_len, _add, single, batch, _delete]) = numbers.as_deref() else {
            bail!("hash_perf_autotest has no five numbers in a row: {row:?}");
        };
        match *key_len {
            KEY_LEN_V4 => v4 = Some((*single, *batch)),
            KEY_LEN_V6 => v6 = Some((*single, *batch)),
            _ => {}
        }
    }
    let (v4, v6) = v4.zip(v6).context("a key length is missing")?;
    // INVARIANT: cycles of a lookup are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    Ok(Lookups {
        single_v4: v4.0 as f64,
        batch_v4: v4.1 as f64,
        single_v6: v6.0 as f64,
        batch_v6: v6.1 as f64,
    })
}

/// Our tables, as full as theirs.
pub(super) struct Ours {
    v4: Scene<Ipv4Addr>,
    v6: Scene<Ipv6Addr>,
}

impl Ours {
    /// Two tables, one for each family.
    ///
    /// # Errors
    /// When a table cannot be made.
    pub(super) fn new() -> anyhow::Result<Self> {
        // A connection has two keys, one for each direction.
        let room = ROOM / 2;
        Ok(Self {
            v4: Scene::with_room(KEYS, KEYS as usize, room)?,
            v6: Scene::with_room(KEYS, KEYS as usize, room)?,
        })
    }

    /// One run over all.
    ///
    /// # Errors
    /// When a key is not found.
    pub(super) fn measure(&mut self) -> anyhow::Result<Lookups> {
        Ok(Lookups {
            single_v4: passes(&mut self.v4, Work::Single)?,
            batch_v4: passes(&mut self.v4, Work::Sixteen)?,
            single_v6: passes(&mut self.v6, Work::Single)?,
            batch_v6: passes(&mut self.v6, Work::Sixteen)?,
        })
    }
}

/// Cycles for each lookup of every key, several times over.
fn passes<A: Family>(scene: &mut Scene<A>, work: Work) -> anyhow::Result<f64> {
    scene.shuffle();
    let (mut cycles, mut steps) = (0, 0);
    for _ in 0..PASSES {
        let began = clock::cycles();
        steps += scene.run(work);
        cycles += clock::cycles().wrapping_sub(began);
        scene.restore(work)?;
    }
    // INVARIANT: far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    Ok(cycles as f64 / steps as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SAID: &str = "RTE>>hash_perf_autotest\n\nWithout locks in the code\n\nALL ELEMENTS IN PRIMARY LOCATION\n\
        Measuring performance, please wait....\nResults (in CPU cycles/operation)\n-----\n\n Operations without data\n\n\
        Without pre-computed hash values\n\n\
        Keysize           Add               Lookup            Lookup_bulk       Delete            \n\
        4                 335               467               176               421               \n\
        13                259               351               192               412               \n\
        37                301               439               200               427               \n\
        40                322               480               193               441               \n";

    fn read_text(text: &str) -> anyhow::Result<Lookups> {
        let mut lines = text.lines();
        read(|| lines.next().map(str::to_owned).context("no line is left"))
    }

    #[test]
    fn its_figures_are_read() {
        let expected = Lookups {
            single_v4: 351.0,
            batch_v4: 192.0,
            single_v6: 439.0,
            batch_v6: 200.0,
        };
        assert_eq!(read_text(SAID).unwrap(), expected);
    }

    #[test]
    fn what_is_written_otherwise_is_refused_with_its_line() {
        for (from, to) in [
            ("Lookup_bulk", "Bulk"),
            ("351   ", "351.5 "),
            ("427     ", "        "),
            ("4                 335", "four              335"),
        ] {
            let error = read_text(&SAID.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains("\""), "{from}: {error}");
        }
        for cut in ["13   ", "Without pre-computed"] {
            let text = &SAID[..SAID.find(cut).unwrap()];
            assert!(read_text(text).is_err(), "cut before {cut}");
        }
    }
}
