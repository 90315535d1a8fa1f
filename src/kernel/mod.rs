//! Everything the daemon reads from and asks of the Linux kernel's network configuration.
//!
//! - [`KernelFollower`] keeps a [`KernelState`] (links, addresses, main-table routes, neighbours) equal to
//!   the kernel's, over rtnetlink ([rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html)).
//! - [`Kernel`] is a pair of netlink connections (rtnetlink and ethtool) through which links, addresses,
//!   routes and device features of **one** network namespace are changed: the namespace that the calling
//!   thread was in at [`Kernel::open`].
//! - [`Kernel::ensure_host_port`] and [`Kernel::attach_pod`] make the two kinds of veth pair that the switch
//!   needs.
//! - [`sysctl`] reads and writes what netlink does not offer.
//!
//! A socket stays in the namespace it was opened in, `/proc/sys/net` shows the namespace of the thread that
//! reads it. So the thread that polls this module's futures has to stay in the namespace in which it opened
//! its [`Kernel`]; work in another namespace runs on a thread of its own ([`within_namespace`]) which ends
//! with the work.

#![forbid(unsafe_code)]

mod announced_route;
mod device;
mod error;
mod ethtool;
mod follow;
mod generic;
mod host_port;
mod link;
mod listening;
mod member_port;
mod message;
mod names;
mod namespace;
mod neighbour;
mod nftables;
mod pod_port;
mod queues;
mod request;
mod reserved_ports;
mod resolve;
mod route;
mod stand_in;
mod state;
mod subscription;
pub mod sysctl;
mod tables;
mod tap;
mod veth;
mod xdp_features;

pub use device::{Device, InterruptDelay, numa_node_of_core};
pub use error::{KernelError, Refusal};
pub use follow::KernelFollower;
pub use host_port::{HostPort, HostPortOrigin, HostPortSpec};
pub use listening::Listening;
pub use member_port::{MemberEnd, MemberPortSpec, member_end_fault};
pub use names::{check_interface_name, member_interface_name, pod_interface_name};
pub use namespace::within_namespace;
pub use nftables::{ChainName, OUTPUT_TABLE, OwnServices, ProtocolPort, chains};
pub use pod_port::{PodEnd, PodPort, PodPortSpec, pod_end_fault};
pub use queues::{Channels, Rings};
pub use request::Kernel;
pub use reserved_ports::{PortSet, check_ports, release_ports, reserve_ports};
pub use route::{OWN_ROUTE_PROTOCOL, RouteChanges, RouteSpec};
pub use state::{
    InterfaceAddress, KernelState, Link, LinkVlan, MacAddr, Neighbour, NeighbourState, NextHop, Route,
    RouteHop, RouteKind, Scope,
};
pub use tap::TapWish;
pub use xdp_features::XdpFeatures;
