//! A subject in a lab of its own, between a generator's two ends.

use std::time::Duration;

use anyhow::Context;
use millrace_dataplane::port::QueueId;
use millrace_dataplane::wire::{EthernetMut, MacAddr};
use millrace_dataplane::xdp::XdpMode;
use millrace_tools::lab::{Lab, MillraceOptions, NodeKind, Topology, Wire, wait_until};
use millrace_tools::pktgen::{
    Binding, Entry, Exit, Mix, Order, Place, Replay, Sender, SenderOptions, Sending, Session, Setup, Sink,
    Template, Traffic,
};
use serde_json::Value;

use super::catch::Catcher;
use super::setting::{far_end, fix_neighbours, link_out, pod_end, template};
use super::share::Share;
use super::{Batches, Calls, Cores, Direction, NODE, Subject, Turns, Work};

/// How many packets per second show that a subject does its work.
const TRIAL_RATE: u64 = 10_000;
/// How long is waited for the next packet of a trial.
const PATIENCE: Duration = Duration::from_millis(500);
/// Packets per read of the sending socket.
const SEND_BATCH: usize = 64;
/// All of a core, in hundredths.
const WHOLE: u32 = 100;
/// Runs are told apart by it.
const RUN: u16 = 0;

/// A subject on its node. Dropping it takes its lab down.
pub(crate) struct Bed {
    // The order of the fields is the order in which a bed ends.
    subject: Box<dyn Subject>,
    lab: Lab,
    /// Hundredths of its core that the subject has while it is measured.
    share_percent: u32,
    cores: Cores,
    pub(super) out: Template,
    /// The answers to the first packet of each flow, once there are any.
    pub(super) back: Option<Replay>,
}

impl Bed {
    /// Sets a node up for the subject, and makes sure that every flow's packets come out, and their answers back.
    ///
    /// # Errors
    /// When a lab cannot be made, the subject does not start, or a packet does not come out as it should.
    pub(crate) fn bring_up(subject: Box<dyn Subject>, cores: Cores, calls: &Calls) -> anyhow::Result<Self> {
        let name = subject.name().to_owned();
        Self::try_bring_up(subject, cores, calls).with_context(|| format!("cannot set up the {name}"))
    }

    fn try_bring_up(mut subject: Box<dyn Subject>, cores: Cores, calls: &Calls) -> anyhow::Result<Self> {
        let mut topology = Topology::of(&[subject.node(), NodeKind::Stock]);
        topology.pods_per_node = 1;
        topology.wire = Wire {
            queues: 1,
            ..Wire::default()
        };
        topology.millrace = subject.options(MillraceOptions {
            cores: vec![cores.node],
            ..MillraceOptions::default()
        });
        let lab = Lab::bring_up(&format!("bench-{}", subject.name()), &topology)?;
        fix_neighbours(&lab)?;
        let link = link_out(&lab)?;
        let out = template(&lab, link, calls)?;
        // What leaves the node ends there; its peer, which could answer, is not reached.
        lab.switch().namespace().ip(&["link", "set", NODE, "nomaster"])?;
        subject.set_up(&lab, cores)?;
        let mut bed = Self {
            subject,
            lab,
            share_percent: WHOLE,
            cores,
            out,
            back: None,
        };
        bed.meet()?;
        Ok(bed)
    }

    /// The subject's name.
    pub(crate) fn name(&self) -> &str {
        self.subject.name()
    }

    /// What the subject does with packets.
    pub(crate) fn work(&self) -> Work {
        self.subject.work()
    }

    /// What else is to be known of the subject.
    pub(crate) fn facts(&self) -> Value {
        self.subject.facts()
    }

    /// The lab.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The lab, to be changed.
    pub(crate) fn lab_mut(&mut self) -> &mut Lab {
        &mut self.lab
    }

    /// Whether its share of a core can be limited: the kernel forwards in whatever runs there.
    pub(crate) fn is_limited(&self) -> bool {
        !self.subject.pids(&self.lab).is_empty()
    }

    /// From now on the subject has so many hundredths of its core while it is measured. The kernel has no limit.
    pub(crate) fn limit(&mut self, percent: u32) {
        self.share_percent = percent;
    }

    /// Takes the rest of the core away from the subject until that is dropped.
    pub(super) fn confine(&self) -> anyhow::Result<Option<Share>> {
        let is_confined = self.is_limited() && self.share_percent < WHOLE;
        is_confined
            .then(|| Share::leave(self.cores.node, self.share_percent))
            .transpose()
    }

    /// Gives the subject the generator's core too, or takes it away again.
    ///
    /// # Errors
    /// When it keeps to one.
    pub(crate) fn spread(&mut self, is_on_both: bool) -> anyhow::Result<()> {
        self.subject.spread(&self.lab, self.cores, is_on_both)
    }

    /// Lets the subject rest while others are measured, or wakes it.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn rest(&mut self, is_resting: bool) -> anyhow::Result<()> {
        self.subject.rest(is_resting)
    }

    /// The processor time, in seconds, that the subject's work has taken so far.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn time(&self) -> anyhow::Result<f64> {
        self.subject.time(&self.lab, self.cores)
    }

    /// How the subject has taken its packets so far; nothing if it does not know.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn batches(&mut self) -> anyhow::Result<Option<Batches>> {
        self.subject.batches(&self.lab)
    }

    /// Where packets of a direction come in.
    ///
    /// # Errors
    /// When the pod is gone.
    fn entry(&self, direction: Direction) -> anyhow::Result<Place> {
        match direction {
            Direction::Out => pod_end(&self.lab),
            Direction::Back => Ok(far_end(&self.lab)),
        }
    }

    /// Where they come out.
    ///
    /// # Errors
    /// When the pod is gone.
    fn exit(&self, direction: Direction) -> anyhow::Result<Place> {
        self.entry(match direction {
            Direction::Out => Direction::Back,
            Direction::Back => Direction::Out,
        })
    }

    /// The addresses of the link that the pod sends by.
    pub(crate) fn link(&self) -> (MacAddr, MacAddr) {
        let mut bytes = self.out.bytes().to_vec();
        // INVARIANT: a template is a whole frame.
        let read = EthernetMut::parse(&mut bytes)
            .map(|ethernet| (ethernet.view().source(), ethernet.view().destination()));
        read.unwrap_or((MacAddr::ZERO, MacAddr::ZERO))
    }

    /// What is sent in a direction.
    ///
    /// # Errors
    /// When it is not known yet what answers look like.
    pub(super) fn traffic(&self, direction: Direction) -> anyhow::Result<Traffic> {
        match direction {
            Direction::Out => Ok(Traffic::Mix(Mix::one(self.out.clone()))),
            Direction::Back => {
                let back = self.back.clone().context("no packet has come out yet")?;
                Ok(Traffic::Replay(back))
            }
        }
    }

    fn sender(
        &self,
        direction: Direction,
        traffic: Traffic,
        limits: (Option<u64>, Option<u64>),
        order: Order,
    ) -> anyhow::Result<Sender> {
        let (rate, packets) = limits;
        let options = SenderOptions {
            place: self.entry(direction)?,
            queue: QueueId(0),
            core: Some(self.cores.generator),
            batch: SEND_BATCH,
            rate,
            packets,
            order,
        };
        Ok(Sender::start_traffic(traffic, RUN, &options)?)
    }

    /// Starts sending as fast as it goes, flows drawn at random.
    ///
    /// # Errors
    /// When an interface cannot be used.
    pub(crate) fn start_sender(&self, direction: Direction) -> anyhow::Result<Sender> {
        self.sender(direction, self.traffic(direction)?, (None, None), Order::Random)
    }

    /// Counts, and drops, what comes out.
    ///
    /// # Errors
    /// When an interface cannot be used.
    pub(crate) fn sink(&self, direction: Direction) -> anyhow::Result<Sink> {
        Ok(Sink::attach(&self.exit(direction)?, XdpMode::Auto)?)
    }

    /// A generator for one run after the other in a direction. The kernel counts and drops what comes out.
    ///
    /// # Errors
    /// When an interface cannot be used.
    pub(crate) fn session(&self, direction: Direction) -> anyhow::Result<Session> {
        let send = Sending {
            exit: Exit::Interface {
                place: self.entry(direction)?,
                queues: vec![QueueId(0)],
                binding: Binding::Copy,
            },
            cores: vec![self.cores.generator],
            batch: SEND_BATCH,
            traffic: self.traffic(direction)?,
            order: Order::Random,
        };
        Ok(Session::open(Setup {
            send: Some(send),
            receive: Some(Entry::Drop(self.exit(direction)?, XdpMode::Auto)),
            memory_core: None,
            is_promiscuous: false,
        })?)
    }

    /// A generator for latency, of packets that go out.
    ///
    /// # Errors
    /// When an interface cannot be used.
    pub(crate) fn turns(&self) -> anyhow::Result<Turns> {
        let (from, to) = (self.entry(Direction::Out)?, self.exit(Direction::Out)?);
        Turns::open(&from, &to, self.out.clone())
    }

    /// The core of who is tested.
    pub(crate) fn core(&self) -> usize {
        self.cores.node
    }

    /// The generator's core.
    pub(crate) fn generator_core(&self) -> usize {
        self.cores.generator
    }

    /// Sends frames slowly, as they are, and answers what comes out, as it is. It waits for `expected` frames, or until none
    /// has come for a while.
    ///
    /// # Errors
    /// When an interface cannot be used.
    pub(crate) fn exchange(
        &self,
        direction: Direction,
        frames: Vec<Vec<u8>>,
        expected: usize,
    ) -> anyhow::Result<Vec<Vec<u8>>> {
        let replay = Replay::from_frames(frames, false);
        let count = replay.len() as u64;
        self.caught(
            direction,
            Traffic::Replay(replay),
            count,
            (expected, Order::RoundRobin),
        )
    }

    /// Sends slowly, and answers what comes out.
    pub(super) fn caught(
        &self,
        direction: Direction,
        traffic: Traffic,
        packets: u64,
        (expected, order): (usize, Order),
    ) -> anyhow::Result<Vec<Vec<u8>>> {
        let mut catcher = Catcher::at(&self.exit(direction)?)?;
        let sender = self.sender(direction, traffic, (Some(TRIAL_RATE), Some(packets)), order)?;
        let mut caught = catcher.take(expected, PATIENCE)?;
        wait_until("the end of a trial", PATIENCE * 10, || Ok(sender.is_done()))?;
        if caught.len() < expected {
            caught.extend(catcher.take(expected - caught.len(), PATIENCE)?);
        }
        sender.stop()?;
        Ok(caught)
    }
}
