//! Addresses that hosts outside of the cluster answer for, which nobody is given for a while.
//!
//! As a DHCP server does with an address that a client has declined (RFC 2131 section 4.3.3): what another host was heard to
//! have is passed over when addresses are given out without being asked for. Nobody probes for an address that no Service
//! has, so that is not seen to end: after a while it is tried again.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use millrace_dataplane::wire::MacAddr;
use serde::{Deserialize, Serialize};

use crate::objects::{ServiceKey, UnicastMac};

/// For how long an address is passed over after it was last heard of.
const ASIDE: Duration = Duration::from_secs(3600);
/// For how long an address counts as just given: whoever announces it knows within seconds whether it is somebody's.
const FRESH: Duration = Duration::from_secs(60);
/// Addresses that are remembered, and that a node tells the others of.
const MAX: usize = 64;

/// What a node has heard of a host that has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The host.
    pub by: MacAddr,
    /// Whether the node announces the address all the same: it did before the host did.
    pub is_announced: bool,
}

/// What nodes have heard, by address.
pub type Claims = BTreeMap<IpAddr, Claim>;

/// As one node writes it for the others to read.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    address: IpAddr,
    by: String,
    announced: bool,
}

/// Claims as a text, which is short.
#[must_use]
pub fn write(claims: &Claims) -> String {
    let written = claims.iter().take(MAX).map(|(address, claim)| Written {
        address: *address,
        by: claim.by.to_string(),
        announced: claim.is_announced,
    });
    // INVARIANT: addresses, texts and truth values are all JSON.
    serde_json::to_string(&written.collect::<Vec<_>>()).unwrap_or_default()
}

/// Claims as another node wrote them; what makes no sense is none.
#[must_use]
pub fn read(text: &str) -> Claims {
    let written: Vec<Written> = serde_json::from_str(text).unwrap_or_default();
    let claims = written.into_iter().take(MAX).filter_map(|written| {
        let by: UnicastMac = written.by.parse().ok()?;
        let claim = Claim {
            by: MacAddr(by.octets()),
            is_announced: written.announced,
        };
        Some((written.address, claim))
    });
    claims.collect()
}

/// What is set aside, and what was just given.
#[derive(Debug, Default)]
pub struct Aside {
    heard: BTreeMap<IpAddr, (MacAddr, Instant)>,
    given: BTreeMap<(ServiceKey, IpAddr), Instant>,
    /// Who gives back what.
    declined: BTreeMap<ServiceKey, Vec<IpAddr>>,
}

impl Aside {
    /// Takes what is heard now.
    pub fn hear(&mut self, claims: &Claims, now: Instant) {
        for (address, claim) in claims {
            if self.heard.len() < MAX || self.heard.contains_key(address) {
                self.heard.insert(*address, (claim.by, now));
            }
        }
        let lasts = |since: &Instant, time| now.saturating_duration_since(*since) < time;
        self.heard.retain(|_, (_, since)| lasts(since, ASIDE));
        self.given.retain(|_, since| lasts(since, FRESH));
        self.declined.clear();
        for (service, address) in self.given.keys() {
            // What was ever announced has clients, and stays where it is.
            if claims.get(address).is_some_and(|claim| !claim.is_announced) {
                self.declined.entry(service.clone()).or_default().push(*address);
            }
        }
    }

    /// A Service was given an address that it had not asked for.
    pub fn give(&mut self, service: &ServiceKey, address: IpAddr, now: Instant) {
        self.given.insert((service.clone(), address), now);
    }

    /// An address is announced: it is nobody else's.
    pub fn announced(&mut self, address: IpAddr) {
        self.given.retain(|(_, given), _| *given != address);
    }

    /// The addresses that are passed over, and whose they are.
    #[must_use]
    pub fn addresses(&self) -> BTreeMap<IpAddr, MacAddr> {
        let heard = self.heard.iter();
        heard.map(|(address, (by, _))| (*address, *by)).collect()
    }

    /// What a Service was just given, never got to use, and gives back.
    #[must_use]
    pub fn declined(&self, service: &ServiceKey) -> &[IpAddr] {
        self.declined.get(service).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn claims(is_announced: bool) -> Claims {
        let claim = Claim {
            by: HOST,
            is_announced,
        };
        Claims::from([(ip("192.0.2.7"), claim), (ip("2001:db8::7"), claim)])
    }

    #[test]
    fn what_a_host_has_is_passed_over_for_a_while() {
        let (mut aside, begin) = (Aside::default(), Instant::now());
        aside.hear(&claims(true), begin);
        let both = BTreeMap::from([(ip("192.0.2.7"), HOST), (ip("2001:db8::7"), HOST)]);
        assert_eq!(aside.addresses(), both);
        let mut one = claims(true);
        one.remove(&ip("2001:db8::7"));
        aside.hear(&one, begin + ASIDE / 2);
        assert_eq!(aside.addresses(), both);
        aside.hear(&Claims::new(), begin + ASIDE);
        assert_eq!(aside.addresses().keys().collect::<Vec<_>>(), [&ip("192.0.2.7")]);
        aside.hear(&Claims::new(), begin + ASIDE + ASIDE / 2);
        assert_eq!(aside.addresses(), BTreeMap::new());
    }

    #[test]
    fn only_what_was_just_given_and_never_announced_is_given_back() {
        let (service, begin) = (ServiceKey::new("default", "web").unwrap(), Instant::now());
        let declined = |is_announced: bool, was_announced: bool, after: Duration| {
            let mut aside = Aside::default();
            aside.give(&service, ip("192.0.2.7"), begin);
            aside.give(&service, ip("192.0.2.8"), begin);
            if was_announced {
                aside.announced(ip("192.0.2.7"));
            }
            aside.hear(&claims(is_announced), begin + after);
            aside.declined(&service).to_vec()
        };
        let second = Duration::from_secs(1);
        assert_eq!(declined(false, false, second), [ip("192.0.2.7")]);
        assert_eq!(declined(true, false, second), [""; 0].map(ip));
        assert_eq!(declined(false, true, second), [""; 0].map(ip));
        assert_eq!(declined(false, false, FRESH), [""; 0].map(ip));
    }

    #[test]
    fn the_other_nodes_read_what_one_writes() {
        for written in [Claims::new(), claims(false), claims(true)] {
            assert_eq!(read(&write(&written)), written);
        }
        let many = (0..1000_u32).map(|n| {
            let claim = Claim {
                by: HOST,
                is_announced: false,
            };
            (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), claim)
        });
        let many: Claims = many.collect();
        assert_eq!(read(&write(&many)).len(), MAX);
        let mut aside = Aside::default();
        aside.hear(&many, Instant::now());
        assert_eq!(aside.addresses().len(), MAX);
        for nonsense in [
            "",
            "[",
            "{}",
            "[7]",
            r#"[{"address": "192.0.2.7", "by": "nobody", "announced": true}]"#,
            r#"[{"address": "192.0.2.7", "by": "ff:ff:ff:ff:ff:ff", "announced": true}]"#,
            r#"[{"address": "here", "by": "02:00:00:00:00:09", "announced": true}]"#,
        ] {
            assert_eq!(read(nonsense), Claims::new(), "{nonsense}");
        }
        let whole = write(&claims(true));
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), Claims::new(), "{end}");
        }
    }
}
