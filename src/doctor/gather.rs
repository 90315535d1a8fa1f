//! Looking at the host, without changing anything. The kernel is asked, not its configuration file.

mod host;

use std::path::Path;

use anyhow::Context as _;
use ipnet::IpNet;
use millrace_dataplane::port::nic;
use millrace_dataplane::xdp;

use super::Question;
use super::facts::{Cni, Facts, Filters, Ports, Seen, Uplink};
use crate::admin::client::Client;
use crate::admin::protocol::{Failure, NodeFacts, Request};
use crate::config::{Config, ObjectSource};
use crate::daemon::SOCKET_NAME;
use crate::daemon::nic::fault_of_zero_copy;
use crate::daemon::underlay::Underlay;
use crate::install::{CONFLIST, PLUGIN};
use crate::kernel::{Kernel, KernelError, KernelFollower, KernelState, Link, Listening, PortSet, chains};
use crate::objects::Folder;

pub(super) use host::{IPV6_DISABLED, NEXT_HOP_COMPAT};

/// Where flannel writes down what its pods' interfaces are to be like.
const FLANNEL_ENV: &str = "/run/flannel/subnet.env";

/// Everything that is judged, and the node file, or what counts in its place.
pub(super) async fn gather(question: &Question, config: Option<Config>) -> anyhow::Result<(Facts, Config)> {
    let kernel = Kernel::open()?;
    let network = KernelFollower::start().await?.state().clone();
    let machine = host::machine();
    let config = match config {
        Some(config) => config,
        None => {
            let core = machine.cores.first().copied().unwrap_or(0);
            super::defaults(&uplink_name(question, &network)?, core)?
        }
    };
    let name = config.uplink.interface.as_str();
    let uplink = match network.link_by_name(name) {
        Some(link) => Ok(Some(uplink(&kernel, link).await)),
        None => Ok(None),
    };
    let facts = Facts {
        machine,
        uplink,
        ports: ports(),
        pod_cidrs: pod_cidrs(&config),
        flannel_mtu: flannel_mtu(),
        filters: filters(),
        cni: cni(question),
        daemon_runs: std::os::unix::net::UnixStream::connect(config.node.state_dir.join(SOCKET_NAME)).is_ok(),
        network,
    };
    Ok((facts, config))
}

/// The interface that is asked about, or that of the default route.
fn uplink_name(question: &Question, network: &KernelState) -> anyhow::Result<String> {
    if let Some(name) = &question.uplink {
        return Ok(name.clone());
    }
    let default = network
        .routes()
        .find(|route| route.destination.prefix_len() == 0)
        .and_then(|route| network.link(route.ifindex()?));
    let link = default.context("there is no default route to tell the uplink by: name it with --uplink, or a node file with --config")?;
    Ok(link.name.clone())
}

fn said<T>(result: Result<T, KernelError>) -> Seen<T> {
    result.map_err(|error| error.to_string())
}

async fn uplink(kernel: &Kernel, link: &Link) -> Uplink {
    let device = Underlay::of(kernel, link)
        .await
        .map(|underlay| underlay.device)
        .map_err(|error| format!("{error:#}"));
    let under = device.as_ref().unwrap_or(link).clone();
    let queues = kernel.channels(&under.name).await;
    let sysfs = Uplink::sysfs_of(&under);
    Uplink {
        link: link.clone(),
        driver: nic::driver(&under.name)
            .unwrap_or_else(|_| under.kind.clone().unwrap_or_else(|| "unknown driver".to_owned())),
        queues: said(queues).map(|(now, most)| (now.receiving().max(1), most.receiving().max(1))),
        program: xdp::query(under.ifindex).map_err(|error| error.to_string()),
        features: said(kernel.xdp_features(under.ifindex).await),
        merging: said(kernel.merging_by_device(&under.name).await),
        numa_node: sysfs.as_ref().ok().and_then(crate::kernel::Device::numa_node),
        sysfs: sysfs.map(|_| ()),
        zero_copy_fault: fault_of_zero_copy(&under.name),
        device,
    }
}

fn ports() -> Ports {
    let setting = |name: &str| host::setting(&format!("net/ipv4/{name}"));
    let given_out = setting("ip_local_port_range").and_then(|text| {
        let mut ends = text.split_whitespace().map(str::parse);
        match (ends.next(), ends.next()) {
            (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
            _ => Err(format!(
                "net.ipv4.ip_local_port_range is {text:?}, which is not understood"
            )),
        }
    });
    let reserved = setting("ip_local_reserved_ports").and_then(|text| {
        PortSet::parse(&text)
            .ok_or_else(|| format!("net.ipv4.ip_local_reserved_ports is {text:?}, which is not understood"))
    });
    Ports {
        given_out,
        reserved,
        listening: Listening::read().map_err(|error| format!("cannot read who listens: {error}")),
    }
}

/// From the folder of manifests, or from the daemon, if either is there.
fn pod_cidrs(config: &Config) -> Seen<Vec<IpNet>> {
    let unknown = |why: String| Err(format!("pods' addresses are not known: {why}"));
    let path = match config.objects() {
        ObjectSource::Folder(path) => path,
        ObjectSource::Api(_) => {
            let facts = Client::connect(&config.node.state_dir.join(SOCKET_NAME))
                .map_err(Failure::from)
                .and_then(|mut client| client.request(&Request::ShowNode))
                .and_then(|answer| {
                    serde_json::from_value(answer).map_err(|error| Failure::failed(error.to_string()))
                });
            return facts
                .map(|facts: NodeFacts| facts.pod_cidrs)
                .or_else(|failure| unknown(failure.message));
        }
    };
    if !path.is_dir() {
        return unknown(format!("there is no folder of manifests {}", path.display()));
    }
    let mut folder = Folder::new(path).in_network(config.overlay.network);
    folder.scan();
    let store = folder.store(&config.node.name, &[]);
    let cidrs: Vec<IpNet> = store.nodes().flat_map(|node| node.pod_prefixes()).collect();
    if cidrs.is_empty() {
        return unknown(format!("there is no Node with pod CIDRs in {}", path.display()));
    }
    Ok(cidrs)
}

/// `FLANNEL_MTU`.
fn flannel_mtu() -> Option<u32> {
    let text = std::fs::read_to_string(FLANNEL_ENV).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("FLANNEL_MTU="))?;
    value.trim().parse().ok()
}

fn filters() -> Filters {
    let found = chains();
    let has_nftables = match &found {
        Ok(_) => Ok(true),
        Err(error) if error.is_unsupported() => Ok(false),
        Err(error) => Err(error.to_string()),
    };
    let chains = match found {
        Err(error) if error.is_unsupported() => Ok(Vec::new()),
        found => said(found),
    };
    Filters {
        chains,
        has_nftables,
        legacy: host::legacy_tables(),
        conntrack: host::conntrack(),
    }
}

fn cni(question: &Question) -> Cni {
    let (bin_dir, conf_dir) = (question.cni_bin_dir.clone(), question.cni_conf_dir.clone());
    Cni {
        plugin: is_program(&bin_dir.join(PLUGIN)),
        networks: crate::install::networks(&conf_dir)
            .map_err(|error| format!("cannot read {}: {error}", conf_dir.display())),
        socket: crate::install::socket_of(&conf_dir.join(CONFLIST)),
        bin_dir,
        conf_dir,
    }
}

fn is_program(path: &Path) -> Seen<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.is_file() && found.permissions().mode() & 0o111 != 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("cannot look at {}: {error}", path.display())),
    }
}
