//! The resolver with its sockets, on loopback, and name servers made of a thread each.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, MessageType};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{RData, Record};
use tokio::sync::watch;

use super::super::server::Shared;
use super::*;
use crate::config::Upstream;

/// Longer than anything takes that is to come about at all.
const PATIENCE: Duration = Duration::from_secs(20);

/// A resolver, and who changes its objects.
struct Running {
    resolver: Resolver,
    at: SocketAddr,
    stores: watch::Sender<Arc<Store>>,
    config: Dns,
}

impl Running {
    fn start(config: Dns) -> Self {
        let (stores, receiver) = watch::channel(store(OBJECTS));
        loop {
            // A port that is free for both.
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let at = free.local_addr().unwrap();
            drop(free);
            let listen = Listen {
                at: vec![at],
                device: None,
            };
            match Resolver::start(&config, &service_cidrs(), listen, receiver.clone()) {
                Ok(resolver) => {
                    return Self {
                        resolver,
                        at,
                        stores,
                        config,
                    };
                }
                Err(DnsError::Listen { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn asking(upstreams: &[SocketAddr]) -> Self {
        Self::start(Dns {
            upstreams: Some(upstreams.iter().map(|at| Upstream(*at)).collect()),
            ..config()
        })
    }

    /// Asks by UDP.
    fn ask(&self, message: &Message) -> Message {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&message.to_vec().unwrap(), self.at).unwrap();
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).unwrap();
        let answer = Message::from_vec(&buffer[..length]).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }

    fn words(&self, asked: &str) -> String {
        words(&self.ask(&query(asked)))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn count(&self, name: &str) -> u64 {
        self.resolver.stats().read()[name]
    }
}

fn send(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, &bytes[..]].concat()).unwrap();
}

/// The next answer; `None` if the connection was closed.
fn receive(stream: &mut TcpStream) -> Option<Message> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).unwrap();
    Some(Message::from_vec(&bytes).unwrap())
}

/// A name server: what `answers` makes of each query is sent back, in order.
struct Upper {
    at: SocketAddr,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upper {
    fn start(answers: impl Fn(&Message) -> Vec<Message> + Send + 'static) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (at, ends) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                for answer in answers(&Message::from_vec(&buffer[..length]).unwrap()) {
                    socket.send_to(&answer.to_vec().unwrap(), client).unwrap();
                }
            }
        });
        Self {
            at,
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Upper {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// An answer with one address.
fn answer(asked: &Message) -> Message {
    let mut message = asked.clone();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    let name = asked.queries[0].name().clone();
    message.add_answer(Record::from_rdata(
        name,
        60,
        RData::A(A(Ipv4Addr::new(192, 0, 2, 80))),
    ));
    message
}

#[test]
fn other_names_are_asked_for_elsewhere_and_names_that_lead_there_too() {
    let upper = Upper::start(|asked| vec![answer(asked)]);
    let running = Running::asking(&[upper.at]);
    let got = running.ask(&query("A www.example.com"));
    assert_eq!(words(&got), "A 192.0.2.80");
    assert!(got.metadata.recursion_available && !got.metadata.authoritative);
    assert_eq!(
        running.words("A outside.default.svc.cluster.local"),
        "A 192.0.2.80, CNAME www.example.com."
    );
    assert_eq!(running.words("A web.default.svc.cluster.local"), "A 10.96.0.20");
    assert_eq!((running.count("forwarded"), running.count("answered")), (2, 3));
    let row = running.resolver.row(&running.config);
    assert_eq!((row.upstreams[0].answered, row.upstreams[0].is_loop), (2, false));
}

#[test]
fn without_anyone_to_ask_other_names_are_refused() {
    let running = Running::asking(&[]);
    assert_eq!(running.words("A www.example.com"), "REFUSED");
    assert_eq!(
        running.words("A outside.default.svc.cluster.local"),
        "CNAME www.example.com."
    );
    let file = tempfile::tempdir().unwrap();
    let running = Running::start(Dns {
        upstreams: None,
        resolv_conf: file.path().join("resolv.conf"),
        ..config()
    });
    assert_eq!(running.words("A www.example.com"), "REFUSED");
}

#[test]
fn the_next_one_is_asked_where_one_is_not_there_or_cannot_say() {
    // A port that nobody else gets, and that refuses all but its peer, which is itself.
    let unheard = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let closed = unheard.local_addr().unwrap();
    unheard.connect(closed).unwrap();
    let fails = Upper::start(|asked| {
        let mut message = answer(asked);
        message.answers.clear();
        message.metadata.response_code = ResponseCode::ServFail;
        vec![message]
    });
    let good = Upper::start(|asked| vec![answer(asked)]);
    let running = Running::asking(&[closed, fails.at, good.at]);
    assert_eq!(running.words("A www.example.com"), "A 192.0.2.80");
    // The one that knew is asked first from then on.
    assert_eq!(running.words("A www.example.org"), "A 192.0.2.80");
    let rows = running.resolver.row(&running.config).upstreams;
    let counted: Vec<_> = rows.iter().map(|row| (row.answered, row.failed)).collect();
    assert_eq!(counted, [(0, 1), (0, 1), (2, 0)]);
    let alone = Running::asking(&[fails.at]);
    assert_eq!(alone.words("A www.example.com"), "SERVFAIL");
    assert_eq!(
        alone.words("A outside.default.svc.cluster.local"),
        "CNAME www.example.com. SERVFAIL"
    );
    let nobody = Running::asking(&[closed]);
    assert_eq!(nobody.words("A www.example.com"), "SERVFAIL");
    assert_eq!(nobody.count("failed"), 1);
}

#[test]
fn only_the_answer_to_the_question_counts() {
    let upper = Upper::start(|asked| {
        let (mut number, mut question, mut no_answer) = (answer(asked), answer(asked), answer(asked));
        number.metadata.id = number.metadata.id.wrapping_add(1);
        question.queries = query("A www.example.net").queries;
        no_answer.metadata.message_type = MessageType::Query;
        for wrong in [&mut number, &mut question, &mut no_answer] {
            wrong.answers[0].data = RData::A(A(Ipv4Addr::new(203, 0, 113, 66)));
        }
        vec![number, question, no_answer, answer(asked)]
    });
    assert_eq!(
        Running::asking(&[upper.at]).words("A www.example.com"),
        "A 192.0.2.80"
    );
}

#[test]
fn what_does_not_fit_a_datagram_is_asked_for_by_tcp() {
    let upper = Upper::start(|asked| {
        let mut message = answer(asked);
        message.answers.clear();
        message.metadata.truncation = true;
        vec![message]
    });
    let by_stream = TcpListener::bind(upper.at).unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = by_stream.accept().unwrap();
        let asked = receive(&mut stream).unwrap();
        let mut message = answer(&asked);
        let one = message.answers[0].clone();
        message.answers.resize(40, one);
        send(&mut stream, &message);
    });
    let running = Running::asking(&[upper.at]);
    let mut asked = query("A www.example.com");
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    asked.set_edns(edns);
    let got = running.ask(&asked);
    assert_eq!((got.answers.len(), got.metadata.truncation), (40, false));
    server.join().unwrap();
}

#[test]
fn a_name_server_that_asks_back_is_asked_no_more() {
    // Filled in once the resolver is there: what it is asked it asks the resolver, as a stub on the node would.
    let back: Arc<std::sync::OnceLock<SocketAddr>> = Arc::default();
    let to = Arc::clone(&back);
    let stub = Upper::start(move |asked| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
            .send_to(&asked.to_vec().unwrap(), to.get().unwrap())
            .unwrap();
        let mut buffer = [0; 4096];
        let got = socket.recv(&mut buffer);
        got.map(|length| Message::from_vec(&buffer[..length]).unwrap())
            .into_iter()
            .collect()
    });
    let running = Running::asking(&[stub.at]);
    back.set(running.at).unwrap();
    // The first is lost in the loop; which of both queries the stub sees first is left to chance.
    let _ = running.words("A www.example.com");
    let begin = Instant::now();
    while running.count("upstream_loops") == 0 {
        assert!(begin.elapsed() < PATIENCE, "no loop was found");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(running.words("A www.example.org"), "REFUSED");
    assert!(running.resolver.row(&running.config).upstreams[0].is_loop);
}

#[test]
fn a_connection_may_ask_again_and_nonsense_ends_it() {
    let running = Running::asking(&[]);
    let mut stream = running.connect();
    let (first, second) = (
        query("A web.default.svc.cluster.local"),
        query("A db.shop.svc.cluster.local"),
    );
    send(&mut stream, &first);
    send(&mut stream, &second);
    assert_eq!(receive(&mut stream).unwrap().metadata.id, first.metadata.id);
    assert_eq!(
        words(&receive(&mut stream).unwrap()),
        "A 10.244.1.5, A 10.244.2.7"
    );
    stream.write_all(&u16::MAX.to_be_bytes()).unwrap();
    assert!(receive(&mut stream).is_none());
    let mut stream = running.connect();
    send(&mut stream, &answer(&first));
    assert!(receive(&mut stream).is_none());
    assert_eq!(running.count("queries_tcp"), 3);
}

#[test]
fn connections_and_rates_are_bounded() {
    let running = Running::start(Dns {
        queries_per_second: crate::config::Ranged::of::<1>(),
        ..config()
    });
    let mut stream = running.connect();
    let asked = query("A web.default.svc.cluster.local");
    let mut answered = 0;
    // One a second; two more at once are one too many, however slow this machine is within a second.
    for _ in 0..50 {
        send(&mut stream, &asked);
        if receive(&mut stream).is_none() {
            stream = running.connect();
        } else {
            answered += 1;
        }
        if running.count("over_rate") > 0 && answered > 0 {
            break;
        }
    }
    assert!(answered > 0 && running.count("over_rate") > 0);

    let shared = Shared::new(&config(), &service_cidrs(), &store(OBJECTS));
    let client = |number: u32| std::net::IpAddr::from(Ipv4Addr::from_bits(number));
    assert_eq!((0..40).filter(|_| shared.admit(client(1))).count(), 16);
    assert!(shared.admit(client(2)));
    shared.leave(client(1));
    assert!(shared.admit(client(1)) && !shared.admit(client(1)));
    let others = (10..40).flat_map(|number| std::iter::repeat_n(client(number), 16));
    assert_eq!(others.filter(|client| shared.admit(*client)).count(), 256 - 17);
}

#[test]
fn newer_objects_are_answered_from_as_they_come() {
    let running = Running::asking(&[]);
    assert_eq!(running.words("A new.default.svc.cluster.local"), "NXDOMAIN");
    let object = "apiVersion: v1\nkind: Service\nmetadata: {name: new}\nspec: {clusterIP: 10.96.7.7, ports: [{port: 1}]}\n";
    running.stores.send_replace(store(object));
    let begin = Instant::now();
    while running.words("A new.default.svc.cluster.local") != "A 10.96.7.7" {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(running.words("A web.default.svc.cluster.local"), "NXDOMAIN");
    assert_eq!(running.resolver.row(&running.config).services, 1);
}

#[test]
fn a_socket_that_cannot_be_had_is_named() {
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = taken.local_addr().unwrap();
    let (_stores, receiver) = watch::channel(store(OBJECTS));
    let listen = Listen {
        at: vec![at],
        device: None,
    };
    let error = Resolver::start(&config(), &service_cidrs(), listen, receiver)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&at.to_string()) && error.contains("[dns] port"),
        "{error}"
    );
}
