//! The node daemon: `millrace run`.
//!
//! One control thread owns everything that decides: it follows the kernel and the objects, attaches and detaches
//! ports, makes the tables and publishes them, and answers the admin socket. It reaches the workers only through
//! published snapshots and bounded queues. The slow-path thread handles packets that need thought.

mod answers;
mod balancing;
mod captures;
pub mod compile;
mod explain;
pub mod fabric;
mod flows;
pub mod health;
mod host_path;
mod lease;
mod links;
mod liveness;
mod look;
mod machine;
pub mod members;
mod neighbours;
mod networks;
pub(crate) mod nic;
mod pods;
pub mod ports;
mod routed;
mod sources;
mod stalls;
mod stand_in;
mod start;
mod stations;
mod take;
pub(crate) mod underlay;
mod uninstall;

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use crossbeam::channel::Sender;
use millrace_dataplane::table::{Epoch, HashKey, NodeTables, Publisher, Role};
use millrace_dataplane::wire::IpProtocol;
use millrace_dataplane::xdp::SteeringTables;
use millrace_pipelines::{Bridging, Connections};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info, warn};

use crate::admin::protocol::CaptureLine;
use crate::admin::server::Call;
use crate::config::Config;
use crate::dns::Resolver;
use crate::kernel::{Kernel, KernelFollower, KernelState, Listening, OWN_ROUTE_PROTOCOL, RouteSpec};
use crate::objects::{NodeRecord, Store};
use crate::slowpath::{NeighbourRequest, SharedSlowPathStats, SlowPathEvent, SteerRequest};
use compile::services::{HostListens, ServiceCompiler};
use compile::{Compiled, Inputs, Numbers, PortInput};
use fabric::Fabric;
use flows::AwaitedAnswers;
use health::Health;
use host_path::HostPath;
use ports::{PodRow, Ports, Saved};

pub use explain::explain_alone;
pub use look::Misconfigured;
pub use start::run;
pub use uninstall::uninstall;

/// The admin socket's name in the state folder.
pub const SOCKET_NAME: &str = "millrace.sock";
/// Changes that come within this time of each other are published together.
const COALESCE: Duration = Duration::from_millis(5);
/// The least time between two publications.
const PUBLISH_PAUSE: Duration = Duration::from_millis(25);
/// How often neighbours in use are asked for again: the kernel sees none of the traffic and would age them.
const REFRESH: Duration = Duration::from_secs(10);
/// How long the answer to whoever ends the daemon may take to leave.
const PARTING: Duration = Duration::from_millis(100);
/// How often the uplink's queues are counted, and whether they send is looked at: nobody tells of either.
const COUNT_QUEUES: Duration = Duration::from_secs(1);

/// What reaches the control thread from outside.
struct Inbox {
    follower: KernelFollower,
    stores: watch::Receiver<Arc<Store>>,
    neighbours: mpsc::Receiver<NeighbourRequest>,
    steering: mpsc::Receiver<SteerRequest>,
    requests: mpsc::Receiver<Call>,
    balancing: balancing::BalancingInbox,
}

/// What the control thread owns.
struct Daemon {
    config: Config,
    /// This node's object, the last good one with the pod CIDRs that host port and pods were set up by.
    own: NodeRecord,
    started: Instant,
    /// Where the objects come from, and who is told what this node is.
    source: sources::SourceEnds,
    kernel: Kernel,
    state: KernelState,
    store: Arc<Store>,
    fabric: Fabric,
    ports: Ports,
    saved: Saved,
    connections: Connections,
    bridging: Bridging,
    awaited: AwaitedAnswers,
    /// What this run changed at the uplink's device, and what earlier runs had written down.
    nic_changes: Option<nic::NicBefore>,
    nic_found: Option<nic::NicBefore>,
    publisher: Publisher<NodeTables>,
    tables: NodeTables,
    numbers: Numbers,
    services: ServiceCompiler,
    resolver: Option<Resolver>,
    policing: explain::Policing,
    health: Health,
    balancing: balancing::Balancing,
    peers: Vec<compile::PeerName>,
    /// Networks beside the cluster's own, as they are served.
    networks: networks::Served,
    next_hops: Vec<(u32, IpAddr)>,
    steering: SteeringTables,
    host_path: HostPath,
    /// The routes that the kernel was last given, and how many of them it took.
    kernel_routes: (Vec<RouteSpec>, usize),
    route_failures: Vec<String>,
    /// Pods that were attached and are not served now: their ports are tried again.
    unserved: Vec<PodRow>,
    /// Ports in networks beside the cluster's own.
    members: members::Members,
    key: HashKey,
    warnings: Vec<String>,
    slow_path: Sender<SlowPathEvent>,
    slow_path_stats: SharedSlowPathStats,
    stand_in_stats: Arc<stand_in::StandInStats>,
    asked: BTreeMap<(u32, IpAddr), Instant>,
    /// Where the lines of the last capture go, alive while it runs; there is one at a time.
    capture: Option<mpsc::WeakSender<CaptureLine>>,
    /// The device under the uplink.
    device: look::ClaimedDevice,
    /// Whether the uplink had its link when it was last looked at.
    uplink_is_up: bool,
    /// Which of its queues have stopped sending.
    stalls: stalls::Stalls,
    /// Told to end for good: the uplink's program is off already.
    leaving: bool,
}

impl Daemon {
    /// Serves until it is told to stop.
    async fn serve(mut self, mut inbox: Inbox) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut refresh = tokio::time::interval(REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count_queues = tokio::time::interval(COUNT_QUEUES);
        count_queues.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut publish_at: Option<tokio::time::Instant> = None;
        let mut published = tokio::time::Instant::now();
        loop {
            let due = publish_at;
            let not_before = (tokio::time::Instant::now() + COALESCE).max(published + PUBLISH_PAUSE);
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                changed = inbox.follower.next_change() => {
                    let state = changed.context("following the kernel's configuration")?;
                    if !state.differs_for_packets(&self.state) {
                        continue;
                    }
                    self.state = state.clone();
                    self.follow_links().await?;
                    self.balance();
                    publish_at.get_or_insert(not_before);
                }
                changed = inbox.stores.changed() => {
                    changed.context("the source of objects has ended")?;
                    let store = inbox.stores.borrow_and_update().clone();
                    self.take_store(store);
                    self.balance();
                    publish_at.get_or_insert(not_before);
                }
                () = inbox.balancing.changed() => self.balance(),
                Some(request) = inbox.neighbours.recv() => self.ask_neighbour(request).await,
                Some(request) = inbox.steering.recv() => self.steer_answers(request),
                Some((request, answer)) = inbox.requests.recv() => {
                    self.answer(request, answer).await;
                    if self.leaving {
                        break;
                    }
                }
                _ = count_queues.tick() => {
                    self.follow_queues().await;
                    self.follow_stalls();
                }
                _ = refresh.tick() => self.refresh().await?,
                () = async { match due { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                    publish_at = None;
                    self.publish().await;
                    published = tokio::time::Instant::now();
                }
            }
        }
        if self.leaving {
            // Whoever asked for it is to hear that it is so.
            tokio::time::sleep(PARTING).await;
            info!("stopping: the uplink's program is off, the rest is for uninstall to remove");
        } else {
            info!("stopping: programs and host port stay in place for the next start");
        }
        // A full queue or a thread that is gone: the process ends all the same.
        let _ = self.slow_path.try_send(SlowPathEvent::Stop);
        self.fabric.stop();
        Ok(())
    }

    /// Does what is due again and again, whether anything has changed or not.
    async fn refresh(&mut self) -> anyhow::Result<()> {
        if let Some(worker) = self.fabric.dead_worker() {
            bail!("worker {worker} has ended by itself; a restart takes over all ports");
        }
        self.release_answers();
        self.health.beat();
        self.balancing.tell_again(&self.store);
        self.end_denied();
        self.restore_own_services();
        if self.look_at_listeners() {
            self.publish().await;
        }
        self.refresh_neighbours().await;
        self.follow_links().await?;
        self.adopt_pods().await;
        self.adopt_members().await;
        self.tell_long_frames();
        // The last tables but one are freed here when nothing has changed since.
        self.publisher.reclaim();
        Ok(())
    }

    /// Makes the tables anew.
    fn compile(&mut self, ports: &[PortInput], epoch: Epoch) -> Compiled {
        let listening = OnceCell::new();
        let members: Vec<_> = self.members.served().map(|(id, row)| (id, row.clone())).collect();
        compile::compile(
            &Inputs {
                config: &self.config,
                own: &self.own,
                store: &self.store,
                kernel: &self.state,
                ports,
                key: self.key,
                listens: HostListens(&|address, protocol, port| listens(&listening, address, protocol, port)),
                members: &members,
            },
            &mut self.numbers,
            &mut self.services,
            &mut self.policing.compilers,
            epoch,
        )
    }

    /// Makes the tables anew and gives them to everyone who reads them.
    async fn publish(&mut self) {
        let ports = self.ports.inputs();
        let mut compiled = self.compile(&ports, self.tables.epoch.next());
        let mut changed = compile::changed_subjects(&self.tables.routes, &compiled.tables.routes);
        changed.extend(self.numbers.take_renumbered());
        let service_changes = self.services.take_changes();
        changed.extend(service_changes.subjects());
        changed.extend(self.policing.compilers.cluster.take_changes());
        compiled.tables.subjects = self.tables.subjects.with_changes(&changed, compiled.tables.epoch);
        self.date_routed(&mut compiled);
        // Connections name networks by their numbers, and outlive this process.
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        // Remembered before a worker can store anything with it.
        self.connections.flows.remember_epoch(compiled.tables.epoch);
        self.report(&compiled);
        self.tell_lease(&compiled);
        self.sync_health();
        self.feed_steering(&compiled.steering);
        self.sync_kernel_routes(&compiled).await;
        self.announce_routes().await;
        // A flag of a neighbour that was used must outlive the table it was set in.
        for (port, address) in self.tables.neighbours.take_used() {
            let _ = compiled.tables.neighbours.lookup(port, address);
        }
        self.tables = compiled.tables;
        self.peers = compiled.peers;
        let compiled_hops = compiled.next_hops;
        self.warnings = compiled.warnings;
        self.publisher.publish(self.tables.clone());
        self.serve_networks(compiled.second);
        self.renew_reasons();
        self.sync_own_services(&compiled.own_services);
        self.forget_plain(&service_changes);
        // A full queue holds the same notice already.
        let _ = self.slow_path.try_send(SlowPathEvent::TablesChanged);
        // New peers are asked for at once; those that do not answer only with every refresh.
        for hop in compiled_hops.iter().filter(|hop| !self.next_hops.contains(hop)) {
            self.resolve(hop.0, hop.1).await;
        }
        self.next_hops = compiled_hops;
        debug!(epoch = %self.tables.epoch, "published");
    }

    /// Brings the answers to health checks up to date.
    fn sync_health(&mut self) {
        let port = u16::try_from(self.config.services.health_port.get()).unwrap_or_default();
        let ports = self.services.health_ports();
        for failure in self.health.sync(port, &ports, self.own.is_leaving) {
            warn!("{failure}");
        }
    }

    /// Says what could not be used, once per change.
    fn report(&self, compiled: &Compiled) {
        for warning in compiled
            .warnings
            .iter()
            .filter(|warning| !self.warnings.contains(warning))
        {
            warn!("{warning}");
        }
    }

    /// Brings the uplink's steering program up to date. What fails is tried again with the next publication.
    fn feed_steering(&mut self, wanted: &SteeringTables) {
        if *wanted == self.steering {
            return;
        }
        let Some((id, _)) = self.ports.of_role(Role::Uplink) else {
            return;
        };
        let Some(port) = self.ports.get_mut(id) else {
            return;
        };
        match port.attached.program.set_tables(wanted) {
            Ok(()) => self.steering = wanted.clone(),
            Err(error) => error!("{error}"),
        }
    }

    /// Puts our routes into the kernel's table, when they are not there as they were left.
    async fn sync_kernel_routes(&mut self, compiled: &Compiled) {
        let present = self
            .state
            .routes()
            .filter(|route| route.protocol == OWN_ROUTE_PROTOCOL)
            .count();
        let (given, taken) = &self.kernel_routes;
        if compiled.kernel_routes == *given && present == *taken {
            return;
        }
        let host = self.config.host_port.name.kernel_side();
        match self
            .kernel
            .sync_routes(host.as_str(), &compiled.kernel_routes)
            .await
        {
            Ok(changes) => {
                let failures: Vec<_> = changes.failed.iter().map(ToString::to_string).collect();
                for failure in failures
                    .iter()
                    .filter(|failure| !self.route_failures.contains(failure))
                {
                    warn!("{failure}");
                }
                let taken = compiled.kernel_routes.len().saturating_sub(failures.len());
                self.kernel_routes = (compiled.kernel_routes.clone(), taken);
                self.route_failures = failures;
            }
            Err(failure) => error!("{failure}"),
        }
    }
}

/// Whether the node itself listens there; its sockets are read once, and only if someone asks.
fn listens(
    known: &OnceCell<Result<Listening, String>>,
    address: IpAddr,
    protocol: IpProtocol,
    port: u16,
) -> Result<bool, String> {
    let listening = known.get_or_init(|| Listening::read().map_err(|error| error.to_string()));
    let listening = listening.as_ref().map_err(Clone::clone)?;
    Ok(listening.is_taken(address, protocol, port))
}
