//! Health checks over HTTP: `/healthz` and `/livez` of this node, and the ports at which load balancers ask whether a
//! Service has an endpoint here.
//!
//! The same questions and answers as kube-proxy's, for the same load balancers
//! (<https://kubernetes.io/docs/reference/networking/virtual-ips/>, KEP-3836). The listeners run on the control thread:
//! if that hangs, nobody answers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::compile::services::HealthPort;

/// Connections at once, over all ports; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long a connection may take for its one request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long to wait before the next try when a connection cannot be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long after control's last sign of life the node counts as healthy: three of its rounds.
const SIGN_OF_LIFE: Duration = Duration::from_secs(30);

/// What is known of this node's health.
#[derive(Debug)]
struct Known {
    /// Control's last sign of life.
    alive_at: Instant,
    /// The same, for a person.
    updated: Timestamp,
    /// Whether the node is about to go.
    is_leaving: bool,
    /// By port.
    services: BTreeMap<u16, HealthPort>,
}

impl Known {
    fn is_alive(&self) -> bool {
        self.alive_at.elapsed() < SIGN_OF_LIFE
    }
}

/// The listeners, and what they answer.
#[derive(Debug)]
pub struct Health {
    known: Arc<Mutex<Known>>,
    connections: Arc<Semaphore>,
    /// By port.
    listeners: BTreeMap<u16, Listener>,
    failures: Vec<String>,
}

/// A listener that ends when it is dropped.
#[derive(Debug)]
struct Listener(JoinHandle<()>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a port is asked for.
#[derive(Debug, Clone, Copy)]
enum Question {
    /// The node's health.
    Node,
    /// A Service's endpoints here.
    Service(u16),
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Without a listener yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            known: Arc::new(Mutex::new(Known {
                alive_at: Instant::now(),
                updated: now(),
                is_leaving: false,
                services: BTreeMap::new(),
            })),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
            listeners: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Control's sign of life.
    pub fn beat(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.alive_at = Instant::now();
    }

    /// Brings listeners and answers up to date. `node_port` is the node's own port, 0 for none. Answers what is wrong
    /// now and was not before; a port that cannot be had is tried again at the next call.
    pub fn sync(&mut self, node_port: u16, services: &[HealthPort], is_leaving: bool) -> Vec<String> {
        let mut failures = Vec::new();
        let mut by_port = BTreeMap::new();
        for service in services {
            let other = match by_port.get(&service.port) {
                None if service.port != node_port => {
                    by_port.insert(service.port, service.clone());
                    continue;
                }
                None => "the node's own health checks".to_owned(),
                Some(HealthPort { service, .. }) => format!("Service {service}"),
            };
            failures.push(format!(
                "Service {}: spec.healthCheckNodePort {} is that of {other}",
                service.service, service.port
            ));
        }
        let node = (node_port != 0).then_some((node_port, Question::Node));
        let wanted: BTreeMap<u16, Question> = by_port
            .keys()
            .map(|port| (*port, Question::Service(*port)))
            .chain(node)
            .collect();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.services = by_port;
            known.is_leaving = is_leaving;
            known.alive_at = Instant::now();
            known.updated = now();
        }
        self.listeners.retain(|port, _| wanted.contains_key(port));
        for (port, question) in wanted {
            if self.listeners.contains_key(&port) {
                continue;
            }
            match self.listen(port, question) {
                Ok(listener) => {
                    self.listeners.insert(port, listener);
                }
                Err(error) => failures.push(format!(
                    "health checks: cannot listen on TCP port {port}: {error}"
                )),
            }
        }
        let new = failures.iter().filter(|failure| !self.failures.contains(failure));
        let new = new.cloned().collect();
        self.failures = failures;
        new
    }

    fn listen(&self, port: u16, question: Question) -> io::Result<Listener> {
        let socket = bind(port)?;
        let (known, connections) = (Arc::clone(&self.known), Arc::clone(&self.connections));
        Ok(Listener(tokio::spawn(serve(
            socket,
            question,
            known,
            connections,
        ))))
    }
}

/// Listens on every address of the node; of IPv4 alone where the kernel has no IPv6.
fn bind(port: u16) -> io::Result<TcpListener> {
    let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let socket = match std::net::TcpListener::bind(both) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?
        }
        bound => bound?,
    };
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

/// Takes connections until the task is aborted.
async fn serve(
    socket: TcpListener,
    question: Question,
    known: Arc<Mutex<Known>>,
    connections: Arc<Semaphore>,
) {
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok((stream, asker)) => {
                let known = Arc::clone(&known);
                tokio::spawn(async move {
                    // One that is slow, or says nonsense, is hung up on.
                    let _ = timeout(REQUEST_TIME, converse((stream, asker.ip()), question, known)).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(ACCEPT_RETRY).await,
        }
    }
}

/// Answers one request.
async fn converse(
    (stream, asker): (TcpStream, IpAddr),
    question: Question,
    known: Arc<Mutex<Known>>,
) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let response = answer(&request, (question, asker), &known);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(
    request: &Request<Incoming>,
    (question, asker): (Question, IpAddr),
    known: &Known,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return respond(
            StatusCode::METHOD_NOT_ALLOWED,
            &json!({ "error": "only GET is answered" }),
        );
    }
    match question {
        Question::Node => of_node(request.uri().path(), known),
        Question::Service(port) => match known.services.get(&port) {
            Some(service) => of_service(service, asker, known),
            None => respond(StatusCode::NOT_FOUND, &json!({ "error": "the Service is gone" })),
        },
    }
}

/// `/healthz` fails when the node is about to go, so that load balancers stop sending; `/livez` does not, so that
/// nobody restarts the switch for it.
fn of_node(path: &str, known: &Known) -> Response<Full<Bytes>> {
    let is_good = match path {
        "/healthz" => known.is_alive() && !known.is_leaving,
        "/livez" => known.is_alive(),
        _ => {
            return respond(
                StatusCode::NOT_FOUND,
                &json!({ "error": "there are /healthz and /livez" }),
            );
        }
    };
    respond(
        status(is_good),
        &json!({
            "lastUpdated": known.updated.to_string(),
            "currentTime": now().to_string(),
            "nodeEligible": !known.is_leaving,
        }),
    )
}

fn of_service(service: &HealthPort, asker: IpAddr, known: &Known) -> Response<Full<Bytes>> {
    let (is_alive, local_endpoints) = (known.is_alive(), service.local.told_to(asker));
    let mut response = respond(
        status(is_alive && local_endpoints > 0),
        &json!({
            "service": {
                "namespace": service.service.namespace(),
                "name": service.service.name(),
            },
            "localEndpoints": local_endpoints,
            "serviceProxyHealthy": is_alive,
        }),
    );
    response.headers_mut().insert(
        "x-load-balancing-endpoint-weight",
        HeaderValue::from(local_endpoints),
    );
    response
}

/// The moment, to the second.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn status(is_good: bool) -> StatusCode {
    if is_good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
