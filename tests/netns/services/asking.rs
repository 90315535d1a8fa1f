//! Calls as they are made: all of a round at once, from inside the callers' namespaces, and what becomes of each.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, connect, ipproto, recv, socket_with, sockopt,
};

use crate::calls::Call;
use crate::family::Family;
use crate::places::CALLERS;
use crate::server::Heard;
use crate::set::Protocol;
use crate::stage::Stage;

/// When nothing has happened for so long, what is still open is silent.
pub(crate) const QUIET: Duration = Duration::from_millis(200);
/// The same for a call that is repeated on its own: long enough for a SYN that is sent again.
pub(crate) const PATIENT: Duration = Duration::from_millis(1200);

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A server answered.
    Answered,
    /// A TCP reset.
    Reset,
    /// An ICMP "destination unreachable" with this code.
    Unreachable(u8),
    /// Nothing, or nothing that the client took for an answer.
    Silence,
    /// An established connection ended before it was answered.
    Broken,
    /// The caller's own kernel would not send.
    Unsent(Errno),
}

/// What became of a call, on both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    /// What a server heard of it. It may have, even if its answer never arrived.
    pub(crate) heard: Option<Heard>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}", self.ending)?;
        if let Some(Heard { at, port, source }) = self.heard {
            write!(out, ", {at}:{port} saw {source}")?;
        }
        Ok(())
    }
}

/// How far a call is.
enum State {
    /// TCP: no answer to the SYN yet.
    Connecting(OwnedFd),
    /// TCP: the request is sent.
    Asked(TcpStream),
    /// UDP: the request is sent.
    Sent(UdpSocket),
    /// It is over; a connection that was answered stays open.
    Over(Ending, Option<TcpStream>),
}

impl State {
    /// What to wait for.
    fn watched(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match self {
            Self::Connecting(socket) => Some((socket.as_fd(), PollFlags::OUT)),
            Self::Asked(stream) => Some((stream.as_fd(), PollFlags::IN)),
            Self::Sent(socket) => Some((socket.as_fd(), PollFlags::IN)),
            Self::Over(..) => None,
        }
    }

    /// The next state, something having happened.
    fn step(self, call: &Call) -> Self {
        match self {
            Self::Connecting(socket) => match sockopt::socket_error(&socket) {
                Ok(Ok(())) => request(TcpStream::from(socket), call),
                Ok(Err(errno)) | Err(errno) => Self::Over(refusal(errno), None),
            },
            Self::Asked(stream) => listen(stream),
            Self::Sent(socket) => match socket.recv(&mut [0; 64]) {
                Ok(_) => Self::Over(Ending::Answered, None),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Self::Sent(socket),
                Err(error) => Self::Over(refusal(errno_of(&error)), None),
            },
            over @ Self::Over(..) => over,
        }
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// What an error on a socket tells. For UDP "refused" is an ICMP port unreachable; for TCP it may be one too, which the ear
/// for ICMP knows. A packet that a rule drops on its way out of the caller's own node is "not permitted".
fn refusal(errno: Errno) -> Ending {
    match errno {
        Errno::CONNREFUSED | Errno::CONNRESET => Ending::Reset,
        Errno::PERM | Errno::TIMEDOUT => Ending::Silence,
        Errno::HOSTUNREACH => Ending::Unreachable(1),
        Errno::NETUNREACH => Ending::Unreachable(0),
        Errno::ACCESS => Ending::Unreachable(13),
        other => Ending::Unsent(other),
    }
}

/// Sends the request on a connection.
fn request(mut stream: TcpStream, call: &Call) -> State {
    match stream.write_all(&call.source_port.to_be_bytes()) {
        Ok(()) => State::Asked(stream),
        Err(_) => State::Over(Ending::Broken, None),
    }
}

/// Takes the answer from a connection.
fn listen(mut stream: TcpStream) -> State {
    match stream.read(&mut [0; 64]) {
        Ok(length) if length > 0 => State::Over(Ending::Answered, Some(stream)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => State::Asked(stream),
        _ => State::Over(Ending::Broken, None),
    }
}

/// Connections that were answered and stay open, by the client's port.
pub(crate) type Held = BTreeMap<u16, (Call, TcpStream)>;

/// Makes calls and says what became of each, in their order, once nothing has happened for so long. Those to be held are added
/// to `held`.
pub(crate) fn ask(stage: &Stage, calls: &[Call], held: &mut Held, quiet: Duration) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; calls.len()];
    let rounds = calls.iter().map(|call| call.round).max().unwrap_or(0);
    for round in 0..=rounds {
        let of_round: Vec<usize> = (0..calls.len()).filter(|at| calls[*at].round == round).collect();
        let asked: Vec<&Call> = of_round.iter().map(|at| &calls[*at]).collect();
        let ears = Ears::open(stage);
        let states = start(stage, &asked);
        let states = follow(&asked, states, quiet);
        let errors = ears.close();
        for ((at, call), state) in of_round.into_iter().zip(asked).zip(states) {
            let (mut ending, stream) = match state {
                State::Over(ending, stream) => (ending, stream),
                _ => (Ending::Silence, None),
            };
            if let Some(code) = errors.get(&(call.protocol, call.source_port))
                && ending != Ending::Answered
            {
                ending = Ending::Unreachable(*code);
            }
            if let Some(stream) = stream.filter(|_| call.held) {
                held.insert(call.source_port, (call.clone(), stream));
            }
            let heard = stage.servers.heard(call.protocol, call.source_port);
            outcomes[at] = Some(Outcome { ending, heard });
        }
    }
    outcomes.into_iter().map(Option::unwrap).collect()
}

/// Asks again on every connection that was held, and lets go of them.
pub(crate) fn ask_again(stage: &Stage, held: Held) -> BTreeMap<u16, Outcome> {
    let (calls, streams): (Vec<Call>, Vec<TcpStream>) = held.into_values().unzip();
    let asked: Vec<&Call> = calls.iter().collect();
    let states = asked
        .iter()
        .zip(streams)
        .map(|(call, stream)| request(stream, call));
    let states = follow(&asked, states.collect(), QUIET);
    let outcomes = calls.iter().zip(states).map(|(call, state)| {
        let ending = match state {
            State::Over(ending, _) => ending,
            _ => Ending::Silence,
        };
        let heard = stage.servers.heard(call.protocol, call.source_port);
        (call.source_port, Outcome { ending, heard })
    });
    outcomes.collect()
}

/// Sends the first packet of each call.
fn start(stage: &Stage, calls: &[&Call]) -> Vec<State> {
    let mut states: Vec<Option<State>> = calls.iter().map(|_| None).collect();
    let mut namespaces: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, call) in calls.iter().enumerate() {
        namespaces.entry(call.caller.namespace()).or_default().push(at);
    }
    for (name, members) in namespaces {
        let begin = || -> Vec<(usize, State)> { members.iter().map(|at| (*at, begin(calls[*at]))).collect() };
        for (at, state) in stage.namespace(name).within(begin).unwrap() {
            states[at] = Some(state);
        }
    }
    states.into_iter().map(Option::unwrap).collect()
}

fn begin(call: &Call) -> State {
    let kind = match call.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let family = match call.family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let socket = socket_with(family, kind, flags, None).unwrap();
    sockopt::set_socket_reuseaddr(&socket, true).unwrap();
    let own = SocketAddr::new(call.family.of(call.caller.binds()), call.source_port);
    bind(&socket, &own).unwrap_or_else(|error| panic!("{call:?}: {error}"));
    match (connect(&socket, &call.family.at(call.to)), call.protocol) {
        (Ok(()), Protocol::Udp) => {
            let socket = UdpSocket::from(socket);
            match socket.send(&call.source_port.to_be_bytes()) {
                Ok(_) => State::Sent(socket),
                Err(error) => State::Over(refusal(errno_of(&error)), None),
            }
        }
        (Ok(()) | Err(Errno::INPROGRESS), Protocol::Tcp) => State::Connecting(socket),
        (Err(errno), _) => State::Over(refusal(errno), None),
    }
}

/// Follows calls until all are over, or nothing has happened for so long.
fn follow(calls: &[&Call], mut states: Vec<State>, quiet: Duration) -> Vec<State> {
    let mut last = Instant::now();
    loop {
        let left = quiet.saturating_sub(last.elapsed());
        let watched: Vec<(usize, _)> = states
            .iter()
            .enumerate()
            .filter_map(|(at, state)| Some((at, state.watched()?)))
            .collect();
        if left.is_zero() || watched.is_empty() {
            return states;
        }
        let mut polled: Vec<PollFd<'_>> = watched
            .iter()
            .map(|(_, (fd, flags))| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        // A signal only means another round.
        let _ = poll(&mut polled, Some(&Timespec::try_from(left).unwrap()));
        let ready: Vec<usize> = watched
            .iter()
            .zip(&polled)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|((at, _), _)| *at)
            .collect();
        for at in ready {
            let state = std::mem::replace(&mut states[at], State::Over(Ending::Silence, None));
            states[at] = state.step(calls[at]);
            last = Instant::now();
        }
    }
}

/// Raw sockets for ICMP, one of each family in each namespace that anyone calls from.
struct Ears(Vec<[OwnedFd; 2]>);

impl Ears {
    fn open(stage: &Stage) -> Self {
        let mut names: Vec<&str> = CALLERS.iter().map(|caller| caller.namespace()).collect();
        names.dedup();
        let open = || {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let kinds = [
                (AddressFamily::INET, ipproto::ICMP),
                (AddressFamily::INET6, ipproto::ICMPV6),
            ];
            kinds.map(|(family, kind)| socket_with(family, SocketType::RAW, flags, Some(kind)).unwrap())
        };
        Self(
            names
                .iter()
                .map(|name| stage.namespace(name).within(open).unwrap())
                .collect(),
        )
    }

    /// Which calls an ICMP error came back for, and its code.
    fn close(self) -> HashMap<(Protocol, u16), u8> {
        let mut errors = HashMap::new();
        let mut buffer = [0; 2048];
        for (ear, quoted) in self
            .0
            .iter()
            .flat_map(|[v4, v6]| [(v4, quoted_v4 as Quoted), (v6, quoted_v6)])
        {
            while let Ok((length, _)) = recv(ear, &mut buffer[..], RecvFlags::empty()) {
                errors.extend(quoted(&buffer[..length]));
            }
        }
        errors
    }
}

/// Whom an ICMP "destination unreachable" is about: protocol and source port of the quoted packet, and the code.
type Quoted = fn(&[u8]) -> Option<((Protocol, u16), u8)>;

/// The same of ICMPv6, which a raw socket hands over without the header of IPv6 before it (RFC 3542 section 3).
fn quoted_v6(message: &[u8]) -> Option<((Protocol, u16), u8)> {
    let (kind, code, quote) = (*message.first()?, *message.get(1)?, message.get(8..)?);
    let protocol = match quote.get(6)? {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    let source_port = u16::from_be_bytes(*quote.get(40..)?.first_chunk()?);
    (kind == 1).then_some(((protocol, source_port), code))
}

fn quoted_v4(packet: &[u8]) -> Option<((Protocol, u16), u8)> {
    let icmp = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
    let (kind, code, quote) = (*icmp.first()?, *icmp.get(1)?, icmp.get(8..)?);
    let ports = quote.get(usize::from(quote.first()? & 0xf) * 4..)?;
    let protocol = match quote.get(9)? {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    let source_port = u16::from_be_bytes(*ports.first_chunk()?);
    (kind == 3).then_some(((protocol, source_port), code))
}
