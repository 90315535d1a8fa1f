//! Where a packet's walk begins.

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{NodeTables, PortFacts, Role};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::worker::Origin;

/// Where a packet comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry<'t> {
    /// It came in at this port.
    Port(PortId, &'t PortFacts),
    /// It came in at this port earlier, was let in, and waited in the slow path.
    Held(PortId, &'t PortFacts),
    /// The switch made it.
    Switch,
}

impl<'t> Entry<'t> {
    /// The entry of a packet that does not come in at a port now.
    #[inline]
    pub(crate) fn of(tables: &'t NodeTables, origin: Origin) -> Result<Self, Exit> {
        match origin {
            Origin::Switch => Ok(Entry::Switch),
            Origin::Held(port) => {
                let facts = tables.ports.get(port).ok_or(DropReason::PortGone)?;
                Ok(Entry::Held(port, facts))
            }
        }
    }

    /// Whether it came in at a port of this role.
    #[inline]
    pub(crate) fn is(self, role: Role) -> bool {
        match self {
            Entry::Port(_, facts) | Entry::Held(_, facts) => facts.role == role,
            Entry::Switch => false,
        }
    }
}
