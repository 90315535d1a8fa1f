//! A frame as it came out, without what may differ from one node to another that does the same work.
//!
//! What may differ: the outer identification and source port, whether the outer UDP checksum is there (RFC 7348 section 5
//! leaves it to the sender), and on the way to a pod the link addresses, of which the pod's has to be right. All else is
//! compared, the inner packet byte by byte.

use anyhow::{Context, ensure};
use millrace_dataplane::wire::checksum::{addresses_v4, is_transport_valid};
use millrace_dataplane::wire::{
    Dscp, Ecn, EtherType, Ethernet, IpProtocol, Ipv4, MacAddr, Udp, Vxlan, vxlan,
};

/// The headers around a pod's packet in a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outer {
    link: (MacAddr, MacAddr),
    addresses: (std::net::Ipv4Addr, std::net::Ipv4Addr),
    ttl: u8,
    tos: (Dscp, Ecn),
    dont_fragment: bool,
    port: u16,
    vni: u32,
}

/// A frame in normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    outer: Option<Outer>,
    /// The link addresses next to the packet, in a tunnel.
    link: Option<(MacAddr, MacAddr)>,
    /// The packet, from its IP header on.
    packet: Vec<u8>,
}

impl Seen {
    /// Reads a frame, on its way to or from the pod with this link address.
    ///
    /// # Errors
    /// When a header is none, a checksum is wrong, or it is for another pod.
    pub(super) fn of(frame: &[u8], pod: MacAddr) -> anyhow::Result<Self> {
        let ethernet = Ethernet::parse(frame)?;
        let ip = ipv4(ethernet)?;
        let Some(udp) = tunnel(ip) else {
            let to = ethernet.destination();
            ensure!(to == pod, "a frame for {to}, and not for the pod, {pod}");
            return Ok(Self {
                outer: None,
                link: None,
                packet: whole(ethernet, ip)?,
            });
        };
        let addresses = addresses_v4(ip.source(), ip.destination());
        ensure!(
            udp.checksum() == 0 || is_transport_valid(addresses, IpProtocol::UDP, ip.payload()),
            "the outer UDP checksum is wrong"
        );
        let tunnel = Vxlan::parse(udp.payload())?;
        let inner = Ethernet::parse(tunnel.payload())?;
        Ok(Self {
            outer: Some(Outer {
                link: (ethernet.source(), ethernet.destination()),
                addresses: (ip.source(), ip.destination()),
                ttl: ip.ttl(),
                tos: (ip.dscp(), ip.ecn()),
                dont_fragment: ip.dont_fragment(),
                port: udp.destination_port(),
                vni: tunnel.vni().get(),
            }),
            link: Some((inner.source(), inner.destination())),
            packet: whole(inner, ipv4(inner)?)?,
        })
    }

    /// Whether it is in a tunnel.
    pub(super) fn is_wrapped(&self) -> bool {
        self.outer.is_some()
    }
}

/// The IPv4 header behind an Ethernet header, with its checksum right.
fn ipv4(ethernet: Ethernet<'_>) -> anyhow::Result<Ipv4<'_>> {
    ensure!(
        ethernet.ether_type() == EtherType::IPV4,
        "something else than IPv4: {:?}",
        ethernet.ether_type()
    );
    let ip = Ipv4::parse(ethernet.payload())?;
    ip.verify_checksum().context("the IPv4 checksum is wrong")?;
    Ok(ip)
}

fn tunnel(ip: Ipv4<'_>) -> Option<Udp<'_>> {
    let udp = (ip.protocol() == IpProtocol::UDP).then(|| Udp::parse(ip.payload()).ok())??;
    (udp.destination_port() == vxlan::LINUX_PORT).then_some(udp)
}

/// The packet without what a short frame is filled up with, every checksum right.
fn whole(ethernet: Ethernet<'_>, ip: Ipv4<'_>) -> anyhow::Result<Vec<u8>> {
    let addresses = addresses_v4(ip.source(), ip.destination());
    let is_unsummed =
        ip.protocol() == IpProtocol::UDP && Udp::parse(ip.payload()).is_ok_and(|udp| udp.checksum() == 0);
    let is_summed = [IpProtocol::UDP, IpProtocol::TCP].contains(&ip.protocol()) && !is_unsummed;
    ensure!(
        !is_summed || is_transport_valid(addresses, ip.protocol(), ip.payload()),
        "the transport's checksum is wrong"
    );
    let len = usize::from(ip.total_len());
    Ok(ethernet
        .payload()
        .get(..len)
        .context("a packet that breaks off")?
        .to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    const POD: MacAddr = MacAddr([4; 6]);

    fn inner(ttl: u8) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 244, 1, 2], [10, 244, 2, 3], ttl)
            .udp(40_001, 8000)
            .write(&mut frame, b"twelve bytes")
            .unwrap();
        frame
    }

    fn wrapped(inner: &[u8], source_port: u16, id: u16, vni: u8) -> Vec<u8> {
        let payload = [&[8, 0, 0, 0, 0, 0, vni, 0], inner].concat();
        let mut frame = Vec::new();
        let mut ip =
            etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::UDP, [192, 0, 2, 1], [192, 0, 2, 2])
                .unwrap();
        ip.identification = id;
        ip.dont_fragment = false;
        PacketBuilder::ethernet2([6; 6], [8; 6])
            .ip(etherparse::IpHeaders::Ipv4(
                ip,
                etherparse::Ipv4Extensions::default(),
            ))
            .udp(source_port, vxlan::LINUX_PORT)
            .write(&mut frame, &payload)
            .unwrap();
        frame
    }

    #[test]
    fn what_may_differ_makes_no_difference_and_all_else_does() {
        let seen = |frame: &[u8]| Seen::of(frame, POD).unwrap();
        let first = seen(&wrapped(&inner(63), 50_000, 1, 1));
        assert!(first.is_wrapped());
        assert_eq!(first, seen(&wrapped(&inner(63), 60_000, 2, 1)));
        assert_ne!(first, seen(&wrapped(&inner(62), 50_000, 1, 1)), "TTL");
        assert_ne!(first, seen(&wrapped(&inner(63), 50_000, 1, 2)), "VNI");
        assert_ne!(first, seen(&inner(63)), "no tunnel");
        let mut unsummed = wrapped(&inner(63), 50_000, 1, 1);
        unsummed[40..42].fill(0);
        assert_eq!(first, seen(&unsummed), "an outer checksum of zero");
    }

    #[test]
    fn what_is_damaged_is_no_proof() {
        let sound = wrapped(&inner(63), 50_000, 1, 1);
        // The outer TTL, the outer UDP checksum, the inner TTL, the inner payload's last byte.
        for at in [22, 40, 14 + 20 + 8 + 8 + 22, sound.len() - 1] {
            let mut damaged = sound.clone();
            damaged[at] ^= 0x11;
            assert!(Seen::of(&damaged, POD).is_err(), "byte {at}");
        }
        assert!(Seen::of(&inner(63), MacAddr([5; 6])).is_err(), "another pod's");
    }
}
