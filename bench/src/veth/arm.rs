//! What is compared: three nodes, each in a lab of its own, that forward the same packets in their own way.
//!
//! Packets go from a pod's namespace over its veth to node-a, and from there over the underlay's veth towards node-b.
//! Where they arrive on the far end of that wire, in the rack, they are counted and dropped before the rack's bridge.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_dataplane::port::QueueId;
use millrace_dataplane::xdp::XdpMode;
use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{
    Lab, MillraceOptions, NodeKind, POD_BRIDGE, POD_INTERFACE, Process, Signal, Topology, Wire, wait_until,
};
use millrace_tools::pktgen::{
    Order, Place, Received, Receiver, ReceiverOptions, Sender, SenderOptions, Sink, Template,
};
use serde_json::Value;

use super::processor::{CoreTime, process_time};
use super::quota::Quota;
use super::setting::{beside_this_program, core_mask, fix_neighbour, template};

/// Who sends, and where the node under test is.
pub(super) const POD: &str = "pod-a1";
pub(super) const NODE: &str = "node-a";
/// Whom it sends to.
pub(super) const PEER: &str = "node-b";
pub(super) const PEER_POD: &str = "pod-b1";

/// How many flows are sent, each packet's drawn at random.
pub(super) const FLOWS: u32 = 1024;
/// The flows' first source port and their destination port (discard).
pub(super) const FIRST_PORT: u16 = 1024;
pub(super) const DESTINATION_PORT: u16 = 9;
/// Packets that show that an arm does its work, and how many of them per second.
const TRIAL_PACKETS: u64 = 2000;
const TRIAL_RATE: u64 = 10_000;
/// How often that is tried: a machine with other work may lose a packet before the node sees it.
const TRIALS: u32 = 3;
/// How long something may take to come about.
const PATIENCE: Duration = Duration::from_secs(10);
/// Packets per read of the sending socket.
const SEND_BATCH: usize = 64;

/// What stands on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `millrace-forward`: everything from one interface to the other.
    Forwarder,
    /// `millrace run`: the whole switch, which wraps everything into VXLAN.
    Switch,
    /// The kernel's own forwarding and vxlan device, as flannel sets it up.
    Kernel,
}

impl Kind {
    /// All of them, in the order they are measured in.
    pub(super) const ALL: [Self; 3] = [Self::Forwarder, Self::Switch, Self::Kernel];

    /// Its key in the summary.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Forwarder => "forwarder",
            Self::Switch => "switch",
            Self::Kernel => "kernel",
        }
    }

    /// Whether its packets leave in VXLAN.
    fn wraps(self) -> bool {
        self != Self::Forwarder
    }
}

/// Which cores there are to use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cores {
    /// The node under test.
    pub(super) node: usize,
    /// The generator.
    pub(super) generator: usize,
}

/// What the process under test says of its batches since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batches {
    /// Packets received.
    pub(super) packets: u64,
    /// In so many batches.
    pub(super) count: u64,
}

/// One node under test. Dropping it takes its lab down.
pub(super) struct Arm {
    // The order of the fields is the order in which an arm ends; a control group must be empty to be removed.
    sink: Option<Sink>,
    forwarder: Option<Process>,
    lab: Lab,
    quota: Option<Quota>,
    kind: Kind,
    cores: Cores,
    template: Template,
}

impl Arm {
    /// Sets the node up and makes sure that it forwards every packet as it should.
    ///
    /// # Errors
    /// When a lab cannot be made, a program is missing, or a packet does not arrive as it should.
    pub(super) fn bring_up(kind: Kind, cores: Cores, frame_len: usize) -> anyhow::Result<Self> {
        let node = if kind == Kind::Switch {
            NodeKind::Millrace
        } else {
            NodeKind::Stock
        };
        let mut topology = Topology::of(&[node, NodeKind::Stock]);
        topology.pods_per_node = 1;
        topology.wire = Wire {
            queues: 1,
            ..Wire::default()
        };
        topology.millrace = MillraceOptions {
            cores: vec![cores.node],
            ..MillraceOptions::default()
        };
        let lab = Lab::bring_up(&format!("bench-{}", kind.name()), &topology)?;
        fix_neighbour(&lab)?;
        let template = template(&lab, frame_len)?;
        let mut arm = Self {
            sink: None,
            forwarder: None,
            lab,
            quota: None,
            kind,
            cores,
            template,
        };
        match kind {
            Kind::Forwarder => arm.forwarder = Some(arm.start_forwarder()?),
            Kind::Switch => arm.await_tunnel()?,
            Kind::Kernel => arm.steer_to_core()?,
        }
        arm.prove()?;
        let pids: Vec<u32> = arm.pid().into_iter().collect();
        if !pids.is_empty() {
            arm.quota = Some(Quota::new(kind.name(), &pids)?);
        }
        arm.sink = Some(Sink::attach(&arm.far_end(), XdpMode::Auto)?);
        Ok(arm)
    }

    /// What stands on the node.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Gives the process under test so many hundredths of its core. The kernel has no process, and no limit.
    ///
    /// # Errors
    /// When the control group does not take it.
    pub(super) fn limit(&self, percent: u32) -> anyhow::Result<()> {
        self.quota.as_ref().map_or(Ok(()), |quota| quota.set(percent))
    }

    /// Starts sending as fast as it goes.
    ///
    /// # Errors
    /// When the pod's interface cannot be used.
    pub(super) fn start_sender(&self) -> anyhow::Result<Sender> {
        self.sender(None, None)
    }

    /// Packets that arrived at the far end of the underlay's wire.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub(super) fn delivered(&self) -> anyhow::Result<u64> {
        Ok(self.sink.as_ref().context("the arm is not up yet")?.packets()?)
    }

    /// The processor time, in seconds, that the node's work has taken so far: of its process, or for the kernel of the
    /// core it was steered to.
    ///
    /// # Errors
    /// When the process has ended.
    pub(super) fn time(&self) -> anyhow::Result<f64> {
        match self.pid() {
            Some(pid) => process_time(pid),
            None => Ok(CoreTime::of(self.cores.node)?.interrupts),
        }
    }

    /// How the process under test has taken its packets so far; nothing for the kernel.
    ///
    /// # Errors
    /// When the process does not answer.
    pub(super) fn batches(&mut self) -> anyhow::Result<Option<Batches>> {
        match self.kind {
            Kind::Forwarder => self.forwarder_batches().map(Some),
            Kind::Switch => self.switch_batches().map(Some),
            Kind::Kernel => Ok(None),
        }
    }

    /// The process under test, if it is one.
    fn pid(&self) -> Option<u32> {
        match self.kind {
            Kind::Forwarder => self.forwarder.as_ref().map(Process::pid),
            Kind::Switch => self.lab.node(NODE).ok()?.daemon()?.pid(),
            Kind::Kernel => None,
        }
    }

    /// The rack's end of the node's wire.
    fn far_end(&self) -> Place {
        Place::inside(NODE, self.lab.switch().namespace().name())
    }

    fn sender(&self, rate: Option<u64>, packets: Option<u64>) -> anyhow::Result<Sender> {
        let pod = self.lab.pod(POD)?;
        let options = SenderOptions {
            place: Place::inside(POD_INTERFACE, pod.namespace().name()),
            queue: QueueId(0),
            core: Some(self.cores.generator),
            batch: SEND_BATCH,
            rate,
            packets,
            order: Order::Random,
        };
        Ok(Sender::start(self.template.clone(), &options)?)
    }

    /// The node's interface towards the pod, of a stock node.
    fn pod_port(&self) -> anyhow::Result<String> {
        let text = self
            .lab
            .node(NODE)?
            .namespace()
            .ip(&["-json", "link", "show", "master", POD_BRIDGE])?;
        let links: Value = serde_json::from_str(&text).context("`ip` printed something else than JSON")?;
        let name = links.pointer("/0/ifname").and_then(Value::as_str);
        Ok(name.context("the pod's bridge has no port")?.to_owned())
    }

    fn forwarder_log(&self) -> PathBuf {
        self.lab.folder().join("forwarder.log")
    }

    fn start_forwarder(&self) -> anyhow::Result<Process> {
        let peer = self.lab.node(PEER)?.plan().uplink_mac().to_string();
        let (port, core) = (self.pod_port()?, self.cores.node.to_string());
        let mut line = self
            .lab
            .node(NODE)?
            .namespace()
            .command(beside_this_program("millrace-forward")?);
        line.args([
            "--left",
            &port,
            "--right",
            UPLINK,
            "--right-peer",
            &peer,
            "--core",
            &core,
        ]);
        let mut process = Process::spawn(line, &self.forwarder_log())?;
        wait_until("a forwarder that is ready", PATIENCE, || {
            process.check_running()?;
            Ok(fs::read_to_string(self.forwarder_log()).is_ok_and(|log| log.contains("ready")))
        })?;
        Ok(process)
    }

    fn forwarder_batches(&mut self) -> anyhow::Result<Batches> {
        let log = self.forwarder_log();
        let reports = |log: &Path| {
            let text = fs::read_to_string(log).unwrap_or_default();
            text.lines()
                .filter(|line| line.starts_with('{'))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let before = reports(&log).len();
        let process = self.forwarder.as_mut().context("the forwarder is not up yet")?;
        process.signal(Signal::USR1)?;
        // A forwarder that sleeps looks for signals when it wakes, which is at once.
        wait_until("a report of the forwarder", PATIENCE, || {
            process.check_running()?;
            Ok(reports(&log).len() > before)
        })?;
        let last = reports(&log).pop().unwrap_or_default();
        let totals: Value =
            serde_json::from_str(&last).context("the forwarder printed something else than JSON")?;
        let field = |name| {
            totals
                .get(name)
                .and_then(Value::as_u64)
                .with_context(|| format!("no {name} in {last}"))
        };
        Ok(Batches {
            packets: field("received")?,
            count: field("turns")? - field("idle_turns")?,
        })
    }

    fn switch_batches(&self) -> anyhow::Result<Batches> {
        let daemon = self.lab.node(NODE)?.daemon().context("the node runs no daemon")?;
        let stats = daemon.json(&["stats"])?;
        let number = |pointer: &str| {
            stats
                .pointer(pointer)
                .and_then(Value::as_u64)
                .with_context(|| format!("no {pointer} in the switch's stats"))
        };
        Ok(Batches {
            packets: number("/workers/0/received")?,
            count: number("/workers/0/batch_packets/count")?,
        })
    }

    /// Waits until the switch can send to its peer.
    fn await_tunnel(&self) -> anyhow::Result<()> {
        let daemon = self.lab.node(NODE)?.daemon().context("the node runs no daemon")?;
        Ok(wait_until("a tunnel to the peer", PATIENCE, || {
            let peers = daemon.json(&["show", "peers"])?;
            let rows = peers
                .as_array()
                .or_else(|| peers.get("peers").and_then(Value::as_array));
            let is_ready = |row: &Value| row.get("ready").and_then(Value::as_bool) == Some(true);
            Ok(rows.is_some_and(|rows| !rows.is_empty() && rows.iter().all(is_ready)))
        })?)
    }

    /// Has the kernel do all work on the pod's packets on the core under test (`Documentation/networking/scaling.rst`).
    fn steer_to_core(&self) -> anyhow::Result<()> {
        let file = format!("/sys/class/net/{}/queues/rx-0/rps_cpus", self.pod_port()?);
        let line = format!("echo {} > {file}", core_mask(self.cores.node));
        self.lab.node(NODE)?.namespace().run("sh", &["-c", &line])?;
        Ok(())
    }

    /// Makes sure, in one of a few trials, that the node does its work.
    fn prove(&self) -> anyhow::Result<()> {
        for _ in 1..TRIALS {
            if self.try_out().is_ok() {
                return Ok(());
            }
        }
        self.try_out()
    }

    /// Sends some packets slowly; each is to arrive whole, and wrapped if it is to be.
    fn try_out(&self) -> anyhow::Result<()> {
        let options = ReceiverOptions {
            place: self.far_end(),
            core: None,
            mode: XdpMode::Auto,
            run: None,
        };
        let receiver = Receiver::start(&options)?;
        let sender = self.sender(Some(TRIAL_RATE), Some(TRIAL_PACKETS))?;
        wait_until("the end of the trial", PATIENCE, || Ok(sender.is_done()))?;
        let sent = sender.stop()?;
        let arrived = || receiver.received().packets >= sent.packets;
        // What does not arrive is told below, with what did.
        let _ = wait_until("every packet of the trial", Duration::from_secs(1), || {
            Ok(arrived())
        });
        let received = receiver.stop()?;
        let Received {
            packets,
            vxlan,
            corrupt,
            ..
        } = received;
        let wrapped = if self.kind.wraps() { packets } else { 0 };
        ensure!(
            packets == sent.packets && packets == TRIAL_PACKETS && vxlan == wrapped && corrupt == 0,
            "the {} does not do its work: of {} packets sent, {received:?}",
            self.kind.name(),
            sent.packets
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_written_as_the_kernel_reads_them() {
        for (core, mask) in [
            (0, "00000001"),
            (1, "00000002"),
            (31, "80000000"),
            (32, "00000001,00000000"),
            (70, "00000040,00000000,00000000"),
        ] {
            assert_eq!(core_mask(core), mask);
        }
    }
}
