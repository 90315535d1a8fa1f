//! Fields of a network's definition: numbers in their ranges, prefixes and addresses.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::AttachmentFault;
use crate::objects::address::{refused_address_class, usable_cidr};
use crate::objects::fault::Fault;

/// A number within its range, as the type that has room for the range.
pub(super) fn within<T: TryFrom<u64>>(
    field: &'static str,
    value: Option<u64>,
    range: RangeInclusive<u64>,
) -> Result<Option<T>, AttachmentFault> {
    let Some(value) = value else { return Ok(None) };
    let fitting = Some(value).filter(|value| range.contains(value));
    match fitting.and_then(|value| T::try_from(value).ok()) {
        Some(value) => Ok(Some(value)),
        None => Err(AttachmentFault::Number {
            field,
            value,
            least: *range.start(),
            most: *range.end(),
        }),
    }
}

pub(super) fn bounded(field: &'static str, count: usize, limit: usize) -> Result<(), AttachmentFault> {
    if count > limit {
        return Err(AttachmentFault::TooMany { field, count, limit });
    }
    Ok(())
}

/// Prefixes of which none overlaps another.
pub(super) fn cidrs(field: &'static str, texts: &[String], limit: usize) -> Result<Vec<IpNet>, Fault> {
    bounded(field, texts.len(), limit)?;
    let mut cidrs: Vec<IpNet> = Vec::new();
    for text in texts {
        let cidr = cidr(field, text)?;
        if let Some(other) = cidrs.iter().find(|other| overlaps(cidr, **other)) {
            return Err(overlap(field, cidr, *other));
        }
        cidrs.push(cidr);
    }
    Ok(cidrs)
}

pub(super) fn overlap(field: impl Into<String>, cidr: IpNet, other: IpNet) -> Fault {
    let field = field.into();
    AttachmentFault::Overlap { field, cidr, other }.into()
}

pub(super) fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

pub(super) fn cidr(field: &str, text: &str) -> Result<IpNet, Fault> {
    usable_cidr(format!("spec.config: network.{field}"), text)
}

pub(super) fn address(field: &str, text: &str) -> Result<IpAddr, Fault> {
    let field = || format!("spec.config: network.{field}");
    let address: IpAddr = text.parse().map_err(|_| Fault::Address {
        field: field(),
        value: text.to_owned(),
        wanted: "IP",
    })?;
    match refused_address_class(address) {
        Some(class) => Err(Fault::RefusedAddress {
            field: field(),
            address,
            class,
        }),
        None => Ok(address),
    }
}

/// Addresses, each once.
pub(super) fn addresses(field: &'static str, texts: &[String], limit: usize) -> Result<Vec<IpAddr>, Fault> {
    bounded(field, texts.len(), limit)?;
    let mut all = Vec::new();
    for text in texts {
        let address = address(field, text)?;
        if all.contains(&address) {
            let value = address.to_string();
            return Err(AttachmentFault::Twice { field, value }.into());
        }
        all.push(address);
    }
    Ok(all)
}

pub(super) fn check_within(field: impl Into<String>, cidr: IpNet, subnets: &[IpNet]) -> Result<(), Fault> {
    if subnets.iter().any(|subnet| subnet.contains(&cidr)) {
        return Ok(());
    }
    let field = field.into();
    Err(AttachmentFault::Outside { field, cidr }.into())
}
