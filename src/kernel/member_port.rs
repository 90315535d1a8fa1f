//! A pod's interface beside its first, in a network beside the cluster's own: a veth pair, as its first one is, without default
//! routes and with the network's own prefixes.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::error::KernelError;
use super::names::check_interface_name;
use super::namespace::{Namespace, within_namespace};
use super::request::Kernel;
use super::route::RouteSpec;
use super::state::{Link, MacAddr};
use super::sysctl::{Family, Setting};
use super::veth::{VethEnd, VethPair, check_unicast, set_ipv6};

/// Has the kernel tell all stations of an interface's addresses when it comes up: what had one before is forgotten at once
/// (`ip-sysctl.rst`).
const NOTIFY: [(Family, &str); 2] = [(Family::V4, "arp_notify"), (Family::V6, "ndisc_notify")];

/// The interface that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPortSpec {
    /// The name of the end in the node's namespace.
    pub host_ifname: String,
    /// The name of the end in the pod, such as `net1`.
    pub pod_ifname: String,
    /// The pod's network namespace.
    pub netns_path: PathBuf,
    /// The Ethernet address of the pod's end.
    pub mac_pod: MacAddr,
    /// Its addresses with the prefixes of their subnets; none at all is right for who gets theirs from elsewhere.
    pub addresses: Vec<IpNet>,
    /// Routes by routers in those subnets.
    pub routes: Vec<RouteSpec>,
    /// The longest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Receive queues, and as many transmit queues, of each end; at least 1.
    pub queues: u32,
}

/// A pod's end, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberEnd {
    /// Its name.
    pub ifname: String,
    /// The number of the node's end.
    pub host_ifindex: u32,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// What is wrong with a pod's end, in the network namespace at a path; `None` if nothing is.
///
/// # Errors
/// [`KernelError`] where the namespace cannot be entered, or the kernel does not tell.
pub async fn member_end_fault(netns_path: &Path, wanted: MemberEnd) -> Result<Option<String>, KernelError> {
    within_namespace(netns_path, move |kernel| async move {
        let name = &wanted.ifname;
        let link = match kernel.end_of_port(name, wanted.host_ifindex, wanted.mac).await? {
            Ok(link) => link,
            Err(fault) => return Ok(Some(fault)),
        };
        let there = kernel.addresses_of(link.ifindex).await?;
        let is_there = |address: &&IpNet| there.iter().any(|entry| entry.address == **address);
        let missing = wanted.addresses.iter().find(|address| !is_there(address));
        Ok(missing.map(|address| format!("{name} in it lacks the address {address}")))
    })
    .await
}

impl Kernel {
    /// Makes the pair: the node's end down and without IPv6, the pod's end up with its addresses and transmit offloads off. Answers
    /// the node's end.
    ///
    /// If a step fails, all that was made is removed.
    ///
    /// # Errors
    /// [`KernelError`] with the step, the interface and the namespace.
    pub async fn attach_member(&self, spec: &MemberPortSpec) -> Result<Link, KernelError> {
        let undertaking = format!(
            "port {} to {} in network namespace {}",
            spec.host_ifname,
            spec.pod_ifname,
            spec.netns_path.display()
        );
        let step = |source| KernelError::Step {
            undertaking: undertaking.clone(),
            source: Box::new(source),
        };
        let namespace = check(spec, &undertaking).map_err(step)?;
        self.create_veth(&VethPair {
            near: VethEnd {
                name: &spec.host_ifname,
                mac: None,
            },
            far: VethEnd {
                name: &spec.pod_ifname,
                mac: Some(spec.mac_pod),
            },
            far_namespace: Some(&namespace),
            mtu: spec.mtu,
            queues: spec.queues,
        })
        .await
        .map_err(step)?;
        match self.configure_member(spec, &namespace).await {
            Ok(link) => Ok(link),
            Err(error) => {
                self.remove_after_failure(&spec.host_ifname).await;
                Err(step(error))
            }
        }
    }

    async fn configure_member(
        &self,
        spec: &MemberPortSpec,
        namespace: &Namespace,
    ) -> Result<Link, KernelError> {
        set_ipv6(&spec.host_ifname, false)?;
        let inside = spec.clone();
        namespace
            .run(move |kernel| async move { kernel.configure_member_end(&inside).await })
            .await
            .map_err(KernelError::without_namespace)?;
        self.link_by_name(&spec.host_ifname).await
    }

    /// Configures the pod's end; runs inside the pod's namespace.
    async fn configure_member_end(&self, spec: &MemberPortSpec) -> Result<(), KernelError> {
        let link = self.link_by_name(&spec.pod_ifname).await?;
        self.disable_transmit_offloads(&link.name).await?;
        let has_v6 = spec.addresses.iter().any(|address| address.addr().is_ipv6());
        set_ipv6(&link.name, has_v6 || spec.addresses.is_empty())?;
        for (family, setting) in NOTIFY {
            Setting::of_interface(family, &link.name, setting)?.write_if_present("1")?;
        }
        for address in &spec.addresses {
            self.add_address(&link.name, link.ifindex, *address).await?;
        }
        self.set_up(&link.name, true).await?;
        for route in &spec.routes {
            self.ensure_route(&link.name, route).await?;
        }
        Ok(())
    }
}

fn check(spec: &MemberPortSpec, undertaking: &str) -> Result<Namespace, KernelError> {
    check_interface_name(&spec.host_ifname)?;
    check_interface_name(&spec.pod_ifname)?;
    let addresses: Vec<_> = spec.addresses.iter().map(IpNet::addr).collect();
    check_unicast("its addresses", &addresses)?;
    let namespace = Namespace::open(&spec.netns_path)?;
    let reason = if spec.queues == 0 {
        "it needs at least one queue"
    } else if namespace.is_own()? {
        "this is the node's own network namespace, a pod needs one of its own"
    } else {
        return Ok(namespace);
    };
    Err(KernelError::InvalidSpec {
        subject: undertaking.to_owned(),
        reason: reason.to_owned(),
    })
}
