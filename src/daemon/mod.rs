//! The node daemon: `millrace run`.
//!
//! One control thread owns everything that decides: it follows the kernel and the objects, attaches and detaches
//! ports, makes the tables and publishes them, and answers the admin socket. It reaches the workers only through
//! published snapshots and bounded queues. The slow-path thread handles packets that need thought.

mod answers;
pub mod compile;
pub mod fabric;
mod look;
mod pods;
pub mod ports;
mod privileges;
mod start;
mod uninstall;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use millrace_dataplane::table::{HashKey, NodeTables, Publisher, Role};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{debug, error, info, warn};

use crate::admin::server::Call;
use crate::config::Config;
use crate::kernel::{Kernel, KernelFollower, KernelState, OWN_ROUTE_PROTOCOL, RouteSpec};
use crate::objects::{NodeRecord, Severity, Store};
use crate::slowpath::{NeighbourRequest, SharedSlowPathStats, SlowPathEvent};
use compile::{Compiled, Inputs, PeerNumbers, Steering};
use fabric::Fabric;
use ports::{Ports, Saved};

pub use look::Misconfigured;
pub use start::run;
pub use uninstall::uninstall;

/// The admin socket's name in the state folder.
pub const SOCKET_NAME: &str = "millrace.sock";
/// Changes that come within this time of each other are published together.
const COALESCE: Duration = Duration::from_millis(5);
/// How often neighbours in use are asked for again: the kernel sees none of the traffic and would age them.
const REFRESH: Duration = Duration::from_secs(10);
/// How long the same missing neighbour is not asked for again.
const ASK_PAUSE: Duration = Duration::from_secs(1);
/// Neighbours that were asked for and are remembered, at most.
const ASKED_MAX: usize = 4096;

/// What reaches the control thread from outside.
struct Inbox {
    follower: KernelFollower,
    stores: watch::Receiver<Arc<Store>>,
    neighbours: mpsc::Receiver<NeighbourRequest>,
    requests: mpsc::Receiver<Call>,
}

/// What the control thread owns.
struct Daemon {
    config: Config,
    /// This node's object as it was at the start: host port and pods were set up by it.
    own: NodeRecord,
    started: Instant,
    kernel: Kernel,
    state: KernelState,
    store: Arc<Store>,
    fabric: Fabric,
    ports: Ports,
    saved: Saved,
    publisher: Publisher<NodeTables>,
    tables: NodeTables,
    numbers: PeerNumbers,
    peers: Vec<compile::PeerName>,
    next_hops: Vec<(u32, IpAddr)>,
    steering: Steering,
    kernel_routes: Vec<RouteSpec>,
    key: HashKey,
    warnings: Vec<String>,
    slow_path: Sender<SlowPathEvent>,
    slow_path_stats: SharedSlowPathStats,
    asked: BTreeMap<(u32, IpAddr), Instant>,
    /// Alive while a capture runs; there is one at a time.
    capture: Weak<()>,
}

impl Daemon {
    /// Serves until it is told to stop.
    async fn serve(mut self, mut inbox: Inbox) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut refresh = tokio::time::interval(REFRESH);
        let mut publish_at: Option<tokio::time::Instant> = None;
        loop {
            let due = publish_at;
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                changed = inbox.follower.next_change() => {
                    self.state = changed?.clone();
                    self.follow_links().await;
                    publish_at.get_or_insert_with(|| tokio::time::Instant::now() + COALESCE);
                }
                changed = inbox.stores.changed() => {
                    changed?;
                    let store = inbox.stores.borrow_and_update().clone();
                    self.take_store(store);
                    publish_at.get_or_insert_with(|| tokio::time::Instant::now() + COALESCE);
                }
                Some(request) = inbox.neighbours.recv() => self.ask_neighbour(request).await,
                Some((request, answer)) = inbox.requests.recv() => self.answer(request, answer).await,
                _ = refresh.tick() => self.refresh_neighbours().await,
                () = async { match due { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                    publish_at = None;
                    self.publish().await;
                }
            }
        }
        info!("stopping: programs and host port stay in place for the next start");
        self.slow_path.send(SlowPathEvent::Stop).ok();
        self.fabric.stop();
        Ok(())
    }

    /// Makes the tables anew and gives them to everyone who reads them.
    async fn publish(&mut self) {
        let inputs = self.ports.inputs();
        let compiled = compile::compile(
            &Inputs {
                config: &self.config,
                own: &self.own,
                store: &self.store,
                kernel: &self.state,
                ports: &inputs,
                key: self.key,
            },
            &mut self.numbers,
            self.tables.generation + 1,
        );
        self.report(&compiled);
        self.feed_steering(&compiled.steering);
        self.sync_kernel_routes(&compiled).await;
        // A flag of a neighbour that was used must outlive the table it was set in.
        for (port, address) in self.tables.neighbours.take_used() {
            let _ = compiled.tables.neighbours.lookup(port, address);
        }
        self.tables = compiled.tables;
        self.peers = compiled.peers;
        self.next_hops = compiled.next_hops;
        self.warnings = compiled.warnings;
        self.publisher.publish(self.tables.clone());
        // A full queue holds the same notice already.
        let _ = self.slow_path.try_send(SlowPathEvent::TablesChanged);
        for (ifindex, address) in self.missing_next_hops() {
            self.resolve(ifindex, address).await;
        }
        debug!(generation = self.tables.generation, "published");
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
    fn feed_steering(&mut self, wanted: &Steering) {
        if *wanted == self.steering {
            return;
        }
        let Some((id, _)) = self.ports.of_role(Role::Uplink) else {
            return;
        };
        let Some(port) = self.ports.get_mut(id) else {
            return;
        };
        match start::feed(&mut port.attached.program, wanted) {
            Ok(()) => self.steering = wanted.clone(),
            Err(error) => error!("{error}"),
        }
    }

    /// Puts our routes into the kernel's table, when they are not there as wanted.
    async fn sync_kernel_routes(&mut self, compiled: &Compiled) {
        let present = self
            .state
            .routes()
            .filter(|route| route.protocol == OWN_ROUTE_PROTOCOL)
            .count();
        if compiled.kernel_routes == self.kernel_routes && present == self.kernel_routes.len() {
            return;
        }
        let host = self.config.host_port.name.kernel_side();
        match self
            .kernel
            .sync_routes(host.as_str(), &compiled.kernel_routes)
            .await
        {
            Ok(changes) => {
                changes.failed.iter().for_each(|failure| warn!("{failure}"));
                self.kernel_routes.clone_from(&compiled.kernel_routes);
            }
            Err(failure) => error!("{failure}"),
        }
    }

    /// Takes new objects, and says what is new among the refusals.
    fn take_store(&mut self, store: Arc<Store>) {
        for notice in store
            .notices()
            .iter()
            .filter(|notice| !self.store.notices().contains(notice))
        {
            match notice.severity {
                Severity::Skipped => info!("{notice}"),
                _ => warn!("{notice}"),
            }
        }
        match store.own_node() {
            Some(own) => {
                if own.pod_cidr_v4 != self.own.pod_cidr_v4 || own.pod_cidr_v6 != self.own.pod_cidr_v6 {
                    error!("this node's pod CIDR has changed; the old one stays in force until a restart");
                } else {
                    self.own = own.clone();
                }
            }
            None => error!(
                "this node's own object {} is gone or refused; its last good version stays in force",
                self.own.name
            ),
        }
        self.store = store;
    }

    /// Asks the kernel for a neighbour on behalf of the slow path.
    async fn ask_neighbour(&mut self, request: NeighbourRequest) {
        let Some(ifindex) = self
            .ports
            .get(request.port)
            .map(|port| port.attached.spec.ifindex)
        else {
            return;
        };
        self.resolve(ifindex, request.address).await;
    }

    /// Has the kernel resolve a neighbour, unless it was asked a moment ago.
    async fn resolve(&mut self, ifindex: u32, address: IpAddr) {
        let now = Instant::now();
        if self.asked.len() >= ASKED_MAX {
            self.asked.retain(|_, at| now.duration_since(*at) < ASK_PAUSE);
        }
        match self.asked.get(&(ifindex, address)) {
            Some(at) if now.duration_since(*at) < ASK_PAUSE => return,
            _ if self.asked.len() >= ASKED_MAX => return,
            _ => self.asked.insert((ifindex, address), now),
        };
        if let Err(failure) = self.kernel.request_resolution(ifindex, address).await {
            debug!("{failure}");
        }
    }

    /// Next hops of peers that the kernel does not know.
    fn missing_next_hops(&self) -> Vec<(u32, IpAddr)> {
        let known = |(ifindex, address): &(u32, IpAddr)| {
            self.state
                .neighbour(*ifindex, *address)
                .is_some_and(|entry| entry.usable_mac().is_some())
        };
        self.next_hops.iter().filter(|hop| !known(hop)).copied().collect()
    }

    /// Keeps alive every neighbour that packets are sent to.
    async fn refresh_neighbours(&mut self) {
        let used: Vec<_> = self
            .tables
            .neighbours
            .take_used()
            .filter_map(|(port, address)| Some((self.ports.get(port)?.attached.spec.ifindex, address)))
            .chain(self.next_hops.iter().copied())
            .collect();
        for (ifindex, address) in used {
            self.resolve(ifindex, address).await;
        }
    }
}
