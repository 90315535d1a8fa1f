//! The demo's Services as Kubernetes objects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::demo::flows::Family;
use crate::lab::POD_NAMESPACE;
use crate::lab::plan::Families;

/// The ClusterIPs of the Service: one of the Service CIDR that kubeadm gives, one of `millrace-lab`'s for IPv6.
const CLUSTER_IPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 80)),
    IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x50)),
];
/// The addresses of the load balancer (RFC 5737 and RFC 3849, for documentation).
const LOAD_BALANCER_IPS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 80)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x80, 0, 0, 0, 0, 0x50)),
];
/// The Service's port for HTTP, and that for UDP.
pub(crate) const PORTS: [u16; 2] = [80, 7];
/// The same on every node's own addresses.
pub(crate) const NODE_PORTS: [u16; 2] = [30_080, 30_007];
/// The Service's name.
pub(crate) const SERVICE: &str = "web";

/// An address of a pod behind the Service: where it is, and where its two servers are.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    pub(crate) pod: String,
    pub(crate) node: String,
    pub(crate) http: SocketAddr,
    pub(crate) udp: SocketAddr,
}

/// The Service's addresses of a family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) cluster_ip: IpAddr,
    pub(crate) load_balancer_ip: IpAddr,
}

/// The Service's addresses in a lab of these families.
pub(crate) fn addresses(families: Families) -> Vec<Addresses> {
    let count = match families {
        Families::V4 => 1,
        Families::Dual => 2,
    };
    let all = CLUSTER_IPS.into_iter().zip(LOAD_BALANCER_IPS).take(count);
    all.map(|(cluster_ip, load_balancer_ip)| Addresses {
        cluster_ip,
        load_balancer_ip,
    })
    .collect()
}

/// The Service, which does not change.
pub(crate) fn service(families: Families) -> String {
    let all = addresses(families);
    let list = |text: fn(&Addresses) -> String| all.iter().map(text).collect::<Vec<_>>().join(", ");
    let names = list(|of| Family::of(of.cluster_ip).name().to_owned());
    let cluster_ips = list(|of| format!("{:?}", of.cluster_ip.to_string()));
    let ingress = list(|of| format!("{{ip: {:?}}}", of.load_balancer_ip.to_string()));
    let first = all
        .first()
        .map_or_else(String::new, |of| of.cluster_ip.to_string());
    let [http, udp] = PORTS;
    let [node_http, node_udp] = NODE_PORTS;
    format!(
        "apiVersion: v1\n\
         kind: Service\n\
         metadata: {{namespace: {POD_NAMESPACE}, name: {SERVICE}}}\n\
         spec:\n\
         \x20 type: LoadBalancer\n\
         \x20 ipFamilies: [{names}]\n\
         \x20 clusterIP: {first}\n\
         \x20 clusterIPs: [{cluster_ips}]\n\
         \x20 ports:\n\
         \x20 - {{name: http, protocol: TCP, port: {http}, nodePort: {node_http}, targetPort: http}}\n\
         \x20 - {{name: echo, protocol: UDP, port: {udp}, nodePort: {node_udp}, targetPort: echo}}\n\
         status:\n\
         \x20 loadBalancer: {{ingress: [{ingress}]}}\n"
    )
}

/// One EndpointSlice for each backend: its servers have ports of their own.
pub(crate) fn endpoint_slices<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> String {
    let slices = backends.into_iter().map(|backend| {
        let Backend { pod, node, http, udp } = backend;
        let family = Family::of(http.ip()).name();
        let suffix = family.to_lowercase();
        format!(
            "apiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\n\
             metadata:\n\
             \x20 namespace: {POD_NAMESPACE}\n\
             \x20 name: {SERVICE}-{pod}-{suffix}\n\
             \x20 labels: {{kubernetes.io/service-name: {SERVICE}}}\n\
             addressType: {family}\n\
             endpoints:\n\
             - {{addresses: [\"{address}\"], conditions: {{ready: true}}, nodeName: {node}}}\n\
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
