//! What is on the underlay: one ping to a pod of every other node, as tcpdump shows it, and whether that is the tunnel it
//! should be.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::flows::{Family, addresses};
use super::services::millrace;
use crate::lab::plan::{NodePlan, Tunnel};
use crate::lab::traffic::{Capture, Ping, ping};
use crate::lab::{Lab, LabError, Node, NodeKind, Pod, complete, wait_until};

/// How long the packets may take to be in the capture.
const CAPTURED: Duration = Duration::from_secs(5);

/// A packet that has to be there.
struct Expected {
    /// Who sends it to whom, and in what.
    label: String,
    /// How tcpdump begins its line.
    start: String,
    /// What stands in it behind that, in this order.
    parts: Vec<String>,
}

/// Pings from the first pod of the first Millrace node to a pod of every other node, and answers with what went over the node's
/// wire; nothing if there is nobody to talk to.
///
/// # Errors
/// A packet that is not there, or not as it should be, and [`LabError::Interrupted`].
pub(crate) fn show(lab: &Lab) -> Result<Option<String>, LabError> {
    let Some((here, from)) = millrace(lab).find_map(|(node, _)| Some((node, node.pods().first()?))) else {
        return Ok(None);
    };
    let others = lab.nodes().iter().filter(|node| node.name() != here.name());
    let others: Vec<(&Node, &Pod)> = others
        .filter_map(|node| Some((node, node.pods().first()?)))
        .collect();
    if others.is_empty() {
        return Ok(None);
    }
    let name = here.name();
    let file = lab.folder().join("wire.pcap");
    let filter = format!("ip proto 4 or udp port {}", here.plan().network().vxlan_port());
    let capture = Capture::start(lab.switch().namespace(), &name, &filter, &file)?;
    let mut expected = Vec::new();
    for (there, to) in others {
        for (source, target) in addresses(from).into_iter().zip(addresses(to)) {
            expected.extend(both_ways((here, from, source), (there, to, target)));
            let one = Ping {
                count: 1,
                ..Ping::default()
            };
            let report = ping(from.namespace(), target, &one)?;
            if report.received != 1 {
                let problem = format!("{} -> {target} was not answered", from.name());
                return Err(wrong(&name, problem));
            }
        }
    }
    let mut seen = Vec::new();
    let waited = wait_until("the packets on the wire", CAPTURED, || {
        seen = packets(&file)?;
        Ok(expected
            .iter()
            .all(|one| seen.iter().any(|packet| one.is(packet))))
    });
    capture.stop()?;
    match waited {
        Err(LabError::TimedOut { .. }) | Ok(()) => tell(&name, &expected, &seen).map(Some),
        Err(error) => Err(error),
    }
}

/// The request and its answer.
fn both_ways(
    (here, from, source): (&Node, &Pod, IpAddr),
    (there, to, target): (&Node, &Pod, IpAddr),
) -> [Expected; 2] {
    // A stock node sends to everyone in VXLAN.
    let back = match there.kind() {
        NodeKind::Millrace => here.plan().tunnel(),
        NodeKind::Stock => Tunnel::Vxlan,
    };
    let (here, there) = (here.plan(), there.plan());
    [
        expect(
            there.tunnel(),
            (here, from.name(), source),
            (there, to.name(), target),
            "request",
        ),
        expect(
            back,
            (there, to.name(), target),
            (here, from.name(), source),
            "reply",
        ),
    ]
}

fn expect(
    tunnel: Tunnel,
    (here, from, source): (NodePlan, &str, IpAddr),
    (there, to, target): (NodePlan, &str, IpAddr),
    what: &str,
) -> Expected {
    let family = Family::of(target);
    // An underlay of the pods' own family.
    let ends = match (here.v6(), there.v6()) {
        (Some(here), Some(there)) if family == Family::V6 => (
            here.underlay_address().to_string(),
            there.underlay_address().to_string(),
        ),
        _ => (
            here.underlay_address().to_string(),
            there.underlay_address().to_string(),
        ),
    };
    let (word, icmp) = match family {
        Family::V4 => ("IP", "ICMP"),
        Family::V6 => ("IP6", "ICMP6"),
    };
    let inner = format!("{word} {source} > {target}: {icmp}, echo {what}");
    // tcpdump has a comma there for one of the two only.
    let inner = inner.replace("ICMP, ", "ICMP ");
    let (tunnel, start, parts) = match (tunnel, family) {
        (Tunnel::Ipip, Family::V4) => ("IPIP", format!("IP {} > {}: {inner}", ends.0, ends.1), Vec::new()),
        _ => {
            let (port, vni) = (here.network().vxlan_port(), here.network().vni());
            let outer = format!("> {}.{port}: VXLAN", ends.1);
            let parts = vec![outer, format!("vni {vni}: "), inner];
            ("VXLAN", format!("{word} {}.", ends.0), parts)
        }
    };
    Expected {
        label: format!("{from} -> {to}, {} in {tunnel}:", family.name()),
        start,
        parts,
    }
}

impl Expected {
    fn is(&self, packet: &str) -> bool {
        let Some(mut rest) = packet.strip_prefix(&self.start) else {
            return false;
        };
        for part in &self.parts {
            match rest.split_once(part.as_str()) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        true
    }
}

/// The packets of a capture in tcpdump's words, one line each.
pub(super) fn packets(file: &Path) -> Result<Vec<String>, LabError> {
    let mut line = std::process::Command::new("tcpdump");
    line.args(["-n", "-t", "-T", "vxlan", "-r"]).arg(file);
    Ok(join(&complete(line, CAPTURED)?.success()?))
}

/// tcpdump writes a packet in VXLAN on two lines: the tunnel's, and that of the packet inside.
fn join(text: &str) -> Vec<String> {
    let mut packets: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        match packets.last_mut().filter(|_| is_open) {
            Some(tunnel) => {
                tunnel.push_str(": ");
                tunnel.push_str(line);
                is_open = false;
            }
            None => {
                packets.push(line.to_owned());
                is_open = line.contains(": VXLAN,");
            }
        }
    }
    packets
}

/// The packets that had to be there.
fn tell(node: &str, expected: &[Expected], seen: &[String]) -> Result<String, LabError> {
    let mut told = format!("{node}'s wire, by tcpdump:\n");
    for one in expected {
        let Some(packet) = seen.iter().find(|packet| one.is(packet)) else {
            let problem = format!("{} not as it should be, of\n{}", one.label, seen.join("\n"));
            return Err(wrong(node, problem));
        };
        // Writing to a string cannot fail.
        let _ = writeln!(told, "{}\n  {packet}", one.label);
    }
    Ok(told)
}

fn wrong(node: &str, problem: String) -> LabError {
    LabError::Output {
        command: format!("tcpdump on the wire of {node}"),
        problem,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::lab::plan::Families;

    const IPIP: &str =
        "IP 192.0.2.1 > 192.0.2.2: IP 10.244.1.2 > 10.244.2.2: ICMP echo request, id 1, seq 1, length 64";
    const VXLAN: &str = "IP6 2001:db8::1.40000 > 2001:db8::3.4789: VXLAN, flags [I] (0x08), vni 4096\n\
                         IP6 fd00:1::2 > fd00:3::2: ICMP6, echo request, id 2, seq 1, length 64";

    fn plan(place: usize, tunnel: Tunnel) -> NodePlan {
        NodePlan::of(place)
            .unwrap()
            .with(Families::Dual)
            .in_calico(tunnel)
    }

    fn expected(tunnel: Tunnel, place: usize, source: &str, target: &str) -> Expected {
        let (here, there) = (plan(0, Tunnel::Ipip), plan(place, tunnel));
        let (source, target) = (source.parse().unwrap(), target.parse().unwrap());
        expect(tunnel, (here, "a", source), (there, "b", target), "request")
    }

    #[test]
    fn a_packet_is_known_by_its_tunnel_and_both_pairs_of_addresses() {
        let packets = join(&format!("{VXLAN}\n{IPIP}\n"));
        assert_eq!(packets.len(), 2);
        let ipip = expected(Tunnel::Ipip, 1, "10.244.1.2", "10.244.2.2");
        let vxlan = expected(Tunnel::Vxlan, 2, "fd00:1::2", "fd00:3::2");
        let told = tell("node-a", &[ipip, vxlan], &packets).unwrap();
        assert!(told.contains(IPIP) && told.contains("vni 4096: IP6"), "{told}");
    }

    #[test]
    fn a_packet_in_another_tunnel_or_from_another_node_is_told() {
        let packets = join(&format!("{VXLAN}\n{IPIP}\n"));
        for other in [
            expected(Tunnel::Vxlan, 1, "10.244.1.2", "10.244.2.2"),
            expected(Tunnel::Ipip, 2, "10.244.1.2", "10.244.2.2"),
            expected(Tunnel::Vxlan, 1, "fd00:1::2", "fd00:3::2"),
            expected(Tunnel::Vxlan, 2, "fd00:1::3", "fd00:3::2"),
        ] {
            assert!(tell("node-a", &[other], &packets).is_err());
        }
    }
}
