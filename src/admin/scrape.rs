//! The counters over HTTP, where the node file asks for it (`[metrics] listen`): `GET /metrics`, as monitoring systems ask.
//!
//! A scrape is one more client of control's, and asks what `millrace stats` asks. Nobody is asked who he is, so what is
//! answered is no more than numbers, and how many ask at once, for how long and how much, is bounded.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response as HttpResponse, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::openmetrics;
use super::protocol::{Request, Response};
use super::server::{Answer, Call};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 8;
/// How long a connection may take for its one request and the answer.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// Most bytes of a request's head: the least that hyper can be told.
const REQUEST_BYTES: usize = 8 << 10;
/// How long to wait before a port that cannot be had, or a connection that cannot be taken, is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// What the page is (OpenMetrics 1.0).
const CONTENT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What all else is.
const PLAIN: &str = "text/plain; charset=utf-8";

/// Serves the counters at `address` until control is gone. A port that cannot be had is said once, and tried again.
pub async fn serve(address: SocketAddr, calls: mpsc::Sender<Call>) {
    tokio::select! {
        () = calls.closed() => {}
        () = listen(address, &calls) => {}
    }
}

async fn listen(address: SocketAddr, calls: &mpsc::Sender<Call>) {
    let mut trouble = None;
    let socket = loop {
        match TcpListener::bind(address).await {
            Ok(socket) => break socket,
            Err(error) => say(&mut trouble, address, &error),
        }
        sleep(RETRY).await;
    };
    info!("metrics at http://{address}/metrics");
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    while let Ok(permit) = Arc::clone(&connections).acquire_owned().await {
        match socket.accept().await {
            Ok((stream, _)) => {
                let calls = calls.clone();
                tokio::spawn(async move {
                    // One that is slow, or says nonsense, is hung up on.
                    let _ = timeout(REQUEST_TIME, converse(stream, calls)).await;
                    drop(permit);
                });
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

fn say(trouble: &mut Option<String>, address: SocketAddr, error: &io::Error) {
    let words = error.to_string();
    if trouble.as_ref() != Some(&words) {
        warn!("[metrics] listen: cannot listen at {address}: {words}; it is tried again");
        *trouble = Some(words);
    }
}

/// Answers one request.
async fn converse(stream: TcpStream, calls: mpsc::Sender<Call>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let calls = calls.clone();
        async move { Ok::<_, Infallible>(answer(&request, &calls).await) }
    });
    http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(REQUEST_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(request: &HttpRequest<Incoming>, calls: &mpsc::Sender<Call>) -> HttpResponse<Full<Bytes>> {
    let (status, kind, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match page(calls).await {
            Ok(page) => (StatusCode::OK, CONTENT, page),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
        },
        (&Method::GET | &Method::HEAD, _) => (StatusCode::NOT_FOUND, PLAIN, "there is /metrics\n".to_owned()),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            PLAIN,
            "only GET is answered\n".to_owned(),
        ),
    };
    let mut response = HttpResponse::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Asks control, and writes what it answers.
async fn page(calls: &mpsc::Sender<Call>) -> Result<String, String> {
    let (sender, answered) = oneshot::channel();
    // Control that has too much to do already is not given more.
    if calls.try_send((Request::Stats, sender)).is_err() {
        return Err("the daemon is busy".to_owned());
    }
    match answered.await {
        Ok(Answer::Once(Response::Ok(stats))) => {
            let stats = serde_json::from_value(stats).map_err(|error| error.to_string())?;
            openmetrics::render(&stats).map_err(|error| error.to_string())
        }
        Ok(Answer::Once(Response::Error(failure))) => Err(failure.message),
        Ok(Answer::Capture(..)) | Err(_) => Err("the daemon has no answer".to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A port that nobody has at the moment.
    fn free() -> SocketAddr {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        for _ in 0..6000 {
            if let Ok(stream) = TcpStream::connect(address).await {
                return stream;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("nobody listens at {address}");
    }

    /// The head and the body of the answer to a request.
    async fn ask(address: SocketAddr, request: &str) -> (String, String) {
        let mut stream = connect(address).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        // Who is hung up on in the middle of a request may hear of it as an error.
        let _ = stream.read_to_string(&mut answer).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.to_owned(), body.to_owned())
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")
    }

    /// Control that answers with the counters of the other tests.
    fn control() -> (mpsc::Sender<Call>, tokio::task::JoinHandle<()>) {
        let (calls, mut received) = mpsc::channel::<Call>(4);
        let task = tokio::spawn(async move {
            while let Some((request, back)) = received.recv().await {
                assert!(matches!(request, Request::Stats));
                let stats = openmetrics::sample::answer();
                let _ = back.send(Answer::Once(Response::Ok(stats)));
            }
        });
        (calls, task)
    }

    #[tokio::test]
    async fn the_counters_are_what_the_command_prints() {
        let address = free();
        let (calls, control) = control();
        let server = tokio::spawn(serve(address, calls));
        let (head, page) = ask(address, &get("/metrics")).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        assert!(head.contains(CONTENT), "{head}");
        let stats = serde_json::from_value(openmetrics::sample::answer()).unwrap();
        assert_eq!(page, openmetrics::render(&stats).unwrap());
        for (request, expected) in [
            (get("/"), "404"),
            (get("/metrics").replace("GET", "POST"), "405"),
            (get(&format!("/{}", "x".repeat(REQUEST_BYTES))), "4"),
            ("nonsense\r\n\r\n".to_owned(), "400"),
        ] {
            let (head, _) = ask(address, &request).await;
            let status = head.strip_prefix("HTTP/1.1 ").unwrap_or_default();
            assert!(status.starts_with(expected), "{expected}: {head}");
        }
        // Those who say nothing are hung up on, and others are answered in the end.
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(connect(address).await);
        }
        let (head, _) = ask(address, &get("/metrics")).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
        control.abort();
        let _ = control.await;
        // Control is gone: so is the server.
        assert!(timeout(REQUEST_TIME * 20, server).await.is_ok());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_had_once_it_is_free() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let (calls, _control) = control();
        tokio::spawn(serve(address, calls));
        tokio::task::yield_now().await;
        drop(taken);
        let (head, _) = ask(address, &get("/metrics")).await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    }
}
