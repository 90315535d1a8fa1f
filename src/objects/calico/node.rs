//! Calico's annotations of a Node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Serialize;

use crate::objects::address::UnicastMac;
use crate::objects::fault::Fault;
use crate::objects::flannel::Family;
use crate::objects::node::read_address;

/// The node's IPv4 address, with or without the length of its subnet's prefix.
const IPV4_ADDRESS: &str = "projectcalico.org/IPv4Address";
/// The node's IPv6 address.
const IPV6_ADDRESS: &str = "projectcalico.org/IPv6Address";
/// Its address on `tunl0`.
const IPIP_ADDRESS: &str = "projectcalico.org/IPv4IPIPTunnelAddr";
/// Its address on `vxlan.calico`.
const VXLAN_ADDRESS: &str = "projectcalico.org/IPv4VXLANTunnelAddr";
/// Its address on `vxlan-v6.calico`.
const VXLAN_V6_ADDRESS: &str = "projectcalico.org/IPv6VXLANTunnelAddr";
/// The MAC address of `vxlan.calico`, where it is not the derived one.
const VXLAN_MAC: &str = "projectcalico.org/VXLANTunnelMACAddr";
/// The MAC address of `vxlan-v6.calico`, where it is not the derived one.
const VXLAN_V6_MAC: &str = "projectcalico.org/VXLANTunnelMACAddrV6";

/// What Calico's annotations say of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CalicoNode {
    /// Its IPv4 address and, if it is said, its subnet; a `/32` says none.
    pub ipv4: Option<IpNet>,
    /// Its IPv6 address, likewise.
    pub ipv6: Option<IpNet>,
    /// Its own addresses in the overlay.
    pub ipip_address: Option<Ipv4Addr>,
    /// As [`Self::ipip_address`], for VXLAN.
    pub vxlan_address: Option<Ipv4Addr>,
    /// As [`Self::vxlan_address`], for IPv6.
    pub vxlan_address_v6: Option<Ipv6Addr>,
    /// The MAC address of its VXLAN device for IPv4 pods, if it is not the derived one.
    pub vxlan_mac: Option<UnicastMac>,
    /// As [`Self::vxlan_mac`], for IPv6 pods.
    pub vxlan_mac_v6: Option<UnicastMac>,
}

impl CalicoNode {
    /// Reads the annotations that `get` knows by their names; `None` if none of them is Calico's.
    ///
    /// # Errors
    /// [`Fault`] with the annotation that makes no sense.
    pub(in crate::objects) fn read<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Self>, Fault> {
        let node = Self {
            ipv4: interface(&get, IPV4_ADDRESS, "IPv4", IpAddr::is_ipv4)?,
            ipv6: interface(&get, IPV6_ADDRESS, "IPv6", IpAddr::is_ipv6)?,
            ipip_address: address(&get, IPIP_ADDRESS, "IPv4")?,
            vxlan_address: address(&get, VXLAN_ADDRESS, "IPv4")?,
            vxlan_address_v6: address(&get, VXLAN_V6_ADDRESS, "IPv6")?,
            vxlan_mac: mac(&get, VXLAN_MAC)?,
            vxlan_mac_v6: mac(&get, VXLAN_V6_MAC)?,
        };
        Ok((node != Self::default()).then_some(node))
    }

    /// The MAC address of its VXLAN device for a family of pods, if it is not the derived one.
    #[must_use]
    pub fn mac(&self, family: Family) -> Option<UnicastMac> {
        match family {
            Family::V4 => self.vxlan_mac,
            Family::V6 => self.vxlan_mac_v6,
        }
    }

    /// The node's address of a family.
    #[must_use]
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.interface(family).map(|net| net.addr())
    }

    /// Whether an address is on the node's own subnet; `None` if it has not said what that is.
    #[must_use]
    pub fn is_near(&self, address: IpAddr) -> Option<bool> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let net = self.interface(family)?;
        (net.prefix_len() < net.max_prefix_len()).then(|| net.contains(&address))
    }

    fn interface(&self, family: Family) -> Option<IpNet> {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }

    /// The node's own addresses in the overlay.
    pub fn tunnel_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let v4 = [self.ipip_address, self.vxlan_address].map(|address| address.map(IpAddr::V4));
        let v6 = self.vxlan_address_v6.map(IpAddr::V6);
        v4.into_iter().flatten().chain(v6)
    }
}

fn address<'a, A>(
    get: &impl Fn(&str) -> Option<&'a str>,
    name: &str,
    wanted: &'static str,
) -> Result<Option<A>, Fault>
where
    A: FromStr + Into<IpAddr> + Copy,
{
    get(name).map(|text| read_address(name, text, wanted)).transpose()
}

/// An address with or without a prefix length behind it.
fn interface<'a>(
    get: &impl Fn(&str) -> Option<&'a str>,
    name: &str,
    wanted: &'static str,
    is_wanted: fn(&IpAddr) -> bool,
) -> Result<Option<IpNet>, Fault> {
    let Some(text) = get(name) else { return Ok(None) };
    let wrong = || Fault::Address {
        field: name.to_owned(),
        value: text.to_owned(),
        wanted,
    };
    let plain = text.split_once('/').map_or(text, |(address, _)| address);
    let address: IpAddr = read_address(name, plain, wanted)?;
    if !is_wanted(&address) {
        return Err(wrong());
    }
    let net = match text.contains('/') {
        true => text.parse().map_err(|_| wrong())?,
        false => IpNet::from(address),
    };
    Ok(Some(net))
}

fn mac<'a>(get: &impl Fn(&str) -> Option<&'a str>, name: &'static str) -> Result<Option<UnicastMac>, Fault> {
    let Some(text) = get(name) else { return Ok(None) };
    let mac = text.parse().map_err(|error| Fault::Mac {
        annotation: name,
        error,
    })?;
    Ok(Some(mac))
}
