//! The demo's Services as Kubernetes objects.

use std::net::{Ipv4Addr, SocketAddr};

use crate::lab::POD_NAMESPACE;

/// The ClusterIP of both Services' one address; of the Service CIDR that kubeadm gives.
pub(crate) const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 80);
/// The address of the load balancer (RFC 5737, for documentation).
pub(crate) const LOAD_BALANCER_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
/// The Service's port for HTTP, and that for UDP.
pub(crate) const PORTS: [u16; 2] = [80, 7];
/// The same on every node's own addresses.
pub(crate) const NODE_PORTS: [u16; 2] = [30_080, 30_007];
/// The Service's name.
pub(crate) const SERVICE: &str = "web";

/// A pod behind the Service: where it is, and where its two servers are.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) http: SocketAddr,
    pub(crate) udp: SocketAddr,
}

/// The Service, which does not change.
pub(crate) fn service() -> String {
    let [http, udp] = PORTS;
    let [node_http, node_udp] = NODE_PORTS;
    format!(
        "apiVersion: v1\n\
         kind: Service\n\
         metadata: {{namespace: {POD_NAMESPACE}, name: {SERVICE}}}\n\
         spec:\n\
         \x20 type: LoadBalancer\n\
         \x20 clusterIP: {CLUSTER_IP}\n\
         \x20 clusterIPs: [{CLUSTER_IP}]\n\
         \x20 ports:\n\
         \x20 - {{name: http, protocol: TCP, port: {http}, nodePort: {node_http}, targetPort: http}}\n\
         \x20 - {{name: echo, protocol: UDP, port: {udp}, nodePort: {node_udp}, targetPort: echo}}\n\
         status:\n\
         \x20 loadBalancer: {{ingress: [{{ip: {LOAD_BALANCER_IP}}}]}}\n"
    )
}

/// One EndpointSlice for each backend: its servers have ports of their own.
pub(crate) fn endpoint_slices<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> String {
    let slices = backends.into_iter().map(|backend| {
        let Backend { pod, node, http, udp } = backend;
        format!(
            "apiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\n\
             metadata:\n\
             \x20 namespace: {POD_NAMESPACE}\n\
             \x20 name: {SERVICE}-{pod}\n\
             \x20 labels: {{kubernetes.io/service-name: {SERVICE}}}\n\
             addressType: IPv4\n\
             endpoints:\n\
             - {{addresses: [{address}], conditions: {{ready: true}}, nodeName: {node}}}\n\
             ports:\n\
             - {{name: http, protocol: TCP, port: {http}}}\n\
             - {{name: echo, protocol: UDP, port: {udp}}}\n",
            address = http.ip(),
            http = http.port(),
            udp = udp.port(),
        )
    });
    slices.collect::<Vec<_>>().join("---\n")
}
