//! Services: called by each of their addresses from everywhere, and held while their endpoints change.

mod change;
mod objects;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use objects::{Addresses, Backend, NODE_PORTS, PORTS, SERVICE};

use super::checks::{Outcome, Protocol};
use super::flows::{self, Family, Row};
use crate::lab::plan::Families;
use crate::lab::traffic::{Download, HttpServer, UdpEcho, UdpExchange, download, udp_exchange};
use crate::lab::{Daemon, Guest, Lab, LabError, Namespace, Node, NodeKind, interrupt, wait_until};

/// Bytes of a download: enough to open the windows.
const DOWNLOAD: u32 = 8 << 20;
/// How long a download may take.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long objects may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(10);
/// The files of the objects, in the manifests folder.
const SERVICE_FILE: &str = "service-web.yaml";
const ENDPOINTS_FILE: &str = "endpoints-web.yaml";

/// The Service's servers, and who calls from outside.
pub(crate) struct Services<'lab> {
    lab: &'lab Lab,
    client: &'lab Guest,
    addresses: Vec<Addresses>,
    servers: Vec<Server>,
}

/// The two servers at an address of a pod.
struct Server {
    backend: Backend,
    _http: HttpServer,
    _udp: UdpEcho,
}

/// A call of the Service.
struct Call<'lab> {
    row: Row,
    label: String,
    from: &'lab Namespace,
    /// The Service's address, and its ports there for HTTP and UDP.
    address: IpAddr,
    ports: [u16; 2],
    mtu: u32,
}

/// The nodes that know of Services.
pub(crate) fn millrace(lab: &Lab) -> impl Iterator<Item = (&Node, &Daemon)> {
    let nodes = lab
        .nodes()
        .iter()
        .filter(|node| node.kind() == NodeKind::Millrace);
    nodes.filter_map(|node| Some((node, node.daemon()?)))
}

/// A node's underlay addresses, in the order of the Service's.
fn underlay_addresses(node: &Node) -> Vec<IpAddr> {
    let plan = node.plan();
    let v6 = plan.v6().map(|v6| v6.underlay_address().into());
    std::iter::once(plan.underlay_address().into())
        .chain(v6)
        .collect()
}

impl<'lab> Services<'lab> {
    /// Starts the servers in the first pod of each node, tells the nodes of the Service, and waits until they know it.
    pub(crate) fn set_up(lab: &'lab Lab, client: &'lab Guest) -> Result<Self, LabError> {
        let mut servers = Vec::new();
        for (node, pod) in lab
            .nodes()
            .iter()
            .filter_map(|node| Some((node, node.pods().first()?)))
        {
            for address in flows::addresses(pod) {
                let http = HttpServer::start(pod.namespace(), pod.name(), address)?;
                let udp = UdpEcho::start(pod.namespace(), address)?;
                let backend = Backend {
                    pod: pod.name().to_owned(),
                    node: node.name(),
                    http: http.address(),
                    udp: udp.address(),
                };
                servers.push(Server {
                    backend,
                    _http: http,
                    _udp: udp,
                });
            }
        }
        let families = match client.address_v6() {
            Some(_) => Families::Dual,
            None => Families::V4,
        };
        let addresses = objects::addresses(families);
        let services = Self {
            lab,
            client,
            addresses,
            servers,
        };
        services.route_outside()?;
        services.publish(|_| true)?;
        for (node, daemon) in millrace(lab) {
            daemon.write_manifest(SERVICE_FILE, &objects::service(families))?;
            wait_until(&format!("Service {SERVICE} on {}", node.name()), IN_FORCE, || {
                Ok(daemon.client_output(&["show", "services"])?.contains(SERVICE))
            })?;
        }
        Ok(services)
    }

    /// The first Millrace node announces the load balancer's addresses, as far as the client is concerned.
    fn route_outside(&self) -> Result<(), LabError> {
        let Some((node, _)) = millrace(self.lab).next() else {
            return Ok(());
        };
        for (addresses, via) in self.addresses.iter().zip(underlay_addresses(node)) {
            let (address, via) = (addresses.load_balancer_ip.to_string(), via.to_string());
            self.client
                .namespace()
                .ip(&["route", "add", &address, "via", &via])?;
        }
        Ok(())
    }

    /// The pods with servers, in their order.
    fn pods(&self) -> Vec<&str> {
        let mut pods: Vec<&str> = self
            .servers
            .iter()
            .map(|server| server.backend.pod.as_str())
            .collect();
        pods.dedup();
        pods
    }

    /// Tells every node which of the pods with servers are behind the Service, by their places.
    fn publish(&self, wanted: impl Fn(usize) -> bool) -> Result<(), LabError> {
        let pods = self.pods();
        let is_wanted = |pod: &str| pods.iter().position(|known| *known == pod).is_some_and(&wanted);
        let backends = self.servers.iter().map(|server| &server.backend);
        let chosen = backends.filter(|backend| is_wanted(&backend.pod));
        let text = objects::endpoint_slices(chosen);
        millrace(self.lab).try_for_each(|(_, daemon)| daemon.write_manifest(ENDPOINTS_FILE, &text))
    }

    /// Calls the Service from everywhere, by TCP and UDP, and holds connections while its endpoints change.
    ///
    /// # Errors
    /// Only [`LabError::Interrupted`] and what kept the endpoints from being changed.
    pub(crate) fn try_all(&self) -> Result<Vec<Outcome>, LabError> {
        let mut outcomes = Vec::new();
        for call in self.calls() {
            for (protocol, result) in [
                (Protocol::Udp, self.try_udp(&call)),
                (Protocol::Tcp, self.try_tcp(&call)),
            ] {
                interrupt::check()?;
                outcomes.push(Outcome {
                    row: call.row,
                    family: Family::of(call.address),
                    protocol,
                    label: call.label.clone(),
                    result,
                });
            }
        }
        outcomes.extend(change::try_held(self)?);
        Ok(outcomes)
    }

    fn calls(&self) -> Vec<Call<'lab>> {
        let mut calls = Vec::new();
        for (place, addresses) in self.addresses.iter().enumerate() {
            calls.extend(self.calls_at(place, addresses));
        }
        calls
    }

    /// The calls of one family, which is at this place among a node's underlay addresses.
    fn calls_at(&self, place: usize, addresses: &Addresses) -> Vec<Call<'lab>> {
        let Addresses {
            cluster_ip,
            load_balancer_ip,
        } = *addresses;
        let mut calls = Vec::new();
        let (client, underlay) = (self.client.namespace(), self.lab.switch().wire().mtu);
        for (node, _) in millrace(self.lab) {
            let mtu = node.pod_mtu();
            let inside = |row, name: &str, from: &'lab Namespace| Call {
                row,
                label: format!("{name} -> {cluster_ip}"),
                from,
                address: cluster_ip,
                ports: PORTS,
                mtu,
            };
            let pods = node.pods().iter();
            calls.extend(pods.map(|pod| inside(Row::PodToService, pod.name(), pod.namespace())));
            calls.push(inside(Row::NodeToService, &node.name(), node.namespace()));
            calls.extend(underlay_addresses(node).get(place).map(|address| Call {
                row: Row::NodePort,
                label: format!("outside -> {}", SocketAddr::new(*address, NODE_PORTS[0])),
                from: client,
                address: *address,
                ports: NODE_PORTS,
                mtu: mtu.min(underlay),
            }));
        }
        calls.push(Call {
            row: Row::LoadBalancer,
            label: format!("outside -> {load_balancer_ip}"),
            from: client,
            address: load_balancer_ip,
            ports: PORTS,
            mtu: self.lab.nodes().first().map_or(underlay, Node::pod_mtu),
        });
        calls
    }

    /// One download over a connection of its own, from whichever server the Service leads to.
    fn try_tcp(&self, call: &Call<'_>) -> Result<f64, String> {
        let what = Download {
            from: SocketAddr::new(call.address, call.ports[0]),
            size: DOWNLOAD,
            rate: None,
            timeout: DOWNLOAD_TIMEOUT,
        };
        let report = download(call.from, &what).map_err(|error| error.to_string())?;
        self.is_ours(&report.served_by)?;
        Ok(report.bits_per_second / 1e6)
    }

    /// Datagrams of all sizes, each echoed and compared.
    fn try_udp(&self, call: &Call<'_>) -> Result<f64, String> {
        let to = SocketAddr::new(call.address, call.ports[1]);
        let report = udp_exchange(call.from, to, &UdpExchange::up_to_at(call.address, call.mtu));
        let report = report.map_err(|error| error.to_string())?;
        if report.is_whole() {
            return Ok(report.bits_per_second / 1e6);
        }
        Err(format!(
            "of {} datagrams {} came back whole",
            report.sent, report.intact
        ))
    }

    fn is_ours(&self, served_by: &str) -> Result<(), String> {
        let known = self.servers.iter().any(|server| server.backend.pod == served_by);
        known
            .then_some(())
            .ok_or_else(|| format!("served by {served_by:?}, which is no endpoint"))
    }
}
