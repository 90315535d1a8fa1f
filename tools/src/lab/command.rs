//! Commands that are waited for, and processes that run on.
//!
//! Every child gets its own process group, so that a Ctrl-C at the terminal reaches the lab alone and the lab decides in
//! which order things end. Children are killed by their own process id, while they are not yet reaped, so the id
//! cannot have passed to another process.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::{LabError, interrupt};

/// How long a command that only changes a setting may take.
pub(crate) const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a wait goes on before it looks at the interrupt flag again.
const INTERRUPT_BEAT: Duration = Duration::from_millis(50);
/// How often a condition that cannot be slept on is looked at.
const CONDITION_BEAT: Duration = Duration::from_millis(5);
/// How long a process gets between SIGTERM and SIGKILL when it is dropped.
const GRACE: Duration = Duration::from_secs(5);
/// How many of a log's last lines an error quotes.
const QUOTED_LINES: usize = 20;

/// When an interrupt is heeded by a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heed {
    /// Not at all: the lab is being taken down.
    Never,
    /// Only before the command starts: cut short, it would leave half a thing behind.
    Before,
    /// At any time: the command is killed.
    Throughout,
}

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
}

impl Finished {
    /// Turns an ending other than success into [`LabError::Failed`], and returns standard output.
    pub fn success(self) -> Result<String, LabError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() {
            &self.stdout
        } else {
            &self.stderr
        };
        Err(LabError::Failed {
            command: self.command,
            status: self.status,
            stderr: said.trim().to_owned(),
        })
    }
}

/// Writes a command as one would type it.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a short command that changes or shows a setting; its failure is an error, its output the answer.
pub(crate) fn admin(command: Command) -> Result<String, LabError> {
    run(command, Stdio::null(), ADMIN_TIMEOUT, Heed::Before)?.success()
}

/// Like [`admin`], for taking things down: an interrupt does not stop it.
pub(crate) fn teardown(command: Command) -> Result<String, LabError> {
    run(command, Stdio::null(), ADMIN_TIMEOUT, Heed::Never)?.success()
}

/// Runs a command that may take its time, and returns how it ended and what it wrote; an interrupt kills it.
///
/// # Errors
/// [`LabError::TimedOut`] if it has not ended after `timeout` (it is then killed), [`LabError::Spawn`] if it cannot start.
pub fn complete(command: Command, timeout: Duration) -> Result<Finished, LabError> {
    run(command, Stdio::null(), timeout, Heed::Throughout)
}

/// Runs a command that reads `input` to its end and may leave half a thing behind if it is cut short: an interrupt keeps it
/// from starting, and no more.
pub(crate) fn fed(command: Command, input: &[u8], timeout: Duration) -> Result<Finished, LabError> {
    let spooled = tempfile::tempfile().and_then(|mut file| {
        file.write_all(input)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    });
    let file = spooled.map_err(LabError::io("make a file for a command's input"))?;
    run(command, Stdio::from(file), timeout, Heed::Before)
}

/// Runs a command to its end. Output goes to unnamed files, not pipes: a grandchild that lives on cannot hold us up.
fn run(mut command: Command, stdin: Stdio, timeout: Duration, heed: Heed) -> Result<Finished, LabError> {
    if heed != Heed::Never {
        interrupt::check()?;
    }
    let line = line_of(&command);
    let spool = || tempfile::tempfile().map_err(LabError::io("make a file for a command's output"));
    let (stdout, stderr) = (spool()?, spool()?);
    let writer = |file: &File| {
        file.try_clone()
            .map_err(LabError::io("share a file with a command"))
    };
    command
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(writer(&stdout)?)
        .stderr(writer(&stderr)?);
    let mut process = Process::start(command, line.clone(), PathBuf::new())?;
    let status = process.wait_heeding(timeout, heed)?;
    Ok(Finished {
        command: line,
        status,
        stdout: contents(stdout)?,
        stderr: contents(stderr)?,
    })
}

/// Reads a file from its start.
fn contents(mut file: File) -> Result<String, LabError> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.read_to_end(&mut bytes))
        .map_err(LabError::io("read a command's output"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits until `condition` holds, looking every few milliseconds.
///
/// # Errors
/// [`LabError::TimedOut`] naming `what` if it does not hold within `timeout`, and whatever `condition` fails with.
pub fn wait_until(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<bool, LabError>,
) -> Result<(), LabError> {
    let deadline = Instant::now() + timeout;
    loop {
        interrupt::check()?;
        if condition()? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(LabError::TimedOut {
                what: what.to_owned(),
                timeout_ms: timeout.as_millis(),
            });
        }
        thread::sleep(CONDITION_BEAT);
    }
}

/// A child process. Dropping it ends it: SIGTERM, then SIGKILL if it does not go, and it is always reaped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    command: String,
    log: PathBuf,
}

impl Process {
    /// Starts a process that runs on, standard output and error appended to the file `log`.
    pub fn spawn(mut command: Command, log: &Path) -> Result<Self, LabError> {
        interrupt::check()?;
        let file = File::options().create(true).append(true).open(log);
        let file = file.map_err(LabError::io(format!("open {}", log.display())))?;
        let second = file
            .try_clone()
            .map_err(LabError::io(format!("share {}", log.display())))?;
        command.stdin(Stdio::null()).stdout(file).stderr(second);
        let line = line_of(&command);
        Self::start(command, line, log.to_owned())
    }

    fn start(mut command: Command, line: String, log: PathBuf) -> Result<Self, LabError> {
        command.process_group(0);
        match command.spawn() {
            Ok(child) => Ok(Self {
                child,
                command: line,
                log,
            }),
            Err(source) => Err(LabError::Spawn {
                command: line,
                source,
            }),
        }
    }

    /// The process id; it stays this process's own until the value is dropped or waited for.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The command line.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Sends a signal. A process that has ended already is no error.
    pub fn signal(&mut self, signal: Signal) -> Result<(), LabError> {
        if self.status()?.is_some() {
            return Ok(());
        }
        kill_process(Pid::from_child(&self.child), signal)
            .map_err(|errno| LabError::io(format!("signal `{}`", self.command))(errno.into()))
    }

    /// How the process ended, or nothing while it runs.
    pub fn status(&mut self) -> Result<Option<ExitStatus>, LabError> {
        self.child
            .try_wait()
            .map_err(LabError::io(format!("ask after `{}`", self.command)))
    }

    /// Fails with [`LabError::Ended`], quoting the log, if the process no longer runs.
    pub fn check_running(&mut self) -> Result<(), LabError> {
        match self.status()? {
            None => Ok(()),
            Some(status) => Err(LabError::Ended {
                command: self.command.clone(),
                status,
                log: log_end(&self.log),
            }),
        }
    }

    /// Waits for the process to end by itself; an interrupt or the end of `timeout` kills it.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, LabError> {
        self.wait_heeding(timeout, Heed::Throughout)
    }

    /// Sends SIGTERM and waits for the end, killing the process if it outlasts `timeout`.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] if it had to be killed.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus, LabError> {
        self.signal(Signal::TERM)?;
        self.wait_heeding(timeout, Heed::Never)
    }

    /// Sends SIGKILL and reaps.
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        let reaped = self.child.kill().and_then(|()| self.child.wait());
        reaped.map_err(LabError::io(format!("kill `{}`", self.command)))
    }

    fn wait_heeding(&mut self, timeout: Duration, heed: Heed) -> Result<ExitStatus, LabError> {
        let handle = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())
            .map_err(|errno| LabError::io(format!("watch `{}`", self.command))(errno.into()))?;
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.status()? {
                return Ok(status);
            }
            if heed == Heed::Throughout && interrupt::raised() {
                self.kill()?;
                return Err(LabError::Interrupted);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.kill()?;
                let what = format!("the end of `{}`", self.command);
                return Err(LabError::TimedOut {
                    what,
                    timeout_ms: timeout.as_millis(),
                });
            }
            // A wake-up by a signal only means another round.
            let slice = Timespec::try_from(left.min(INTERRUPT_BEAT)).unwrap_or_default();
            let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&slice));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.status(), Ok(None)) {
            return;
        }
        // A stopped process (SIGSTOP) heeds SIGTERM only once it is continued.
        let asked = self.signal(Signal::CONT).and_then(|()| self.terminate(GRACE));
        if asked.is_err() && matches!(self.status(), Ok(None)) {
            let _ = self.kill();
        }
    }
}

/// The last lines of a log file, for quoting in an error.
pub(crate) fn log_end(log: &Path) -> String {
    last_lines(&fs::read_to_string(log).unwrap_or_default())
}

/// The last lines of a text, for quoting in an error.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .get(lines.len().saturating_sub(QUOTED_LINES)..)
        .unwrap_or_default()
        .join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_carries_command_status_and_words() {
        let error = admin(shell("echo lost >&2; exit 3")).unwrap_err();
        let LabError::Failed {
            command,
            status,
            stderr,
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!(
            (command.as_str(), status.code(), stderr.as_str()),
            ("sh -c echo lost >&2; exit 3", Some(3), "lost")
        );
    }

    #[test]
    fn a_failure_that_speaks_on_standard_output_is_quoted_too() {
        let error = admin(shell("echo here; exit 1")).unwrap_err();
        assert!(error.to_string().ends_with(": here"), "{error}");
    }

    #[test]
    fn what_does_not_end_is_killed_and_named() {
        let started = Instant::now();
        let error = complete(shell("exec sleep 60"), Duration::from_millis(50)).unwrap_err();
        assert!(
            matches!(error, LabError::TimedOut { timeout_ms: 50, .. }),
            "{error}"
        );
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_grandchild_that_lives_on_does_not_hold_us_up() {
        let started = Instant::now();
        let out = complete(shell("sleep 3 & echo done"), Duration::from_secs(30)).unwrap();
        assert_eq!(out.stdout, "done\n");
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    /// Starts a script and waits until it has said so.
    fn ready(script: &str, log: &Path) -> Process {
        let process = Process::spawn(shell(script), log).unwrap();
        wait_until("ready", Duration::from_secs(10), || {
            Ok(log_end(log).contains("ready"))
        })
        .unwrap();
        process
    }

    #[test]
    fn a_dropped_process_is_gone_and_reaped() {
        for script in [
            "echo ready; exec sleep 60",
            "echo ready; kill -STOP $$; exec sleep 60",
        ] {
            let log = tempfile::NamedTempFile::new().unwrap();
            let process = ready(script, log.path());
            let entry = format!("/proc/{}", process.pid());
            assert!(Path::new(&entry).exists());
            drop(process);
            assert!(!Path::new(&entry).exists(), "{script} left {entry}");
        }
    }

    #[test]
    fn who_ignores_sigterm_is_killed() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut process = ready("trap '' TERM; echo ready; exec sleep 60", log.path());
        let error = process.terminate(Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, LabError::TimedOut { .. }), "{error}");
        assert!(process.status().unwrap().is_some());
    }

    #[test]
    fn an_early_end_quotes_the_log() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut process = Process::spawn(shell("echo no such interface; exit 1"), log.path()).unwrap();
        process.wait(Duration::from_secs(10)).unwrap();
        let error = process.check_running().unwrap_err();
        assert!(error.to_string().ends_with("no such interface"), "{error}");
    }

    #[test]
    fn a_condition_that_never_holds_is_named() {
        let error = wait_until("rain", Duration::from_millis(20), || Ok(false)).unwrap_err();
        assert_eq!(error.to_string(), "rain did not come about within 20 ms");
    }
}
