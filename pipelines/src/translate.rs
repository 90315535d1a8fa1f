//! `translate`: writes a connection's change of addresses and ports into a packet, checksums kept right.

use millrace_dataplane::frame::Frame;
use millrace_dataplane::table::flow::Rewrite;
use millrace_dataplane::verdict::{DropReason, Exit};
use millrace_dataplane::wire::{IcmpMut, IpProtocol, Ports, PortsMut, checksum, eth, icmp, sctp, tcp, udp};

use crate::family::Family;
use crate::packet::{Carries, Packet};

/// Where the id stands in an ICMP echo message, in bytes.
pub(crate) const ECHO_ID: usize = 4;

/// Writes the change into the packet. A later piece has addresses only.
#[inline]
pub(crate) fn translate<A: Family>(
    frame: &mut Frame,
    packet: &Packet,
    rewrite: &Rewrite<A>,
) -> Result<(), Exit> {
    // INVARIANT: `classify` has seen the headers in this frame.
    let ip = frame
        .bytes_mut()
        .get_mut(eth::HEADER_LEN..)
        .ok_or(DropReason::EthernetTruncated)?;
    if packet.carries == Carries::Connection {
        let transport = ip
            .get_mut(usize::from(packet.transport_at)..usize::from(packet.len))
            .ok_or(DropReason::TransportMalformed)?;
        translate_transport(transport, packet, rewrite)?;
    }
    A::write(ip, rewrite)?;
    Ok(())
}

/// The transport's part. Nothing is changed where it cannot be changed rightly.
#[inline]
fn translate_transport<A: Family>(l4: &mut [u8], packet: &Packet, rewrite: &Rewrite<A>) -> Result<(), Exit> {
    let ports = rewrite.ports();
    let least = match packet.protocol {
        IpProtocol::TCP => tcp::CHECKSUM_OFFSET + 2,
        IpProtocol::UDP | IpProtocol::UDP_LITE => udp::HEADER_LEN,
        IpProtocol::SCTP => return translate_sctp(l4, packet, ports),
        protocol if protocol == A::ICMP_PROTOCOL => return translate_echo(l4, packet, *rewrite),
        // It has no ports, and what else it has is not known.
        _ => return Ok(()),
    };
    if l4.len() < least {
        return Err(DropReason::TransportMalformed.into());
    }
    PortsMut::parse(l4)?.replace(ports);
    checksum::adjust_transport(packet.protocol, l4, rewrite.transport());
    Ok(())
}

/// SCTP's checksum covers the whole packet, of which a piece does not know the length.
#[cold]
fn translate_sctp(l4: &mut [u8], packet: &Packet, ports: Ports) -> Result<(), Exit> {
    if packet.fragment.is_some() && packet.ports != Some(ports) {
        return Err(DropReason::FragmentChecksum.into());
    }
    Ok(sctp::replace_ports(l4, ports)?)
}

/// By value, so that the packets of other protocols need not keep theirs in memory for it.
#[cold]
fn translate_echo<A: Family>(l4: &mut [u8], packet: &Packet, rewrite: Rewrite<A>) -> Result<(), Exit> {
    let is_request = packet.ports.is_some_and(|ports| ports.destination == 0);
    let id = echo_id(rewrite.ports(), is_request);
    write_echo_id(l4, id)?;
    IcmpMut::parse(A::ICMP, l4)?.adjust_checksum(rewrite.transport());
    Ok(())
}

/// The id that an echo message's ports stand for. An id may be 0, so the kind of message decides.
#[inline]
pub(crate) fn echo_id(ports: Ports, is_request: bool) -> u16 {
    if is_request {
        ports.source
    } else {
        ports.destination
    }
}

/// Writes the id of an echo message; its checksum stays as it is.
pub(crate) fn write_echo_id(l4: &mut [u8], id: u16) -> Result<(), Exit> {
    let field = l4
        .get_mut(ECHO_ID..icmp::HEADER_LEN)
        .and_then(<[u8]>::first_chunk_mut::<2>)
        .ok_or(DropReason::TransportMalformed)?;
    *field = id.to_be_bytes();
    Ok(())
}
