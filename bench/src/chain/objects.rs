//! The cluster as Kubernetes objects.

use std::fmt::Write as _;

use millrace_tools::lab::POD_NAMESPACE;

use super::cluster::{
    BACKENDS, Cluster, GROUPS, OPEN_PORTS, Policy, SERVICE_PORT, SHOP, Service, backend, own_ports,
};
use crate::arms::{Objects, PEER};

/// Objects in one file.
const PER_FILE: usize = 64;

/// All of them, for the switch's folder.
pub(super) fn objects(cluster: Cluster) -> Objects {
    let mut files = vec![
        ("namespaces.yaml".to_owned(), namespaces()),
        ("backends.yaml".to_owned(), backends()),
    ];
    let policies: Vec<String> = cluster.policies().map(policy).collect();
    let mut services: Vec<Service> = cluster.services().collect();
    services.sort_by(|one, other| one.name.cmp(&other.name));
    let services: Vec<String> = services.iter().map(service).collect();
    // Policies first: no pod is to call what they would not let it.
    for (kind, all) in [("policies", policies), ("services", services)] {
        for (number, some) in all.chunks(PER_FILE).enumerate() {
            files.push((format!("{kind}-{number:04}.yaml"), some.concat()));
        }
    }
    Objects {
        files,
        services: cluster.services as usize,
        policies: cluster.policies as usize,
    }
}

fn namespaces() -> String {
    [POD_NAMESPACE, SHOP]
        .map(|name| {
            format!(
                "---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{kubernetes.io/metadata.name: {name}}}}}}}\n"
            )
        })
        .concat()
}

fn backends() -> String {
    let mut text = String::new();
    for pod in 0..BACKENDS {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: backend-{pod}\n  namespace: {SHOP}\n  \
             labels: {{role: backend, group: group-{group}}}\nspec:\n  nodeName: {PEER}\n  \
             containers: [{{name: main, image: none}}]\nstatus: {{podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n",
            group = pod % GROUPS,
            ip = backend(pod),
        );
    }
    text
}

fn service(service: &Service) -> String {
    let Service {
        name,
        address,
        protocol,
        endpoints,
    } = service;
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{namespace: {SHOP}, name: {name}}}\nspec:\n  type: ClusterIP\n  \
         clusterIP: {address}\n  clusterIPs: [{address}]\n  ports:\n  \
         - {{name: main, protocol: {protocol}, port: {SERVICE_PORT}}}\n"
    );
    for (pod, port) in endpoints {
        // One slice for each: their ports may differ.
        let _ = write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  namespace: {SHOP}\n  \
             name: {name}-{pod}-{port}\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\n\
             ports: [{{name: main, protocol: {protocol}, port: {port}}}]\nendpoints:\n\
             - {{addresses: [{}], conditions: {{ready: true}}, nodeName: {PEER}}}\n",
            backend(*pod)
        );
    }
    text
}

fn policy(policy: Policy) -> String {
    let (first, last) = OPEN_PORTS;
    let peers = |group: u32| {
        format!(
            "[{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {SHOP}}}}}, podSelector: {{matchLabels: {{group: group-{group}}}}}}}]"
        )
    };
    let open = format!(
        "ports: [{{protocol: UDP, port: {first}, endPort: {last}}}, {{protocol: TCP, port: {first}, endPort: {last}}}]"
    );
    let (namespace, name, spec) = match policy {
        Policy::Backends => (
            POD_NAMESPACE,
            "backends".to_owned(),
            format!(
                "{{podSelector: {{}}, policyTypes: [Ingress, Egress], egress: [{{to: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {SHOP}}}}}, podSelector: {{matchLabels: {{role: backend}}}}}}], {open}}}]}}"
            ),
        ),
        Policy::Own { number, group } => {
            let (in_port, out_port) = own_ports(number);
            (
                POD_NAMESPACE,
                format!("own-{number}"),
                format!(
                    "{{podSelector: {{}}, policyTypes: [Ingress, Egress], ingress: [{{from: {from}, ports: [{{protocol: TCP, port: {in_port}}}]}}], egress: [{{to: {from}, ports: [{{protocol: TCP, port: {out_port}}}]}}]}}",
                    from = peers(group),
                ),
            )
        }
        Policy::Shop { number, group, from } => (
            SHOP,
            format!("shop-{number}"),
            format!(
                "{{podSelector: {{matchLabels: {{group: group-{group}}}}}, policyTypes: [Ingress], ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {POD_NAMESPACE}}}}}}}], {open}}}, {{from: {peers}, ports: [{{protocol: TCP, port: {port}}}]}}]}}",
                peers = peers(from),
                port = own_ports(number).0,
            ),
        ),
    };
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, namespace: {namespace}}}, spec: {spec}}}\n"
    )
}
