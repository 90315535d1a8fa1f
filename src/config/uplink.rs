//! `[uplink]`: the interface towards the other nodes, its queues and its rings.

use serde::{Deserialize, Serialize};

use super::value::{Choice, choice};
use super::{InterfaceName, QueueList, Ranged, RingLength};

/// Most queues of an uplink.
pub const QUEUES_MAX: usize = 1024;
/// Most descriptors of a device's queue.
pub const DEVICE_RING_MAX: usize = 65_536;
/// Most packets of one busy-polling call.
pub const BUSY_POLL_BUDGET_MAX: usize = 1024;
/// Longest time of one busy-polling call, in microseconds.
pub const BUSY_POLL_USECS_MAX: usize = 1_000_000;
/// Most interrupts in a row that may be put off.
pub const DEFER_HARD_IRQS_MAX: usize = 1000;

/// `[uplink]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, expecting = "a table")]
pub struct Uplink {
    /// `interface`: name of the interface towards the other nodes, the one that has the node's address. Where that is a VLAN
    /// (802.1Q) on another device, the switch is on the device, and tags packets. Required.
    pub interface: InterfaceName,
    /// `xdp-mode`: where the steering program runs. Default `auto`.
    #[serde(default, deserialize_with = "choice")]
    pub xdp_mode: XdpMode,
    /// `mode`: whether the device itself reads and writes packet memory. Default `auto`.
    #[serde(default, deserialize_with = "choice")]
    pub mode: BindMode,
    /// `queues`: how many queues (channels) the device is to have, within 1..=1024; `uninstall` puts the former number
    /// back. Absent: as many as it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Ranged<1, QUEUES_MAX>>,
    /// `kernel-queues`: queues that get no socket and are left to the kernel; the device spreads what comes in over the
    /// others. Default none.
    #[serde(default)]
    pub kernel_queues: QueueList,
    /// `rx-ring`: receive descriptors of each of the device's queues, within 1..=65536; put back by `uninstall`.
    /// Absent: as many as there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_ring: Option<Ranged<1, DEVICE_RING_MAX>>,
    /// `tx-ring`: transmit descriptors of each of the device's queues, as `rx-ring`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_ring: Option<Ranged<1, DEVICE_RING_MAX>>,
    /// `socket-ring`: entries in the receive and in the transmit ring of each queue's socket, a power of two within
    /// 64..=16384. Default 1024.
    #[serde(default = "defaults::socket_ring")]
    pub socket_ring: RingLength,
    /// `busy-poll`: whether the driver works in the workers' own system calls. Default `false`.
    #[serde(default)]
    pub busy_poll: bool,
    /// `busy-poll-budget`: most packets of one such call, within 1..=1024. Default 64.
    #[serde(default = "defaults::busy_poll_budget")]
    pub busy_poll_budget: Ranged<1, BUSY_POLL_BUDGET_MAX>,
    /// `busy-poll-usecs`: how long one such call may look for packets, and how long after the last one the device's
    /// interrupt takes over (`gro_flush_timeout`), in microseconds, within 1..=1000000. Default 200.
    #[serde(default = "defaults::busy_poll_usecs")]
    pub busy_poll_usecs: Ranged<1, BUSY_POLL_USECS_MAX>,
    /// `defer-hard-irqs`: how many times in a row the device's interrupt is put off with `busy-poll`, within 0..=1000.
    /// Default 2.
    #[serde(default = "defaults::defer_hard_irqs")]
    pub defer_hard_irqs: Ranged<0, DEFER_HARD_IRQS_MAX>,
}

/// `mode`: whether the device itself reads and writes packet memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BindMode {
    /// `auto`: it does if its driver can, else the kernel copies; the log and `show ports` say which.
    #[default]
    Auto,
    /// `zero-copy`: it does, or the switch does not start.
    ZeroCopy,
    /// `copy`: the kernel copies.
    Copy,
}

impl Choice for BindMode {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Auto, "auto"),
        (Self::ZeroCopy, "zero-copy"),
        (Self::Copy, "copy"),
    ];
}

/// `xdp-mode`: where the steering program runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// `auto`: in the driver if it can, else in the kernel's generic hook; the log says which.
    #[default]
    Auto,
    /// `native`: in the driver, or not at all.
    Native,
    /// `generic`: in the kernel's generic hook, which every interface has.
    Generic,
}

impl Choice for XdpMode {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Auto, "auto"),
        (Self::Native, "native"),
        (Self::Generic, "generic"),
    ];
}

impl Uplink {
    /// A key that contradicts another, and why; `None` if there is none.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        if self.mode == BindMode::ZeroCopy && self.xdp_mode == XdpMode::Generic {
            let reason = "`zero-copy` needs the steering program in the driver; xdp-mode \"native\" or \"auto\", or \
                          mode \"copy\", would be right";
            return Some(("mode", reason.to_owned()));
        }
        let queues = u32::try_from(self.queues?.get()).unwrap_or(u32::MAX);
        let left = self.kernel_queues.as_slice();
        if let Some(beyond) = left.iter().find(|queue| **queue >= queues) {
            let reason = format!("there is no queue {beyond} among {queues}: they count from 0");
            return Some(("kernel-queues", reason));
        }
        (left.len() >= queues as usize).then(|| {
            let reason = format!("all {queues} queues are left to the kernel; one for the switch is needed");
            ("kernel-queues", reason)
        })
    }
}

/// Every default, in one place.
mod defaults {
    use super::*;

    pub(super) fn socket_ring() -> RingLength {
        RingLength::of::<1024>()
    }

    pub(super) fn busy_poll_budget() -> Ranged<1, BUSY_POLL_BUDGET_MAX> {
        Ranged::of::<64>()
    }

    pub(super) fn busy_poll_usecs() -> Ranged<1, BUSY_POLL_USECS_MAX> {
        Ranged::of::<200>()
    }

    pub(super) fn defer_hard_irqs() -> Ranged<0, DEFER_HARD_IRQS_MAX> {
        Ranged::of::<2>()
    }
}
