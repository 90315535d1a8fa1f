//! Reading and changing single interfaces.

use nix::errno::Errno;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};

use super::error::KernelError;
use super::message;
use super::names::check_interface_name;
use super::request::Kernel;
use super::state::{Link, MacAddr};

/// The kind of a virtual Ethernet pair's ends.
pub(super) const VETH: &str = "veth";

impl Kernel {
    /// The interface of this name, or `None` if there is none.
    ///
    /// # Errors
    /// [`KernelError`] for an impossible name or a refused request.
    pub async fn find_link(&self, name: &str) -> Result<Option<Link>, KernelError> {
        let message = named(name)?;
        self.get_link(&format!("reading interface {name}"), message).await
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// [`KernelError::NoInterface`] if there is none, otherwise as [`Self::find_link`].
    pub async fn link_by_name(&self, name: &str) -> Result<Link, KernelError> {
        self.find_link(name)
            .await?
            .ok_or_else(|| KernelError::NoInterface {
                name: name.to_owned(),
            })
    }

    /// The interface of this number, or `None` if there is none.
    ///
    /// # Errors
    /// [`KernelError`] for a refused request.
    pub async fn link_by_index(&self, ifindex: u32) -> Result<Option<Link>, KernelError> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        self.get_link(&format!("reading interface number {ifindex}"), message)
            .await
    }

    /// The other end of a veth, when it is in this namespace.
    ///
    /// # Errors
    /// [`KernelError`] for a refused request.
    pub async fn peer_of(&self, link: &Link) -> Result<Option<Link>, KernelError> {
        match link.peer_ifindex {
            Some(ifindex) if !link.peer_elsewhere => self.link_by_index(ifindex).await,
            _ => Ok(None),
        }
    }

    /// Removes an interface; of a veth the other end goes with it. Says whether there was one.
    ///
    /// # Errors
    /// [`KernelError`] for an impossible name or a refused request.
    pub async fn delete_link(&self, name: &str) -> Result<bool, KernelError> {
        let message = RouteNetlinkMessage::DelLink(named(name)?);
        match self
            .change(&format!("removing interface {name}"), message, 0)
            .await
        {
            Ok(()) => Ok(true),
            Err(error) if error.is(Errno::ENODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// [`KernelError`] for an impossible name or a refused request.
    pub async fn set_up(&self, name: &str, up: bool) -> Result<(), KernelError> {
        let mut message = named(name)?;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        let action = format!("setting interface {name} {}", if up { "up" } else { "down" });
        self.change(&action, RouteNetlinkMessage::SetLink(message), 0)
            .await
    }

    /// Sets the longest packet, in bytes without the Ethernet header, that an interface takes.
    ///
    /// # Errors
    /// [`KernelError`] for an impossible name or a refused request.
    pub async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), KernelError> {
        let mut message = named(name)?;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        let action = format!("setting the MTU of interface {name} to {mtu}");
        self.change(&action, RouteNetlinkMessage::SetLink(message), 0)
            .await
    }

    /// Sets an interface's Ethernet address.
    ///
    /// # Errors
    /// [`KernelError`] for an impossible name or a refused request.
    pub async fn set_mac(&self, name: &str, mac: MacAddr) -> Result<(), KernelError> {
        let mut message = named(name)?;
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        let action = format!("setting the Ethernet address of interface {name}");
        self.change(&action, RouteNetlinkMessage::SetLink(message), 0)
            .await
    }

    async fn get_link(&self, action: &str, mut message: LinkMessage) -> Result<Option<Link>, KernelError> {
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers = match self.ask(action, RouteNetlinkMessage::GetLink(message), 0).await {
            Ok(answers) => answers,
            Err(error) if error.is(Errno::ENODEV) => return Ok(None),
            Err(error) => return Err(error),
        };
        let link = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(found) => message::link(found),
            _ => None,
        });
        link.map(Some).ok_or_else(|| KernelError::Protocol {
            action: action.to_owned(),
            detail: "the kernel's answer holds no interface".to_owned(),
        })
    }
}

/// A link message about the interface of this name.
fn named(name: &str) -> Result<LinkMessage, KernelError> {
    check_interface_name(name)?;
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Ok(message)
}
