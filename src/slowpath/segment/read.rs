//! What a frame of ARP or neighbour discovery says about who has which address, and whom it asks for.

use std::net::{IpAddr, Ipv6Addr};

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::wire::{
    Arp, ArpFields, ArpOperation, EtherType, Ethernet, Icmp, IcmpFamily, IpProtocol, Ipv6, MacAddr, ndp,
};

use crate::slowpath::arp::reply;
use crate::slowpath::neighbour::{Asker, advertise};
use crate::slowpath::stats::Silence;

/// What a station says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// The address that it has.
    pub(super) address: IpAddr,
    /// Its link address.
    pub(super) mac: MacAddr,
    /// Whether it is a router, if it says that.
    pub(super) is_router: Option<bool>,
}

/// A question that somebody else than who is asked for may answer.
pub(super) enum Question {
    /// Who has this IPv4 address?
    Arp(ArpFields),
    /// Who has this IPv6 address?
    Solicitation(Ipv6Addr, Asker),
}

/// What was read.
#[derive(Default)]
pub(super) struct Heard {
    pub(super) claim: Option<Claim>,
    pub(super) question: Option<Question>,
}

/// Reads a frame of a segment. What is no sound ARP or neighbour message says and asks nothing.
pub(super) fn read(frame: &[u8]) -> Heard {
    let read = || -> Result<Heard, Silence> {
        let ethernet = Ethernet::parse(frame)?;
        match ethernet.ether_type() {
            EtherType::ARP => Ok(read_arp(ethernet.source(), &Arp::parse(ethernet.payload())?)),
            EtherType::IPV6 => read_neighbour(ethernet.source(), &Ipv6::parse(ethernet.payload())?),
            _ => Ok(Heard::default()),
        }
    };
    read().unwrap_or_default()
}

fn read_arp(source: MacAddr, arp: &Arp<'_>) -> Heard {
    let (mac, address) = (arp.sender_hardware(), arp.sender_protocol());
    // Who speaks for another is not believed. A probe says nothing (RFC 5227 section 2.1.1).
    let is_own = mac == source && mac.is_unicast() && is_host(IpAddr::V4(address));
    let claim = is_own.then_some(Claim {
        address: IpAddr::V4(address),
        mac,
        is_router: None,
    });
    // An announcement is for everybody, and a probe is for who has the address to answer.
    let is_question = claim.is_some() && arp.operation() == ArpOperation::REQUEST && !arp.is_announcement();
    Heard {
        claim,
        question: is_question.then(|| Question::Arp(arp.fields())),
    }
}

fn read_neighbour(source: MacAddr, ip: &Ipv6<'_>) -> Result<Heard, Silence> {
    if ip.next_header() != IpProtocol::ICMPV6 || ip.hop_limit() != ndp::HOP_LIMIT {
        return Ok(Heard::default());
    }
    let message = ndp::Neighbour::parse(ip.payload())?;
    let is_sound = Icmp::parse(IcmpFamily::V6, ip.payload())?.verify_checksum(ip.address_sum());
    is_sound.map_err(|_| Silence::BadChecksum)?;
    let claim = |address: Ipv6Addr, link: Option<MacAddr>, is_router| {
        let is_own = link == Some(source) && source.is_unicast() && is_host(IpAddr::V6(address));
        is_own.then_some(Claim {
            address: IpAddr::V6(address),
            mac: source,
            is_router,
        })
    };
    if !message.is_solicitation() {
        return Ok(Heard {
            claim: claim(message.target(), message.target_link(), Some(message.is_router())),
            question: None,
        });
    }
    let asker = Asker::of(ip, source, &message)?;
    Ok(Heard {
        claim: claim(ip.source(), message.source_link(), None),
        // A probe is for who has the address to answer; one to a single station sees whether it is still there.
        question: (!asker.is_probe && ip.destination().is_multicast())
            .then_some(Question::Solicitation(message.target(), asker)),
    })
}

/// Whether a single host can have this address.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_unspecified() || v4.is_broadcast() || v4.is_multicast() || v4.is_loopback())
        }
        IpAddr::V6(v6) => !(v6.is_unspecified() || v6.is_multicast() || v6.is_loopback()),
    }
}

impl Question {
    /// Whose link address is asked for.
    pub(super) fn target(&self) -> IpAddr {
        match self {
            Self::Arp(fields) => IpAddr::V4(fields.target_protocol),
            Self::Solicitation(target, _) => IpAddr::V6(*target),
        }
    }

    /// Who asks, and gets the answer.
    pub(super) fn asker(&self) -> MacAddr {
        match self {
            Self::Arp(fields) => fields.sender_hardware,
            Self::Solicitation(_, asker) => asker.link,
        }
    }

    /// The answer, as `mac` itself would give it; `None` if only it knows what belongs there.
    pub(super) fn answer(&self, mac: MacAddr, is_router: Option<bool>) -> Option<PacketCopy> {
        match self {
            Self::Arp(request) => reply(request, mac),
            Self::Solicitation(target, asker) => advertise((mac, *target), is_router?, asker),
        }
    }
}
