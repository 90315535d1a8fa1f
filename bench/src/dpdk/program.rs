//! One of DPDK's programs while it runs: what it says, line by line, and what it is told.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use millrace_tools::lab::interrupt;

use super::memory::Memory;

/// How long a wait goes on before it looks at the interrupt flag again.
const BEAT: Duration = Duration::from_millis(50);
/// Lines that an error shows.
const LINES_SHOWN: usize = 8;

/// A program that runs; dropping it ends it.
pub(super) struct Program {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// The newest lines, for errors.
    last: VecDeque<String>,
}

impl Program {
    /// Starts one with DPDK's usual arguments, and then its own, behind the `--` that parts them.
    ///
    /// # Errors
    /// When it is not there.
    pub(super) fn start(name: &str, memory: &Memory, of_dpdk: &[&str], own: &[&str]) -> anyhow::Result<Self> {
        // Else it would say what it has to say once its buffer is full.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", name]).args(memory.arguments());
        command.args(["--no-pci", "--no-shconf", "--no-telemetry", "--log-level=3"]);
        command.args(of_dpdk);
        if !own.is_empty() {
            command.arg("--").args(own);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}: `tools/install-deps.sh bench` installs it"))?;
        let (told, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            pass_on(stdout, told.clone());
        }
        if let Some(stderr) = child.stderr.take() {
            pass_on(stderr, told);
        }
        Ok(Self {
            name: name.to_owned(),
            stdin: child.stdin.take(),
            child,
            lines,
            last: VecDeque::new(),
        })
    }

    /// Tells it something.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let told = self
            .stdin
            .as_mut()
            .map(|stdin| stdin.write_all(format!("{line}\n").as_bytes()));
        match told {
            Some(Ok(())) => Ok(()),
            _ => bail!("{} has ended; it said last: {}", self.name, self.shown()),
        }
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// When it says nothing in time, when it has ended, and on an interrupt.
    pub(super) fn line(&mut self, patience: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            interrupt::check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left.min(BEAT)) {
                Ok(line) => {
                    if self.last.len() == LINES_SHOWN {
                        self.last.pop_front();
                    }
                    self.last.push_back(line.clone());
                    return Ok(line);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} ended too early; it said last: {}", self.name, self.shown())
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    bail!(
                        "{} said nothing for {patience:?}; it said last: {}",
                        self.name,
                        self.shown()
                    )
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn shown(&self) -> String {
        self.last.iter().cloned().collect::<Vec<_>>().join(" | ")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes every line on until there is none any more.
fn pass_on(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            // Nobody listens any more once the program is to end.
            let Ok(line) = line else { return };
            if to.send(line).is_err() {
                return;
            }
        }
    });
}
