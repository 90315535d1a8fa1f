//! Finding a generator's packet in a frame, whatever headers were put before it or rewritten on the way.

use millrace_dataplane::wire::checksum::{Sum, addresses_v4, addresses_v6, is_transport_valid};
use millrace_dataplane::wire::icmp::{Icmp, IcmpFamily};
use millrace_dataplane::wire::vlan::{MAX_TAGS, skip_tags};
use millrace_dataplane::wire::{EtherType, Ethernet, IpProtocol, Ipv4, Ipv6, Tcp, Udp, Vxlan, vxlan};

use super::marker::{Found, MARKER_LEN, Marker, Runs};

/// Where identifier and sequence number of an ICMP echo stand, in bytes.
const ECHO_AT: usize = 4;

/// How many tunnels may be in one another.
const TUNNELS_MAX: usize = 3;

/// What a received packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrapping {
    /// As it is.
    Plain,
    /// In VXLAN.
    Vxlan,
    /// In IP.
    Ipip,
    /// Behind headers that are not looked into.
    Other,
}

/// A packet of a generator, as it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised {
    /// Its mark.
    pub marker: Marker,
    /// What it came in.
    pub wrapping: Wrapping,
    /// A number that all packets of a flow have, as they arrive: of the innermost addresses and ports.
    pub flow: u16,
    /// Whether the mark's numbers can be believed.
    pub is_credible: bool,
    /// Whether every checksum in it is right: the mark's, the transport's, and those of all IPv4 headers.
    pub is_intact: bool,
}

/// Looks for a mark in a frame, in tunnels too. `None` for everything that is no generator's packet.
#[must_use]
pub fn recognise(frame: &[u8]) -> Option<Recognised> {
    recognise_of(frame, None)
}

/// The same, of certain runs only. A frame whose headers are damaged is searched from end to end.
#[must_use]
pub fn recognise_of(frame: &[u8], runs: Option<Runs>) -> Option<Recognised> {
    let walk = Walk::through(frame);
    let is_meant = |found: &Found| {
        runs.is_none_or(|runs| {
            let run = found.marker.run;
            runs.contains(run) || (!found.is_credible && runs.may_contain(run))
        })
    };
    if let Some(place) = &walk.payload {
        let payload = frame.get(place.at..place.end).unwrap_or_default();
        if let Some(found) = Marker::find(payload).filter(is_meant) {
            return Some(Recognised {
                marker: found.marker,
                wrapping: walk.wrapping,
                flow: place.flow,
                is_credible: found.is_credible,
                is_intact: found.is_whole && walk.is_intact && !walk.is_unsummed,
            });
        }
    }
    let found = search(frame, runs)?;
    Some(Recognised {
        marker: found.marker,
        wrapping: Wrapping::Other,
        flow: 0,
        is_credible: found.is_credible,
        is_intact: found.is_whole && walk.is_intact && walk.is_strange,
    })
}

/// Looks for a mark anywhere in a frame: one that is whole, or one of a run that is known.
fn search(frame: &[u8], runs: Option<Runs>) -> Option<Found> {
    let whole = |at: usize| {
        let found = Marker::find(frame.get(at..)?)?;
        let run = found.marker.run;
        let is_meant = runs.is_none_or(|runs| runs.contains(run)) && (found.is_credible || runs.is_some());
        is_meant.then_some(found)
    };
    if frame.len() < MARKER_LEN {
        return None;
    }
    Marker::candidates(frame).find_map(whole)
}

/// Where a payload stands in a frame, in bytes, and what it is the payload of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) at: usize,
    pub(crate) end: usize,
    /// Where the transport's header begins.
    pub(crate) l4_at: usize,
    pub(crate) protocol: IpProtocol,
    /// The sum of the addresses.
    pub(crate) addresses: Sum,
    /// [`Recognised::flow`].
    pub(crate) flow: u16,
}

/// A walk over a frame's headers, inwards.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The innermost payload, if it was reached.
    pub(crate) payload: Option<Place>,
    pub(crate) wrapping: Wrapping,
    /// Whether every header on the way parsed, and every checksum was right.
    pub(crate) is_intact: bool,
    /// Whether it ended at something sound that is not looked into.
    is_strange: bool,
    /// Whether it ended at a UDP datagram without a checksum. A generator sends none.
    is_unsummed: bool,
    /// A number for the innermost addresses.
    between: u64,
}

impl Walk {
    pub(crate) fn through(frame: &[u8]) -> Self {
        let mut walk = Self {
            payload: None,
            wrapping: Wrapping::Plain,
            is_intact: true,
            is_strange: false,
            is_unsummed: false,
            between: 0,
        };
        if walk.link(frame, frame, TUNNELS_MAX).is_none() {
            walk.is_intact = false;
        }
        walk
    }

    /// Goes on at an Ethernet header. `None`, here and below, for a header that is none.
    fn link(&mut self, frame: &[u8], bytes: &[u8], left: usize) -> Option<()> {
        let ethernet = Ethernet::parse(bytes).ok()?;
        let behind = skip_tags(ethernet.payload(), ethernet.ether_type(), MAX_TAGS).ok()?;
        match behind.ether_type {
            EtherType::IPV4 => self.ipv4(frame, behind.payload, left),
            EtherType::IPV6 => self.ipv6(frame, behind.payload, left),
            // No checksum covers the type: this may be damage.
            _ => None,
        }
    }

    fn ipv4(&mut self, frame: &[u8], bytes: &[u8], left: usize) -> Option<()> {
        let ip = Ipv4::parse(bytes).ok()?;
        self.is_intact &= ip.verify_checksum().is_ok();
        if ip.is_fragment() {
            return None;
        }
        let (source, destination) = (
            u64::from(ip.source().to_bits()),
            u64::from(ip.destination().to_bits()),
        );
        self.between = mixed(source << 32 | destination);
        let addresses = addresses_v4(ip.source(), ip.destination());
        self.upper(frame, ip.protocol(), ip.payload(), addresses, left)
    }

    fn ipv6(&mut self, frame: &[u8], bytes: &[u8], left: usize) -> Option<()> {
        let ip = Ipv6::parse(bytes).ok()?;
        let upper = ip.upper().ok()?;
        if upper.fragment.is_some_and(|fragment| !fragment.is_first()) {
            return None;
        }
        let halves = [ip.source().to_bits(), ip.destination().to_bits()]
            .map(|bits| (bits >> 64 ^ bits) & u128::from(u64::MAX));
        self.between = halves
            .into_iter()
            .fold(0, |hash, half| mixed(hash ^ u64::try_from(half).unwrap_or(0)));
        let addresses = addresses_v6(ip.source(), ip.destination());
        // No checksum covers the next header: one that is not known may be damage.
        let is_known = [
            IpProtocol::IPIP,
            IpProtocol::IPV6,
            IpProtocol::UDP,
            IpProtocol::TCP,
            IpProtocol::ICMPV6,
        ]
        .contains(&upper.protocol);
        if !is_known {
            return None;
        }
        self.upper(frame, upper.protocol, upper.payload, addresses, left)
    }

    fn upper(
        &mut self,
        frame: &[u8],
        protocol: IpProtocol,
        l4: &[u8],
        addresses: Sum,
        left: usize,
    ) -> Option<()> {
        let payload = match protocol {
            IpProtocol::IPIP | IpProtocol::IPV6 if left > 0 => {
                self.wrapping = Wrapping::Ipip;
                return if protocol == IpProtocol::IPIP {
                    self.ipv4(frame, l4, left - 1)
                } else {
                    self.ipv6(frame, l4, left - 1)
                };
            }
            IpProtocol::UDP => return self.udp(frame, l4, addresses, left),
            IpProtocol::TCP => {
                self.is_intact &= is_transport_valid(addresses, protocol, l4);
                Tcp::parse(l4).ok()?.payload()
            }
            IpProtocol::ICMP | IpProtocol::ICMPV6 => {
                let family = if protocol == IpProtocol::ICMP {
                    IcmpFamily::V4
                } else {
                    IcmpFamily::V6
                };
                let message = Icmp::parse(family, l4).ok()?;
                self.is_intact &= message.verify_checksum(addresses).is_ok();
                message.body()
            }
            _ => {
                self.is_strange = true;
                return Some(());
            }
        };
        self.arrive(frame, protocol, l4, payload, addresses);
        Some(())
    }

    fn udp(&mut self, frame: &[u8], l4: &[u8], addresses: Sum, left: usize) -> Option<()> {
        let datagram = Udp::parse(l4).ok()?;
        let whole = l4.get(..usize::from(datagram.length())).unwrap_or(l4);
        let is_right = datagram.checksum() == 0 || is_transport_valid(addresses, IpProtocol::UDP, whole);
        let payload = datagram.payload();
        let is_tunnel = [vxlan::LINUX_PORT, vxlan::IANA_PORT].contains(&datagram.destination_port());
        if is_tunnel && left > 0 && Marker::find(payload).is_none() {
            self.wrapping = Wrapping::Vxlan;
            self.is_intact &= is_right || is_left_to_the_device(addresses, datagram);
            return self.link(frame, Vxlan::parse(payload).ok()?.payload(), left - 1);
        }
        self.is_intact &= is_right;
        // A payload without a mark may be a tunnel by another port.
        self.is_strange = true;
        self.is_unsummed = datagram.checksum() == 0;
        self.arrive(frame, IpProtocol::UDP, l4, payload, addresses);
        Some(())
    }

    fn arrive(&mut self, frame: &[u8], protocol: IpProtocol, l4: &[u8], payload: &[u8], addresses: Sum) {
        let offset = |part: &[u8]| part.as_ptr().addr().wrapping_sub(frame.as_ptr().addr());
        let at = offset(payload);
        let ports_at = match protocol {
            IpProtocol::ICMP | IpProtocol::ICMPV6 => ECHO_AT,
            _ => 0,
        };
        let ports = l4
            .get(ports_at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or_default();
        let hash = mixed(self.between ^ u64::from(u32::from_be_bytes(ports)));
        self.payload = Some(Place {
            at,
            end: at.wrapping_add(payload.len()),
            l4_at: offset(l4),
            protocol,
            addresses,
            // INVARIANT: the upper 16 of 64 bits.
            flow: u16::try_from(hash >> 48).unwrap_or(0),
        });
    }
}

/// A hash of one word: a product by 2^64 divided by the golden ratio, with its halves folded.
fn mixed(word: u64) -> u64 {
    let product = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ product >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Whether a checksum is only begun: a kernel that puts a packet into a tunnel leaves the rest to a device that computes
/// it, and a veth is one that never does (kernel documentation, `networking/checksum-offloads`).
fn is_left_to_the_device(addresses: Sum, datagram: Udp<'_>) -> bool {
    let begun = addresses.add_transport(IpProtocol::UDP, usize::from(datagram.length()));
    begun.fold() == datagram.checksum()
}
