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
    /// A neighbour that somebody has fixed (permanent, or on a link without ARP) is left alone: since Linux
    /// 5.16 such a request takes the permanent mark away (`__neigh_update`), and the kernel would ask for, and
    /// lose, what an administrator has set.
    ///
    /// The kernel sees nothing of what the switch sends, so this is to be called again while a neighbour is
    /// in use.
    ///
    /// # Errors
    /// [`KernelError`] if there is no such interface, it is down, or the request is refused.
    pub async fn request_resolution(&self, ifindex: u32, address: IpAddr) -> Result<(), KernelError> {
        if self.is_fixed(ifindex, address).await? {
            return Ok(());
        }
        let mut message = neighbour(ifindex, address);
        message.header.flags = NeighbourFlags::Use;
        message.header.state = NeighbourState::None;
        let action =
            format!("asking the kernel to resolve neighbour {address} on interface number {ifindex}");
        self.change(&action, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
            .await
    }

    /// Whether the kernel has the neighbour and never asks for it.
    async fn is_fixed(&self, ifindex: u32, address: IpAddr) -> Result<bool, KernelError> {
        let action = format!("reading neighbour {address} on interface number {ifindex}");
        let request = RouteNetlinkMessage::GetNeighbour(neighbour(ifindex, address));
        let answers = match self.ask(&action, request, 0).await {
            Ok(answers) => answers,
            // One that is not there, or on no such interface, is not fixed; what is wrong shows when it is asked for.
            Err(KernelError::Refused { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(answers.iter().any(|answer| {
            let RouteNetlinkMessage::NewNeighbour(found) = answer else {
                return false;
            };
            matches!(
                found.header.state,
                NeighbourState::Permanent | NeighbourState::Noarp
            )
        }))
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

/// A message about a neighbour, with nothing but its interface and address.
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
