//! `millrace uninstall`: the node as it was before.

use std::fs;

use anyhow::{Context as _, bail};
use millrace_dataplane::xdp;

use super::ports::Saved;
use crate::config::Config;
use crate::kernel::Kernel;

/// Removes pods' ports, the host port with its routes, programs and settings. A node on which nothing is left of
/// Millrace is no error.
///
/// # Errors
/// When a daemon still runs, or a step fails; the other steps are done all the same.
pub fn uninstall(config: &Config) -> anyhow::Result<Vec<String>> {
    let folder = &config.node.state_dir;
    let socket = folder.join(super::SOCKET_NAME);
    if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
        bail!("a daemon answers at {}: stop it first", socket.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async {
            let kernel = Kernel::open()?;
            let saved = Saved::load(folder)?;
            let mut done = Vec::new();
            let mut failed = Vec::new();
            let mut step = |what: String, result: anyhow::Result<bool>| match result {
                Ok(true) => done.push(what),
                Ok(false) => {}
                Err(error) => failed.push(format!("{what}: {error:#}")),
            };
            // Programs first, then what the sockets were on.
            if let Some(uplink) = kernel.find_link(config.uplink.interface.as_str()).await? {
                let result = xdp::detach_ours(uplink.ifindex).map_err(anyhow::Error::from);
                step(format!("steering program of {}", uplink.name), result);
            }
            for name in &saved.gro_was_on {
                let result = kernel
                    .set_gro(name, true)
                    .await
                    .map(|_| true)
                    .map_err(anyhow::Error::from);
                step(format!("receive merging of {name} on again"), result);
            }
            for row in &saved.ports {
                let result = kernel
                    .detach_pod(&row.interface)
                    .await
                    .map_err(anyhow::Error::from);
                step(format!("port {} of {}", row.interface, row.pod), result);
            }
            let host = config.host_port.name.kernel_side();
            let result = kernel
                .remove_host_port(host.as_str())
                .await
                .map_err(anyhow::Error::from);
            step(format!("host port {} with its routes", host.as_str()), result);
            let result = kernel.remove_own_services().map_err(anyhow::Error::from);
            step("nftables table of the node's own calls".into(), result);
            let result = super::own::release(&saved.reserved_ports).map_err(anyhow::Error::from);
            step(
                format!("ports {} free for all again", saved.reserved_ports),
                result,
            );
            for file in [Saved::FILE, super::flows::FILE, "lock", super::SOCKET_NAME] {
                let path = folder.join(file);
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        step(path.display().to_string(), Err(error.into()));
                    }
                    _ => {}
                }
            }
            if failed.is_empty() {
                Ok(done)
            } else {
                bail!(failed.join("; "))
            }
        })
        .with_context(|| format!("uninstalling from {}", config.uplink.interface.as_str()))
}
