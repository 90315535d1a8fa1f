//! Mistakes in the rules, made on purpose.

use crate::set::Set;

/// A mistake that is made on purpose, to see whether it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// What comes from outside keeps its source.
    NotMasqueraded,
    /// A pod that reaches itself keeps its source.
    NoHairpin,
    /// Everything that calls a ClusterIP is masqueraded.
    AlwaysMasqueraded,
    /// `externalTrafficPolicy: Local` is taken for `Cluster`.
    ExternalPolicyIgnored,
    /// `internalTrafficPolicy: Local` is taken for `Cluster`.
    InternalPolicyIgnored,
    /// `loadBalancerSourceRanges` are not looked at.
    RangesIgnored,
    /// Endpoints that are not ready are chosen too.
    UnreadyChosen,
    /// Hints for zones and nodes are not looked at.
    HintsIgnored,
    /// Every connection is a new throw of the dice.
    NoAffinity,
    /// What is to be rejected is dropped.
    SilentReject,
    /// A reject of TCP is an ICMP error.
    RejectWithoutReset,
    /// A port that a ClusterIP does not have is dropped.
    UnknownPortDropped,
    /// An address of the Service CIDR that no Service has is rejected.
    UnknownAddressRejected,
    /// `ipMode: Proxy` is taken for `VIP`.
    ProxyIgnored,
}

impl Mistake {
    /// Every mistake.
    pub(crate) const ALL: [Self; 14] = [
        Self::NotMasqueraded,
        Self::NoHairpin,
        Self::AlwaysMasqueraded,
        Self::ExternalPolicyIgnored,
        Self::InternalPolicyIgnored,
        Self::RangesIgnored,
        Self::UnreadyChosen,
        Self::HintsIgnored,
        Self::NoAffinity,
        Self::SilentReject,
        Self::RejectWithoutReset,
        Self::UnknownPortDropped,
        Self::UnknownAddressRejected,
        Self::ProxyIgnored,
    ];

    /// The set as it would have to be for right rules to be wrong like this; as it is, for a mistake that is one of the rules.
    pub(crate) fn about(self, set: &Set) -> Set {
        let mut set = set.clone();
        for service in &mut set.services {
            match self {
                Self::ExternalPolicyIgnored => service.external_local = false,
                Self::InternalPolicyIgnored => service.internal_local = false,
                Self::RangesIgnored => service.source_ranges.clear(),
                Self::NoAffinity => service.affinity = false,
                Self::UnreadyChosen => {
                    let endpoints = service.endpoints.iter_mut();
                    endpoints.for_each(|endpoint| endpoint.ready = None);
                }
                Self::HintsIgnored => {
                    for endpoint in &mut service.endpoints {
                        endpoint.zones.clear();
                        endpoint.nodes.clear();
                    }
                }
                Self::ProxyIgnored => {
                    let ingress = service.ingress.iter_mut();
                    ingress.for_each(|ingress| ingress.proxy = false);
                }
                Self::NotMasqueraded
                | Self::NoHairpin
                | Self::AlwaysMasqueraded
                | Self::SilentReject
                | Self::RejectWithoutReset
                | Self::UnknownPortDropped
                | Self::UnknownAddressRejected => {}
            }
        }
        set
    }
}
