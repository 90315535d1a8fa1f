//! What an interface's driver says that it can do with XDP, over the generic-netlink family `netdev`
//! ([kernel documentation](https://docs.kernel.org/networking/netlink_spec/netdev.html), Linux 6.3).

use rtnetlink::packet_core::DefaultNla;

use super::error::KernelError;
use super::generic::{GenericMessage, kind_of, value_of};
use super::request::Kernel;

/// The family's name.
const FAMILY_NAME: &str = "netdev";

/// Numbers of `linux/netdev.h`.
mod number {
    pub(super) const VERSION: u8 = 1;
    pub(super) const DEV_GET: u8 = 1;
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const XDP_FEATURES: u16 = 3;
    pub(super) const BASIC: u64 = 1;
    pub(super) const REDIRECT: u64 = 1 << 1;
    pub(super) const XSK_ZEROCOPY: u64 = 1 << 3;
    pub(super) const RX_SG: u64 = 1 << 5;
}

/// What a driver can do with XDP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Programs run in it (native XDP).
    pub basic: bool,
    /// They may hand packets to sockets.
    pub redirect: bool,
    /// AF_XDP without copying.
    pub zero_copy: bool,
    /// Packets may lie in several buffers.
    pub pieces: bool,
}

impl XdpFeatures {
    fn of(bits: u64) -> Self {
        let has = |bit| bits & bit != 0;
        Self {
            basic: has(number::BASIC),
            redirect: has(number::REDIRECT),
            zero_copy: has(number::XSK_ZEROCOPY),
            pieces: has(number::RX_SG),
        }
    }
}

impl Kernel {
    /// What the driver of the interface with this number can do with XDP; needs no privileges.
    ///
    /// # Errors
    /// A refused request; among the reasons is a kernel that does not tell.
    pub async fn xdp_features(&self, ifindex: u32) -> Result<XdpFeatures, KernelError> {
        let action = format!("reading the XDP features of interface number {ifindex}");
        let connection = self.ethtool.connection();
        let request = GenericMessage {
            family: connection.family_number(FAMILY_NAME).await?,
            command: number::DEV_GET,
            version: number::VERSION,
            attributes: vec![DefaultNla::new(number::IFINDEX, ifindex.to_ne_bytes().to_vec())],
        };
        let answers = connection.request(&action, request).await?;
        let bits = answers
            .iter()
            .flat_map(|answer| &answer.attributes)
            .find(|nla| kind_of(nla) == number::XDP_FEATURES)
            .and_then(|nla| value_of(nla).try_into().ok().map(u64::from_ne_bytes));
        bits.map(XdpFeatures::of).ok_or(KernelError::Protocol {
            action,
            detail: "the kernel's answer holds none".to_owned(),
        })
    }
}
