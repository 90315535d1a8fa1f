//! Manifests and the node file: whatever stands in them, they are read without a panic; what is accepted is sound, what
//! is refused is reported in one printable line, and the outcome does not depend on the order of the objects.
#![no_main]

use std::collections::HashSet;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use millrace::admin::protocol::ShowFilter;
use millrace::config::Config;
use millrace::daemon::compile::services::{HostListens, ServiceCompiler, ServiceInputs};
use millrace::objects::manifests::{self, Found, Syntax};
use millrace::objects::{
    Claim, Entry, Family, NodeName, Notice, RouteTo, Store, Vni, check_subdomain, flannel,
    refused_address_class, refused_class,
};
use millrace_dataplane::table::HashKey;

/// More than the longest line of a report has, in characters.
const NOTICE_TOO_LONG: usize = 4096;

fuzz_target!(|data: &[u8]| {
    check_objects(data, Syntax::Yaml, "nodes.yaml");
    check_objects(data, Syntax::Json, "nodes.json");
    if let Ok(text) = std::str::from_utf8(data) {
        check_backend_data(text);
        check_node_file(text);
    }
});

fn check_objects(data: &[u8], syntax: Syntax, file: &str) {
    let found = manifests::read(Path::new(file), syntax, data);
    let mut entries = Vec::new();
    let mut notices = Vec::new();
    for Found { origin, object } in found {
        let fault = match object.map_err(|fault| (fault.object.clone(), fault.reason)) {
            Ok(object) => match Entry::read(origin.clone(), &object) {
                Ok((entry, warnings)) => {
                    let id = Some(entry.id.clone());
                    notices.extend(
                        warnings
                            .into_iter()
                            .map(|why| Notice::new(origin.clone(), id.clone(), why)),
                    );
                    entries.push(entry);
                    continue;
                }
                Err(reason) => (object.id(), reason),
            },
            Err(fault) => fault,
        };
        notices.push(Notice::new(origin, fault.0, fault.1));
    }
    let own = NodeName::new("node-a").expect("a good name");
    let mut reversed = entries.clone();
    reversed.reverse();
    let store = Store::build(&own, entries, notices.clone());
    let again = Store::build(&own, reversed, notices);
    assert!(store.nodes().eq(again.nodes()) && store.pods().eq(again.pods()));
    assert_eq!(store.services(), again.services());
    check_store(&store);
    check_services(&store);
}

/// Whatever Services come to, no virtual address and no endpoint is of a class that is refused, and each address and
/// port leads to one of them.
fn check_services(store: &Store) {
    let config = Config::parse(NODE_FILE, Path::new("millrace.toml")).expect("a good node file");
    let mut compiler = ServiceCompiler::new(&config.services, HashKey::random(), 1);
    compiler.update(&ServiceInputs {
        services: store.services(),
        node: store.own_name(),
        zone: Some("a"),
        own_addresses: &[],
        uplink_addresses: &[],
        gateways: &[],
        node_addresses: &HashSet::new(),
        fail_safe_ports: &[22],
        listens: HostListens(&|_, _, _| Ok(false)),
        host_ports: &[],
        resolver: None,
    });
    let mut leading = HashSet::new();
    for entry in store.services().iter() {
        let claims = entry.record.claims().filter(|_| entry.record.is_programmed());
        for claim in claims.filter(|claim| !entry.lost.contains(claim)) {
            if let Claim::Vip { address, .. } = claim {
                assert_eq!(refused_address_class(address), None);
            }
            leading.insert(claim.to_string());
        }
    }
    assert!(
        compiler.table().len() <= 2 * leading.len(),
        "a node port leads once in each family"
    );
    for (_, frontend) in compiler.table().iter() {
        for backend in frontend.service.cluster.backends() {
            assert_eq!(refused_address_class(backend.address), None);
        }
        assert!(frontend.service.has_endpoints || frontend.service.cluster.backends().is_empty());
    }
    let _ = (
        compiler.rows(&ShowFilter::default()),
        compiler.warnings(),
        compiler.health_ports(),
    );
}

const NODE_FILE: &str =
    "[node]\nname = \"node-a\"\nmanifests = \"m\"\n[uplink]\ninterface = \"eth1\"\n[workers]\ncores = [0]\n";

fn check_store(store: &Store) {
    for notice in store.notices() {
        let line = notice.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(line.chars().count() < NOTICE_TOO_LONG);
    }
    let nodes: Vec<_> = store.nodes().collect();
    for (place, node) in nodes.iter().enumerate() {
        assert_eq!(check_subdomain(node.name.as_str()), Ok(()));
        for cidr in node.pod_cidrs() {
            assert_eq!((refused_class(cidr), cidr.trunc()), (None, cidr));
            let earlier = nodes[..place].iter().flat_map(|other| other.pod_cidrs());
            let mut overlap = earlier.filter(|other| other.contains(&cidr) || cidr.contains(other));
            assert_eq!(overlap.next(), None, "two nodes own the addresses of {cidr}");
        }
    }
    check_networks(store);
    for peer in [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| store.peers(family))
    {
        assert_ne!(&peer.node.name, store.own_name());
        assert_eq!(refused_address_class(peer.public_ip), None);
    }
    for pod in store.pods() {
        assert_eq!(store.pod(&pod.key), Some(pod));
        for address in pod.ips.iter().filter(|_| !pod.host_network) {
            assert_eq!(store.pod_by_ip(*address), Some(pod), "{address} is another's");
        }
    }
}

/// No two networks have one number, no two nodes give one address, and those that are routed to each other both say so and have
/// different ones.
fn check_networks(store: &Store) {
    let mut numbers = HashSet::new();
    for network in store.networks() {
        assert!(numbers.insert((network.vni, network.port)), "{}", network.key);
        let blocks: Vec<_> = network.node_blocks.values().flatten().collect();
        for (place, block) in blocks.iter().enumerate() {
            assert!(network.subnets.iter().any(|subnet| subnet.contains(*block)));
            let mut others = blocks[..place].iter();
            assert!(!others.any(|other| other.contains(*block) || block.contains(*other)));
        }
        for gateway in &network.gateways {
            assert!(network.subnet_of(*gateway).is_some());
        }
        let own = RouteTo::Network(network.key.clone());
        for to in store.routes_of(&network.key) {
            let named = network.routing().map(|routing| &routing.routes_to);
            assert!(named.is_some_and(|named| named.contains(to)));
            let RouteTo::Network(other) = to else { continue };
            assert!(store.routes_of(other).contains(&own));
            let other = store.second_network(other).expect("a network that is routed to");
            let mut pairs = network
                .subnets
                .iter()
                .flat_map(|one| other.subnets.iter().map(move |two| (one, two)));
            assert!(pairs.all(|(one, two)| !one.contains(two) && !two.contains(one)));
        }
    }
}

fn check_backend_data(text: &str) {
    let Ok(lease) = flannel::decode_backend_data(text) else {
        return;
    };
    let vni = lease.vni.unwrap_or(Vni::FLANNEL);
    let again = flannel::decode_backend_data(&flannel::encode_backend_data(vni, lease.vtep_mac));
    let again = again.expect("what is written can be read");
    assert_eq!((again.vni, again.vtep_mac), (Some(vni), lease.vtep_mac));
}

fn check_node_file(text: &str) {
    match Config::parse(text, Path::new("millrace.toml")) {
        Ok(config) => {
            assert_eq!(check_subdomain(config.node.name.as_str()), Ok(()));
            let mut cores = config.workers.cores.as_slice().to_vec();
            cores.sort_unstable();
            cores.dedup();
            assert!(!cores.is_empty() && cores.len() == config.workers.cores.as_slice().len());
            assert!(config.workers.frames.get().is_power_of_two());
            assert_ne!(config.host_port.name.switch_side(), config.uplink.interface);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
