//! Load balancers' addresses: given out, written down, announced, and shown.

mod give;
mod heard;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_dataplane::table::HashKey;
use millrace_dataplane::wire::MacAddr;
use tokio::sync::{mpsc, watch};
use tracing::error;

use super::{Daemon, Misconfigured};
use crate::balancer::announce::{Announced, Announcer, Begin, Place, Task};
use crate::balancer::aside::Aside;
use crate::balancer::cluster::{self, Options, Order, Said};
use crate::balancer::elect::{self, Duty};
use crate::balancer::{Allocation, Members, SavedAddresses};
use crate::cluster::{Pace, Reporter};
use crate::config::{Announce, Config, Kubernetes, LoadBalancer, ObjectSource};
use crate::kernel::{Kernel, KernelError};
use crate::objects::{Assigned, Assigner, NodeName, Store};

/// Orders to whoever talks with the API server that may wait.
const ORDERS: usize = 1024;

/// Who makes what was given out known to every reader of the objects.
#[derive(Debug)]
pub(super) enum Sink {
    /// The folder's reader, as nothing can be written into the files.
    Folder(Assigner),
    /// The API server, by the Services' status; orders go to whoever writes there.
    Cluster(mpsc::Sender<Order>),
}

/// What wakes the control thread.
pub(super) struct BalancingInbox {
    announced: Option<watch::Receiver<Arc<Announced>>>,
    members: watch::Receiver<Arc<Members>>,
}

impl BalancingInbox {
    /// Waits until nodes come or go, or an address stands otherwise than before.
    pub(super) async fn changed(&mut self) {
        let announced = async {
            let is_open = match &mut self.announced {
                Some(announced) => announced.changed().await.is_ok(),
                None => false,
            };
            if !is_open {
                std::future::pending().await
            }
        };
        let members = async {
            if self.members.changed().await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = announced => {}
            () = members => {}
        }
    }
}

/// Everything that the control thread knows of it.
#[derive(Debug)]
pub(super) struct Balancing {
    folder: PathBuf,
    sink: Sink,
    /// Who tells of what is refused, if anybody does.
    reporter: Option<Reporter>,
    /// When all that is wrong is told again.
    tell_at: Instant,
    /// What Services have beside their status; in a cluster, what is being written there.
    assigned: Assigned,
    /// What is in the file.
    saved: SavedAddresses,
    allocation: Allocation,
    /// Pools that collide, in words.
    faults: Vec<String>,
    duties: BTreeMap<IpAddr, Duty>,
    /// Who announces each, as this node sees it.
    elected: BTreeMap<IpAddr, Option<NodeName>>,
    /// How this node began with those that are its own.
    begun: BTreeMap<IpAddr, Begin>,
    announcer: Option<Announcer>,
    /// The routes that were last set; not known at the start.
    routed: Option<BTreeSet<IpAddr>>,
    ordered: Option<(Place, Task)>,
    /// What the other nodes were told of this one.
    said: Said,
    /// What is passed over, since hosts outside of the cluster answer for it.
    aside: Aside,
    /// What was last heard of the announcer.
    announced: Arc<Announced>,
    members: watch::Receiver<Arc<Members>>,
    /// Where nobody else takes part, nobody changes them; they would count as gone with their sender.
    _alone: Option<watch::Sender<Arc<Members>>>,
}

/// What begins with the daemon, and what it is woken by.
pub(super) type Balance = (Balancing, BalancingInbox);

/// Takes part in a cluster.
fn join(
    config: &Config,
    kubernetes: &Kubernetes,
    members: watch::Sender<Arc<Members>>,
) -> anyhow::Result<mpsc::Sender<Order>> {
    let (orders, received) = mpsc::channel(ORDERS);
    let lease_ms = u64::try_from(config.load_balancer.lease_ms.get()).unwrap_or(u64::MAX);
    let options = Options {
        own: config.node.name.clone(),
        lease: Duration::from_millis(lease_ms),
    };
    let server = (kubernetes.clone(), config.load_balancer.lease_namespace.clone());
    cluster::spawn(server, options, received, members)?;
    Ok(orders)
}

/// Where what was given out is written down.
pub(super) fn folder_of(config: &Config) -> &Path {
    let own = config.load_balancer.state_dir.as_deref();
    own.unwrap_or(&config.node.state_dir)
}

/// What the last run gave out; nothing where there are no pools.
pub(super) fn saved(config: &Config) -> anyhow::Result<SavedAddresses> {
    if config.load_balancer.pools.is_empty() {
        return Ok(SavedAddresses::default());
    }
    SavedAddresses::load(folder_of(config)).map_err(|error| Misconfigured::because(error.into()))
}

impl Balancing {
    /// Begins with what the last run gave out. Where there is an `assigner`, this node is by itself; else in a cluster, and
    /// other nodes take part. The `reporter` makes Events.
    pub(super) fn start(
        config: &Config,
        saved: SavedAddresses,
        (assigner, reporter): (Option<Assigner>, Option<Reporter>),
    ) -> anyhow::Result<Balance> {
        let balancer = &config.load_balancer;
        let is_local = !balancer.pools.is_empty() && balancer.announce == Announce::Local;
        let announcer = is_local
            .then(|| Announcer::start(HashKey::random()))
            .transpose()?;
        let (sender, members) = watch::channel(Arc::new(Members::alone(&config.node.name)));
        let (sink, alone) = match (assigner, config.objects()) {
            (None, ObjectSource::Api(kubernetes)) if !balancer.pools.is_empty() => {
                sender.send_replace(Arc::default());
                (Sink::Cluster(join(config, kubernetes, sender)?), None)
            }
            (None, _) => (Sink::Cluster(mpsc::channel(1).0), Some(sender)),
            (Some(assigner), _) => (Sink::Folder(assigner), Some(sender)),
        };
        let inbox = BalancingInbox {
            announced: announcer.as_ref().map(Announcer::announced),
            members: members.clone(),
        };
        let balancing = Self {
            folder: folder_of(config).to_owned(),
            assigned: match &sink {
                Sink::Folder(_) => saved.assigned(),
                Sink::Cluster(_) => Assigned::new(),
            },
            sink,
            reporter,
            tell_at: Instant::now() + Pace::default().event_again,
            saved,
            allocation: Allocation::default(),
            faults: Vec::new(),
            duties: BTreeMap::new(),
            elected: BTreeMap::new(),
            begun: BTreeMap::new(),
            announcer,
            routed: None,
            ordered: None,
            said: Said::default(),
            aside: Aside::default(),
            announced: Arc::default(),
            members,
            _alone: alone,
        };
        Ok((balancing, inbox))
    }

    /// Finds out who announces what.
    fn elect(&mut self, config: &LoadBalancer, store: &Store) {
        let members = self.members.borrow_and_update().clone();
        self.duties = elect::duties(config, store);
        if members.is_cut_off {
            // What has come meanwhile is announced by nobody until this node hears of the others again.
            self.elected
                .retain(|address, _| self.duties.contains_key(address));
            return;
        }
        let living: Vec<&NodeName> = members
            .living
            .keys()
            .filter(|node| elect::takes_part(store, node))
            .collect();
        let duties = self.duties.iter();
        self.elected = duties
            .map(|(address, duty)| {
                let node = elect::announcer(*address, duty, living.iter().copied());
                (*address, node.cloned())
            })
            .collect();
    }

    /// The addresses that this node announces, and how it begins.
    fn begin(&mut self, own: &NodeName, before: &BTreeMap<IpAddr, Option<NodeName>>) {
        let elected = self.elected.iter();
        let mine: BTreeSet<IpAddr> = elected
            .filter(|(_, node)| node.as_ref() == Some(own))
            .map(|(address, _)| *address)
            .collect();
        self.begun.retain(|address, _| mine.contains(address));
        for address in mine {
            let had_another = before.get(&address).is_some_and(Option::is_some);
            let begin = if had_another || self.saved.announced.contains(&address) {
                Begin::TakeOver
            } else {
                Begin::Probe
            };
            self.begun.entry(address).or_insert(begin);
        }
    }

    /// Tells the other nodes of this one, and the announcer what to do.
    fn order(&mut self, place: Place, own: &NodeName) {
        let said = Said {
            mac: Some(place.mac.octets()),
            claims: heard::own_claims(&self.announced),
        };
        if let Sink::Cluster(orders) = &self.sink
            && self.said != said
            && orders.try_send(Order::Say(said.clone())).is_ok()
        {
            self.said = said;
        }
        let Some(announcer) = &self.announcer else { return };
        let members = self.members.borrow();
        let task = Task {
            addresses: self.begun.clone(),
            peers: members.peers(own).collect(),
            is_cut_off: members.is_cut_off,
        };
        let order = (place, task);
        if self.ordered.as_ref() == Some(&order) {
            return;
        }
        if announcer.order(order.0.clone(), order.1.clone()) {
            self.ordered = Some(order);
        }
    }
}

/// Takes the routes to load balancers' addresses away; answers what that is, and whether there were any.
pub(super) async fn withdraw(kernel: &Kernel, config: &Config) -> (String, Result<bool, KernelError>) {
    let table = route_table(&config.load_balancer);
    let what = format!("routes to load balancers' addresses in table {table}");
    (what, kernel.sync_announced(table, &BTreeSet::new()).await)
}

fn route_table(config: &LoadBalancer) -> u8 {
    // INVARIANT: the node file admits none above 252.
    u8::try_from(config.route_table.get()).unwrap_or(u8::MAX)
}

impl Daemon {
    /// Brings the routes that a routing daemon tells others of up to date. What fails is tried again with the next
    /// publication.
    pub(super) async fn announce_routes(&mut self) {
        let (config, own) = (&self.config.load_balancer, &self.config.node.name);
        let wanted: BTreeSet<IpAddr> =
            if config.announce == Announce::Route && elect::takes_part(&self.store, own) {
                let duties = self.balancing.duties.iter();
                let serves = |duty: &Duty| duty.nodes.as_ref().is_none_or(|nodes| nodes.contains(own));
                duties
                    .filter(|(_, duty)| serves(duty))
                    .map(|(address, _)| *address)
                    .collect()
            } else {
                BTreeSet::new()
            };
        if self.balancing.routed.as_ref() == Some(&wanted) {
            return;
        }
        match self.kernel.sync_announced(route_table(config), &wanted).await {
            Ok(_) => self.balancing.routed = Some(wanted),
            Err(failure) => error!("{failure}"),
        }
    }

    /// Brings load balancers' addresses up to date with the objects, the nodes, and what the announcer has heard.
    pub(super) fn balance(&mut self) {
        let config = &self.config.load_balancer;
        if config.pools.is_empty() {
            return;
        }
        let own_addresses: Vec<IpAddr> = self
            .state
            .addresses()
            .map(|address| address.address.addr())
            .collect();
        let own = self.config.node.name.clone();
        let before = self.balancing.elected.clone();
        self.balancing.follow_announcer(&self.store);
        self.balancing.set_aside();
        self.balancing.give_out(config, &self.store, &own_addresses);
        self.balancing.elect(config, &self.store);
        self.balancing.begin(&own, &before);
        if let Some(place) = self.place() {
            self.balancing.order(place, &own);
        }
    }

    /// Where addresses are announced.
    fn place(&self) -> Option<Place> {
        let link = self.state.link_by_name(self.config.uplink.interface.as_str())?;
        Some(Place {
            interface: link.name.clone(),
            ifindex: link.ifindex,
            mac: MacAddr(link.mac?),
        })
    }
}
