//! `[dns]`: the node's own resolver for the cluster's names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::text::by_text;
use super::value::{Ranged, ValueError};
use super::{Config, ConfigError, line_of_key};
use crate::objects::{check_subdomain, refused_address_class};

/// Most seconds for which an answer may be kept.
pub const DNS_TTL_MAX_S: usize = 86_400;
/// Most queries a second of one client that may be asked for.
pub const DNS_QUERIES_MAX: usize = 1_000_000;
/// Longest domain: what is left of a name's 253 characters for the labels of a Service's port in front of it.
const DOMAIN_MAX_BYTES: usize = 100;
/// The port of DNS, where an upstream has no other.
const DNS_PORT: u16 = 53;

/// `[dns]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct Dns {
    /// `addresses`: the Service addresses at which pods and the node reach the resolver, at port 53: at most one of each
    /// family, from `[services] cidrs`, and no Service's. None by default, and then there is no resolver.
    pub addresses: Vec<IpAddr>,
    /// `domain`: the cluster's domain. Default `cluster.local`.
    pub domain: ClusterDomain,
    /// `port`: the port of the node's own address, reachable through the switch alone, at which the resolver listens, within
    /// 1024..=65535. Default 10053.
    pub port: Ranged<1024, 65_535>,
    /// `ttl-seconds`: for how long answers from the cluster's domain may be kept, that there is no such name too, within
    /// 0..=86400. Default 5.
    pub ttl_seconds: Ranged<0, DNS_TTL_MAX_S>,
    /// `upstreams`: whom all other names are asked for, in this order, as `ADDRESS` or `ADDRESS:PORT`; if the list is empty,
    /// nobody. Absent: the name servers in `resolv-conf`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstreams: Option<Vec<Upstream>>,
    /// `resolv-conf`: the file that names the node's own name servers. Default `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `queries-per-second`: most queries of one client that are answered in a second, within 0..=1000000; 0 for no bound.
    /// Default 10000.
    pub queries_per_second: Ranged<0, DNS_QUERIES_MAX>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            domain: ClusterDomain("cluster.local".to_owned()),
            port: Ranged::of::<10_053>(),
            ttl_seconds: Ranged::of::<5>(),
            upstreams: None,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            queries_per_second: Ranged::of::<10_000>(),
        }
    }
}

impl Dns {
    /// Its address of a family.
    #[must_use]
    pub fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| address.is_ipv4() == is_ipv4)
    }

    /// The key that contradicts another, and why.
    pub(super) fn contradiction(&self, service_cidrs: &[IpNet]) -> Option<(&'static str, String)> {
        for (place, address) in self.addresses.iter().enumerate() {
            if let Some(class) = refused_address_class(*address) {
                return Some(("addresses", format!("{address} is {class}, which no Service has")));
            }
            let mut before = self.addresses.iter().take(place);
            if let Some(first) = before.find(|first| first.is_ipv4() == address.is_ipv4()) {
                let why = format!("{first} and {address} are of one family, name one of each");
                return Some(("addresses", why));
            }
            if !service_cidrs.iter().any(|cidr| cidr.contains(address)) {
                let cidrs: Vec<_> = service_cidrs.iter().map(ToString::to_string).collect();
                let why = format!(
                    "{address} is not in [services] cidrs ({}), where the switch takes it for a Service's",
                    cidrs.join(", ")
                );
                return Some(("addresses", why));
            }
        }
        let upstreams = self.upstreams.iter().flatten();
        let mut own = upstreams.filter(|upstream| self.addresses.contains(&upstream.0.ip()));
        let loops = own.next()?;
        Some((
            "upstreams",
            format!("{loops} is the resolver itself, which cannot ask itself; name another"),
        ))
    }
}

impl Config {
    /// Keys of the uplink, and those of the resolver, that contradict each other.
    pub(super) fn check_contradictions(&self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let uplink = self.uplink.contradiction().map(|found| ("uplink", found));
        let dns = || self.dns.contradiction(&self.services.cidrs);
        let Some((table, (key, reason))) = uplink.or_else(|| dns().map(|found| ("dns", found))) else {
            return Ok(());
        };
        Err(ConfigError::Content {
            path: path.to_owned(),
            line: line_of_key(text, table, key),
            key: Some(format!("{table}.{key}")),
            reason,
        })
    }
}

/// The cluster's domain: a DNS-1123 subdomain that leaves room for names in it, without the dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterDomain(String);

impl ClusterDomain {
    /// The domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterDomain {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bare = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        check_subdomain(&bare).map_err(|error| ValueError::because(error.to_string()))?;
        if bare.len() > DOMAIN_MAX_BYTES {
            return Err(ValueError::because(format!(
                "`{bare}` has {} characters, at most {DOMAIN_MAX_BYTES} leave room for names in it",
                bare.len()
            )));
        }
        Ok(Self(bare))
    }
}

by_text!(ClusterDomain, 0);

/// A name server that is asked for what is not in the cluster's domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upstream(pub SocketAddr);

impl Upstream {
    /// A name server at the port of DNS.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self(SocketAddr::new(address, DNS_PORT))
    }
}

impl FromStr for Upstream {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let address = text.parse().map(Self::at);
        let upstream = address.or_else(|_| text.parse().map(Self));
        match upstream {
            Ok(Self(at)) if at.port() != 0 && !at.ip().is_unspecified() && !at.ip().is_multicast() => {
                Ok(Self(at))
            }
            Ok(_) => Err(ValueError::because(format!(
                "nobody answers at `{text}`, name the address of a name server"
            ))),
            Err(_) => Err(ValueError::because(format!(
                "`{text}` is no address of a name server, write it as in 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353"
            ))),
        }
    }
}

by_text!(Upstream);

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == DNS_PORT {
            write!(f, "{}", self.0.ip())
        } else {
            write!(f, "{}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(dns: &str) -> Result<Config, ConfigError> {
        let text = format!(
            "[node]\nname = \"a\"\nmanifests = \"/m\"\n[uplink]\ninterface = \"eth1\"\n[workers]\ncores = [0]\n\
             [services]\ncidrs = [\"10.96.0.0/12\", \"fd96::/108\"]\n[dns]\n{dns}"
        );
        Config::parse(&text, Path::new("/millrace.toml"))
    }

    #[test]
    fn without_an_address_there_is_no_resolver() {
        let dns = parse("").unwrap().dns;
        assert_eq!((dns.addresses.len(), &dns), (0, &Dns::default()));
        assert_eq!(
            (dns.domain.as_str(), dns.port.get(), dns.ttl_seconds.get()),
            ("cluster.local", 10_053, 5)
        );
    }

    #[test]
    fn every_key_can_be_set() {
        let dns = parse(
            "addresses = [\"10.96.0.10\", \"fd96::a\"]\ndomain = \"K8s.Example.\"\nport = 5353\nttl-seconds = 30\n\
             upstreams = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]\nresolv-conf = \"/r\"\nqueries-per-second = 0\n",
        )
        .unwrap()
        .dns;
        assert_eq!(dns.address(false), "fd96::a".parse().ok());
        assert_eq!(dns.domain.to_string(), "k8s.example");
        let upstreams: Vec<String> = dns.upstreams.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(upstreams, ["192.0.2.53", "[2001:db8::53]:5353"]);
        assert_eq!(parse("upstreams = []").unwrap().dns.upstreams, Some(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        let long = format!("domain = \"{}\"", "a.".repeat(51));
        let rows = [
            (
                "addresses = [\"10.96.0\"]",
                ":11: dns.addresses[0]: invalid IP address syntax",
            ),
            (
                "addresses = [\"192.0.2.10\"]",
                ":11: dns.addresses: 192.0.2.10 is not in [services] cidrs (10.96.0.0/12, fd96::/108)",
            ),
            ("addresses = [\"127.0.0.1\"]", ":11: dns.addresses: 127.0.0.1 is"),
            (
                "addresses = [\"10.96.0.10\", \"10.96.0.11\"]",
                ":11: dns.addresses: 10.96.0.10 and 10.96.0.11 are of one family",
            ),
            ("domain = \"\"", ":11: dns.domain: "),
            ("domain = \"a_b\"", ":11: dns.domain: "),
            (&long, ":11: dns.domain: "),
            (
                "port = 53",
                ":11: dns.port: 53 is out of range, it must be within 1024..=65535",
            ),
            (
                "ttl-seconds = 86401",
                ":11: dns.ttl-seconds: 86401 is out of range",
            ),
            (
                "upstreams = [\"resolver\"]",
                ":11: dns.upstreams[0]: `resolver` is no address of a name server, write it as in",
            ),
            (
                "upstreams = [\"0.0.0.0\"]",
                ":11: dns.upstreams[0]: nobody answers at `0.0.0.0`",
            ),
            (
                "upstreams = [\"192.0.2.1:0\"]",
                ":11: dns.upstreams[0]: nobody answers",
            ),
            (
                "upstreams = [\"10.96.0.10\"]\naddresses = [\"10.96.0.10\"]",
                ":11: dns.upstreams: 10.96.0.10 is the resolver itself",
            ),
            (
                "queries-per-second = -1",
                ":11: dns.queries-per-second: -1 is out of range",
            ),
            ("zone = \"x\"", ":11: dns.zone: unknown field `zone`"),
        ];
        for (dns, expected) in rows {
            let error = parse(dns).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("/millrace.toml{expected}")),
                "{dns}:\n found    {error}\n expected {expected}"
            );
            assert_eq!(error.lines().count(), 1);
        }
    }
}
