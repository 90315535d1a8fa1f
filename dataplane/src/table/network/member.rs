//! Ports in networks, and what stands behind them.

use std::net::IpAddr;

use super::NetworkId;
use crate::wire::MacAddr;
use crate::wire::vlan::VlanId;

/// What the station behind a port may say of itself. Nothing given: anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    /// The only source address of its frames.
    pub mac: Option<MacAddr>,
    /// The only addresses it sends from, in IP, ARP and neighbour discovery; then it sends nothing else. None: any.
    pub sources: Vec<IpAddr>,
}

/// How a port is in networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// In one network, with frames that have no tag.
    Access {
        /// The network.
        network: NetworkId,
        /// What the station behind it may say of itself.
        guard: Guard,
    },
    /// In several, told by the VLAN of a frame.
    Trunk {
        /// VLAN and network, in the order of the VLANs.
        vlans: Box<[(VlanId, NetworkId)]>,
        /// The network of frames without a tag.
        native: Option<NetworkId>,
    },
}

impl Member {
    /// A port in several networks.
    #[must_use]
    pub fn trunk(vlans: impl IntoIterator<Item = (VlanId, NetworkId)>, native: Option<NetworkId>) -> Self {
        let mut vlans: Box<[_]> = vlans.into_iter().collect();
        vlans.sort_by_key(|(vlan, _)| vlan.number());
        Self::Trunk { vlans, native }
    }

    /// The network of a frame with this tag, or with none.
    #[inline]
    #[must_use]
    pub fn network(&self, tag: Option<VlanId>) -> Option<NetworkId> {
        match (self, tag) {
            (Self::Access { network, .. }, None) => Some(*network),
            (Self::Trunk { native, .. }, None) => *native,
            (Self::Access { .. }, Some(_)) => None,
            (Self::Trunk { vlans, .. }, Some(tag)) => {
                let place = vlans.binary_search_by_key(&tag.number(), |(vlan, _)| vlan.number());
                Some(vlans.get(place.ok()?)?.1)
            }
        }
    }

    /// The tag, or none, of what goes to this port in a network; `None` if the port is not in it.
    #[inline]
    #[must_use]
    pub fn tag(&self, network: NetworkId) -> Option<Option<VlanId>> {
        match self {
            Self::Access { network: own, .. } => (*own == network).then_some(None),
            Self::Trunk { native, .. } if *native == Some(network) => Some(None),
            Self::Trunk { vlans, .. } => {
                let found = vlans.iter().find(|(_, named)| *named == network);
                found.map(|(vlan, _)| Some(*vlan))
            }
        }
    }

    /// The networks it is in.
    pub fn networks(&self) -> impl Iterator<Item = NetworkId> {
        let (first, rest) = match self {
            Self::Access { network, .. } => (Some(*network), [].as_slice()),
            Self::Trunk { vlans, native } => (*native, &**vlans),
        };
        first.into_iter().chain(rest.iter().map(|(_, network)| *network))
    }
}
