//! Asking the kernel to resolve a neighbour.

use std::net::IpAddr;

use rtnetlink::packet_core::NLM_F_CREATE;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::KernelError;
use super::request::Kernel;

impl Kernel {
    /// Asks the kernel to find out (ARP, neighbour discovery) or confirm a neighbour's Ethernet address, as
    /// if it had a packet for it (`NTF_USE`, `neigh_add` in `net/core/neighbour.c`): an unknown or failed one
    /// is asked for at once, a stale one is asked for again after the kernel's delay, a fresh one is left
    /// alone. The answer comes as an event to [`super::KernelFollower`].
    ///
    /// The kernel sees nothing of what the switch sends, so this is to be called again while a neighbour is
    /// in use.
    ///
    /// # Errors
    /// [`KernelError`] if there is no such interface, it is down, or the request is refused.
    pub async fn request_resolution(&self, ifindex: u32, address: IpAddr) -> Result<(), KernelError> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = ifindex;
        message.header.flags = NeighbourFlags::Use;
        message.header.state = NeighbourState::None;
        let destination = match address {
            IpAddr::V4(address) => {
                message.header.family = AddressFamily::Inet;
                NeighbourAddress::Inet(address)
            }
            IpAddr::V6(address) => {
                message.header.family = AddressFamily::Inet6;
                NeighbourAddress::Inet6(address)
            }
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(destination));
        let action =
            format!("asking the kernel to resolve neighbour {address} on interface number {ifindex}");
        self.change(&action, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
            .await
    }
}
