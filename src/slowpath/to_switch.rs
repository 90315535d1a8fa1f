//! Packets to an address that the switch itself has. It answers echo requests and, as a host on which nothing
//! listens, tells everyone else so.

use millrace_dataplane::capture::PacketCopy;
use millrace_dataplane::wire::{
    Icmp, IcmpFamily, IcmpMut, IcmpType, IpProtocol, Ports, Tcp, TcpFields, TcpFlags, Udp, checksum, tcp,
};

use super::complaint::Complaint;
use super::compose::Envelope;
use super::onward::Of;
use super::original::Original;
use super::stats::Silence;

/// What the switch has to say to a packet for itself.
#[derive(Debug)]
pub(super) enum Answer {
    /// An echo reply.
    Echo(PacketCopy),
    /// A TCP reset.
    Reset(PacketCopy),
    /// An ICMP error, yet to be composed.
    Complain(Complaint),
}

/// Reads a packet to the switch.
///
/// # Errors
/// Why it gets no answer.
pub(super) fn answer(of: Of<'_>, original: &Original<'_>, id: u16) -> Result<Answer, Silence> {
    original.check_answerable()?;
    // The gateway may be another network's, into which the packet's own leads.
    let leading = of.leading_to(original.destination);
    let is_ours = leading.is_some_and(|tables| tables.local.gateways.contains(&original.destination));
    if !is_ours || original.is_source_routed {
        return Err(Silence::ToSwitch);
    }
    if of.tables.local.gateways.contains(&original.source) {
        // The answer would come back here.
        return Err(Silence::Address);
    }
    if original.is_fragment {
        return Err(Silence::Fragment);
    }
    if let Some(icmp) = original.icmp()? {
        return echo(original, &icmp, id).map(Answer::Echo);
    }
    match original.protocol {
        IpProtocol::TCP | IpProtocol::UDP => closed(original),
        // To be ignored (RFC 8200 section 4.7).
        IpProtocol::NO_NEXT_HEADER => Err(Silence::ToSwitch),
        _ => Ok(Answer::Complain(Complaint::ProtocolUnreachable)),
    }
}

/// Refuses a packet to a Service that has nobody to serve it, as a host would on which nothing listens.
///
/// # Errors
/// Why it gets no answer.
pub(super) fn refuse(original: &Original<'_>) -> Result<Answer, Silence> {
    original.check_error_allowed()?;
    if original.is_fragment {
        return Err(Silence::Fragment);
    }
    closed(original)
}

/// What a closed port answers.
fn closed(original: &Original<'_>) -> Result<Answer, Silence> {
    match original.protocol {
        IpProtocol::TCP => reset(original).map(Answer::Reset),
        IpProtocol::UDP => {
            check_udp(original)?;
            Ok(Answer::Complain(Complaint::PortUnreachable))
        }
        _ => Ok(Answer::Complain(Complaint::PortUnreachable)),
    }
}

/// The same message back, as a reply (RFC 792, RFC 4443 section 4.2).
fn echo(original: &Original<'_>, request: &Icmp<'_>, id: u16) -> Result<PacketCopy, Silence> {
    request
        .verify_checksum(original.address_sum)
        .map_err(|_| Silence::BadChecksum)?;
    if !request.is_echo_request() {
        return Err(Silence::ToSwitch);
    }
    let mut message = original.transport.to_vec();
    let kind = match request.family() {
        IcmpFamily::V4 => IcmpType::V4_ECHO_REPLY,
        IcmpFamily::V6 => IcmpType::V6_ECHO_REPLY,
    };
    // The addresses only change places, so their part of the checksum stays.
    IcmpMut::parse(request.family(), &mut message)?.set_kind(kind);
    reply(original, id, false)
        .seal(&message)
        .ok_or(Silence::Malformed)
}

/// The reset that a closed port sends (RFC 9293 section 3.10.7.1).
fn reset(original: &Original<'_>) -> Result<PacketCopy, Silence> {
    let segment = Tcp::parse(original.transport)?;
    if !checksum::is_transport_valid(original.address_sum, IpProtocol::TCP, original.transport) {
        return Err(Silence::BadChecksum);
    }
    let flags = segment.flags();
    if flags.contains(TcpFlags::RST) {
        return Err(Silence::ToSwitch);
    }
    let (sequence, acknowledgment, flags) = if flags.contains(TcpFlags::ACK) {
        (segment.acknowledgment(), 0, TcpFlags::RST)
    } else {
        let control = u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
        let data = u32::try_from(segment.payload().len()).map_err(|_| Silence::Malformed)?;
        let next = segment.sequence().wrapping_add(data).wrapping_add(control);
        (0, next, TcpFlags::RST.with(TcpFlags::ACK))
    };
    let Ports { source, destination } = segment.ports();
    let ports = Ports {
        source: destination,
        destination: source,
    };
    let fields = TcpFields {
        ports,
        sequence,
        acknowledgment,
        flags,
        window: 0,
    };
    // Identification means nothing in a packet that is never fragmented (RFC 6864).
    let envelope = reply(original, 0, true);
    let mut header = [0; tcp::HEADER_LEN];
    fields.emit(&mut header);
    checksum::fill_transport(envelope.address_sum(), IpProtocol::TCP, &mut header);
    envelope.seal(&header).ok_or(Silence::Malformed)
}

/// Whether the packet is a sound datagram: nobody is told about one that was damaged on the way.
fn check_udp(original: &Original<'_>) -> Result<(), Silence> {
    let datagram = Udp::parse(original.transport)?;
    let has_none = datagram.checksum() == 0 && original.icmp_family() == IcmpFamily::V4;
    let len = usize::from(datagram.length());
    let covered = original.transport.get(..len).ok_or(Silence::Malformed)?;
    if has_none || checksum::is_transport_valid(original.address_sum, IpProtocol::UDP, covered) {
        Ok(())
    } else {
        Err(Silence::BadChecksum)
    }
}

/// From the address that was spoken to, back to who spoke.
fn reply(original: &Original<'_>, id: u16, dont_fragment: bool) -> Envelope {
    Envelope {
        source: original.destination,
        destination: original.source,
        protocol: original.protocol,
        dscp: original.dscp,
        id,
        dont_fragment,
    }
}
