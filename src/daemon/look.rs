//! What is looked at before anything is made: a start that cannot go well ends here, and the node is as it was.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use millrace_dataplane::worker::check_core;
use millrace_dataplane::xdp;
use tracing::warn;

use super::fabric::Fabric;
use super::underlay::Underlay;
use crate::config::Config;
use crate::kernel::{Kernel, Link};
use crate::objects::{NodeRecord, Store};

/// How often, and how long apart, the lock of the state folder is tried.
const LOCK_TRIES: u32 = 30;
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// The interfaces that this daemon alone serves in its network namespace, as long as it has this.
#[derive(Debug)]
pub(super) struct Claims {
    _names: Vec<UnixListener>,
}

/// Keeps a second daemon, with a state folder of its own, off the same interfaces: it would put its programs in the
/// place of the first one's before it finds the queues taken. A name in the abstract namespace of Unix sockets belongs to
/// the network namespace, and goes with the process (unix(7)).
pub(super) fn claim_interfaces(config: &Config) -> anyhow::Result<Claims> {
    let names = [
        format!("host port {}", config.host_port.name.kernel_side().as_str()),
        format!("uplink {}", config.uplink.interface.as_str()),
    ];
    let mut claims = Vec::new();
    for name in names {
        claims.extend(claim(&name).with_context(|| format!("claiming the {name}"))?);
    }
    Ok(Claims { _names: claims })
}

/// The device under the uplink, which this daemon alone serves too.
#[derive(Debug)]
pub(super) struct ClaimedDevice {
    pub(super) link: Link,
    _claims: Claims,
}

/// Keeps a second daemon off the device under an uplink that is a VLAN: there is one steering program on it.
pub(super) fn claim_device(underlay: &Underlay) -> anyhow::Result<ClaimedDevice> {
    let mut claims = Vec::new();
    let link = underlay.device.clone();
    if underlay.vlan.is_some() {
        let name = format!("uplink {}", link.name);
        claims.extend(claim(&name).with_context(|| format!("claiming the {name}"))?);
    }
    Ok(ClaimedDevice {
        link,
        _claims: Claims { _names: claims },
    })
}

fn claim(name: &str) -> anyhow::Result<Option<UnixListener>> {
    let address = SocketAddr::from_abstract_name(format!("millrace {name}"))?;
    for _ in 0..LOCK_TRIES {
        match UnixListener::bind_addr(&address) {
            Ok(listener) => return Ok(Some(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
        // Anybody may take the name, and must not keep the switch from starting.
        let holder = UnixStream::connect_addr(&address)
            .ok()
            .and_then(|stream| rustix::net::sockopt::socket_peercred(stream).ok());
        if let Some(holder) = holder.filter(|holder| holder.uid != rustix::process::geteuid()) {
            warn!(
                "the name of the {name} is held by process {}, which is none of ours",
                holder.pid
            );
            return Ok(None);
        }
        // One that was killed a moment ago is still being taken apart.
        thread::sleep(LOCK_PAUSE);
    }
    bail!("another millrace serves the {name}: stop it first")
}

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
            config.objects()
        );
    };
    // Calico gives a node its first block with its first pod.
    if own.blocks.is_none() && own.pod_cidr_v4.is_none() {
        bail!(
            "Node {} has no IPv4 pod CIDR: spec.podCIDRs with one would be right",
            own.name
        );
    }
    Ok(own.clone())
}

/// Looks at cores and uplink before anything is made: that they are there, with the queues that are needed.
pub(super) async fn look_at_node(config: &Config, kernel: &Kernel) -> anyhow::Result<Underlay> {
    for (index, core) in config.workers.cores.as_slice().iter().enumerate() {
        check_core(index, *core)?;
    }
    super::host_path::look_at_ports(config)?;
    let name = config.uplink.interface.as_str();
    let link = kernel
        .link_by_name(name)
        .await
        .with_context(|| "[uplink] interface")?;
    let underlay = Underlay::of(kernel, &link)
        .await
        .with_context(|| "[uplink] interface")?;
    // Queues that the node file asks for are set, or refused, later; what there is now is no matter then.
    if config.uplink.queues.is_none() {
        let queues = queue_count(kernel, &underlay.device).await?;
        let left = config.uplink.kernel_queues.as_slice();
        let name = &underlay.device.name;
        Fabric::check_queues(name, queues, left, config.workers.cores.as_slice().len())?;
    }
    Ok(underlay)
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

/// By how many queues an interface can come to receive, without being made anew.
pub(super) async fn queue_limit(kernel: &Kernel, link: &Link) -> anyhow::Result<u32> {
    let now = queue_count(kernel, link).await?;
    match kernel.channels(&link.name).await {
        Ok((_, most)) => Ok(most.receiving().max(now)),
        Err(_) => Ok(link.rx_queues.max(now)),
    }
}
