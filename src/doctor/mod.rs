//! `millrace doctor`: whether a host can be a node of Millrace, and what to do where it cannot.
//!
//! Facts are gathered first (`gather`), then judged by functions of nothing but these facts and the node file
//! (`machine`, `uplink`, `ranges`, `leftovers`). Nothing is changed: no program is attached, no setting written. What
//! cannot be looked at, for want of a capability say, is a finding of its own and no failure.

mod facts;
mod gather;
mod leftovers;
mod machine;
mod ranges;
mod report;
mod uplink;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::objects::NodeName;
use facts::Facts;

pub use report::{Finding, Level, Report};

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Question {
    /// The node file; without one its defaults count.
    pub config: Option<PathBuf>,
    /// The node's name, whatever the file says.
    pub name: Option<NodeName>,
    /// The uplink, where there is no node file; else the interface of the default route.
    pub uplink: Option<String>,
    /// Where the container runtime looks for plugins.
    pub cni_bin_dir: PathBuf,
    /// Where the container runtime looks for networks.
    pub cni_conf_dir: PathBuf,
}

/// Looks at this host, and judges.
///
/// # Errors
/// When the node file cannot be used, or the kernel cannot be asked at all; one line.
pub fn examine(question: &Question) -> anyhow::Result<Report> {
    let load = |path| Config::load_for(path, question.name.as_ref());
    let config = question.config.as_deref().map(load).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (facts, config) = runtime.block_on(gather::gather(question, config))?;
    Ok(judge(&facts, &config))
}

/// What the facts come to.
fn judge(facts: &Facts, config: &Config) -> Report {
    let mut findings = machine::judge(facts, config);
    findings.extend(uplink::judge(facts, config));
    findings.extend(ranges::judge(facts, config));
    findings.extend(leftovers::judge(facts, config));
    Report { findings }
}

/// The node file that counts where none is given: everything at its default.
fn defaults(uplink: &str, core: usize) -> anyhow::Result<Config> {
    let text = format!(
        "[node]\nname = \"node\"\nmanifests = \"/etc/millrace/manifests\"\n[uplink]\ninterface = {}\n[workers]\ncores = [{core}]\n",
        toml::Value::from(uplink)
    );
    Ok(Config::parse(&text, Path::new("/etc/millrace/millrace.toml"))?)
}
