//! A node with two workers whose uplink has one queue, what comes in by it, and where it goes.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_dataplane::port::QueueId;
use millrace_dataplane::wire::MacAddr;
use millrace_dataplane::xdp::XdpMode;
use millrace_tools::lab::plan::{Mac, NodePlan};
use millrace_tools::lab::{Daemon, Lab, MillraceOptions, NodeKind, Topology, Wire, wait_until};
use millrace_tools::pktgen::{
    AddressRange, FlowSpace, Flows, Link, Order, Outer, PortRange, Sender, SenderOptions, Shape, Sink,
    Template, Tunnel,
};
use serde_json::Value;

use super::quota::Quota;
use crate::arms::{NODE, PEER_PLACE, POD, far_end, fix_neighbours, pod_end, thread_times};

/// The device by which the route to the peer's pods leads, so that IP-in-IP of theirs is let in.
const TUNL: &str = "tunl0";
/// The flows' first source port.
const FIRST_PORT: u16 = 1024;
/// Packets in one go of the sender.
const SEND_BATCH: usize = 64;
/// How long the node may take until packets pass after a start.
const PATIENCE: Duration = Duration::from_secs(15);
/// How many packets a second show that they do.
const TRIAL_RATE: u64 = 1000;
/// How the workers' threads are called, before their number.
const WORKER: &str = "worker-";

/// Who takes the packets that come out at the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The kernel, up to a socket that nobody reads, as a pod's own packets go. That is the worker's time.
    Socket,
    /// A program in front of it that drops them: the least there can be.
    Drop,
}

/// Counters at one moment.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    /// Packets that arrived at the pod.
    pub(super) delivered: u64,
    /// Processor time of each worker, in seconds.
    pub(super) times: Vec<f64>,
    /// Packets that one worker walked in another's place.
    pub(super) shared: u64,
    /// Packets dropped because a belt was full.
    pub(super) full: u64,
    /// Packets put into transmit rings.
    pub(super) transmitted: u64,
}

/// The node.
pub(super) struct Stand {
    // Whoever is in a control group must have left before it goes.
    lab: Lab,
    quotas: Vec<Quota>,
    /// The node file as it is without a mode.
    config: String,
    template: Template,
    /// Never read.
    _socket: UdpSocket,
    sink: Option<Sink>,
}

impl Stand {
    /// Sets it up, with workers on these cores, the first of which has the only queue.
    ///
    /// # Errors
    /// When a lab cannot be made.
    pub(super) fn bring_up(cores: [usize; 2], flows: u32, frame_len: usize) -> anyhow::Result<Self> {
        let mut topology = Topology::of(&[NodeKind::Millrace, NodeKind::Stock]);
        topology.pods_per_node = 1;
        topology.wire = Wire {
            queues: 1,
            ..Wire::default()
        };
        topology.millrace = MillraceOptions {
            cores: cores.to_vec(),
            extra: format!("masquerade = false\nipip-device = \"{TUNL}\"\n"),
            ..MillraceOptions::default()
        };
        let lab = Lab::bring_up("bench-spread", &topology)?;
        fix_neighbours(&lab)?;
        let peer = NodePlan::of(PEER_PLACE)?;
        daemon(&lab)?.remove_manifest(&format!("{}.yaml", peer.name()))?;
        let (cidr, via) = (peer.pod_cidr(), peer.underlay_address().to_string());
        let route = ["route", "replace", &cidr, "via", &via, "dev", TUNL, "onlink"];
        lab.node(NODE)?.namespace().ip(&route)?;
        lab.switch().namespace().ip(&["link", "set", NODE, "nomaster"])?;
        let pod = lab.pod(POD)?;
        let bound = pod
            .namespace()
            .within(|| UdpSocket::bind((IpAddr::V4(pod.address()), 0)))?;
        let socket = bound.context("cannot bind a socket in the pod")?;
        let template = template(&lab, socket.local_addr()?.port(), flows, frame_len)?;
        let config = fs::read_to_string(daemon(&lab)?.config()).context("cannot read the node file")?;
        Ok(Self {
            lab,
            quotas: Vec::new(),
            config,
            template,
            _socket: socket,
            sink: None,
        })
    }

    /// Who takes the packets at the pod.
    ///
    /// # Errors
    /// When the program cannot be attached.
    pub(super) fn set_end(&mut self, end: End) -> anyhow::Result<()> {
        self.sink = None;
        if end == End::Drop {
            self.sink = Some(Sink::attach(&pod_end(&self.lab)?, XdpMode::Auto)?);
        }
        Ok(())
    }

    /// Starts the node anew in this mode, each worker with so many hundredths of its core.
    ///
    /// # Errors
    /// When it does not start, or packets do not pass.
    pub(super) fn start(&mut self, mode: &str, share: u32) -> anyhow::Result<()> {
        let node = self.lab.node_mut(NODE)?;
        let daemon = node.daemon_mut().context("the node runs no daemon")?;
        daemon.stop()?;
        self.quotas.clear();
        let head = "[workers]\n";
        let text = self
            .config
            .replacen(head, &format!("{head}spread = {mode:?}\n"), 1);
        ensure!(text != self.config, "the node file has no [workers]");
        daemon.write_config(&text)?;
        daemon.start()?;
        let sender = self.send(None, Some(TRIAL_RATE))?;
        let before = self.read()?.delivered;
        wait_until("packets to pass", PATIENCE, || {
            Ok(self.read().is_ok_and(|now| now.delivered > before + 100))
        })?;
        sender.stop()?;
        for (name, id) in self.threads()? {
            self.quotas.push(Quota::of_thread(&name, id, share)?);
        }
        Ok(())
    }

    /// The workers' threads.
    fn threads(&self) -> anyhow::Result<Vec<(String, u32)>> {
        let pid = self.pid()?;
        let folder = format!("/proc/{pid}/task");
        let mut threads = Vec::new();
        for thread in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
            let thread = thread?;
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            let id = thread.file_name().to_string_lossy().parse();
            if let (true, Ok(id)) = (name.starts_with(WORKER), id) {
                threads.push((name.trim_end().to_owned(), id));
            }
        }
        threads.sort();
        ensure!(
            threads.len() == 2,
            "the node has {} workers, not two",
            threads.len()
        );
        Ok(threads)
    }

    fn pid(&self) -> anyhow::Result<u32> {
        daemon(&self.lab)?.pid().context("the daemon does not run")
    }

    /// Starts sending from this core, so many packets a second or as many as go.
    ///
    /// # Errors
    /// When the wire's end cannot be used.
    pub(super) fn send(&self, core: Option<usize>, rate: Option<u64>) -> anyhow::Result<Sender> {
        let options = SenderOptions {
            place: far_end(&self.lab),
            queue: QueueId(0),
            core,
            batch: SEND_BATCH,
            rate,
            packets: None,
            order: Order::Random,
        };
        Ok(Sender::start(self.template.clone(), &options)?)
    }

    /// All counters.
    ///
    /// # Errors
    /// When the node does not answer.
    pub(super) fn read(&self) -> anyhow::Result<Reading> {
        let delivered = self.delivered()?;
        let mut times = thread_times(self.pid()?)?;
        times.retain(|(name, _)| name.starts_with(WORKER));
        times.sort_by(|(one, _), (other, _)| one.cmp(other));
        let stats = daemon(&self.lab)?.json(&["stats"])?;
        let workers = stats.get("workers").and_then(Value::as_array);
        let sum = |pointer: &str| {
            let all = workers.into_iter().flatten();
            all.filter_map(|worker| worker.pointer(pointer).and_then(Value::as_u64))
                .sum()
        };
        Ok(Reading {
            delivered,
            times: times.into_iter().map(|(_, time)| time).collect(),
            shared: sum("/spread_in"),
            full: sum("/dropped/spread_full"),
            transmitted: sum("/transmitted"),
        })
    }

    fn delivered(&self) -> anyhow::Result<u64> {
        if let Some(sink) = &self.sink {
            return Ok(sink.packets()?);
        }
        let place = pod_end(&self.lab)?;
        let text =
            self.lab
                .pod(POD)?
                .namespace()
                .ip(&["-json", "-statistics", "link", "show", &place.interface])?;
        let links: Value = serde_json::from_str(&text).context("`ip` printed something else than JSON")?;
        let packets = links.pointer("/0/stats64/rx/packets").and_then(Value::as_u64);
        packets.context("the pod's interface counts nothing")
    }
}

fn daemon(lab: &Lab) -> anyhow::Result<&Daemon> {
    lab.node(NODE)?.daemon().context("the node runs no daemon")
}

/// IP-in-IP from the peer: UDP of so many flows, from a pod of its to the pod here.
fn template(lab: &Lab, port: u16, flows: u32, frame_len: usize) -> anyhow::Result<Template> {
    let (node, peer) = (lab.node(NODE)?.plan(), NodePlan::of(PEER_PLACE)?);
    let space = FlowSpace {
        sources: AddressRange::one(peer.free_pod_address(&[])?),
        destinations: AddressRange::one(lab.pod(POD)?.address()),
        source_ports: PortRange::new(FIRST_PORT, u16::MAX).context("no ports")?,
        destination_ports: PortRange::one(port),
    };
    let mac = |Mac(octets): Mac| MacAddr::from(octets);
    let shape = Shape {
        link: Link {
            source: mac(peer.uplink_mac()),
            destination: mac(node.uplink_mac()),
        },
        outer: Some(Outer {
            source: peer.underlay_address(),
            destination: node.underlay_address(),
            tunnel: Tunnel::Ipip,
        }),
        flows: Flows::new(space, flows)?,
        frame_len,
        run: 0,
    };
    Ok(Template::new(&shape)?)
}
