//! The connection to the API server: by a pod's service account, a kubeconfig, or an address with a token.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use kube::client::{Body, ClientBuilder};
use kube::config::{
    AuthInfo, Cluster, Context, KubeConfigOptions, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster,
    NamedContext,
};
use tower::util::MapRequestLayer;

use super::token::TokenFile;
use crate::config::Kubernetes;

/// How long the server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What the parts of a kubeconfig of our own are called.
const OWN: &str = "millrace";

/// Why there can be no connection, as things stand in the node file.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file cannot be read.
    #[error(
        "[kubernetes] {key}: cannot read {}: {error}; name one that can be, or run as a pod with a service account",
        path.display()
    )]
    File {
        /// The key of the node file that names it, or would.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Nothing says where the server is.
    #[error(
        "[kubernetes] server: it is missing, and there is no KUBERNETES_SERVICE_HOST in the environment as a pod has it; write it as in server = \"https://192.0.2.1:6443\""
    )]
    NoServer,
    /// The kubeconfig, or what it names, is of no use.
    #[error("[kubernetes] {key}: {}: {error}", path.display())]
    Kubeconfig {
        /// The key of the node file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<KubeconfigError>,
    },
    /// No client can be made of what was read.
    #[error("[kubernetes]: no connection to {server} can be made: {error}")]
    Client {
        /// The server's address.
        server: String,
        /// What is wrong.
        error: Box<kube::Error>,
    },
    /// The thread cannot be started.
    #[error("cannot start the thread that talks to the API server: {0}")]
    Thread(io::Error),
}

/// Makes a client of the API server that the node file names, and says its address. Nothing is sent yet, so a server that
/// cannot be reached is no error. To be called within a tokio runtime, which has to live as long as the client.
///
/// # Errors
/// [`ClusterError`] names the key of the node file.
pub async fn connect(config: &Kubernetes) -> Result<(kube::Client, String), ClusterError> {
    let (key, path, kubeconfig) = match &config.kubeconfig {
        Some(path) => {
            readable("kubeconfig", path)?;
            let read = Kubeconfig::read_from(path);
            (
                "kubeconfig",
                path.clone(),
                read.map_err(wrong("kubeconfig", path))?,
            )
        }
        None => ("ca-file", config.ca_file(), own_kubeconfig(config)?),
    };
    let options = KubeConfigOptions::default();
    let made = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let mut made = made.map_err(wrong(key, &path))?;
    made.connect_timeout = Some(CONNECT_TIMEOUT);
    // How long an answer may take, and a watch be silent, is looked after where they are asked for.
    made.read_timeout = None;
    // And so is what becomes of a request that failed, with what is counted and said of it.
    made.default_retry = false;
    let server = made.cluster_url.to_string();
    let token = made.auth_info.token_file.take().map(PathBuf::from);
    let builder = ClientBuilder::try_from(made).map_err(|error| ClusterError::Client {
        server: server.clone(),
        error: Box::new(error),
    })?;
    let client = match token {
        Some(path) => {
            let read = TokenFile::new(&path).map_err(|error| ClusterError::File {
                key: if config.kubeconfig.is_some() {
                    "kubeconfig"
                } else {
                    "token-file"
                },
                path,
                error,
            });
            let token = Arc::new(read?);
            let authorize = move |mut request: Request<Body>| {
                token.authorize(&mut request);
                request
            };
            builder.with_layer(&MapRequestLayer::new(authorize)).build()
        }
        None => builder.build(),
    };
    Ok((client, server))
}

fn wrong(key: &'static str, path: &Path) -> impl FnOnce(KubeconfigError) -> ClusterError {
    let path = path.to_owned();
    move |error| ClusterError::Kubeconfig {
        key,
        path,
        error: Box::new(error),
    }
}

fn readable(key: &'static str, path: &Path) -> Result<(), ClusterError> {
    let file = std::fs::read(path).map(drop);
    file.map_err(|error| ClusterError::File {
        key,
        path: path.to_owned(),
        error,
    })
}

/// What a kubeconfig would say of an address, a token and certificates.
fn own_kubeconfig(config: &Kubernetes) -> Result<Kubeconfig, ClusterError> {
    let server = match &config.server {
        Some(server) => server.to_string(),
        None => server_of_pod().ok_or(ClusterError::NoServer)?,
    };
    let (token, ca) = (config.token_file(), config.ca_file());
    let is_in_clear = server.starts_with("http://");
    // kubectl's proxy has the token itself, and no certificate.
    let has_token = !is_in_clear || config.token_file.is_some();
    if !is_in_clear {
        readable("ca-file", &ca)?;
    }
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let cluster = Cluster {
        server: Some(server),
        certificate_authority: (!is_in_clear).then(|| text(ca)),
        ..Cluster::default()
    };
    let user = AuthInfo {
        token_file: has_token.then(|| text(token)),
        ..AuthInfo::default()
    };
    let context = Context {
        cluster: OWN.to_owned(),
        user: Some(OWN.to_owned()),
        ..Context::default()
    };
    Ok(Kubeconfig {
        clusters: vec![NamedCluster {
            name: OWN.to_owned(),
            cluster: Some(cluster),
            ..Default::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: OWN.to_owned(),
            auth_info: Some(user),
            ..Default::default()
        }],
        contexts: vec![NamedContext {
            name: OWN.to_owned(),
            context: Some(context),
            ..Default::default()
        }],
        current_context: Some(OWN.to_owned()),
        ..Kubeconfig::default()
    })
}

/// Where a pod finds the API server (<https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>).
fn server_of_pod() -> Option<String> {
    let host = env::var("KUBERNETES_SERVICE_HOST")
        .ok()
        .filter(|host| !host.is_empty())?;
    let port = env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    Some(format!("https://{host}:{port}"))
}
