//! What the readers of both kinds of policy share: ports by number and name, CIDRs.

use ipnet::IpNet;

use super::{PolicyFault, PolicyPort};
use crate::objects::service::Protocol;

/// Longest name of a port (RFC 6335 section 5.1).
const PORT_NAME_MAX_BYTES: usize = 15;

/// Every port of a protocol.
pub(super) const fn all_ports(protocol: Protocol) -> PolicyPort {
    PolicyPort::Range {
        protocol,
        first: 0,
        last: u16::MAX,
    }
}

/// Reads a port's number.
pub(super) fn port_number(field: &str, value: i64, least: u16) -> Result<u16, PolicyFault> {
    let number = u16::try_from(value).ok().filter(|number| *number >= least.max(1));
    number.ok_or_else(|| PolicyFault::Port {
        field: field.to_owned(),
        value,
        least: least.max(1),
    })
}

/// Reads a port's name (RFC 6335 section 5.1, which Kubernetes follows).
pub(super) fn port_name(field: &str, value: &str) -> Result<String, PolicyFault> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_name = (1..=PORT_NAME_MAX_BYTES).contains(&value.len())
        && value.bytes().all(known)
        && value.bytes().any(|byte| byte.is_ascii_lowercase())
        && !value.starts_with('-')
        && !value.ends_with('-')
        && !value.contains("--");
    if is_name {
        return Ok(value.to_owned());
    }
    Err(PolicyFault::PortName {
        field: field.to_owned(),
        value: value.to_owned(),
    })
}

/// Reads a CIDR; bits beyond its prefix count as zero.
pub(super) fn cidr(field: &str, value: &str, consequence: &'static str) -> Result<IpNet, PolicyFault> {
    let net: Option<IpNet> = value.parse().ok();
    net.map(|net| net.trunc()).ok_or_else(|| PolicyFault::Cidr {
        field: field.to_owned(),
        value: value.to_owned(),
        consequence,
    })
}
