//! A set as nftables rules, in the way of kube-proxy's nftables mode: verdict maps from address, protocol and port to a
//! chain for each Service and traffic policy, a chain for each endpoint, and a mark for what is to be masqueraded.
//!
//! kube-proxy's documents and the Kubernetes pages say what has to happen; the rules that make it so are written here
//! anew. Three things differ from kube-proxy on purpose: a reject of TCP is a reset; node ports are served on every
//! address of the node but the loopback's, as with `--nodeport-addresses=0.0.0.0/0`; and a connection that is to be led to a certain
//! endpoint (a [`Pick`]) is, if that endpoint is among those that the dice would choose from.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

use crate::family::Family;
use crate::mistake::Mistake;
use crate::places::{POD_NETWORKS, POD_NETWORKS_V6, SERVICE_CIDR, SERVICE_CIDR_V6};
use crate::set::{Endpoint, Port, Protocol, Service, Set, Usable};

/// The name of the table, of which there is one for each family.
const TABLE: &str = "kube-proxy";
/// The mark of what is to be masqueraded, kube-proxy's own.
const MARK: &str = "0x4000";
/// How long an affinity lasts in seconds, unless a Service says otherwise.
const AFFINITY_SECONDS: u32 = 10_800;

/// A connection that is to be led to a certain endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pick {
    pub(crate) protocol: Protocol,
    /// The client's port, which no other connection of this protocol has.
    pub(crate) source_port: u16,
    /// The endpoint's place by name, and its port.
    pub(crate) to: (&'static str, u16),
}

/// The rules of a set, for `nft -f`. `anew` also forgets whatever affinities there are.
pub(crate) fn rules(set: &Set, anew: bool, picks: &[Pick], mistake: Option<Mistake>) -> String {
    Family::BOTH
        .map(|family| rules_of(family, set, anew, picks, mistake))
        .concat()
}

/// The rules of one family, as each of kube-proxy's two proxiers makes its own.
fn rules_of(family: Family, set: &Set, anew: bool, picks: &[Pick], mistake: Option<Mistake>) -> String {
    let mut writer = Writer {
        family,
        table: format!("{} {TABLE}", family.word()),
        text: String::new(),
        elements: BTreeMap::new(),
        picks,
        mistake,
    };
    writer.begin(anew);
    let set = match mistake {
        Some(mistake) => mistake.about(set),
        None => set.clone(),
    };
    let services = set.services.iter().enumerate();
    for (number, service) in services.filter(|(_, service)| service.families.contains(&family)) {
        let usable = Usable::of(service);
        for port in &service.ports {
            writer.port(&format!("{number}-{}", port.name), service, port, &usable);
        }
        writer.element("set", "cluster-ips", family.of(service.cluster_ip).to_string());
    }
    writer.finish()
}

/// What a reject is to be called in a map.
const REJECT: &str = "goto turn-away";

struct Writer<'a> {
    family: Family,
    table: String,
    text: String,
    /// What goes into sets and maps, by kind and name.
    elements: BTreeMap<(&'static str, String), Vec<String>>,
    picks: &'a [Pick],
    mistake: Option<Mistake>,
}

impl Writer<'_> {
    /// The type of an address of the family.
    fn address_type(&self) -> &'static str {
        match self.family {
            Family::V4 => "type ipv4_addr",
            Family::V6 => "type ipv6_addr",
        }
    }

    /// The networks of all pods, and that of Services.
    fn networks(&self) -> (&'static str, &'static str) {
        match self.family {
            Family::V4 => (POD_NETWORKS, SERVICE_CIDR),
            Family::V6 => (POD_NETWORKS_V6, SERVICE_CIDR_V6),
        }
    }

    fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn line(&mut self, line: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn chain(&mut self, name: &str) {
        self.line(&format!("add chain {} {name}", self.table));
    }

    fn rule(&mut self, chain: &str, rule: &str) {
        self.line(&format!("add rule {} {chain} {rule}", self.table));
    }

    fn element(&mut self, kind: &'static str, name: &str, element: String) {
        self.elements
            .entry((kind, name.to_owned()))
            .or_default()
            .push(element);
    }

    /// The parts that do not depend on any Service.
    fn begin(&mut self, anew: bool) {
        let table = self.table.clone();
        self.line(&format!("add table {table}"));
        if anew {
            self.line(&format!("delete table {table}\nadd table {table}"));
        } else {
            self.line(&format!("flush table {table}"));
        }
        let address = self.address_type();
        let fronts = format!("{address} . inet_proto . inet_service : verdict");
        const NODE_PORTS: &str = "type inet_proto . inet_service : verdict";
        let maps = [
            ("map", "service-ips", fronts.as_str()),
            ("map", "service-node-ports", NODE_PORTS),
            ("map", "no-endpoint-ips", &fronts),
            ("map", "no-endpoint-node-ports", NODE_PORTS),
            ("map", "firewall-ips", &fronts),
            ("set", "cluster-ips", address),
        ];
        for (kind, name, what) in maps {
            self.line(&format!("add {kind} {table} {name} {{ {what}; }}"));
            self.line(&format!("flush {kind} {table} {name}"));
        }
        for (name, hook) in [
            ("before-in", "filter hook prerouting priority dstnat - 10"),
            ("before-out", "filter hook output priority -110"),
            ("in", "filter hook input priority filter"),
            ("forward", "filter hook forward priority filter"),
            ("out", "filter hook output priority filter"),
            ("nat-in", "nat hook prerouting priority dstnat"),
            ("nat-out", "nat hook output priority -100"),
            ("nat-after", "nat hook postrouting priority srcnat"),
        ] {
            self.line(&format!("add chain {table} {name} {{ type {hook}; }}"));
        }
        for name in [
            "turn-away",
            "masquerade-later",
            "services",
            "no-endpoints",
            "unknown",
        ] {
            self.chain(name);
        }
        self.hooks();
        self.verdicts();
    }

    /// What is looked up where.
    fn hooks(&mut self) {
        let ip = self.family.word();
        let loopback = match self.family {
            Family::V4 => "127.0.0.0/8",
            Family::V6 => "::1",
        };
        let lookup = format!("{ip} daddr . meta l4proto . th dport vmap");
        let own = format!("fib daddr type local {ip} daddr != {loopback} meta l4proto . th dport vmap");
        for chain in ["before-in", "before-out"] {
            self.rule(chain, &format!("ct state new {lookup} @firewall-ips"));
        }
        for chain in ["in", "forward", "out"] {
            self.rule(chain, "ct state new jump no-endpoints");
        }
        self.rule("in", &format!("ct state new {own} @no-endpoint-node-ports"));
        self.rule("no-endpoints", &format!("{lookup} @no-endpoint-ips"));
        for chain in ["forward", "out"] {
            self.rule(chain, "ct state new jump unknown");
        }
        self.rule("services", &format!("{lookup} @service-ips"));
        self.rule("services", &format!("{own} @service-node-ports"));
        for chain in ["nat-in", "nat-out"] {
            self.rule(chain, "jump services");
        }
    }

    /// What becomes of what was found.
    fn verdicts(&mut self) {
        if self.makes(Mistake::SilentReject) {
            self.rule("turn-away", "drop");
        } else if !self.makes(Mistake::RejectWithoutReset) {
            self.rule("turn-away", "meta l4proto tcp reject with tcp reset");
        }
        self.rule("turn-away", "reject");
        let port = if self.makes(Mistake::UnknownPortDropped) {
            "drop"
        } else {
            REJECT
        };
        let address = if self.makes(Mistake::UnknownAddressRejected) {
            REJECT
        } else {
            "drop"
        };
        let (ip, (_, services)) = (self.family.word(), self.networks());
        self.rule("unknown", &format!("{ip} daddr @cluster-ips {port}"));
        self.rule("unknown", &format!("{ip} daddr {services} {address}"));
        self.rule("masquerade-later", &format!("meta mark set meta mark or {MARK}"));
        self.rule("nat-after", &format!("meta mark and {MARK} == 0 return"));
        self.rule("nat-after", &format!("meta mark set meta mark xor {MARK}"));
        self.rule("nat-after", "masquerade fully-random");
    }

    /// One port of a Service: its fronts, its policies, its endpoints.
    fn port(&mut self, id: &str, service: &Service, port: &Port, usable: &Usable<'_>) {
        let any = !usable.cluster.is_empty() || !usable.local.is_empty();
        let word = port.protocol.word();
        let (cluster, local) = (format!("cluster-{id}"), format!("local-{id}"));
        self.endpoints(id, service, port, usable);
        self.policy(&cluster, id, service, port, &usable.cluster);
        self.policy(&local, id, service, port, &usable.local);
        self.firewall(id, service, port);

        let inside = if service.internal_local { &local } else { &cluster };
        let has_inside = any && !(service.internal_local && usable.local.is_empty());
        let ip = self.family.of(service.cluster_ip).to_string();
        let front = format!("inside-{id}");
        self.chain(&front);
        let who = if self.makes(Mistake::AlwaysMasqueraded) {
            String::new()
        } else {
            format!("{} saddr != {} ", self.family.word(), self.networks().0)
        };
        self.rule(&front, &format!("{who}jump masquerade-later"));
        self.rule(&front, &format!("goto {inside}"));
        self.front(&ip, port, (has_inside, &front), dead(any, has_inside));

        if !service.is_external() {
            return;
        }
        let has_outside = any && !(service.external_local && usable.local.is_empty());
        let front = format!("outside-{id}");
        self.outside(&front, service, (&cluster, &local), has_outside);
        let dead = dead(any, has_outside);
        let balanced = service.load_balancer_ips();
        for address in service.external_ips.iter().copied().chain(balanced) {
            self.front(&self.family.of(address).to_string(), port, (any, &front), dead);
        }
        if let Some(node_port) = port.node_port {
            let key = format!("{word} . {node_port}");
            if any {
                self.element("map", "service-node-ports", format!("{key} : goto {front}"));
            }
            if let Some(dead) = dead {
                self.element("map", "no-endpoint-node-ports", format!("{key} : {dead}"));
            }
        }
    }

    /// An address and port of a Service: where it leads, if it leads anywhere, and what becomes of what is left over.
    fn front(&mut self, ip: &str, port: &Port, (leads, chain): (bool, &str), dead: Option<&str>) {
        let key = format!("{ip} . {} . {}", port.protocol.word(), port.number);
        if leads {
            self.element("map", "service-ips", format!("{key} : goto {chain}"));
        }
        if let Some(dead) = dead {
            self.element("map", "no-endpoint-ips", format!("{key} : {dead}"));
        }
    }

    /// The chain of what comes to an address that is not the ClusterIP.
    fn outside(&mut self, front: &str, service: &Service, policies: (&str, &str), has_outside: bool) {
        let (cluster, local) = policies;
        self.chain(front);
        if service.external_local {
            // A short cut: as if it had gone out to the load balancer and come back.
            let (ip, (pods, _)) = (self.family.word(), self.networks());
            self.rule(front, &format!("{ip} saddr {pods} goto {cluster}"));
            self.rule(front, "fib saddr type local jump masquerade-later");
            self.rule(front, &format!("fib saddr type local goto {cluster}"));
            if has_outside {
                self.rule(front, &format!("goto {local}"));
            }
        } else {
            if !self.makes(Mistake::NotMasqueraded) {
                self.rule(front, "jump masquerade-later");
            }
            self.rule(front, &format!("goto {cluster}"));
        }
    }

    /// The chain that chooses among the endpoints of a traffic policy.
    fn policy(&mut self, chain: &str, id: &str, service: &Service, port: &Port, endpoints: &[&Endpoint]) {
        self.chain(chain);
        let target = |endpoint: &Endpoint| format!("goto endpoint-{id}-{}", endpoint.place.name);
        if service.affinity {
            for endpoint in endpoints {
                let rule = format!(
                    "{} saddr @affinity-{id}-{} {}",
                    self.family.word(),
                    endpoint.place.name,
                    target(endpoint)
                );
                self.rule(chain, &rule);
            }
        }
        self.line(&format!(
            "add map {} pick-{chain} {{ type inet_service : verdict; }}",
            self.table
        ));
        let (word, map) = (port.protocol.word(), format!("pick-{chain}"));
        self.rule(chain, &format!("{word} sport vmap @{map}"));
        let picks = self.picks.iter().filter(|pick| pick.protocol == port.protocol);
        for pick in picks.copied().collect::<Vec<_>>() {
            let among = endpoints
                .iter()
                .find(|endpoint| (endpoint.place.name, port.targets[endpoint.slice]) == pick.to);
            if let Some(endpoint) = among {
                let element = format!("{} : {}", pick.source_port, target(endpoint));
                self.element("map", &map, element);
            }
        }
        let choices: Vec<String> = endpoints
            .iter()
            .enumerate()
            .map(|(number, endpoint)| format!("{number} : {}", target(endpoint)))
            .collect();
        if !choices.is_empty() {
            let dice = format!(
                "numgen random mod {} vmap {{ {} }}",
                choices.len(),
                choices.join(", ")
            );
            self.rule(chain, &dice);
        }
    }

    /// The chains that send a connection to its endpoint.
    fn endpoints(&mut self, id: &str, service: &Service, port: &Port, usable: &Usable<'_>) {
        for endpoint in &service.endpoints {
            let used = usable.cluster.contains(&endpoint) || usable.local.contains(&endpoint);
            if !used {
                continue;
            }
            let (name, address) = (endpoint.place.name, self.family.of(endpoint.place.address));
            let (ip, table) = (self.family.word(), self.table.clone());
            let chain = format!("endpoint-{id}-{name}");
            self.chain(&chain);
            if !self.makes(Mistake::NoHairpin) {
                self.rule(&chain, &format!("{ip} saddr {address} jump masquerade-later"));
            }
            if service.affinity {
                let address = self.address_type();
                let kind = format!("{address}; flags dynamic,timeout; timeout {AFFINITY_SECONDS}s;");
                self.line(&format!("add set {table} affinity-{id}-{name} {{ {kind} }}"));
                self.rule(&chain, &format!("update @affinity-{id}-{name} {{ {ip} saddr }}"));
            }
            let (word, target) = (port.protocol.word(), port.targets[endpoint.slice]);
            let to = SocketAddr::new(address, target);
            self.rule(&chain, &format!("meta l4proto {word} dnat to {to}"));
        }
    }

    /// Who may call the LoadBalancer's addresses.
    fn firewall(&mut self, id: &str, service: &Service, port: &Port) {
        if service.source_ranges.is_empty() {
            return;
        }
        let chain = format!("firewall-{id}");
        self.chain(&chain);
        let ranges: Vec<String> = service
            .source_ranges
            .iter()
            .map(|range| self.family.range(*range))
            .collect();
        // One rule for each range, as a set does not bear ranges that overlap.
        for range in ranges {
            self.rule(&chain, &format!("{} saddr {range} return", self.family.word()));
        }
        self.rule(&chain, "drop");
        for address in service.load_balancer_ips() {
            let address = self.family.of(address);
            let key = format!("{address} . {} . {}", port.protocol.word(), port.number);
            self.element("map", "firewall-ips", format!("{key} : goto {chain}"));
        }
    }

    fn finish(mut self) -> String {
        for ((_, name), elements) in std::mem::take(&mut self.elements) {
            let elements = elements.join(", ");
            self.line(&format!("add element {} {name} {{ {elements} }}", self.table));
        }
        self.text
    }
}

/// What becomes of what has no endpoint: rejected where there is none at all, dropped where the traffic policy alone
/// leaves none.
fn dead(any: bool, has: bool) -> Option<&'static str> {
    match (any, has) {
        (false, _) => Some(REJECT),
        (true, false) => Some("drop"),
        (true, true) => None,
    }
}
