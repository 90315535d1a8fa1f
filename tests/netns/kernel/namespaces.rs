//! Network namespaces for a test: made and always removed, also when the test panics.

use std::fs::File;
use std::future::Future;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace, removed when dropped.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// A new, empty namespace with its loopback up.
    pub(crate) fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let namespace = Self {
            name: format!("mrk-{}-{number}", std::process::id()),
        };
        sh(&format!("ip netns add {}", namespace.name));
        namespace.ip("link set lo up");
        namespace
    }

    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command inside, and returns what it wrote. Panics if it fails.
    pub(crate) fn sh(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} {command}", self.name))
    }

    /// Runs `ip ARGUMENTS` inside.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        sh(&format!("ip -n {} {arguments}", self.name))
    }

    /// Whether `ip ARGUMENTS` succeeds inside.
    pub(crate) fn ip_works(&self, arguments: &str) -> bool {
        output(&format!("ip -n {} {arguments}", self.name))
            .status
            .success()
    }

    /// The names of all interfaces inside.
    pub(crate) fn interfaces(&self) -> Vec<String> {
        let listing = self.ip("-o link");
        let name = |line: &str| {
            line.split(": ")
                .nth(1)
                .unwrap()
                .split('@')
                .next()
                .unwrap()
                .to_owned()
        };
        listing.lines().map(name).collect()
    }

    /// Runs `work` on a thread inside this namespace, in a runtime of its own, and returns what it returns. A
    /// panic there is a panic here.
    pub(crate) fn run<T, F>(&self, work: impl FnOnce() -> F + Send) -> T
    where
        F: Future<Output = T>,
        T: Send,
    {
        let inside = || {
            let file = File::open(self.path()).unwrap();
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async { work().await })
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = output(&format!("ip netns del {}", self.name));
    }
}

/// Joins two namespaces by a veth pair, both ends up.
pub(crate) fn join(near: &Namespace, near_name: &str, far: &Namespace, far_name: &str) {
    near.ip(&format!(
        "link add {near_name} type veth peer name {far_name} netns {}",
        far.name()
    ));
    near.ip(&format!("link set {near_name} up"));
    far.ip(&format!("link set {far_name} up"));
}

/// Runs a command line without a shell's expansions, and returns what it wrote. Panics if it fails.
pub(crate) fn sh(command: &str) -> String {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn output(command: &str) -> Output {
    let mut words = command.split_whitespace();
    Command::new(words.next().unwrap()).args(words).output().unwrap()
}
