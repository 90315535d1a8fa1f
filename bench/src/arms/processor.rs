//! What a core spent its time on, and what a process had of it.

use std::fs;

use anyhow::{Context, bail};

/// Units of `/proc/stat` per second (`USER_HZ`), the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What one core did since it started, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CoreTime {
    /// Everything but idling.
    pub(crate) busy: f64,
    /// In interrupts and their bottom halves: where the kernel forwards packets.
    pub(crate) interrupts: f64,
}

impl CoreTime {
    /// Reads `/proc/stat` (proc_stat(5)).
    ///
    /// # Errors
    /// When there is no such core.
    pub(crate) fn of(core: usize) -> anyhow::Result<Self> {
        Self::parse(
            &fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?,
            core,
        )
    }

    fn parse(text: &str, core: usize) -> anyhow::Result<Self> {
        let name = format!("cpu{core} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        let fields: Vec<f64> = line
            .with_context(|| format!("/proc/stat knows no core {core}"))?
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else {
            bail!("/proc/stat says too little of core {core}");
        };
        Ok(Self {
            busy: (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND,
            interrupts: (irq + softirq) / TICKS_PER_SECOND,
        })
    }
}

/// How long a process has run on any core, in seconds, all threads that are alive together.
///
/// # Errors
/// When there is no such process.
pub(crate) fn process_time(pid: u32) -> anyhow::Result<f64> {
    let folder = format!("/proc/{pid}/task");
    let mut total_ns = 0.0;
    for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // A thread that ends in between has no file any more.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        total_ns += text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<f64>().ok())
            .unwrap_or(0.0);
    }
    Ok(total_ns / 1e9)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn proc_stat_is_understood() {
        let text =
            "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 400 5 6 7 0 0 0\ncpu10 100 0 0 0 0 0 100 0 0 0\ncpu1 7\n";
        let time = CoreTime::parse(text, 0).unwrap();
        assert!(
            (time.busy - 0.19).abs() < 1e-9 && (time.interrupts - 0.13).abs() < 1e-9,
            "{time:?}"
        );
        assert!((CoreTime::parse(text, 10).unwrap().busy - 2.0).abs() < 1e-9);
        assert!(CoreTime::parse(text, 1).is_err(), "cut short");
        assert!(CoreTime::parse(text, 2).is_err());
    }

    #[test]
    fn a_process_that_works_has_had_time() {
        let own = std::process::id();
        let before = process_time(own).unwrap();
        let began = std::time::Instant::now();
        while began.elapsed() < std::time::Duration::from_millis(100) {
            std::hint::spin_loop();
        }
        let had = process_time(own).unwrap() - before;
        assert!(had > 0.005, "{had} s");
        assert!(process_time(u32::MAX).is_err());
    }
}
