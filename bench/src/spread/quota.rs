//! A share of a core for one thread, whatever core it runs on and whoever runs there besides: a control group's quota. Only
//! version 1 of them limits single threads.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;

/// The length of the period over which the share holds, in microseconds; the kernel's tick (1 to 10 ms) makes it longer in
/// effect.
const PERIOD_US: u32 = 10_000;
/// How often, and how long apart, an emptied group is tried to be removed: threads leave it some time after their end.
const REMOVALS: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// A control group with a quota; dropping it removes it.
#[derive(Debug)]
pub(super) struct Quota {
    group: PathBuf,
}

impl Quota {
    /// Gives a thread so many hundredths of a core; 100 or more is no limit.
    ///
    /// # Errors
    /// When the CPU controller of version 1 is not mounted, or this process may not make groups.
    pub(super) fn of_thread(name: &str, thread: u32, percent: u32) -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let root = find(&mounts).context(
            "the CPU controller of version 1 is not mounted (`mount -t cgroup -o cpu`), and no other limits single threads",
        )?;
        let group = root.join(format!("millrace-bench-{}-{name}", std::process::id()));
        fs::create_dir(&group)
            .with_context(|| format!("cannot make the control group {}", group.display()))?;
        let quota = Self { group };
        quota.write("tasks", &thread.to_string())?;
        let time = if percent < 100 {
            (PERIOD_US * percent / 100).to_string()
        } else {
            "-1".to_owned()
        };
        quota.write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
        quota.write("cpu.cfs_quota_us", &time)?;
        Ok(quota)
    }

    fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.group.join(file);
        fs::write(&path, text).with_context(|| format!("cannot write {text:?} to {}", path.display()))
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            if fs::remove_dir(&self.group).is_ok() || !self.group.exists() {
                return;
            }
            thread::sleep(REMOVAL_PAUSE);
        }
        eprintln!(
            "millrace-bench: cannot remove the control group {}",
            self.group.display()
        );
    }
}

/// Finds the CPU controller of version 1 in a table of mounts.
fn find(mounts: &str) -> Option<&Path> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
        let is_it = kind == "cgroup" && options.split(',').any(|option| option == "cpu");
        is_it.then(|| Path::new(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_is_found_wherever_it_is() {
        let v1 = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0";
        let other = "cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0";
        let place = Some(Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        for (mounts, expected) in [
            ([v2, v1].join("\n"), place),
            ([v1, other].join("\n"), place),
            ([other, v2].join("\n"), None),
            ("proc /proc proc rw 0 0\n\nnonsense".to_owned(), None),
        ] {
            assert_eq!(find(&mounts), expected, "{mounts}");
        }
    }
}
