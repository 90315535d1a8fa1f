//! Starting the daemon: everything is looked at first, then made, then attached; a start that fails leaves what it
//! found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use millrace_dataplane::port::xsk::FillPolicy;
use millrace_dataplane::table::{PortFacts, Role};
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::worker::Limits;
use millrace_dataplane::xdp::{self, ProgramKind, SteeringTables, XdpMode};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::balancing::{self, Balance, Balancing};
use super::compile::Numbers;
use super::compile::services::ServiceCompiler;
use super::explain::Policing;
use super::fabric::{FabricError, PortSpec, Sockets};
use super::health::Health;
use super::host_path::{HostPath, host_port_spec};
use super::links::{mtu_of, warn_of_mtu};
use super::look::{
    ClaimedDevice, Misconfigured, claim_device, claim_interfaces, lock, look_at_node, own_node,
    refuse_foreign_program,
};
use super::machine::start_machine;
use super::members::Members;
use super::ports::{Port, Ports, Saved};
use super::sources::Sources;
use super::stalls::Stalls;
use super::{Daemon, Inbox, flows};
use crate::admin::protocol::Bandwidth;
use crate::admin::scrape;
use crate::admin::server::{AdminServer, Call};
use crate::config::Config;
use crate::dns::service::ResolverService;
use crate::dns::{Listen, Resolver};
use crate::kernel::sysctl::Setting;
use crate::kernel::{HostPort, HostPortOrigin, Kernel, KernelFollower, Link};
use crate::objects::{NodeRecord, Store};

/// Admin requests that may wait.
const REQUESTS: usize = 64;
/// The stores of a source, the newest one first.
type Stores = watch::Receiver<Arc<Store>>;

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
        let given = balancing::saved(&config)?;
        let source = Sources::start(&config, given.assigned())?;
        if !source.ready().await? {
            info!("stopping: nothing was begun");
            return Ok(());
        }
        let balance = Balancing::start(&config, given, (source.assigner(), source.reporter()))?;
        let (daemon, inbox) = start(config, &source, balance).await?;
        info!("ready");
        daemon.serve(inbox).await
    })
}

async fn start(config: Config, source: &Sources, balance: Balance) -> anyhow::Result<(Daemon, Inbox)> {
    let mut stores = source.subscribe();
    let (store, kernel) = (stores.borrow_and_update().clone(), Kernel::open()?);
    let (own, uplink, device, saved) = look(&config, &store, &kernel).await?;
    let machine = start_machine(&config, (&uplink, &device), &saved.networks)?;
    let (slow_path, slow_path_stats, (neighbours, steering)) = machine.slow_path;
    let server = AdminServer::bind(&config.node.state_dir.join(super::SOCKET_NAME))?;
    let (follower, (requests_in, requests)) = (KernelFollower::start().await?, mpsc::channel(REQUESTS));
    // Nothing outside this process has changed so far; from here on everything is undone if something fails.
    let spec = host_port_spec(&config, (&own, &store), &uplink);
    let host = kernel.ensure_host_port(&spec).await?;
    let (key, workers) = (machine.key, config.workers.cores.as_slice().len());
    let mut daemon = Daemon {
        state: follower.state().clone(),
        services: ServiceCompiler::new(&config.services, key, workers),
        config,
        own,
        started: Instant::now(),
        source: source.ends(),
        kernel,
        store,
        fabric: machine.fabric,
        ports: Ports::default(),
        unserved: saved.ports.clone(),
        members: Members::found(saved.members.clone()),
        nic_changes: None,
        nic_found: saved.nic.clone(),
        numbers: Numbers::with_networks(saved.networks.clone()),
        saved,
        tables: machine.tables,
        connections: machine.connections,
        bridging: machine.bridging,
        awaited: flows::AwaitedAnswers::default(),
        publisher: machine.publisher,
        resolver: None,
        policing: Policing::new(key, workers),
        health: Health::new(),
        balancing: balance.0,
        peers: Vec::new(),
        networks: super::networks::Served::default(),
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
        device,
        stalls: Stalls::default(),
        leaving: false,
    };
    daemon.begin(&host, &uplink, &stores).await?;
    answer_all(server, &daemon.config, requests_in);
    let inbox = Inbox {
        follower,
        stores,
        neighbours,
        steering,
        requests,
        balancing: balance.1,
    };
    Ok((daemon, inbox))
}

/// Has requests come in by the admin socket, and by the port for metrics if there is to be one.
fn answer_all(server: AdminServer, config: &Config, requests: mpsc::Sender<Call>) {
    if let Some(address) = config.metrics.listen {
        tokio::spawn(scrape::serve(address.get(), requests.clone()));
    }
    tokio::spawn(server.serve(requests));
}

/// This node's object, its uplink, and what the last run left: all that can keep a start back.
async fn look(
    config: &Config,
    store: &Store,
    kernel: &Kernel,
) -> anyhow::Result<(NodeRecord, Link, ClaimedDevice, Saved)> {
    let own = own_node(store, config).map_err(Misconfigured::because)?;
    let underlay = look_at_node(config, kernel)
        .await
        .map_err(Misconfigured::because)?;
    refuse_foreign_program(&underlay.device)?;
    let device = claim_device(&underlay)?;
    Ok((own, underlay.link, device, Saved::load(&config.node.state_dir)?))
}

/// What the node file asks for and cannot be had is said as such.
pub(super) fn misconfigured(error: FabricError) -> anyhow::Error {
    if error.is_about_node_file() {
        Misconfigured::because(error.into())
    } else {
        error.into()
    }
}

/// Whether the kernel tells of routes with next-hop objects where they lead.
const NEXT_HOP_COMPAT: &str = "net/ipv4/nexthop_compat_mode";

/// Where `nexthop_compat_mode` is off, the kernel tells a route's next-hop object by its number only (ip-sysctl).
fn warn_of_next_hop_objects() {
    let value = Setting::new(NEXT_HOP_COMPAT).and_then(|setting| setting.read());
    if value.is_ok_and(|value| value.as_deref() == Some("0")) {
        warn!(
            "net.ipv4.nexthop_compat_mode is 0: the kernel does not say where routes with next-hop objects lead, so they are \
             not followed; 1, as it is by default, would be right where a routing daemon uses such objects"
        );
    }
}

impl Daemon {
    /// Attaches and publishes everything, or leaves what it found.
    async fn begin(&mut self, host: &HostPort, uplink: &Link, stores: &Stores) -> anyhow::Result<()> {
        warn_of_mtu(uplink, self.fabric.packets());
        let attached = self.attach_own_ports(host, uplink).await;
        let attached = attached.and_then(|()| self.start_resolver(host, stores));
        if let Err(error) = attached.and_then(|()| self.keep_ports_free()) {
            self.undo(host).await;
            return Err(error);
        }
        self.hold_stand_in().await;
        warn_of_next_hop_objects();
        self.balance();
        self.publish().await;
        self.adopt_pods().await;
        self.adopt_members().await;
        self.assign_openers();
        Ok(())
    }

    /// Starts the node's own resolver, if it is to have one, behind the host port.
    fn start_resolver(&mut self, host: &HostPort, stores: &Stores) -> anyhow::Result<()> {
        let service = ResolverService::of(&self.config.dns, &self.own);
        for address in &self.config.dns.addresses {
            if service
                .as_ref()
                .is_none_or(|service| !service.addresses.contains(address))
            {
                warn!("[dns]: {address} is not answered at: this node has no pods of its family");
            }
        }
        let Some(service) = service else { return Ok(()) };
        info!(
            "[dns]: answering for {} at {:?}",
            self.config.dns.domain, service.addresses
        );
        let listen = Listen {
            at: service.listens_at,
            device: Some(host.kernel_end.name.clone()),
        };
        let cidrs = &self.config.services.cidrs;
        let resolver = Resolver::start(&self.config.dns, cidrs, listen, stores.clone())
            .map_err(|error| Misconfigured::because(error.into()))?;
        self.resolver = Some(resolver);
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
            vlan: None,
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
            mtu: mtu_of(link, self.fabric.packets()),
            finish_checksums: true,
        };
        self.ports.insert(Port {
            interface: link.name.clone(),
            pod: None,
            facts,
            attached,
            attachment: None,
            host_ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            limits: Limits::default(),
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
