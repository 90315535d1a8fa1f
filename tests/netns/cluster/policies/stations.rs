//! Pods and nodes that send everything to everyone, and what arrives of it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use millrace_tools::lab::Namespace;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, getpeername, ipproto, recv,
    sendto, socket_with,
};

/// The ports that are called.
pub(super) const PORTS: [u16; 2] = [80, 81];
/// From where UDP and SCTP are sent: the same connections all the time.
const SOURCE_PORT: u16 = 40_000;
/// How long is waited for what must not come.
const SILENCE: Duration = Duration::from_millis(300);
/// How often everyone looks for what has come.
const BEAT: Duration = Duration::from_millis(5);
/// Bytes of the IPv4 header that a raw socket is given, without options; of IPv6 it is given none.
const IPV4_LEN: usize = 20;

/// Who has reached whom: sender, receiver, protocol and port.
pub(super) type Reached = BTreeSet<(String, String, &'static str, u16)>;

/// Someone who sends, in one family; a pod answers as well.
pub(super) struct Station<'lab> {
    pub(super) name: String,
    /// The pod or node; it is a station in each family.
    pub(super) place: String,
    pub(super) address: IpAddr,
    namespace: &'lab Namespace,
    client: UdpSocket,
    /// SCTP is not in every kernel: whole packets are sent and received.
    sctp: OwnedFd,
    servers: Vec<UdpSocket>,
    listeners: Vec<TcpListener>,
}

/// One who is called by another.
type Call<'s, 'lab> = (&'s Station<'lab>, &'s Station<'lab>);

impl<'lab> Station<'lab> {
    /// A station that has `own` for its address in its own namespace and is known by `address`.
    pub(super) fn new(
        place: &str,
        namespace: &'lab Namespace,
        (own, address): (IpAddr, IpAddr),
        is_server: bool,
    ) -> Self {
        let ports: &[u16] = if is_server { &PORTS } else { &[] };
        let open = || {
            let client = udp(own, SOURCE_PORT);
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let sctp = socket_with(family(own), SocketType::RAW, flags, Some(ipproto::SCTP)).unwrap();
            let listeners = ports.iter().map(|port| {
                let listener = TcpListener::bind((own, *port)).unwrap();
                listener.set_nonblocking(true).unwrap();
                listener
            });
            let servers = ports.iter().map(|port| udp(own, *port));
            (client, sctp, servers.collect(), listeners.collect())
        };
        let (client, sctp, servers, listeners) = namespace.within(open).unwrap();
        Self {
            name: format!("{place} at {address}"),
            place: place.to_owned(),
            address,
            namespace,
            client,
            sctp,
            servers,
            listeners,
        }
    }

    /// Answers what has come to its servers: tells the mark of each who sent, and the port.
    fn serve(&self, round: u32) -> Vec<(u8, u16)> {
        let mut called = Vec::new();
        for (port, server) in PORTS.into_iter().zip(&self.servers) {
            while let Some((text, from)) = receive(server) {
                let _ = server.send_to(&text, from);
                called.extend(sender(&text, round).map(|mark| (mark, port)));
            }
        }
        for listener in &self.listeners {
            while listener.accept().is_ok() {}
        }
        called
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    }
}

fn udp(own: IpAddr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((own, port)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, std::net::SocketAddr)> {
    let mut text = [0; 64];
    loop {
        match socket.recv_from(&mut text) {
            Ok((len, from)) => return Some((text[..len].to_vec(), from)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            // An error about an earlier datagram.
            Err(_) => {}
        }
    }
}

/// What is sent: the round, and a mark of who sends it.
fn text(round: u32, mark: u8) -> Vec<u8> {
    [&round.to_be_bytes()[..], &[mark]].concat()
}

/// Who sent it, if it is of this round.
fn sender(text: &[u8], round: u32) -> Option<u8> {
    let mark = text.strip_prefix(&round.to_be_bytes()[..])?;
    mark.first().copied()
}

/// Sends everything that `calls` says, once. Answers what of UDP and SCTP arrived, and what of UDP and TCP was answered.
/// `round` tells it from what was sent before.
pub(super) fn observe(calls: &[Call<'_, '_>], round: u32) -> (Reached, Reached) {
    let mut stations: Vec<&Station<'_>> = calls.iter().flat_map(|(from, to)| [*from, *to]).collect();
    stations.sort_by_key(|station| station.address);
    stations.dedup_by_key(|station| station.address);
    let mut connections = Vec::new();
    for (mark, from) in (0..).zip(&stations) {
        let callees = calls
            .iter()
            .filter(|(caller, _)| caller.address == from.address)
            .map(|(_, to)| *to);
        let callees: Vec<&Station<'_>> = callees.collect();
        for (to, port) in callees.iter().flat_map(|to| PORTS.map(|port| (to, port))) {
            let at = SocketAddr::new(to.address, port);
            // What cannot be sent does not arrive.
            let _ = from.client.send_to(&text(round, mark), at);
            let at = SocketAddr::new(to.address, 0);
            let _ = sendto(&from.sctp, &init(port, round, mark), SendFlags::empty(), &at);
        }
        let ends = callees
            .iter()
            .flat_map(|to| PORTS.map(|port| (to.name.clone(), SocketAddr::new(to.address, port))));
        let ends: Vec<_> = ends.collect();
        let opened = from
            .namespace
            .within(|| ends.into_iter().map(|(name, at)| (name, at, begin(at))).collect());
        let opened: Vec<(String, SocketAddr, OwnedFd)> = opened.unwrap();
        connections.extend(
            opened
                .into_iter()
                .map(|connection| (from.name.clone(), connection)),
        );
    }
    let name = |address: IpAddr| {
        let station = stations.iter().find(|station| station.address == address);
        station.map(|station| station.name.clone())
    };
    let (mut arrived, mut answered) = (Reached::new(), Reached::new());
    let end = Instant::now() + SILENCE;
    while Instant::now() < end {
        for to in &stations {
            let mut note = |protocol, mark: u8, port| {
                let from = stations[usize::from(mark)].name.clone();
                arrived.insert((from, to.name.clone(), protocol, port));
            };
            for (mark, port) in to.serve(round) {
                note("UDP", mark, port);
            }
            while let Some((mark, port)) = received_sctp(to, round) {
                note("SCTP", mark, port);
            }
        }
        for from in &stations {
            while let Some((text, server)) = receive(&from.client) {
                if let Some(to) = name(server.ip()).filter(|_| sender(&text, round).is_some()) {
                    answered.insert((from.name.clone(), to, "UDP", server.port()));
                }
            }
        }
        sleep(BEAT);
    }
    for (from, (to, at, socket)) in &connections {
        if getpeername(socket).is_ok() {
            answered.insert((from.clone(), to.clone(), "TCP", at.port()));
        }
    }
    (arrived, answered)
}

/// A connection that is being opened.
fn begin(at: SocketAddr) -> OwnedFd {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family(at.ip()), SocketType::STREAM, flags, None).unwrap();
    // It is under way, or has failed, which shows later.
    let _ = connect(&socket, &at);
    socket
}

/// An SCTP packet with an INIT chunk (RFC 9260, section 3.3.2): its tag tells the round, its first byte of a TSN the sender.
fn init(port: u16, round: u32, mark: u8) -> Vec<u8> {
    let (source, destination) = (SOURCE_PORT.to_be_bytes(), port.to_be_bytes());
    let header = [&source[..], &destination[..], &[0; 8]].concat();
    let (window, streams) = ([0, 1, 0, 0], [0, 1, 0, 1]);
    let chunk = [
        &[1, 0, 0, 20][..],
        &round.to_be_bytes(),
        &window,
        &streams,
        &[mark, 0, 0, 1],
    ];
    [header, chunk.concat()].concat()
}

/// The mark of who sent the next packet of this round, and to which port.
fn received_sctp(station: &Station<'_>, round: u32) -> Option<(u8, u16)> {
    let header_len = if station.address.is_ipv4() { IPV4_LEN } else { 0 };
    let mut packet = [0; 128];
    loop {
        let (len, _) = recv(&station.sctp, &mut packet[..], RecvFlags::empty()).ok()?;
        let Some(sctp) = packet.get(header_len..len).filter(|sctp| sctp.len() == 32) else {
            continue;
        };
        if sctp[16..20] == round.to_be_bytes() {
            return Some((sctp[28], u16::from_be_bytes([sctp[2], sctp[3]])));
        }
    }
}
