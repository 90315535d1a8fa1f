//! A share of one core for a process: the CPU controller of the kernel's control groups, version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};

/// The least length of the period over which the share holds, in microseconds. Short, so that the rings of who is
/// stopped do not run over for long; the kernel's tick (1 to 10 ms) makes it longer in effect.
const PERIOD_MIN_US: u32 = 4000;
/// The least time in a period that the kernel grants a group, in microseconds (`min_cfs_quota_period`).
const QUOTA_MIN_US: u32 = 1000;
/// How often, and how long apart, an emptied group is tried to be removed: processes leave it some time after their end.
const REMOVALS: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// Which version of control groups has the CPU controller, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Controller {
    V1(PathBuf),
    V2(PathBuf),
}

/// A control group with a quota; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Quota {
    controller: Controller,
    group: PathBuf,
}

impl Quota {
    /// Makes a group for these processes, without a limit at first.
    ///
    /// # Errors
    /// When no CPU controller is mounted, or this process may not make groups.
    pub(crate) fn new(name: &str, pids: &[u32]) -> anyhow::Result<Self> {
        let quota = Self::group(name)?;
        for pid in pids {
            write(&quota.group.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(quota)
    }

    /// Makes a group for one thread of a process, which version 2 allows only where the whole process is in such groups.
    ///
    /// # Errors
    /// As [`Self::new`], and without version 1.
    pub(crate) fn of_thread(name: &str, thread: u32) -> anyhow::Result<Self> {
        let quota = Self::group(name)?;
        ensure!(
            matches!(quota.controller, Controller::V1(_)),
            "single threads are limited by the CPU controller of version 1 only, which is not mounted"
        );
        write(&quota.group.join("tasks"), &thread.to_string())?;
        Ok(quota)
    }

    fn group(name: &str) -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let controller = find(&mounts).ok_or_else(|| {
            anyhow!("no CPU controller is mounted: a control group file system would be right")
        })?;
        let root = match &controller {
            Controller::V1(root) => root,
            Controller::V2(root) => {
                write(&root.join("cgroup.subtree_control"), "+cpu")?;
                root
            }
        };
        let group = root.join(format!("millrace-bench-{}-{name}", std::process::id()));
        fs::create_dir(&group)
            .with_context(|| format!("cannot make the control group {}", group.display()))?;
        Ok(Self { controller, group })
    }

    /// Gives the group so many hundredths of one core; 100 or more is no limit.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub(crate) fn set(&self, percent: u32) -> anyhow::Result<()> {
        let period = period_us(percent);
        let quota = (percent < 100).then_some(period * percent / 100);
        match &self.controller {
            Controller::V1(_) => {
                write(&self.group.join("cpu.cfs_period_us"), &period.to_string())?;
                let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
                write(&self.group.join("cpu.cfs_quota_us"), &quota)
            }
            Controller::V2(_) => {
                let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
                write(&self.group.join("cpu.max"), &format!("{quota} {period}"))
            }
        }
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

/// The shortest period in which so many hundredths are no less than the kernel grants.
fn period_us(percent: u32) -> u32 {
    (QUOTA_MIN_US * 100).div_ceil(percent.max(1)).max(PERIOD_MIN_US)
}

/// Finds the CPU controller in a table of mounts: version 1 if it is there, else version 2.
fn find(mounts: &str) -> Option<Controller> {
    let mut second = None;
    for line in mounts.lines() {
        let mut words = line.split(' ').skip(1);
        let (Some(place), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if kind == "cgroup" && options.split(',').any(|option| option == "cpu") {
            return Some(Controller::V1(PathBuf::from(place)));
        }
        if kind == "cgroup2" {
            second = Some(Controller::V2(PathBuf::from(place)));
        }
    }
    second
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {text:?} to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_share_has_a_period_in_which_it_is_granted() {
        for percent in 1..=100 {
            let period = period_us(percent);
            assert!(
                period >= PERIOD_MIN_US && period * percent / 100 >= QUOTA_MIN_US,
                "{percent}"
            );
        }
        assert_eq!((period_us(50), period_us(15)), (4000, 6667));
    }

    #[test]
    fn the_controller_is_found_wherever_it_is() {
        let v1 = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0";
        let other = "cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0";
        let first = Some(Controller::V1("/sys/fs/cgroup/cpu,cpuacct".into()));
        let second = Some(Controller::V2("/sys/fs/cgroup".into()));
        for (mounts, expected) in [
            ([v2, v1].join("\n"), first.clone()),
            ([v1, v2].join("\n"), first),
            ([other, v2].join("\n"), second),
            (other.to_owned(), None),
            ("proc /proc proc rw 0 0\n\nnonsense".to_owned(), None),
        ] {
            assert_eq!(find(&mounts), expected, "{mounts}");
        }
    }
}
