//! The connections, as the control thread has to do with them: the table's file, what of it is shown, and answers that
//! the uplink's steering has to know of.

mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::Context as _;
use millrace_dataplane::clock;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::flow::{Address, Tuple};
use millrace_dataplane::table::{AffinityTable, FlowShard, FlowTable, NetworkId, Role, ServiceTable};
use millrace_dataplane::verdict::Awaited;
use millrace_dataplane::wire::{IpProtocol, Ports};
use millrace_dataplane::xdp::SteeringProgram;
use millrace_pipelines::Connections;
use tracing::{debug, info, warn};

pub(super) use shown::{Names, show};

use super::Daemon;
use super::compile::NetworkNumbers;
use super::compile::services::ServiceChanges;
use super::routed::forget_networks;
use crate::config::Config;
use crate::slowpath::SteerRequest;

/// The flow table's file in the state folder.
pub(super) const FILE: &str = "flows";
/// Tells one start of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Clients that session affinity is remembered for.
const AFFINITIES: usize = 1 << 16;

/// The connections, with those of the last run, as far as the numbers of their networks are known.
pub(super) fn open(config: &Config, networks: &NetworkNumbers) -> anyhow::Result<Connections> {
    let path = config.node.state_dir.join(FILE);
    let (flows, adopted) = FlowTable::open(&path, boot()?, &config.flows.options(), clock::now())?;
    if let Some(refusal) = adopted.refused {
        warn!(
            "the connections of the last run are lost: {} was left behind, {refusal}",
            path.display()
        );
    }
    let known: BTreeSet<NetworkId> = networks.ids().chain([NetworkId::CLUSTER]).collect();
    let forgotten = forget_networks(&flows, |network| !known.contains(&network));
    let (kept, lost) = (adopted.kept.saturating_sub(forgotten), adopted.lost + forgotten);
    if kept > 0 || lost > 0 {
        info!(kept, lost, "connections taken over");
    }
    Ok(Connections {
        flows: Arc::new(flows),
        affinity: Arc::new(AffinityTable::new(AFFINITIES)),
        timeouts: config.flows.timeouts(),
        workers: config.workers.cores.as_slice().len(),
    })
}

/// The first half of the kernel's random id of this start of the machine.
fn boot() -> anyhow::Result<u64> {
    let text = fs::read_to_string(BOOT_ID).with_context(|| format!("cannot read {BOOT_ID}"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    u64::from_str_radix(&digits, 16).with_context(|| format!("{BOOT_ID} is no id"))
}

impl Daemon {
    /// How many connections there are, and room for.
    pub(super) fn count_connections(&self) -> BTreeMap<String, u64> {
        let flows = &self.connections.flows;
        [
            ("ipv4", flows.v4().len()),
            ("ipv4_capacity", flows.v4().capacity()),
            ("ipv6", flows.v6().len()),
            ("ipv6_capacity", flows.v6().capacity()),
        ]
        .map(|(name, count)| (name.to_owned(), u64::from(count)))
        .into()
    }

    /// Charges every connection of an earlier run to the pod that opened it.
    pub(super) fn assign_openers(&self) {
        let owners: BTreeMap<(NetworkId, IpAddr), PortId> = self
            .ports
            .iter()
            .filter(|(id, port)| port.pod.is_some() || self.tables.routed.of_port(*id).is_some())
            .flat_map(|(id, port)| {
                let network = self.network_of_port(id);
                port.facts
                    .sources
                    .iter()
                    .map(move |address| ((network, *address), id))
            })
            .collect();
        self.connections
            .flows
            .assign_openers(|network, address| owners.get(&(network, address)).copied());
    }

    /// The network that a port's packets are routed in.
    pub(super) fn network_of_port(&self, id: PortId) -> NetworkId {
        self.tables.routed.of_port(id).unwrap_or(NetworkId::CLUSTER)
    }
}

/// The answers that the uplink's steering has been told of, and who gives them.
#[derive(Debug, Default)]
pub(super) struct AwaitedAnswers(BTreeSet<(IpAddr, Awaited)>);

impl AwaitedAnswers {
    /// Those that there are.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, Awaited)> + '_ {
        self.0.iter().copied()
    }
}

impl Daemon {
    /// Sends a packet on, once answers to it find their way here. Without that it is not sent: they would go to the
    /// node's own network stack, and the next packet asks again.
    pub(super) fn steer_answers(&mut self, request: SteerRequest) {
        let key = (request.remote, request.awaited);
        if !self.awaited.0.contains(&key) {
            let steered = self
                .uplink_program()
                .map(|program| program.steer_answers(key.0, key.1));
            match steered {
                Some(Ok(())) => self.awaited.0.insert(key),
                Some(Err(error)) => return debug!("{error}"),
                None => return,
            };
        }
        if let Some(worker) = self.fabric.workers().get(request.worker) {
            // A worker without room drops it; it counts what it drops.
            let _ = worker.inject(request.injection);
        }
    }

    /// Leaves answers within connections that are over to the node's own network stack again.
    pub(super) fn release_answers(&mut self) {
        let (flows, local) = (&self.connections.flows, &self.tables.local);
        let lives = |remote: IpAddr, awaited: Awaited| match remote {
            IpAddr::V4(remote) => {
                let own = local.sources_v4.uplink;
                let answer = own.map(|own| answer(remote, own, IpProtocol::ICMP, awaited));
                answer.is_some_and(|answer| flows.v4().lookup(&answer).is_some())
            }
            IpAddr::V6(remote) => {
                let own = local.sources_v6.uplink;
                let answer = own.map(|own| answer(remote, own, IpProtocol::ICMPV6, awaited));
                answer.is_some_and(|answer| flows.v6().lookup(&answer).is_some())
            }
        };
        let over: Vec<_> = self
            .awaited
            .iter()
            .filter(|(remote, awaited)| !lives(*remote, *awaited))
            .collect();
        for (remote, awaited) in over {
            let released = self
                .uplink_program()
                .map(|program| program.release_answers(remote, awaited));
            if let Some(Err(error)) = released {
                debug!("{error}");
            } else {
                self.awaited.0.remove(&(remote, awaited));
            }
        }
    }

    /// Forgets what went to an address, or port of the node, before it led to a Service: UDP would go on to where it
    /// went for as long as its client does. TCP ends by itself. Looks at the whole table, on a thread of its own, and
    /// after the workers have the new tables.
    pub(super) fn forget_plain(&self, changes: &ServiceChanges) {
        if changes.addresses.is_empty() && !changes.node_ports {
            return;
        }
        let (flows, services) = (
            Arc::clone(&self.connections.flows),
            Arc::clone(&self.tables.services),
        );
        let look = move || {
            let forgotten =
                forget::<Ipv4Addr>(flows.v4(), &services) + forget::<Ipv6Addr>(flows.v6(), &services);
            debug!(forgotten, "flows that now lead to a Service");
        };
        if let Err(error) = std::thread::Builder::new()
            .name("forget-flows".into())
            .spawn(look)
        {
            warn!("flows that now lead to a Service are not forgotten: {error}");
        }
    }

    fn uplink_program(&mut self) -> Option<&mut SteeringProgram> {
        let (id, _) = self.ports.of_role(Role::Uplink)?;
        Some(&mut self.ports.get_mut(id)?.attached.program)
    }
}

/// Forgets all that is bound to no backend, and would be if it began now.
fn forget<A: Address>(flows: &FlowShard<A>, services: &ServiceTable) -> u32 {
    flows.remove_where(|connection| {
        let to = &connection.original;
        connection.binding.is_none()
            && to.network == NetworkId::CLUSTER
            && to.protocol != IpProtocol::TCP
            && services
                .frontend(
                    to.source.into(),
                    to.protocol,
                    (to.destination.into(), to.ports.destination),
                )
                .is_some()
    })
}

/// The tuple of an answer from the uplink; echoes are `icmp`'s.
fn answer<A>(remote: A, own: A, icmp: IpProtocol, awaited: Awaited) -> Tuple<A> {
    let (protocol, id) = match awaited {
        Awaited::Echo(id) => (icmp, id),
        Awaited::Protocol(protocol) => (protocol, 0),
    };
    Tuple {
        source: remote,
        destination: own,
        protocol,
        ports: Ports {
            source: 0,
            destination: id,
        },
        network: NetworkId::CLUSTER,
    }
}
