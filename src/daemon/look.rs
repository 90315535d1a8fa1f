//! What is looked at before anything is made: a start that cannot go well ends here, and the node is as it was.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use millrace_dataplane::worker::check_core;
use millrace_dataplane::xdp;
use tracing::warn;

use super::fabric::Fabric;
use crate::config::Config;
use crate::kernel::{Kernel, Link, check_ports};
use crate::objects::{NodeRecord, Store};

/// How often, and how long apart, the lock of the state folder is tried.
const LOCK_TRIES: u32 = 30;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// What the node file or the manifests say cannot be done on this node; nothing has been touched.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Misconfigured(String);

impl Misconfigured {
    pub(super) fn because(error: anyhow::Error) -> anyhow::Error {
        anyhow::Error::new(Self(format!("{error:#}")))
    }
}

/// Keeps a second daemon out of the same state folder.
pub(super) fn lock(folder: &Path) -> anyhow::Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| {
            format!(
                "cannot make the state folder {}; [node] state-dir names it",
                folder.display()
            )
        })?;
    let path = folder.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let mut tries = LOCK_TRIES;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // One that was killed a moment ago holds it until the kernel has taken its sockets and memory apart.
            Err(TryLockError::WouldBlock) if tries > 0 => {
                tries -= 1;
                thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => bail!(
                "another millrace runs with the state folder {}: stop it, or give this one another [node] state-dir",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

/// This node's own object, without which nothing can be set up.
pub(super) fn own_node(store: &Store, config: &Config) -> anyhow::Result<NodeRecord> {
    for notice in store.notices() {
        warn!("{notice}");
    }
    let Some(own) = store.own_node() else {
        bail!(
            "there is no good Node object named {} in {}: one with spec.podCIDRs would be right (`millrace check` says what is there)",
            config.node.name,
            config.node.manifests.display()
        );
    };
    if own.pod_cidr_v4.is_none() {
        bail!(
            "Node {} has no IPv4 pod CIDR: spec.podCIDRs with one would be right",
            own.name
        );
    }
    Ok(own.clone())
}

/// Looks at cores and uplink before anything is made: that they are there, with the queues that are needed.
pub(super) async fn look_at_node(config: &Config, kernel: &Kernel) -> anyhow::Result<Link> {
    for (index, core) in config.workers.cores.as_slice().iter().enumerate() {
        check_core(index, *core)?;
    }
    let snat_ports = config.services.snat_ports;
    check_ports(&(snat_ports.first()..=snat_ports.last())).with_context(|| "[services] snat-ports")?;
    let name = config.uplink.interface.as_str();
    let link = kernel
        .link_by_name(name)
        .await
        .with_context(|| "[uplink] interface")?;
    let queues = queue_count(kernel, &link).await?;
    Fabric::check_queues(name, queues, config.workers.cores.as_slice().len())?;
    Ok(link)
}

/// Keeps off an interface on which somebody else's program is.
pub(super) fn refuse_foreign_program(link: &Link) -> anyhow::Result<()> {
    let name = &link.name;
    if let Some(found) = xdp::query(link.ifindex)?.filter(|found| !found.is_ours()) {
        bail!(
            "{name} has another XDP program attached (id {}, name {}): detach it (`ip link set dev {name} xdp off`), or name another [uplink] interface",
            found.id,
            found.name
        );
    }
    Ok(())
}

/// By how many queues an interface receives.
pub(super) async fn queue_count(kernel: &Kernel, link: &Link) -> anyhow::Result<u32> {
    match kernel.channel_count(&link.name).await {
        Ok(channels) => Ok(channels.receiving().max(1)),
        // A driver without channels has the queues that it was made with.
        Err(_) => Ok(link.rx_queues.max(1)),
    }
}
