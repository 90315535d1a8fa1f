//! Answers to the admin socket.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{PeerId, Role, Spread, SpreadId, Target, Tunnel};
use millrace_dataplane::xdp::{self, AttachedMode};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Daemon;
use super::compile::{PeerName, PeerWay};
use super::fabric::AttachedPort;
use super::pods::limit_rows;
use crate::admin::protocol::{
    Failure, NeighbourRow, PeerRow, PortRow, PortStats, QueueRow, Request, Response, RouteRow, ShowFilter,
    Stats, Totals, WorkerRow,
};
use crate::admin::server::Answer;

impl Daemon {
    /// Does what is asked and answers. A client that has gone does not get its answer; that is its business.
    pub(super) async fn answer(&mut self, request: Request, answer: oneshot::Sender<Answer>) {
        let result = match request {
            Request::Stats => to_value(self.stats()),
            Request::Health => to_value(self.health_report()),
            Request::ShowPorts => to_value(self.show_ports()),
            Request::ShowRoutes => to_value(self.show_routes()),
            Request::ShowNeighbours => to_value(self.show_neighbours()),
            Request::ShowPeers => to_value(self.show_peers()),
            Request::ShowWorkers => to_value(self.show_workers()),
            Request::ShowFlows(filter) => {
                self.show_flows(filter, answer);
                return;
            }
            Request::ShowFdb(filter) => {
                self.show_stations(filter, answer);
                return;
            }
            Request::ShowServices(filter) => to_value(self.services.rows(&filter)),
            Request::ShowLoadBalancers => to_value(
                self.balancing
                    .rows(&self.config.load_balancer, &self.config.node.name),
            ),
            Request::ShowPolicies => to_value(self.policing.compilers.rows(&self.store)),
            Request::ShowDns => to_value(self.resolver.as_ref().map(|dns| dns.row(&self.config.dns))),
            Request::Explain(ask) => {
                self.explain(ask, answer);
                return;
            }
            Request::ExplainFrame(ask) => self.explain_frame(&ask).and_then(to_value),
            Request::ExplainPacket(ask) => self.explain_packet(&ask).and_then(to_value),
            Request::Denied => to_value(self.denied()),
            Request::Attach(attach) => self.attach(&attach).await.and_then(to_value),
            Request::Detach { pod } => self.detach_pod(&pod).await,
            Request::Verify(verify) => self.verify(&verify).await,
            Request::Release(attachment) => self.release(&attachment).await,
            Request::Retain(retain) => self.retain(&retain).await,
            Request::ShowNode => to_value(self.node_facts()),
            Request::Join(join) => self.join(&join).await.and_then(to_value),
            Request::Part(name) => self.part(&name).await,
            Request::NetworkFacts { vni, port, name } => self
                .network_facts((vni, port), name.as_deref())
                .and_then(to_value),
            Request::ShowNetworks => to_value(self.show_networks()),
            Request::Leave => self.leave(),
            Request::Capture { port } => {
                let _ = answer.send(self.capture(&port));
                return;
            }
        };
        let _ = answer.send(Answer::Once(match result {
            Ok(value) => Response::Ok(value),
            Err(failure) => Response::Error(failure),
        }));
    }

    /// Takes the uplink's program off while its sockets are open, and ends after the answer. With the sockets closed
    /// first, some drivers stop receiving for a while with packets under way to them.
    fn leave(&mut self) -> Result<Value, Failure> {
        if let Some((_, port)) = self.ports.of_role(Role::Uplink) {
            xdp::detach_ours(port.attached.spec.ifindex)
                .map_err(|error| Failure::failed(error.to_string()))?;
        }
        self.leaving = true;
        Ok(json!({}))
    }

    fn stats(&self) -> Stats {
        self.fabric.beat();
        let mut totals = Totals::default();
        let mut workers = Vec::new();
        for worker in self.fabric.workers() {
            let counters = worker.stats().read();
            totals.received += counters.received;
            totals.originated += counters.originated;
            totals.transmitted += counters.transmitted;
            add(&mut totals.dropped, &counters.dropped);
            add(&mut totals.punted, &counters.punted);
            workers.push(json!(counters));
        }
        let ports = self.ports.iter().map(|(id, port)| PortStats {
            name: port.name(),
            network: self.members.get(id).and_then(|member| member.network.clone()),
            queues: port
                .attached
                .seats
                .iter()
                .map(|seat| json!(seat.stats.read()))
                .collect(),
            steering: port
                .attached
                .program
                .counters()
                .map(|counters| named(&counters))
                .unwrap_or_default(),
        });
        Stats {
            node: self.own.name.to_string(),
            source: Some(self.source.status()),
            uptime_seconds: self.started.elapsed().as_secs(),
            totals,
            workers,
            ports: ports.collect(),
            load_balancers: self.balancing.counts(),
            connections: self.count_connections(),
            slow_path: self
                .slow_path_stats
                .read()
                .into_iter()
                .chain(self.stand_in_stats.read())
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            dns: self
                .resolver
                .as_ref()
                .map(|dns| dns.stats().read())
                .unwrap_or_default(),
            services: self.services.counts(),
        }
    }

    fn show_ports(&self) -> Vec<PortRow> {
        let rows = self.ports.iter().map(|(id, port)| {
            let attachment = &port.attached.attachment;
            let vlan = port.attached.spec.vlan;
            let mode = match (attachment.mode, &attachment.native_refusal) {
                (AttachedMode::Generic, Some(refusal)) => format!("generic (native refused: {refusal})"),
                (mode, _) => mode.to_string(),
            };
            PortRow {
                id: u16::try_from(id.index()).unwrap_or(u16::MAX),
                interface: port.interface.clone(),
                role: match port.facts.role {
                    Role::Uplink => "uplink".into(),
                    Role::Host => "host".into(),
                    Role::Pod => "pod".into(),
                    Role::Segment => "segment".into(),
                },
                pod: port.pod.as_ref().map(ToString::to_string),
                networks: Vec::new(),
                addresses: port.facts.sources.clone(),
                mac: port.facts.mac.to_string(),
                peer_mac: (port.facts.role != Role::Uplink).then(|| port.facts.peer_mac.to_string()),
                mtu: u32::from(port.facts.mtu),
                queues: port.attached.spec.queues,
                bind_mode: port.attached.bind_mode().to_string(),
                device: vlan.map(|_| port.attached.spec.interface.clone()),
                vlan: vlan.map(|vlan| vlan.id.number()),
                per_queue: queue_rows(&port.attached),
                xdp_mode: mode,
                up: self
                    .state
                    .link(port.attached.spec.bearer())
                    .is_some_and(|link| link.running),
                limits: limit_rows(port),
            }
        });
        let mut rows: Vec<PortRow> = rows.collect();
        self.describe_members(&mut rows);
        rows
    }

    fn show_routes(&self) -> Vec<RouteRow> {
        let name = |id: PortId| self.ports.name(id);
        let rows = self.tables.routes.routes().iter().map(|(prefix, target)| {
            let (kind, to, port) = match *target {
                Target::Spread(id) => ("spread", self.spread_words(id), self.uplink_name()),
                Target::Port(port) => ("port", name(port), Some(name(port))),
                Target::Tunnel(peer) => ("tunnel", self.peer_name(peer), self.uplink_name()),
                Target::Via { port, next_hop } => ("via", next_hop.to_string(), Some(name(port))),
                Target::OnLink { port } => ("on-link", "the destination itself".into(), Some(name(port))),
                Target::Switch => ("switch", "the switch itself".into(), None),
                Target::Network(network) => ("network", self.network_name(network), None),
                Target::Blackhole => ("blackhole", "nowhere, silently".into(), None),
                Target::Unreachable => ("unreachable", "nowhere, the sender is told".into(), None),
            };
            RouteRow {
                prefix: prefix.to_string(),
                kind: kind.into(),
                to,
                port,
            }
        });
        // Of two routes for one prefix the later one counts, and only that is shown.
        let last: BTreeMap<String, RouteRow> = rows.map(|row| (row.prefix.clone(), row)).collect();
        last.into_values().collect()
    }

    /// The ways that flows are spread over.
    fn spread_words(&self, id: SpreadId) -> String {
        let hops = self
            .tables
            .routes
            .spread(id)
            .map(Spread::hops)
            .unwrap_or_default();
        let ways = hops.iter().map(|hop| match hop.target {
            Target::Tunnel(peer) => self.peer_name(peer),
            Target::Port(port) => self.ports.name(port),
            _ => hop.address.to_string(),
        });
        ways.collect::<Vec<_>>().join(", ")
    }

    fn show_neighbours(&self) -> Vec<NeighbourRow> {
        let mut rows = Vec::new();
        for (_, port) in self.ports.iter() {
            let ifindex = port.attached.spec.bearer();
            if port.facts.role != Role::Uplink {
                let stations = port.facts.sources.iter().map(|address| NeighbourRow {
                    address: *address,
                    port: port.name(),
                    mac: Some(port.facts.peer_mac.to_string()),
                    state: "attached".into(),
                    used: true,
                });
                rows.extend(stations);
                continue;
            }
            let kernel = self.state.neighbours().filter(|entry| entry.ifindex == ifindex);
            rows.extend(kernel.map(|entry| {
                NeighbourRow {
                    address: entry.address,
                    port: port.name(),
                    mac: entry
                        .mac
                        .map(|mac| millrace_dataplane::wire::MacAddr(mac).to_string()),
                    state: format!("{:?}", entry.state).to_lowercase(),
                    used: self.next_hops.contains(&(ifindex, entry.address)),
                }
            }));
        }
        rows
    }

    fn show_peers(&self) -> Vec<PeerRow> {
        let rows = self.peers.iter().filter_map(|named| match named.way {
            PeerWay::Tunnel(id) => self.tunnel_row(named, id),
            PeerWay::Plain(remote) => self.plain_row(named, remote),
        });
        rows.collect()
    }

    fn tunnel_row(&self, named: &PeerName, id: PeerId) -> Option<PeerRow> {
        let peer = self.tables.peers.get(id)?;
        let tunnel = match peer.tunnel {
            Tunnel::Vxlan {
                vni,
                port,
                remote_mac,
                ..
            } => format!("vxlan vni {vni} port {port} mac {remote_mac}"),
            Tunnel::Ipip => "ipip".into(),
        };
        let (next_hop, _) = self.resolved(peer.underlay.next_hop);
        Some(PeerRow {
            node: named.node.to_string(),
            remote: peer.remote,
            tunnel,
            pod_cidrs: named.pod_cidrs.iter().map(ToString::to_string).collect(),
            mtu: u32::from(peer.mtu),
            next_hop,
            ready: peer.outer.is_some(),
        })
    }

    fn plain_row(&self, named: &PeerName, remote: IpAddr) -> Option<PeerRow> {
        let (next_hop, ready) = self.resolved(remote);
        Some(PeerRow {
            node: named.node.to_string(),
            remote,
            tunnel: "none, on this subnet".into(),
            pod_cidrs: named.pod_cidrs.iter().map(ToString::to_string).collect(),
            mtu: u32::from(self.ports.of_role(Role::Uplink)?.1.facts.mtu),
            next_hop,
            ready,
        })
    }

    /// A next hop with its MAC address, and whether that is known.
    fn resolved(&self, next_hop: IpAddr) -> (String, bool) {
        let mut known = self.tables.neighbours.iter();
        match known.find(|(_, address, _)| *address == next_hop) {
            Some((_, _, mac)) => (format!("{next_hop} ({mac})"), true),
            None => (format!("{next_hop} (unresolved)"), false),
        }
    }

    fn show_workers(&self) -> Vec<WorkerRow> {
        self.fabric.beat();
        let workers = self.fabric.workers();
        let rows = workers.iter().map(|worker| {
            let counters = worker.stats().read();
            let queues = self.ports.iter().flat_map(|(_, port)| {
                let seats = port.attached.seats.iter();
                let own = seats.filter(|seat| seat.worker == worker.index());
                own.map(|seat| format!("{}/{}", port.interface, seat.queue))
            });
            WorkerRow {
                worker: worker.index(),
                core: counters.core,
                load_permille: counters.load_permille,
                sleeps: counters.sleeps,
                frames_free: counters.frames.free,
                frames_in_tokens: counters.frames.in_tokens,
                frames_in_ports: counters.frames.in_ports,
                queues: queues.collect(),
            }
        });
        rows.collect()
    }

    /// Shows connections, on a thread of its own: there may be a million to look at.
    fn show_flows(&self, filter: ShowFilter, answer: oneshot::Sender<Answer>) {
        let (flows, tables, names, reasons) = (
            Arc::clone(&self.connections.flows),
            self.tables.clone(),
            self.names(),
            self.reasons(),
        );
        let look = move || {
            let shown = super::flows::show(&flows, &tables, (&names, &reasons), &filter);
            let _ = answer.send(Answer::Once(match to_value(shown) {
                Ok(value) => Response::Ok(value),
                Err(failure) => Response::Error(failure),
            }));
        };
        // Without a thread the answer's other end is dropped, and the client told so.
        let _ = std::thread::Builder::new().name("show-flows".into()).spawn(look);
    }

    fn peer_name(&self, id: PeerId) -> String {
        let peer = self.peers.iter().find(|peer| peer.way == PeerWay::Tunnel(id));
        peer.map_or_else(|| format!("peer {id}"), |peer| peer.node.to_string())
    }

    fn uplink_name(&self) -> Option<String> {
        self.ports.of_role(Role::Uplink).map(|(_, port)| port.name())
    }
}

/// Whose each queue of a port is; one without a worker is left to the kernel.
fn queue_rows(port: &AttachedPort) -> Vec<QueueRow> {
    let rows = (0..port.spec.queues).map(|queue| {
        let seat = port.seats.iter().find(|seat| seat.queue.0 == queue);
        QueueRow {
            queue,
            worker: seat.map(|seat| seat.worker),
            bind_mode: seat.map(|seat| seat.mode.to_string()),
            kernel: seat.is_none(),
            stalled_ms: seat.map_or(0, |seat| seat.stats.read().stalled_ms),
        }
    });
    rows.collect()
}

fn add(sum: &mut BTreeMap<String, u64>, part: &BTreeMap<&'static str, u64>) {
    for (name, count) in part {
        *sum.entry((*name).to_owned()).or_default() += count;
    }
}

/// A structure of numbers as a map by name.
fn named(counters: &impl Serialize) -> BTreeMap<String, u64> {
    serde_json::to_value(counters)
        .and_then(serde_json::from_value)
        .unwrap_or_default()
}

pub(super) fn to_value(answer: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(answer).map_err(|error| Failure::failed(error.to_string()))
}
