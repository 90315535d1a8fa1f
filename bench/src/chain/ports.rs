//! What idle ports cost: the switch with one pod and with hundreds, of which one has traffic.

use std::time::{Duration, Instant};

use anyhow::Context;
use millrace_tools::lab::plan::NodePlan;
use millrace_tools::pktgen::AddressRange;
use serde_json::{Value, json};

use super::positions::WARM_UP;
use crate::arms::{Bed, Calls, Cores, Direction, Measured, NODE, Objects, PEER_PLACE, Switch, Window};
use crate::statistics::rounded;

/// Ports that are busy: the pod's and the uplink's.
const BUSY: u32 = 2;
/// Who is called (discard).
const PORT: u16 = 9;

/// What came of it.
pub(super) struct Idle {
    ports: u32,
    attached: Duration,
    /// The switch with few ports and with many, out and back.
    measured: Vec<(Direction, [Measured; 2])>,
}

impl Idle {
    /// Sets both up, with so many ports in all, and measures them in turns, given so much of a core.
    ///
    /// # Errors
    /// When ports cannot be made, or the switch fails, and on an interrupt.
    pub(super) fn measure(
        ports: u32,
        cores: Cores,
        (frame_len, share): (usize, u32),
        (rounds, duration): (u32, Duration),
    ) -> anyhow::Result<Self> {
        let flows = 1024;
        let calls = Calls {
            destinations: AddressRange::one(NodePlan::of(PEER_PLACE)?.free_pod_address(&[])?),
            port: PORT,
            flows,
            frame_len,
        };
        let up = |name: &str| Bed::bring_up(Box::new(Switch::new(name, Objects::default())), cores, &calls);
        let few = up("ports-few")?;
        let mut many = up("ports-many")?;
        let began = Instant::now();
        for number in 0..ports.saturating_sub(BUSY) {
            let added = many.lab_mut().add_pod(NODE, &format!("idle-{number}"));
            added.with_context(|| format!("cannot add idle port {number}"))?;
        }
        let attached = began.elapsed();
        let measured = |direction| {
            (
                direction,
                [Measured::of("ports-few", &few), Measured::of("ports-many", &many)],
            )
        };
        let mut measured: Vec<_> = Direction::BOTH.map(measured).into();
        let mut beds = [few, many];
        for bed in &mut beds {
            bed.limit(share);
        }
        for _ in 0..rounds {
            for (direction, measured) in &mut measured {
                for (bed, measured) in beds.iter_mut().zip(measured) {
                    let window = Window::measure(bed, *direction, WARM_UP, duration)?;
                    measured.windows.push(window);
                }
            }
        }
        Ok(Self {
            ports,
            attached,
            measured,
        })
    }

    /// Packets a second with many ports, as a share of those with few.
    fn ratio([few, many]: &[Measured; 2]) -> f64 {
        many.rate() / few.rate()
    }

    /// Prints a table.
    pub(super) fn print(&self) {
        for (direction, both) in &self.measured {
            let title = format!("{}, idle ports", direction.name());
            println!(
                "{}",
                Measured::head().replacen(&" ".repeat(title.len()), &title, 1)
            );
            for one in both {
                println!("{}", one.row());
            }
            println!("{} ports / {BUSY} ports: {:.3}", self.ports, Self::ratio(both));
        }
    }

    /// For the summary.
    pub(super) fn figures(&self) -> Value {
        let ways: serde_json::Map<String, Value> = self
            .measured
            .iter()
            .map(|(direction, both)| {
                let [few, many] = both;
                let figures = json!({
                    "few": few.figures(),
                    "many": many.figures(),
                    "ratio": rounded(Self::ratio(both), 4),
                });
                (direction.name().to_owned(), figures)
            })
            .collect();
        json!({
            "busy_ports": BUSY,
            "ports": self.ports,
            "attached_seconds": rounded(self.attached.as_secs_f64(), 1),
            "ways": ways,
        })
    }
}
