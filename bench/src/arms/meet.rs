//! What shows that a subject does its work before anything is timed: every flow's first packet comes out, and its answer goes
//! back to it.

use anyhow::{bail, ensure};
use millrace_dataplane::wire::{Ipv4, Udp, eth};
use millrace_tools::pktgen::{Flow, Order, Replay, Wrapping, recognise};

use super::answers::answer;
use super::{Bed, Direction, Work};

/// How often it is tried: a machine with other work may lose a packet before the node sees it.
const TRIALS: u32 = 5;

impl Bed {
    /// Sends the first packet of every flow, learns from what comes out what answers look like, and has them go back.
    ///
    /// # Errors
    /// When a flow's packets do not come out as they should, or their answers.
    pub(super) fn meet(&mut self) -> anyhow::Result<()> {
        let flows = self.out.flows().count() as usize;
        let mut answers: Vec<Option<Vec<u8>>> = vec![None; flows];
        for _ in 0..TRIALS {
            let traffic = self.traffic(Direction::Out)?;
            let frames = self.caught(Direction::Out, traffic, flows as u64, (flows, Order::RoundRobin))?;
            for frame in &frames {
                let Some(found) = recognise(frame) else {
                    continue;
                };
                ensure!(
                    found.is_intact && found.wrapping == self.wrapping(),
                    "not what was to come out: {found:?}, {frame:02x?}"
                );
                let flow = usize::try_from(found.marker.sequence).unwrap_or(usize::MAX);
                if let Some(place) = answers.get_mut(flow) {
                    *place = Some(answer(frame)?);
                }
            }
            if answers.iter().all(Option::is_some) {
                break;
            }
        }
        let missing = answers.iter().filter(|answer| answer.is_none()).count();
        ensure!(
            missing == 0,
            "of {flows} flows, {missing} did not come out in {TRIALS} trials"
        );
        let answers: Vec<Vec<u8>> = answers.into_iter().flatten().collect();
        self.hear(&answers)?;
        self.back = Some(Replay::from_frames(shuffled(answers), true));
        Ok(())
    }

    /// Sends the answers, and makes sure that each comes back to the flow that it is for.
    fn hear(&self, answers: &[Vec<u8>]) -> anyhow::Result<()> {
        let mut heard = vec![false; answers.len()];
        let mut frames = answers.to_vec();
        for _ in 0..TRIALS {
            // Each time in another order, so that no place in it decides.
            frames = shuffled(frames);
            for frame in self.exchange(Direction::Back, frames.clone(), answers.len())? {
                let Some(found) = recognise(&frame) else {
                    continue;
                };
                let flow = u32::try_from(found.marker.sequence).unwrap_or(u32::MAX);
                ensure!(
                    found.is_intact
                        && found.wrapping == Wrapping::Plain
                        && is_answer(&frame, self.out.flows().flow(flow)),
                    "not what was to come back: {found:?}, {frame:02x?}"
                );
                if let Some(heard) = heard.get_mut(flow as usize) {
                    *heard = true;
                }
            }
            if heard.iter().all(|heard| *heard) {
                return Ok(());
            }
        }
        let missing = heard.iter().filter(|heard| !**heard).count();
        let first = answers.iter().zip(&heard).find(|(_, heard)| !**heard);
        bail!(
            "of {} answers, {missing} did not come back in {TRIALS} trials; the first of them is {:02x?}",
            heard.len(),
            first.map(|(frame, _)| frame)
        )
    }

    fn wrapping(&self) -> Wrapping {
        match self.work() {
            Work::Carry => Wrapping::Plain,
            Work::Wrap => Wrapping::Vxlan,
        }
    }
}

/// Whether a frame is UDP to the caller of a flow, from whom it called.
fn is_answer(frame: &[u8], flow: Flow) -> bool {
    let found = frame
        .get(eth::HEADER_LEN..)
        .and_then(|packet| Ipv4::parse(packet).ok())
        .and_then(|ip| {
            Some((
                ip.source(),
                ip.destination(),
                Udp::parse(ip.payload()).ok()?.ports(),
            ))
        });
    found.is_some_and(|(source, destination, ports)| {
        flow.destination == source
            && flow.source == destination
            && flow.ports.destination == ports.source
            && flow.ports.source == ports.destination
    })
}

/// The same frames in an order that has nothing to do with the one they came in.
fn shuffled(frames: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut keyed: Vec<(u64, Vec<u8>)> = (0u64..)
        // 2^64 divided by the golden ratio: neighbouring numbers come to lie far apart.
        .map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .zip(frames)
        .collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, frame)| frame).collect()
}
