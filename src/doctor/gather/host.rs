//! What the machine is like: kernel, rights, memory, cores and settings.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use millrace_dataplane::worker::check_core;
use millrace_dataplane::xdp::{Packets, ProgramKind, SteeringProgram, XdpError};
use rustix::process::{Resource, getrlimit};

use super::super::facts::{Machine, Seen};
use crate::kernel::numa_node_of_core;
use crate::kernel::sysctl::Setting;

/// Whether the kernel tells of routes with next-hop objects where they lead.
pub(in crate::doctor) const NEXT_HOP_COMPAT: &str = "net/ipv4/nexthop_compat_mode";
/// Whether IPv6 is off.
pub(in crate::doctor) const IPV6_DISABLED: &str = "net/ipv6/conf/all/disable_ipv6";
/// The kernel's release.
const RELEASE: &str = "/proc/sys/kernel/osrelease";
/// Every protocol of sockets that the kernel has, one in each line; readable for everybody.
const PROTOCOLS: &str = "/proc/self/net/protocols";
/// AF_XDP's name there.
const AF_XDP: &str = "XDP";
/// Where tun and tap devices are made; nothing is made by opening it.
const TUN: &str = "/dev/net/tun";
/// Tables of the older iptables that are in use.
const LEGACY_TABLES: [&str; 2] = [
    "/proc/self/net/ip_tables_names",
    "/proc/self/net/ip6_tables_names",
];
/// Most cores that are asked for.
const CORES: usize = crate::config::CORE_MAX + 1;

pub(super) fn machine() -> Machine {
    let cores: Vec<usize> = (0..CORES).filter(|core| check_core(0, *core).is_ok()).collect();
    let core_nodes = cores
        .iter()
        .filter_map(|core| Some((*core, numa_node_of_core(*core)?)));
    Machine {
        release: read(RELEASE).unwrap_or_default().trim_end().to_owned(),
        af_xdp: af_xdp(),
        program: takes_program(Packets::Whole),
        program_in_pieces: takes_program(Packets::InPieces),
        missing_capabilities: crate::privileges::missing().map_err(|error| format!("{error:#}")),
        locked_memory: getrlimit(Resource::Memlock).current,
        memory: meminfo(&["MemAvailable"]),
        huge_memory: meminfo(&["HugePages_Free", "Hugepagesize"]),
        taps: opens(TUN),
        core_nodes: core_nodes.collect(),
        cores,
        settings: settings(),
    }
}

fn read(path: &str) -> Seen<String> {
    fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))
}

/// Opens a device for reading and writing, which of this one changes nothing.
fn opens(path: &str) -> Seen<()> {
    let opened = fs::OpenOptions::new().read(true).write(true).open(path);
    opened
        .map(drop)
        .map_err(|error| format!("cannot open {path}: {error}"))
}

fn af_xdp() -> Seen<bool> {
    let text = read(PROTOCOLS)?;
    Ok(text
        .lines()
        .any(|line| line.split_whitespace().next() == Some(AF_XDP)))
}

/// Has the kernel check a program, which is gone again at once. Who may load none is told nothing.
fn takes_program(packets: Packets) -> Seen<Result<(), String>> {
    let missing = crate::privileges::missing().map_err(|error| format!("{error:#}"))?;
    if let Some(name) = missing
        .iter()
        .find(|name| matches!(name.as_str(), "CAP_BPF" | "CAP_NET_ADMIN" | "CAP_SYS_ADMIN"))
    {
        return Err(format!(
            "whether the kernel takes the steering program is not known without {name}"
        ));
    }
    match SteeringProgram::load_for(packets, ProgramKind::Uplink, 1) {
        Ok(_) => Ok(Ok(())),
        Err(error @ XdpError::Load { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error.to_string()),
    }
}

/// The product of lines of `/proc/meminfo`, in bytes where one of them is in kB.
fn meminfo(keys: &[&str]) -> Seen<u64> {
    let text = read("/proc/meminfo")?;
    keys.iter().try_fold(1, |product: u64, key| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let mut words = line.unwrap_or_default().split_whitespace();
        let number: u64 = words
            .next()
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| format!("/proc/meminfo says nothing of {key}"))?;
        let unit = if words.next() == Some("kB") { 1024 } else { 1 };
        Ok(product.saturating_mul(number).saturating_mul(unit))
    })
}

/// The value of a setting, by its path below `/proc/sys`.
pub(super) fn setting(path: &str) -> Seen<String> {
    let value = Setting::new(path).and_then(|setting| setting.read());
    value
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("this kernel has no setting {path}"))
}

fn settings() -> BTreeMap<&'static str, String> {
    let known = [NEXT_HOP_COMPAT, IPV6_DISABLED];
    known
        .into_iter()
        .filter_map(|path| Some((path, setting(path).ok()?)))
        .collect()
}

pub(super) fn legacy_tables() -> Seen<Vec<String>> {
    let mut tables = Vec::new();
    for path in LEGACY_TABLES {
        match fs::read_to_string(path) {
            Ok(text) => tables.extend(text.lines().map(str::to_owned)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("cannot read {path}: {error}")),
        }
    }
    tables.sort_unstable();
    tables.dedup();
    Ok(tables)
}

/// How many connections the kernel tracks, and may.
pub(super) fn conntrack() -> Option<(u64, u64)> {
    let number = |name: &str| {
        setting(&format!("net/netfilter/nf_conntrack_{name}"))
            .ok()?
            .parse()
            .ok()
    };
    Some((number("count")?, number("max")?))
}
