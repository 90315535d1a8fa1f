//! The underlay: a namespace with a bridge, standing for the switch of the rack, and the wires to it.

use std::time::Duration;

use super::command::wait_until;
use super::plan::{Mac, PREFIX_LENGTH};
use super::{LabError, Namespace};

/// The bridge's name in its namespace.
const BRIDGE: &str = "rack";
/// How long the kernel may take to let a new port forward.
const FORWARDING_TIMEOUT: Duration = Duration::from_secs(5);

/// The smallest underlay MTU, in bytes: what every IPv4 host must be able to take (RFC 791).
const SMALLEST_MTU: u32 = 576;

/// What the ends of an underlay wire leave to "hardware".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offloads {
    /// Transmit checksums and segmentation off at both ends: whole packets, no larger than the MTU, with whole checksums,
    /// as on a real wire.
    #[default]
    Off,
    /// A veth's defaults: packets cross with checksums half computed and segments merged.
    On,
}

/// How the underlay's wires are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Receive and transmit queues of each end.
    pub queues: u32,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// What the ends leave to "hardware".
    pub offloads: Offloads,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            queues: 2,
            mtu: 1500,
            offloads: Offloads::Off,
        }
    }
}

impl Wire {
    /// Refuses what cannot be made.
    pub(crate) fn check(self) -> Result<(), LabError> {
        let unfit = |what, value: u32, rule| {
            Err(LabError::Unfit {
                what,
                value: value.to_string(),
                rule,
            })
        };
        if self.queues == 0 {
            return unfit("number of queues", self.queues, "an interface has at least one");
        }
        if self.mtu < SMALLEST_MTU {
            return unfit(
                "underlay MTU",
                self.mtu,
                "too small for a tunnel; 576 bytes are enough",
            );
        }
        Ok(())
    }
}

/// The switch of the rack.
#[derive(Debug)]
pub struct Switch {
    namespace: Namespace,
    wire: Wire,
}

/// The far end of a wire, in the namespace of who is joined.
#[derive(Clone, Copy, Debug)]
pub struct WireEnd<'a> {
    /// Whom to join.
    pub namespace: &'a Namespace,
    /// The interface's name there.
    pub interface: &'a str,
    /// The interface's MAC, or nothing to let the kernel draw one.
    pub mac: Option<Mac>,
}

impl Switch {
    /// Makes a switch without ports in `namespace`, whose wires will be like `wire`.
    pub(crate) fn install(namespace: Namespace, wire: Wire) -> Result<Self, LabError> {
        // A switch of the rack looks no further than the Ethernet header. Kernels without the module lack the keys.
        for hook in ["iptables", "ip6tables", "arptables"] {
            let key = format!("bridge/bridge-nf-call-{hook}");
            if namespace.get(&key).is_ok() {
                namespace.set(&key, "0")?;
            }
        }
        let mut make = vec!["link", "add", "name", BRIDGE, "type", "bridge"];
        make.extend(["stp_state", "0", "mcast_snooping", "0"]);
        namespace.ip(&make)?;
        namespace.ip(&["link", "set", BRIDGE, "up"])?;
        Ok(Self { namespace, wire })
    }

    /// The namespace the switch is in; each of its ports has the name it was joined by.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// How its wires are made.
    #[must_use]
    pub fn wire(&self) -> Wire {
        self.wire
    }

    /// Joins a namespace by a wire: `port` here, `end` there, both up, and waits until the port forwards.
    pub fn join(&self, port: &str, end: WireEnd<'_>) -> Result<(), LabError> {
        let Wire {
            queues,
            mtu,
            offloads,
        } = self.wire;
        let (queues, mtu) = (queues.to_string(), mtu.to_string());
        let size = ["numtxqueues", &queues, "numrxqueues", &queues, "mtu", &mtu];
        let mac = end.mac.map(|mac| mac.to_string());
        let mut make = vec!["link", "add", "name", port];
        make.extend(size);
        make.extend([
            "type",
            "veth",
            "peer",
            "name",
            end.interface,
            "netns",
            end.namespace.name(),
        ]);
        make.extend(size);
        if let Some(mac) = &mac {
            make.extend(["address", mac]);
        }
        self.namespace.ip(&make)?;
        if offloads == Offloads::Off {
            turn_offloads_off(&self.namespace, port)?;
            turn_offloads_off(end.namespace, end.interface)?;
        }
        end.namespace.ip(&["link", "set", end.interface, "up"])?;
        self.namespace
            .ip(&["link", "set", port, "master", BRIDGE, "up"])?;
        wait_until(&format!("forwarding on {port}"), FORWARDING_TIMEOUT, || {
            self.forwards(port)
        })
    }

    /// Joins a namespace as a machine with an underlay address.
    pub(crate) fn join_as(&self, port: &str, end: WireEnd<'_>, address: &str) -> Result<(), LabError> {
        self.join(port, end)?;
        let address = format!("{address}/{PREFIX_LENGTH}");
        end.namespace
            .ip(&["address", "add", &address, "dev", end.interface])
            .map(drop)
    }

    /// Adds a port that is the tap of a virtual machine's NIC, for as many queues as that has. It forwards once the machine
    /// is there.
    pub(crate) fn add_tap(&self, port: &str) -> Result<(), LabError> {
        let make = [
            "tuntap",
            "add",
            "dev",
            port,
            "mode",
            "tap",
            "multi_queue",
            "vnet_hdr",
        ];
        self.namespace.ip(&make)?;
        let mtu = self.wire.mtu.to_string();
        self.namespace
            .ip(&["link", "set", port, "mtu", &mtu, "master", BRIDGE, "up"])
            .map(drop)
    }

    /// Whether the kernel's bridge forwards on a port.
    fn forwards(&self, port: &str) -> Result<bool, LabError> {
        Ok(self
            .namespace
            .bridge(&["link", "show", "dev", port])?
            .contains("state forwarding"))
    }
}

/// Makes one end of a veth send as a real wire would have it.
fn turn_offloads_off(namespace: &Namespace, interface: &str) -> Result<(), LabError> {
    let off = [
        "-K", interface, "tx", "off", "sg", "off", "tso", "off", "gso", "off",
    ];
    namespace.run("ethtool", &off).map(drop)
}
