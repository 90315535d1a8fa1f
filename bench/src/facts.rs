//! What a figure was measured on: noted beside it whenever a part of the bench has ended.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, ensure};
use millrace_dataplane::clock::Clock;
use serde_json::{Map, json};

use crate::statistics::rounded;
use crate::summary;

/// Keys of the summary that say what a part was measured on start with this; the part's name follows.
pub(crate) const PREFIX: &str = "run/";
/// What a commit is called where there is no git.
const UNKNOWN: &str = "unknown";
/// What does not change a program: pages, and what the report writes.
const NO_SOURCE: [&str; 2] = [":(exclude)*.md", ":(exclude)docs"];

/// Notes in the summary at `output` that `part` was measured now, by this program, on this machine.
///
/// # Errors
/// When the kernel's version or the date cannot be read, or the file cannot be written.
pub(crate) fn note(part: &str, output: &Path) -> anyhow::Result<()> {
    // INVARIANT: far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let ghz = Clock::calibrated().cycles_per_second() as f64 / 1e9;
    let facts = json!({
        "commit": commit().unwrap_or_else(|| UNKNOWN.to_owned()),
        "date": answer("date", &["-u", "+%F"])?,
        "kernel": kernel()?,
        "cores": thread::available_parallelism().map_or(0, usize::from),
        "tsc_ghz": rounded(ghz, 2),
    });
    summary::merge(output, Map::from_iter([(format!("{PREFIX}{part}"), facts)]))
}

/// The version of the kernel, without what its builder added.
fn kernel() -> anyhow::Result<String> {
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    let version = release.trim().split(['-', '+']).next().unwrap_or_default();
    Ok(version.to_owned())
}

/// The commit whose sources are in this folder, with a plus behind it if they were changed since.
fn commit() -> Option<String> {
    let commit = answer("git", &["rev-parse", "--short", "HEAD"]).ok()?;
    let changed = [&["diff", "--quiet", "HEAD", "--", "."], &NO_SOURCE[..]].concat();
    let is_changed = answer("git", &changed).is_err();
    Some(commit + if is_changed { "+" } else { "" })
}

/// What a short command prints.
fn answer(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(done.status.success(), "{program} {} failed", arguments.join(" "));
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_what_it_was_measured_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        note("memory", &path).unwrap();
        let all = summary::read(&path).unwrap();
        let facts = all.get("run/memory").unwrap();
        for name in ["commit", "date", "kernel"] {
            let text = facts.get(name).unwrap().as_str().unwrap();
            assert!(!text.is_empty() && !text.contains(char::is_whitespace), "{facts}");
        }
        assert!(facts.get("tsc_ghz").unwrap().as_f64().unwrap() > 0.1);
        assert!(facts.get("cores").unwrap().as_u64().unwrap() > 0);
    }
}
