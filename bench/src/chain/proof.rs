//! Before anything is timed: every arm that claims to do the work does it, packet by packet, and lets through what the others
//! do.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, bail, ensure};
use etherparse::{
    IcmpEchoHeader, Icmpv4Type, IpHeaders, IpNumber, Ipv4Header, PacketBuilder, PacketBuilderStep,
};

use millrace_dataplane::wire::{eth, ipv4, udp, vxlan};

use super::cluster::{OPEN_PORTS, SERVICE_PORT, address, backend, tcp_service};
use super::seen::Seen;
use crate::arms::{Bed, Direction, POD, answer};

/// What every packet of the proof begins its payload with; its number follows.
const TAG: &[u8] = b"proof-";
/// Ports of the pod that the timed flows have not, one for each class.
const FIRST_PORT: u16 = 600;
/// Backends that are called directly, which the Services called have not.
const DIRECT: u32 = 200;
/// A port that no policy lets through.
const CLOSED_PORT: u16 = 7;
/// Expedited forwarding, and ECN-capable transport (RFC 3246, RFC 3168): DSCP and ECN.
const MARKED: (u8, u8) = (46, 2);
/// A TTL that is none of the usual ones.
const TTL: u8 = 17;
/// The usual one.
const USUAL_TTL: u8 = 64;
/// A payload that fills a pod's MTU, and a short one.
const LONG: usize = 1400;
const SHORT: usize = 18;
/// An identification that shows in the inner packet.
const ID: u16 = 0x4d52;

/// A class of flows.
struct Class {
    name: &'static str,
    /// Whether it has to come out.
    passes: bool,
    frame: Vec<u8>,
}

/// What came out, by the numbers of its classes: on the wire, and in the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    out: BTreeMap<u8, Seen>,
    back: BTreeMap<u8, Seen>,
}

impl Proof {
    /// Sends a packet of each class through an arm, and the answers back.
    ///
    /// # Errors
    /// When one does not come out that has to, one does that has not, or it is damaged.
    pub(super) fn of(bed: &Bed) -> anyhow::Result<Self> {
        Self::gather(bed).with_context(|| format!("the {} does not do its work", bed.name()))
    }

    fn gather(bed: &Bed) -> anyhow::Result<Self> {
        let (classes, (pod, _)) = (classes(bed)?, bed.link());
        let passing = classes.iter().filter(|class| class.passes).count();
        let frames: Vec<Vec<u8>> = classes.iter().map(|class| class.frame.clone()).collect();
        // One more than is to come: what should not is waited for.
        let caught = bed.exchange(Direction::Out, frames, passing + 1)?;
        let mut out = BTreeMap::new();
        let mut answers = Vec::new();
        for frame in &caught {
            if let Some(number) = number_of(frame) {
                out.insert(number, Seen::of(frame, pod)?);
                answers.push((number, answer(frame)?));
            }
        }
        check(&classes, &out, true)?;
        // The same from a backend that was not called is no answer.
        let first = answers.iter().find(|(number, _)| *number == 0);
        let (_, first) = first.context("nothing came out")?;
        let unasked = unasked(first)?;
        let mut frames: Vec<Vec<u8>> = answers.iter().map(|(_, frame)| frame.clone()).collect();
        frames.push(unasked);
        let expected = frames.len();
        let mut back = BTreeMap::new();
        for frame in &bed.exchange(Direction::Back, frames, expected)? {
            if let Some(number) = number_of(frame) {
                back.insert(number, Seen::of(frame, pod)?);
            }
        }
        check(&classes, &back, false)?;
        Ok(Self { out, back })
    }

    /// Makes sure that another arm did the same.
    ///
    /// # Errors
    /// When it did not: says what, and how each has it.
    pub(super) fn compare(&self, name: &str, other: &Self, other_name: &str) -> anyhow::Result<()> {
        for (way, mine, theirs) in [("out", &self.out, &other.out), ("back", &self.back, &other.back)] {
            for (number, seen) in mine {
                let there = theirs.get(number);
                ensure!(
                    there == Some(seen),
                    "{name} and {other_name} do not do the same with class {number} on its way {way}:\n{seen:02x?}\n{there:02x?}"
                );
            }
        }
        Ok(())
    }

    /// How many packets were compared, and which way.
    pub(super) fn len(&self) -> (usize, usize) {
        (self.out.len(), self.back.len())
    }
}

/// Makes sure that what has to come out did, in a tunnel or out of it, and nothing else.
fn check(classes: &[Class], seen: &BTreeMap<u8, Seen>, is_wrapped: bool) -> anyhow::Result<()> {
    for (number, class) in (0u8..).zip(classes) {
        match seen.get(&number) {
            None if class.passes => bail!("{}: it did not come out", class.name),
            Some(_) if !class.passes => bail!("{}: it came out", class.name),
            Some(seen) if seen.is_wrapped() != is_wrapped => {
                bail!(
                    "{}: in a tunnel where it should not be, or the other way",
                    class.name
                )
            }
            _ => {}
        }
    }
    ensure!(
        !seen.contains_key(&u8::MAX),
        "what nobody asked for came through to an isolated pod"
    );
    Ok(())
}

/// The packets, whose numbers are their places.
fn classes(bed: &Bed) -> anyhow::Result<Vec<Class>> {
    let (source, gateway) = bed.link();
    let maker = Maker {
        link: (source.octets(), gateway.octets()),
        pod: bed.lab().pod(POD)?.address(),
    };
    let (service, direct) = (address(0), backend(DIRECT));
    let open = OPEN_PORTS.0;
    let udp = |number, to, port, len| maker.udp(number, (to, port), len, |_| {});
    let class = |name, passes, frame: anyhow::Result<Vec<u8>>| {
        Ok(Class {
            name,
            passes,
            frame: frame?,
        })
    };
    [
        class("UDP to a Service", true, udp(0, service, SERVICE_PORT, SHORT)),
        class(
            "UDP to a Service, long",
            true,
            udp(1, service, SERVICE_PORT, LONG),
        ),
        class(
            "UDP without a checksum",
            true,
            udp(2, service, SERVICE_PORT, SHORT).map(without_checksum),
        ),
        class(
            "DSCP and ECN",
            true,
            maker.udp(3, (service, SERVICE_PORT), SHORT, |ip| {
                let (dscp, ecn) = MARKED;
                ip.dscp = etherparse::IpDscp::try_new(dscp).unwrap_or_default();
                ip.ecn = etherparse::IpEcn::try_new(ecn).unwrap_or_default();
            }),
        ),
        class(
            "a low TTL, and fragments allowed",
            true,
            maker.udp(4, (service, SERVICE_PORT), SHORT, |ip| {
                ip.time_to_live = TTL;
                ip.dont_fragment = false;
            }),
        ),
        class(
            "TCP to a Service",
            true,
            maker.syn(5, (tcp_service(), SERVICE_PORT)),
        ),
        class("UDP to a pod", true, udp(6, direct, open, SHORT)),
        class("TCP to a pod", true, maker.syn(7, (direct, open))),
        class(
            "UDP by a port that no policy opens",
            false,
            udp(8, direct, CLOSED_PORT, SHORT),
        ),
        class(
            "TCP by a port that no policy opens",
            false,
            maker.syn(9, (direct, CLOSED_PORT)),
        ),
        class("an echo, which no policy opens", false, maker.echo(10, direct)),
    ]
    .into_iter()
    .collect()
}

/// Makes the pod's packets.
struct Maker {
    link: ([u8; 6], [u8; 6]),
    pod: Ipv4Addr,
}

impl Maker {
    fn ip(
        &self,
        to: Ipv4Addr,
        change: impl FnOnce(&mut Ipv4Header),
    ) -> anyhow::Result<PacketBuilderStep<IpHeaders>> {
        let mut ip = Ipv4Header::new(0, USUAL_TTL, IpNumber::UDP, self.pod.octets(), to.octets())?;
        ip.identification = ID;
        ip.dont_fragment = true;
        change(&mut ip);
        let (source, destination) = self.link;
        Ok(PacketBuilder::ethernet2(source, destination)
            .ip(IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default())))
    }

    fn udp(
        &self,
        number: u8,
        (to, port): (Ipv4Addr, u16),
        len: usize,
        change: impl FnOnce(&mut Ipv4Header),
    ) -> anyhow::Result<Vec<u8>> {
        let mut frame = Vec::new();
        self.ip(to, change)?
            .udp(FIRST_PORT + u16::from(number), port)
            .write(&mut frame, &payload(number, len))?;
        Ok(frame)
    }

    fn syn(&self, number: u8, (to, port): (Ipv4Addr, u16)) -> anyhow::Result<Vec<u8>> {
        let mut frame = Vec::new();
        self.ip(to, |_| {})?
            .tcp(FIRST_PORT + u16::from(number), port, 1, u16::MAX)
            .syn()
            .write(&mut frame, &payload(number, SHORT))?;
        Ok(frame)
    }

    fn echo(&self, number: u8, to: Ipv4Addr) -> anyhow::Result<Vec<u8>> {
        let echo = IcmpEchoHeader { id: 1, seq: 1 };
        let mut frame = Vec::new();
        self.ip(to, |_| {})?
            .icmpv4(Icmpv4Type::EchoRequest(echo))
            .write(&mut frame, &payload(number, SHORT))?;
        Ok(frame)
    }
}

fn payload(number: u8, len: usize) -> Vec<u8> {
    let mut payload = TAG.to_vec();
    payload.push(number);
    payload.resize(len, 0x5a);
    payload
}

/// The number in a frame's payload, if it is one of the proof's.
fn number_of(frame: &[u8]) -> Option<u8> {
    let at = tag_at(frame)?;
    frame.get(at + TAG.len()).copied()
}

fn tag_at(frame: &[u8]) -> Option<usize> {
    frame.windows(TAG.len()).position(|window| window == TAG)
}

/// Writes zero where a UDP datagram behind a plain IPv4 header has its checksum: it has none then (RFC 768).
fn without_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let at = eth::HEADER_LEN + ipv4::HEADER_LEN + udp::CHECKSUM_OFFSET;
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.fill(0);
    }
    frame
}

/// An answer in VXLAN made one to nothing: from a port that was not called, under a number of its own.
fn unasked(answer: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut frame = answer.to_vec();
    let number_at = tag_at(&frame).context("an answer without a number")? + TAG.len();
    let udp_at = vxlan::PUSH_LEN_IPV4 + eth::HEADER_LEN + ipv4::HEADER_LEN;
    let checksum_at = udp_at + udp::CHECKSUM_OFFSET;
    for (at, bytes) in [
        (number_at, &[u8::MAX][..]),
        (udp_at, &CLOSED_PORT.to_be_bytes()),
        (checksum_at, &[0, 0]),
    ] {
        let field = frame.get_mut(at..at + bytes.len());
        field.context("an answer that breaks off")?.copy_from_slice(bytes);
    }
    Ok(frame)
}
