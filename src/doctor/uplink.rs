//! The uplink: that it is there, of a kind that can be served, with the queues, modes and MTU that are wanted.

use millrace_dataplane::frame::MAX_RUN_PACKET_LEN;
use millrace_dataplane::wire::{eth, vlan};

use super::facts::{Facts, Uplink};
use super::machine::WHOLE_MTU;
use super::report::Finding;
use crate::config::{BindMode, Config, Jumbo, OverlayKind, XdpMode};
use crate::daemon::fabric::Fabric;

/// The least MTU of an IPv6 link (RFC 8200, section 5).
const IPV6_MTU_MIN: u32 = 1280;
/// What a tunnel adds to a packet at most, in bytes: VXLAN over IPv6, and IP in IP.
const VXLAN_OVERHEAD: u32 = 70;
const IPIP_OVERHEAD: u32 = 20;

pub(super) fn judge(facts: &Facts, config: &Config) -> Vec<Finding> {
    const CHECK: &str = "uplink";
    let name = config.uplink.interface.as_str();
    let uplink = match &facts.uplink {
        Err(why) => return vec![Finding::unseen(CHECK, why)],
        Ok(None) => {
            let others = facts
                .network
                .links()
                .filter(|link| !link.loopback && link.mac.is_some());
            let others: Vec<&str> = others.map(|link| link.name.as_str()).collect();
            let there = format!("there is no interface {name}; there are {}", others.join(", "));
            return vec![Finding::fail(
                CHECK,
                there,
                "name the one that has the node's address in [uplink] interface",
            )];
        }
        Ok(Some(uplink)) => uplink,
    };
    let mut findings = vec![kind(uplink), state(facts, uplink)];
    if uplink.device.is_ok() {
        findings.extend([queues(uplink, config), program(uplink), mode(uplink, config)]);
        findings.extend(zero_copy(uplink, config));
        findings.push(offloads(uplink));
    }
    findings.push(mtu(uplink, config));
    findings.extend(pod_mtu(facts, uplink, config));
    findings.extend(sysfs(uplink));
    findings
}

/// Bonds and bridges are told by the daemon in the same words.
fn kind(uplink: &Uplink) -> Finding {
    const CHECK: &str = "uplink";
    let name = &uplink.link.name;
    match &uplink.device {
        Err(reason) => Finding::fail(
            CHECK,
            reason,
            "name another [uplink] interface, or change this one as said",
        ),
        Ok(_) if uplink.link.mac.is_none() => Finding::fail(
            CHECK,
            format!("{name} has no MAC address"),
            "name an Ethernet interface in [uplink] interface",
        ),
        Ok(device) if device.name != *name => Finding::ok(
            CHECK,
            format!("{name}, a VLAN on {} ({})", device.name, uplink.driver),
        ),
        Ok(device) if device.kind.as_deref() == Some("bridge") => Finding::warn(
            CHECK,
            format!("{name} is a bridge: generic XDP, by one queue, and not tried"),
            "give the node's address to the interface in the bridge, and name that",
        ),
        Ok(_) => Finding::ok(CHECK, format!("{name} ({})", uplink.driver)),
    }
}

fn state(facts: &Facts, uplink: &Uplink) -> Finding {
    const CHECK: &str = "link";
    let link = &uplink.link;
    let addresses: Vec<String> = facts
        .network
        .addresses_of(link.ifindex)
        .filter(|address| address.scope == crate::kernel::Scope::Universe)
        .map(|address| address.address.to_string())
        .collect();
    if !link.up {
        let to_do = format!("ip link set dev {} up", link.name);
        return Finding::fail(CHECK, format!("{} is set down", link.name), to_do);
    }
    if addresses.is_empty() {
        let to_do = "name the interface that has the node's address in [uplink] interface";
        return Finding::fail(CHECK, format!("{} has no address", link.name), to_do);
    }
    if !link.running {
        return Finding::warn(
            CHECK,
            format!("{} has no carrier", link.name),
            "look at its cable and what is behind it",
        );
    }
    Finding::ok(CHECK, format!("up, {}", addresses.join(", ")))
}

fn queues(uplink: &Uplink, config: &Config) -> Finding {
    const CHECK: &str = "queues";
    let name = &uplink.link.name;
    let (now, most) = match &uplink.queues {
        Ok(queues) => *queues,
        Err(why) => return Finding::unseen(CHECK, why),
    };
    let workers = config.workers.cores.as_slice().len();
    let wanted = config
        .uplink
        .queues
        .and_then(|queues| u32::try_from(queues.get()).ok());
    if let Some(wanted) = wanted.filter(|wanted| *wanted > most) {
        return Finding::fail(
            CHECK,
            format!("[uplink] queues is {wanted}, and {name} has at most {most}"),
            format!("ask for at most {most}"),
        );
    }
    let queues = wanted.unwrap_or(now);
    if let Err(error) = Fabric::check_queues(name, queues, config.uplink.kernel_queues.as_slice(), workers) {
        return Finding::fail(
            CHECK,
            error.to_string(),
            format!("ethtool -L {name}, or [uplink] queues and kernel-queues"),
        );
    }
    if (queues as usize) < workers {
        return Finding::warn(
            CHECK,
            format!(
                "{queues} for {workers} workers: packets are handed on between them, at the price of a copy"
            ),
            format!("name {queues} core(s) in [workers] cores, or ask for more queues (at most {most})"),
        );
    }
    Finding::ok(CHECK, format!("{queues} for {workers} worker(s), at most {most}"))
}

fn program(uplink: &Uplink) -> Finding {
    const CHECK: &str = "xdp-program";
    let device = uplink
        .device
        .as_ref()
        .map_or(&uplink.link.name, |device| &device.name);
    match &uplink.program {
        Ok(None) => Finding::ok(CHECK, format!("{device} has none yet")),
        Ok(Some(found)) if found.is_ours() => {
            Finding::ok(CHECK, format!("{device} has ours, in {} mode", found.mode))
        }
        Ok(Some(found)) => Finding::fail(
            CHECK,
            format!(
                "{device} has another program attached (id {}, name {})",
                found.id, found.name
            ),
            format!("stop what attached it, or detach it (ip link set dev {device} xdp off)"),
        ),
        Err(why) => Finding::unseen(CHECK, why),
    }
}

fn mode(uplink: &Uplink, config: &Config) -> Finding {
    const CHECK: &str = "xdp-mode";
    let name = &uplink.link.name;
    if config.uplink.xdp_mode == XdpMode::Generic {
        return Finding::ok(CHECK, "generic, as the node file says");
    }
    let features = match &uplink.features {
        Ok(features) => features,
        Err(why) => return Finding::unseen(CHECK, why),
    };
    let driver = &uplink.driver;
    let needs_pieces = config.workers.jumbo == Jumbo::Auto && uplink.link.mtu as usize > WHOLE_MTU;
    let missing = match (
        features.basic && features.redirect,
        features.pieces || !needs_pieces,
    ) {
        (true, true) => return Finding::ok(CHECK, format!("native: {driver} has what is needed")),
        (true, false) => "no packets of several buffers, which its MTU makes",
        (false, _) => "no native XDP with redirecting",
    };
    let found = format!("{driver} offers {name} {missing}");
    if config.uplink.xdp_mode == XdpMode::Native {
        return Finding::fail(
            CHECK,
            found,
            "set [uplink] xdp-mode = \"auto\", which takes generic XDP, slower",
        );
    }
    Finding::warn(
        CHECK,
        format!("{found}: generic XDP is used, slower"),
        "see docs/hardware.md for drivers that have it",
    )
}

fn zero_copy(uplink: &Uplink, config: &Config) -> Option<Finding> {
    const CHECK: &str = "zero-copy";
    let features = uplink.features.as_ref().ok()?;
    let driver = &uplink.driver;
    Some(
        match (config.uplink.mode, features.zero_copy, uplink.zero_copy_fault) {
            (BindMode::Copy, _, _) => Finding::ok(CHECK, "off, as the node file says"),
            (BindMode::ZeroCopy, false, _) => Finding::fail(
                CHECK,
                format!("{driver} does not offer it, and [uplink] mode asks for it"),
                "set [uplink] mode = \"auto\": the kernel copies then",
            ),
            (BindMode::ZeroCopy, true, Some(fault)) => {
                Finding::warn(CHECK, fault, "set [uplink] mode = \"auto\"")
            }
            (BindMode::Auto, true, Some(fault)) => Finding::ok(CHECK, format!("not used: {fault}")),
            (BindMode::Auto, false, _) => {
                Finding::ok(CHECK, format!("{driver} does not offer it: the kernel copies"))
            }
            (_, true, None) => Finding::ok(CHECK, format!("{driver} offers it")),
        },
    )
}

/// What a device merges fits no buffer: a driver refuses native XDP with it, generic XDP turns it off.
fn offloads(uplink: &Uplink) -> Finding {
    const CHECK: &str = "offloads";
    let device = uplink
        .device
        .as_ref()
        .map_or(&uplink.link.name, |device| &device.name);
    match &uplink.merging {
        Ok(merging) if merging.is_empty() => Finding::ok(CHECK, "none that collides"),
        Ok(merging) => Finding::warn(
            CHECK,
            format!(
                "{device} merges what it receives ({}), with which drivers refuse native XDP",
                merging.join(", ")
            ),
            merging
                .iter()
                .map(|name| format!("ethtool -K {device} {name} off"))
                .collect::<Vec<_>>()
                .join("; "),
        ),
        Err(why) => Finding::unseen(CHECK, why),
    }
}

/// What the tunnel that the node file asks for adds at most.
fn overhead(config: &Config) -> u32 {
    match config.overlay.kind {
        OverlayKind::Vxlan => VXLAN_OVERHEAD,
        OverlayKind::Ipip => IPIP_OVERHEAD,
    }
}

fn mtu(uplink: &Uplink, config: &Config) -> Finding {
    const CHECK: &str = "mtu";
    let (name, mtu) = (&uplink.link.name, uplink.link.mtu);
    let left = mtu.saturating_sub(overhead(config));
    if left < IPV6_MTU_MIN {
        return Finding::fail(
            CHECK,
            format!("{mtu} on {name} leaves pods {left}, and IPv6 needs {IPV6_MTU_MIN}"),
            format!("ip link set dev {name} mtu 1500, on the whole underlay"),
        );
    }
    let tag = if uplink.link.vlan.is_some() {
        vlan::TAG_LEN
    } else {
        0
    };
    let carried = match config.workers.jumbo {
        Jumbo::Auto => MAX_RUN_PACKET_LEN - eth::HEADER_LEN,
        Jumbo::Off => WHOLE_MTU,
    } - tag;
    if mtu as usize > carried {
        return Finding::warn(
            CHECK,
            format!(
                "{mtu} on {name}, and packets of at most {carried} are carried: larger ones to pods are lost"
            ),
            match config.workers.jumbo {
                Jumbo::Auto => format!("ip link set dev {name} mtu {carried}"),
                Jumbo::Off => {
                    format!("set [workers] jumbo = \"auto\", or ip link set dev {name} mtu {carried}")
                }
            },
        );
    }
    Finding::ok(
        CHECK,
        format!("{mtu} on {name}, which leaves pods at least {left}"),
    )
}

/// Pods that another plugin made believe in that one's MTU.
fn pod_mtu(facts: &Facts, uplink: &Uplink, config: &Config) -> Option<Finding> {
    const CHECK: &str = "pod-mtu";
    let theirs = facts.flannel_mtu?;
    let most = uplink.link.mtu.saturating_sub(match config.overlay.kind {
        // Over IPv4, as flannel reckons unless its nodes have IPv6 addresses.
        OverlayKind::Vxlan => 50,
        OverlayKind::Ipip => IPIP_OVERHEAD,
    });
    Some(if theirs > most {
        Finding::warn(
            CHECK,
            format!(
                "flannel's pods have {theirs}, and in a tunnel over {} only {most} fit",
                uplink.link.name
            ),
            "raise the uplink's MTU on every node, or lower the pods' before this node is moved",
        )
    } else {
        Finding::ok(CHECK, format!("flannel's pods have {theirs}, and {most} fit"))
    })
}

fn sysfs(uplink: &Uplink) -> Option<Finding> {
    let why = uplink.sysfs.as_ref().err()?;
    Some(Finding::unseen("sysfs", why))
}
