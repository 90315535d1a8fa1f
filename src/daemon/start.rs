//! Starting the daemon: everything is looked at first, then made, then attached; a start that fails leaves what it
//! found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use crossbeam::channel::{Receiver, Sender, bounded};
use millrace_dataplane::port::PortId;
use millrace_dataplane::port::xsk::FillPolicy;
use millrace_dataplane::table::{Epoch, HashKey, NodeTables, PortFacts, Publisher, Reader, Role, Subjects};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::worker::Punt;
use millrace_dataplane::xdp::{self, Hint, ProgramKind, SteeringTables, XdpError, XdpMode};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::compile::Numbers;
use super::compile::services::ServiceCompiler;
use super::explain::Policing;
use super::fabric::{AttachedPort, Fabric, FabricError, PortSpec, Sockets, Steered, steer};
use super::health::Health;
use super::host_path::{HostPath, host_port_spec};
use super::links::{mtu_of, uplink_facts, warn_of_mtu};
use super::look::{
    Misconfigured, claim_interfaces, lock, look_at_node, own_node, queue_count, queue_limit,
    refuse_foreign_program,
};
use super::ports::{Port, Ports, Saved};
use super::stalls::Stalls;
use super::{Daemon, Inbox, flows, nic};
use crate::admin::server::AdminServer;
use crate::config::{self, Config};
use crate::kernel::{HostPort, HostPortOrigin, Kernel, KernelFollower, Link};
use crate::objects::{FolderSource, NodeRecord, Source as _, Store};
use crate::slowpath::{
    self, NeighbourRequest, SharedSlowPathStats, SlowPathConfig, SlowPathEvent, SteerRequest,
};

/// Admin requests that may wait.
const REQUESTS: usize = 64;
/// Neighbour requests of the slow path that may wait.
const NEIGHBOUR_REQUESTS: usize = 256;
/// Packets that may wait for their answers to be steered.
const STEER_REQUESTS: usize = 256;
/// Events that may wait for the slow path.
const EVENTS: usize = 16;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Whatever kept it from starting, or ended it; one line.
pub fn run(config: Config) -> anyhow::Result<()> {
    let _lock = lock(&config.node.state_dir)?;
    let _claims = claim_interfaces(&config)?;
    crate::privileges::drop_unneeded()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let (network, name) = (config.overlay.network, config.node.name.clone());
        let source = FolderSource::start_in(network, &config.node.manifests, name)
            .map_err(|error| Misconfigured::because(error.into()))?;
        let (daemon, inbox) = start(config, &source).await?;
        info!("ready");
        daemon.serve(inbox).await
    })
}

async fn start(config: Config, source: &FolderSource) -> anyhow::Result<(Daemon, Inbox)> {
    let mut stores = source.subscribe();
    let (store, kernel) = (stores.borrow_and_update().clone(), Kernel::open()?);
    let (own, uplink, saved) = look(&config, &store, &kernel).await?;
    let connections = flows::open(&config)?;
    let nothing = before(connections.flows.first_epoch());
    let publisher = Publisher::new(nothing.clone());
    let key = HashKey::random();
    let numa_node = nic::numa_node(&config, &uplink);
    let (fabric, punts) =
        Fabric::start(&config, &publisher.reader(), &connections, key, numa_node).map_err(misconfigured)?;
    let server = AdminServer::bind(&config.node.state_dir.join(super::SOCKET_NAME))?;
    let follower = KernelFollower::start().await?;
    let (requests_in, requests) = mpsc::channel(REQUESTS);
    let (slow_path, slow_path_stats, (neighbours, steering)) =
        start_slow_path(&config, &fabric, punts, publisher.reader())?;
    // Nothing outside this process has changed so far; from here on everything is undone if something fails.
    warn_of_mtu(&uplink);
    let spec = host_port_spec(&config, (&own, &store), &uplink);
    let host = kernel.ensure_host_port(&spec).await?;
    let workers = config.workers.cores.as_slice().len();
    let mut daemon = Daemon {
        state: follower.state().clone(),
        services: ServiceCompiler::new(&config.services, key, workers),
        config,
        own,
        started: Instant::now(),
        kernel,
        store,
        fabric,
        ports: Ports::default(),
        unserved: saved.ports.clone(),
        nic_changes: None,
        nic_found: saved.nic.clone(),
        saved,
        tables: nothing,
        connections,
        awaited: flows::AwaitedAnswers::default(),
        publisher,
        numbers: Numbers::default(),
        policing: Policing::new(key, workers),
        health: Health::new(),
        peers: Vec::new(),
        next_hops: Vec::new(),
        steering: SteeringTables::default(),
        host_path: HostPath::default(),
        kernel_routes: (Vec::new(), usize::MAX),
        route_failures: Vec::new(),
        key,
        warnings: Vec::new(),
        slow_path,
        slow_path_stats,
        stand_in_stats: Arc::default(),
        asked: BTreeMap::new(),
        capture: None,
        uplink_is_up: true,
        stalls: Stalls::default(),
        leaving: false,
    };
    daemon.begin(&host, &uplink).await?;
    tokio::spawn(server.serve(requests_in));
    let inbox = Inbox {
        follower,
        stores,
        neighbours,
        steering,
        requests,
    };
    Ok((daemon, inbox))
}

/// This node's object, its uplink, and what the last run left: all that can keep a start back.
async fn look(config: &Config, store: &Store, kernel: &Kernel) -> anyhow::Result<(NodeRecord, Link, Saved)> {
    let own = own_node(store, config).map_err(Misconfigured::because)?;
    let uplink = look_at_node(config, kernel)
        .await
        .map_err(Misconfigured::because)?;
    refuse_foreign_program(&uplink)?;
    Ok((own, uplink, Saved::load(&config.node.state_dir)?))
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
    (mpsc::Receiver<NeighbourRequest>, mpsc::Receiver<SteerRequest>),
);

fn start_slow_path(
    config: &Config,
    fabric: &Fabric,
    punts: Receiver<Punt>,
    tables: Reader<NodeTables>,
) -> anyhow::Result<SlowPathEnds> {
    let (events_in, events) = bounded(EVENTS);
    let (neighbours_in, neighbours) = mpsc::channel(NEIGHBOUR_REQUESTS);
    let (steering_in, steering) = mpsc::channel(STEER_REQUESTS);
    let limits = SlowPathConfig {
        icmp_errors_per_second: config.slow_path.icmp_errors_per_second.get(),
    };
    let stats = slowpath::spawn(
        limits,
        punts,
        events,
        fabric.workers().to_vec(),
        tables,
        (neighbours_in, steering_in),
    )?;
    Ok((events_in, stats, (neighbours, steering)))
}

/// What the node file asks for and cannot be had is said as such.
fn misconfigured(error: FabricError) -> anyhow::Error {
    if error.is_about_node_file() {
        Misconfigured::because(error.into())
    } else {
        error.into()
    }
}

/// Takes a full table for what it is: said, and no reason to serve nothing.
fn full_is_told(error: XdpError) -> Result<(), XdpError> {
    match error {
        XdpError::Map {
            hint: Hint::TableFull,
            ..
        } => {
            warn!("{error}");
            Ok(())
        }
        other => Err(other),
    }
}

impl Daemon {
    /// Attaches and publishes everything, or leaves what it found.
    async fn begin(&mut self, host: &HostPort, uplink: &Link) -> anyhow::Result<()> {
        let attached = self.attach_own_ports(host, uplink).await;
        if let Err(error) = attached.and_then(|()| self.keep_ports_free()) {
            self.undo(host).await;
            return Err(error);
        }
        self.hold_stand_in().await;
        self.publish().await;
        self.adopt_pods().await;
        self.assign_openers();
        Ok(())
    }

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
            kernel_queues: Vec::new(),
            kind: ProgramKind::Port,
            mode: XdpMode::Auto,
            sockets: Sockets::Shared(FillPolicy::WIDE),
        };
        let (mac, peer_mac) = (
            link.mac.context("the host port has no MAC address")?,
            host.kernel_end.mac,
        );
        let attached = self.fabric.attach(spec)?;
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
        let facts = uplink_facts(link)
            .context("the uplink has no MAC address: an Ethernet interface would be right")?;
        self.size_nic().await.map_err(nic::misconfigured)?;
        self.note_merging(link).await.map_err(nic::misconfigured)?;
        let steered = self.steer_uplink(id, link, &facts).await?;
        let (mode, replaced) = (steered.attachment().mode, steered.attachment().replaced.is_some());
        let attached = match self.serve_uplink(id, link, steered).await {
            Ok(attached) => attached,
            Err(error) => {
                if !replaced {
                    // What failed is said below; a program that cannot be taken off is said by uninstall.
                    let _ = xdp::detach_ours(link.ifindex);
                }
                return Err(error);
            }
        };
        self.settle_mode(&link.name, &attached.attachment).await;
        self.delay_interrupts(link);
        attached.spec.tell_receivers();
        if let Some(refusal) = &attached.zero_copy_refusal {
            info!(
                interface = link.name,
                driver = nic::driver(&link.name),
                "no zero-copy here, so the kernel copies: {refusal}"
            );
        }
        let (queues, bind_mode) = (attached.spec.queues, attached.bind_mode());
        info!(interface = link.name, queues, %mode, %bind_mode, "uplink attached");
        self.stalls = Stalls::default();
        self.ports.insert(Port {
            interface: link.name.clone(),
            pod: None,
            facts,
            attached,
        });
        Ok(())
    }

    /// Puts the steering program on the uplink, for as many queues as it can come to have.
    async fn steer_uplink(&mut self, id: PortId, link: &Link, facts: &PortFacts) -> anyhow::Result<Steered> {
        let mode = match self.config.uplink.xdp_mode {
            config::XdpMode::Auto => XdpMode::Auto,
            config::XdpMode::Native => XdpMode::Native,
            config::XdpMode::Generic => XdpMode::Generic,
        };
        let limit = queue_limit(&self.kernel, link).await?;
        let mut inputs = self.ports.inputs();
        inputs.push(super::compile::PortInput {
            id,
            ifindex: link.ifindex,
            facts: facts.clone(),
            pod: None,
        });
        let steering = self.compile(&inputs, Epoch(0)).steering;
        let awaited: Vec<_> = self.awaited.iter().collect();
        let kind = (link.ifindex, ProgramKind::Uplink, mode);
        let steered = steer(kind, limit, |program| {
            // More Services than there is room for keep nobody from the others.
            program.set_tables(&steering).or_else(full_is_told)?;
            program.set_awaited(awaited)
        })?;
        self.steering = steering;
        Ok(steered)
    }

    /// Serves the uplink's queues. They are counted only now: some drivers take more of them when a program is attached
    /// (virtio-net: one for each core to transmit by, as far as there are any).
    async fn serve_uplink(
        &mut self,
        id: PortId,
        link: &Link,
        steered: Steered,
    ) -> anyhow::Result<AttachedPort> {
        let queues = queue_count(&self.kernel, link).await?;
        self.note_queues(queues).map_err(nic::misconfigured)?;
        let workers = self.fabric.workers().len();
        let left = self.config.uplink.kernel_queues.as_slice().to_vec();
        Fabric::check_queues(&link.name, queues, &left, workers).map_err(misconfigured)?;
        self.spread_nic(queues).map_err(nic::misconfigured)?;
        let spec = PortSpec {
            id,
            interface: link.name.clone(),
            ifindex: link.ifindex,
            queues,
            kernel_queues: left,
            kind: ProgramKind::Uplink,
            mode: XdpMode::Auto,
            sockets: Sockets::Own(nic::sockets(&self.kernel, &self.config.uplink, link).await),
        };
        self.fabric.serve(spec, steered).map_err(misconfigured)
    }

    /// Removes what this start made; what it found stays.
    async fn undo(&mut self, host: &HostPort) {
        let ports = std::mem::take(&mut self.ports);
        let ours: Vec<_> = ports
            .into_attached()
            .map(|port| (port.spec.ifindex, port.attachment.replaced.is_some(), port))
            .collect();
        for (ifindex, replaced, port) in ours {
            // The program first: with it on and its sockets gone, some drivers stand still.
            if !replaced {
                let _ = xdp::detach_ours(ifindex);
            }
            let _ = self.fabric.detach(port);
        }
        self.undo_nic().await;
        if host.origin != HostPortOrigin::Adopted
            && let Err(error) = self.kernel.remove_host_port(&host.kernel_end.name).await
        {
            warn!("{error}");
        }
    }
}
