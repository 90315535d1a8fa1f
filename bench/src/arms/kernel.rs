//! Linux itself: a stock node in flannel's shape, with whatever rules it is given.
//!
//! It has no process: received packets are worked on in softirqs. Receive packet steering
//! (`Documentation/networking/scaling.rst`) says on which cores, by a hash of the flow.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use millrace_tools::lab::Lab;
use millrace_tools::lab::plan::UPLINK;
use serde_json::{Value, json};

use super::processor::CoreTime;
use super::setting::{core_mask, pod_port};
use super::{Cores, NODE, Subject, Work};
use crate::statistics::rounded;

/// How long a piece of the rules may take to load.
const LOADING: Duration = Duration::from_secs(60);
/// Lines of a piece, which is one transaction: in a longer one the kernel looks through all that came before for every set.
const LINES_PER_PIECE: usize = 6000;
/// Connections live on while other arms are measured, in seconds.
const LIFE_S: &str = "3600";

/// Rules for `nft -f`, and what is to be known of them.
#[derive(Debug, Clone)]
pub(crate) struct Ruleset {
    /// What `nft` reads, a command on each line, in an order in which the lines can be loaded in pieces.
    pub(crate) text: String,
    /// How much of what there is.
    pub(crate) counts: Value,
}

/// The kernel's own forwarding.
#[derive(Debug)]
pub(crate) struct Kernel {
    name: String,
    ruleset: Option<Ruleset>,
    loaded: Duration,
    is_on_both: bool,
}

impl Kernel {
    /// A node that is called so, with these rules.
    pub(crate) fn new(name: &str, ruleset: Option<Ruleset>) -> Self {
        Self {
            name: name.to_owned(),
            ruleset,
            loaded: Duration::ZERO,
            is_on_both: false,
        }
    }

    fn load(&mut self, lab: &Lab) -> anyhow::Result<()> {
        let Some(ruleset) = &mut self.ruleset else {
            return Ok(());
        };
        let node = lab.node(NODE)?.namespace();
        let file = lab.folder().join("rules.nft");
        let began = Instant::now();
        let lines: Vec<&str> = ruleset.text.lines().collect();
        for piece in lines.chunks(LINES_PER_PIECE) {
            let text = piece.join("\n") + "\n";
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            node.complete("nft", &["-f", &file.to_string_lossy()], LOADING)?
                .success()?;
        }
        self.loaded = began.elapsed();
        for key in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            node.set(&format!("netfilter/{key}"), LIFE_S)?;
        }
        // Rules for bridged packets would be asked on top of those for routed ones. Kernels without the module lack the key.
        if node.get("bridge/bridge-nf-call-iptables").is_ok() {
            node.set("bridge/bridge-nf-call-iptables", "0")?;
        }
        // The text is not needed any more.
        ruleset.text.clear();
        Ok(())
    }
}

impl Subject for Kernel {
    fn name(&self) -> &str {
        &self.name
    }

    fn work(&self) -> Work {
        Work::Wrap
    }

    fn set_up(&mut self, lab: &Lab, cores: Cores) -> anyhow::Result<()> {
        self.load(lab)?;
        self.spread(lab, cores, false)
    }

    fn pids(&self, _lab: &Lab) -> Vec<u32> {
        Vec::new()
    }

    fn time(&self, _lab: &Lab, cores: Cores) -> anyhow::Result<f64> {
        let own = CoreTime::of(cores.node)?.interrupts;
        if !self.is_on_both {
            return Ok(own);
        }
        Ok(own + CoreTime::of(cores.generator)?.interrupts)
    }

    fn spread(&mut self, lab: &Lab, cores: Cores, is_on_both: bool) -> anyhow::Result<()> {
        let mask = if is_on_both {
            core_mask(&[cores.node, cores.generator])
        } else {
            core_mask(&[cores.node])
        };
        for interface in [&pod_port(lab)?, UPLINK] {
            let line = format!("echo {mask} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
            lab.node(NODE)?.namespace().run("sh", &["-c", &line])?;
        }
        self.is_on_both = is_on_both;
        Ok(())
    }

    fn facts(&self) -> Value {
        match &self.ruleset {
            None => Value::Null,
            Some(ruleset) => json!({
                "rules": ruleset.counts,
                "loaded_seconds": rounded(self.loaded.as_secs_f64(), 2),
            }),
        }
    }
}
