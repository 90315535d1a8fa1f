//! Our routes in the kernel's main table.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::KernelError;
use super::message;
use super::request::Kernel;
use super::state::{Route, RouteKind};

/// The number by which our routes are known (`rtm_protocol`, shown after `proto` by `ip route`). High numbers
/// are left to routing programs (`linux/rtnetlink.h`); this one is not in use there nor in iproute2's
/// `rt_protos`.
pub const OWN_ROUTE_PROTOCOL: u8 = b'M';

/// A route of ours, over one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// The destinations; the address is cut to the prefix.
    pub prefix: IpNet,
    /// The router to send to; `None` if the destinations are on the link.
    pub gateway: Option<IpAddr>,
    /// Whether the gateway counts as on the link although no subnet covers it.
    pub onlink: bool,
    /// The source address of packets that this machine sends along the route.
    pub source: Option<IpAddr>,
}

/// What [`Kernel::sync_routes`] did.
#[derive(Debug, Default)]
pub struct RouteChanges {
    /// Routes that were missing and are there now.
    pub added: Vec<IpNet>,
    /// Routes of ours that went another way and go the wanted one now.
    pub replaced: Vec<IpNet>,
    /// Routes of ours that were not wanted any more and are gone.
    pub removed: Vec<IpNet>,
    /// Routes that could not be set or removed, each with the reason. The others are as wanted all the same.
    pub failed: Vec<KernelError>,
}

/// What making sure of one route did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ensured {
    Kept,
    Added,
    Replaced,
}

impl Kernel {
    /// Sees that our route is in the main table. One of ours to the same prefix is replaced; one that another
    /// program made is left alone and is an error. Says whether anything had to be done.
    ///
    /// # Errors
    /// [`KernelError::RouteTaken`], [`KernelError::NoInterface`], or a refused request.
    pub async fn ensure_route(&self, interface: &str, spec: &RouteSpec) -> Result<bool, KernelError> {
        let ifindex = self.link_by_name(interface).await?.ifindex;
        let known = index(self.main_routes().await?);
        Ok(self.ensure_among(&known, interface, ifindex, spec).await? != Ensured::Kept)
    }

    /// Removes our route to a prefix over an interface. Says whether there was one.
    ///
    /// # Errors
    /// [`KernelError::NoInterface`] or a refused request.
    pub async fn remove_route(&self, interface: &str, prefix: IpNet) -> Result<bool, KernelError> {
        let ifindex = self.link_by_name(interface).await?.ifindex;
        self.delete_route(interface, ifindex, prefix.trunc()).await
    }

    /// Makes the set of our routes over an interface equal to the wanted one. Routes of other programs, and
    /// ours over other interfaces, are not touched. One that cannot be set does not keep the others from it.
    ///
    /// # Errors
    /// [`KernelError::NoInterface`], or the routes cannot be read.
    pub async fn sync_routes(
        &self,
        interface: &str,
        wanted: &[RouteSpec],
    ) -> Result<RouteChanges, KernelError> {
        let ifindex = self.link_by_name(interface).await?.ifindex;
        let known = index(self.main_routes().await?);
        let mut changes = RouteChanges::default();
        let mut specs: BTreeMap<IpNet, &RouteSpec> = BTreeMap::new();
        for spec in wanted {
            if specs
                .insert(spec.prefix.trunc(), spec)
                .is_some_and(|other| other != spec)
            {
                changes.failed.push(KernelError::InvalidSpec {
                    subject: format!("route to {}", spec.prefix),
                    reason: "it is wanted twice, in two ways; the last one counts".to_owned(),
                });
            }
        }
        for route in known.values().flatten() {
            let here = is_ours(route) && route.ifindex() == Some(ifindex);
            if !here || specs.contains_key(&route.destination) {
                continue;
            }
            match self.delete_route(interface, ifindex, route.destination).await {
                Ok(_) => changes.removed.push(route.destination),
                Err(error) => changes.failed.push(error),
            }
        }
        for (prefix, spec) in specs {
            match self.ensure_among(&known, interface, ifindex, spec).await {
                Ok(Ensured::Kept) => {}
                Ok(Ensured::Added) => changes.added.push(prefix),
                Ok(Ensured::Replaced) => changes.replaced.push(prefix),
                Err(error) => changes.failed.push(error),
            }
        }
        Ok(changes)
    }

    /// All routes of the main table, both families.
    pub(super) async fn main_routes(&self) -> Result<Vec<Route>, KernelError> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.table = RouteHeader::RT_TABLE_MAIN;
            let request = RouteNetlinkMessage::GetRoute(message);
            let answers = match self.dump("reading the main routing table", &request).await {
                Ok(answers) => answers,
                // A kernel without IPv6, or a namespace whose main table was never made.
                Err(error) if error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP) => continue,
                Err(error) => return Err(error),
            };
            routes.extend(answers.iter().filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(found) => message::route(found),
                _ => None,
            }));
        }
        Ok(routes)
    }

    async fn ensure_among(
        &self,
        known: &RoutesByPrefix,
        interface: &str,
        ifindex: u32,
        spec: &RouteSpec,
    ) -> Result<Ensured, KernelError> {
        check(spec)?;
        let prefix = spec.prefix.trunc();
        let metric = kernel_metric(prefix);
        let same_prefix = known.get(&prefix).map(Vec::as_slice).unwrap_or_default();
        let rival = same_prefix
            .iter()
            .find(|route| route.metric == metric && route.tos == 0);
        let (flags, ensured) = match rival {
            Some(route) if goes_as_wanted(route, ifindex, spec) => return Ok(Ensured::Kept),
            Some(route) if is_ours(route) => (NLM_F_CREATE | NLM_F_REPLACE, Ensured::Replaced),
            Some(route) => return Err(taken(interface, prefix, route)),
            None => (NLM_F_CREATE | NLM_F_EXCL, Ensured::Added),
        };
        let action = format!("setting the route to {prefix} over interface {interface}");
        let message = route_message(ifindex, spec);
        self.change(&action, RouteNetlinkMessage::NewRoute(message), flags)
            .await?;
        Ok(ensured)
    }

    async fn delete_route(&self, interface: &str, ifindex: u32, prefix: IpNet) -> Result<bool, KernelError> {
        let mut message = prefix_message(prefix);
        message.header.scope = RouteScope::NoWhere;
        message.header.protocol = RouteProtocol::Other(OWN_ROUTE_PROTOCOL);
        message.attributes.push(RouteAttribute::Oif(ifindex));
        let action = format!("removing the route to {prefix} over interface {interface}");
        match self
            .change(&action, RouteNetlinkMessage::DelRoute(message), 0)
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if error.is(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Routes by destination, in the kernel's order.
type RoutesByPrefix = BTreeMap<IpNet, Vec<Route>>;

fn index(routes: Vec<Route>) -> RoutesByPrefix {
    let mut index = RoutesByPrefix::new();
    for route in routes {
        index.entry(route.destination).or_default().push(route);
    }
    index
}

fn is_ours(route: &Route) -> bool {
    route.protocol == OWN_ROUTE_PROTOCOL
}

/// The metric that the kernel gives to a route set without one: none to IPv4, `IP6_RT_PRIO_USER` to IPv6
/// (`linux/ipv6_route.h`).
fn kernel_metric(prefix: IpNet) -> u32 {
    const IP6_RT_PRIO_USER: u32 = 1024;
    if prefix.addr().is_ipv6() {
        IP6_RT_PRIO_USER
    } else {
        0
    }
}

fn check(spec: &RouteSpec) -> Result<(), KernelError> {
    let is_ipv6 = spec.prefix.addr().is_ipv6();
    let mixed = [spec.gateway, spec.source]
        .into_iter()
        .flatten()
        .any(|address| address.is_ipv6() != is_ipv6);
    if !mixed {
        return Ok(());
    }
    Err(KernelError::InvalidSpec {
        subject: format!("route to {}", spec.prefix),
        reason: "its gateway and source have to be of its own address family".to_owned(),
    })
}

fn goes_as_wanted(route: &Route, ifindex: u32, spec: &RouteSpec) -> bool {
    let [hop] = route.hops.as_slice() else {
        return false;
    };
    is_ours(route)
        && route.kind == RouteKind::Unicast
        && route.source == spec.source
        && hop.ifindex == ifindex
        && hop.gateway == spec.gateway
        && (hop.onlink == spec.onlink || spec.gateway.is_none())
}

fn taken(interface: &str, prefix: IpNet, route: &Route) -> KernelError {
    let way = match (route.gateway(), route.ifindex()) {
        (Some(gateway), Some(ifindex)) => format!("via {gateway} on interface number {ifindex}"),
        (None, Some(ifindex)) => format!("on interface number {ifindex}"),
        _ => format!("{:?}", route.kind).to_lowercase(),
    };
    let found = format!("{way}, protocol {}", route.protocol);
    KernelError::RouteTaken {
        prefix,
        wanted: interface.to_owned(),
        found,
    }
}

fn prefix_message(prefix: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.destination_prefix_length = prefix.prefix_len();
    message.header.address_family = match prefix {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    if prefix.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(route_address(prefix.addr())));
    }
    message
}

fn route_message(ifindex: u32, spec: &RouteSpec) -> RouteMessage {
    let mut message = prefix_message(spec.prefix.trunc());
    message.header.kind = RouteType::Unicast;
    message.header.protocol = RouteProtocol::Other(OWN_ROUTE_PROTOCOL);
    message.header.scope = if spec.gateway.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    message.attributes.push(RouteAttribute::Oif(ifindex));
    if let Some(gateway) = spec.gateway {
        message
            .attributes
            .push(RouteAttribute::Gateway(route_address(gateway)));
        if spec.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
    }
    if let Some(source) = spec.source {
        message
            .attributes
            .push(RouteAttribute::PrefSource(route_address(source)));
    }
    message
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
