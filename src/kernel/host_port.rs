//! The host port: a veth pair whose one end the kernel uses and whose other end is a port of the switch.

use std::net::IpAddr;

use tracing::{info, warn};

use super::error::KernelError;
use super::link::VETH;
use super::request::Kernel;
use super::state::{Link, MacAddr, Scope};
use super::sysctl::{Family, Setting};
use super::veth::{VethEnd, VethPair, check_unicast, host_prefix, set_ipv6};

/// `rp_filter`: a packet's source has to be reachable, but over whichever interface (RFC 3704, loose mode).
const LOOSE_REVERSE_PATH: &str = "2";

/// The host port that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPortSpec {
    /// The kernel's end.
    pub name: String,
    /// The switch's end.
    pub switch_name: String,
    /// Receive queues, and as many transmit queues, of each end; at least 1.
    pub queues: u32,
    /// The longest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// The Ethernet address of the kernel's end; `None` leaves it to the kernel.
    pub mac: Option<MacAddr>,
    /// The Ethernet address of the switch's end; `None` leaves it to the kernel.
    pub switch_mac: Option<MacAddr>,
    /// The addresses of the kernel's end, each with a prefix of full length. It gets no others.
    pub addresses: Vec<IpAddr>,
    /// Addresses of the switch that the kernel is told to be at the switch's end, and does not ask for.
    pub neighbours: Vec<IpAddr>,
}

/// How a host port came to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPortOrigin {
    /// It was made.
    Created,
    /// It was there, as an earlier run left it.
    Adopted,
    /// One with another number of queues was there; it was removed and made anew.
    Recreated {
        /// The number of queues that the former one had.
        former_queues: u32,
    },
}

/// A host port that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// How it came to be.
    pub origin: HostPortOrigin,
    /// The kernel's end.
    pub kernel_end: Link,
    /// The switch's end.
    pub switch_end: Link,
}

impl Kernel {
    /// Sees that the host port is there and as wanted: the pair of the wanted number of queues, both ends up,
    /// the kernel's end with the wanted addresses and with transmit offloads off, the switch's end without
    /// IPv6.
    ///
    /// A pair of the wanted names is adopted; it is made anew only if its number of queues is another, since
    /// queues cannot be added later. If something fails, a pair that was made is removed again, one that was
    /// found is left.
    ///
    /// # Errors
    /// [`KernelError::WrongInterface`] if an interface of one of the names is something else; otherwise the
    /// step that failed.
    pub async fn ensure_host_port(&self, spec: &HostPortSpec) -> Result<HostPort, KernelError> {
        let undertaking = format!("host port {} and {}", spec.name, spec.switch_name);
        if spec.queues == 0 {
            let reason = "it needs at least one queue".to_owned();
            return Err(KernelError::InvalidSpec {
                subject: undertaking,
                reason,
            });
        }
        check_unicast(&undertaking, &spec.addresses)?;
        check_unicast(&undertaking, &spec.neighbours)?;
        let step = |source| KernelError::Step {
            undertaking: undertaking.clone(),
            source: Box::new(source),
        };
        let origin = self.make_or_adopt(spec).await.map_err(step)?;
        match self.configure_host_port(spec).await {
            Ok((kernel_end, switch_end)) => Ok(HostPort {
                origin,
                kernel_end,
                switch_end,
            }),
            Err(error) => {
                if origin != HostPortOrigin::Adopted {
                    self.remove_after_failure(&spec.name).await;
                }
                Err(step(error))
            }
        }
    }

    /// Removes the host port. Says whether there was one.
    ///
    /// # Errors
    /// [`KernelError::WrongInterface`] if the interface of this name is not a veth; otherwise a refused
    /// request.
    pub async fn remove_host_port(&self, name: &str) -> Result<bool, KernelError> {
        match self.find_link(name).await? {
            None => Ok(false),
            Some(link) => {
                require_veth(&link)?;
                self.delete_link(name).await
            }
        }
    }

    async fn make_or_adopt(&self, spec: &HostPortSpec) -> Result<HostPortOrigin, KernelError> {
        let origin = match self.find_link(&spec.name).await? {
            None => HostPortOrigin::Created,
            Some(found) => {
                self.require_pair(&found, &spec.switch_name).await?;
                let former_queues = self.queues_of(spec).await?;
                if former_queues == spec.queues {
                    return Ok(HostPortOrigin::Adopted);
                }
                info!(name = %spec.name, former_queues, queues = spec.queues, "making the host port anew");
                self.delete_link(&spec.name).await?;
                HostPortOrigin::Recreated { former_queues }
            }
        };
        self.create_veth(&VethPair {
            near: VethEnd {
                name: &spec.name,
                mac: spec.mac,
            },
            far: VethEnd {
                name: &spec.switch_name,
                mac: spec.switch_mac,
            },
            far_namespace: None,
            mtu: spec.mtu,
            queues: spec.queues,
        })
        .await?;
        Ok(origin)
    }

    /// Checks that an interface is a veth whose other end is in this namespace under the wanted name.
    async fn require_pair(&self, found: &Link, peer_name: &str) -> Result<(), KernelError> {
        require_veth(found)?;
        let peer = self.peer_of(found).await?;
        if peer.as_ref().is_some_and(|peer| peer.name == peer_name) {
            return Ok(());
        }
        let other = peer.map_or_else(|| "in another network namespace".to_owned(), |peer| peer.name);
        Err(KernelError::WrongInterface {
            name: found.name.clone(),
            found: format!("a veth whose other end is {other}"),
            wanted: format!("a veth whose other end is {peer_name}"),
        })
    }

    /// The number of queues of a host port: the least of both ends and directions, 0 if they differ.
    async fn queues_of(&self, spec: &HostPortSpec) -> Result<u32, KernelError> {
        let near = self.channel_count(&spec.name).await?;
        let far = self.channel_count(&spec.switch_name).await?;
        let counts = [
            near.receiving(),
            near.transmitting(),
            far.receiving(),
            far.transmitting(),
        ];
        let same = counts.iter().all(|count| *count == near.receiving());
        Ok(if same { near.receiving() } else { 0 })
    }

    async fn configure_host_port(&self, spec: &HostPortSpec) -> Result<(Link, Link), KernelError> {
        let kernel_end = self.link_by_name(&spec.name).await?;
        let switch_end = self.link_by_name(&spec.switch_name).await?;
        for (link, mac) in [(&kernel_end, spec.mac), (&switch_end, spec.switch_mac)] {
            if link.mtu != spec.mtu {
                self.set_mtu(&link.name, spec.mtu).await?;
            }
            if let Some(mac) = mac.filter(|mac| link.mac != Some(*mac)) {
                self.set_mac(&link.name, mac).await?;
            }
        }
        self.disable_transmit_offloads(&spec.name).await?;
        set_ipv6(&spec.switch_name, false)?;
        set_ipv6(&spec.name, spec.addresses.iter().any(IpAddr::is_ipv6))?;
        loosen_reverse_path(&spec.name)?;
        for name in [&spec.switch_name, &spec.name] {
            self.set_up(name, true).await?;
        }
        self.set_addresses(&kernel_end, &spec.addresses).await?;
        let ends = (
            self.link_by_name(&spec.name).await?,
            self.link_by_name(&spec.switch_name).await?,
        );
        for address in &spec.neighbours {
            let mac = ends.1.mac.unwrap_or_default();
            self.pin_neighbour(&spec.name, ends.0.ifindex, *address, mac)
                .await?;
        }
        Ok(ends)
    }

    /// Gives an interface exactly these addresses, link-local ones apart.
    async fn set_addresses(&self, link: &Link, wanted: &[IpAddr]) -> Result<(), KernelError> {
        let present = self.addresses_of(link.ifindex).await?;
        for address in &present {
            let is_wanted = wanted
                .iter()
                .any(|wanted| host_prefix(*wanted) == address.address);
            if address.scope == Scope::Universe && !is_wanted {
                self.remove_address(&link.name, address).await?;
            }
        }
        for address in wanted {
            if !present
                .iter()
                .any(|present| present.address == host_prefix(*address))
            {
                self.add_host_address(&link.name, link.ifindex, *address).await?;
            }
        }
        Ok(())
    }

    /// Removes an interface made by something that failed later. A second failure is only said.
    pub(super) async fn remove_after_failure(&self, name: &str) {
        if let Err(error) = self.delete_link(name).await {
            warn!(%error, "an interface was left after a failure; remove it with: ip link del {name}");
        }
    }
}

/// Checks that an interface is an end of a veth pair.
pub(super) fn require_veth(link: &Link) -> Result<(), KernelError> {
    if link.kind.as_deref() == Some(VETH) {
        return Ok(());
    }
    Err(KernelError::WrongInterface {
        name: link.name.clone(),
        found: link.kind.as_ref().map_or_else(
            || "a hardware device".to_owned(),
            |kind| format!("a {kind} device"),
        ),
        wanted: "an end of a veth pair".to_owned(),
    })
}

/// Lets the kernel take packets on the host port whose way back may go elsewhere: those of pods and peers
/// before their routes are there. The stricter of this setting and the one for all interfaces counts only up
/// to loose (ip-sysctl).
fn loosen_reverse_path(interface: &str) -> Result<(), KernelError> {
    let setting = Setting::of_interface(Family::V4, interface, "rp_filter")?;
    setting.write_if_present(LOOSE_REVERSE_PATH).map(|_| ())
}
