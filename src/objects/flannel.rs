//! flannel's lease: the annotations of a Node that tell its peers how to reach its pods.
//!
//! The names and forms are those of flannel's `kube` subnet manager and its `vxlan` and `ipip` backends, so
//! that a cluster can be moved node by node.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use super::address::{MacError, UnicastMac, Vni, VniError};
use super::name::NodeName;

/// `"true"` on a node that takes part; flannel ignores every node without it.
pub const KUBE_SUBNET_MANAGER: &str = "flannel.alpha.coreos.com/kube-subnet-manager";
/// Name of the backend: `vxlan`, `ipip`, or one that this program does not speak.
pub const BACKEND_TYPE: &str = "flannel.alpha.coreos.com/backend-type";
/// The backend's data for the IPv4 overlay, see [`encode_backend_data`].
pub const BACKEND_DATA: &str = "flannel.alpha.coreos.com/backend-data";
/// The backend's data for the IPv6 overlay, in the same form.
pub const BACKEND_V6_DATA: &str = "flannel.alpha.coreos.com/backend-v6-data";
/// IPv4 address at which the node takes tunnel packets.
pub const PUBLIC_IP: &str = "flannel.alpha.coreos.com/public-ip";
/// IPv6 address at which the node takes tunnel packets.
pub const PUBLIC_IPV6: &str = "flannel.alpha.coreos.com/public-ipv6";
/// Input of the operator: IPv4 address that the node is to publish instead of the one it found.
pub const PUBLIC_IP_OVERWRITE: &str = "flannel.alpha.coreos.com/public-ip-overwrite";
/// Input of the operator: IPv6 address that the node is to publish instead of the one it found.
pub const PUBLIC_IPV6_OVERWRITE: &str = "flannel.alpha.coreos.com/public-ipv6-overwrite";
/// Input of the operator: IPv4 address of the node that it is to take tunnel packets at, and to publish.
pub const NODE_PUBLIC_IP: &str = "flannel.alpha.coreos.com/node-public-ip";
/// Input of the operator: IPv6 address of the node that it is to take tunnel packets at, and to publish.
pub const NODE_PUBLIC_IPV6: &str = "flannel.alpha.coreos.com/node-public-ipv6";

/// Value of [`BACKEND_TYPE`] for VXLAN.
pub const BACKEND_VXLAN: &str = "vxlan";
/// Value of [`BACKEND_TYPE`] for IP-in-IP.
pub const BACKEND_IPIP: &str = "ipip";
/// Value of [`BACKEND_DATA`] for IP-in-IP: flannel's backend has no data and writes the JSON literal.
pub const BACKEND_DATA_IPIP: &str = "null";

/// First octet of a derived VtepMAC: locally administered, unicast.
const DERIVED_MAC_PREFIX: u8 = 0x66;

/// Family of an overlay: the addresses of the *pods* that it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Family {
    /// IPv4 pods.
    V4,
    /// IPv6 pods.
    V6,
}

/// What the annotations of a participating node say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlannelLease {
    /// [`PUBLIC_IP`], if given.
    pub public_ip_v4: Option<Ipv4Addr>,
    /// [`PUBLIC_IPV6`], if given.
    pub public_ip_v6: Option<Ipv6Addr>,
    /// [`BACKEND_TYPE`] with what belongs to it.
    pub backend: Backend,
}

/// The kind of tunnel at which a node takes packets for its pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Backend {
    /// VXLAN, with one tunnel endpoint per family.
    Vxlan {
        /// From [`BACKEND_DATA`].
        v4: Option<VxlanLease>,
        /// From [`BACKEND_V6_DATA`].
        v6: Option<VxlanLease>,
    },
    /// IP-in-IP (RFC 2003), IPv4 only.
    Ipip,
    /// A backend that this program does not speak, by its name; empty if the annotation is absent.
    Unknown(String),
}

/// One VXLAN tunnel endpoint, as a peer published it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct VxlanLease {
    /// Network identifier; absent in the data of old flannel versions.
    pub vni: Option<Vni>,
    /// Destination of the inner Ethernet header of packets to this node.
    pub vtep_mac: UnicastMac,
}

/// [`BACKEND_DATA`] as JSON; other fields are ignored, as flannel does.
#[derive(Deserialize)]
struct BackendData {
    #[serde(rename = "VNI")]
    vni: Option<u32>,
    #[serde(rename = "VtepMAC")]
    vtep_mac: Option<String>,
}

/// A value of [`BACKEND_DATA`] or [`BACKEND_V6_DATA`] that describes no tunnel endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendDataError {
    /// Not JSON of the expected shape; carries the parser's words.
    #[error("it is no JSON of the form {{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:01:01\"}} ({0})")]
    Form(String),
    /// There is no `VtepMAC`.
    #[error("it has no VtepMAC")]
    NoMac,
    /// `VtepMAC` is no unicast address.
    #[error("VtepMAC: {0}")]
    Mac(#[from] MacError),
    /// `VNI` is out of range.
    #[error("VNI: {0}")]
    Vni(#[from] VniError),
}

/// Reads [`BACKEND_DATA`] or [`BACKEND_V6_DATA`] of a `vxlan` node: any JSON spelling, unknown fields
/// ignored, `VNI` optional.
///
/// # Errors
/// [`BackendDataError`] with what is wrong in it.
pub fn decode_backend_data(text: &str) -> Result<VxlanLease, BackendDataError> {
    let data: Option<BackendData> =
        serde_json::from_str(text).map_err(|error| BackendDataError::Form(error.to_string()))?;
    let data = data.ok_or(BackendDataError::NoMac)?;
    let vtep_mac = data.vtep_mac.ok_or(BackendDataError::NoMac)?.parse()?;
    let vni = data.vni.map(Vni::new).transpose()?;
    Ok(VxlanLease { vni, vtep_mac })
}

/// Writes [`BACKEND_DATA`] byte for byte as Go's JSON encoder does for flannel: fields in this order, no
/// space, lower-case MAC. flannel splits the string at `:"` rather than parse it, so no other spelling will
/// do.
#[must_use]
pub fn encode_backend_data(vni: Vni, vtep_mac: UnicastMac) -> String {
    format!(r#"{{"VNI":{vni},"VtepMAC":"{vtep_mac}"}}"#)
}

/// Derives the VtepMAC of a node that has published none: `0x66`, then the first five bytes of SHA-1(node
/// name), for the IPv6 overlay of SHA-1(node name + `-v6`).
///
/// This is Calico's rule for its VXLAN device, so the result is stable over restarts and reinstallations,
/// differs between nodes and families, and is what a Calico peer would expect anyway. The prefix makes it
/// locally administered and unicast.
#[must_use]
pub fn derive_vtep_mac(node: &NodeName, family: Family) -> UnicastMac {
    let mut hash = Sha1::new();
    hash.update(node.as_str());
    if family == Family::V6 {
        hash.update("-v6");
    }
    let digest: [u8; 20] = hash.finalize().into();
    let [a, b, c, d, e, ..] = digest;
    // INVARIANT: the prefix has the group bit clear and is not zero, which is all that `UnicastMac::new` asks
    // for.
    #[allow(clippy::expect_used)]
    UnicastMac::new([DERIVED_MAC_PREFIX, a, b, c, d, e]).expect("0x66 begins a unicast address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emits_what_go_emits() {
        let text = encode_backend_data(Vni::FLANNEL, "AA:BB:cc:dd:ee:0F".parse().unwrap());
        assert_eq!(text, "{\"VNI\":1,\"VtepMAC\":\"aa:bb:cc:dd:ee:0f\"}");
        let windows = encode_backend_data(Vni::new(4096).unwrap(), "02:00:00:00:01:01".parse().unwrap());
        assert_eq!(
            windows.as_bytes(),
            br#"{"VNI":4096,"VtepMAC":"02:00:00:00:01:01"}"#
        );
        assert_eq!(
            decode_backend_data(&windows).unwrap().vni,
            Some(Vni::new(4096).unwrap())
        );
    }

    #[test]
    fn reads_leniently() {
        let good: &[(&str, Option<u32>, &str)] = &[
            (
                r#"{"VNI":1,"VtepMAC":"02:00:00:00:01:01"}"#,
                Some(1),
                "02:00:00:00:01:01",
            ),
            (
                r#" { "VtepMAC" : "02:00:00:00:01:01", "Other": [1] } "#,
                None,
                "02:00:00:00:01:01",
            ),
            (
                r#"{"VNI":null,"VtepMAC":"AA:00:00:00:01:01"}"#,
                None,
                "aa:00:00:00:01:01",
            ),
        ];
        for (text, vni, mac) in good {
            let lease = decode_backend_data(text).unwrap();
            assert_eq!(
                (lease.vni.map(Vni::get), lease.vtep_mac.to_string().as_str()),
                (*vni, *mac),
                "{text}"
            );
        }
        let bad: &[(&str, &str)] = &[
            ("null", "it has no VtepMAC"),
            ("{}", "it has no VtepMAC"),
            ("", "it is no JSON"),
            ("{\"VNI\":1", "it is no JSON"),
            (r#"{"VNI":"1","VtepMAC":"02:00:00:00:01:01"}"#, "it is no JSON"),
            (r#"{"VNI":0,"VtepMAC":"02:00:00:00:01:01"}"#, "VNI: 0 is no"),
            (
                r#"{"VNI":16777216,"VtepMAC":"02:00:00:00:01:01"}"#,
                "VNI: 16777216 is no",
            ),
            (
                r#"{"VNI":1,"VtepMAC":"03:00:00:00:01:01"}"#,
                "VtepMAC: 03:00:00:00:01:01 is a group",
            ),
            (r#"{"VNI":1,"VtepMAC":"nonsense"}"#, "VtepMAC: `nonsense` is no"),
        ];
        for (text, words) in bad {
            let error = decode_backend_data(text).unwrap_err().to_string();
            assert!(error.starts_with(words), "{text}: {error}");
        }
    }

    #[test]
    fn derived_mac_is_stable() {
        let node = NodeName::new("node-a").unwrap();
        // Judge: the first ten digits of `printf node-a | sha1sum` and `printf node-a-v6 | sha1sum`.
        let v4 = derive_vtep_mac(&node, Family::V4);
        let v6 = derive_vtep_mac(&node, Family::V6);
        assert_eq!(v4.to_string(), "66:07:02:c1:cc:60");
        assert_eq!(v6.to_string(), "66:d4:d5:51:3d:42");
    }
}
