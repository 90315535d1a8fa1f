//! What differs between the two families of IP where connections are concerned.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_dataplane::table::flow::{Address, FlowShard, FlowTable, Rewrite, Tuple};
use millrace_dataplane::table::{Local, SourceAddresses};
use millrace_dataplane::wire::checksum::Delta;
use millrace_dataplane::wire::{IcmpFamily, IpProtocol, Ipv4, Ipv4Mut, Ipv6, Ipv6Mut, Malformed};

/// A packet that an ICMP error quotes, as much of it as there is.
pub(crate) struct Quoted<'p, A> {
    pub(crate) source: A,
    pub(crate) destination: A,
    pub(crate) protocol: IpProtocol,
    /// The transport's start.
    pub(crate) transport: &'p [u8],
}

/// A family of IP.
pub(crate) trait Family: Address {
    /// Its ICMP.
    const ICMP: IcmpFamily;
    /// The protocol number of its ICMP.
    const ICMP_PROTOCOL: IpProtocol;
    /// Whether it is IPv6.
    const IS_V6: bool;

    /// The flows of this family.
    fn flows(table: &FlowTable) -> &FlowShard<Self>;

    /// The address, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;

    /// What source NAT gives.
    fn sources(local: &Local) -> &SourceAddresses<Self>;

    /// Writes both addresses of a packet.
    fn write(ip: &mut [u8], rewrite: &Rewrite<Self>) -> Result<(), Malformed>;

    /// Writes both addresses of a packet, and answers what that does to a checksum that covers them.
    fn readdress(ip: &mut [u8], source: Self, destination: Self) -> Result<Delta, Malformed>;

    /// Reads a quoted packet; `None` if it says too little, or is a later piece.
    fn quoted(bytes: &[u8]) -> Option<Quoted<'_, Self>>;

    /// Writes both addresses of a quoted packet, its own checksum kept right, and answers what is there of its
    /// transport.
    fn readdress_quoted<'p>(bytes: &'p mut [u8], to: &Tuple<Self>) -> Result<&'p mut [u8], Malformed>;
}

impl Family for Ipv4Addr {
    const ICMP: IcmpFamily = IcmpFamily::V4;
    const ICMP_PROTOCOL: IpProtocol = IpProtocol::ICMP;
    const IS_V6: bool = false;

    #[inline]
    fn flows(table: &FlowTable) -> &FlowShard<Self> {
        table.v4()
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        }
    }

    fn sources(local: &Local) -> &SourceAddresses<Self> {
        &local.sources_v4
    }

    #[inline]
    fn write(ip: &mut [u8], rewrite: &Rewrite<Self>) -> Result<(), Malformed> {
        let (source, destination) = rewrite.addresses();
        Ipv4Mut::parse(ip)?.replace_addresses(source, destination, rewrite.ip());
        Ok(())
    }

    fn readdress(ip: &mut [u8], source: Self, destination: Self) -> Result<Delta, Malformed> {
        let mut ip = Ipv4Mut::parse(ip)?;
        Ok(ip.set_source(source).and(ip.set_destination(destination)))
    }

    fn quoted(bytes: &[u8]) -> Option<Quoted<'_, Self>> {
        let ip = Ipv4::parse_quoted(bytes).ok()?;
        (ip.fragment_offset() == 0).then(|| Quoted {
            source: ip.source(),
            destination: ip.destination(),
            protocol: ip.protocol(),
            transport: ip.payload(),
        })
    }

    fn readdress_quoted<'p>(bytes: &'p mut [u8], to: &Tuple<Self>) -> Result<&'p mut [u8], Malformed> {
        let mut ip = Ipv4Mut::parse_quoted(bytes)?;
        let _ = ip.set_source(to.source);
        let _ = ip.set_destination(to.destination);
        Ok(ip.into_payload())
    }
}

impl Family for Ipv6Addr {
    const ICMP: IcmpFamily = IcmpFamily::V6;
    const ICMP_PROTOCOL: IpProtocol = IpProtocol::ICMPV6;
    const IS_V6: bool = true;

    #[inline]
    fn flows(table: &FlowTable) -> &FlowShard<Self> {
        table.v6()
    }

    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6),
        }
    }

    fn sources(local: &Local) -> &SourceAddresses<Self> {
        &local.sources_v6
    }

    #[inline]
    fn write(ip: &mut [u8], rewrite: &Rewrite<Self>) -> Result<(), Malformed> {
        let (source, destination) = rewrite.addresses();
        Ipv6Mut::parse(ip)?.replace_addresses(source, destination);
        Ok(())
    }

    fn readdress(ip: &mut [u8], source: Self, destination: Self) -> Result<Delta, Malformed> {
        let mut ip = Ipv6Mut::parse(ip)?;
        Ok(ip.set_source(source).and(ip.set_destination(destination)))
    }

    fn quoted(bytes: &[u8]) -> Option<Quoted<'_, Self>> {
        let ip = Ipv6::parse_quoted(bytes).ok()?;
        let upper = ip.upper().ok()?;
        let has_start = upper.fragment.is_none_or(|fragment| fragment.is_first());
        (has_start && upper.segments_left == 0).then(|| Quoted {
            source: ip.source(),
            destination: ip.destination(),
            protocol: upper.protocol,
            transport: upper.payload,
        })
    }

    fn readdress_quoted<'p>(bytes: &'p mut [u8], to: &Tuple<Self>) -> Result<&'p mut [u8], Malformed> {
        let mut ip = Ipv6Mut::parse_quoted(bytes)?;
        let _ = ip.set_source(to.source);
        let _ = ip.set_destination(to.destination);
        let at = ip.view().upper()?.offset;
        ip.into_payload()
            .get_mut(at..)
            .ok_or(Malformed::Ipv6ExtensionTruncated)
    }
}
