//! What grows, and one size of it.

use std::sync::Arc;

use clap::ValueEnum;

use crate::measure::measured;
use crate::memory::{Case, Family, Size, Walk, flow_table, policy_table, service_table};

/// Frames on their way round.
pub(super) const FRAMES: u32 = 4096;
/// Bytes of a frame.
pub(super) const FRAME_LEN: usize = 64;
/// Flows, where something else grows.
pub(super) const FLOWS: u32 = 65_536;
/// Connections that can be opened for the cost of first packets: enough for all laps.
const NEW_FLOWS: u32 = 1_000_000;
/// Laps of new connections before any is timed: as many connections as touch every page of the table once, which the
/// kernel makes the first time.
const OPENING_LAPS: u32 = 64;
/// Services called, so that there are as many flows as are to be measured.
const CALLED: u32 = 64;

/// A node where nothing has grown: as the bench's part `memory` has it.
pub(super) const SMALL: Size = Size {
    services: CALLED,
    called: CALLED,
    policies: 10,
    ports: 4,
    workers: 1,
};

/// What grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Axis {
    /// Live connections
    Flows,
    /// Services that the node knows
    Services,
    /// Policies of the node's pods
    Policies,
    /// Ports of the node, all but two of them idle
    Ports,
    /// Workers, each on a core of its own
    Workers,
}

impl Axis {
    pub(super) const ALL: [Self; 5] = [
        Self::Flows,
        Self::Services,
        Self::Policies,
        Self::Ports,
        Self::Workers,
    ];

    /// Its key in the summary.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Services => "services",
            Self::Policies => "policies",
            Self::Ports => "ports",
            Self::Workers => "workers",
        }
    }

    /// The sizes measured. Of the four ports that a node of the bench has, two are busy.
    pub(super) fn sizes(self) -> &'static [u32] {
        match self {
            Self::Flows => &[10, 1000, 65_536, 1_000_000, 4_000_000],
            Self::Services => &[10, 100, 1000, 10_000, 50_000],
            Self::Policies => &[10, 100, 1000, 10_000],
            Self::Ports => &[4, 16, 64, 252],
            Self::Workers => &[1, 2],
        }
    }

    /// The node of that size.
    fn node(self, size: u32) -> anyhow::Result<Size> {
        let mut node = SMALL;
        match self {
            Self::Flows | Self::Workers => {}
            Self::Services => (node.services, node.called) = (size, size.min(CALLED)),
            Self::Policies => node.policies = size,
            Self::Ports => node.ports = u16::try_from(size)?,
        }
        Ok(node)
    }
}

/// One size of an axis, and what was measured of it.
pub(super) struct Point {
    pub(super) size: u32,
    /// A worker with established connections, and one to which each packet is the first of its own.
    cases: Option<(Case, Option<Case>)>,
    pub(super) cycles: Vec<f64>,
    pub(super) first_cycles: Vec<f64>,
    /// What the table takes that grows.
    pub(super) bytes: Option<u64>,
}

impl Point {
    pub(super) fn new(axis: Axis, size: u32) -> anyhow::Result<Self> {
        let (node, flows) = (axis.node(size)?, if axis == Axis::Flows { size } else { FLOWS });
        let case = |walk, flows| {
            let table = Arc::new(flow_table(Family::V4, flows)?);
            let room = table.v4().memory() as u64;
            let case = Case::on(walk, FRAME_LEN, flows, FRAMES, &node, 0, table)?;
            anyhow::Ok((case, room))
        };
        let (known, room) = case(Walk::ChainOut, flows)?;
        let opens = matches!(axis, Axis::Services | Axis::Policies);
        let mut first = opens.then(|| case(Walk::NewConnections, NEW_FLOWS)).transpose()?;
        if let Some((case, _)) = &mut first {
            for _ in 0..OPENING_LAPS {
                case.lap_after(false, || {})?;
            }
        }
        let bytes = match axis {
            Axis::Flows => Some(room),
            Axis::Services => Some(taken(|| service_table(Family::V4, &node))?),
            Axis::Policies => Some(taken(|| policy_table(Family::V4, &node))?),
            Axis::Ports | Axis::Workers => None,
        };
        Ok(Self {
            size,
            cases: Some((known, first.map(|(case, _)| case))),
            cycles: Vec::new(),
            first_cycles: Vec::new(),
            bytes,
        })
    }

    /// What was measured elsewhere.
    pub(super) fn of(size: u32, cycles: Vec<f64>) -> Self {
        Self {
            size,
            cases: None,
            cycles,
            first_cycles: Vec::new(),
            bytes: None,
        }
    }

    /// Warms up, then takes so many timed laps.
    pub(super) fn round(&mut self, laps: u32) -> anyhow::Result<()> {
        let Some((known, first)) = &mut self.cases else {
            return Ok(());
        };
        for (case, cycles) in [
            (Some(known), &mut self.cycles),
            (first.as_mut(), &mut self.first_cycles),
        ] {
            let Some(case) = case else { continue };
            for _ in 0..case.warm_up() {
                case.lap_after(false, || {})?;
            }
            for _ in 0..laps {
                cycles.push(case.lap_after(true, || {})?.cycles);
            }
        }
        Ok(())
    }
}

/// What a table takes from the heap.
fn taken<T>(build: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<u64> {
    let (table, info) = measured(build);
    let bytes = u64::try_from(info.bytes_current)?;
    drop(table?);
    Ok(bytes)
}
