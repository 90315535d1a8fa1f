//! The ceiling: `millrace-forward`, which takes everything from one interface to the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Lab, Process, Signal, wait_until};
use serde_json::Value;

use super::processor::process_time;
use super::setting::{beside_this_program, pod_mac, pod_port};
use super::{Batches, Cores, NODE, PEER, Subject, Work};

/// How long something may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);

/// The bare forwarder between the pod's port and the uplink.
#[derive(Debug, Default)]
pub(crate) struct Forwarder {
    process: Option<Process>,
}

impl Forwarder {
    fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
}

fn log_of(lab: &Lab) -> PathBuf {
    lab.folder().join("forwarder.log")
}

impl Subject for Forwarder {
    fn name(&self) -> &'static str {
        "forwarder"
    }

    fn work(&self) -> Work {
        Work::Carry
    }

    fn set_up(&mut self, lab: &Lab, cores: Cores) -> anyhow::Result<()> {
        let peer = lab.node(PEER)?.plan().uplink_mac().to_string();
        let (port, pod, core) = (pod_port(lab)?, pod_mac(lab)?.to_string(), cores.node.to_string());
        let log = log_of(lab);
        let mut line = lab
            .node(NODE)?
            .namespace()
            .command(beside_this_program("millrace-forward")?);
        line.args(["--left", &port, "--left-peer", &pod]);
        line.args(["--right", UPLINK, "--right-peer", &peer, "--core", &core]);
        let mut process = Process::spawn(line, &log)?;
        wait_until("a forwarder that is ready", PATIENCE, || {
            process.check_running()?;
            Ok(fs::read_to_string(&log).is_ok_and(|log| log.contains("ready")))
        })?;
        self.process = Some(process);
        Ok(())
    }

    fn pids(&self, _lab: &Lab) -> Vec<u32> {
        self.pid().into_iter().collect()
    }

    fn time(&self, _lab: &Lab, _cores: Cores) -> anyhow::Result<f64> {
        process_time(self.pid().context("the forwarder is not up yet")?)
    }

    fn batches(&mut self, lab: &Lab) -> anyhow::Result<Option<Batches>> {
        let log = log_of(lab);
        let before = reports(&log).len();
        let process = self.process.as_mut().context("the forwarder is not up yet")?;
        process.signal(Signal::USR1)?;
        // A forwarder that sleeps looks for signals when it wakes, which is at once.
        wait_until("a report of the forwarder", PATIENCE, || {
            process.check_running()?;
            Ok(reports(&log).len() > before)
        })?;
        let last = reports(&log).pop().unwrap_or_default();
        let totals: Value =
            serde_json::from_str(&last).context("the forwarder printed something else than JSON")?;
        let field = |name| {
            totals
                .get(name)
                .and_then(Value::as_u64)
                .with_context(|| format!("no {name} in {last}"))
        };
        Ok(Some(Batches {
            packets: field("received")?,
            count: field("turns")? - field("idle_turns")?,
        }))
    }
}

/// The lines of JSON in its log.
fn reports(log: &Path) -> Vec<String> {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(str::to_owned)
        .collect()
}
