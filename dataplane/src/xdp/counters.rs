//! What the steering programs counted.

use serde::Serialize;

/// One slot of a program's counters. Every packet a program saw is counted in exactly one.
///
/// The numbers are shared with `enum counter_slot` in `steering.bpf.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SteeringCounter {
    /// Uplink: not ours, left to the kernel.
    Passed = 0,
    /// Uplink: tunnel packet to this node, handed to a socket.
    ToSwitchTunnel = 1,
    /// Uplink: routed plainly to one of our pods, handed to a socket.
    ToSwitchPod = 2,
    /// Uplink: later fragment of a packet that was ours, handed to a socket.
    ToSwitchFragment = 3,
    /// Uplink: ours, but no socket on its queue.
    DroppedNoSocket = 4,
    /// Uplink: to a fail-safe port of this node, left to the kernel.
    FailsafePassed = 5,
    /// Uplink: headers truncated or lying, left to the kernel to judge.
    MalformedPassed = 6,
    /// Port: handed to a socket.
    PortToSwitch = 7,
    /// Port: no socket on its queue.
    PortDroppedNoSocket = 8,
    /// Uplink: to a Service's address, or to its port at an address of this node; handed to a socket.
    ToSwitchService = 9,
    /// Uplink: to a Service's node port, handed to a socket.
    ToSwitchNodePort = 10,
    /// Uplink: to a port of source NAT, or from a remote with which a pod talks in a protocol without ports; handed to a
    /// socket.
    ToSwitchSnatReply = 11,
    /// Uplink: echo reply to a request of source NAT, handed to a socket.
    ToSwitchEchoReply = 12,
    /// Uplink: ICMP error about a packet that the switch sent from an address of this node, handed to a socket.
    ToSwitchIcmpError = 13,
    /// Uplink in a VLAN: of another VLAN or untagged, left to the kernel.
    OtherVlanPassed = 14,
}

impl SteeringCounter {
    /// Every slot, in the order of the map.
    pub const ALL: [Self; 15] = [
        Self::Passed,
        Self::ToSwitchTunnel,
        Self::ToSwitchPod,
        Self::ToSwitchFragment,
        Self::DroppedNoSocket,
        Self::FailsafePassed,
        Self::MalformedPassed,
        Self::PortToSwitch,
        Self::PortDroppedNoSocket,
        Self::ToSwitchService,
        Self::ToSwitchNodePort,
        Self::ToSwitchSnatReply,
        Self::ToSwitchEchoReply,
        Self::ToSwitchIcmpError,
        Self::OtherVlanPassed,
    ];

    /// Index of the slot in the map.
    #[must_use]
    pub fn slot(self) -> u32 {
        self as u32
    }
}

/// Packets since the program was loaded, summed over CPUs. Slots that the program's kind does not use stay
/// zero.
///
/// "Handed to a socket" means that the program asked for it: a socket whose receive ring or fill ring has no
/// room still loses the packet, and counts that in its own statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SteeringCounters {
    /// [`SteeringCounter::Passed`].
    pub passed: u64,
    /// [`SteeringCounter::ToSwitchTunnel`].
    pub to_switch_tunnel: u64,
    /// [`SteeringCounter::ToSwitchPod`].
    pub to_switch_pod: u64,
    /// [`SteeringCounter::ToSwitchFragment`].
    pub to_switch_fragment: u64,
    /// [`SteeringCounter::DroppedNoSocket`].
    pub dropped_no_socket: u64,
    /// [`SteeringCounter::FailsafePassed`].
    pub failsafe_passed: u64,
    /// [`SteeringCounter::MalformedPassed`].
    pub malformed_passed: u64,
    /// [`SteeringCounter::PortToSwitch`].
    pub port_to_switch: u64,
    /// [`SteeringCounter::PortDroppedNoSocket`].
    pub port_dropped_no_socket: u64,
    /// [`SteeringCounter::ToSwitchService`].
    pub to_switch_service: u64,
    /// [`SteeringCounter::ToSwitchNodePort`].
    pub to_switch_node_port: u64,
    /// [`SteeringCounter::ToSwitchSnatReply`].
    pub to_switch_snat_reply: u64,
    /// [`SteeringCounter::ToSwitchEchoReply`].
    pub to_switch_echo_reply: u64,
    /// [`SteeringCounter::ToSwitchIcmpError`].
    pub to_switch_icmp_error: u64,
    /// [`SteeringCounter::OtherVlanPassed`].
    pub other_vlan_passed: u64,
}

impl SteeringCounters {
    /// The value of one slot.
    #[must_use]
    pub fn get(&self, counter: SteeringCounter) -> u64 {
        match counter {
            SteeringCounter::Passed => self.passed,
            SteeringCounter::ToSwitchTunnel => self.to_switch_tunnel,
            SteeringCounter::ToSwitchPod => self.to_switch_pod,
            SteeringCounter::ToSwitchFragment => self.to_switch_fragment,
            SteeringCounter::DroppedNoSocket => self.dropped_no_socket,
            SteeringCounter::FailsafePassed => self.failsafe_passed,
            SteeringCounter::MalformedPassed => self.malformed_passed,
            SteeringCounter::PortToSwitch => self.port_to_switch,
            SteeringCounter::PortDroppedNoSocket => self.port_dropped_no_socket,
            SteeringCounter::ToSwitchService => self.to_switch_service,
            SteeringCounter::ToSwitchNodePort => self.to_switch_node_port,
            SteeringCounter::ToSwitchSnatReply => self.to_switch_snat_reply,
            SteeringCounter::ToSwitchEchoReply => self.to_switch_echo_reply,
            SteeringCounter::ToSwitchIcmpError => self.to_switch_icmp_error,
            SteeringCounter::OtherVlanPassed => self.other_vlan_passed,
        }
    }

    /// Sets the value of one slot.
    pub(super) fn set(&mut self, counter: SteeringCounter, value: u64) {
        let field = match counter {
            SteeringCounter::Passed => &mut self.passed,
            SteeringCounter::ToSwitchTunnel => &mut self.to_switch_tunnel,
            SteeringCounter::ToSwitchPod => &mut self.to_switch_pod,
            SteeringCounter::ToSwitchFragment => &mut self.to_switch_fragment,
            SteeringCounter::DroppedNoSocket => &mut self.dropped_no_socket,
            SteeringCounter::FailsafePassed => &mut self.failsafe_passed,
            SteeringCounter::MalformedPassed => &mut self.malformed_passed,
            SteeringCounter::PortToSwitch => &mut self.port_to_switch,
            SteeringCounter::PortDroppedNoSocket => &mut self.port_dropped_no_socket,
            SteeringCounter::ToSwitchService => &mut self.to_switch_service,
            SteeringCounter::ToSwitchNodePort => &mut self.to_switch_node_port,
            SteeringCounter::ToSwitchSnatReply => &mut self.to_switch_snat_reply,
            SteeringCounter::ToSwitchEchoReply => &mut self.to_switch_echo_reply,
            SteeringCounter::ToSwitchIcmpError => &mut self.to_switch_icmp_error,
            SteeringCounter::OtherVlanPassed => &mut self.other_vlan_passed,
        };
        *field = value;
    }

    /// All packets the program has seen.
    #[must_use]
    pub fn seen(&self) -> u64 {
        SteeringCounter::ALL
            .iter()
            .map(|counter| self.get(*counter))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_agree_with_the_c_header() {
        let header = include_str!("steering.bpf.h");
        for counter in SteeringCounter::ALL {
            let mut name = String::from("SLOT");
            for letter in format!("{counter:?}").chars() {
                if letter.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(letter.to_ascii_uppercase());
            }
            let line = format!("{name} = {},", counter.slot());
            assert!(header.contains(&line), "steering.bpf.h has no `{line}`");
        }
        assert_eq!(
            header.matches("\tSLOT_").count(),
            SteeringCounter::ALL.len() + 1,
            "slots, and SLOT_COUNT"
        );
    }

    #[test]
    fn each_slot_has_its_own_field() {
        let mut counters = SteeringCounters::default();
        for (value, counter) in (1..).zip(SteeringCounter::ALL) {
            counters.set(counter, value);
        }
        for (value, counter) in (1..).zip(SteeringCounter::ALL) {
            assert_eq!(counters.get(counter), value, "{counter:?}");
        }
        assert_eq!(counters.seen(), (1..=15).sum::<u64>());
    }
}
