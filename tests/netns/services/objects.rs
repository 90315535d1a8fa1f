//! A set as Kubernetes objects, for the manifests folder.

use serde_json::{Value, json};

use crate::family::Family;
use crate::set::{Endpoint, Service, Set};

/// The Kubernetes namespace of every object.
pub(crate) const NAMESPACE: &str = "judged";

/// The objects of a set, one value after the other, as the folder reads `*.json`. The mark is a Service without
/// endpoints of its own by whose name the set is known once it is in force.
pub(crate) fn manifest(set: &Set, mark: &str) -> String {
    let mut objects = vec![marker(mark)];
    for service in &set.services {
        objects.push(service_object(service));
        for family in service.families.iter().copied() {
            objects.extend((0..2).filter_map(|number| slice_object(service, family, number)));
        }
    }
    let lines: Vec<String> = objects.iter().map(Value::to_string).collect();
    lines.join("\n")
}

/// An address of the Service CIDR that no set draws.
const MARK_ADDRESS: &str = "10.111.255.1";

fn marker(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"type": "ClusterIP", "clusterIP": MARK_ADDRESS, "clusterIPs": [MARK_ADDRESS],
                 "ports": [{"protocol": "TCP", "port": 1}]},
    })
}

fn policy(local: bool) -> &'static str {
    if local { "Local" } else { "Cluster" }
}

fn service_object(service: &Service) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            let mut value = json!({"name": port.name, "protocol": port.protocol.name(), "port": port.number,
                                   "targetPort": "served"});
            if let Some(number) = port.node_port {
                value["nodePort"] = json!(number);
            }
            value
        })
        .collect();
    let families = || service.families.iter().copied();
    let own: Vec<_> = families().map(|family| family.of(service.cluster_ip)).collect();
    let names: Vec<_> = families().map(Family::name).collect();
    let mut spec = json!({
        "type": service.kind.name(),
        "ipFamilies": names,
        "ipFamilyPolicy": if own.len() == 2 { "RequireDualStack" } else { "SingleStack" },
        "clusterIP": own[0], "clusterIPs": own,
        "internalTrafficPolicy": policy(service.internal_local),
        "sessionAffinity": if service.affinity { "ClientIP" } else { "None" },
        "ports": ports,
    });
    if service.is_external() {
        spec["externalTrafficPolicy"] = json!(policy(service.external_local));
    }
    if !service.external_ips.is_empty() {
        let all = service.external_ips.iter();
        let all = all.flat_map(|address| families().map(|family| family.of(*address)));
        spec["externalIPs"] = json!(all.collect::<Vec<_>>());
    }
    if !service.source_ranges.is_empty() {
        let ranges: Vec<String> = service
            .source_ranges
            .iter()
            .flat_map(|range| families().map(|family| family.range(*range)))
            .collect();
        spec["loadBalancerSourceRanges"] = json!(ranges);
    }
    let ingress: Vec<Value> = service
        .ingress
        .iter()
        .flat_map(|ingress| {
            let mode = if ingress.proxy { "Proxy" } else { "VIP" };
            families().map(move |family| json!({"ip": family.of(ingress.address), "ipMode": mode}))
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": service.name},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    })
}

/// One of the two EndpointSlices of a Service in a family, if it has anyone in it.
fn slice_object(service: &Service, family: Family, number: usize) -> Option<Value> {
    let members = service
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.slice == number);
    let endpoints: Vec<Value> = members
        .map(|endpoint| endpoint_object(endpoint, family))
        .collect();
    if endpoints.is_empty() {
        return None;
    }
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(
            |port| json!({"name": port.name, "protocol": port.protocol.name(), "port": port.targets[number]}),
        )
        .collect();
    Some(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": NAMESPACE, "name": format!("{}-{}-{number}", service.name, family.word()),
                     "labels": {"kubernetes.io/service-name": service.name}},
        "addressType": family.name(), "endpoints": endpoints, "ports": ports,
    }))
}

fn endpoint_object(endpoint: &Endpoint, family: Family) -> Value {
    let mut conditions = json!({});
    for (name, value) in [
        ("ready", endpoint.ready),
        ("serving", endpoint.serving),
        ("terminating", endpoint.terminating),
    ] {
        if let Some(value) = value {
            conditions[name] = json!(value);
        }
    }
    let mut object = json!({
        "addresses": [family.of(endpoint.place.address)],
        "conditions": conditions,
        "nodeName": endpoint.place.node,
    });
    let named = |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({"name": name})).collect() };
    let mut hints = json!({});
    if !endpoint.zones.is_empty() {
        hints["forZones"] = json!(named(&endpoint.zones));
    }
    if !endpoint.nodes.is_empty() {
        hints["forNodes"] = json!(named(&endpoint.nodes));
    }
    if hints != json!({}) {
        object["hints"] = hints;
    }
    object
}
