//! Routes to load balancers' addresses, in a table of their own from which a routing daemon takes what it tells others.
//!
//! No rule of the kernel's asks that table, so the routes lead nothing anywhere: what comes for these addresses is taken by
//! the steering program before the kernel sees it. They are blackholes, which need no interface and no neighbour.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::KernelError;
use super::request::Kernel;
use super::route::OWN_ROUTE_PROTOCOL;

impl Kernel {
    /// Makes the set of our routes in a table, one for each address, equal to the wanted one. Routes of other programs are
    /// not touched. Says whether anything had to be done.
    ///
    /// # Errors
    /// [`KernelError`] of the first request that was refused; the others were made all the same.
    pub async fn sync_announced(&self, table: u8, wanted: &BTreeSet<IpAddr>) -> Result<bool, KernelError> {
        let present = self.announced(table).await?;
        let mut result = Ok(());
        for address in present.difference(wanted) {
            let action = format!("removing the route to {address} from table {table}");
            let request = RouteNetlinkMessage::DelRoute(message(table, *address));
            match self.change(&action, request, 0).await {
                Err(error) if !error.is(Errno::ESRCH) => result = result.and(Err(error)),
                Ok(()) | Err(_) => {}
            }
        }
        for address in wanted.difference(&present) {
            let action = format!("setting the route to {address} in table {table}");
            let request = RouteNetlinkMessage::NewRoute(message(table, *address));
            let made = self.change(&action, request, NLM_F_CREATE | NLM_F_REPLACE).await;
            result = result.and(made);
        }
        result.map(|()| present != *wanted)
    }

    /// The addresses to which there are routes of ours in a table.
    ///
    /// # Errors
    /// The routes cannot be read.
    pub async fn announced(&self, table: u8) -> Result<BTreeSet<IpAddr>, KernelError> {
        let mut found = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.table = table;
            let action = format!("reading routing table {table}");
            let answers = match self.dump(&action, &RouteNetlinkMessage::GetRoute(request)).await {
                Ok(answers) => answers,
                // A kernel without IPv6, or a table that was never made.
                Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP) => continue,
                Err(error) => return Err(error),
            };
            found.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => address_of(table, route),
                _ => None,
            }));
        }
        Ok(found)
    }
}

/// The address that a route of ours is for.
fn address_of(table: u8, route: &RouteMessage) -> Option<IpAddr> {
    let header = &route.header;
    if header.table != table || header.protocol != RouteProtocol::Other(OWN_ROUTE_PROTOCOL) {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    (header.destination_prefix_length == IpNet::from(address).prefix_len()).then_some(address)
}

fn message(table: u8, address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.table = table;
    header.protocol = RouteProtocol::Other(OWN_ROUTE_PROTOCOL);
    header.scope = RouteScope::Universe;
    header.kind = RouteType::BlackHole;
    header.destination_prefix_length = IpNet::from(address).prefix_len();
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, RouteAddress::Inet6(address)),
    };
    header.address_family = family;
    message.attributes.push(RouteAttribute::Destination(destination));
    message
}
