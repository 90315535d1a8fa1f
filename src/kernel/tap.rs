//! Tap devices: a virtual machine's end of a port.

use millrace_dataplane::port::tun;

use super::error::KernelError;
use super::names::check_interface_name;
use super::request::Kernel;
use super::state::Link;
use super::veth::set_ipv6;

/// The kind of tun and tap devices, as the kernel names it.
const TUN: &str = "tun";

/// The tap device that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapWish {
    /// Its name.
    pub name: String,
    /// The only user that may open it, where it is made.
    pub user: Option<u32>,
    /// The only group that may, where it is made.
    pub group: Option<u32>,
    /// The longest packet in bytes, without the Ethernet header.
    pub mtu: u32,
}

impl Kernel {
    /// Sees that a tap device is there, of one queue, down, without IPv6 and with this MTU. One that is there already is taken as
    /// it is, whoever made it. Says whether it was made.
    ///
    /// It is made in the network namespace of the calling thread, which has to be this connection's.
    ///
    /// # Errors
    /// [`KernelError::WrongInterface`] if an interface of this name is something else or serves somebody else; otherwise the step
    /// that failed. What was made is removed then.
    pub async fn ensure_tap(&self, wish: &TapWish) -> Result<(Link, bool), KernelError> {
        check_interface_name(&wish.name)?;
        let found = self.find_link(&wish.name).await?;
        let is_new = found.is_none();
        match found {
            Some(link) => check_tap(&link)?,
            None => {
                tun::make_tap(&wish.name, wish.user, wish.group).map_err(|source| KernelError::Socket {
                    action: format!("making the tap device {}", wish.name),
                    source,
                })?
            }
        }
        match self.prepare_tap(wish).await {
            Ok(link) => Ok((link, is_new)),
            Err(error) => {
                if is_new {
                    self.remove_after_failure(&wish.name).await;
                }
                Err(error)
            }
        }
    }

    async fn prepare_tap(&self, wish: &TapWish) -> Result<Link, KernelError> {
        // The node itself has no business on it: no address, no router solicitation.
        set_ipv6(&wish.name, false)?;
        let link = self.link_by_name(&wish.name).await?;
        check_tap(&link)?;
        if link.mtu != wish.mtu {
            self.set_mtu(&wish.name, wish.mtu).await?;
        }
        self.link_by_name(&wish.name).await
    }

    /// Removes a tap device. Says whether there was one; an interface of another kind that has its name now is left alone.
    ///
    /// # Errors
    /// [`KernelError`] for an impossible name or a refused request.
    pub async fn remove_tap(&self, name: &str) -> Result<bool, KernelError> {
        match self.find_link(name).await? {
            Some(link) if is_tap(&link) => self.delete_link(name).await,
            Some(_) | None => Ok(false),
        }
    }
}

/// Of a tun device the kernel tells no Ethernet address.
fn is_tap(link: &Link) -> bool {
    link.kind.as_deref() == Some(TUN) && link.mac.is_some()
}

fn check_tap(link: &Link) -> Result<(), KernelError> {
    let found = if !is_tap(link) {
        link.kind
            .clone()
            .unwrap_or_else(|| "a hardware device".to_owned())
    } else if link.controller.is_some() {
        "a port of a bridge".to_owned()
    } else if link.rx_queues != 1 {
        format!("a tap device of {} queues", link.rx_queues)
    } else {
        return Ok(());
    };
    Err(KernelError::WrongInterface {
        name: link.name.clone(),
        found,
        wanted: "a tap device of one queue that serves nobody else".to_owned(),
    })
}
