//! The switch: `millrace run`, with whatever objects it is given.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use millrace_tools::lab::{Daemon, Lab, MillraceOptions, NodeKind, wait_until};
use serde_json::{Value, json};

use super::processor::process_time;
use super::{Batches, Cores, NODE, Subject, Work};
use crate::statistics::rounded;

/// How long the tunnel may take to come about, and how long so many objects.
const PATIENCE: Duration = Duration::from_secs(10);
const LOADING: Duration = Duration::from_secs(60);
/// How often the switch is asked how many it has.
const LOADING_BEAT: Duration = Duration::from_millis(250);
/// Connections live on while other arms are measured, in seconds.
const LIFE_S: u32 = 3600;

/// Objects for the switch's folder, and how many of them it is to know in the end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    /// Names of files, and what is in them.
    pub(crate) files: Vec<(String, String)>,
    /// Service ports.
    pub(crate) services: usize,
    /// Policies.
    pub(crate) policies: usize,
}

/// The switch.
#[derive(Debug)]
pub(crate) struct Switch {
    name: String,
    objects: Objects,
    loaded: Duration,
}

impl Switch {
    /// A switch that is called so, with these objects beside its nodes and pods.
    pub(crate) fn new(name: &str, objects: Objects) -> Self {
        Self {
            name: name.to_owned(),
            objects,
            loaded: Duration::ZERO,
        }
    }

    /// Writes the objects, and waits until the switch has them all.
    fn load(&mut self, daemon: &Daemon) -> anyhow::Result<()> {
        let began = Instant::now();
        for (name, text) in &self.objects.files {
            daemon.write_manifest(name, text)?;
        }
        let Objects {
            services, policies, ..
        } = self.objects;
        let what = format!("{services} Services' ports and {policies} policies in the switch");
        wait_until(&what, LOADING, || {
            // To tell of all of them is work too, for the thread that loads them.
            thread::sleep(LOADING_BEAT);
            Ok(rows(&daemon.json(&["show", "services"])?) >= services
                && rows(&daemon.json(&["show", "policies"])?) >= policies)
        })?;
        self.loaded = began.elapsed();
        // The text is not needed any more.
        self.objects.files.clear();
        Ok(())
    }
}

fn daemon(lab: &Lab) -> anyhow::Result<&Daemon> {
    lab.node(NODE)?.daemon().context("the node runs no daemon")
}

fn rows(shown: &Value) -> usize {
    shown.as_array().map_or(0, Vec::len)
}

/// Waits until the switch can send to its peer.
fn await_tunnel(daemon: &Daemon) -> anyhow::Result<()> {
    Ok(wait_until("a tunnel to the peer", PATIENCE, || {
        let peers = daemon.json(&["show", "peers"])?;
        let rows = peers
            .as_array()
            .or_else(|| peers.get("peers").and_then(Value::as_array));
        let is_ready = |row: &Value| row.get("ready").and_then(Value::as_bool) == Some(true);
        Ok(rows.is_some_and(|rows| !rows.is_empty() && rows.iter().all(is_ready)))
    })?)
}

impl Subject for Switch {
    fn name(&self) -> &str {
        &self.name
    }

    fn work(&self) -> Work {
        Work::Wrap
    }

    fn node(&self) -> NodeKind {
        NodeKind::Millrace
    }

    fn options(&self, options: MillraceOptions) -> MillraceOptions {
        let extra = format!("\n[flows]\nudp-seconds = {LIFE_S}\nudp-replied-seconds = {LIFE_S}\n");
        MillraceOptions { extra, ..options }
    }

    fn set_up(&mut self, lab: &Lab, _cores: Cores) -> anyhow::Result<()> {
        let daemon = daemon(lab)?;
        await_tunnel(daemon)?;
        if self.objects.files.is_empty() {
            return Ok(());
        }
        self.load(daemon)
    }

    fn pids(&self, lab: &Lab) -> Vec<u32> {
        daemon(lab).ok().and_then(Daemon::pid).into_iter().collect()
    }

    fn time(&self, lab: &Lab, _cores: Cores) -> anyhow::Result<f64> {
        process_time(daemon(lab)?.pid().context("the switch is not up")?)
    }

    fn batches(&mut self, lab: &Lab) -> anyhow::Result<Option<Batches>> {
        let stats = daemon(lab)?.json(&["stats"])?;
        let number = |pointer: &str| {
            stats
                .pointer(pointer)
                .and_then(Value::as_u64)
                .with_context(|| format!("no {pointer} in the switch's stats"))
        };
        Ok(Some(Batches {
            packets: number("/workers/0/received")?,
            count: number("/workers/0/batch_packets/count")?,
        }))
    }

    fn facts(&self) -> Value {
        json!({
            "services": self.objects.services,
            "policies": self.objects.policies,
            "loaded_seconds": rounded(self.loaded.as_secs_f64(), 2),
        })
    }
}
