//! What `millrace stats` says of a worker's load, while so much of what it can take is sent.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_dataplane::port::QueueId;
use millrace_tools::lab::POD_INTERFACE;
use millrace_tools::pktgen::{
    AddressRange, FlowSpace, Flows, Order, Place, PortRange, Sender, SenderOptions, Shape, Template,
};
use serde_json::{Map, Value, json};

use super::node::{Idle, Node, TO};
use super::{WORKER, wait};
use crate::arms::{POD, link_out, thread_times};
use crate::statistics::{median, rounded};

/// A worker that is so busy, in thousandths of the time that it was given, is the bottleneck even if it forwards all that the sender has.
const BUSY: f64 = 950.0;

/// What is sent of what the worker can take, in hundredths.
const SHARES: [u32; 4] = [0, 10, 50, 90];
/// How long it is sent before anything is read: a load is that of a whole second, and a worker that slept may have
/// told of the one before.
const WARM_UP: Duration = Duration::from_millis(1500);
/// How long packets are counted, at the end of which the load is read.
const WINDOW: Duration = Duration::from_secs(2);
/// A worker that is sent more than it can take says at least so many thousandths of the time that it was given: another
/// program on its core may take some.
const SATURATED_PERMILLE: f64 = 900.0;
/// One that is sent a tenth of that, or less, says less than so many. From half on there is little to tell: the fewer
/// packets wait, the fewer there are in a batch, and the more each of them costs.
const UNHURRIED_PERMILLE: f64 = 500.0;
const UNHURRIED_SHARE: u32 = 10;
/// So much less a load may be than at a lower rate before it counts as less.
const TOLERANCE_PERMILLE: f64 = 20.0;
/// Packets in one go of the sender.
const SEND_BATCH: usize = 64;
/// Flows, each packet's drawn at random, and their first source port.
const FLOWS: u32 = 1024;
const FIRST_PORT: u16 = 1024;
/// Bytes of a frame.
const FRAME_LEN: usize = 64;

/// A rate, and what was seen at it.
pub(super) struct Load {
    /// Hundredths of what the worker can take; `None` for more than that.
    share: Option<u32>,
    seen: Vec<Seen>,
}

/// What was seen in one window.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Packets sent and forwarded, per second.
    offered: f64,
    forwarded: f64,
    permille: f64,
    /// The share of its core's time that the worker was given.
    given: f64,
}

impl Load {
    fn median(&self, of: impl Fn(&Seen) -> f64) -> f64 {
        median(&self.seen.iter().map(of).collect::<Vec<_>>())
    }

    /// Its key in the summary.
    fn name(&self) -> String {
        self.share.map_or("flood".to_owned(), |share| share.to_string())
    }
}

/// The node, and who sends.
struct Stand {
    node: Node,
    /// Never read: who is behind it has the kernel take every packet to its socket and drop it there, on the worker's time.
    _sink: UdpSocket,
    template: Template,
    core: usize,
}

/// Finds out what the worker can take, then sends shares of it.
///
/// # Errors
/// When the node cannot be set up or is not the bottleneck.
pub(super) fn measure(rounds: u32, core: usize, generator_core: usize) -> anyhow::Result<Vec<Load>> {
    let stand = Stand::new(core, generator_core)?;
    let mut loads: Vec<Load> = SHARES
        .into_iter()
        .map(Some)
        .chain([None])
        .map(|share| Load {
            share,
            seen: Vec::new(),
        })
        .collect();
    for _ in 0..rounds {
        let flood = stand.send(None)?;
        ensure!(
            flood.forwarded < flood.offered * 0.98 || flood.permille >= BUSY * flood.given.min(1.0),
            "the sender is too slow to make the worker the bottleneck: {flood:?}"
        );
        for load in &mut loads {
            let seen = match load.share {
                None => flood,
                Some(share) => {
                    // INVARIANT: a rate of packets.
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    let rate = (flood.forwarded * f64::from(share) / 100.0) as u64;
                    stand.send(Some(rate))?
                }
            };
            load.seen.push(seen);
        }
    }
    Ok(loads)
}

/// Prints the loads and puts them into `figures`.
pub(super) fn show(loads: &[Load], figures: &mut Map<String, Value>) {
    println!(
        "{:<14}{:>14}{:>14}{:>18}",
        "% of capacity", "offered/s", "forwarded/s", "load, thousandths"
    );
    for load in loads {
        let (offered, forwarded, permille) = (
            load.median(|seen| seen.offered),
            load.median(|seen| seen.forwarded),
            load.median(|seen| seen.permille),
        );
        println!(
            "{:<14}{offered:>14.0}{forwarded:>14.0}{permille:>18.0}",
            load.name()
        );
        let figure = json!({
            "offered_per_second": rounded(offered, 0),
            "forwarded_per_second": rounded(forwarded, 0),
            "load_permille": rounded(permille, 0),
            "core_share": rounded(load.median(|seen| seen.given), 4),
        });
        figures.insert(format!("idle/load/{}", load.name()), figure);
    }
}

/// Makes sure that a load means something.
///
/// # Errors
/// When more packets are less load, or a worker that has time left says it has none, or the other way round.
pub(super) fn judge(loads: &[Load]) -> anyhow::Result<()> {
    let mut before = 0.0;
    for load in loads {
        let permille = load.median(|seen| seen.permille);
        let name = load.name();
        ensure!(
            permille >= before - TOLERANCE_PERMILLE,
            "a load of {permille:.0} thousandths at `{name}` is less than at a lower rate: {before:.0}"
        );
        match load.share {
            None => {
                let least = SATURATED_PERMILLE * load.median(|seen| seen.given).min(1.0);
                ensure!(
                    permille >= least,
                    "a load of {permille:.0} thousandths of a worker that is sent more than it can take; \
                     at least {least:.0} would be right"
                );
            }
            Some(share) if share <= UNHURRIED_SHARE => ensure!(
                permille < UNHURRIED_PERMILLE,
                "a load of {permille:.0} thousandths of a worker that is sent {share} % of what it can take; \
                 less than {UNHURRIED_PERMILLE} would be right"
            ),
            Some(_) => {}
        }
        before = permille;
    }
    Ok(())
}

impl Stand {
    fn new(core: usize, generator_core: usize) -> anyhow::Result<Self> {
        let node = Node::bring_up("idle-load", Idle::Sleep, vec![core])?;
        let sink = node.socket(TO)?;
        let lab = node.lab();
        let (from, to) = (lab.pod(POD)?, lab.pod(TO)?);
        let space = FlowSpace {
            sources: AddressRange::one(from.address()),
            destinations: AddressRange::one(to.address()),
            source_ports: PortRange::new(FIRST_PORT, u16::MAX).context("no ports")?,
            destination_ports: PortRange::one(sink.local_addr()?.port()),
        };
        let shape = Shape {
            link: link_out(lab)?,
            outer: None,
            flows: Flows::new(space, FLOWS)?,
            frame_len: FRAME_LEN,
            run: 0,
        };
        let template = Template::new(&shape)?;
        Ok(Self {
            node,
            _sink: sink,
            template,
            core: generator_core,
        })
    }

    /// Sends so many packets a second for a while; `None` for as many as go.
    fn send(&self, rate: Option<u64>) -> anyhow::Result<Seen> {
        let sender = if rate == Some(0) {
            None
        } else {
            Some(self.sender(rate)?)
        };
        wait(WARM_UP)?;
        let sent = || sender.as_ref().map_or(0, |sender| sender.sent().packets);
        let (began, sent_before, before) = (std::time::Instant::now(), sent(), self.forwarded()?);
        let worked_before = self.worked()?;
        wait(WINDOW)?;
        let worked = self.worked()? - worked_before;
        let stats = self.node.stats()?;
        let (seconds, sent_after) = (began.elapsed().as_secs_f64(), sent());
        let after = number(&stats, "/workers/0/transmitted")?;
        if let Some(sender) = sender {
            sender.stop()?;
        }
        // INVARIANT: counts of packets are far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let per_second = |count: u64| count as f64 / seconds;
        Ok(Seen {
            offered: per_second(sent_after - sent_before),
            forwarded: per_second(after - before),
            permille: f64::from(u32::try_from(number(&stats, "/workers/0/load_permille")?)?),
            given: worked / WINDOW.as_secs_f64(),
        })
    }

    fn forwarded(&self) -> anyhow::Result<u64> {
        number(&self.node.stats()?, "/workers/0/transmitted")
    }

    /// The processor time that the worker has had so far, in seconds.
    fn worked(&self) -> anyhow::Result<f64> {
        let times = thread_times(self.node.pid()?)?;
        let workers = times.iter().filter(|(name, _)| name.starts_with(WORKER));
        Ok(workers.map(|(_, seconds)| seconds).sum())
    }

    fn sender(&self, rate: Option<u64>) -> anyhow::Result<Sender> {
        let pod = self.node.lab().pod(POD)?;
        let options = SenderOptions {
            place: Place::inside(POD_INTERFACE, pod.namespace().name()),
            queue: QueueId(0),
            core: Some(self.core),
            batch: SEND_BATCH,
            rate,
            packets: None,
            order: Order::Random,
        };
        Ok(Sender::start(self.template.clone(), &options)?)
    }
}

fn number(stats: &Value, pointer: &str) -> anyhow::Result<u64> {
    let found = stats.pointer(pointer).and_then(Value::as_u64);
    found.with_context(|| format!("no {pointer} in the switch's stats"))
}
