//! `[overlay]`: the tunnels to the other nodes.

use std::num::NonZeroU16;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::portless::PortlessProtocols;
use super::value::{Choice, InterfaceName, Ranged, choice};
use crate::objects::{Network, NetworkChoice, Vni};

/// flannel's port on Linux, older than the one that IANA gave VXLAN.
const FLANNEL_PORT: NonZeroU16 = NonZeroU16::new(8472).unwrap();
/// IANA's port, which Calico takes, and flannel where there are Windows nodes.
const CALICO_PORT: NonZeroU16 = NonZeroU16::new(4789).unwrap();

/// The name that the kernel's own module gives to its device.
const IPIP_DEVICE: &str = "tunl0";

/// `[overlay]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct Overlay {
    /// `network`: whose objects say which node has which pods' addresses, and how they are reached. Default `auto`: by what
    /// this node's Node says.
    #[serde(deserialize_with = "choice")]
    pub network: NetworkChoice,
    /// `kind`: in flannel's network, the tunnel in which pods' packets travel to other nodes. Default `vxlan`.
    #[serde(deserialize_with = "choice")]
    pub kind: OverlayKind,
    /// `vni`: network identifier of VXLAN, within 1..=16777215. Default 1, as in flannel; 4096 where there
    /// are Windows nodes and with Calico.
    #[serde(deserialize_with = "vni", skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// `port`: UDP port of VXLAN, within 1..=65535. Default 8472, as in flannel; 4789 where there are Windows
    /// nodes and with Calico.
    #[serde(deserialize_with = "udp_port", skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// `direct-routing`: whether, in flannel's network, packets go as they are to nodes on the uplink's own subnet, and come so
    /// from them, as with flannel's `DirectRouting`. Default false.
    pub direct_routing: bool,
    /// `masquerade`: whether packets of this node's pods to anyone outside the cluster leave with the node's own
    /// address, as with flannel's `--ip-masq`; in Calico's network, those of pools with `natOutgoing`. Default true.
    pub masquerade: bool,
    /// `masquerade-protocols`: protocols without ports in which pods may do so too, by name (`gre`, `esp`, `ipv6`, `l2tp`)
    /// or number. Answers are known by their sender and protocol alone, so it must be protocols that the node
    /// itself does not use. Default none: such packets do not leave.
    pub masquerade_protocols: PortlessProtocols,
    /// `ipip-device`: name of the device by which a routing daemon's routes mean IP in IP to their next hop. Where the
    /// node has none of that name, a stand-in is made, a tun device. Default `tunl0` where `kind` is `ipip`, else none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipip_device: Option<InterfaceName>,
    /// `clamp-mss`: whether the largest segment that TCP connections through tunnels announce is lowered to what fits
    /// the tunnel, in both directions. Default true.
    pub clamp_mss: bool,
}

impl Overlay {
    /// The device by which routes mean IP in IP, if there is to be one.
    #[must_use]
    pub fn stand_in(&self) -> Option<InterfaceName> {
        match (&self.ipip_device, self.kind) {
            (Some(name), _) => Some(name.clone()),
            // INVARIANT: a name of five letters and digits is one.
            (None, OverlayKind::Ipip) => InterfaceName::new(IPIP_DEVICE).ok(),
            (None, OverlayKind::Vxlan) => None,
        }
    }

    /// The network identifier of VXLAN in a cluster network.
    #[must_use]
    pub fn vni_in(&self, network: Network) -> Vni {
        self.vni.unwrap_or(match network {
            Network::Flannel => Vni::FLANNEL,
            Network::Calico => Vni::CALICO,
        })
    }

    /// The UDP port of VXLAN in a cluster network.
    #[must_use]
    pub fn port_in(&self, network: Network) -> NonZeroU16 {
        self.port.unwrap_or(match network {
            Network::Flannel => FLANNEL_PORT,
            Network::Calico => CALICO_PORT,
        })
    }
}

impl Choice for NetworkChoice {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Auto, "auto"),
        (Self::Flannel, "flannel"),
        (Self::Calico, "calico"),
    ];
}

/// `kind`: the tunnel in which pods' packets travel to other nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OverlayKind {
    /// `vxlan`: VXLAN (RFC 7348).
    #[default]
    Vxlan,
    /// `ipip`: IP in IP (RFC 2003).
    Ipip,
}

impl Choice for OverlayKind {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Vxlan, "vxlan"), (Self::Ipip, "ipip")];
}

impl Default for Overlay {
    fn default() -> Self {
        Self {
            network: NetworkChoice::Auto,
            kind: OverlayKind::default(),
            vni: None,
            port: None,
            direct_routing: false,
            masquerade: true,
            masquerade_protocols: PortlessProtocols::default(),
            ipip_device: None,
            clamp_mss: true,
        }
    }
}

/// Reads a network identifier, with the range in the error.
fn vni<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vni>, D::Error> {
    let vni = Ranged::<1, { Vni::MAX as usize }>::deserialize(deserializer)?;
    let vni = u32::try_from(vni.get()).map_err(D::Error::custom)?;
    Vni::new(vni).map(Some).map_err(D::Error::custom)
}

/// Reads a UDP port, with the range in the error.
fn udp_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NonZeroU16>, D::Error> {
    let port = Ranged::<1, { u16::MAX as usize }>::deserialize(deserializer)?;
    let port = u16::try_from(port.get()).map_err(D::Error::custom)?;
    NonZeroU16::try_from(port).map(Some).map_err(D::Error::custom)
}
