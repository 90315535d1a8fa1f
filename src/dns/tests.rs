//! Queries in, answers out, as the Kubernetes DNS specification 1.1.0 has them; the sections are named beside the rows.

mod elsewhere;
mod messages;
mod names;

use std::path::Path;
use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;

use super::message::{Taken, Transport, take};
use super::zone::Zone;
use super::*;
use crate::objects::manifests::{self, Syntax};
use crate::objects::{Entry, NodeName};

/// A cluster with a Service of every kind.
const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: empty}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIPs: [10.96.0.20, 'fd96::20']
  ports: [{name: http, port: 80}, {name: quic, port: 443, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: only-v4}
spec: {clusterIP: 10.96.0.21, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: node-port}
spec: {type: NodePort, clusterIP: 10.96.0.22, ports: [{name: http, port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, clusterIP: 10.96.0.23, ports: [{name: http, port: 80}]}
status: {loadBalancer: {ingress: [{ip: 198.51.100.7}]}}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-4, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints:
- {addresses: [10.244.1.5], hostname: db-0}
- {addresses: [10.244.2.6], hostname: db-1, conditions: {ready: false}}
- {addresses: [10.244.2.7]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-6, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv6
ports: [{name: sql, port: 5432}]
endpoints:
- {addresses: ['fd00:1::5'], hostname: db-0}
---
apiVersion: v1
kind: Service
metadata: {name: peers, namespace: shop}
spec: {clusterIP: None, publishNotReadyAddresses: true}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: peers, namespace: shop, labels: {kubernetes.io/service-name: peers}}
addressType: IPv4
ports: [{name: gossip, port: 7946, protocol: UDP}]
endpoints: [{addresses: [10.244.2.6], hostname: db-1, conditions: {ready: false}}]
---
apiVersion: v1
kind: Service
metadata: {name: unready, namespace: shop}
spec: {clusterIP: None, ports: [{name: x, port: 1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: unready, namespace: shop, labels: {kubernetes.io/service-name: unready}}
addressType: IPv4
ports: [{name: x, port: 1}]
endpoints: [{addresses: [10.244.2.8], conditions: {ready: false}}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: www.example.com}
---
apiVersion: v1
kind: Service
metadata: {name: inside}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: nowhere}
spec: {type: ExternalName, externalName: none.default.svc.cluster.local.}
---
apiVersion: v1
kind: Service
metadata: {name: round}
spec: {type: ExternalName, externalName: about.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: about}
spec: {type: ExternalName, externalName: round.default.svc.cluster.local}
---
apiVersion: v1
kind: Pod
metadata: {name: lonely, namespace: pods}
spec: {nodeName: node-a, containers: [{name: main, image: none}]}
status: {podIP: 10.244.1.9}
---
apiVersion: v1
kind: Node
metadata: {name: node-a}
spec: {podCIDR: 10.244.1.0/24}
";

/// The store of these objects.
fn store(objects: &str) -> Arc<Store> {
    let found = manifests::read(Path::new("objects.yaml"), Syntax::Yaml, objects.as_bytes());
    let entries = found.into_iter().map(|found| {
        let object = found.object.unwrap_or_else(|fault| panic!("{fault:?}"));
        Entry::read(found.origin, &object)
            .unwrap_or_else(|fault| panic!("{fault}"))
            .0
    });
    Arc::new(Store::build(
        &NodeName::new("node-a").unwrap(),
        entries.collect(),
        Vec::new(),
    ))
}

/// Its resolver has addresses of both families, and nobody to ask.
fn config() -> Dns {
    Dns {
        addresses: vec!["10.96.0.10".parse().unwrap(), "fd96::a".parse().unwrap()],
        upstreams: Some(Vec::new()),
        ..Dns::default()
    }
}

fn service_cidrs() -> Vec<IpNet> {
    vec!["10.96.0.0/12".parse().unwrap(), "fd96::/108".parse().unwrap()]
}

fn zone() -> Zone {
    Zone::new(&config(), &service_cidrs(), &store(OBJECTS))
}

/// A query, from `KIND NAME`.
fn query(text: &str) -> Message {
    let (kind, name) = text.split_once(' ').unwrap();
    let kind: RecordType = kind.parse().unwrap();
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind));
    message
}

/// What is answered to a query, as bytes and read again; `None` if somebody else has to be asked.
fn ask(zone: &Zone, query: &Message, transport: Transport) -> Option<(Message, usize)> {
    let bytes = query.to_vec().unwrap();
    match take(&bytes, transport, zone, &DnsStats::default()) {
        Taken::Answered(bytes) => Some((Message::from_vec(&bytes).unwrap(), bytes.len())),
        Taken::Ask(_) => None,
        Taken::Ignored => panic!("{query:?} is ignored"),
    }
}

/// An answer in a row's words: `KIND DATA` for each record, `/` before what stands beside, or how it went without any.
fn words(message: &Message) -> String {
    let record = |record: &hickory_proto::rr::Record| format!("{} {}", record.record_type(), record.data);
    let mut answers: Vec<String> = message.answers.iter().map(record).collect();
    // Which of several addresses comes first is left to chance.
    answers.sort();
    let beside: Vec<String> = message.additionals.iter().map(record).collect();
    let mut text = answers.join(", ");
    if !beside.is_empty() {
        text = format!("{text} / {}", beside.join(", "));
    }
    let outcome = match message.metadata.response_code {
        ResponseCode::NoError if message.answers.is_empty() => "NODATA",
        ResponseCode::NoError => "",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::Refused => "REFUSED",
        other => panic!("{other}"),
    };
    [text.as_str(), outcome].join(" ").trim().to_owned()
}
