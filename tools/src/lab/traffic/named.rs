//! Who answers: a server that says its name in all that it answers, over TCP and by datagrams of any size, so that two at the same
//! address, in networks that know nothing of each other, are told apart.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::LabError;

/// Bytes at the head of an answer: the server's name, and zeros behind it. The rest is what was said.
const HEAD: usize = 32;
/// Bytes that are said over a connection: more than one segment, and less than both ends hold.
const STREAM: usize = 16 << 10;
/// Larger than any datagram.
const BUFFER: usize = 65_536;
/// How long a connection or an answer may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// The server's name over TCP.
    pub tcp: String,
    /// The server's name in a datagram.
    pub udp: String,
}

impl Answered {
    /// As a line of JSON.
    ///
    /// # Errors
    /// None that such an answer can cause.
    pub fn to_json(&self) -> Result<String, LabError> {
        serde_json::to_string(self).map_err(|error| Self::unreadable(&error))
    }

    /// Reads [`to_json`](Self::to_json)'s line.
    pub fn from_json(line: &str) -> Result<Self, LabError> {
        serde_json::from_str(line).map_err(|error| Self::unreadable(&error))
    }

    fn unreadable(error: &serde_json::Error) -> LabError {
        LabError::Output {
            command: "millrace-guest ask".to_owned(),
            problem: error.to_string(),
        }
    }
}

/// Answers with a name whatever comes to `at`, over TCP and UDP, for as long as the program lives.
///
/// # Errors
/// If the name has more bytes than fit, the address cannot be had, or a connection cannot be accepted.
pub fn answer(name: &str, at: SocketAddr) -> Result<(), LabError> {
    let action = || LabError::io(format!("answer as {name} on {at}"));
    let head = head(name).map_err(action())?;
    let listener = TcpListener::bind(at).map_err(action())?;
    let socket = UdpSocket::bind(at).map_err(action())?;
    thread::spawn(move || answer_datagrams(&socket, &head));
    for stream in listener.incoming() {
        let stream = stream.map_err(action())?;
        // A client that breaks off knows by itself what it misses.
        thread::spawn(move || answer_stream(stream, &head));
    }
    Ok(())
}

fn head(name: &str) -> io::Result<[u8; HEAD]> {
    let mut head = [0; HEAD];
    let place = head.get_mut(..name.len()).filter(|_| !name.is_empty());
    let place = place.ok_or_else(|| wrong(format!("{name:?} is no name of 1 to {HEAD} bytes")))?;
    place.copy_from_slice(name.as_bytes());
    Ok(head)
}

/// An error on one datagram (an ICMP error that came back, say) concerns that one alone.
fn answer_datagrams(socket: &UdpSocket, head: &[u8; HEAD]) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if let Some(datagram) = buffer.get_mut(..length)
            && let Some(place) = datagram.first_chunk_mut()
        {
            *place = *head;
            let _ = socket.send_to(datagram, from);
        }
    }
}

fn answer_stream(mut stream: TcpStream, head: &[u8; HEAD]) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0; HEAD])?;
    stream.write_all(head)?;
    let mut said = stream.try_clone()?;
    io::copy(&mut said, &mut stream).map(drop)
}

/// Asks who is at `to`, by a connection and by one datagram with `largest` bytes of payload. All that is said is `word` again and
/// again.
///
/// # Errors
/// No answer, or one that is not what was said behind a name.
pub fn ask(to: SocketAddr, word: &str, largest: usize) -> Result<Answered, LabError> {
    let action = |how: &str| LabError::io(format!("ask who is at {to} {how}"));
    let tcp = ask_by_stream(to, &saying(word, STREAM)).map_err(action("over TCP"))?;
    let how = format!("by a datagram of {largest} bytes");
    let udp = ask_by_datagram(to, &saying(word, largest)).map_err(action(&how))?;
    Ok(Answered { tcp, udp })
}

fn saying(word: &str, bytes: usize) -> Vec<u8> {
    word.bytes().cycle().take(bytes).collect()
}

fn ask_by_stream(to: SocketAddr, said: &[u8]) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(said)?;
    stream.shutdown(Shutdown::Write)?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    name_in(&heard, said)
}

fn ask_by_datagram(to: SocketAddr, said: &[u8]) -> io::Result<String> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(said)?;
    let mut heard = vec![0; BUFFER];
    let length = socket.recv(&mut heard)?;
    heard.truncate(length);
    name_in(&heard, said)
}

/// The name in an answer to what was said.
fn name_in(heard: &[u8], said: &[u8]) -> io::Result<String> {
    let (head, rest) = heard.split_at_checked(HEAD).unwrap_or_default();
    if Some(rest) != said.get(HEAD..) {
        return Err(wrong(format!(
            "{} bytes came back for {}, or others than were said",
            heard.len(),
            said.len()
        )));
    }
    let name = head.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

fn wrong(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn two_servers_are_told_apart_by_what_they_answer() {
        for name in ["pod-b1", "vm7"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let (by_tcp, by_udp) = (listener.local_addr().unwrap(), socket.local_addr().unwrap());
            let head = head(name).unwrap();
            thread::spawn(move || answer_datagrams(&socket, &head));
            let serving = thread::spawn(move || answer_stream(listener.accept().unwrap().0, &head));
            assert_eq!(ask_by_stream(by_tcp, &saying("word", STREAM)).unwrap(), name);
            serving.join().unwrap().unwrap();
            assert_eq!(ask_by_datagram(by_udp, &saying("word", 1422)).unwrap(), name);
        }
    }

    #[test]
    fn an_answer_that_is_not_what_was_said_is_none() {
        let said = saying("word", 64);
        let answered = [&head("vm7").unwrap()[..], &said[HEAD..]].concat();
        assert_eq!(name_in(&answered, &said).unwrap(), "vm7");
        for wrong in [&answered[..63], &[&answered[..63], b"!"].concat(), &[]] {
            assert!(name_in(wrong, &said).is_err(), "{wrong:?}");
        }
        for name in ["", "a name that does not fit into the head"] {
            assert!(head(name).is_err(), "{name}");
        }
    }
}
