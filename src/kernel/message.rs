//! From rtnetlink messages to the values of [`super::state`].

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
    RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage, neighbour};

use super::state::{
    InterfaceAddress, Link, LinkVlan, MacAddr, Neighbour, NeighbourState, Route, RouteHop, RouteKind, Scope,
};
use super::tables::{Change, Placement};

/// The change that an event or a part of a table says, or `None` if it is about something that is not
/// followed. `flags` are those of the netlink header.
pub(super) fn change(message: &RouteNetlinkMessage, flags: u16) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(message) => link(message).map(Change::LinkSet),
        RouteNetlinkMessage::DelLink(message) => link(message).map(|link| Change::LinkGone(link.ifindex)),
        RouteNetlinkMessage::NewAddress(message) => address(message).map(Change::AddressSet),
        RouteNetlinkMessage::DelAddress(message) => address(message).map(Change::AddressGone),
        RouteNetlinkMessage::NewRoute(message) => {
            let placement = if flags & NLM_F_REPLACE != 0 {
                Placement::InPlaceOfFirst
            } else if flags & NLM_F_APPEND != 0 {
                Placement::Last
            } else {
                Placement::First
            };
            route(message).map(|route| Change::RouteSet(route, placement))
        }
        RouteNetlinkMessage::DelRoute(message) => route(message).map(Change::RouteGone),
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(message).map(Change::NeighbourSet),
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbour(message).map(|gone| Change::NeighbourGone(gone.ifindex, gone.address))
        }
        _ => None,
    }
}

/// An interface. Messages of the bridge family are about bridge ports and are left out.
pub(super) fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Up | LinkFlags::Running),
        loopback: flags.contains(LinkFlags::Loopback),
        kind: None,
        rx_queues: 1,
        tx_queues: 1,
        peer_ifindex: None,
        peer_elsewhere: false,
        controller: None,
        vlan: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) if message.header.link_layer_type == LinkLayerType::Ether => {
                link.mac = mac(bytes);
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::NumRxQueues(count) => link.rx_queues = *count,
            LinkAttribute::NumTxQueues(count) => link.tx_queues = *count,
            LinkAttribute::Link(ifindex) if *ifindex != 0 => link.peer_ifindex = Some(*ifindex),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::Controller(ifindex) => link.controller = Some(*ifindex),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
                link.vlan = infos.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Vlan(said)) => vlan(said),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

/// What a VLAN device says of itself. Without a word on the protocol it is 802.1Q, as in kernels that know no other.
fn vlan(said: &[InfoVlan]) -> Option<LinkVlan> {
    let number = said.iter().find_map(|word| match word {
        InfoVlan::Id(number) => Some(*number),
        _ => None,
    });
    let is_other = said
        .iter()
        .any(|word| matches!(word, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q));
    Some(LinkVlan {
        number: number?,
        is_8021q: !is_other,
    })
}

/// An address of an interface. On a point-to-point interface `IFA_LOCAL` is ours and `IFA_ADDRESS` the other
/// end's.
pub(super) fn address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let mut local = None;
    let mut plain = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => plain = Some(*ip),
            _ => {}
        }
    }
    let address = IpNet::new(local.or(plain)?, message.header.prefix_len).ok()?;
    let scope = match message.header.scope {
        AddressScope::Universe => Scope::Universe,
        AddressScope::Site => Scope::Site,
        AddressScope::Link => Scope::Link,
        AddressScope::Host => Scope::Host,
        AddressScope::Nowhere => Scope::Nowhere,
        other => Scope::Other(u8::from(other)),
    };
    Some(InterfaceAddress {
        ifindex: message.header.index,
        address,
        scope,
    })
}

/// A route of the main table, IPv4 or IPv6. Other tables, multicast routes and cached copies are left out.
pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    if header.flags.contains(RouteFlags::Cloned) || header.kind == RouteType::Multicast {
        return None;
    }
    let mut table = u32::from(header.table);
    let mut destination = unspecified;
    let mut single = RouteHop {
        ifindex: 0,
        gateway: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        weight: 1,
        dead: header.flags.contains(RouteFlags::Dead),
    };
    let mut hops = Vec::new();
    let (mut metric, mut source) = (0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(ifindex) => single.ifindex = *ifindex,
            RouteAttribute::MultiPath(several) => hops = several.iter().map(hop).collect(),
            other => single.gateway = gateway(other).or(single.gateway),
        }
    }
    let kind = route_kind(header.kind);
    if hops.is_empty() && single.ifindex != 0 && matches!(kind, RouteKind::Unicast | RouteKind::Local) {
        hops.push(single);
    }
    let destination = IpNet::new(destination, header.destination_prefix_length)
        .ok()?
        .trunc();
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then(|| Route {
        destination,
        tos: header.tos,
        metric,
        kind,
        scope: route_scope(header),
        protocol: u8::from(header.protocol),
        source,
        hops,
    })
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        other => RouteKind::Other(u8::from(other)),
    }
}

fn route_scope(header: &RouteHeader) -> Scope {
    use rtnetlink::packet_route::route::RouteScope;
    match header.scope {
        RouteScope::Universe => Scope::Universe,
        RouteScope::Site => Scope::Site,
        RouteScope::Link => Scope::Link,
        RouteScope::Host => Scope::Host,
        RouteScope::NoWhere => Scope::Nowhere,
        other => Scope::Other(u8::from(other)),
    }
}

/// One hop of a multipath route. The kernel's `rtnh_hops` is the weight less one.
fn hop(message: &RouteNextHop) -> RouteHop {
    RouteHop {
        ifindex: message.interface_index,
        gateway: message.attributes.iter().find_map(gateway),
        onlink: message.flags.contains(RouteNextHopFlags::Onlink),
        weight: u16::from(message.hops) + 1,
        dead: message.flags.contains(RouteNextHopFlags::Dead),
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// A neighbour of IPv4 or IPv6. Forwarding entries of bridges and vxlan devices, and proxy entries, are left
/// out.
fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    if message.header.flags.contains(neighbour::NeighbourFlags::Proxy) {
        return None;
    }
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6) {
        return None;
    }
    let mut address = None;
    let mut link_layer = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::from(*ip)),
            NeighbourAttribute::LinkLayerAddress(bytes) => link_layer = mac(bytes),
            _ => {}
        }
    }
    let state = match message.header.state {
        neighbour::NeighbourState::Incomplete => NeighbourState::Incomplete,
        neighbour::NeighbourState::Reachable => NeighbourState::Reachable,
        neighbour::NeighbourState::Stale => NeighbourState::Stale,
        neighbour::NeighbourState::Delay => NeighbourState::Delay,
        neighbour::NeighbourState::Probe => NeighbourState::Probe,
        neighbour::NeighbourState::Failed => NeighbourState::Failed,
        neighbour::NeighbourState::Noarp => NeighbourState::Noarp,
        neighbour::NeighbourState::Permanent => NeighbourState::Permanent,
        neighbour::NeighbourState::None => NeighbourState::None,
        other => NeighbourState::Other(u16::from(other)),
    };
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address: address?,
        mac: link_layer,
        state,
    })
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().ok()
}
