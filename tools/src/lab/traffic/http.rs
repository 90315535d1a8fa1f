//! HTTP: a server in a pod, and `curl` as its client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::{LabError, Namespace};

/// How often a server looks whether it is to end, and for a new client.
const SERVER_BEAT: Duration = Duration::from_millis(5);
/// How long a client may take to ask, and to take what it asked for.
const CLIENT_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are written at once.
const BLOCK: usize = 64 << 10;
/// The largest request that is read, in bytes.
const REQUEST: usize = 4096;
/// The header that names the server.
const SERVED_BY: &str = "X-Served-By";
/// How long curl tries to connect, in seconds.
const CONNECT_TIMEOUT_S: &str = "3";

/// A web server in a namespace. `GET /N` answers with N bytes, and tells who served them. Dropping it ends it.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts a server called `name` on `address`, on a port of the kernel's choice.
    pub fn start(namespace: &Namespace, name: &str, address: IpAddr) -> Result<Self, LabError> {
        let action = || format!("serve HTTP on {address} in {}", namespace.name());
        let listen = || -> io::Result<(TcpListener, u16)> {
            let listener = TcpListener::bind((address, 0))?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        };
        let (listener, port) = namespace.within(listen)?.map_err(LabError::io(action()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, name) = (Arc::clone(&stop), name.to_owned());
        let thread = thread::Builder::new()
            .name("http".to_owned())
            .spawn(move || accept(&listener, &name, &seen));
        Ok(Self {
            address: SocketAddr::new(address, port),
            stop,
            thread: Some(thread.map_err(LabError::io("start a thread"))?),
        })
    }

    /// Where the server is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The server's loop: a thread for each client, all of which end with the server.
fn accept(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // A client that breaks off, or for whom there is no thread, sees that itself.
                    let _ = thread::Builder::new().spawn_scoped(scope, move || serve(stream, name, stop));
                }
                Err(_) => thread::sleep(SERVER_BEAT),
            }
        }
    });
}

/// Answers one request.
fn serve(mut stream: TcpStream, name: &str, stop: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
    // Short, so that a client that takes its time does not keep the server from ending.
    stream.set_write_timeout(Some(Duration::from_secs(1)))?;
    let Some(mut left) = asked_for(&mut stream)? else {
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\n{SERVED_BY}: {name}\r\nContent-Length: {left}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let block = [b'.'; BLOCK];
    while left > 0 && !stop.load(Ordering::Relaxed) {
        match stream.write(block.get(..left.min(BLOCK)).unwrap_or_default()) {
            Ok(written) => left -= written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How many bytes a request asks for; nothing if it is none that is understood.
fn asked_for(stream: &mut impl Read) -> io::Result<Option<usize>> {
    let mut request = Vec::new();
    let mut buffer = [0; 512];
    while !request.ends_with(b"\r\n\r\n") {
        let length = stream.read(&mut buffer)?;
        if length == 0 || request.len() > REQUEST {
            return Ok(None);
        }
        request.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
    let text = String::from_utf8_lossy(&request);
    let path = text.strip_prefix("GET /").and_then(|rest| rest.split(' ').next());
    Ok(path.and_then(|number| number.parse().ok()))
}

/// What to fetch.
#[derive(Clone, Copy, Debug)]
pub struct Download {
    /// The server, or a Service that it is behind.
    pub from: SocketAddr,
    /// Bytes.
    pub size: u32,
    /// The most bytes per second that are taken, if it is to last.
    pub rate: Option<u32>,
    /// How long the whole may take.
    pub timeout: Duration,
}

/// What came of a download.
#[derive(Clone, Debug, PartialEq)]
pub struct DownloadReport {
    /// The name of the server that served it.
    pub served_by: String,
    /// Payload received, in bytes.
    pub received_bytes: u64,
    /// Payload per second, in bits.
    pub bits_per_second: f64,
}

/// Fetches by `curl`, over a connection of its own.
///
/// # Errors
/// [`LabError::Failed`] with curl's own words if the connection failed, broke, or brought fewer bytes than it promised.
pub fn download(client: &Namespace, what: &Download) -> Result<DownloadReport, LabError> {
    let url = format!("http://{}/{}", what.from, what.size);
    let rate = what.rate.map(|rate| rate.to_string());
    let mut words = vec![
        "--silent",
        "--show-error",
        "--fail",
        "--connect-timeout",
        CONNECT_TIMEOUT_S,
    ];
    words.extend(["--dump-header", "-", "--output", "/dev/null"]);
    words.extend([
        "--write-out",
        "%{size_download} %{speed_download}",
        "--noproxy",
        "*",
    ]);
    if let Some(rate) = &rate {
        words.extend(["--limit-rate", rate]);
    }
    words.push(&url);
    let finished = client.complete("curl", &words, what.timeout)?;
    let command = finished.command.clone();
    let said = finished.success()?;
    parse(&said).ok_or_else(|| LabError::Output {
        command,
        problem: said.trim().to_owned(),
    })
}

/// Reads headers and curl's closing line.
fn parse(text: &str) -> Option<DownloadReport> {
    let named = text
        .lines()
        .find_map(|line| line.strip_prefix(SERVED_BY)?.strip_prefix(": "));
    let (size, speed) = text.lines().last()?.split_once(' ')?;
    let bytes_per_second: f64 = speed.trim().parse().ok()?;
    Some(DownloadReport {
        served_by: named?.trim().to_owned(),
        received_bytes: size.parse().ok()?,
        bits_per_second: bytes_per_second * 8.0,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_download_tells_who_served_it() {
        let said = "HTTP/1.1 200 OK\r\nX-Served-By: pod-b1\r\nContent-Length: 9\r\n\r\n9 1000";
        let expected = DownloadReport {
            served_by: "pod-b1".to_owned(),
            received_bytes: 9,
            bits_per_second: 8000.0,
        };
        assert_eq!(parse(said).unwrap(), expected);
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\n9 1000"), None, "nobody served it");
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_request_is_a_number_of_bytes() {
        let rows: [(&[u8], Option<usize>); 4] = [
            (b"GET /4096 HTTP/1.1\r\nHost: x\r\n\r\n", Some(4096)),
            (b"GET /index.html HTTP/1.1\r\n\r\n", None),
            (b"POST /1 HTTP/1.1\r\n\r\n", None),
            (b"GET /1 HTTP/1.1\r\n", None),
        ];
        for (mut text, expected) in rows {
            assert_eq!(asked_for(&mut text).unwrap(), expected);
        }
    }
}
