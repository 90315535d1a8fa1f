//! The stand-in for an ipip device: a tun device by which a routing daemon lets routes lead.

use std::net::IpAddr;

use super::error::KernelError;
use super::request::Kernel;
use super::veth::{check_unicast, set_ipv6};

/// The kind of a tun device, as the kernel names it.
const TUN: &str = "tun";

impl Kernel {
    /// Sets a tun device up as a stand-in: with this MTU in bytes, these addresses besides those that it has, and without
    /// IPv6, which IP in IP does not carry.
    ///
    /// # Errors
    /// [`KernelError::NoInterface`], or the step that failed.
    pub async fn set_up_stand_in(
        &self,
        name: &str,
        mtu: u32,
        addresses: &[IpAddr],
    ) -> Result<(), KernelError> {
        check_unicast(name, addresses)?;
        let link = self.link_by_name(name).await?;
        set_ipv6(name, false)?;
        if link.mtu != mtu {
            self.set_mtu(name, mtu).await?;
        }
        for address in addresses.iter().filter(|address| address.is_ipv4()) {
            self.add_host_address(name, link.ifindex, *address).await?;
        }
        if !link.up {
            self.set_up(name, true).await?;
        }
        Ok(())
    }

    /// Removes a stand-in. Says whether there was one; an interface of another kind that has its name now is left alone.
    ///
    /// # Errors
    /// [`KernelError`] for an impossible name or a refused request.
    pub async fn remove_stand_in(&self, name: &str) -> Result<bool, KernelError> {
        match self.find_link(name).await? {
            Some(link) if link.kind.as_deref() == Some(TUN) => self.delete_link(name).await,
            Some(_) | None => Ok(false),
        }
    }
}
