//! Names and records, made from text, labels and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};

use crate::objects::Protocol;

/// What is known of a name.
pub(super) enum Found {
    /// The records of the kind that was asked for, and what stands beside them.
    Records(Vec<RData>, Vec<Record>),
    /// It is another name for this one.
    Alias(Name),
    /// There is such a name, but nothing of the kind.
    Nothing,
    /// There is no such name, and none below it.
    Missing,
}

/// A name with the dot at the end, whether it is written or not.
pub(super) fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok().filter(|name| name.num_labels() > 0)?;
    name.set_fqdn(true);
    Some(name)
}

/// The name with these labels in front of a domain.
pub(super) fn below(domain: &Name, labels: &[&str]) -> Option<Name> {
    let labels = labels.iter().map(|label| label.as_bytes());
    Name::from_labels(labels.chain(domain.iter())).ok()
}

/// An address as a record.
pub(super) fn data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(rdata::A(v4)),
        IpAddr::V6(v6) => RData::AAAA(rdata::AAAA(v6)),
    }
}

/// The addresses as records of a kind; a name with none of that kind is there all the same.
pub(super) fn of_kind(addresses: impl Iterator<Item = IpAddr>, kind: RecordType) -> Found {
    let mut addresses: Vec<IpAddr> = addresses
        .filter(|address| match kind {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            _ => false,
        })
        .collect();
    if addresses.is_empty() {
        return Found::Nothing;
    }
    addresses.sort_unstable();
    Found::Records(addresses.into_iter().map(data).collect(), Vec::new())
}

/// The one record that a name has, if it is what is asked for.
pub(super) fn only(is_asked_for: bool, data: RData) -> Found {
    if is_asked_for {
        Found::Records(vec![data], Vec::new())
    } else {
        Found::Nothing
    }
}

/// The protocol that a label is.
pub(super) fn protocol(label: &str) -> Option<Protocol> {
    match label {
        "_tcp" => Some(Protocol::Tcp),
        "_udp" => Some(Protocol::Udp),
        "_sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// The address that the label of a pod's name stands for (2.6).
pub(super) fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}
