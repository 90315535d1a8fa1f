//! The expressions of our rules, and the keys of the sets that they look into.
//!
//! A key of several parts has each padded to 4 bytes, as they stand in the registers.

use std::net::IpAddr;

use millrace_dataplane::wire::IpProtocol;
use rtnetlink::packet_core::DefaultNla;

use super::ProtocolPort;
use super::number as n;
use crate::kernel::generic::{nest, text};

/// Bytes of a protocol's number and a port in a key.
const PORT_KEY_LEN: u32 = 8;

/// The numbers by which `nft list` knows how to show a key, six bits for each part (`enum datatypes` of nftables).
mod shown {
    pub(super) const IPV4_ADDRESS: u32 = 7;
    pub(super) const IPV6_ADDRESS: u32 = 8;
    pub(super) const PROTOCOL: u32 = 12;
    pub(super) const SERVICE: u32 = 13;
    pub(super) const BITS: u32 = 6;
    pub(super) const PORT: u32 = PROTOCOL << BITS | SERVICE;
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn is_of(self, address: IpAddr) -> bool {
        (self == Self::V4) == address.is_ipv4()
    }

    fn number(self) -> u8 {
        match self {
            Self::V4 => n::FAMILY_IPV4,
            Self::V6 => n::FAMILY_IPV6,
        }
    }

    /// Bytes of the headers of IP and TCP.
    fn tcp_overhead(self) -> u16 {
        match self {
            Self::V4 => 20 + 20,
            Self::V6 => 40 + 20,
        }
    }

    fn address_len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Where the destination stands in the IP header (RFC 791, RFC 8200).
    fn destination_offset(self) -> u32 {
        match self {
            Self::V4 => 16,
            Self::V6 => 24,
        }
    }

    fn shown(self) -> u32 {
        match self {
            Self::V4 => shown::IPV4_ADDRESS,
            Self::V6 => shown::IPV6_ADDRESS,
        }
    }
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Received,
    Sent,
}

/// A set that rules look into.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lookup {
    pub(super) name: &'static str,
    pub(super) key_type: u32,
    pub(super) key_len: u32,
}

impl Lookup {
    /// Protocols and node ports.
    pub(super) const NODE_PORTS: Self = Self {
        name: "node_ports",
        key_type: shown::PORT,
        key_len: PORT_KEY_LEN,
    };

    /// The node's own addresses.
    pub(super) fn addresses(family: Family) -> Self {
        Self {
            name: match family {
                Family::V4 => "addresses4",
                Family::V6 => "addresses6",
            },
            key_type: family.shown(),
            key_len: family.address_len(),
        }
    }

    /// Addresses, protocols and ports.
    pub(super) fn services(family: Family) -> Self {
        Self {
            name: match family {
                Family::V4 => "services4",
                Family::V6 => "services6",
            },
            key_type: family.shown() << (2 * shown::BITS) | shown::PORT,
            key_len: family.address_len() + PORT_KEY_LEN,
        }
    }
}

pub(super) fn address_key(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

pub(super) fn port_key((protocol, port): ProtocolPort) -> Vec<u8> {
    let [first, second] = port.to_be_bytes();
    vec![protocol, 0, 0, 0, first, second, 0, 0]
}

/// Goes on only with packets of a family.
pub(super) fn only(family: Family) -> Vec<DefaultNla> {
    vec![meta(n::META_FAMILY, n::REGISTER), equals(&[family.number()])]
}

/// Goes on only with packets that come, or go, by an interface.
pub(super) fn only_by(direction: Direction, interface: &str) -> Vec<DefaultNla> {
    /// `IFNAMSIZ`: what comes after the name is zero.
    const NAME_LEN: usize = 16;
    let mut name = interface.as_bytes().to_vec();
    name.resize(NAME_LEN, 0);
    let key = match direction {
        Direction::Received => n::META_IN_NAME,
        Direction::Sent => n::META_OUT_NAME,
    };
    vec![meta(key, n::REGISTER), equals(&name)]
}

/// Lowers the largest segment that the sender of a TCP segment with SYN says it can take (RFC 9293 section 3.7.1) to
/// what a packet of `mtu` bytes has room for. The kernel never raises it.
pub(super) fn lower_segments(family: Family, mtu: u16) -> Vec<DefaultNla> {
    const FLAGS_AT: u32 = 13;
    const SYN: u8 = 2;
    const MAXIMUM_SEGMENT_SIZE: u8 = 2;
    const SIZE_AT: u32 = 2;
    const SIZE_LEN: u32 = 2;
    let size = mtu.saturating_sub(family.tcp_overhead());
    let syn = [
        number(n::BITWISE_SOURCE, n::REGISTER),
        number(n::BITWISE_REGISTER, n::REGISTER),
        number(n::BITWISE_LEN, 1),
        data(n::BITWISE_MASK, &[SYN]),
        data(n::BITWISE_XOR, &[0]),
    ];
    let option = [
        DefaultNla::new(n::EXTHDR_TYPE, vec![MAXIMUM_SEGMENT_SIZE]),
        number(n::EXTHDR_OFFSET, SIZE_AT),
        number(n::EXTHDR_LEN, SIZE_LEN),
        number(n::EXTHDR_OPERATION, n::EXTHDR_TCP_OPTION),
        number(n::EXTHDR_SOURCE, n::REGISTER),
    ];
    vec![
        meta(n::META_L4PROTO, n::REGISTER),
        equals(&[IpProtocol::TCP.0]),
        payload(n::BASE_TRANSPORT, FLAGS_AT, 1, n::REGISTER),
        expression("bitwise", &syn),
        equals(&[SYN]),
        immediate(&size.to_be_bytes()),
        expression("exthdr", &option),
    ]
}

/// Goes on only with packets to one of the single ports.
pub(super) fn in_services(family: Family) -> Vec<DefaultNla> {
    let after_address = n::REGISTER + family.address_len() / 4;
    let mut expressions = vec![destination(family)];
    expressions.extend(destination_port(after_address));
    expressions.push(lookup(Lookup::services(family)));
    expressions
}

/// Goes on only with packets to a node port at one of the node's addresses.
pub(super) fn in_node_ports(family: Family) -> Vec<DefaultNla> {
    let mut expressions = vec![destination(family), lookup(Lookup::addresses(family))];
    expressions.extend(destination_port(n::REGISTER));
    expressions.push(lookup(Lookup::NODE_PORTS));
    expressions
}

/// Gives the connection another destination address.
pub(super) fn turn_to(family: Family, gateway: IpAddr) -> Vec<DefaultNla> {
    vec![
        immediate(&address_key(gateway)),
        expression(
            "nat",
            &[
                number(n::NAT_TYPE, n::NAT_DESTINATION),
                number(n::NAT_FAMILY, family.number().into()),
                number(n::NAT_ADDRESS_REGISTER, n::REGISTER),
            ],
        ),
    ]
}

fn destination(family: Family) -> DefaultNla {
    payload(
        n::BASE_NETWORK,
        family.destination_offset(),
        family.address_len(),
        n::REGISTER,
    )
}

/// The protocol, and the second of the two ports with which TCP, UDP and SCTP begin.
fn destination_port(register: u32) -> [DefaultNla; 2] {
    [
        meta(n::META_L4PROTO, register),
        payload(n::BASE_TRANSPORT, 2, 2, register + 1),
    ]
}

fn meta(key: u32, register: u32) -> DefaultNla {
    expression(
        "meta",
        &[number(n::META_REGISTER, register), number(n::META_KEY, key)],
    )
}

fn payload(base: u32, offset: u32, len: u32, register: u32) -> DefaultNla {
    expression(
        "payload",
        &[
            number(n::PAYLOAD_REGISTER, register),
            number(n::PAYLOAD_BASE, base),
            number(n::PAYLOAD_OFFSET, offset),
            number(n::PAYLOAD_LEN, len),
        ],
    )
}

fn immediate(value: &[u8]) -> DefaultNla {
    let parts = [
        number(n::IMMEDIATE_REGISTER, n::REGISTER),
        data(n::IMMEDIATE_DATA, value),
    ];
    expression("immediate", &parts)
}

/// Goes on only if the register holds this.
fn equals(value: &[u8]) -> DefaultNla {
    let parts = [
        number(n::CMP_REGISTER, n::REGISTER),
        number(n::CMP_OPERATION, n::CMP_EQUAL),
        data(n::CMP_DATA, value),
    ];
    expression("cmp", &parts)
}

fn lookup(set: Lookup) -> DefaultNla {
    expression(
        "lookup",
        &[
            text(n::LOOKUP_SET, set.name),
            number(n::LOOKUP_REGISTER, n::REGISTER),
        ],
    )
}

fn expression(name: &str, attributes: &[DefaultNla]) -> DefaultNla {
    let parts = [
        text(n::EXPRESSION_NAME, name),
        nest(n::EXPRESSION_DATA, attributes),
    ];
    nest(n::LIST_ELEMENT, &parts)
}

/// A number as nf_tables has them all: 32 bits, network byte order.
pub(super) fn number(kind: u16, number: u32) -> DefaultNla {
    DefaultNla::new(kind, number.to_be_bytes().to_vec())
}

pub(super) fn data(kind: u16, value: &[u8]) -> DefaultNla {
    nest(kind, &[DefaultNla::new(n::DATA_VALUE, value.to_vec())])
}
