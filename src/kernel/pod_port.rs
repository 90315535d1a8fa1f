//! Pod ports: a veth pair from the node's namespace into a pod's.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::error::KernelError;
use super::host_port::require_veth;
use super::names::check_interface_name;
use super::namespace::{Namespace, within_namespace};
use super::request::Kernel;
use super::route::RouteSpec;
use super::state::{Link, MacAddr};
use super::veth::{VethEnd, VethPair, check_unicast, host_prefix, set_ipv6};

/// The loopback interface, which every namespace has.
const LOOPBACK: &str = "lo";

/// The pod port that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPortSpec {
    /// The name of the end in the node's namespace, which is a port of the switch
    /// ([`super::pod_interface_name`]).
    pub host_ifname: String,
    /// The name of the end in the pod, such as `eth0`.
    pub pod_ifname: String,
    /// The pod's network namespace, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub netns_path: PathBuf,
    /// The Ethernet address of the node's end; `None` leaves it to the kernel.
    pub mac_host: Option<MacAddr>,
    /// The Ethernet address of the pod's end; `None` leaves it to the kernel.
    pub mac_pod: Option<MacAddr>,
    /// The pod's addresses, each with a prefix of full length.
    pub addresses: Vec<IpAddr>,
    /// The gateway for each address family that the pod has an address of.
    pub gateways: Vec<IpAddr>,
    /// The longest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Receive queues, and as many transmit queues, of each end; at least 1.
    pub queues: u32,
}

/// A pod port that is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPort {
    /// The number of the node's end.
    pub ifindex: u32,
    /// The Ethernet address of the node's end.
    pub mac_host: Option<MacAddr>,
    /// The Ethernet address of the pod's end.
    pub mac_pod: Option<MacAddr>,
}

/// A pod's end of a pod port, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEnd {
    /// Its name.
    pub ifname: String,
    /// The number of the node's end.
    pub host_ifindex: u32,
    /// Its Ethernet address, the only one that the switch takes packets from.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What is wrong with a pod's end of a pod port, in the network namespace at a path; `None` if nothing is. Whoever made the
/// default routes, there has to be one in each family of its addresses.
///
/// # Errors
/// [`KernelError`] where the namespace cannot be entered, or the kernel does not tell.
pub async fn pod_end_fault(netns_path: &Path, wanted: PodEnd) -> Result<Option<String>, KernelError> {
    within_namespace(netns_path, move |kernel| async move {
        let name = &wanted.ifname;
        let link = match kernel.end_of_port(name, wanted.host_ifindex, wanted.mac).await? {
            Ok(link) => link,
            Err(fault) => return Ok(Some(fault)),
        };
        let addresses = kernel.addresses_of(link.ifindex).await?;
        let routes = kernel.main_routes().await?;
        for address in wanted.addresses {
            if !addresses.iter().any(|there| there.address.addr() == address) {
                return Ok(Some(format!("{name} in it lacks the address {address}")));
            }
            if !routes.iter().any(|route| route.destination == any(address)) {
                return Ok(Some(format!("it has no default route for {address}")));
            }
        }
        Ok(None)
    })
    .await
}

impl Kernel {
    /// An interface in this connection's namespace that is the other end of a port, with this Ethernet address and up; or what is
    /// wrong with it.
    pub(super) async fn end_of_port(
        &self,
        name: &str,
        host_ifindex: u32,
        mac: MacAddr,
    ) -> Result<Result<Link, String>, KernelError> {
        let Some(link) = self.find_link(name).await? else {
            return Ok(Err(format!("there is no interface {name} in it")));
        };
        if !link.peer_elsewhere || link.peer_ifindex != Some(host_ifindex) {
            return Ok(Err(format!("{name} in it is not the other end of its port")));
        }
        if link.mac != Some(mac) {
            return Ok(Err(format!(
                "{name} in it has another MAC address than it was made with"
            )));
        }
        if !link.up {
            return Ok(Err(format!("{name} in it is down")));
        }
        Ok(Ok(link))
    }

    /// Makes a pod port: the pair, the node's end up and without IPv6, the pod's end up with its addresses,
    /// transmit offloads off, a route to each gateway on the link and a default route via it, and the pod's
    /// loopback up. An IPv4-only pod has no IPv6 on this interface.
    ///
    /// If a step fails, all that was made is removed, and the error names the step, the interface and the
    /// namespace. The future is to be driven to its end: one dropped half-way leaves a pair that
    /// [`Self::detach_pod`] removes.
    ///
    /// # Errors
    /// [`KernelError`] as said.
    pub async fn attach_pod(&self, spec: &PodPortSpec) -> Result<PodPort, KernelError> {
        let ends = format!("pod port {} to {}", spec.host_ifname, spec.pod_ifname);
        let undertaking = format!("{ends} in network namespace {}", spec.netns_path.display());
        let failed = |undertaking: &str, source| KernelError::Step {
            undertaking: undertaking.to_owned(),
            source: Box::new(source),
        };
        // An error about the namespace itself names it.
        let entering = |source| failed(&ends, source);
        let step = |source| failed(&undertaking, source);
        check(spec).map_err(step)?;
        let namespace = Namespace::open(&spec.netns_path).map_err(entering)?;
        if namespace.is_own().map_err(entering)? {
            let reason = "this is the node's own network namespace, a pod needs one of its own".to_owned();
            return Err(KernelError::InvalidSpec {
                subject: undertaking,
                reason,
            });
        }
        // Shows early, and in better words than the pair's making would, that it can be entered.
        namespace.run(|_| async { Ok(()) }).await.map_err(entering)?;
        self.create_veth(&VethPair {
            near: VethEnd {
                name: &spec.host_ifname,
                mac: spec.mac_host,
            },
            far: VethEnd {
                name: &spec.pod_ifname,
                mac: spec.mac_pod,
            },
            far_namespace: Some(&namespace),
            mtu: spec.mtu,
            queues: spec.queues,
        })
        .await
        .map_err(step)?;
        match self.configure_pair(spec, &namespace).await {
            Ok(port) => Ok(port),
            Err(error) => {
                self.remove_after_failure(&spec.host_ifname).await;
                Err(step(error))
            }
        }
    }

    /// Removes a pod port by the name of the node's end. Says whether there was one: one that went with its
    /// namespace is no error.
    ///
    /// # Errors
    /// [`KernelError::WrongInterface`] if the interface of this name is not a veth; otherwise a refused
    /// request.
    pub async fn detach_pod(&self, host_ifname: &str) -> Result<bool, KernelError> {
        match self.find_link(host_ifname).await? {
            None => Ok(false),
            Some(link) => {
                require_veth(&link)?;
                self.delete_link(host_ifname).await
            }
        }
    }

    async fn configure_pair(
        &self,
        spec: &PodPortSpec,
        namespace: &Namespace,
    ) -> Result<PodPort, KernelError> {
        set_ipv6(&spec.host_ifname, false)?;
        let inside = spec.clone();
        let pod_end = namespace
            .run(move |kernel| async move { kernel.configure_pod_end(&inside).await })
            .await
            .map_err(KernelError::without_namespace)?;
        let host_end = self.link_by_name(&spec.host_ifname).await?;
        Ok(PodPort {
            ifindex: host_end.ifindex,
            mac_host: host_end.mac,
            mac_pod: pod_end.mac,
        })
    }

    /// Configures the pod's end; runs inside the pod's namespace.
    async fn configure_pod_end(&self, spec: &PodPortSpec) -> Result<Link, KernelError> {
        let link = self.link_by_name(&spec.pod_ifname).await?;
        self.disable_transmit_offloads(&link.name).await?;
        set_ipv6(&link.name, spec.addresses.iter().any(IpAddr::is_ipv6))?;
        self.set_up(&link.name, true).await?;
        for address in &spec.addresses {
            self.add_host_address(&link.name, link.ifindex, *address).await?;
        }
        for gateway in &spec.gateways {
            let to_gateway = RouteSpec {
                prefix: host_prefix(*gateway),
                gateway: None,
                onlink: false,
                source: None,
            };
            self.ensure_route(&link.name, &to_gateway).await?;
            let default = RouteSpec {
                prefix: any(*gateway),
                gateway: Some(*gateway),
                onlink: true,
                source: None,
            };
            self.ensure_route(&link.name, &default).await?;
        }
        // Last, since it is the one change that removing the pair does not undo.
        self.set_up(LOOPBACK, true).await?;
        Ok(link)
    }
}

/// All addresses of the family of one.
fn any(address: IpAddr) -> ipnet::IpNet {
    match address {
        IpAddr::V4(_) => ipnet::Ipv4Net::default().into(),
        IpAddr::V6(_) => ipnet::Ipv6Net::default().into(),
    }
}

fn check(spec: &PodPortSpec) -> Result<(), KernelError> {
    check_interface_name(&spec.host_ifname)?;
    check_interface_name(&spec.pod_ifname)?;
    for addresses in [&spec.addresses, &spec.gateways] {
        check_unicast("its addresses and gateways", addresses)?;
    }
    let count = |gateways: &[IpAddr], is_ipv6| gateways.iter().filter(|ip| ip.is_ipv6() == is_ipv6).count();
    let reason = if spec.queues == 0 {
        "it needs at least one queue"
    } else if spec.addresses.is_empty() {
        "the pod needs an address"
    } else if [false, true]
        .iter()
        .any(|v6| (count(&spec.addresses, *v6) > 0) != (count(&spec.gateways, *v6) > 0))
    {
        "there has to be a gateway for each address family that the pod has an address of, and for no other"
    } else if [false, true].iter().any(|v6| count(&spec.gateways, *v6) > 1) {
        "there can be only one gateway for each address family"
    } else {
        return Ok(());
    };
    Err(KernelError::InvalidSpec {
        subject: "the specification".to_owned(),
        reason: reason.to_owned(),
    })
}
