//! Which arms there are, and how much of the machine each is given while it is measured.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::cluster::{Cluster, SERVICE_PORT};
use super::objects::objects;
use super::openflow::{self, Ends};
use super::proof::Proof;
use super::rules::ruleset;
use crate::arms::{
    Bed, Calls, Cores, Direction, Forwarder, Kernel, NODE_PLACE, OpenVSwitch, PEER_PLACE, Subject, Switch,
    Work, afloat,
};
use millrace_tools::lab::plan::NodePlan;

/// How long packets flow before anything is judged or measured.
pub(super) const WARM_UP: Duration = Duration::from_millis(300);

/// What an arm is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// So much of a core that it is the bottleneck.
    Share,
    /// The whole of it.
    Core,
    /// The generator's core too, as far as it leaves time on it.
    Both,
}

impl Given {
    /// All of them, in the order they are reported in.
    pub(super) const ALL: [Self; 3] = [Self::Share, Self::Core, Self::Both];

    /// Its key in the summary.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Share => "share",
            Self::Core => "core",
            Self::Both => "both_cores",
        }
    }
}

/// An arm, and what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    arm: usize,
    pub(super) given: Given,
}

/// An arm, and with what objects.
struct Arm {
    bed: Bed,
    cluster: Option<Cluster>,
}

/// All arms, up.
pub(super) struct Arms {
    arms: Vec<Arm>,
    /// Hundredths of a core that are [`Given::Share`].
    pub(super) share_percent: u32,
}

/// A subject, and what it is given to know; nothing for one that looks at no address.
type Entrant = (Option<Cluster>, Box<dyn Subject>);

/// The arms of a run: the forwarder, and whoever does the work, with few objects and with many. Arms are measured in this
/// order.
fn subjects(sizes: [Cluster; 2]) -> anyhow::Result<Vec<Entrant>> {
    let node = NodePlan::of(NODE_PLACE)?;
    let pod = node.free_pod_address(&[])?.to_string();
    let mut all: Vec<Entrant> = vec![(None, Box::new(Forwarder::default()))];
    for cluster in sizes {
        let name = format!("switch-{}", cluster.services);
        all.push((Some(cluster), Box::new(Switch::new(&name, objects(cluster)))));
    }
    for cluster in sizes {
        let name = format!("kernel-{}", cluster.services);
        let rules = ruleset(cluster, node, &pod);
        all.push((Some(cluster), Box::new(Kernel::new(&name, Some(rules)))));
    }
    for cluster in sizes {
        let name = format!("ovs-{}", cluster.services);
        let ends = Ends {
            node,
            peer: NodePlan::of(PEER_PLACE)?,
            pod: node.free_pod_address(&[])?,
        };
        let rules = move |pod_mac| openflow::rules(cluster, ends, pod_mac);
        all.push((Some(cluster), Box::new(OpenVSwitch::new(&name, rules))));
    }
    Ok(all)
}

impl Arms {
    /// Sets all arms up, each with its own lab.
    ///
    /// # Errors
    /// When one cannot be set up, or does not do its work.
    pub(super) fn bring_up(
        sizes: [Cluster; 2],
        cores: Cores,
        (flows, frame_len): (u32, usize),
    ) -> anyhow::Result<Self> {
        let mut arms = Vec::new();
        for (cluster, subject) in subjects(sizes)? {
            // The forwarder looks at no address; it is given the flows of the larger cluster.
            let [_, many] = sizes;
            let calls = Calls {
                destinations: cluster.unwrap_or(many).called(),
                port: SERVICE_PORT,
                flows,
                frame_len,
            };
            eprintln!("setting up: {}", subject.name());
            let mut bed = Bed::bring_up(subject, cores, &calls)?;
            bed.rest(true)?;
            arms.push(Arm { bed, cluster });
        }
        Ok(Self {
            arms,
            share_percent: 100,
        })
    }

    /// Shows that all who claim to do the work do the same. Answers how many packets that was shown with, of each arm, out
    /// and back.
    ///
    /// # Errors
    /// When they do not, and how they differ.
    pub(super) fn prove(&mut self) -> anyhow::Result<(usize, usize)> {
        let mut first: Option<(&str, Proof)> = None;
        for Arm { bed, .. } in self.arms.iter_mut().filter(|arm| arm.bed.work() == Work::Wrap) {
            bed.rest(false)?;
            let proof = Proof::of(bed)?;
            bed.rest(true)?;
            match &first {
                None => first = Some((bed.name(), proof)),
                Some((name, one)) => one.compare(name, &proof, bed.name())?,
            }
        }
        let (_, proof) = first.context("there is nothing to compare")?;
        ensure!(proof.len().0 > 0, "no packet was compared");
        Ok(proof.len())
    }

    /// Every arm with everything it can be given.
    pub(super) fn positions(&self) -> Vec<Position> {
        let mut positions = Vec::new();
        for (number, arm) in self.arms.iter().enumerate() {
            let given = if arm.bed.is_limited() {
                [Given::Share, Given::Core]
            } else {
                [Given::Core, Given::Both]
            };
            positions.extend(given.map(|given| Position { arm: number, given }));
        }
        positions
    }

    /// The name of a position's arm.
    pub(super) fn name(&self, position: Position) -> &str {
        self.arms.get(position.arm).map_or("", |arm| arm.bed.name())
    }

    /// A position's arm.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn bed(&self, position: Position) -> anyhow::Result<&Bed> {
        let arm = self.arms.get(position.arm).context("there is no such arm")?;
        Ok(&arm.bed)
    }

    /// A position's arm, given what the position says.
    ///
    /// # Errors
    /// When it cannot be given that.
    pub(super) fn enter(&mut self, position: Position) -> anyhow::Result<&mut Bed> {
        let share = self.share_percent;
        for (number, arm) in self.arms.iter_mut().enumerate() {
            arm.bed.rest(number != position.arm)?;
        }
        let arm = self.arms.get_mut(position.arm).context("there is no such arm")?;
        if arm.bed.is_limited() {
            arm.bed.limit(if position.given == Given::Share {
                share
            } else {
                100
            });
        } else {
            arm.bed.spread(position.given == Given::Both)?;
        }
        Ok(&mut arm.bed)
    }

    /// Who can take about all packets with this share of a core, one way or the other, of those who are given one.
    ///
    /// # Errors
    /// When an arm fails, and on an interrupt.
    pub(super) fn afloat(&mut self, share_percent: u32) -> anyhow::Result<Option<String>> {
        self.share_percent = share_percent;
        let limited = self.positions().into_iter();
        for position in limited.filter(|position| position.given == Given::Share) {
            for direction in Direction::BOTH {
                if let Some(who) = afloat(self.enter(position)?, direction, WARM_UP)? {
                    return Ok(Some(who));
                }
            }
        }
        Ok(None)
    }

    /// What is to be known of the arms besides: their names, how many objects they have, and their facts.
    pub(super) fn facts(&self) -> serde_json::Map<String, serde_json::Value> {
        self.arms
            .iter()
            .filter(|arm| arm.cluster.is_some())
            .map(|arm| (arm.bed.name().to_owned(), arm.bed.facts()))
            .collect()
    }
}
