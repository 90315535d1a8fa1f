//! What the arms of the comparison share: the packet, the neighbours, the programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use millrace_dataplane::wire::MacAddr;
use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::{Lab, POD_INTERFACE};
use millrace_tools::pktgen::{AddressRange, FlowSpace, Flows, Link, Place, PortRange, Shape, Template};
use serde_json::Value;

use super::arm::{DESTINATION_PORT, FIRST_PORT, FLOWS, NODE, PEER, PEER_POD, POD};

/// The wire's far end swallows everything while it counts, ARP too: the node must know its peer already.
pub(super) fn fix_neighbour(lab: &Lab) -> anyhow::Result<()> {
    let peer = lab.node(PEER)?.plan();
    let (address, mac) = (peer.underlay_address().to_string(), peer.uplink_mac().to_string());
    let entry = [
        "neighbour",
        "replace",
        &address,
        "lladdr",
        &mac,
        "dev",
        UPLINK,
        "nud",
        "permanent",
    ];
    lab.node(NODE)?.namespace().ip(&entry)?;
    Ok(())
}

/// What the pod sends: to a pod on the peer, through its gateway.
pub(super) fn template(lab: &Lab, frame_len: usize) -> anyhow::Result<Template> {
    let pod = lab.pod(POD)?;
    let source = Place::inside(POD_INTERFACE, pod.namespace().name()).facts()?.mac;
    let space = FlowSpace {
        sources: AddressRange::one(pod.address()),
        destinations: AddressRange::one(lab.pod(PEER_POD)?.address()),
        source_ports: PortRange::new(FIRST_PORT, u16::MAX).context("no ports")?,
        destination_ports: PortRange::one(DESTINATION_PORT),
    };
    let shape = Shape {
        link: Link {
            source,
            destination: gateway_mac(lab)?,
        },
        outer: None,
        flows: Flows::new(space, FLOWS)?,
        frame_len,
        run: 0,
    };
    Ok(Template::new(&shape)?)
}

/// The link address of the pod's gateway, as the pod finds it.
pub(crate) fn gateway_mac(lab: &Lab) -> anyhow::Result<MacAddr> {
    let namespace = lab.pod(POD)?.namespace();
    let gateway = lab.node(NODE)?.plan().gateway().to_string();
    namespace.run("ping", &["-c", "1", "-W", "2", &gateway])?;
    let text = namespace.ip(&["-json", "neighbour", "show", &gateway])?;
    let entries: Value = serde_json::from_str(&text).context("`ip` printed something else than JSON")?;
    let mac = entries
        .pointer("/0/lladdr")
        .and_then(Value::as_str)
        .context("the pod does not know its gateway")?;
    mac.parse()
        .map_err(|_| anyhow::anyhow!("{mac:?} is no MAC address"))
}

/// A core as the kernel's masks name it: hexadecimal, in groups of 32 bits, the highest first.
pub(super) fn core_mask(core: usize) -> String {
    let groups = (0..=core / 32).rev();
    let words: Vec<String> = groups
        .map(|group| {
            if group == core / 32 {
                format!("{:08x}", 1u32 << (core % 32))
            } else {
                format!("{:08x}", 0)
            }
        })
        .collect();
    words.join(",")
}

/// Where Cargo puts the project's programs.
pub(super) fn beside_this_program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program")?;
    let program = own.parent().unwrap_or(Path::new("/")).join(name);
    ensure!(
        program.is_file(),
        "{} is not there: build it with `cargo build --release`",
        program.display()
    );
    Ok(program)
}
