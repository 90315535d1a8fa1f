//! Kernel, rights, memory, cores and settings.

use millrace_dataplane::frame::{CHUNK_LEN, MAX_PACKET_LEN};
use millrace_dataplane::wire::eth;

use super::facts::{Facts, Machine, Seen};
use super::report::Finding;
use crate::config::{Config, HugePages, Idle, Jumbo};

/// The first kernel that replaces an XDP program in one step (`XDP_FLAGS_REPLACE`).
const KERNEL_MIN: (u32, u32) = (5, 7);
/// The oldest kernel of those that somebody is known to look after and Millrace is meant for.
const KERNEL_MEANT: (u32, u32) = (6, 1);
/// The first kernel with AF_XDP packets of several buffers (`XDP_USE_SG`).
const KERNEL_JUMBO: (u32, u32) = (6, 6);
/// Largest MTU of which a packet fits one buffer, with its Ethernet header.
pub(super) const WHOLE_MTU: usize = MAX_PACKET_LEN - eth::HEADER_LEN;

pub(super) fn judge(facts: &Facts, config: &Config) -> Vec<Finding> {
    let machine = &facts.machine;
    let mtu = facts.uplink.as_ref().ok().and_then(Option::as_ref);
    let needs_pieces =
        config.workers.jumbo == Jumbo::Auto && mtu.is_some_and(|up| up.link.mtu as usize > WHOLE_MTU);
    let mut findings = vec![
        kernel(machine, needs_pieces),
        af_xdp(machine),
        program(machine, needs_pieces),
        capabilities(machine),
        locked_memory(machine, config),
        memory(machine, config),
        cores(machine, config),
    ];
    findings.extend(huge_pages(machine, config));
    findings.extend(numa(facts, config));
    findings.push(settings(machine));
    findings.push(taps(machine));
    findings
}

/// Major and minor number of a release such as `6.1.0-28-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(machine: &Machine, needs_pieces: bool) -> Finding {
    const CHECK: &str = "kernel";
    let release = &machine.release;
    let Some(found) = version(release) else {
        return Finding::unseen(CHECK, format!("{release:?} is no version that is understood"));
    };
    let (major, minor) = KERNEL_MIN;
    if found < KERNEL_MIN {
        return Finding::fail(
            CHECK,
            format!("Linux {release}"),
            format!("run Linux {major}.{minor} or newer"),
        );
    }
    if needs_pieces && found < KERNEL_JUMBO {
        let (major, minor) = KERNEL_JUMBO;
        return Finding::fail(
            CHECK,
            format!("Linux {release} carries no packet of several buffers, which the uplink's MTU makes"),
            format!(
                "run Linux {major}.{minor} or newer, or set [workers] jumbo = \"off\" and an MTU of at most {WHOLE_MTU}"
            ),
        );
    }
    let (major, minor) = KERNEL_MEANT;
    if found < KERNEL_MEANT {
        let to_do = format!("run Linux {major}.{minor} or newer, or try this one with care");
        return Finding::warn(
            CHECK,
            format!("Linux {release}, on which Millrace was not tried"),
            to_do,
        );
    }
    Finding::ok(CHECK, format!("Linux {release}"))
}

fn af_xdp(machine: &Machine) -> Finding {
    const CHECK: &str = "af-xdp";
    match &machine.af_xdp {
        Ok(true) => Finding::ok(CHECK, "the kernel has AF_XDP sockets"),
        Ok(false) => Finding::fail(
            CHECK,
            "the kernel has no AF_XDP sockets",
            "boot one that is built with CONFIG_XDP_SOCKETS, as those of Debian and Ubuntu are",
        ),
        Err(why) => Finding::unseen(CHECK, why),
    }
}

fn program(machine: &Machine, needs_pieces: bool) -> Finding {
    const CHECK: &str = "bpf";
    let asked: [&Seen<Result<(), String>>; 2] = [&machine.program, &machine.program_in_pieces];
    let asked = if needs_pieces { &asked[..] } else { &asked[..1] };
    for answer in asked {
        match answer {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => {
                let to_do = "boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS, or see the kernel's log for why it refused";
                return Finding::fail(CHECK, reason, to_do);
            }
            Err(why) => return Finding::unseen(CHECK, why),
        }
    }
    Finding::ok(CHECK, "the kernel takes the steering program")
}

fn capabilities(machine: &Machine) -> Finding {
    const CHECK: &str = "capabilities";
    match &machine.missing_capabilities {
        Ok(missing) if missing.is_empty() => Finding::ok(CHECK, "all that the daemon uses"),
        Ok(missing) => Finding::warn(
            CHECK,
            format!("this process has not {}", missing.join(", ")),
            "run the daemon as root, or with these (deploy/millrace.yaml does); run doctor so too, to see all",
        ),
        Err(why) => Finding::unseen(CHECK, why),
    }
}

/// A hint: only virtual machines need tap devices, and most nodes have none.
fn taps(machine: &Machine) -> Finding {
    const CHECK: &str = "taps";
    match &machine.taps {
        Ok(()) => Finding::ok(CHECK, "tap devices of virtual machines can be made"),
        Err(why) => Finding::ok(
            CHECK,
            format!(
                "{why}; only `millrace attach --tap` needs it (`modprobe tun`, and for a container docs/networks.md), and not for a device \
                 that is there"
            ),
        ),
    }
}

/// Bytes of packet buffers that all workers take.
fn packet_memory(config: &Config) -> u64 {
    let frames = config.workers.cores.as_slice().len() * config.workers.frames.get();
    frames as u64 * CHUNK_LEN as u64
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

fn locked_memory(machine: &Machine, config: &Config) -> Finding {
    const CHECK: &str = "locked-memory";
    let needed = packet_memory(config);
    let has_ipc_lock = machine
        .missing_capabilities
        .as_ref()
        .is_ok_and(|missing| !missing.iter().any(|name| name == "CAP_IPC_LOCK"));
    match machine.locked_memory {
        _ if has_ipc_lock => Finding::ok(CHECK, "CAP_IPC_LOCK: no limit counts"),
        None => Finding::ok(CHECK, "unlimited"),
        Some(limit) if limit >= needed => Finding::ok(CHECK, format!("at most {}", mib(limit))),
        Some(limit) => Finding::warn(
            CHECK,
            format!("at most {}, and packet buffers take {}", mib(limit), mib(needed)),
            "give the daemon CAP_IPC_LOCK, or raise its limit (LimitMEMLOCK=infinity in a unit of systemd)",
        ),
    }
}

/// Packet buffers, and each connection that there is room for.
fn memory(machine: &Machine, config: &Config) -> Finding {
    const CHECK: &str = "memory";
    // Bytes of a connection at most, as the node file's own description says.
    const PER_CONNECTION: (u64, u64) = (256, 384);
    let flows =
        config.flows.ipv4.get() as u64 * PER_CONNECTION.0 + config.flows.ipv6.get() as u64 * PER_CONNECTION.1;
    let needed = packet_memory(config) + flows;
    match machine.memory {
        Ok(available) if available >= needed => Finding::ok(
            CHECK,
            format!(
                "{} available; buffers and a full table of connections take {}",
                mib(available),
                mib(needed)
            ),
        ),
        Ok(available) => Finding::warn(
            CHECK,
            format!(
                "{} available; buffers and a full table of connections take {}",
                mib(available),
                mib(needed)
            ),
            "lower [workers] frames or [flows] ipv4 and ipv6, or free memory",
        ),
        Err(ref why) => Finding::unseen(CHECK, why),
    }
}

fn huge_pages(machine: &Machine, config: &Config) -> Option<Finding> {
    const CHECK: &str = "huge-pages";
    if config.workers.hugepages != HugePages::Always {
        return None;
    }
    let needed = packet_memory(config);
    Some(match machine.huge_memory {
        Ok(free) if free >= needed => Finding::ok(CHECK, format!("{} free", mib(free))),
        Ok(free) => Finding::fail(
            CHECK,
            format!(
                "{} free, and [workers] hugepages = \"always\" wants {}",
                mib(free),
                mib(needed)
            ),
            "set vm.nr_hugepages, or hugepages = \"auto\": they are not needed",
        ),
        Err(ref why) => Finding::unseen(CHECK, why),
    })
}

fn cores(machine: &Machine, config: &Config) -> Finding {
    const CHECK: &str = "cores";
    let wanted = config.workers.cores.as_slice();
    let there = &machine.cores;
    let list = |cores: &[usize]| {
        cores
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let absent: Vec<usize> = wanted
        .iter()
        .copied()
        .filter(|core| !there.contains(core))
        .collect();
    if !absent.is_empty() {
        return Finding::fail(
            CHECK,
            format!(
                "[workers] cores names {}, and there are {}",
                list(&absent),
                list(there)
            ),
            "name cores that are there and that the process may run on",
        );
    }
    if config.workers.idle == Idle::Poll && wanted.len() >= there.len() {
        return Finding::warn(
            CHECK,
            format!(
                "workers on every core ({}), each of which polls without end",
                list(wanted)
            ),
            "leave a core to the node: name fewer, or set [workers] idle = \"sleep\"",
        );
    }
    Finding::ok(CHECK, format!("workers on {} of {}", list(wanted), list(there)))
}

fn numa(facts: &Facts, config: &Config) -> Option<Finding> {
    const CHECK: &str = "numa";
    let node = facts.uplink.as_ref().ok()?.as_ref()?.numa_node?;
    let elsewhere = config.workers.cores.as_slice().iter().find_map(|core| {
        let other = facts.machine.core_nodes.get(core)?;
        (*other != node).then_some((core, other))
    });
    Some(match elsewhere {
        Some((core, other)) => Finding::warn(
            CHECK,
            format!(
                "core {core} is of NUMA node {other}, the uplink of {node}: every packet crosses between them"
            ),
            format!("name cores of node {node} in [workers] cores"),
        ),
        None => Finding::ok(CHECK, format!("uplink and workers are of NUMA node {node}")),
    })
}

/// What the switch depends on; it needs neither forwarding nor any value of `rp_filter`, since its packets do not pass
/// the kernel.
fn settings(machine: &Machine) -> Finding {
    const CHECK: &str = "sysctl";
    let value = |path| machine.settings.get(path).map(String::as_str);
    if value(super::gather::NEXT_HOP_COMPAT) == Some("0") {
        return Finding::warn(
            CHECK,
            "net.ipv4.nexthop_compat_mode is 0: routes with next-hop objects are not followed",
            "set it to 1 if a routing daemon uses such objects",
        );
    }
    if value(super::gather::IPV6_DISABLED) == Some("1") {
        return Finding::warn(
            CHECK,
            "net.ipv6.conf.all.disable_ipv6 is 1: the node reaches no IPv6 pod of its own",
            "set it to 0 if the cluster has IPv6 pods",
        );
    }
    Finding::ok(
        CHECK,
        "nothing in the way; forwarding and rp_filter do not matter to the switch",
    )
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_are_read() {
        let rows = [
            ("6.1.0-28-amd64", Some((6, 1))),
            ("6.18.44", Some((6, 18))),
            ("5.4", Some((5, 4))),
            ("7", None),
            ("x.y", None),
            ("", None),
        ];
        for (release, expected) in rows {
            assert_eq!(version(release), expected, "{release}");
        }
    }
}
