//! One network namespace: made, used from outside and from inside, and removed.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::LabError;
use super::command::{self, Finished};

/// Where `ip netns` keeps its named namespaces.
pub(crate) const NAMESPACE_FOLDER: &str = "/run/netns";
/// How long processes killed in a namespace may take to be gone.
const EMPTYING: Duration = Duration::from_secs(2);

/// A named network namespace with its loopback up. Dropping it kills what still runs inside and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace `name`.
    pub(crate) fn create(name: String) -> Result<Self, LabError> {
        let mut add = Command::new("ip");
        add.args(["netns", "add", &name]);
        command::admin(add)?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// The name, as `ip netns` lists it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace, as `setns` and `millrace attach --netns` want it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(NAMESPACE_FOLDER).join(&self.name)
    }

    /// Runs `ip` on the namespace, without entering it: `ip -n NAME ARGUMENTS`.
    pub fn ip(&self, arguments: &[&str]) -> Result<String, LabError> {
        self.outside("ip", arguments)
    }

    /// Runs `bridge` on the namespace: `bridge -n NAME ARGUMENTS`.
    pub fn bridge(&self, arguments: &[&str]) -> Result<String, LabError> {
        self.outside("bridge", arguments)
    }

    fn outside(&self, program: &str, arguments: &[&str]) -> Result<String, LabError> {
        let mut line = Command::new(program);
        line.args(["-n", &self.name]).args(arguments);
        command::admin(line)
    }

    /// A command that will run inside: `ip netns exec NAME PROGRAM`. `ip` becomes the program, so its process id is the
    /// program's.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut line = Command::new("ip");
        line.args(["netns", "exec", &self.name]).arg(program);
        line
    }

    /// Runs a short command inside; its failure is an error, its standard output the answer.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, LabError> {
        let mut line = self.command(program);
        line.args(arguments);
        command::admin(line)
    }

    /// Runs a command inside that may take up to `timeout`, and returns how it ended, well or not.
    pub fn complete(
        &self,
        program: &str,
        arguments: &[&str],
        timeout: Duration,
    ) -> Result<Finished, LabError> {
        let mut line = self.command(program);
        line.args(arguments);
        command::complete(line, timeout)
    }

    /// Calls `work` on a thread of its own that has entered the namespace. A socket made there stays in the namespace
    /// wherever it is used afterwards; so do the files of `/proc/sys/net` and `/proc/thread-self/net`.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let file = File::open(self.path()).map_err(LabError::io(format!("open namespace {}", self.name)))?;
        let entered = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let ended = thread::scope(|scope| {
            let started = thread::Builder::new()
                .name("in-namespace".to_owned())
                .spawn_scoped(scope, entered);
            started.map(thread::ScopedJoinHandle::join)
        });
        match ended.map_err(LabError::io("start a thread"))? {
            Ok(result) => result.map_err(LabError::io(format!("enter namespace {}", self.name))),
            Err(payload) => panic::resume_unwind(payload),
        }
    }

    /// Sets a key of the namespace's `net` settings, as in `set("ipv4/ip_forward", "1")`.
    pub fn set(&self, key: &str, value: &str) -> Result<(), LabError> {
        let path = format!("/proc/sys/net/{key}");
        self.within(|| fs::write(&path, value))?
            .map_err(LabError::io(format!(
                "write {value} to {path} of namespace {}",
                self.name
            )))
    }

    /// Reads a key of the namespace's `net` settings, without the line's end.
    pub fn get(&self, key: &str) -> Result<String, LabError> {
        let path = format!("/proc/sys/net/{key}");
        let text = self.within(|| fs::read_to_string(&path))?;
        let text = text.map_err(LabError::io(format!("read {path} of namespace {}", self.name)))?;
        Ok(text.trim_end().to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("lab: {error}");
        }
    }
}

/// Kills what runs in the namespace `name` and removes it; one that is not there, or that someone else removes
/// meanwhile, is no error.
pub(crate) fn remove(name: &str) -> Result<(), LabError> {
    let exists = || Path::new(NAMESPACE_FOLDER).join(name).exists();
    if !exists() {
        return Ok(());
    }
    let removed = empty(name).and_then(|()| {
        let mut delete = Command::new("ip");
        delete.args(["netns", "delete", name]);
        command::teardown(delete).map(drop)
    });
    if exists() { removed } else { Ok(()) }
}

/// Kills what runs in a namespace: one without a name lives on while a process is in it, interfaces and all.
fn empty(name: &str) -> Result<(), LabError> {
    let deadline = Instant::now() + EMPTYING;
    loop {
        let inhabitants = inhabitants(name)?;
        if inhabitants.is_empty() || Instant::now() > deadline {
            return Ok(());
        }
        for pid in inhabitants {
            // Gone already is as good as killed.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes inside a namespace, this one never among them.
fn inhabitants(name: &str) -> Result<Vec<Pid>, LabError> {
    let mut list = Command::new("ip");
    list.args(["netns", "pids", name]);
    let text = command::teardown(list)?;
    let pids = text
        .split_whitespace()
        .filter_map(|word| Pid::from_raw(word.parse().ok()?));
    Ok(pids.filter(|pid| *pid != rustix::process::getpid()).collect())
}
