//! What every node under test shares: its neighbours, its pod's port, the programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use millrace_dataplane::wire::MacAddr;
use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Lab, NodeKind, POD_BRIDGE, POD_INTERFACE};
use millrace_tools::pktgen::{AddressRange, FlowSpace, Flows, Link, Place, PortRange, Shape, Template};
use serde_json::Value;

use super::{Calls, NODE, PEER, POD};

/// The flows' first source port.
const FIRST_PORT: u16 = 1024;

/// The generator's ends swallow everything while they count, ARP too: the node must know its peer and its pod already.
///
/// # Errors
/// When an entry cannot be made.
pub(crate) fn fix_neighbours(lab: &Lab) -> anyhow::Result<()> {
    let peer = lab.node(PEER)?.plan();
    let (address, mac) = (peer.underlay_address().to_string(), peer.uplink_mac().to_string());
    fix(lab, &address, &mac, UPLINK)?;
    let node = lab.node(NODE)?;
    if node.kind() == NodeKind::Stock {
        let pod = lab.pod(POD)?.address().to_string();
        fix(lab, &pod, &pod_mac(lab)?.to_string(), POD_BRIDGE)?;
    }
    Ok(())
}

fn fix(lab: &Lab, address: &str, mac: &str, interface: &str) -> anyhow::Result<()> {
    let entry = [
        "neighbour",
        "replace",
        address,
        "lladdr",
        mac,
        "dev",
        interface,
        "nud",
        "permanent",
    ];
    lab.node(NODE)?.namespace().ip(&entry)?;
    Ok(())
}

/// The pod's end of its wire.
///
/// # Errors
/// When there is no such pod.
pub(crate) fn pod_end(lab: &Lab) -> anyhow::Result<Place> {
    Ok(Place::inside(POD_INTERFACE, lab.pod(POD)?.namespace().name()))
}

/// The rack's end of the node's wire.
pub(crate) fn far_end(lab: &Lab) -> Place {
    Place::inside(NODE, lab.switch().namespace().name())
}

/// The pod's link address.
///
/// # Errors
/// When there is no such pod.
pub(crate) fn pod_mac(lab: &Lab) -> anyhow::Result<MacAddr> {
    Ok(pod_end(lab)?.facts()?.mac)
}

/// The node's interface towards the pod, of a stock node.
///
/// # Errors
/// When the bridge has no port.
pub(crate) fn pod_port(lab: &Lab) -> anyhow::Result<String> {
    let text = lab
        .node(NODE)?
        .namespace()
        .ip(&["-json", "link", "show", "master", POD_BRIDGE])?;
    let links: Value = serde_json::from_str(&text).context("`ip` printed something else than JSON")?;
    let name = links.pointer("/0/ifname").and_then(Value::as_str);
    Ok(name.context("the pod's bridge has no port")?.to_owned())
}

/// The ends of the link from the pod to its gateway, as the pod finds it.
///
/// # Errors
/// When the gateway does not answer.
pub(crate) fn link_out(lab: &Lab) -> anyhow::Result<Link> {
    let namespace = lab.pod(POD)?.namespace();
    let gateway = lab.node(NODE)?.plan().gateway().to_string();
    namespace.run("ping", &["-c", "1", "-W", "2", &gateway])?;
    let text = namespace.ip(&["-json", "neighbour", "show", &gateway])?;
    let entries: Value = serde_json::from_str(&text).context("`ip` printed something else than JSON")?;
    let mac = entries
        .pointer("/0/lladdr")
        .and_then(Value::as_str)
        .context("the pod does not know its gateway")?;
    let destination = mac.parse().map_err(|_| anyhow!("{mac:?} is no MAC address"))?;
    let source = pod_mac(lab)?;
    Ok(Link { source, destination })
}

/// What the pod sends, through its gateway.
///
/// # Errors
/// When there are not so many flows, or frames cannot be so long.
pub(crate) fn template(lab: &Lab, link: Link, calls: &Calls) -> anyhow::Result<Template> {
    let space = FlowSpace {
        sources: AddressRange::one(lab.pod(POD)?.address()),
        destinations: calls.destinations,
        source_ports: PortRange::new(FIRST_PORT, u16::MAX).context("no ports")?,
        destination_ports: PortRange::one(calls.port),
    };
    let shape = Shape {
        link,
        outer: None,
        flows: Flows::new(space, calls.flows)?,
        frame_len: calls.frame_len,
        run: 0,
    };
    Ok(Template::new(&shape)?)
}

/// Cores as the kernel's masks name them: hexadecimal, in groups of 32 bits, the highest first.
pub(crate) fn core_mask(cores: &[usize]) -> String {
    let most = cores.iter().copied().max().unwrap_or(0);
    let groups = (0..=most / 32).rev();
    let words: Vec<String> = groups
        .map(|group| {
            let mine = cores.iter().filter(|core| **core / 32 == group);
            format!("{:08x}", mine.fold(0u32, |mask, core| mask | 1 << (core % 32)))
        })
        .collect();
    words.join(",")
}

/// Where Cargo puts the project's programs.
///
/// # Errors
/// When it is not there.
pub(crate) fn beside_this_program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let program = own.parent().unwrap_or(Path::new("/")).join(name);
    ensure!(
        program.is_file(),
        "{} is not there: build it with `cargo build --release`",
        program.display()
    );
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_written_as_the_kernel_reads_them() {
        for (cores, mask) in [
            (&[0][..], "00000001"),
            (&[1], "00000002"),
            (&[0, 1], "00000003"),
            (&[31], "80000000"),
            (&[32], "00000001,00000000"),
            (&[0, 70], "00000040,00000000,00000001"),
        ] {
            assert_eq!(core_mask(cores), mask, "{cores:?}");
        }
    }
}
