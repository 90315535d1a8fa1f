//! One worker, and two at once on cores of their own, with one flow table.

use std::sync::{Arc, Barrier};
use std::thread;

use millrace_tools::pktgen::pin;

use super::axis::{Axis, FLOWS, FRAME_LEN, FRAMES, Point, SMALL};
use crate::memory::{Case, Family, Lap, Size, Walk, flow_table};

/// Measures each number of workers, round by round.
///
/// # Errors
/// When a walk does not do what it has to.
pub(super) fn measure(rounds: u32, laps: u32, cores: [usize; 2]) -> anyhow::Result<Vec<Point>> {
    let mut groups = Vec::new();
    for count in Axis::Workers.sizes() {
        let cores = cores.into_iter().take(*count as usize).collect::<Vec<_>>();
        let table = Arc::new(flow_table(Family::V4, FLOWS)?);
        let size = Size {
            workers: cores.len(),
            ..SMALL
        };
        let workers = cores.into_iter().enumerate().map(|(index, core)| {
            let table = Arc::clone(&table);
            let case = Case::on(Walk::ChainOut, FRAME_LEN, FLOWS, FRAMES, &size, index, table)?;
            anyhow::Ok((core, case))
        });
        let workers = workers.collect::<anyhow::Result<Vec<_>>>()?;
        groups.push((*count, workers, Vec::new()));
    }
    for _ in 0..rounds {
        for (_, workers, cycles) in &mut groups {
            cycles.extend(round(workers, laps)?);
        }
    }
    Ok(groups
        .into_iter()
        .map(|(count, _, cycles)| Point::of(count, cycles))
        .collect())
}

/// A round of all workers at once: each lap begins when all are ready for it.
fn round(workers: &mut [(usize, Case)], laps: u32) -> anyhow::Result<Vec<f64>> {
    let start = Barrier::new(workers.len());
    let ended: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|(core, case)| {
                let (start, core) = (&start, *core);
                scope.spawn(move || {
                    pin(Some(core));
                    let warm_up = case.warm_up();
                    let (mut cycles, mut failed) = (Vec::new(), Ok(()));
                    for lap in 0..warm_up + laps {
                        let mut has_waited = false;
                        let mut wait = || {
                            has_waited = true;
                            start.wait();
                        };
                        // Who has failed does not keep the others waiting.
                        match failed {
                            Ok(()) => match case.lap_after(lap >= warm_up, &mut wait) {
                                Ok(Lap { cycles: took, .. }) if lap >= warm_up => cycles.push(took),
                                Ok(_) => {}
                                Err(error) => failed = Err(error),
                            },
                            Err(_) => wait(),
                        }
                        if !has_waited {
                            start.wait();
                        }
                    }
                    failed.map(|()| cycles)
                })
            })
            .collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut all = Vec::new();
    for ended in ended {
        all.extend(ended.unwrap_or_else(|payload| std::panic::resume_unwind(payload))?);
    }
    Ok(all)
}
