//! Starting the daemon: everything is looked at first, then made, then attached; a start that fails leaves what it
//! found.

use std::cell::OnceCell;
use std::time::Instant;

use anyhow::{Context as _, anyhow};
use crossbeam::channel::{Receiver, Sender, bounded};
use millrace_dataplane::port::xsk::FillPolicy;
use millrace_dataplane::table::{Epoch, HashKey, NodeTables, PortFacts, Publisher, Reader, Role, Subjects};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::worker::Punt;
use millrace_dataplane::xdp::{self, ProgramKind, SteeringTables, XdpMode};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::compile::policies::PolicyCompiler;
use super::compile::services::{HostListens, ServiceCompiler};
use super::compile::{Inputs, Numbers, compile};
use super::fabric::{Fabric, PortSpec};
use super::health::Health;
use super::links::{mtu_of, uplink_facts, warn_of_mtu};
use super::look::{Misconfigured, lock, look_at_node, own_node, queue_count, refuse_foreign_program};
use super::ports::{Port, Ports, Saved};
use super::{Daemon, Inbox, flows};
use crate::admin::server::AdminServer;
use crate::config::{self, Config};
use crate::kernel::{HostPort, HostPortOrigin, HostPortSpec, Kernel, KernelFollower, Link, release_ports};
use crate::objects::{FolderSource, NodeRecord, Source as _};
use crate::slowpath::{
    self, EchoRequest, NeighbourRequest, SharedSlowPathStats, SlowPathConfig, SlowPathEvent,
};

/// Admin requests that may wait.
const REQUESTS: usize = 64;
/// Neighbour requests of the slow path that may wait.
const NEIGHBOUR_REQUESTS: usize = 256;
/// Echo requests that may wait for their ids to be steered.
const ECHO_REQUESTS: usize = 256;
/// Events that may wait for the slow path.
const EVENTS: usize = 16;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Whatever kept it from starting, or ended it; one line.
pub fn run(config: Config) -> anyhow::Result<()> {
    let _lock = lock(&config.node.state_dir)?;
    crate::privileges::drop_unneeded()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let source = FolderSource::start(&config.node.manifests, config.node.name.clone())
            .map_err(|error| Misconfigured::because(error.into()))?;
        let (daemon, inbox) = start(config, &source).await?;
        info!("ready");
        daemon.serve(inbox).await
    })
}

async fn start(config: Config, source: &FolderSource) -> anyhow::Result<(Daemon, Inbox)> {
    let mut stores = source.subscribe();
    let store = stores.borrow_and_update().clone();
    let own = own_node(&store, &config).map_err(Misconfigured::because)?;
    let kernel = Kernel::open()?;
    let uplink = look_at_node(&config, &kernel)
        .await
        .map_err(Misconfigured::because)?;
    refuse_foreign_program(&uplink)?;
    let saved = Saved::load(&config.node.state_dir)?;
    let connections = flows::open(&config)?;
    let nothing = before(connections.flows.first_epoch());
    let publisher = Publisher::new(nothing.clone());
    let reader = publisher.reader();
    let key = HashKey::random();
    let (fabric, punts) = Fabric::start(&config, &reader, &connections, key)?;
    let server = AdminServer::bind(&config.node.state_dir.join(super::SOCKET_NAME))?;
    let follower = KernelFollower::start().await?;
    let (requests_in, requests) = mpsc::channel(REQUESTS);
    let (slow_path, slow_path_stats, (neighbours, echoes)) =
        start_slow_path(&config, &fabric, punts, reader)?;
    // Nothing outside this process has changed so far; from here on everything is undone if something fails.
    warn_of_mtu(&uplink);
    let host = kernel
        .ensure_host_port(&host_port_spec(&config, &own, &uplink))
        .await?;
    let workers = config.workers.cores.as_slice().len();
    let services = ServiceCompiler::new(&config.services, key, workers);
    let mut daemon = Daemon {
        state: follower.state().clone(),
        config,
        own,
        started: Instant::now(),
        kernel,
        store,
        fabric,
        ports: Ports::default(),
        unserved: saved.ports.clone(),
        saved,
        tables: nothing,
        connections,
        echoes: flows::Echoes::default(),
        publisher,
        numbers: Numbers::default(),
        services,
        policies: PolicyCompiler::new(key, workers),
        denied_asked: None,
        health: Health::new(),
        peers: Vec::new(),
        next_hops: Vec::new(),
        steering: SteeringTables::default(),
        kernel_routes: (Vec::new(), usize::MAX),
        route_failures: Vec::new(),
        own_services: None,
        key,
        warnings: Vec::new(),
        slow_path,
        slow_path_stats,
        asked: std::collections::BTreeMap::new(),
        capture: None,
    };
    let reserved = daemon.reserve_ports();
    let attached = match &reserved {
        Ok(_) => daemon.attach_own_ports(&host, &uplink).await,
        Err(_) => Ok(()),
    };
    if let Err(error) = reserved
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
        .and(attached)
    {
        daemon.undo(&host).await;
        if let Ok(ports) = reserved {
            let _ = release_ports(&ports);
        }
        return Err(error);
    }
    daemon.remember()?;
    daemon.publish().await;
    daemon.adopt_pods().await;
    daemon.assign_openers();
    tokio::spawn(server.serve(requests_in));
    Ok((
        daemon,
        Inbox {
            follower,
            stores,
            neighbours,
            echoes,
            requests,
        },
    ))
}

/// Tables without anything in them, whose successor has the epoch `first`: whatever was stored before is stale.
fn before(first: Epoch) -> NodeTables {
    NodeTables {
        subjects: Subjects::since(first),
        epoch: Epoch(first.0.wrapping_sub(1)),
        ..NodeTables::default()
    }
}

/// The way to tell the slow path something, its counters, and what it asks for.
type SlowPathEnds = (
    Sender<SlowPathEvent>,
    SharedSlowPathStats,
    (mpsc::Receiver<NeighbourRequest>, mpsc::Receiver<EchoRequest>),
);

fn start_slow_path(
    config: &Config,
    fabric: &Fabric,
    punts: Receiver<Punt>,
    tables: Reader<NodeTables>,
) -> anyhow::Result<SlowPathEnds> {
    let (events_in, events) = bounded(EVENTS);
    let (neighbours_in, neighbours) = mpsc::channel(NEIGHBOUR_REQUESTS);
    let (echoes_in, echoes) = mpsc::channel(ECHO_REQUESTS);
    let limits = SlowPathConfig {
        icmp_errors_per_second: config.slow_path.icmp_errors_per_second.get(),
    };
    let stats = slowpath::spawn(
        limits,
        punts,
        events,
        fabric.workers().to_vec(),
        tables,
        (neighbours_in, echoes_in),
    )?;
    Ok((events_in, stats, (neighbours, echoes)))
}

fn host_port_spec(config: &Config, own: &NodeRecord, uplink: &Link) -> HostPortSpec {
    let queues = u32::try_from(config.workers.cores.as_slice().len()).unwrap_or(u32::MAX);
    HostPortSpec {
        name: config.host_port.name.kernel_side().as_str().to_owned(),
        switch_name: config.host_port.name.switch_side().as_str().to_owned(),
        queues,
        mtu: uplink
            .mtu
            .saturating_sub(u32::from(super::pods::tunnel_overhead(config.overlay.kind))),
        mac: None,
        switch_mac: None,
        addresses: own.tunnel_addresses().filter(std::net::IpAddr::is_ipv4).collect(),
    }
}

impl Daemon {
    /// The host port first: the first socket of every worker's memory must be on a device that stays. The uplink
    /// last: from then on the world notices.
    async fn attach_own_ports(&mut self, host: &HostPort, uplink: &Link) -> anyhow::Result<()> {
        self.attach_host(host).await?;
        self.attach_uplink(uplink).await
    }

    async fn attach_host(&mut self, host: &HostPort) -> anyhow::Result<()> {
        let id = self.ports.free_id().context("no port number is free")?;
        let link = &host.switch_end;
        let spec = PortSpec {
            id,
            interface: link.name.clone(),
            ifindex: link.ifindex,
            queues: link.rx_queues,
            kind: ProgramKind::Port,
            mode: XdpMode::Auto,
            fill: FillPolicy::WIDE,
        };
        let (mac, peer_mac) = (
            link.mac.context("the host port has no MAC address")?,
            host.kernel_end.mac,
        );
        let attached = self.fabric.attach(spec, |_| Ok(()))?;
        self.settle_mode(&link.name, &attached.attachment).await;
        let facts = PortFacts {
            role: Role::Host,
            mac: MacAddr(mac),
            peer_mac: MacAddr(peer_mac.context("the host port has no MAC address")?),
            sources: Vec::new(),
            mtu: mtu_of(link),
            finish_checksums: true,
        };
        self.ports.insert(Port {
            interface: link.name.clone(),
            pod: None,
            facts,
            attached,
        });
        Ok(())
    }

    /// Attaches the uplink; its program knows all its tables before it sees a packet.
    pub(super) async fn attach_uplink(&mut self, link: &Link) -> anyhow::Result<()> {
        let id = self.ports.free_id().context("no port number is free")?;
        let queues = queue_count(&self.kernel, link).await?;
        let spec = PortSpec {
            id,
            interface: link.name.clone(),
            ifindex: link.ifindex,
            queues,
            kind: ProgramKind::Uplink,
            mode: match self.config.uplink.xdp_mode {
                config::XdpMode::Auto => XdpMode::Auto,
                config::XdpMode::Native => XdpMode::Native,
                config::XdpMode::Generic => XdpMode::Generic,
            },
            fill: FillPolicy::WIDE,
        };
        let facts = uplink_facts(link)
            .context("the uplink has no MAC address: an Ethernet interface would be right")?;
        let mut inputs = self.ports.inputs();
        inputs.push(super::compile::PortInput {
            id,
            ifindex: link.ifindex,
            facts: facts.clone(),
            pod: None,
        });
        let listening = OnceCell::new();
        let inputs = Inputs {
            config: &self.config,
            own: &self.own,
            store: &self.store,
            kernel: &self.state,
            ports: &inputs,
            key: self.key,
            listens: HostListens(&|address, protocol, port| {
                super::listens(&listening, address, protocol, port)
            }),
        };
        let steering = compile(
            &inputs,
            &mut self.numbers,
            &mut self.services,
            &mut self.policies,
            Epoch(0),
        )
        .steering;
        let echoes: Vec<_> = self.echoes.iter().collect();
        let attached = self.fabric.attach(spec, |program| {
            program.set_tables(&steering)?;
            program.set_echoes(echoes)
        })?;
        self.steering = steering;
        self.settle_mode(&link.name, &attached.attachment).await;
        info!(interface = link.name, queues, mode = ?attached.attachment.mode, "uplink attached");
        self.ports.insert(Port {
            interface: link.name.clone(),
            pod: None,
            facts,
            attached,
        });
        Ok(())
    }

    /// Removes what this start made; what it found stays.
    async fn undo(&mut self, host: &HostPort) {
        let ports = std::mem::take(&mut self.ports);
        let ours: Vec<_> = ports
            .into_attached()
            .map(|port| (port.spec.ifindex, port.attachment.replaced.is_some(), port))
            .collect();
        for (ifindex, replaced, port) in ours {
            let _ = self.fabric.detach(port);
            if !replaced {
                let _ = xdp::detach_ours(ifindex);
            }
        }
        if host.origin != HostPortOrigin::Adopted
            && let Err(error) = self.kernel.remove_host_port(&host.kernel_end.name).await
        {
            warn!("{error}");
        }
    }
}
