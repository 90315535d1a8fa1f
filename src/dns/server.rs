//! Sockets: what comes by them is answered, within bounds.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::limit::Limits;
use super::message::{Pending, QUERY_MAX_BYTES, Taken, Transport, Unanswered, take};
use super::stats::{Count, DnsStats};
use super::upstream::{Upstreams, framed};
use super::zone::Zone;
use super::{DnsError, Listen};
use crate::config::Dns;
use crate::objects::Store;

/// Queries that may wait for name servers at once.
const ASKING_MAX: usize = 512;
/// TCP connections at once.
const CONNECTIONS_MAX: usize = 256;
/// Those of one client.
const CONNECTIONS_OF_CLIENT_MAX: usize = 16;
/// TCP connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 128;
/// How long a connection may be quiet, or take for a query or an answer.
const QUIET: Duration = Duration::from_secs(10);
/// How long to wait before the next try when a socket fails.
const RETRY: Duration = Duration::from_millis(100);

/// What all that is done has in common.
#[derive(Debug)]
pub(super) struct Shared {
    zone: RwLock<Zone>,
    pub(super) stats: DnsStats,
    pub(super) upstreams: Upstreams,
    limits: Mutex<Limits>,
    asking: Semaphore,
    /// Connections that are open, by client.
    connections: Mutex<HashMap<IpAddr, usize>>,
}

impl Shared {
    pub(super) fn new(config: &Dns, service_cidrs: &[IpNet], store: &Arc<Store>) -> Self {
        Self {
            zone: RwLock::new(Zone::new(config, service_cidrs, store)),
            stats: DnsStats::default(),
            upstreams: Upstreams::new(config),
            limits: Mutex::new(Limits::new(config.queries_per_second.get())),
            asking: Semaphore::new(ASKING_MAX),
            connections: Mutex::default(),
        }
    }

    /// How many Services there are names for.
    pub(super) fn services(&self) -> usize {
        self.zone
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .services()
    }

    /// What becomes of a client's bytes.
    fn take(&self, bytes: &[u8], client: IpAddr, transport: Transport) -> Taken {
        if !lock(&self.limits).take(client, Instant::now()) {
            self.stats.count(Count::OverRate);
            return Taken::Ignored;
        }
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        take(bytes, transport, &zone, &self.stats)
    }

    /// Has a name server asked, and answers with what it said.
    async fn ask(&self, pending: Pending) -> Vec<u8> {
        let Ok(_permit) = self.asking.try_acquire() else {
            self.stats.count(Count::Crowded);
            return pending.finish(Err(Unanswered::Failed), &self.stats);
        };
        let asking = self
            .upstreams
            .ask(&pending.question, pending.metadata(), pending.edns());
        let said = asking.await;
        if said != Err(Unanswered::Nobody) {
            self.stats.count(Count::Forwarded);
        }
        pending.finish(said, &self.stats)
    }

    /// Notes a name server that asks back for what it was asked.
    fn hear(&self, bytes: &[u8]) {
        if let Some(at) = self.upstreams.hear(bytes) {
            self.stats.count(Count::Loops);
            warn!(
                "[dns]: the name server {at} asks this resolver itself, and is asked no more: name others in [dns] upstreams, or another file in [dns] resolv-conf"
            );
        }
    }

    /// Takes a client's connection in, if there is room for one more.
    pub(super) fn admit(&self, client: IpAddr) -> bool {
        let mut connections = lock(&self.connections);
        let all: usize = connections.values().sum();
        let of_client = connections.entry(client).or_default();
        let has_room = all < CONNECTIONS_MAX && *of_client < CONNECTIONS_OF_CLIENT_MAX;
        *of_client += usize::from(has_room);
        if *of_client == 0 {
            connections.remove(&client);
        }
        has_room
    }

    /// Gives a connection's room back.
    pub(super) fn leave(&self, client: IpAddr) {
        let mut connections = lock(&self.connections);
        let left = connections.get_mut(&client).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 {
            connections.remove(&client);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread: listens, tells whether it does, and answers until it is `stopped` or there is no source of stores any more.
pub(super) fn run(
    shared: &Arc<Shared>,
    listen: &Listen,
    stores: watch::Receiver<Arc<Store>>,
    stopped: oneshot::Receiver<()>,
    ready: &SyncSender<Result<(), DnsError>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(DnsError::Thread(error)))),
    };
    runtime.block_on(async {
        let mut sockets = Vec::new();
        for at in &listen.at {
            match bind(*at, listen.device.as_deref()) {
                Ok(pair) => sockets.push(pair),
                Err(error) => {
                    let (at, device) = (
                        *at,
                        listen
                            .device
                            .clone()
                            .unwrap_or_else(|| "any interface".to_owned()),
                    );
                    return drop(ready.send(Err(DnsError::Listen { at, device, error })));
                }
            }
        }
        // The sockets are all that it took.
        crate::privileges::drop_all();
        for (datagrams, connections) in sockets {
            tokio::spawn(serve_datagrams(Arc::new(datagrams), Arc::clone(shared)));
            tokio::spawn(serve_connections(connections, Arc::clone(shared)));
        }
        // Whoever started the thread waits for this, so it is there to hear it.
        let _ = ready.send(Ok(()));
        tokio::select! {
            () = follow(stores, shared) => {}
            // The other end was dropped, which is the sign.
            _ = stopped => {}
        }
    });
}

/// Takes every newer store.
async fn follow(mut stores: watch::Receiver<Arc<Store>>, shared: &Shared) {
    while stores.changed().await.is_ok() {
        let store = Arc::clone(&stores.borrow_and_update());
        shared
            .zone
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .update(&store);
    }
}

/// A socket for datagrams and one for connections, at one address, which hear from one interface.
fn bind(at: SocketAddr, device: Option<&str>) -> io::Result<(UdpSocket, TcpListener)> {
    let device = device.map(str::as_bytes);
    let datagrams = std::net::UdpSocket::bind(at)?;
    datagrams.set_nonblocking(true)?;
    let datagrams = UdpSocket::from_std(datagrams)?;
    datagrams.bind_device(device)?;
    let connections = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    connections.set_reuseaddr(true)?;
    connections.bind_device(device)?;
    connections.bind(at)?;
    Ok((datagrams, connections.listen(BACKLOG)?))
}

/// Answers datagrams. What is known here is answered at once, in order; what is asked for elsewhere waits beside.
async fn serve_datagrams(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; QUERY_MAX_BYTES];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            sleep(RETRY).await;
            continue;
        };
        let bytes = buffer.get(..length).unwrap_or_default();
        shared.hear(bytes);
        match shared.take(bytes, client.ip(), Transport::Udp) {
            Taken::Ignored => {}
            // One that cannot be sent is one that was lost: the client asks again.
            Taken::Answered(answer) => drop(socket.send_to(&answer, client).await),
            Taken::Ask(pending) => {
                let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
                tokio::spawn(async move {
                    let answer = shared.ask(*pending).await;
                    let _ = socket.send_to(&answer, client).await;
                });
            }
        }
    }
}

/// Accepts connections.
async fn serve_connections(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((stream, client)) = listener.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        if !shared.admit(client.ip()) {
            shared.stats.count(Count::TurnedAway);
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // One that is slow, or says nonsense, is hung up on.
            let _ = converse(stream, client.ip(), &shared).await;
            shared.leave(client.ip());
        });
    }
}

/// Answers one query after the other (RFC 7766), until the client hangs up or is quiet.
async fn converse(mut stream: TcpStream, client: IpAddr, shared: &Shared) -> io::Result<()> {
    loop {
        let query = timeout(QUIET, read(&mut stream)).await??;
        let answer = match shared.take(&query, client, Transport::Tcp) {
            Taken::Ignored => return Ok(()),
            Taken::Answered(answer) => answer,
            Taken::Ask(pending) => shared.ask(*pending).await,
        };
        timeout(QUIET, stream.write_all(&framed(&answer)?)).await??;
    }
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > QUERY_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "no query is so long"));
    }
    let mut query = vec![0; length];
    stream.read_exact(&mut query).await?;
    Ok(query)
}
