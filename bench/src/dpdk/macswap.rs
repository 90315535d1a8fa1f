//! `dpdk-testpmd` in its mode `macswap`: the least that a framework does with a packet.
//!
//! Its port is a `net_ring` of eight queues, each of whose ends is the other's: what it sends comes back. So the same
//! packets go round, as those of our walks in memory do, and as many of them.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::memory::Memory;
use super::program::Program;

/// Queues, and the batches of packets in each at first: 4,096 packets in all, as many as our walks' frames.
const QUEUES: &str = "8";
const BATCHES: u32 = 8;
/// Packets in a batch, as a worker's of ours.
const BATCH: &str = "64";
/// How long it has to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long packets go round before they count, and while they do.
const WARM_UP: Duration = Duration::from_millis(300);
const WINDOW: Duration = Duration::from_secs(1);
/// It has begun once it says so.
const BEGUN: &str = "  macswap packet forwarding packets/burst=";
/// Before its figure of cycles.
const CYCLES: &str = "  CPU cycles/packet=";
/// Fewer packets than this were no window.
const PACKETS_MIN: u64 = 1_000_000;

/// Cycles per packet, of the program's own count; with packets of one flow or of many.
///
/// # Errors
/// When it does not start, says something else than it should, or loses packets.
pub(super) fn measure(memory: &Memory, (main, core): (usize, usize), is_many: bool) -> anyhow::Result<f64> {
    let (lcores, main) = (format!("{main}@{main},{core}@{core}"), main.to_string());
    let of_dpdk = ["--lcores", &lcores, "--main-lcore", &main, "--vdev", "net_ring0"];
    let (rxq, txq, burst) = (
        format!("--rxq={QUEUES}"),
        format!("--txq={QUEUES}"),
        format!("--burst={BATCH}"),
    );
    let mut own = vec![
        "-i",
        "--forward-mode=macswap",
        "--nb-cores=1",
        &rxq,
        &txq,
        &burst,
        "--total-num-mbufs=16384",
        "--record-core-cycles",
    ];
    if is_many {
        own.push("--txonly-multi-flow");
    }
    let mut program = Program::start("dpdk-testpmd", memory, &of_dpdk, &own)?;
    program.tell(&format!("start tx_first {BATCHES}"))?;
    while !program.line(PATIENCE)?.starts_with(BEGUN) {}
    thread::sleep(WARM_UP);
    program.tell("clear fwd stats all")?;
    thread::sleep(WINDOW);
    program.tell("show fwd stats all")?;
    loop {
        let line = program.line(PATIENCE)?;
        ensure!(is_lossless(&line), "testpmd loses packets: {line:?}");
        if line.starts_with(CYCLES) {
            return cycles(&line);
        }
    }
}

/// Whether a line tells of no packet dropped.
fn is_lossless(line: &str) -> bool {
    ["RX-dropped: ", "TX-dropped: "].iter().all(|label| {
        line.split_once(label)
            .is_none_or(|(_, rest)| rest.split_whitespace().next() == Some("0"))
    })
}

/// Reads `CPU cycles/packet=28.10 (total cycles=… / total macswap packets=…) at 2300 MHz Clock`.
fn cycles(line: &str) -> anyhow::Result<f64> {
    let read = || {
        let (figure, rest) = line.strip_prefix(CYCLES)?.split_once(" (total cycles=")?;
        let (total, rest) = rest.split_once(" / total macswap packets=")?;
        let (packets, rest) = rest.split_once(") at ")?;
        rest.strip_suffix(" MHz Clock")?.parse::<u32>().ok()?;
        let (total, packets): (u64, u64) = (total.parse().ok()?, packets.parse().ok()?);
        Some((figure.parse::<f64>().ok()?, total, packets))
    };
    let (figure, total, packets) =
        read().with_context(|| format!("testpmd's cycles are not written as they used to be: {line:?}"))?;
    ensure!(
        packets >= PACKETS_MIN,
        "testpmd forwarded next to nothing: {line:?}"
    );
    // INVARIANT: far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let own = total as f64 / packets as f64;
    ensure!((own - figure).abs() < 0.01, "testpmd cannot divide: {line:?}");
    Ok(figure)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn its_cycles_are_read() {
        let line = "  CPU cycles/packet=101.86 (total cycles=4526679688 / total macswap packets=44440384) at 2300 MHz Clock";
        assert!((cycles(line).unwrap() - 101.86).abs() < 1e-9);
        for (from, to) in [
            ("101.86", "99.0"),
            ("44440384", "44"),
            ("macswap", "io"),
            (" MHz", " GHz"),
            ("CPU", "cpu"),
        ] {
            let other = line.replacen(from, to, 1);
            let error = cycles(&other).unwrap_err().to_string();
            assert!(error.contains(&format!("{other:?}")), "{error}");
        }
    }

    #[test]
    fn a_dropped_packet_is_seen() {
        for (line, expected) in [
            (
                "  RX-packets: 5555008        TX-packets: 5555008        TX-dropped: 0             ",
                true,
            ),
            (
                "  TX-packets: 5555008        TX-dropped: 12             TX-total: 5555020",
                false,
            ),
            (
                "  RX-packets: 1              RX-dropped: 3             RX-total: 4",
                false,
            ),
            ("  ------- Forward Stats", true),
        ] {
            assert_eq!(is_lossless(line), expected, "{line}");
        }
    }
}
