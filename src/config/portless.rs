//! Protocols without ports that a node gives its address to.

use std::str::FromStr;

use millrace_dataplane::wire::IpProtocol;
use serde::{Deserialize, Serialize};

use super::text::by_text;
use super::value::ValueError;

/// Those that have a name in the node file.
const NAMES: [(&str, IpProtocol); 4] = [
    ("gre", IpProtocol::GRE),
    ("esp", IpProtocol::ESP),
    ("ipv6", IpProtocol::IPV6),
    ("l2tp", IpProtocol(115)),
];

/// Those that a pod cannot have under the node's address, and why (IANA protocol numbers registry).
const REFUSED: [(&[u8], &str); 7] = [
    (&[6, 17, 132, 136], "has ports and needs no leave"),
    (
        &[1, 58],
        "is ICMP: echoes need no leave, and nothing else is masqueraded",
    ),
    (
        &[0, 43, 44, 59, 60, 135, 139, 140],
        "is a header of IPv6 and no protocol",
    ),
    (
        &[2, 88, 89, 103, 112],
        "is what routers speak: IGMP, EIGRP, OSPF, PIM and VRRP are the node's",
    ),
    (&[4], "is what nodes' tunnels are made of"),
    (&[33], "is DCCP, whose checksum covers addresses"),
    // RFC 3715 section 2.1.
    (
        &[51],
        "is AH, which authenticates addresses, so that none may change",
    ),
];

/// A protocol without ports: its name in the node file or its number, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortlessProtocol {
    text: String,
    number: IpProtocol,
}

impl FromStr for PortlessProtocol {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let named = NAMES.iter().find(|(name, _)| *name == text);
        let number = named
            .map(|(_, number)| *number)
            .or_else(|| text.parse().ok().map(IpProtocol));
        let Some(number) = number else {
            let names = NAMES.map(|(name, _)| name).join(", ");
            return Err(ValueError::because(format!(
                "`{text}` is no protocol, write one of {names} or a number within 1..=255"
            )));
        };
        match REFUSED.iter().find(|(numbers, _)| numbers.contains(&number.0)) {
            Some((_, why)) => Err(ValueError::because(format!("`{text}` {why}; leave it out"))),
            None => Ok(Self {
                text: text.to_owned(),
                number,
            }),
        }
    }
}

by_text!(PortlessProtocol, text);

/// Several of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PortlessProtocols(Vec<PortlessProtocol>);

impl PortlessProtocols {
    /// Their numbers.
    pub fn numbers(&self) -> impl Iterator<Item = IpProtocol> + '_ {
        self.0.iter().map(|protocol| protocol.number)
    }
}
