//! Services: called by each of their addresses from everywhere, and held while their endpoints change.

mod change;
mod objects;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use objects::{Backend, CLUSTER_IP, LOAD_BALANCER_IP, NODE_PORTS, PORTS, SERVICE};

use super::checks::{Outcome, Protocol};
use super::flows::Row;
use crate::lab::traffic::{Download, HttpServer, UdpEcho, UdpExchange, download, udp_exchange};
use crate::lab::{Daemon, Lab, LabError, Namespace, Node, NodeKind, interrupt, wait_until};

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
    client: &'lab Namespace,
    servers: Vec<Server>,
}

/// A pod's two servers.
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
    address: Ipv4Addr,
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

impl<'lab> Services<'lab> {
    /// Starts the servers in the first pod of each node, tells the nodes of the Service, and waits until they know it.
    pub(crate) fn set_up(lab: &'lab Lab, client: &'lab Namespace) -> Result<Self, LabError> {
        let mut servers = Vec::new();
        for node in lab.nodes() {
            if let Some(pod) = node.pods().first() {
                let http = HttpServer::start(pod.namespace(), pod.name(), pod.address())?;
                let udp = UdpEcho::start(pod.namespace(), pod.address().into())?;
                let backend = Backend {
                    pod: pod.name().to_owned(),
                    node: node.name(),
                    http: http.address().into(),
                    udp: udp.address(),
                };
                servers.push(Server {
                    backend,
                    _http: http,
                    _udp: udp,
                });
            }
        }
        let services = Self { lab, client, servers };
        services.route_outside()?;
        services.publish(|_| true)?;
        for (node, daemon) in millrace(lab) {
            daemon.write_manifest(SERVICE_FILE, &objects::service())?;
            wait_until(&format!("Service {SERVICE} on {}", node.name()), IN_FORCE, || {
                Ok(daemon.client_output(&["show", "services"])?.contains(SERVICE))
            })?;
        }
        Ok(services)
    }

    /// The first Millrace node announces the load balancer's address, as far as the client is concerned.
    fn route_outside(&self) -> Result<(), LabError> {
        let Some((node, _)) = millrace(self.lab).next() else {
            return Ok(());
        };
        let (address, via) = (
            LOAD_BALANCER_IP.to_string(),
            node.plan().underlay_address().to_string(),
        );
        self.client.ip(&["route", "add", &address, "via", &via]).map(drop)
    }

    /// Tells every node which of the servers are behind the Service.
    fn publish(&self, wanted: impl Fn(usize) -> bool) -> Result<(), LabError> {
        let backends = self.servers.iter().enumerate();
        let chosen = backends
            .filter(|(place, _)| wanted(*place))
            .map(|(_, server)| &server.backend);
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
        let (client, underlay) = (self.client, self.lab.switch().wire().mtu);
        for (node, _) in millrace(self.lab) {
            let mtu = node.pod_mtu();
            let inside = |row, name: &str, from: &'lab Namespace| Call {
                row,
                label: format!("{name} -> {CLUSTER_IP}"),
                from,
                address: CLUSTER_IP,
                ports: PORTS,
                mtu,
            };
            let pods = node.pods().iter();
            calls.extend(pods.map(|pod| inside(Row::PodToService, pod.name(), pod.namespace())));
            calls.push(inside(Row::NodeToService, &node.name(), node.namespace()));
            let address = node.plan().underlay_address();
            calls.push(Call {
                row: Row::NodePort,
                label: format!("outside -> {address}:{}", NODE_PORTS[0]),
                from: client,
                address,
                ports: NODE_PORTS,
                mtu: mtu.min(underlay),
            });
        }
        calls.push(Call {
            row: Row::LoadBalancer,
            label: format!("outside -> {LOAD_BALANCER_IP}"),
            from: client,
            address: LOAD_BALANCER_IP,
            ports: PORTS,
            mtu: self.lab.nodes().first().map_or(underlay, Node::pod_mtu),
        });
        calls
    }

    /// One download over a connection of its own, from whichever server the Service leads to.
    fn try_tcp(&self, call: &Call<'_>) -> Result<f64, String> {
        let what = Download {
            from: SocketAddrV4::new(call.address, call.ports[0]),
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
        let to = SocketAddrV4::new(call.address, call.ports[1]);
        let report = udp_exchange(call.from, to.into(), &UdpExchange::up_to(call.mtu));
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
