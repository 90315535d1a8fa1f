//! What is on a trunk, frame by frame and tags and all, as tcpdump sees it at the peer's end.

use std::net::Ipv4Addr;
use std::time::Duration;

use millrace_tools::lab::wait_until;

use crate::rig::{PATIENCE, Rig};
use crate::vlan::{FAR, OWN_NETWORKS, PEER, PRIORITY, TRUNK, VLAN};

const LOG: &str = "/var/log/wire.log";
/// Who has written nothing for so long has nothing more to write.
const SETTLED: Duration = Duration::from_secs(2);
/// Kibibytes that the kernel keeps for tcpdump: more than ever are on this wire, so that none is left out.
const BUFFER: &str = "16384";
/// Bytes that are kept of a frame: two MACs, a tag, an EtherType, and an IPv4 header.
const KEPT: &str = "38";
/// EtherTypes (IEEE 802 Numbers), and protocols of IPv4 (RFC 5237's registry).
const TPID: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const ICMP: u8 = 1;
const IPIP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A capture that goes on inside the machine.
pub(crate) struct Wire {
    pid: u32,
}

/// What a frame that the underlay's VLAN is to carry says of itself.
struct Frame {
    from_node: bool,
    /// VLAN and priority.
    tag: Option<(u16, u16)>,
    /// The protocol of an IPv4 packet.
    protocol: Option<u8>,
    source: Ipv4Addr,
}

impl Wire {
    /// Returns once it listens.
    pub(crate) fn listen(rig: &Rig) -> Self {
        let words = [
            "ip", "netns", "exec", PEER, "tcpdump", "-Z", "root", "-U", "-n", "-t", "-xx", "-s", KEPT, "-B",
            BUFFER, "-i", FAR,
        ];
        let pid = rig.node.machine().spawn(&words, LOG).unwrap();
        await_word("listening on", rig);
        Self { pid }
    }

    /// Ends the capture. Every packet between the nodes and their pods bore the tag of the underlay's VLAN, with the peer's
    /// priority or none; and every way there is to go was gone, in both directions.
    pub(crate) fn assert_tagged(self, rig: &Rig) {
        let _step = rig.step("every frame on the wire");
        await_silence(rig);
        rig.inside(&format!("kill -INT {}", self.pid));
        let text = await_word("packets captured", rig);
        let node = mac(&rig.inside(&format!("cat /sys/class/net/{TRUNK}/address")));
        let frames: Vec<Frame> = frames(&text)
            .iter()
            .filter_map(|frame| open(frame, &node))
            .collect();
        for frame in &frames {
            let from = if frame.from_node { "the node" } else { "the peer" };
            let who = format!("protocol {:?} from {} by {from}", frame.protocol, frame.source);
            let (vlan, priority) = frame.tag.unwrap_or_else(|| panic!("untagged: {who}"));
            assert_eq!(vlan, VLAN, "{who}");
            if [ICMP, IPIP, TCP, UDP].map(Some).contains(&frame.protocol) {
                let expected = if frame.from_node { 0 } else { PRIORITY };
                assert_eq!(priority, expected, "{who}");
            }
        }
        let (nodes, pods) = (
            [
                rig.node.plan().underlay_address(),
                rig.lab.nodes()[0].plan().underlay_address(),
            ],
            [rig.address(crate::rig::PODS[0]), rig.stock_pod().1],
        );
        for (protocol, ends, what) in [
            (UDP, nodes, "VXLAN and the node port"),
            (TCP, nodes, "the node port"),
            (IPIP, nodes, "IPIP"),
            (ICMP, pods, "pings in no tunnel"),
            (TCP, pods, "TCP in no tunnel"),
            (UDP, pods, "UDP in no tunnel"),
        ] {
            for (source, from_node) in ends.into_iter().zip([true, false]) {
                let is_there = frames.iter().any(|frame| {
                    (frame.protocol, frame.source, frame.from_node) == (Some(protocol), source, from_node)
                });
                assert!(
                    is_there,
                    "{what}: nothing from {source} among {} frames",
                    frames.len()
                );
            }
        }
    }
}

/// Returns once tcpdump has written what it has: on a slow machine it is behind, and ends with what it has written.
fn await_silence(rig: &Rig) {
    let mut before = None;
    let said = wait_until("the end of what tcpdump says", PATIENCE, || {
        std::thread::sleep(SETTLED);
        let length = rig.node.machine().read(LOG)?.map(|text| text.len());
        Ok(std::mem::replace(&mut before, length) == length)
    });
    said.unwrap_or_else(|error| panic!("{error}"));
}

/// What tcpdump has said, once it has said this.
fn await_word(word: &str, rig: &Rig) -> String {
    let mut text = String::new();
    let said = wait_until(&format!("tcpdump's {word:?}"), PATIENCE, || {
        text = rig.node.machine().read(LOG)?.unwrap_or_default();
        Ok(text.contains(word))
    });
    said.unwrap_or_else(|error| panic!("{error}: {text}"));
    text
}

/// The frames of a dump in hexadecimal: lines of `\t0x0010:  4500 0054 ...`, which begin anew at 0 with every frame.
fn frames(text: &str) -> Vec<Vec<u8>> {
    let mut frames: Vec<Vec<u8>> = Vec::new();
    for line in text.lines() {
        let Some((offset, digits)) = line.strip_prefix("\t0x").and_then(|line| line.split_once(": ")) else {
            continue;
        };
        if offset == "0000" {
            frames.push(Vec::new());
        }
        let frame = frames.last_mut().expect("a frame begins at 0");
        let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes = digits.chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).unwrap();
            u8::from_str_radix(pair, 16).unwrap()
        });
        frame.extend(bytes);
    }
    frames
}

/// A packet of IPv4 or ARP, unless of the node's own networks.
fn open(frame: &[u8], node: &[u8]) -> Option<Frame> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (tag, ethertype, body) = match word(12)? {
        TPID => {
            let control = word(14)?;
            (
                Some((control & 0xfff, control >> 13)),
                word(16)?,
                frame.get(18..)?,
            )
        }
        ethertype => (None, ethertype, frame.get(14..)?),
    };
    let (protocol, source) = match ethertype {
        IPV4 => (Some(*body.get(9)?), body.get(12..16)?),
        ARP => (None, body.get(14..18)?),
        _ => return None,
    };
    let source = Ipv4Addr::from(<[u8; 4]>::try_from(source).ok()?);
    let is_own = OWN_NETWORKS
        .iter()
        .any(|network| source.to_string().starts_with(&format!("{network}.")));
    (!is_own).then_some(Frame {
        from_node: frame.get(6..12)? == node,
        tag,
        protocol,
        source,
    })
}

fn mac(text: &str) -> Vec<u8> {
    let bytes = text.trim().split(':');
    bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}
