//! What this node says of itself in flannel's network, from what the tables were made with.

use millrace_dataplane::table::Role;
use millrace_dataplane::wire::vxlan;

use super::Daemon;
use super::compile::{Compiled, overhead};
use crate::cluster::{LeaseBackend, LeaseFacts};
use crate::config::OverlayKind;
use crate::objects::{Family, Network};

impl Daemon {
    /// Has the lease kept as it is now; in another network than flannel's there is none.
    pub(super) fn tell_lease(&self, compiled: &Compiled) {
        let Some(lease) = &self.source.lease else { return };
        let is_flannels = self.store.network() == Network::Flannel;
        let facts = self.lease_facts(compiled).filter(|_| is_flannels);
        lease.send_if_modified(|present| {
            let is_new = *present != facts;
            *present = facts;
            is_new
        });
    }

    fn lease_facts(&self, compiled: &Compiled) -> Option<LeaseFacts> {
        let (own, overlay) = (&self.own, &self.config.overlay);
        let backend = match overlay.kind {
            OverlayKind::Vxlan => LeaseBackend::Vxlan {
                vni: overlay.vni_in(Network::Flannel),
                mac_v4: own.vtep_mac_or_derived(Family::V4),
                mac_v6: own.vtep_mac_or_derived(Family::V6),
            },
            OverlayKind::Ipip => LeaseBackend::Ipip,
        };
        let (v4, v6) = compiled.own_ends;
        // Once this node has published an end over IPv6, its pods' packets are to fit in that too.
        let is_dual = backend != LeaseBackend::Ipip && v6.is_some() && own.pod_cidr_v6.is_some();
        let uplink = self.ports.of_role(Role::Uplink)?.1.facts.mtu;
        let mtu = match is_dual {
            true => u32::from(uplink.saturating_sub(overhead(vxlan::MTU_OVERHEAD_IPV6))),
            false => self.pod_mtu()?,
        };
        Some(LeaseFacts {
            node: own.name.clone(),
            backend,
            public_ip_v4: v4,
            public_ip_v6: v6,
            pod_cidr_v4: own.pod_cidr_v4,
            pod_cidr_v6: own.pod_cidr_v6,
            mtu,
            masquerade: overlay.masquerade,
            present: own.lease.clone(),
        })
    }
}
