//! A node's pipeline: the stages of a packet's walk, in order.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{HashKey, NodeTables, Reader, Role};
use millrace_dataplane::verdict::{DropReason, Exit, Verdict};
use millrace_dataplane::worker::{Origin, Pipeline};

use crate::admit::admit;
use crate::classify::classify;
use crate::decap::decap;
use crate::encap::{Wrapper, encap};
use crate::entry::Entry;
use crate::limit::limit;
use crate::rewrite::rewrite;
use crate::route::route;

/// How many frames ahead of the one that walks the processor is asked to fetch.
const PREFETCH_AHEAD: usize = 4;

/// The pipeline of one worker of a node.
#[derive(Debug)]
pub struct NodePipeline {
    tables: Reader<NodeTables>,
    wrapper: Wrapper,
}

impl NodePipeline {
    /// A pipeline over the newest `tables`. All workers share one `key`, so that a flow keeps its outer source port
    /// whichever worker it lands on; `worker` is this one's number, from 0.
    #[must_use]
    pub fn new(tables: Reader<NodeTables>, key: HashKey, worker: usize) -> Self {
        Self {
            tables,
            wrapper: Wrapper::new(key, worker),
        }
    }
}

/// The walk of a packet that came in at a port; answers the port it leaves by.
#[inline]
fn walk(
    tables: &NodeTables,
    wrapper: &mut Wrapper,
    entry: Entry<'_>,
    frame: &mut Frame,
) -> Result<PortId, Exit> {
    if let Entry::Port(_, ingress) = entry {
        admit(ingress, frame)?;
        if ingress.role == Role::Uplink {
            decap(tables, ingress, frame)?;
        }
    }
    let packet = classify(tables, entry, frame)?;
    let way = route(tables, entry, &packet)?;
    let hop = limit(entry, &packet, &way)?;
    rewrite(frame, &packet, &way, hop)?;
    encap(wrapper, frame, &packet, &way)?;
    Ok(way.port())
}

/// A walk's end as a verdict.
#[inline]
fn verdict(end: Result<PortId, Exit>) -> Verdict {
    match end {
        Ok(port) => Verdict::Forward(port),
        Err(exit) => Verdict::from(exit),
    }
}

impl Pipeline for NodePipeline {
    fn process(&mut self, ingress: PortId, frames: &mut [Frame], verdicts: &mut Vec<Verdict>) {
        let tables = self.tables.pin();
        let Some(facts) = tables.ports.get(ingress) else {
            // The port has left the tables, and its last packets arrive after it.
            verdicts.extend(frames.iter().map(|_| Verdict::Drop(DropReason::PortGone)));
            return;
        };
        frames.iter().take(PREFETCH_AHEAD).for_each(Frame::prefetch);
        for index in 0..frames.len() {
            if let Some(later) = frames.get(index + PREFETCH_AHEAD) {
                later.prefetch();
            }
            let Some(frame) = frames.get_mut(index) else { break };
            verdicts.push(verdict(walk(
                &tables,
                &mut self.wrapper,
                Entry::Port(ingress, facts),
                frame,
            )));
        }
    }

    fn originate(&mut self, frame: &mut Frame, origin: Origin) -> Verdict {
        let tables = self.tables.pin();
        verdict(Entry::of(&tables, origin).and_then(|entry| walk(&tables, &mut self.wrapper, entry, frame)))
    }
}
