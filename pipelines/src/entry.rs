//! Where a packet's walk begins.

use millrace_dataplane::table::{PortFacts, Role};
use millrace_dataplane::worker::Origin;

/// Where a packet comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Entry<'t> {
    /// It came in at this port.
    Port(&'t PortFacts),
    /// The switch made it.
    Switch,
    /// It came in earlier and waited for its next hop's link address.
    Held,
}

impl Entry<'_> {
    /// Whether it came in at a port of this role.
    #[inline]
    pub(crate) fn is(self, role: Role) -> bool {
        match self {
            Entry::Port(facts) => facts.role == role,
            Entry::Switch | Entry::Held => false,
        }
    }
}

impl From<Origin> for Entry<'_> {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Switch => Entry::Switch,
            Origin::Held => Entry::Held,
        }
    }
}
