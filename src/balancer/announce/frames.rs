//! The frames that an announcer sends, and what it takes from those that it hears.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::wire::{
    Arp, ArpFields, ArpOperation, Dscp, Ecn, EtherType, Ethernet, Icmp, IcmpFamily, IcmpType, IpProtocol,
    Ipv6, Ipv6Fields, MacAddr, arp, checksum, eth, icmp, ipv6, ndp,
};

/// All nodes on the link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A frame to be sent.
pub type Frame = Vec<u8>;

/// What a frame says or asks about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The address.
    pub address: IpAddr,
    /// Who sent it.
    pub from: MacAddr,
    /// What it says.
    pub what: What,
}

/// What is said or asked about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Who has it?
    Asks {
        /// The asker's own address.
        asker: IpAddr,
    },
    /// Somebody wants it, and asks whether it is free (RFC 5227 section 2.1.1, RFC 4862 section 5.4.2).
    Probes,
    /// The sender has it.
    Claims,
}

/// Reads a frame. One may say a thing about one address and ask about another: an ARP request does. `None` for what is
/// neither ARP nor neighbour discovery, or is not as the RFCs want it.
#[must_use]
pub fn read(frame: &[u8]) -> [Option<Heard>; 2] {
    let Ok(ethernet) = Ethernet::parse(frame) else {
        return [None, None];
    };
    match ethernet.ether_type() {
        EtherType::ARP => read_arp(ethernet.payload()),
        EtherType::IPV6 => [read_neighbour(ethernet.source(), ethernet.payload()), None],
        _ => [None, None],
    }
}

fn read_arp(payload: &[u8]) -> [Option<Heard>; 2] {
    let Some(arp) = Arp::parse(payload)
        .ok()
        .filter(|arp| arp.sender_hardware().is_unicast())
    else {
        return [None, None];
    };
    let from = arp.sender_hardware();
    let heard = |address: Ipv4Addr, what| {
        Some(Heard {
            address: IpAddr::V4(address),
            from,
            what,
        })
    };
    let (sender, target) = (arp.sender_protocol(), arp.target_protocol());
    let is_request = arp.operation() == ArpOperation::REQUEST;
    if !is_request && arp.operation() != ArpOperation::REPLY {
        return [None, None];
    }
    if sender.is_unspecified() {
        return [is_request.then(|| heard(target, What::Probes)).flatten(), None];
    }
    let claims = heard(sender, What::Claims);
    let asker = IpAddr::V4(sender);
    // An announcement asks nothing.
    let asks = (is_request && !arp.is_announcement()).then(|| heard(target, What::Asks { asker }));
    [claims, asks.flatten()]
}

/// With the checks of RFC 4861 sections 7.1.1 and 7.1.2.
fn read_neighbour(link: MacAddr, payload: &[u8]) -> Option<Heard> {
    let ip = Ipv6::parse(payload).ok()?;
    if ip.next_header() != IpProtocol::ICMPV6 || ip.hop_limit() != ndp::HOP_LIMIT || !link.is_unicast() {
        return None;
    }
    let message = ndp::Neighbour::parse(ip.payload()).ok()?;
    Icmp::parse(IcmpFamily::V6, ip.payload())
        .ok()?
        .verify_checksum(ip.address_sum())
        .ok()?;
    let (source, target) = (ip.source(), message.target());
    if target.is_multicast() {
        return None;
    }
    let what = match (message.is_solicitation(), source.is_unspecified()) {
        (true, true) if message.source_link().is_some() || ip.destination() != solicited_node(target) => {
            return None;
        }
        (true, true) => What::Probes,
        (true, false) if source.is_multicast() => return None,
        (true, false) => What::Asks {
            asker: IpAddr::V6(source),
        },
        (false, _) => What::Claims,
    };
    let from = if what == What::Claims {
        message.target_link().unwrap_or(link)
    } else {
        link
    };
    Some(Heard {
        address: IpAddr::V6(target),
        from,
        what,
    })
}

/// The group in which whoever has an address hears solicitations for it (RFC 4291 section 2.7.1).
#[must_use]
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    let high = u16::from_be_bytes([0xff, a]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, high, u16::from_be_bytes([b, c]))
}

/// An IPv6 group's address on Ethernet (RFC 2464 section 7).
fn group_link(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// Asks whether an address is free.
#[must_use]
pub fn probe(own: MacAddr, address: IpAddr) -> Option<Frame> {
    match address {
        IpAddr::V4(address) => arp_request(own, Ipv4Addr::UNSPECIFIED, address),
        IpAddr::V6(address) => {
            let mut message = [0; ndp::MESSAGE_LEN];
            let (kind, target) = message.split_at_mut(icmp::HEADER_LEN);
            kind[0] = IcmpType::V6_NEIGHBOUR_SOLICITATION.0;
            target.copy_from_slice(&address.octets());
            let group = solicited_node(address);
            neighbour_frame(
                own,
                group_link(group),
                (Ipv6Addr::UNSPECIFIED, group),
                &mut message,
            )
        }
    }
}

/// Says to everyone who has an address.
#[must_use]
pub fn announcement(own: MacAddr, address: IpAddr) -> Option<Frame> {
    match address {
        IpAddr::V4(address) => arp_request(own, address, address),
        IpAddr::V6(address) => advertisement(own, address, (ALL_NODES, group_link(ALL_NODES)), false),
    }
}

/// Answers whoever asked, or probed, for an address.
#[must_use]
pub fn answer(own: MacAddr, heard: &Heard) -> Option<Frame> {
    let asker = match heard.what {
        What::Asks { asker } => Some(asker),
        What::Probes => None,
        What::Claims => return None,
    };
    match (heard.address, asker) {
        (IpAddr::V4(address), asker) => {
            let asker = match asker {
                Some(IpAddr::V4(asker)) => asker,
                _ => Ipv4Addr::UNSPECIFIED,
            };
            let request = ArpFields {
                operation: ArpOperation::REQUEST,
                sender_hardware: heard.from,
                sender_protocol: asker,
                target_hardware: MacAddr::ZERO,
                target_protocol: address,
            };
            arp_frame(own, heard.from, &request.reply_with(own))
        }
        (IpAddr::V6(address), Some(IpAddr::V6(asker))) => {
            advertisement(own, address, (asker, heard.from), true)
        }
        // One that probes has no address to be answered at.
        (IpAddr::V6(address), _) => advertisement(own, address, (ALL_NODES, group_link(ALL_NODES)), false),
    }
}

fn arp_request(own: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Option<Frame> {
    let fields = ArpFields {
        operation: ArpOperation::REQUEST,
        sender_hardware: own,
        sender_protocol: sender,
        target_hardware: MacAddr::ZERO,
        target_protocol: target,
    };
    arp_frame(own, MacAddr::BROADCAST, &fields)
}

fn arp_frame(own: MacAddr, to: MacAddr, fields: &ArpFields) -> Option<Frame> {
    let mut frame = vec![0; eth::MIN_FRAME_LEN];
    let (link, payload) = frame.split_first_chunk_mut()?;
    eth::emit(link, to, own, EtherType::ARP);
    fields.emit(payload.first_chunk_mut::<{ arp::PACKET_LEN }>()?);
    Some(frame)
}

/// An advertisement of a host's: it forwards nothing for those who hear it.
fn advertisement(
    own: MacAddr,
    address: Ipv6Addr,
    (to, link): (Ipv6Addr, MacAddr),
    is_solicited: bool,
) -> Option<Frame> {
    let mut message = [0; ndp::ADVERTISEMENT_LEN];
    let fields = ndp::Advertisement {
        target: address,
        link: own,
        is_solicited,
        is_router: false,
    };
    fields.emit(&mut message);
    neighbour_frame(own, link, (address, to), &mut message)
}

fn neighbour_frame(
    own: MacAddr,
    link: MacAddr,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    message: &mut [u8],
) -> Option<Frame> {
    icmp::fill_checksum(
        IcmpFamily::V6,
        checksum::addresses_v6(source, destination),
        message,
    );
    let mut frame = vec![0; eth::HEADER_LEN + ipv6::HEADER_LEN + message.len()];
    let (head, rest) = frame.split_first_chunk_mut()?;
    let (header, payload) = rest.split_first_chunk_mut()?;
    eth::emit(head, link, own, EtherType::IPV6);
    let fields = Ipv6Fields {
        dscp: Dscp::DEFAULT,
        ecn: Ecn::NotEct,
        flow_label: 0,
        payload_len: u16::try_from(message.len()).ok()?,
        next_header: IpProtocol::ICMPV6,
        hop_limit: ndp::HOP_LIMIT,
        source,
        destination,
    };
    fields.emit(header);
    payload.copy_from_slice(message);
    Some(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn heard(address: &str, from: MacAddr, what: What) -> Option<Heard> {
        Some(Heard {
            address: ip(address),
            from,
            what,
        })
    }

    #[test]
    fn what_is_sent_is_read() {
        for address in ["192.0.2.7", "2001:db8::1:2:3"] {
            assert_eq!(
                read(&probe(OWN, ip(address)).unwrap())[0],
                heard(address, OWN, What::Probes)
            );
            let said = announcement(OWN, ip(address)).unwrap();
            assert_eq!(read(&said), [heard(address, OWN, What::Claims), None]);
        }
        for (address, asker) in [("192.0.2.7", "192.0.2.9"), ("2001:db8::7", "fe80::9")] {
            let asks = heard(address, OTHER, What::Asks { asker: ip(asker) }).unwrap();
            let answer = answer(OWN, &asks).unwrap();
            assert_eq!(Ethernet::parse(&answer).unwrap().destination(), OTHER);
            assert_eq!(read(&answer), [heard(address, OWN, What::Claims), None]);
        }
    }

    /// Laid out from RFC 4861 section 4.3 and RFC 4862 section 5.4.2.
    #[test]
    fn a_probe_goes_to_the_solicited_nodes_group() {
        let frame = probe(OWN, ip("2001:db8::1:2:3")).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 2, 0, 3]);
        let packet = Ipv6::parse(&frame[14..]).unwrap();
        assert_eq!(packet.source(), Ipv6Addr::UNSPECIFIED);
        assert_eq!(IpAddr::V6(packet.destination()), ip("ff02::1:ff02:3"));
        assert_eq!((packet.hop_limit(), packet.payload().len()), (255, 24));
    }

    #[test]
    fn an_advertisement_is_no_routers() {
        let frame = announcement(OWN, ip("2001:db8::7")).unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(frame[54..60], [136, 0, frame[56], frame[57], 0x20, 0]);
        let asks = heard("2001:db8::7", OTHER, What::Asks { asker: ip("fe80::9") }).unwrap();
        assert_eq!(answer(OWN, &asks).unwrap()[58], 0x60);
        let probes = heard("2001:db8::7", OTHER, What::Probes).unwrap();
        let to_all = answer(OWN, &probes).unwrap();
        assert_eq!((to_all[58], &to_all[..6]), (0x20, &[0x33, 0x33, 0, 0, 0, 1][..]));
    }

    #[test]
    fn a_request_claims_one_address_and_asks_for_another() {
        let fields = ArpFields {
            operation: ArpOperation::REQUEST,
            sender_hardware: OTHER,
            sender_protocol: Ipv4Addr::new(192, 0, 2, 9),
            target_hardware: MacAddr::ZERO,
            target_protocol: Ipv4Addr::new(192, 0, 2, 7),
        };
        let frame = arp_frame(OTHER, MacAddr::BROADCAST, &fields).unwrap();
        let asker = ip("192.0.2.9");
        assert_eq!(
            read(&frame),
            [
                heard("192.0.2.9", OTHER, What::Claims),
                heard("192.0.2.7", OTHER, What::Asks { asker })
            ]
        );
    }

    /// Changes to good frames that make them bad: nothing is taken from them.
    #[test]
    fn what_is_not_as_it_should_be_is_not_heard() {
        let asks = heard("2001:db8::7", OWN, What::Asks { asker: ip("fe80::9") }).unwrap();
        let (advertisement, probe) = (
            answer(OTHER, &asks).unwrap(),
            probe(OTHER, ip("2001:db8::7")).unwrap(),
        );
        let arp = announcement(OTHER, ip("192.0.2.7")).unwrap();
        for (frame, at, value, why) in [
            (&advertisement, 21, 254, "hop limit"),
            (&advertisement, 57, 0x55, "checksum"),
            (&advertisement, 20, 17, "next header"),
            (&advertisement, 55, 1, "code"),
            (&advertisement, 6, 0x33, "from a group"),
            (&advertisement, 79, 0, "an option of no length"),
            (&probe, 53, 9, "a probe to another group"),
            (&arp, 22, 0xff, "hardware of a group"),
            (&arp, 21, 3, "an operation that is none of ours"),
            (&arp, 18, 7, "another hardware type's length"),
            (&arp, 12, 0x09, "another EtherType"),
        ] {
            assert_ne!(frame[at], value, "{why}");
            let mut frame = frame.clone();
            frame[at] = value;
            assert_eq!(read(&frame), [None, None], "{why}");
        }
        for frame in [&advertisement, &probe] {
            for len in 0..frame.len() {
                assert_eq!(read(&frame[..len]), [None, None], "{len} bytes");
            }
        }
        for len in 0..eth::HEADER_LEN + arp::PACKET_LEN {
            assert_eq!(read(&arp[..len]), [None, None], "{len} bytes");
        }
    }
}
