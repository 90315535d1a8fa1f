//! What a Service of type LoadBalancer asks of whoever gives out addresses.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use serde::Serialize;

use crate::objects::address::refused_address_class;
use crate::objects::fault::Fault;
use crate::objects::flannel::Family;
use crate::objects::selector::Labels;

use super::ServiceFault;

/// The addresses that a Service wants, separated by commas, at most one of each family.
pub const WANTED_ADDRESSES: &str = "millrace.io/load-balancer-ips";
/// The pool that a Service wants addresses of.
pub const WANTED_POOL: &str = "millrace.io/address-pool";
/// Services with the same key may share an address.
pub const SHARING_KEY: &str = "millrace.io/allow-shared-ip";
/// What a `loadBalancerClass` that is ours begins with.
pub const CLASS_PREFIX: &str = "millrace.io/";

/// What a Service of type LoadBalancer asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BalancerWish {
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// The addresses that it wants: those of [`WANTED_ADDRESSES`], else `spec.loadBalancerIP`; at most one of each family.
    pub wanted: Vec<IpAddr>,
    /// Whether what it wants could not be read; then it gets nothing, rather than something else.
    pub is_unreadable: bool,
    /// [`WANTED_POOL`].
    pub pool: Option<String>,
    /// [`SHARING_KEY`].
    pub sharing_key: Option<String>,
    /// `spec.ipFamilies`; those of its cluster IPs where that is absent.
    pub families: Vec<Family>,
    /// `spec.ipFamilyPolicy: RequireDualStack`.
    pub needs_all_families: bool,
    /// `spec.selector`.
    pub selector: Labels,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.creationTimestamp` in seconds of Unix time.
    pub created_s: Option<i64>,
    /// `metadata.uid`; empty where no API server gave it one.
    pub uid: String,
}

impl BalancerWish {
    /// Reads the wishes of a Service of this type, and says what is wrong about them.
    pub(super) fn read(
        service: &Service,
        spec: &ServiceSpec,
        cluster_ips: &[IpAddr],
        faults: &mut Vec<Fault>,
    ) -> Self {
        let metadata = &service.metadata;
        let annotation = |name: &str| {
            let annotations = metadata.annotations.as_ref()?;
            annotations.get(name).map(|text| text.trim().to_owned())
        };
        let text = |name: &str| annotation(name).filter(|text| !text.is_empty());
        let of_spec = || spec.load_balancer_ip.clone().filter(|text| !text.is_empty());
        let (field, wanted) = match text(WANTED_ADDRESSES) {
            Some(wanted) => (format!("metadata.annotations[{WANTED_ADDRESSES}]"), Some(wanted)),
            None => ("spec.loadBalancerIP".to_owned(), of_spec()),
        };
        let read = read_wanted(&field, wanted.as_deref().unwrap_or_default());
        let is_unreadable = read.is_err();
        let wanted = read.unwrap_or_else(|fault| {
            faults.push(fault);
            Vec::new()
        });
        Self {
            class: spec.load_balancer_class.clone(),
            wanted,
            is_unreadable,
            pool: text(WANTED_POOL),
            sharing_key: text(SHARING_KEY),
            families: families(spec, cluster_ips),
            needs_all_families: spec.ip_family_policy.as_deref() == Some("RequireDualStack"),
            selector: spec.selector.clone().unwrap_or_default(),
            labels: metadata.labels.clone().unwrap_or_default(),
            created_s: metadata
                .creation_timestamp
                .as_ref()
                .map(|time| time.0.as_second()),
            uid: metadata.uid.clone().unwrap_or_default(),
        }
    }
}

/// Addresses between commas, at most one of each family.
fn read_wanted(field: &str, text: &str) -> Result<Vec<IpAddr>, Fault> {
    let mut wanted: Vec<IpAddr> = Vec::new();
    for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let address: IpAddr = text.parse().map_err(|_| Fault::Address {
            field: field.to_owned(),
            value: text.to_owned(),
            wanted: "IP",
        })?;
        if let Some(class) = refused_address_class(address) {
            let field = field.to_owned();
            return Err(ServiceFault::RefusedVip {
                field,
                address,
                class,
            }
            .into());
        }
        if let Some(first) = wanted.iter().find(|first| first.is_ipv4() == address.is_ipv4()) {
            return Err(ServiceFault::WantedFamilyTwice {
                field: field.to_owned(),
                first: *first,
                second: address,
            }
            .into());
        }
        wanted.push(address);
    }
    Ok(wanted)
}

/// The families in which a Service is to have addresses.
fn families(spec: &ServiceSpec, cluster_ips: &[IpAddr]) -> Vec<Family> {
    let named = spec.ip_families.iter().flatten();
    let mut families: Vec<Family> = named
        .filter_map(|name| match name.as_str() {
            "IPv4" => Some(Family::V4),
            "IPv6" => Some(Family::V6),
            _ => None,
        })
        .collect();
    if families.is_empty() {
        families.extend(cluster_ips.iter().map(|address| match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }));
    }
    families.dedup();
    families
}
