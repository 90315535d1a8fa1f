//! What is compared between real interfaces, and what all of it shares: a node under test between a generator's two ends.
//!
//! ```text
//!   pod-a1's namespace        node-a's namespace            the rack's namespace
//!   eth0 ------- veth ------- what is tested ------ veth ------ node-a
//!   generator, Out        a Subject, on its core       generator, Back
//! ```
//!
//! A [`Subject`] is what stands on the node. A [`Bed`] puts it there, in a lab of its own, knows what the pod calls
//! ([`Calls`]), shows that every packet comes out, learns from that what the answers look like, and sends and counts in
//! either [`Direction`]. A [`Window`] is what it did in some seconds; [`Bed::exchange`] shows the frames themselves. While nobody
//! catches or counts at an end, what leaves there goes nowhere: the rack's end of the wire is in no bridge.

mod answers;
mod bed;
mod catch;
mod forwarder;
mod kernel;
mod measured;
mod meet;
mod openvswitch;
mod processor;
mod setting;
mod share;
mod signals;
mod switch;
mod turns;
mod window;

use millrace_tools::lab::{Lab, MillraceOptions, NodeKind};
use millrace_tools::pktgen::{AddressRange, check_core};
use serde_json::Value;

pub(crate) use answers::answer;
pub(crate) use bed::Bed;
pub(crate) use forwarder::Forwarder;
pub(crate) use kernel::{Kernel, Ruleset};
pub(crate) use measured::{Measured, afloat, find_share};
pub(crate) use openvswitch::{OpenVSwitch, POD_NUMBER, Rules, TUNNEL_NUMBER, ZONE};
pub(crate) use processor::{machine_busy, thread_times};
pub(crate) use setting::{far_end, fix_neighbours, link_out, pod_end};
pub(crate) use signals::heed_signals;
pub(crate) use switch::{Objects, Switch};
pub(crate) use turns::Turns;
pub(crate) use window::{Window, wait};

/// Who sends, and where the node under test is.
pub(crate) const POD: &str = "pod-a1";
pub(crate) const NODE: &str = "node-a";
pub(crate) const NODE_PLACE: usize = 0;
/// Where it sends to.
pub(crate) const PEER: &str = "node-b";
pub(crate) const PEER_PLACE: usize = 1;

/// Which cores there are to use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cores {
    /// The node under test.
    pub(crate) node: usize,
    /// The generator.
    pub(crate) generator: usize,
}

impl Cores {
    /// Two cores that there are.
    ///
    /// # Errors
    /// If one is not there, or both are the same.
    pub(crate) fn new(node: usize, generator: usize) -> anyhow::Result<Self> {
        check_core(node)?;
        check_core(generator)?;
        anyhow::ensure!(
            node != generator,
            "core {node} is named twice: who is measured and who sends, or both workers, need a core each"
        );
        Ok(Self { node, generator })
    }
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the pod to the wire.
    Out,
    /// From the wire to the pod: the answers to what went out.
    Back,
}

impl Direction {
    /// Both, in the order they are measured in.
    pub(crate) const BOTH: [Self; 2] = [Self::Out, Self::Back];

    /// Its key in the summary.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Back => "back",
        }
    }
}

/// What a subject does with a packet on its way out, and undoes on the way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// It leaves as it came, but for link addresses.
    Carry,
    /// It leaves in VXLAN.
    Wrap,
}

/// What the pod sends: UDP to so many addresses in a row, one flow after the other, each from its own source port or to
/// another address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    /// Whom it calls.
    pub(crate) destinations: AddressRange,
    /// By which port.
    pub(crate) port: u16,
    /// How many flows there are.
    pub(crate) flows: u32,
    /// Length of a frame, in bytes, without the frame check sequence.
    pub(crate) frame_len: usize,
}

/// What the subject says of its batches since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batches {
    /// Packets received.
    pub(crate) packets: u64,
    /// In so many batches.
    pub(crate) count: u64,
}

/// What stands on the node under test. The lab has one pod on it, `pod-a1`, whose packets leave by `eth1` towards `node-b`;
/// both are known to each other, and the peer's link address is a permanent neighbour.
pub(crate) trait Subject {
    /// Its key in the summary, of letters, digits and dashes, 16 at most: the lab is called after it.
    fn name(&self) -> &str;

    /// What it does with packets.
    fn work(&self) -> Work;

    /// What the lab makes of the node before [`Self::set_up`]. A stock node has the pod on a bridge, and a kernel's tunnel.
    fn node(&self) -> NodeKind {
        NodeKind::Stock
    }

    /// How a Millrace node is set up, with its worker on the core under test.
    fn options(&self, options: MillraceOptions) -> MillraceOptions {
        options
    }

    /// Starts it on the core under test, and returns once it is ready. Whatever it starts ends when it is dropped, which
    /// happens before the lab goes.
    ///
    /// # Errors
    /// When it cannot be started.
    fn set_up(&mut self, lab: &Lab, cores: Cores) -> anyhow::Result<()>;

    /// The processes that do its work, and share one core's time; none for what has none of its own.
    fn pids(&self, lab: &Lab) -> Vec<u32>;

    /// The processor time, in seconds, that its work has taken so far.
    ///
    /// # Errors
    /// When it has ended.
    fn time(&self, lab: &Lab, cores: Cores) -> anyhow::Result<f64>;

    /// How it has taken its packets so far; nothing if it does not know.
    ///
    /// # Errors
    /// When it does not answer.
    fn batches(&mut self, _lab: &Lab) -> anyhow::Result<Option<Batches>> {
        Ok(None)
    }

    /// Gives it the generator's core too, as far as it leaves time on it, or takes it away again. Only for what can be given
    /// one without a new start.
    ///
    /// # Errors
    /// When it cannot.
    fn spread(&mut self, _lab: &Lab, _cores: Cores, _is_on_both: bool) -> anyhow::Result<()> {
        anyhow::bail!("the {} keeps to one core", self.name())
    }

    /// Lets it rest while others are measured, or wakes it. Only what works when there is nothing to do need heed it.
    ///
    /// # Errors
    /// When it has ended.
    fn rest(&mut self, _is_resting: bool) -> anyhow::Result<()> {
        Ok(())
    }

    /// What else is to be known of it in the summary: how much is loaded, say.
    fn facts(&self) -> Value {
        Value::Null
    }
}
