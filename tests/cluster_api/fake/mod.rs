//! An API server for tests: objects, lists in pages, watches with bookmarks, and whatever can go wrong with them.
//!
//! It keeps to what <https://kubernetes.io/docs/reference/using-api/api-concepts/> says of versions, pages, watches and
//! patches, as far as this project asks for it, and knows nothing of what objects mean.

mod answer;
mod patch;
mod route;
mod state;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{self, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use state::State;
pub(crate) use state::{Fault, Seen};

/// What the server serves: the kinds that are watched, and those that this program writes.
const SERVED: [&str; 9] = [
    "/api/v1/nodes",
    "/api/v1/namespaces",
    "/api/v1/pods",
    "/api/v1/services",
    "/api/v1/events",
    "/apis/discovery.k8s.io/v1/endpointslices",
    "/apis/networking.k8s.io/v1/networkpolicies",
    "/apis/events.k8s.io/v1/events",
    "/apis/coordination.k8s.io/v1/leases",
];

/// The server. Dropping it ends it.
pub(crate) struct Fake {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    accepting: Option<tokio::task::JoinHandle<()>>,
}

impl Fake {
    /// Starts one with nothing in it.
    pub(crate) fn start() -> Self {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            // Told to stop, or dropped.
            let _ = runtime.block_on(stopped);
        });
        let mut fake = Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            state: Arc::new(Mutex::new(State::new(&SERVED))),
            accepting: None,
        };
        fake.resume();
        fake
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves at another place too: that of another network namespace, say. For as long as the server is there.
    #[allow(dead_code, reason = "for tests with network namespaces")]
    pub(crate) fn serve_at(&self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).unwrap();
        let state = Arc::clone(&self.state);
        let listener = self.run(async move { TcpListener::from_std(listener).unwrap() });
        self.handle.spawn(accept(listener, state));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What a future comes to, on the server's thread.
    fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = sender.send(future.await);
        });
        receiver.recv().unwrap()
    }

    /// Goes away: nobody listens, and every connection is cut.
    pub(crate) fn pause(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = self.run(accepting);
        }
        self.state().cut_watches();
    }

    /// Comes back at the same address.
    pub(crate) fn resume(&mut self) {
        let state = Arc::clone(&self.state);
        let at = self.address;
        let listener = self.run(async move { listen(at) });
        self.address = listener.local_addr().unwrap();
        self.accepting = Some(self.handle.spawn(accept(listener, state)));
    }

    /// Serves another kind from now on.
    pub(crate) fn serve(&self, path: &str) {
        self.state().serve(path);
    }

    /// Serves a kind no more; its objects are gone.
    pub(crate) fn withdraw(&self, path: &str) {
        self.state().withdraw(path);
    }

    /// The next request of that kind goes wrong.
    pub(crate) fn fail(&self, verb: &'static str, path: &str, fault: Fault) {
        self.state().fail(verb, path, fault);
    }

    /// How many faults have not come to pass.
    pub(crate) fn faults_left(&self) -> usize {
        self.state().faults_left()
    }

    /// Cuts every watch.
    pub(crate) fn cut_watches(&self) {
        self.state().cut_watches();
    }

    /// Forgets all that was: watches that are open are told so, and neither versions nor pages of before are known.
    pub(crate) fn expire(&self) {
        self.state().expire();
    }

    /// Has all watches told where they are.
    pub(crate) fn bookmark(&self) {
        self.state().bookmark();
    }

    /// Tells the watches of a path a line of one's own.
    pub(crate) fn tell(&self, path: &str, line: &Value) {
        self.state().tell(path, line);
    }

    /// Whether changes are kept from watches that are open, which go on from where they were when they come again.
    pub(crate) fn mute(&self, is_mute: bool) {
        self.state().is_mute = is_mute;
    }

    /// Makes or replaces an object, whatever it is; answers how it is now.
    pub(crate) fn put(&self, path: &str, object: Value) -> Value {
        self.state().put(path, object)
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, path: &str, namespace: &str, name: &str) {
        self.state().delete(path, namespace, name).unwrap();
    }

    /// An object as it is.
    pub(crate) fn get(&self, path: &str, namespace: &str, name: &str) -> Option<Value> {
        self.state().get(path, namespace, name).cloned()
    }

    /// All objects at a path.
    pub(crate) fn all(&self, path: &str) -> Vec<Value> {
        self.state().all(path)
    }

    /// Sets the server back: objects stay, their versions and that of the whole begin anew.
    pub(crate) fn set_back(&self) {
        self.state().set_back();
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// How many watches are open at a path.
    pub(crate) fn watches(&self, path: &str) -> usize {
        self.state().watches(path)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(at: SocketAddr) -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    // Connections of before may still be on their way out.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    socket.listen(64).unwrap()
}

/// Takes connections until it is aborted, which cuts them all.
async fn accept(listener: TcpListener, state: Arc<Mutex<State>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let service = service_fn(move |request| answer::answer(Arc::clone(&state), request));
            // A connection that is cut is what some tests are about.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
