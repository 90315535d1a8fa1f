//! The ways between two pods.

use anyhow::Context;
use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::traffic::{Ends, Ping, ping};
use millrace_tools::lab::{
    Lab, Namespace, NodeKind, Offloads, POD_BRIDGE, POD_INTERFACE, TUNNEL, Topology, Wire,
};
use serde_json::Value;

use crate::arms::POD;

/// Bytes of IPv4 and UDP header.
const UDP_HEADERS_V4: u32 = 28;

/// Where the two pods are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nodes {
    One,
    Two,
}

impl Nodes {
    pub(super) const ALL: [Self; 2] = [Self::One, Self::Two];

    /// Its key in the summary.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Two => "two",
        }
    }

    fn other_pod(self) -> &'static str {
        match self {
            Self::One => "pod-a2",
            Self::Two => "pod-b1",
        }
    }
}

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    /// The switch.
    Switch,
    /// The kernel's bridge and vxlan, as they are.
    Kernel,
    /// The same without the offloads that AF_XDP has to do without.
    KernelPlain,
}

impl Path {
    pub(super) const ALL: [Self; 3] = [Self::Switch, Self::Kernel, Self::KernelPlain];

    /// Its key in the summary.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Kernel => "kernel",
            Self::KernelPlain => "kernel-plain",
        }
    }
}

/// Two pods and a way between them.
pub(super) struct Arm {
    lab: Lab,
    nodes: Nodes,
    way: Path,
}

impl Arm {
    /// Sets the nodes up, and makes sure that the pods reach one another.
    ///
    /// # Errors
    /// When a lab cannot be made, or a ping is not answered.
    pub(super) fn bring_up(nodes: Nodes, way: Path) -> anyhow::Result<Self> {
        let kind = match way {
            Path::Switch => NodeKind::Millrace,
            Path::Kernel | Path::KernelPlain => NodeKind::Stock,
        };
        let kinds = match nodes {
            Nodes::One => vec![kind],
            Nodes::Two => vec![kind, kind],
        };
        let mut topology = Topology::of(&kinds);
        topology.wire = Wire {
            offloads: match way {
                Path::Kernel => Offloads::On,
                Path::Switch | Path::KernelPlain => Offloads::Off,
            },
            ..Wire::default()
        };
        let name = format!("bench-{}-{}", nodes.word(), way.word());
        let lab = Lab::bring_up(&name, &topology).with_context(|| format!("cannot set up `{name}`"))?;
        if way == Path::KernelPlain {
            turn_offloads_off(&lab)?;
        }
        let arm = Self { lab, nodes, way };
        let ends = arm.ends()?;
        let report = ping(ends.from, ends.address, &Ping::default())?;
        anyhow::ensure!(
            report.received == report.sent,
            "{name}: {} of {} pings were answered",
            report.received,
            report.sent
        );
        Ok(arm)
    }

    pub(super) fn way(&self) -> Path {
        self.way
    }

    /// The pods, the sender first.
    pub(super) fn ends(&self) -> anyhow::Result<Ends<'_>> {
        let to = self.lab.pod(self.nodes.other_pod())?;
        Ok(Ends {
            from: self.lab.pod(POD)?.namespace(),
            to: to.namespace(),
            address: to.address().into(),
        })
    }

    /// Payload of the longest datagram that no way has to cut, in bytes.
    pub(super) fn udp_payload(&self) -> u32 {
        let mtu = self
            .lab
            .nodes()
            .first()
            .map_or(0, millrace_tools::lab::Node::pod_mtu);
        mtu - UDP_HEADERS_V4
    }
}

/// Turns off what merges segments and leaves checksums undone, on everything between the pods. The underlay's wires are
/// made so.
fn turn_offloads_off(lab: &Lab) -> anyhow::Result<()> {
    for node in lab.nodes() {
        let text = node.namespace().ip(&["-json", "link", "show"])?;
        let links: Value = serde_json::from_str(&text).context("`ip` printed something else than JSON")?;
        let names = links.as_array().into_iter().flatten().filter_map(|link| {
            let name = link.get("ifname")?.as_str()?;
            (name != "lo").then_some(name)
        });
        for name in names {
            off(node.namespace(), name)?;
        }
        for pod in node.pods() {
            off(pod.namespace(), POD_INTERFACE)?;
        }
    }
    Ok(())
}

fn off(namespace: &Namespace, interface: &str) -> anyhow::Result<()> {
    // A tunnel and a bridge have no receive merging of their own to turn off.
    let sets: &[&str] = match interface {
        TUNNEL | POD_BRIDGE => &["tx", "tso", "gso"],
        UPLINK => &["gro"],
        _ => &["tx", "sg", "tso", "gso", "gro"],
    };
    let mut words = vec!["-K", interface];
    for set in sets {
        words.extend([set, "off"]);
    }
    namespace.run("ethtool", &words)?;
    Ok(())
}
