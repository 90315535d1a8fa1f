//! Name servers that are asked for what is not in the cluster's domain.
//!
//! Each question goes out from a port of its own to one server, and counts as answered only by that server, with the
//! same number and the same question. A server that turns out to ask the resolver itself is asked no more.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::{DATAGRAM_MAX_BYTES, Unanswered, name_asked_for};
use super::resolv::name_servers;
use crate::admin::protocol::DnsUpstreamRow;
use crate::config::{Dns, Upstream};

/// How long one server has for one try.
const TRY: Duration = Duration::from_millis(1500);
/// How often all of them are tried.
const ROUNDS: usize = 2;
/// How long a client is kept waiting at most; those of libc ask again after as long.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the file that names them is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Servers that are made use of, of a file that names more.
const SERVERS_MAX: usize = 8;
/// Longest answer that is read from a datagram, in bytes; it was told to send none so long.
const ANSWER_MAX_BYTES: usize = 4096;
/// The label under which a server is tried for loops.
const PROBE_LABEL: &str = "loop-probe";

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    at: SocketAddr,
    /// A name that nobody else asks for: if it is asked for here, the server asks the resolver.
    probe: Name,
    is_probed: AtomicBool,
    is_loop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Server {
    fn new(at: SocketAddr, domain: &Name) -> Self {
        // Numbers that are chosen by chance.
        let chance = [0; 4]
            .map(|_| format!("{:04x}", Message::query().metadata.id))
            .concat();
        let labels = [chance.as_bytes(), PROBE_LABEL.as_bytes()]
            .into_iter()
            .chain(domain.iter());
        Self {
            at,
            probe: Name::from_labels(labels).unwrap_or_else(|_| Name::root()),
            is_probed: AtomicBool::new(false),
            is_loop: AtomicBool::new(false),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }
}

/// The servers.
#[derive(Debug)]
pub(super) struct Upstreams {
    domain: Name,
    /// The resolver's own addresses.
    own: Vec<IpAddr>,
    /// The file that names them, if they are not fixed.
    file: Option<PathBuf>,
    known: Mutex<Known>,
    /// Which of them answered last.
    good: AtomicUsize,
}

#[derive(Debug, Default)]
struct Known {
    servers: Arc<[Arc<Server>]>,
    looked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
}

impl Upstreams {
    /// Those that the node file names, or those of the file that it names.
    pub(super) fn new(config: &Dns) -> Self {
        let mut domain = Name::from_ascii(config.domain.as_str()).unwrap_or_else(|_| Name::root());
        domain.set_fqdn(true);
        let fixed = config.upstreams.iter().flatten();
        let servers = fixed
            .map(|Upstream(at)| Arc::new(Server::new(*at, &domain)))
            .collect();
        Self {
            own: config.addresses.clone(),
            file: config.upstreams.is_none().then(|| config.resolv_conf.clone()),
            known: Mutex::new(Known {
                servers,
                ..Known::default()
            }),
            good: AtomicUsize::new(0),
            domain,
        }
    }

    /// The servers as they are now.
    fn servers(&self) -> Arc<[Arc<Server>]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file
            && known.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY)
        {
            known.looked = Some(Instant::now());
            let metadata = std::fs::metadata(file);
            let stamp = metadata
                .and_then(|metadata| Ok((metadata.modified()?, metadata.len())))
                .ok();
            if stamp.is_none() || stamp != known.stamp {
                // Without the file there is nobody to ask.
                let text = std::fs::read_to_string(file).unwrap_or_default();
                known.servers = self.named_in(&text, &known.servers);
                known.stamp = stamp;
            }
        }
        Arc::clone(&known.servers)
    }

    /// The servers that a file names; those that are known already stay the same.
    fn named_in(&self, text: &str, known: &[Arc<Server>]) -> Arc<[Arc<Server>]> {
        let named = name_servers(text).into_iter().filter(|address| {
            !self.own.contains(address) && !address.is_unspecified() && !address.is_multicast()
        });
        let servers = named.take(SERVERS_MAX).map(|address| {
            let Upstream(at) = Upstream::at(address);
            let old = known.iter().find(|server| server.at == at);
            old.map_or_else(|| Arc::new(Server::new(at, &self.domain)), Arc::clone)
        });
        servers.collect()
    }

    /// Notes what was asked for here. If it is a name that only a server was asked for, that one leads back here: its
    /// address, the first time.
    pub(super) fn hear(&self, query: &[u8]) -> Option<SocketAddr> {
        // Hardly any query has the word in it, and servers may write it in another case.
        let mut parts = query.windows(PROBE_LABEL.len());
        if !parts.any(|part| part.eq_ignore_ascii_case(PROBE_LABEL.as_bytes())) {
            return None;
        }
        let name = &name_asked_for(query)?;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let server = known.servers.iter().find(|server| server.probe == *name)?;
        (!server.is_loop.swap(true, Ordering::Relaxed)).then_some(server.at)
    }

    /// Asks the servers, first the one that answered last, and answers what the first one says that knows.
    pub(super) async fn ask(
        &self,
        question: &Query,
        metadata: &Metadata,
        edns: Option<bool>,
    ) -> Result<Message, Unanswered> {
        let servers = self.servers();
        let usable = || {
            servers
                .iter()
                .filter(|server| !server.is_loop.load(Ordering::Relaxed))
        };
        if usable().next().is_none() {
            return Err(Unanswered::Nobody);
        }
        for server in usable().filter(|server| !server.is_probed.swap(true, Ordering::Relaxed)) {
            tokio::spawn(probe(Arc::clone(server)));
        }
        let first = self.good.load(Ordering::Relaxed);
        let tries = async {
            let mut said = None;
            for place in (0..servers.len() * ROUNDS).map(|turn| (first + turn) % servers.len()) {
                let Some(server) = servers
                    .get(place)
                    .filter(|server| !server.is_loop.load(Ordering::Relaxed))
                else {
                    continue;
                };
                let asking = exchange(server.at, question, metadata, edns);
                match timeout(TRY, asking).await {
                    Ok(Ok(message)) if message.metadata.response_code != ResponseCode::ServFail => {
                        server.answered.fetch_add(1, Ordering::Relaxed);
                        self.good.store(place, Ordering::Relaxed);
                        return Some(message);
                    }
                    Ok(Ok(message)) => {
                        server.failed.fetch_add(1, Ordering::Relaxed);
                        said = Some(message);
                    }
                    Ok(Err(_)) | Err(_) => {
                        server.failed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
            said
        };
        timeout(PATIENCE, tries)
            .await
            .ok()
            .flatten()
            .ok_or(Unanswered::Failed)
    }

    /// What they are, for a person.
    pub(super) fn rows(&self) -> Vec<DnsUpstreamRow> {
        let servers = self.servers();
        let rows = servers.iter().map(|server| DnsUpstreamRow {
            address: Upstream(server.at).to_string(),
            answered: server.answered.load(Ordering::Relaxed),
            failed: server.failed.load(Ordering::Relaxed),
            is_loop: server.is_loop.load(Ordering::Relaxed),
        });
        rows.collect()
    }
}

/// Asks a server for the name that only it is asked for; what it answers does not matter.
async fn probe(server: Arc<Server>) {
    let question = Query::query(server.probe.clone(), RecordType::HINFO);
    let mut metadata = Metadata::new(0, MessageType::Query, OpCode::Query);
    metadata.recursion_desired = true;
    let _ = timeout(TRY, exchange(server.at, &question, &metadata, None)).await;
}

/// Asks a server by UDP, and by TCP if its answer does not fit a datagram.
async fn exchange(
    at: SocketAddr,
    question: &Query,
    metadata: &Metadata,
    edns: Option<bool>,
) -> io::Result<Message> {
    let mut message = Message::query();
    message.metadata.recursion_desired = metadata.recursion_desired;
    message.metadata.checking_disabled = metadata.checking_disabled;
    message.metadata.authentic_data = metadata.authentic_data;
    message.add_query(question.clone());
    if let Some(dnssec_ok) = edns {
        let mut own = Edns::new();
        own.set_max_payload(DATAGRAM_MAX_BYTES).set_dnssec_ok(dnssec_ok);
        message.set_edns(own);
    }
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let is_answer = |said: &Message| {
        said.metadata.message_type == MessageType::Response
            && said.metadata.id == message.metadata.id
            && said.queries == message.queries
    };
    let said = by_datagram(at, &bytes, is_answer).await?;
    if said.metadata.truncation {
        return by_stream(at, &bytes, is_answer).await;
    }
    Ok(said)
}

async fn by_datagram(
    at: SocketAddr,
    bytes: &[u8],
    is_answer: impl Fn(&Message) -> bool,
) -> io::Result<Message> {
    let any: IpAddr = match at {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The kernel chooses the port, and hands over what that server sends alone.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(at).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; ANSWER_MAX_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let said = Message::from_vec(buffer.get(..length).unwrap_or_default());
        // What is something else may be anyone's who knows the port; the answer may still come.
        if let Some(said) = said.ok().filter(&is_answer) {
            return Ok(said);
        }
    }
}

async fn by_stream(
    at: SocketAddr,
    bytes: &[u8],
    is_answer: impl Fn(&Message) -> bool,
) -> io::Result<Message> {
    let mut stream = TcpStream::connect(at).await?;
    stream.write_all(&framed(bytes)?).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let said = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if is_answer(&said) {
        return Ok(said);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "not the answer to the question",
    ))
}

/// A message as TCP has it: its length in front (RFC 1035, section 4.2.2).
pub(super) fn framed(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    Ok([&length.to_be_bytes(), bytes].concat())
}
