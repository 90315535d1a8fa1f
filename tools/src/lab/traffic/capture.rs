//! Captures by the stock `tcpdump`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::super::command::{Process, log_end, wait_until};
use super::super::{LabError, Namespace};

/// How long tcpdump may take to listen, or to end.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A running capture of one interface into a pcap file. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Capture {
    /// Starts to capture what passes `interface` of a namespace and fits tcpdump's `filter` (empty: everything), whole
    /// packets, into `file`. Returns once tcpdump listens: what is sent from then on is in the file.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        filter: &str,
        file: &Path,
    ) -> Result<Self, LabError> {
        let log = file.with_extension("log");
        let mut line = namespace.command("tcpdump");
        // Root is kept, since the file's folder may be closed to the user tcpdump would become.
        line.args([
            "-Z",
            "root",
            "-n",
            "-s",
            "0",
            "-U",
            "--immediate-mode",
            "-i",
            interface,
            "-w",
        ])
        .arg(file);
        line.args(filter.split_whitespace());
        let _ = fs::remove_file(&log);
        let mut process = Process::spawn(line, &log)?;
        wait_until(&format!("tcpdump listening on {interface}"), TIMEOUT, || {
            process.check_running()?;
            Ok(log_end(&log).contains("listening on"))
        })?;
        Ok(Self {
            process,
            file: file.to_owned(),
        })
    }

    /// Ends the capture and returns the file, written to its end.
    pub fn stop(mut self) -> Result<PathBuf, LabError> {
        self.process.signal(Signal::INT)?;
        let status = self.process.wait(TIMEOUT)?;
        if status.success() {
            return Ok(self.file);
        }
        let log = log_end(&self.file.with_extension("log"));
        Err(LabError::Ended {
            command: self.process.command().to_owned(),
            status,
            log,
        })
    }
}
