//! Asking the kernel to resolve a neighbour, or telling it one.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::KernelError;
use super::request::Kernel;
use super::state::MacAddr;

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
        let mut message = neighbour(ifindex, address);
        message.header.flags = NeighbourFlags::Use;
        message.header.state = NeighbourState::None;
        let action =
            format!("asking the kernel to resolve neighbour {address} on interface number {ifindex}");
        self.change(&action, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
            .await
    }

    /// Tells the kernel a neighbour's Ethernet address for good: it never asks for it.
    ///
    /// # Errors
    /// [`KernelError`] if there is no such interface, or the request is refused.
    pub(super) async fn pin_neighbour(
        &self,
        interface: &str,
        ifindex: u32,
        address: IpAddr,
        mac: MacAddr,
    ) -> Result<(), KernelError> {
        let mut message = neighbour(ifindex, address);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let action = format!("telling the kernel neighbour {address} on interface {interface}");
        let message = RouteNetlinkMessage::NewNeighbour(message);
        self.change(&action, message, NLM_F_CREATE | NLM_F_REPLACE).await
    }
}

fn neighbour(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
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
    message
}
