//! Where a packet's walk begins.

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::{NetworkId, NodeTables, PortFacts, Role};
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::worker::Origin;

/// Where a packet comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry<'t> {
    /// It came in at this port.
    Port(PortId, &'t PortFacts),
    /// It came in at this port earlier, was let in, and waited in the slow path; for the steering of its answers, perhaps.
    Held {
        port: PortId,
        facts: &'t PortFacts,
        is_steered: bool,
    },
    /// The switch made it.
    Switch,
    /// It was routed here from another network, where it has been admitted, followed and policed.
    Crossed {
        /// Which that is.
        from: NetworkId,
        /// Whether the switch made it there.
        is_own: bool,
    },
}

impl<'t> Entry<'t> {
    /// The entry of a packet that does not come in at a port now, in the network whose `tables` these are.
    #[inline]
    pub(crate) fn of(tables: &'t NodeTables, origin: Origin) -> Result<Self, Exit> {
        let (port, is_steered) = match origin {
            Origin::Switch(_) => return Ok(Entry::Switch),
            Origin::Held { port, .. } => (port, false),
            Origin::Steered { port, .. } => (port, true),
            // Not routed; whoever takes it for that has the wrong pipeline.
            Origin::Bridged { .. } => return Err(DropReason::OriginatedStuck.into()),
        };
        Ok(Entry::Held {
            port,
            facts: tables.ports.get(port).ok_or(DropReason::PortGone)?,
            is_steered,
        })
    }

    /// The port that it came in at, now or earlier.
    #[inline]
    pub(crate) fn port(self) -> Option<(PortId, &'t PortFacts)> {
        match self {
            Entry::Port(port, facts) | Entry::Held { port, facts, .. } => Some((port, facts)),
            Entry::Switch | Entry::Crossed { .. } => None,
        }
    }

    /// Whether the switch made it.
    #[inline]
    pub(crate) fn is_own(self) -> bool {
        matches!(self, Entry::Switch | Entry::Crossed { is_own: true, .. })
    }

    /// Whether it comes from another network.
    #[inline]
    pub(crate) fn is_crossed(self) -> bool {
        matches!(self, Entry::Crossed { .. })
    }

    /// Whether it came in at a port of this role.
    #[inline]
    pub(crate) fn is(self, role: Role) -> bool {
        self.port().is_some_and(|(_, facts)| facts.role == role)
    }
}
