//! Services and source NAT between real sockets: pods of both nodes, the node itself, and a machine that is no node.

mod balancers;
mod endpoints;
mod failover;
mod ingress;
mod inside;
mod outside;
mod own;
mod portless;
mod restart;

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_tools::lab::traffic::tcp_connect;
use millrace_tools::lab::{Lab, Namespace, NodeKind, Topology, wait_until};

use crate::rig::{PATIENCE, daemon, lab};

/// How long one question may take before it is asked again.
const ONCE: Duration = Duration::from_millis(500);
/// How often a server looks whether it is to end.
const BEAT: Duration = Duration::from_millis(50);

/// Two Millrace nodes with two pods each.
fn millraces(name: &str) -> Lab {
    lab(name, &Topology::of(&[NodeKind::Millrace, NodeKind::Millrace]))
}

/// Gives both nodes an object.
pub(crate) fn declare(lab: &Lab, name: &str, text: &str) {
    for node in lab.nodes() {
        if let Some(daemon) = node.daemon() {
            daemon.write_manifest(&format!("{name}.yaml"), text).unwrap();
        }
    }
}

/// Waits until node-a has published what was declared: `show services` says so many endpoints of the Service.
pub(crate) fn await_endpoints(lab: &Lab, service: &str, count: usize) {
    for node in lab.nodes().iter().filter(|node| node.daemon().is_some()) {
        let name = node.name();
        wait_until(
            &format!("{count} endpoints of {service} on {name}"),
            PATIENCE,
            || {
                let rows = daemon(lab, &name).json(&["show", "services"])?;
                let rows = rows.as_array().cloned().unwrap_or_default();
                let row = rows
                    .iter()
                    .find(|row| row["service"] == format!("default/{service}"));
                let used = row.map_or(0, |row| {
                    let ports = row["ports"].as_array().unwrap().iter();
                    let endpoints = ports.map(|port| {
                        let endpoints = port["endpoints"].as_array().unwrap().iter();
                        endpoints.filter(|endpoint| endpoint["used"] == true).count()
                    });
                    endpoints.max().unwrap_or(0)
                });
                Ok(row.is_some() && used == count)
            },
        )
        .unwrap();
    }
}

/// A Service with a TCP and a UDP port 80, led to port 8080 of its pods.
struct Declared<'a> {
    name: &'a str,
    cluster_ip: &'a str,
    /// Lines of its spec beside those that every Service has.
    more: &'a str,
    /// Its pods' addresses and nodes.
    endpoints: &'a [(Ipv4Addr, &'a str)],
}

impl Declared<'_> {
    fn text(&self) -> String {
        let Self {
            name,
            cluster_ip,
            more,
            endpoints,
        } = self;
        let node_port = |protocol| {
            if more.contains("NodePort") || more.contains("LoadBalancer") {
                format!(", nodePort: {}", if protocol == "TCP" { 30080 } else { 30081 })
            } else {
                String::new()
            }
        };
        let endpoints: String = endpoints
            .iter()
            .map(|(address, node)| {
                format!("- {{addresses: [{address}], nodeName: {node}, conditions: {{ready: true}}}}\n")
            })
            .collect();
        let endpoints = if endpoints.is_empty() {
            "endpoints: []\n".to_owned()
        } else {
            format!("endpoints:\n{endpoints}")
        };
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  \
             clusterIP: {cluster_ip}\n  clusterIPs: [{cluster_ip}]\n{more}  ports:\n  \
             - {{name: tcp, protocol: TCP, port: 80, targetPort: 8080{}}}\n  \
             - {{name: udp, protocol: UDP, port: 80, targetPort: 8080{}}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports:\n- {{name: tcp, protocol: TCP, port: 8080}}\n\
             - {{name: udp, protocol: UDP, port: 8080}}\n{endpoints}",
            node_port("TCP"),
            node_port("UDP"),
        )
    }
}

/// Answers every caller with its own name and the caller's address, over UDP and TCP: `pod-a1 10.244.1.2:4000`. A TCP
/// connection is answered again for every line.
pub(crate) struct Server {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(namespace: &Namespace, name: &str, at: impl Into<SocketAddr>) -> Self {
        let at: SocketAddr = at.into();
        let (udp, tcp) = namespace
            .within(|| (UdpSocket::bind(at), TcpListener::bind(at)))
            .unwrap();
        let (udp, tcp) = (udp.unwrap(), tcp.unwrap());
        udp.set_read_timeout(Some(BEAT)).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let threads = vec![
            std::thread::spawn({
                let (over, name) = (Arc::clone(&over), name.to_owned());
                move || answer_datagrams(&udp, &name, &over)
            }),
            std::thread::spawn({
                let (over, name) = (Arc::clone(&over), name.to_owned());
                move || accept(&tcp, &name, &over)
            }),
        ];
        Self { over, threads }
    }

    /// In a pod, at the port that Services lead to.
    pub(crate) fn in_pod(lab: &Lab, pod: &str) -> Self {
        let at = SocketAddrV4::new(crate::rig::address(lab, pod), 8080);
        Self::start(crate::rig::pod(lab, pod), pod, at)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, name: &str, over: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        if let Ok((_, caller)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{name} {caller}").as_bytes(), caller);
        }
    }
}

fn accept(listener: &TcpListener, name: &str, over: &Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, caller)) => {
                let (over, answer) = (Arc::clone(over), format!("{name} {caller}\n"));
                std::thread::spawn(move || answer_lines(stream, &answer, &over));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(BEAT / 5),
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

fn answer_lines(mut stream: TcpStream, answer: &str, over: &AtomicBool) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(BEAT)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while !over.load(Ordering::Relaxed) {
        match reader.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {
                line.clear();
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

/// A client's end of a TCP connection to a [`Server`].
pub(crate) struct Call {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Call {
    pub(crate) fn open(from: &Namespace, to: impl Into<SocketAddr>) -> Self {
        let to: SocketAddr = to.into();
        let stream = tcp_connect(from, to, PATIENCE)
            .unwrap_or_else(|error| panic!("{} -> {to}: {error}", from.name()));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Self { stream, reader }
    }

    /// As [`Self::ask`], but not for longer than this.
    pub(crate) fn ask_within(&mut self, patience: Duration) -> std::io::Result<(String, SocketAddr)> {
        self.stream.set_read_timeout(Some(patience))?;
        let answer = self.ask();
        self.stream.set_read_timeout(Some(PATIENCE))?;
        answer
    }

    /// One question and its answer.
    pub(crate) fn ask(&mut self) -> std::io::Result<(String, SocketAddr)> {
        self.stream.write_all(b"who?\n")?;
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(understand(&line))
    }
}

/// Who answered, and whom it saw.
fn understand(answer: &str) -> (String, SocketAddr) {
    let (name, caller) = answer.trim().split_once(' ').unwrap();
    (name.to_owned(), caller.parse().unwrap())
}

/// Asks over TCP, once.
fn ask_tcp(from: &Namespace, to: SocketAddrV4) -> (String, SocketAddr) {
    Call::open(from, to).ask().unwrap()
}

/// Asks over UDP until somebody answers.
fn ask_udp(from: &Namespace, to: SocketAddrV4) -> (String, SocketAddr) {
    let socket = udp_socket(from, to);
    let began = Instant::now();
    loop {
        assert!(began.elapsed() < PATIENCE, "{} -> {to}: no answer", from.name());
        if let Some(answer) = try_udp(&socket) {
            return answer;
        }
    }
}

pub(crate) fn udp_socket(from: &Namespace, to: SocketAddrV4) -> UdpSocket {
    let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let socket = from
        .within(|| {
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            Ok::<_, std::io::Error>(socket)
        })
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(ONCE)).unwrap();
    socket
}

/// One datagram and its answer, if there is one in time.
pub(crate) fn try_udp(socket: &UdpSocket) -> Option<(String, SocketAddr)> {
    let mut buffer = [0; 2048];
    socket.send(b"who?").ok()?;
    let len = socket.recv(&mut buffer).ok()?;
    Some(understand(std::str::from_utf8(&buffer[..len]).unwrap()))
}

fn ipv4(caller: SocketAddr) -> Ipv4Addr {
    match caller {
        SocketAddr::V4(v4) => *v4.ip(),
        SocketAddr::V6(v6) => panic!("{v6}"),
    }
}
