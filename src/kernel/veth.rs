//! Making veth pairs.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::error::KernelError;
use super::names::check_interface_name;
use super::namespace::Namespace;
use super::request::Kernel;
use super::state::{InterfaceAddress, MacAddr};
use super::sysctl::{Family, Setting};

/// One end of a veth pair to be made.
#[derive(Debug)]
pub(super) struct VethEnd<'a> {
    pub(super) name: &'a str,
    /// `None`: the kernel chooses one at random.
    pub(super) mac: Option<MacAddr>,
}

/// A veth pair to be made.
#[derive(Debug)]
pub(super) struct VethPair<'a> {
    /// The end in this namespace.
    pub(super) near: VethEnd<'a>,
    pub(super) far: VethEnd<'a>,
    /// Where the far end goes; `None` for this namespace.
    pub(super) far_namespace: Option<&'a Namespace>,
    pub(super) mtu: u32,
    /// Receive queues, and as many transmit queues, of each end.
    pub(super) queues: u32,
}

/// A prefix of full length: the address alone.
pub(super) fn host_prefix(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

impl Kernel {
    /// Makes a veth pair, both ends down. The kernel makes all of it or nothing; the far end is born in its
    /// namespace, under its own name.
    pub(super) async fn create_veth(&self, pair: &VethPair<'_>) -> Result<(), KernelError> {
        check_interface_name(pair.near.name)?;
        check_interface_name(pair.far.name)?;
        let mut far = end_message(&pair.far, pair);
        if let Some(namespace) = pair.far_namespace {
            far.attributes
                .push(LinkAttribute::NetNsFd(namespace.file.as_raw_fd()));
        }
        let mut near = end_message(&pair.near, pair);
        near.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
        ]));
        let action = format!(
            "making the veth pair {} and {} with MTU {} and {} queues",
            pair.near.name, pair.far.name, pair.mtu, pair.queues
        );
        match self
            .change(
                &action,
                RouteNetlinkMessage::NewLink(near),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .await
        {
            Err(error) if error.is(Errno::EEXIST) => Err(self.which_exists(pair).await?),
            done => done,
        }
    }

    /// Says which end's name is taken.
    async fn which_exists(&self, pair: &VethPair<'_>) -> Result<KernelError, KernelError> {
        let here = "this network namespace";
        let (name, place) = if self.find_link(pair.near.name).await?.is_some() {
            (pair.near.name, here.to_owned())
        } else {
            let place = pair.far_namespace.map_or_else(
                || here.to_owned(),
                |namespace| format!("network namespace {}", namespace.path.display()),
            );
            (pair.far.name, place)
        };
        Ok(KernelError::InterfaceExists {
            name: name.to_owned(),
            place,
        })
    }

    /// Gives an interface an address with a prefix of full length. One that it has already is no error.
    pub(super) async fn add_host_address(
        &self,
        interface: &str,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<(), KernelError> {
        self.add_address(interface, ifindex, host_prefix(address)).await
    }

    /// Gives an interface an address with its prefix. One that it has already is no error.
    pub(super) async fn add_address(
        &self,
        interface: &str,
        ifindex: u32,
        address: IpNet,
    ) -> Result<(), KernelError> {
        let action = format!("giving interface {interface} the address {address}");
        let message = address_message(ifindex, address);
        match self
            .change(
                &action,
                RouteNetlinkMessage::NewAddress(message),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .await
        {
            Err(error) if error.is(Errno::EEXIST) => Ok(()),
            done => done,
        }
    }

    /// Takes an address from an interface. One that it has not is no error.
    pub(super) async fn remove_address(
        &self,
        interface: &str,
        gone: &InterfaceAddress,
    ) -> Result<(), KernelError> {
        let action = format!("taking the address {} from interface {interface}", gone.address);
        let message = address_message(gone.ifindex, gone.address);
        match self
            .change(&action, RouteNetlinkMessage::DelAddress(message), 0)
            .await
        {
            Err(error) if error.is(Errno::EADDRNOTAVAIL) => Ok(()),
            done => done,
        }
    }

    /// The addresses of an interface.
    pub(super) async fn addresses_of(&self, ifindex: u32) -> Result<Vec<InterfaceAddress>, KernelError> {
        let action = format!("reading the addresses of interface number {ifindex}");
        let mut message = AddressMessage::default();
        message.header.index = ifindex;
        let answers = self
            .dump(&action, &RouteNetlinkMessage::GetAddress(message))
            .await?;
        let addresses = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(found) => super::message::address(found),
            _ => None,
        });
        Ok(addresses.filter(|address| address.ifindex == ifindex).collect())
    }
}

/// Checks that each can be an interface's own address: the kernel takes some that cannot.
pub(super) fn check_unicast(subject: &str, addresses: &[IpAddr]) -> Result<(), KernelError> {
    let wrong = addresses.iter().find(|address| {
        let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        address.is_multicast() || address.is_unspecified() || address.is_loopback() || broadcast
    });
    match wrong {
        None => Ok(()),
        Some(address) => Err(KernelError::InvalidSpec {
            subject: subject.to_owned(),
            reason: format!("{address} has to be a unicast address, and not a loopback one"),
        }),
    }
}

/// Turns IPv6 on an interface of the calling thread's namespace off or on. Off, it has no link-local address
/// and sends no router solicitations or multicast reports. Where IPv6 is not there, nothing is done.
pub(super) fn set_ipv6(interface: &str, on: bool) -> Result<(), KernelError> {
    let setting = Setting::of_interface(Family::V6, interface, "disable_ipv6")?;
    setting.write_if_present(if on { "0" } else { "1" }).map(|_| ())
}

fn end_message(end: &VethEnd<'_>, pair: &VethPair<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.extend([
        LinkAttribute::IfName(end.name.to_owned()),
        LinkAttribute::Mtu(pair.mtu),
        LinkAttribute::NumTxQueues(pair.queues),
        LinkAttribute::NumRxQueues(pair.queues),
    ]);
    if let Some(mac) = end.mac {
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
    }
    message
}

fn address_message(ifindex: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.header.prefix_len = address.prefix_len();
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    match address {
        IpNet::V4(_) => message.header.family = AddressFamily::Inet,
        IpNet::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // The other end is the switch, which has no address that could clash: usable at once (RFC 4862,
            // 5.4).
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    message
}
