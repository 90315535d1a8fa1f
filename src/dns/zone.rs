//! The cluster's domain: which records there are (Kubernetes DNS specification 1.1.0, whose sections are named below).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::rdata::{CNAME, HINFO, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::index::{Index, cluster_ips};
use super::records::{Found, absolute, below, data, of_kind, only, protocol, undashed};
use super::service::{NAMESPACE, named};
use crate::config::Dns;
use crate::objects::{ServiceEntry, ServiceKey, ServiceKind, Store};

/// The specification that is followed (2.2).
const SCHEMA_VERSION: &str = "1.1.0";
/// Names that one answer follows from each other before it is given up.
const CHAIN_MAX: usize = 8;
/// Most records that stand beside an answer of SRV records: of more targets the client asks by itself.
const ADDITIONAL_MAX: usize = 32;
/// Of SRV records (RFC 2782): all of one priority, and of one weight.
const SRV_PRIORITY: u16 = 0;
const SRV_WEIGHT: u16 = 100;
/// Of the SOA record, in seconds (RFC 1035, section 3.3.13); nobody transfers the zone.
const REFRESH_S: i32 = 7200;
const RETRY_S: i32 = 1800;
const EXPIRE_S: i32 = 86_400;

/// An answer, or as much of it as is known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// How it went.
    pub(super) code: ResponseCode,
    /// The answer section.
    pub(super) answers: Vec<Record>,
    /// The authority section.
    pub(super) authorities: Vec<Record>,
    /// The additional section.
    pub(super) additionals: Vec<Record>,
    /// The name that has to be asked for elsewhere for the answer to be whole.
    pub(super) outside: Option<Name>,
}

/// The domain at one moment.
#[derive(Debug)]
pub(super) struct Zone {
    domain: Name,
    name_server: Name,
    hostmaster: Name,
    ttl_s: u32,
    serial: u32,
    service_cidrs: Vec<IpNet>,
    /// The resolver itself, unless there is a Service of that name.
    own: Arc<ServiceEntry>,
    store: Arc<Store>,
    index: Index,
}

impl Zone {
    /// The domain, with the names that a store gives.
    pub(super) fn new(config: &Dns, service_cidrs: &[IpNet], store: &Arc<Store>) -> Self {
        // INVARIANT: a checked domain is a name, and short enough for more labels.
        let domain = absolute(config.domain.as_str()).unwrap_or_else(Name::root);
        let mut zone = Self {
            name_server: below(&domain, &["ns", "dns"]).unwrap_or_else(Name::root),
            hostmaster: below(&domain, &["hostmaster"]).unwrap_or_else(Name::root),
            domain,
            ttl_s: u32::try_from(config.ttl_seconds.get()).unwrap_or_default(),
            serial: 0,
            service_cidrs: service_cidrs.to_vec(),
            own: Arc::new(named(&config.addresses)),
            store: Arc::clone(store),
            index: Index::default(),
        };
        zone.update(store);
        zone
    }

    /// Takes a newer store.
    pub(super) fn update(&mut self, store: &Arc<Store>) {
        self.index.update(store.services());
        self.store = Arc::clone(store);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = u32::try_from(since.as_secs()).unwrap_or_default();
        self.serial = now.max(self.serial.wrapping_add(1));
    }

    /// How many Services it has names for.
    pub(super) fn services(&self) -> usize {
        self.index.len()
    }

    /// What a query of the Internet class is answered; `None` if it is about a name elsewhere. `turn` chooses which of
    /// several addresses comes first.
    pub(super) fn answer(&self, query: &Query, turn: u16) -> Option<Answer> {
        let kind = query.query_type();
        let mut answer = Answer {
            code: ResponseCode::NoError,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
            outside: None,
        };
        let mut name = query.name().clone();
        for step in 0..CHAIN_MAX {
            let Some((zone, found)) = self.look(&name, kind) else {
                if step == 0 {
                    return None;
                }
                answer.outside = Some(name);
                return Some(answer);
            };
            match found {
                Found::Alias(target) => {
                    answer
                        .answers
                        .push(self.record(&name, RData::CNAME(CNAME(target.clone()))));
                    if matches!(kind, RecordType::CNAME | RecordType::ANY) {
                        return Some(answer);
                    }
                    name = target;
                    continue;
                }
                Found::Records(mut data, additionals) => {
                    let turns = usize::from(turn).checked_rem(data.len()).unwrap_or_default();
                    data.rotate_left(turns);
                    answer
                        .answers
                        .extend(data.into_iter().map(|data| self.record(&name, data)));
                    answer.additionals = additionals;
                }
                // Any one thing will do (RFC 8482, section 4.2).
                Found::Nothing if kind == RecordType::ANY => {
                    let told = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
                    answer.answers.push(self.record(&name, told));
                }
                Found::Nothing => answer.authorities.push(self.soa(&zone)),
                Found::Missing => {
                    answer.code = ResponseCode::NXDomain;
                    answer.authorities.push(self.soa(&zone));
                }
            }
            return Some(answer);
        }
        // Names that lead to each other, or to too many.
        answer.code = ResponseCode::ServFail;
        Some(answer)
    }

    /// What is known of a name, and the zone that it is in; `None` if it is elsewhere.
    fn look(&self, name: &Name, kind: RecordType) -> Option<(Name, Found)> {
        if !self.domain.zone_of(name) {
            return self.reverse(name, kind);
        }
        let depth = usize::from(name.num_labels()).checked_sub(usize::from(self.domain.num_labels()))?;
        let lower = name.to_lowercase();
        let labels: Result<Vec<&str>, _> = lower.iter().take(depth).map(std::str::from_utf8).collect();
        let found = labels.map_or(Found::Missing, |labels| self.inside(&labels, kind));
        Some((self.domain.clone(), found))
    }

    /// What is known of the name with these labels in front of the domain, in lower case.
    fn inside(&self, labels: &[&str], kind: RecordType) -> Found {
        match *labels {
            [] => self.apex(kind),
            ["dns-version"] => {
                let text = RData::TXT(TXT::new(vec![SCHEMA_VERSION.to_owned()]));
                only(kind == RecordType::TXT, text)
            }
            ["dns" | "svc" | "pod"] => Found::Nothing,
            ["ns", "dns"] => of_kind(cluster_ips(&self.own), kind),
            [namespace, "svc" | "pod"] if self.has_namespace(namespace) => Found::Nothing,
            [name, namespace, "svc"] => match self.service(namespace, name) {
                Some(entry) => self.of_service(entry, kind),
                None => Found::Missing,
            },
            [first, name, namespace, "svc"] => match self.service(namespace, name) {
                Some(entry) => self.below_service(first, entry, kind),
                None => Found::Missing,
            },
            [port, protocol, name, namespace, "svc"] => match self.service(namespace, name) {
                Some(entry) => self.ports(port, protocol, entry, kind),
                None => Found::Missing,
            },
            [dashed, namespace, "pod"] if self.has_namespace(namespace) => match undashed(dashed) {
                Some(address) => of_kind([address].into_iter(), kind),
                None => Found::Missing,
            },
            _ => Found::Missing,
        }
    }

    fn apex(&self, kind: RecordType) -> Found {
        match kind {
            RecordType::SOA => Found::Records(vec![self.soa(&self.domain).data], Vec::new()),
            RecordType::NS => {
                let records = vec![RData::NS(NS(self.name_server.clone()))];
                Found::Records(
                    records,
                    self.addresses_beside(&self.name_server, cluster_ips(&self.own)),
                )
            }
            _ => Found::Nothing,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&Arc<ServiceEntry>> {
        let own = || {
            let key = &self.own.record.key;
            ((key.namespace(), key.name()) == (namespace, name)).then_some(&self.own)
        };
        self.index.service(namespace, name).or_else(own)
    }

    fn has_namespace(&self, namespace: &str) -> bool {
        namespace == NAMESPACE || self.store.has_namespace(namespace)
    }

    /// The records of a Service's own name (2.3.1, 2.4.1, 2.5).
    fn of_service(&self, entry: &ServiceEntry, kind: RecordType) -> Found {
        match &entry.record.kind {
            ServiceKind::ExternalName(target) => absolute(target).map_or(Found::Nothing, Found::Alias),
            ServiceKind::Headless => match self.index.hosts(&entry.record.key) {
                Some(hosts) if !hosts.is_empty() => of_kind(hosts.addresses(), kind),
                // Without a ready endpoint there is no such name.
                Some(_) | None => Found::Missing,
            },
            ServiceKind::ClusterIp
            | ServiceKind::NodePort
            | ServiceKind::LoadBalancer
            | ServiceKind::HostPort => of_kind(cluster_ips(entry), kind),
        }
    }

    /// The records of the name one label below a Service: a headless one's endpoint (2.4.1), or a protocol below which there
    /// are ports.
    fn below_service(&self, label: &str, entry: &ServiceEntry, kind: RecordType) -> Found {
        if let Some(protocol) = protocol(label) {
            let of_service = entry.record.ports.iter().map(|port| (&port.name, port.protocol));
            let slices = entry.slices.iter().flat_map(|slice| &slice.ports);
            let mut ports = of_service.chain(slices.map(|port| (&port.name, port.protocol)));
            let has_ports = ports.any(|(name, of_port)| !name.is_empty() && of_port == protocol);
            let has_records = !matches!(self.of_service(entry, kind), Found::Missing | Found::Alias(_));
            return if has_ports && has_records {
                Found::Nothing
            } else {
                Found::Missing
            };
        }
        let hosts = self.index.hosts(&entry.record.key);
        match hosts.map_or(&[][..], |hosts| hosts.called(label)) {
            [] => Found::Missing,
            addresses => of_kind(addresses.iter().copied(), kind),
        }
    }

    /// The records of a Service's port (2.3.2, 2.4.2).
    fn ports(&self, port: &str, protocol_label: &str, entry: &ServiceEntry, kind: RecordType) -> Found {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol(protocol_label)) else {
            return Found::Missing;
        };
        let record = &entry.record;
        let targets: Vec<(Option<&str>, u16)> = match &record.kind {
            ServiceKind::ExternalName(_) => Vec::new(),
            ServiceKind::Headless => {
                let hosts = self.index.hosts(&record.key);
                let found = hosts.map(|hosts| hosts.with_port(entry, port, protocol));
                let found = found.into_iter().flatten();
                found.map(|(host, number)| (Some(host), number)).collect()
            }
            ServiceKind::ClusterIp
            | ServiceKind::NodePort
            | ServiceKind::LoadBalancer
            | ServiceKind::HostPort => {
                let ports = record.ports.iter();
                let named =
                    ports.filter(|of_service| of_service.name == port && of_service.protocol == protocol);
                named.map(|of_service| (None, of_service.port)).collect()
            }
        };
        // One without a name has no such record.
        if port.is_empty() || targets.is_empty() {
            return Found::Missing;
        }
        if kind != RecordType::SRV {
            return Found::Nothing;
        }
        let (mut data, mut additionals) = (Vec::new(), Vec::new());
        for (host, number) in targets {
            let Some(target) = self.name_of(&record.key, host) else {
                continue;
            };
            if additionals.len() < ADDITIONAL_MAX {
                let hosts = self.index.hosts(&record.key);
                let of_host = host.map(|host| hosts.map_or(&[][..], |hosts| hosts.called(host)).to_vec());
                let addresses = of_host.unwrap_or_else(|| cluster_ips(entry).collect());
                additionals.extend(self.addresses_beside(&target, addresses.into_iter()));
            }
            data.push(RData::SRV(SRV::new(SRV_PRIORITY, SRV_WEIGHT, number, target)));
        }
        Found::Records(data, additionals)
    }

    /// What is known of an address as a name (2.3.3, 2.4.3): one of a Service, or of a headless one's endpoint. One that
    /// can only be the cluster's has no other name; all others may have one elsewhere.
    fn reverse(&self, name: &Name, kind: RecordType) -> Option<(Name, Found)> {
        let net = name
            .parse_arpa_name()
            .ok()
            .filter(|net| net.prefix_len() == net.max_prefix_len())?;
        let (address, zone) = match net.addr() {
            IpAddr::V4(v4) => (IpAddr::V4(v4), "in-addr.arpa."),
            IpAddr::V6(v6) => (IpAddr::V6(v6), "ip6.arpa."),
        };
        let mut names: Vec<Name> = self
            .index
            .at(address)
            .filter_map(|(key, host)| self.name_of(key, host))
            .collect();
        if names.is_empty() && self.own.record.cluster_ips.contains(&address) {
            names.extend(self.name_of(&self.own.record.key, None));
        }
        let found = if !names.is_empty() {
            match kind {
                RecordType::PTR => {
                    let names = names.into_iter().map(|name| RData::PTR(PTR(name)));
                    Found::Records(names.collect(), Vec::new())
                }
                _ => Found::Nothing,
            }
        } else if self.service_cidrs.iter().any(|cidr| cidr.contains(&address))
            || self.store.pod_by_ip(address).is_some()
        {
            Found::Missing
        } else {
            return None;
        };
        Some((absolute(zone)?, found))
    }

    /// A Service's name, or that of one of its endpoints.
    fn name_of(&self, key: &ServiceKey, host: Option<&str>) -> Option<Name> {
        let labels: Vec<&str> = host
            .into_iter()
            .chain([key.name(), key.namespace(), "svc"])
            .collect();
        below(&self.domain, &labels)
    }

    fn addresses_beside(&self, name: &Name, addresses: impl Iterator<Item = IpAddr>) -> Vec<Record> {
        addresses
            .map(|address| self.record(name, data(address)))
            .collect()
    }

    fn record(&self, name: &Name, data: RData) -> Record {
        Record::from_rdata(name.clone(), self.ttl_s, data)
    }

    /// What says for how long an answer without records may be kept (RFC 2308, section 3).
    fn soa(&self, zone: &Name) -> Record {
        let soa = SOA::new(
            self.name_server.clone(),
            self.hostmaster.clone(),
            self.serial,
            REFRESH_S,
            RETRY_S,
            EXPIRE_S,
            self.ttl_s,
        );
        self.record(zone, RData::SOA(soa))
    }
}
