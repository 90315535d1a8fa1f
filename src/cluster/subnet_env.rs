//! `subnet.env`: the file by which flannel's CNI plugin knows this node's pod CIDRs, byte for byte as flannel writes it.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::lease::LeaseFacts;
use crate::durable::{self, DurableError, Rights};
use crate::objects::gateway_of;

const NETWORK: &str = "FLANNEL_NETWORK";
const IPV6_NETWORK: &str = "FLANNEL_IPV6_NETWORK";
/// Who may read the file, where there is none yet.
const MODE: u32 = 0o644;
/// Largest file that is read, in bytes.
const FILE_MAX_BYTES: u64 = 64 << 10;

/// Why the file is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubnetEnvError {
    #[error(transparent)]
    Write(#[from] DurableError),
    #[error(
        "{} is not written: nothing says what the cluster's {family} pod CIDR is; [kubernetes] pod-network would, as in pod-network = [\"10.244.0.0/16\"]",
        path.display()
    )]
    NoNetwork { path: PathBuf, family: &'static str },
}

/// The file, and what of it no object says.
#[derive(Debug, Clone)]
pub(super) struct SubnetEnv {
    pub(super) path: PathBuf,
    /// The cluster's pod CIDRs.
    pub(super) pod_network: Vec<IpNet>,
}

impl SubnetEnv {
    /// Writes the file unless it is as it should be; tells whether it was not.
    pub(super) fn keep(&self, facts: &LeaseFacts) -> Result<bool, SubnetEnvError> {
        let present = read(&self.path);
        let wanted = self.content(facts, &present)?;
        if present == wanted {
            return Ok(false);
        }
        // Whom flannel let read it may read it still.
        let mode = fs::metadata(&self.path).map_or(MODE, |metadata| metadata.mode() & 0o777);
        durable::replace(&self.path, Rights::Exactly(mode), |file| {
            file.write_all(wanted.as_bytes())
        })?;
        Ok(true)
    }

    /// What the file should hold.
    fn content(&self, facts: &LeaseFacts, present: &str) -> Result<String, SubnetEnvError> {
        let mut text = String::new();
        let families = [
            (
                facts.pod_cidr_v4.map(IpNet::V4),
                NETWORK,
                "FLANNEL_SUBNET",
                "IPv4",
            ),
            (
                facts.pod_cidr_v6.map(IpNet::V6),
                IPV6_NETWORK,
                "FLANNEL_IPV6_SUBNET",
                "IPv6",
            ),
        ];
        for (cidr, network_key, subnet_key, family) in families {
            let Some(cidr) = cidr else { continue };
            let network = self.network(cidr.addr(), network_key, present);
            let network = network.ok_or_else(|| SubnetEnvError::NoNetwork {
                path: self.path.clone(),
                family,
            })?;
            let subnet = format!("{}/{}", gateway_of(cidr), cidr.prefix_len());
            text.push_str(&format!("{network_key}={network}\n{subnet_key}={subnet}\n"));
        }
        text.push_str(&format!(
            "FLANNEL_MTU={}\nFLANNEL_IPMASQ={}\n",
            facts.mtu, facts.masquerade
        ));
        Ok(text)
    }

    /// The cluster's pod CIDR of a family: the configured one, else what the file names that flannel has left.
    fn network(&self, of: IpAddr, key: &str, present: &str) -> Option<String> {
        let mut configured = self
            .pod_network
            .iter()
            .filter(|net| net.addr().is_ipv4() == of.is_ipv4());
        let named = || {
            let mut lines = present.lines().filter_map(|line| line.split_once('='));
            let (_, value) = lines.find(|(name, _)| *name == key)?;
            // flannel has a list of networks here, one of which is this node's.
            let nets: Option<Vec<IpNet>> = value.split(',').map(|net| net.parse().ok()).collect();
            nets.filter(|nets| nets.iter().any(|net| net.contains(&of)))
                .map(|_| value.to_owned())
        };
        configured.next().map(ToString::to_string).or_else(named)
    }
}

/// What the file holds; nothing if it cannot be read, or is no file that this could be.
fn read(path: &Path) -> String {
    let is_small =
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= FILE_MAX_BYTES);
    let text = is_small.then(|| fs::read_to_string(path).ok()).flatten();
    text.unwrap_or_default()
}
