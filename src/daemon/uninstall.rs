//! `millrace uninstall`: the node as it was before.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use millrace_dataplane::xdp;

use super::balancing;
use super::host_path;
use super::ports::Saved;
use super::{look, members, nic};
use crate::admin::client::Client;
use crate::admin::protocol::Request;
use crate::balancer::SavedAddresses;
use crate::config::Config;
use crate::kernel::Kernel;

/// How long a daemon that was told to end may take, and how often it is looked for.
const END: Duration = Duration::from_secs(10);
const END_PAUSE: Duration = Duration::from_millis(50);

/// Removes pods' ports, the host port with its routes, programs and settings. A node on which nothing is left of
/// Millrace is no error. `stop` has a daemon that runs end first: it takes the uplink's program off before it closes
/// its sockets.
///
/// # Errors
/// When a daemon still runs, or a step fails; the other steps are done all the same.
pub fn uninstall(config: &Config, stop: bool) -> anyhow::Result<Vec<String>> {
    let folder = &config.node.state_dir;
    see_to_daemon(folder, stop)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async {
            let (kernel, saved) = (Kernel::open()?, Saved::load(folder)?);
            let mut done = Vec::new();
            let mut failed = Vec::new();
            let mut step = |what: String, result: anyhow::Result<bool>| match result {
                Ok(true) => done.push(what),
                Ok(false) => {}
                Err(error) => failed.push(format!("{what}: {error:#}")),
            };
            // Programs first, then what the sockets were on.
            let names = [
                Some(config.uplink.interface.as_str()),
                saved.vlan_device.as_deref(),
            ];
            for name in names.into_iter().flatten() {
                let result = detach_program(&kernel, name).await;
                step(format!("steering program of {name}"), result);
            }
            for name in &saved.gro_was_on {
                let result = kernel
                    .set_gro(name, true)
                    .await
                    .map(|_| true)
                    .map_err(anyhow::Error::from);
                step(format!("receive merging of {name} on again"), result);
            }
            if let Some(before) = &saved.nic {
                for (what, result) in nic::restore(&kernel, before).await {
                    step(format!("{what} as before"), result);
                }
            }
            for (what, result) in remove_ports(&kernel, &saved).await {
                step(what, result);
            }
            let routes = balancing::withdraw(&kernel, config).await;
            for (what, result) in host_path::undo(&kernel, &saved).into_iter().chain([routes]) {
                step(what, result.map_err(anyhow::Error::from));
            }
            if let Some(name) = &saved.stand_in {
                let result = kernel.remove_stand_in(name).await.map_err(anyhow::Error::from);
                step(format!("stand-in {name}"), result);
            }
            let host = config.host_port.name.kernel_side();
            let result = kernel
                .remove_host_port(host.as_str())
                .await
                .map_err(anyhow::Error::from);
            step(format!("host port {} with its routes", host.as_str()), result);
            for (path, error) in remove_files(folder, balancing::folder_of(config)) {
                step(path, Err(error.into()));
            }
            if failed.is_empty() {
                Ok(done)
            } else {
                bail!(failed.join("; "))
            }
        })
        .with_context(|| format!("uninstalling from {}", config.uplink.interface.as_str()))
}

/// Removes pods' ports and those in networks beside the cluster's own; of a tap device that is somebody else's, our program.
async fn remove_ports(kernel: &Kernel, saved: &Saved) -> Vec<(String, anyhow::Result<bool>)> {
    let mut all = Vec::new();
    for row in &saved.ports {
        let result = kernel.detach_pod(&row.interface).await;
        let what = format!("port {} of {}", row.interface, row.pod);
        all.push((what, result.map_err(Into::into)));
    }
    for row in &saved.members {
        let result = if row.is_lent() {
            members::give_back(kernel, &row.interface).await
        } else {
            members::remove_device(kernel, row).await.map_err(Into::into)
        };
        all.push((format!("port {}", row.interface), result));
    }
    all
}

/// Takes the steering program off an interface, if that is there and it is on it.
async fn detach_program(kernel: &Kernel, name: &str) -> anyhow::Result<bool> {
    match kernel.find_link(name).await? {
        Some(device) => Ok(xdp::detach_ours(device.ifindex)?),
        None => Ok(false),
    }
}

/// Removes what is kept in the state folder; answers what could not be.
fn remove_files(folder: &Path, of_balancers: &Path) -> Vec<(String, std::io::Error)> {
    let files = [
        (folder, Saved::FILE.name),
        (folder, super::flows::FILE),
        (folder, "lock"),
        (folder, super::SOCKET_NAME),
        (of_balancers, SavedAddresses::FILE.name),
    ];
    let removed = files.map(|(folder, file)| {
        let path = folder.join(file);
        (path.display().to_string(), fs::remove_file(&path))
    });
    let failed = removed.into_iter().filter_map(|(path, result)| {
        let error = result.err()?;
        (error.kind() != std::io::ErrorKind::NotFound).then_some((path, error))
    });
    failed.collect()
}

/// A daemon that runs keeps us out, or is ended.
fn see_to_daemon(folder: &Path, stop: bool) -> anyhow::Result<()> {
    let socket = folder.join(super::SOCKET_NAME);
    if UnixStream::connect(&socket).is_ok() {
        if !stop {
            bail!(
                "a daemon answers at {}: stop it first, or say --stop",
                socket.display()
            );
        }
        end_daemon(&socket)?;
        // Until the kernel has taken its sockets and memory apart.
        drop(look::lock(folder)?);
    }
    Ok(())
}

/// Has a running daemon end, and waits until nobody answers any more.
fn end_daemon(socket: &Path) -> anyhow::Result<()> {
    Client::connect(socket)?
        .request(&Request::Leave)
        .map_err(|failure| anyhow!("the daemon at {}: {}", socket.display(), failure.message))?;
    let deadline = Instant::now() + END;
    while UnixStream::connect(socket).is_ok() {
        if Instant::now() > deadline {
            bail!("the daemon at {} was told to end, and has not", socket.display());
        }
        thread::sleep(END_PAUSE);
    }
    Ok(())
}
