//! Answers to the admin socket.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use millrace_dataplane::capture::{Captured, Direction};
use millrace_dataplane::port::PortId;
use millrace_dataplane::port::xsk::XskPort;
use millrace_dataplane::table::{Role, Target, Tunnel};
use millrace_dataplane::verdict::Verdict;
use millrace_dataplane::worker::WorkerHandle;
use millrace_dataplane::xdp::AttachedMode;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Daemon;
use crate::admin::protocol::{
    CaptureDirection, CaptureLine, CapturedPacket, Failure, NeighbourRow, PeerRow, PortRow, PortStats,
    Request, Response, RouteRow, ShowFilter, Stats, Totals, WorkerRow,
};
use crate::admin::server::Answer;

/// Packets that may wait for a capture's client.
const CAPTURE_LINES: usize = 256;
/// How long a capture waits for a packet before it looks whether its client is still there.
const CAPTURE_PAUSE: Duration = Duration::from_millis(200);

impl Daemon {
    /// Does what is asked and answers. A client that has gone does not get its answer; that is its business.
    pub(super) async fn answer(&mut self, request: Request, answer: oneshot::Sender<Answer>) {
        let result = match request {
            Request::Stats => to_value(self.stats()),
            Request::ShowPorts => to_value(self.show_ports()),
            Request::ShowRoutes => to_value(self.show_routes()),
            Request::ShowNeighbours => to_value(self.show_neighbours()),
            Request::ShowPeers => to_value(self.show_peers()),
            Request::ShowWorkers => to_value(self.show_workers()),
            Request::ShowFlows(filter) => {
                self.show_flows(filter, answer);
                return;
            }
            Request::ShowServices(filter) => to_value(self.services.rows(&filter)),
            Request::ShowPolicies => to_value(self.policies.rows()),
            Request::Explain(ask) => {
                self.explain(ask, answer);
                return;
            }
            Request::Denied => to_value(self.denied()),
            Request::Attach(attach) => self.attach_pod(&attach).await,
            Request::Detach { pod } => self.detach_pod(&pod).await,
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
        let ports = self.ports.iter().map(|(_, port)| PortStats {
            name: port.name(),
            queues: port
                .attached
                .stats
                .iter()
                .map(|queue| json!(queue.read()))
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
            uptime_seconds: self.started.elapsed().as_secs(),
            totals,
            workers,
            ports: ports.collect(),
            connections: self.count_connections(),
            slow_path: self
                .slow_path_stats
                .read()
                .into_iter()
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
            services: self.services.counts(),
        }
    }

    fn show_ports(&self) -> Vec<PortRow> {
        let rows = self.ports.iter().map(|(id, port)| {
            let attachment = &port.attached.attachment;
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
                },
                pod: port.pod.as_ref().map(ToString::to_string),
                addresses: port.facts.sources.clone(),
                mac: port.facts.mac.to_string(),
                peer_mac: (port.facts.role != Role::Uplink).then(|| port.facts.peer_mac.to_string()),
                mtu: u32::from(port.facts.mtu),
                queues: port.attached.spec.queues,
                xdp_mode: mode,
                up: self
                    .state
                    .link(port.attached.spec.ifindex)
                    .is_some_and(|link| link.running),
            }
        });
        rows.collect()
    }

    fn show_routes(&self) -> Vec<RouteRow> {
        let name = |id: PortId| self.ports.name(id);
        let rows = self.tables.routes.routes().iter().map(|(prefix, target)| {
            let (kind, to, port) = match *target {
                Target::Port(port) => ("port", name(port), Some(name(port))),
                Target::Tunnel(peer) => ("tunnel", self.peer_name(peer), self.uplink_name()),
                Target::Via { port, next_hop } => ("via", next_hop.to_string(), Some(name(port))),
                Target::OnLink { port } => ("on-link", "the destination itself".into(), Some(name(port))),
                Target::Switch => ("switch", "the switch itself".into(), None),
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

    fn show_neighbours(&self) -> Vec<NeighbourRow> {
        let mut rows = Vec::new();
        for (_, port) in self.ports.iter() {
            let ifindex = port.attached.spec.ifindex;
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
        let rows = self.peers.iter().filter_map(|named| {
            let peer = self.tables.peers.get(named.id)?;
            let next_hop = peer.underlay.next_hop;
            let mac = self
                .tables
                .neighbours
                .iter()
                .find(|(_, address, _)| *address == next_hop);
            Some(PeerRow {
                node: named.node.to_string(),
                remote: peer.remote,
                tunnel: match peer.tunnel {
                    Tunnel::Vxlan {
                        vni,
                        port,
                        remote_mac,
                        ..
                    } => {
                        format!("vxlan vni {vni} port {port} mac {remote_mac}")
                    }
                    Tunnel::Ipip => "ipip".into(),
                },
                pod_cidrs: named.pod_cidrs.iter().map(ToString::to_string).collect(),
                mtu: u32::from(peer.mtu),
                next_hop: match mac {
                    Some((_, _, mac)) => format!("{next_hop} ({mac})"),
                    None => format!("{next_hop} (unresolved)"),
                },
                ready: peer.outer.is_some(),
            })
        });
        rows.collect()
    }

    fn show_workers(&self) -> Vec<WorkerRow> {
        self.fabric.beat();
        let workers = self.fabric.workers();
        let rows = workers.iter().map(|worker| {
            let counters = worker.stats().read();
            let queues = self.ports.iter().flat_map(|(_, port)| {
                let own = (0..port.attached.spec.queues).filter(|queue| {
                    millrace_dataplane::port::QueueId(*queue).worker(workers.len()) == worker.index()
                });
                own.map(|queue| format!("{}/{queue}", port.interface))
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
        let (flows, tables, names) = (
            Arc::clone(&self.connections.flows),
            self.tables.clone(),
            self.names(),
        );
        let look = move || {
            let shown = super::flows::show(&flows, &tables, &names, &filter);
            let _ = answer.send(Answer::Once(match to_value(shown) {
                Ok(value) => Response::Ok(value),
                Err(failure) => Response::Error(failure),
            }));
        };
        // Without a thread the answer's other end is dropped, and the client told so.
        let _ = std::thread::Builder::new().name("show-flows".into()).spawn(look);
    }

    /// Taps a port; a thread of its own turns the copies into lines until the client hangs up.
    fn capture(&mut self, name: &str) -> Answer {
        // One whose client has just gone no longer counts, though its thread may not have noticed yet: the new tap
        // takes the place of its own.
        let running = self.capture.as_ref().and_then(mpsc::WeakSender::upgrade);
        if running.is_some_and(|lines| !lines.is_closed()) {
            let reason = "another capture is running; there is one at a time";
            return Answer::Once(Response::Error(Failure::failed(reason)));
        }
        let Some((id, port)) = self.ports.iter().find(|(_, port)| port.is_called(name)) else {
            let names: Vec<_> = self.ports.iter().map(|(_, port)| port.name()).collect();
            return Answer::Once(Response::Error(Failure::wrong(format!(
                "there is no port {name}; there are {}",
                names.join(", ")
            ))));
        };
        let copies = match self.fabric.tap(id) {
            Ok(copies) => copies,
            Err(error) => return Answer::Once(Response::Error(Failure::failed(error.to_string()))),
        };
        let (lines_in, lines) = mpsc::channel(CAPTURE_LINES);
        let names: BTreeMap<PortId, String> = self.ports.iter().map(|(id, port)| (id, port.name())).collect();
        let workers = self.fabric.workers().to_vec();
        self.capture = Some(lines_in.downgrade());
        // Each worker takes its tap off at the next packet that nobody takes.
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || forward_copies(&copies, &lines_in, &names, &workers));
        match thread {
            Ok(_) => Answer::Capture(
                Response::Ok(json!({ "port": port.name(), "interface": port.interface })),
                lines,
            ),
            Err(error) => Answer::Once(Response::Error(Failure::failed(error.to_string()))),
        }
    }

    fn peer_name(&self, id: millrace_dataplane::table::PeerId) -> String {
        let peer = self.peers.iter().find(|peer| peer.id == id);
        peer.map_or_else(|| format!("peer {id}"), |peer| peer.node.to_string())
    }

    fn uplink_name(&self) -> Option<String> {
        self.ports.of_role(Role::Uplink).map(|(_, port)| port.name())
    }
}

/// Turns copies into lines until nobody takes them.
fn forward_copies(
    copies: &Receiver<Captured>,
    lines: &mpsc::Sender<CaptureLine>,
    names: &BTreeMap<PortId, String>,
    workers: &[WorkerHandle<XskPort>],
) {
    let lost = || {
        workers
            .iter()
            .map(|worker| worker.stats().capture_lost())
            .sum::<u64>()
    };
    let before = lost();
    let mut told = before;
    while !lines.is_closed() {
        let line = match copies.recv_timeout(CAPTURE_PAUSE) {
            Ok(copy) => Some(CaptureLine::Packet(describe(&copy, names))),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if line.is_some_and(|line| lines.blocking_send(line).is_err()) {
            break;
        }
        let now = lost();
        if now > told {
            told = now;
            if lines.blocking_send(CaptureLine::Lost(now - before)).is_err() {
                break;
            }
        }
    }
}

fn describe(copy: &Captured, names: &BTreeMap<PortId, String>) -> CapturedPacket {
    let name = |id: &PortId| names.get(id).cloned().unwrap_or_else(|| format!("port {id}"));
    let (direction, comment) = match &copy.direction {
        Direction::Received(verdict) => (
            CaptureDirection::Received,
            match verdict {
                Verdict::Forward(to) => format!("forward to {}", name(to)),
                Verdict::Drop(reason) => format!("drop {reason}: {}", reason.meaning()),
                Verdict::Punt(reason, _) => format!("punt {reason}: {}", reason.meaning()),
            },
        ),
        Direction::Sent(Some(from)) => (CaptureDirection::Sent, format!("sent, came in at {}", name(from))),
        Direction::Sent(None) => (CaptureDirection::Sent, "sent, originated by the switch".into()),
    };
    CapturedPacket {
        time_ns: nanoseconds(copy.time),
        direction,
        comment,
        data: base64::engine::general_purpose::STANDARD.encode(copy.packet.bytes()),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
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
