//! What is known of a host, as plain values.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use millrace_dataplane::xdp::AttachedProgram;

use crate::kernel::{ChainName, Device, KernelState, Link, Listening, PortSet, XdpFeatures};

/// What was seen, or why it could not be.
pub(super) type Seen<T> = Result<T, String>;

/// All that is judged.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) machine: Machine,
    /// The uplink; `Ok(None)` where there is no such interface.
    pub(super) uplink: Seen<Option<Uplink>>,
    /// Interfaces, addresses and routes.
    pub(super) network: KernelState,
    pub(super) ports: Ports,
    /// Addresses of this cluster's pods, of all nodes that are known.
    pub(super) pod_cidrs: Seen<Vec<IpNet>>,
    /// The pods' MTU that flannel has written down for whoever made the pods so far.
    pub(super) flannel_mtu: Option<u32>,
    pub(super) filters: Filters,
    pub(super) cni: Cni,
    /// Whether a daemon has the state folder's socket.
    pub(super) daemon_runs: bool,
}

/// Kernel, rights, memory and cores.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    /// As `uname -r` says it.
    pub(super) release: String,
    /// Whether the kernel has AF_XDP sockets.
    pub(super) af_xdp: Seen<bool>,
    /// Whether the kernel takes the uplink's steering program; the outer error is why it was not asked.
    pub(super) program: Seen<Result<(), String>>,
    /// The same, for packets of several buffers each.
    pub(super) program_in_pieces: Seen<Result<(), String>>,
    /// Capabilities that the daemon would not have, of those that it uses.
    pub(super) missing_capabilities: Seen<Vec<String>>,
    /// `RLIMIT_MEMLOCK` in bytes; none where it is unlimited.
    pub(super) locked_memory: Option<u64>,
    /// What is available, in bytes.
    pub(super) memory: Seen<u64>,
    /// Bytes of free huge pages.
    pub(super) huge_memory: Seen<u64>,
    /// Whether tap devices can be made; `Err` is why not.
    pub(super) taps: Seen<()>,
    /// Cores that this process may run on.
    pub(super) cores: Vec<usize>,
    /// NUMA nodes of cores, where there is more than one.
    pub(super) core_nodes: BTreeMap<usize, u32>,
    /// Kernel settings, by their path below `/proc/sys`; what the kernel does not have is not there.
    pub(super) settings: BTreeMap<&'static str, String>,
}

/// The uplink and the device under it.
#[derive(Debug, Clone)]
pub(super) struct Uplink {
    pub(super) link: Link,
    /// The device under it; `Err` is why the switch would not have it.
    pub(super) device: Result<Link, String>,
    pub(super) driver: String,
    /// Queues that it receives by, now and at most.
    pub(super) queues: Seen<(u32, u32)>,
    /// The program that is on it.
    pub(super) program: Seen<Option<AttachedProgram>>,
    /// What its driver says that it can do with XDP.
    pub(super) features: Seen<XdpFeatures>,
    /// By which of its features it merges what it received.
    pub(super) merging: Seen<Vec<String>>,
    /// Whether its folder in sysfs is there.
    pub(super) sysfs: Seen<()>,
    /// Its NUMA node.
    pub(super) numa_node: Option<u32>,
    /// Why zero-copy with its driver is not to be trusted, if it is not.
    pub(super) zero_copy_fault: Option<&'static str>,
}

impl Uplink {
    /// What sysfs tells of a device.
    pub(super) fn sysfs_of(link: &Link) -> Seen<Device> {
        Device::of(link).map_err(|error| error.to_string())
    }
}

/// Ports that the kernel gives out, keeps back, and that are listened on.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    /// `ip_local_port_range`.
    pub(super) given_out: Seen<(u16, u16)>,
    /// `ip_local_reserved_ports`.
    pub(super) reserved: Seen<PortSet>,
    pub(super) listening: Seen<Listening>,
}

/// What may be left of kube-proxy and others in the kernel's packet filters.
#[derive(Debug, Clone)]
pub(super) struct Filters {
    /// Chains of nftables, those that iptables makes among them.
    pub(super) chains: Seen<Vec<ChainName>>,
    /// Whether the kernel has nf_tables.
    pub(super) has_nftables: Seen<bool>,
    /// Tables of the older iptables.
    pub(super) legacy: Seen<Vec<String>>,
    /// Connections that conntrack knows, and has room for; none without conntrack.
    pub(super) conntrack: Option<(u64, u64)>,
}

/// What the container runtime will find.
#[derive(Debug, Clone)]
pub(super) struct Cni {
    pub(super) bin_dir: PathBuf,
    pub(super) conf_dir: PathBuf,
    /// Whether the plugin is there and can be executed.
    pub(super) plugin: Seen<bool>,
    /// Names of network configurations, in their order, which is the runtime's.
    pub(super) networks: Seen<Vec<String>>,
    /// `socket` of our own network configuration, if that is there.
    pub(super) socket: Option<PathBuf>,
}
