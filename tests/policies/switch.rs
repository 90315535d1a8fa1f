//! The switches of all nodes: real stores, compilers and classifiers, one of each per node.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use millrace::daemon::compile::policies::{LocalPort, PolicyCompiler, PolicyInputs};
use millrace::objects::{Entry, NodeName, Object, Origin, Store};
use millrace_dataplane::port::PortId;
use millrace_dataplane::table::policy::{Judgement, PolicyTable, Query};
use millrace_dataplane::table::{HashKey, SubjectId};
use millrace_dataplane::wire::IpProtocol;
use serde_json::Value;

use super::oracle::Sent;
use super::world::{NODES, node_addresses};

/// One switch for each node.
pub(crate) struct Switches(Vec<PolicyCompiler>);

/// The store of one node, from the objects as trees.
pub(crate) fn store(own: &str, objects: &[Value]) -> Store {
    let entries = objects.iter().enumerate().map(|(index, tree)| {
        let object = Object::from_tree(tree.clone()).unwrap_or_else(|fault| panic!("{fault:?}\n{tree}"));
        let origin = Origin::Document {
            file: PathBuf::from("objects.yaml"),
            document: index + 1,
            item: None,
            line: 1,
        };
        let (entry, faults) = Entry::read(origin, &object).unwrap_or_else(|fault| panic!("{fault}\n{tree}"));
        assert!(faults.is_empty(), "{faults:?}\n{tree}");
        entry
    });
    let store = Store::build(&NodeName::new(own).unwrap(), entries.collect(), Vec::new());
    let refused: Vec<_> = store.refusals().map(ToString::to_string).collect();
    assert!(refused.is_empty(), "{refused:?}");
    store
}

impl Switches {
    pub(crate) fn new() -> Self {
        Self(
            NODES
                .iter()
                .map(|_| PolicyCompiler::new(HashKey::from_words([1, 2, 3]), 1))
                .collect(),
        )
    }

    /// Brings all switches up to date.
    pub(crate) fn update(&mut self, objects: &[Value]) {
        for (name, compiler) in NODES.iter().zip(&mut self.0) {
            let store = store(name, objects);
            // A port keeps its number as long as its pod is there: by the pod's last byte.
            let port = |pod: &millrace::objects::PodRecord| {
                let IpAddr::V4(v4) = pod.ips[0] else {
                    panic!("{pod:?}")
                };
                LocalPort {
                    id: PortId::new(u16::from(v4.octets()[3])).unwrap(),
                    pod: pod.key.clone(),
                    addresses: pod.ips.clone(),
                }
            };
            let ports: Vec<LocalPort> = store.own_pods().map(port).collect();
            compiler.update(&PolicyInputs {
                store: &store,
                ports: &ports,
                node_addresses: &node_addresses(name),
            });
            assert!(compiler.warnings().is_empty(), "{:?}", compiler.warnings());
        }
    }

    /// Each node's policies, and what of them has changed since this was last asked.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (Arc<PolicyTable>, HashSet<SubjectId>)> {
        let each = self.0.iter_mut();
        each.map(|compiler| (Arc::clone(compiler.table()), compiler.take_changes()))
    }

    /// What the switches of both ends say: a packet has to pass both.
    pub(crate) fn judge(&self, from: IpAddr, to: IpAddr, sent: Sent<'_>) -> Vec<Judgement> {
        let query = query(from, to, sent);
        self.0
            .iter()
            .map(|compiler| compiler.table().judge(&query))
            .collect()
    }

    /// Whether a packet passes.
    pub(crate) fn is_allowed(&self, from: IpAddr, to: IpAddr, sent: Sent<'_>) -> bool {
        self.judge(from, to, sent)
            .iter()
            .all(|judgement| judgement.denied().is_none())
    }
}

/// What is asked of a packet.
pub(crate) fn query(from: IpAddr, to: IpAddr, sent: Sent<'_>) -> Query {
    let protocol = match sent.protocol {
        "TCP" => IpProtocol::TCP,
        "UDP" => IpProtocol::UDP,
        "SCTP" => IpProtocol::SCTP,
        "ICMP" if from.is_ipv4() => IpProtocol::ICMP,
        "ICMP" => IpProtocol::ICMPV6,
        other => panic!("no protocol: {other}"),
    };
    Query {
        source: from,
        destination: to,
        protocol,
        port: sent.port,
    }
}
