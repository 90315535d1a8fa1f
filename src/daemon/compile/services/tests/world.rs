//! A cluster of two nodes in which Services are called. This node is `node-a` in zone `here`.

use std::path::Path;

use millrace_dataplane::table::service::{Caller, Choice, Decision, Query};
use millrace_dataplane::table::{AffinityTable, Tick};

use super::super::*;
use crate::objects::{Folder, Store};

/// This node's address on the uplink.
pub(super) const NODE: &str = "192.0.2.1";
/// The other node's.
pub(super) const PEER: &str = "192.0.2.2";
/// A port of the node on which a program listens.
pub(super) const LISTENED: u16 = 9100;

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-a, labels: {topology.kubernetes.io/zone: here}}
spec: {podCIDRs: [10.244.1.0/24, 'fd00:244:1::/64']}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b}
spec: {podCIDRs: [10.244.2.0/24, 'fd00:244:2::/64']}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";

/// A Service of namespace `default`, by the fields of its `spec`.
pub(super) fn service(name: &str, spec: &str) -> String {
    service_with(name, "", spec, "")
}

/// A Service with more of its metadata, and its load balancer's `status`.
pub(super) fn service_with(name: &str, metadata: &str, spec: &str, ingress: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, {metadata}}}\nspec: {{{spec}}}\n\
         status: {{loadBalancer: {{ingress: [{ingress}]}}}}\n"
    )
}

/// An EndpointSlice of a Service with one unnamed TCP port. Endpoints stand between commas, each an address and words:
/// a node's name, `not-ready`, `terminating` (but serving), `dead` (terminating and not serving), `unsaid` (no
/// conditions at all), `for-node=N`, `for-zone=Z`.
pub(super) fn slice(service: &str, port: u16, endpoints: &str) -> String {
    slice_with(service, service, &format!("{{port: {port}}}"), endpoints)
}

/// As [`slice`], with a name and ports of its own.
pub(super) fn slice_with(name: &str, service: &str, ports: &str, endpoints: &str) -> String {
    let endpoints: Vec<String> = endpoints
        .split(',')
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .map(endpoint)
        .collect();
    let family = if endpoints.iter().any(|text| text.contains("['fd")) {
        "IPv6"
    } else {
        "IPv4"
    };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}\naddressType: {family}\n\
         ports: [{ports}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

fn endpoint(text: &str) -> String {
    let mut words = text.split_whitespace();
    let address = words.next().unwrap();
    let mut conditions = "conditions: {ready: true, serving: true, terminating: false}".to_owned();
    let (mut node, mut hints) = (String::new(), Vec::new());
    for word in words {
        let state = |ready: bool, serving: bool, terminating: bool| {
            format!("conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}")
        };
        match word.split_once('=') {
            Some(("for-node", name)) => hints.push(format!("forNodes: [{{name: {name}}}]")),
            Some(("for-zone", name)) => hints.push(format!("forZones: [{{name: {name}}}]")),
            Some(_) => panic!("{word}"),
            None => match word {
                "not-ready" => conditions = state(false, false, false),
                "terminating" => conditions = state(false, true, true),
                "dead" => conditions = state(false, false, true),
                "unsaid" => conditions = "conditions: {}".to_owned(),
                name => node = format!(", nodeName: {name}"),
            },
        }
    }
    let hints = hints.join(", ");
    format!("{{addresses: ['{address}'], {conditions}{node}, hints: {{{hints}}}}}")
}

/// The compiler with one set of objects after another.
pub(super) struct World {
    pub(super) compiler: ServiceCompiler,
    pub(super) store: Store,
    affinity: AffinityTable,
    pub(super) now: Tick,
    /// The TCP ports of the node on which programs listen.
    pub(super) listened: Vec<u16>,
    /// What the node's pods have of its ports.
    pub(super) host_ports: Vec<PodHostPorts>,
    /// The node's own resolver.
    pub(super) resolver: Option<ResolverService>,
}

impl World {
    pub(super) fn new(objects: &str) -> Self {
        Self::configured("", objects)
    }

    /// With lines of `[services]` in the node file.
    pub(super) fn configured(services: &str, objects: &str) -> Self {
        let text = format!(
            "[node]\nname = \"node-a\"\nmanifests = \"m\"\n[uplink]\ninterface = \"eth1\"\n[workers]\ncores = [0]\n\
             [services]\n{services}"
        );
        let config = crate::config::Config::parse(&text, Path::new("test.toml")).unwrap();
        let mut world = Self {
            compiler: ServiceCompiler::new(&config.services, HashKey::random(), 1),
            store: Store::build(&config.node.name, Vec::new(), Vec::new()),
            affinity: AffinityTable::new(1024),
            now: Tick::from_seconds(1000),
            listened: vec![LISTENED],
            host_ports: Vec::new(),
            resolver: None,
        };
        world.set(objects);
        world
    }

    /// Puts other objects in the place of those there are.
    pub(super) fn set(&mut self, objects: &str) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.yaml"), format!("{NODES}{objects}")).unwrap();
        let mut manifests = Folder::new(folder.path());
        manifests.scan();
        self.store = manifests.store(&"node-a".parse().unwrap(), &[]);
        self.update();
    }

    /// Compiles what is in the store.
    pub(super) fn update(&mut self) {
        let own = self.store.own_node().unwrap().clone();
        let gateways: Vec<IpAddr> = own.gateway_addresses().collect();
        let own_addresses: Vec<IpAddr> = own.tunnel_addresses().chain([NODE.parse().unwrap()]).collect();
        let listened = self.listened.clone();
        let listens = |_, protocol, port| Ok(protocol == IpProtocol::TCP && listened.contains(&port));
        self.compiler.update(&ServiceInputs {
            services: self.store.services(),
            node: &own.name,
            zone: own.zone.as_deref(),
            own_addresses: &own_addresses,
            uplink_addresses: &[NODE.parse().unwrap()],
            gateways: &gateways,
            node_addresses: &[NODE, PEER].iter().map(|text| text.parse().unwrap()).collect(),
            fail_safe_ports: &[22, 6443],
            listens: HostListens(&listens),
            host_ports: &self.host_ports,
            resolver: self.resolver.as_ref(),
        });
    }

    /// What is said about objects, each a line without its place, sorted.
    pub(super) fn notices(&self) -> Vec<String> {
        let notices = self.store.notices().iter().map(|notice| {
            let id = notice.object.as_ref().map(ToString::to_string);
            format!(
                "{} {}: {}",
                notice.severity,
                id.unwrap_or_default(),
                notice.reason
            )
        });
        // The nodes of this cluster are no flannel's.
        let mut notices: Vec<String> = notices
            .filter(|notice| !notice.starts_with("skipped Node"))
            .collect();
        notices.sort();
        notices
    }

    /// The decision about one connection.
    pub(super) fn decide(&self, call: &str, source_port: u16) -> Decision {
        let query = query(call, source_port);
        self.compiler.table().balance(&query, &self.affinity, self.now)
    }

    /// The backend chosen for one connection.
    pub(super) fn choice(&self, call: &str, source_port: u16) -> Choice {
        match self.decide(call, source_port) {
            Decision::Backend(choice) => choice,
            other => panic!("{call}: {other:?}"),
        }
    }

    /// What becomes of connections like this one, from many source ports: every backend that any was given, and `masq`
    /// where their source is changed.
    pub(super) fn outcome(&self, call: &str) -> String {
        let mut seen = std::collections::BTreeSet::new();
        for source_port in 20_000..20_256 {
            seen.insert(match self.decide(call, source_port) {
                Decision::NotAService => "no service".to_owned(),
                Decision::Drop(reason) => format!("drop {reason}"),
                Decision::Reject => "reject".to_owned(),
                Decision::Backend(choice) => {
                    let at = std::net::SocketAddr::new(choice.address, choice.port);
                    let masquerade = if choice.masquerade { " masq" } else { "" };
                    format!("{at}{masquerade}")
                }
            });
        }
        seen.into_iter().collect::<Vec<_>>().join(", ")
    }
}

/// Rows of a sentence: how it is called, and the outcome.
pub(super) type Calls<'a> = &'a [(&'a str, &'a str)];

/// Checks that the calls come to what they should, in a world of these objects.
pub(super) fn check(sentence: &str, objects: &[String], calls: Calls<'_>) {
    let world = World::new(&objects.concat());
    for (call, expected) in calls {
        let found = world.outcome(call);
        assert_eq!(found, *expected, "{sentence}: {call}\n{:#?}", world.notices());
    }
}

/// Reads `CALLER [SOURCE] -> DESTINATION PROTOCOL PORT`.
fn query(call: &str, source_port: u16) -> Query {
    let (from, to) = call.split_once(" -> ").unwrap();
    let (who, source) = from.split_once(' ').unwrap_or((from, ""));
    let [destination, protocol, port] = to.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{call}")
    };
    let destination: IpAddr = destination.parse().unwrap();
    let is_ipv6 = destination.is_ipv6();
    let (caller, usual) = match (who, is_ipv6) {
        ("pod", false) => (Caller::LocalPod, "10.244.1.9"),
        ("pod", true) => (Caller::LocalPod, "fd00:244:1::9"),
        ("host", false) => (Caller::Host, "10.244.1.0"),
        ("host", true) => (Caller::Host, "fd00:244:1::"),
        ("peer", false) => (Caller::Peer, "10.244.2.9"),
        ("peer", true) => (Caller::Peer, "fd00:244:2::9"),
        ("world", false) => (Caller::External, "203.0.113.7"),
        ("world", true) => (Caller::External, "2001:db8::7"),
        other => panic!("{other:?}"),
    };
    let source: IpAddr = if source.is_empty() { usual } else { source }.parse().unwrap();
    let pods = ["10.244.0.0/16", "fd00:244::/32"];
    let protocol = match protocol {
        "tcp" => IpProtocol::TCP,
        "udp" => IpProtocol::UDP,
        "sctp" => IpProtocol::SCTP,
        "icmp" => IpProtocol::ICMP,
        "icmpv6" => IpProtocol::ICMPV6,
        other => panic!("{other}"),
    };
    Query {
        source,
        destination,
        protocol,
        source_port: if protocol.has_ports() { source_port } else { 0 },
        destination_port: port.parse().unwrap(),
        caller,
        from_pods: pods
            .iter()
            .any(|cidr| cidr.parse::<ipnet::IpNet>().unwrap().contains(&source)),
    }
}
