//! The socket on which the kernel is followed: which events it gets, and how tables are asked for.

use std::io;

use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    DoneBuffer, ErrorBuffer, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO, NLMSG_ERROR, NetlinkBuffer,
    NetlinkMessage,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::{
    AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use rustix::net::sockopt;
use tracing::debug;

use super::tables::Table;

/// Wanted size of the socket's receive buffer in bytes. The kernel doubles it (socket(7)), and counts for each event its whole
/// buffer, some 800 bytes: room for twenty thousand events. It is taken only while it is used.
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// The groups whose events are followed.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Opens a socket and subscribes it; tables are read later, so that no event falls in between.
pub(super) fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS
        .iter()
        .fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
    let inner = socket.socket_mut();
    inner.bind(&SocketAddr::new(0, groups))?;
    // Kernels before 5.3 have no next-hop objects, and so no such group.
    let _ = inner.add_membership(MulticastGroup::Nexthop as u32);
    enlarge_receive_buffer(inner);
    Ok(socket)
}

/// Enlarges the receive buffer as far as the system allows; a smaller one only means reading anew more often.
fn enlarge_receive_buffer(socket: &Socket) {
    // Beyond `net.core.rmem_max` first, which takes CAP_NET_ADMIN.
    let forced = sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER_BYTES);
    if forced
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER_BYTES))
        .is_err()
    {
        debug!("the netlink receive buffer keeps its size");
    }
}

/// Reads once from the socket into the emptied buffer.
pub(super) async fn receive(socket: &TokioSocket, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.clear();
    socket.recv(buffer).await
}

/// The request for a whole table, of both address families.
pub(super) fn table_request(table: Table, sequence: u32) -> Vec<u8> {
    let mut request = NetlinkMessage::from(match table {
        Table::Links => RouteNetlinkMessage::GetLink(LinkMessage::default()),
        Table::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        Table::Routes => RouteNetlinkMessage::GetRoute(RouteMessage::default()),
        Table::Neighbours => RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
    });
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.header.sequence_number = sequence;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    bytes
}

/// The error number, positive, in the message that ends a table; 0 if it was read whole.
pub(super) fn end_code(kind: u16, payload: &[u8]) -> i32 {
    let code = if kind == NLMSG_ERROR {
        ErrorBuffer::new_checked(payload)
            .ok()
            .and_then(|error| error.code())
            .map_or(0, std::num::NonZeroI32::get)
    } else {
        DoneBuffer::new_checked(payload).map_or(0, |done| done.code())
    };
    code.saturating_abs()
}

/// Where the message after this one starts.
pub(super) fn aligned_length(message: &NetlinkBuffer<&[u8]>) -> usize {
    usize::try_from(message.length())
        .unwrap_or(usize::MAX)
        .next_multiple_of(usize::from(NLMSG_ALIGNTO))
}
