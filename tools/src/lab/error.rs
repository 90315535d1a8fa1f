//! What can go wrong in a lab, each with the command or the thing it went wrong with.

use std::io;
use std::process::ExitStatus;

use super::runtime::Refused;

/// A failure of the lab itself or of something it was asked to do.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces and interfaces need root.
    #[error("a lab makes network namespaces, so it must run as root")]
    NotRoot,
    /// [`interrupt::raise`](super::interrupt::raise) was called: the lab is to be taken down.
    #[error("interrupted")]
    Interrupted,
    /// A name or number the lab cannot build with.
    #[error("{what} {value:?} does not fit: {rule}")]
    Unfit {
        /// What the value was meant for.
        what: &'static str,
        /// The value as given.
        value: String,
        /// What would be right.
        rule: &'static str,
    },
    /// Nothing of that name is in the lab.
    #[error("this lab has no {what} called {name:?}")]
    Unknown {
        /// The kind of thing looked for.
        what: &'static str,
        /// The name looked for.
        name: String,
    },
    /// A system call made by the lab itself.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was being done, and to what.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be started, most often because it is not installed.
    #[error("cannot start `{command}`: {source}")]
    Spawn {
        /// The command line.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// A command ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error, or to standard output if that was all it wrote.
        stderr: String,
    },
    /// A command, or a condition, took longer than it may.
    #[error("{what} did not come about within {timeout_ms} ms")]
    TimedOut {
        /// The command line, or the condition waited for.
        what: String,
        /// How long it was given.
        timeout_ms: u128,
    },
    /// A command's output could not be understood.
    #[error("`{command}` printed something unexpected: {problem}")]
    Output {
        /// The command line.
        command: String,
        /// What was wrong with the output.
        problem: String,
    },
    /// A process that should run on ended.
    #[error("`{command}` ended ({status}); the end of its log:\n{log}")]
    Ended {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        log: String,
    },
    /// A program of Millrace's is nowhere to be found.
    #[error("cannot find the {program} program at {tried}: build it, or name it in {variable}")]
    NoProgram {
        /// What it is called.
        program: &'static str,
        /// Where it was looked for.
        tried: String,
        /// The environment variable that names it.
        variable: &'static str,
    },
    /// A CNI plugin refused what it was called for.
    #[error("the CNI plugin {plugin} refused {verb} (code {}): {}", .refused.code, .refused.msg)]
    Refused {
        /// The plugin's name.
        plugin: String,
        /// The verb.
        verb: String,
        /// What it said.
        refused: Refused,
    },
    /// There is no kernel for a virtual machine.
    #[error(
        "there is no kernel in {tried}: `tools/kernel.sh FOLDER` fetches one, and {variable} names the folder"
    )]
    NoKernel {
        /// Where it was looked for.
        tried: String,
        /// The environment variable that names the folder.
        variable: &'static str,
    },
    /// A virtual machine, or what runs inside it, did not do what it was told.
    #[error("the virtual machine cannot {doing}: {problem}; the end of what it wrote:\n{console}")]
    Machine {
        /// What it was told.
        doing: String,
        /// What went wrong.
        problem: String,
        /// The last lines of its console, or of the log of what failed inside.
        console: String,
    },
    /// Taking the lab down left something behind.
    #[error("the lab is down, but left behind: {}", .0.join(", "))]
    LeftBehind(Vec<String>),
}

impl LabError {
    /// Returns a function that turns an [`io::Error`] into [`LabError::Io`], for `map_err`.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
