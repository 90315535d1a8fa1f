//! Ports in networks beside the cluster's own as a container runtime asks for them.

use std::path::Path;

use serde_json::{Value, json};
use tracing::warn;

use super::{MemberRow, failed};
use crate::admin::protocol::{Attachment, Failure, Joined, MemberEnd, Retain, Verify};
use crate::daemon::Daemon;
use crate::daemon::pods::bandwidth_differs;
use crate::kernel;

impl Daemon {
    /// Takes a container's port away.
    pub(in crate::daemon) async fn release_member(
        &mut self,
        attachment: &Attachment,
    ) -> Result<Value, Failure> {
        let is_it = |row: &&MemberRow| row.attachment.as_ref() == Some(attachment);
        let found = self.members.rows().find(is_it).map(|row| row.interface.clone());
        let removed = match found {
            Some(interface) => self.part_row(&interface).await?,
            None => false,
        };
        Ok(json!({ "removed": removed }))
    }

    /// Takes away the ports of a network's containers that are not named; answers how many.
    pub(in crate::daemon) async fn retain_members(
        &mut self,
        retain: &Retain,
        failures: &mut Vec<String>,
    ) -> usize {
        let is_stale = |row: &&MemberRow| {
            row.attachment.as_ref().is_some_and(|there| {
                let is_it = |(container, interface): &(String, String)| {
                    (container, interface) == (&there.container, &there.interface)
                };
                there.network == retain.network && !retain.valid.iter().any(is_it)
            })
        };
        let stale = self.members.rows().filter(is_stale);
        let stale: Vec<String> = stale.map(|row| row.interface.clone()).collect();
        for interface in &stale {
            if let Err(failure) = self.part_row(interface).await {
                warn!(interface, "{}", failure.message);
                failures.push(format!("{interface}: {}", failure.message));
            }
        }
        stale.len()
    }

    /// Whether a container's port in such a network is served, and its end as it was made; `None` if there is no such port.
    pub(in crate::daemon) async fn verify_member(
        &self,
        attachment: &Attachment,
        verify: &Verify,
    ) -> Option<Result<(), Failure>> {
        let mut rows = self.members.rows();
        let row = rows.find(|row| row.attachment.as_ref() == Some(attachment))?;
        if let Some(wanted) = verify.bandwidth.filter(|wanted| *wanted != row.bandwidth) {
            return Some(Err(bandwidth_differs(&row.interface, &row.bandwidth, &wanted)));
        }
        Some(self.check_member(row, &verify.netns).await)
    }

    pub(super) async fn check_member(&self, row: &MemberRow, netns: &Path) -> Result<(), Failure> {
        let gone = |what: &str| Failure::failed(format!("{} {what}", row.interface));
        let port = self.members.port_of(&row.interface);
        let port = port.and_then(|id| self.ports.get(id));
        let port = port.ok_or_else(|| gone("is not served; the daemon's log says why"))?;
        let link = self.kernel.find_link(&row.interface).await.map_err(failed)?;
        let link = link.filter(|link| link.ifindex == port.attached.spec.ifindex);
        let link = link.ok_or_else(|| gone("is gone"))?;
        if !link.up {
            return Err(gone("is down"));
        }
        let (MemberEnd::Pod(end), Some(mac)) = (&row.end, row.mac) else {
            return Ok(());
        };
        let wanted = kernel::MemberEnd {
            ifname: end.interface.clone(),
            host_ifindex: link.ifindex,
            mac: mac.octets(),
            addresses: row.addresses.clone(),
        };
        match kernel::member_end_fault(netns, wanted).await.map_err(failed)? {
            None => Ok(()),
            Some(fault) => Err(Failure::failed(format!("{}: {fault}", end.pod))),
        }
    }

    pub(super) fn joined(&self, row: &MemberRow) -> Result<Joined, Failure> {
        let port = self.members.port_of(&row.interface);
        let port = port.and_then(|id| self.ports.get(id));
        let gone = || Failure::failed(format!("{} was attached, and is gone already", row.interface));
        let port = port.ok_or_else(gone)?;
        let network = row
            .network
            .as_ref()
            .and_then(|name| self.second_network(name).ok());
        Ok(Joined {
            interface: row.interface.clone(),
            host_mac: port.facts.mac.to_string(),
            mac: row.mac.map(|mac| mac.to_string()),
            addresses: row.addresses.clone(),
            gateways: network.map_or_else(Vec::new, |network| network.gateways.clone()),
            routes: match row.end {
                MemberEnd::Pod(_) => self.routes_of_member(row),
                MemberEnd::Tap(_) => Vec::new(),
            },
            mtu: u32::from(port.facts.mtu),
        })
    }
}
