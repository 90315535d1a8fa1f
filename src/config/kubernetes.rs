//! `[kubernetes]`: the cluster's API server, where this node's objects come from it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper::Uri;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::text::by_text;
use super::value::ValueError;

/// Where a pod finds what its service account is known by
/// (<https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>).
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Where flannel's CNI plugin looks.
const SUBNET_ENV: &str = "/run/flannel/subnet.env";

/// `[kubernetes]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    deny_unknown_fields,
    expecting = "a table",
    default
)]
pub struct Kubernetes {
    /// `server`: address of the API server, `https://HOST:PORT`. Default: what a pod's environment says
    /// (`KUBERNETES_SERVICE_HOST`), a Service's address, which somebody else than this node must make work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ApiServer>,
    /// `token-file`: the bearer token that this node is known by, read again as it is renewed. Default: the service
    /// account's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// `ca-file`: the certificates, in PEM, that the API server's is signed by. Default: the service account's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// `kubeconfig`: a file that says all three instead, by its current context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// `events`: whether what is refused is told by Events on the objects concerned. Default true.
    pub events: bool,
    /// `flannel-lease`: in flannel's network, whether this node writes flannel's annotations of its Node, and `subnet-env`.
    /// Default true.
    pub flannel_lease: bool,
    /// `subnet-env`: the file by which flannel's CNI plugin knows this node's pod CIDRs. Default `/run/flannel/subnet.env`.
    pub subnet_env: PathBuf,
    /// `pod-network`: the cluster's pod CIDRs, `Network` and `IPv6Network` of flannel's net-conf.json, which `subnet-env`
    /// has to name. Default none: those that the file names already.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pod_network: Vec<IpNet>,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            server: None,
            token_file: None,
            ca_file: None,
            kubeconfig: None,
            events: true,
            flannel_lease: true,
            subnet_env: PathBuf::from(SUBNET_ENV),
            pod_network: Vec::new(),
        }
    }
}

impl Kubernetes {
    /// The bearer token's file.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        let own = self.token_file.clone();
        own.unwrap_or_else(|| Path::new(SERVICE_ACCOUNT).join("token"))
    }

    /// The file of the certificates that the API server's is signed by.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        let own = self.ca_file.clone();
        own.unwrap_or_else(|| Path::new(SERVICE_ACCOUNT).join("ca.crt"))
    }

    /// Has relative paths begin at `folder`.
    pub(super) fn begin_at(&mut self, folder: &Path) {
        let files = [&mut self.token_file, &mut self.ca_file, &mut self.kubeconfig];
        for file in files.into_iter().flatten() {
            *file = folder.join(&*file);
        }
        self.subnet_env = folder.join(&self.subnet_env);
    }

    /// A key that contradicts another, and why.
    pub(super) fn contradiction(&self) -> Option<(&'static str, String)> {
        let others = [
            ("server", self.server.is_some()),
            ("token-file", self.token_file.is_some()),
            ("ca-file", self.ca_file.is_some()),
        ];
        let said_twice = others.iter().find(|(_, is_there)| *is_there);
        if let (Some((key, _)), Some(_)) = (said_twice, &self.kubeconfig) {
            return Some((
                key,
                "kubeconfig says it already; leave out one of the two".to_owned(),
            ));
        }
        let mut families = self.pod_network.iter().map(|net| net.addr().is_ipv4());
        match (families.next(), families.next(), families.next()) {
            (Some(first), Some(second), None) if first == second => Some((
                "pod-network",
                "both are of one family; at most one CIDR per family is allowed".to_owned(),
            )),
            (_, _, Some(_)) => Some(("pod-network", "at most one CIDR per family is allowed".to_owned())),
            _ => None,
        }
    }
}

/// Address of an API server: `https://HOST:PORT`, or `http` to this very machine, as `kubectl proxy` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiServer(String);

impl ApiServer {
    /// The address as text, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ApiServer {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = |reason: &str| {
            ValueError::because(format!(
                "`{}` {reason}, write it as in https://192.0.2.1:6443",
                text.escape_debug()
            ))
        };
        let uri: Uri = text.parse().map_err(|_| wrong("is no address of a server"))?;
        let host = uri.host().ok_or_else(|| wrong("names no host"))?;
        match uri.scheme_str() {
            Some("https") => {}
            // Whoever is on the way could read the token.
            Some("http") if is_loopback(host) => {}
            Some("http") => return Err(wrong("would have the token travel in the clear")),
            _ => return Err(wrong("does not begin with https://")),
        }
        if uri.query().is_some() {
            return Err(wrong("has a query"));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

by_text!(ApiServer, 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_where_nobody_can_listen() {
        for good in [
            "https://192.0.2.1:6443",
            "https://api:6443",
            "https://[fd00::1]:6443",
            "https://192.0.2.1/k8s/clusters/c-1",
            "http://127.0.0.1:8001",
            "http://[::1]:8001",
            "http://localhost:8001",
        ] {
            assert_eq!(good.parse::<ApiServer>().unwrap().as_str(), good);
        }
        assert_eq!(
            "https://a:1/".parse::<ApiServer>().unwrap().as_str(),
            "https://a:1"
        );
        for (bad, words) in [
            ("", "is no address"),
            ("192.0.2.1:6443", "does not begin with https://"),
            ("https://", "is no address"),
            ("http://192.0.2.1:6443", "travel in the clear"),
            ("http://127.0.0.1.evil.example", "travel in the clear"),
            ("ftp://192.0.2.1", "does not begin with https://"),
            ("https://192.0.2.1/?a=b", "has a query"),
            ("https://a b", "is no address"),
        ] {
            let error = bad.parse::<ApiServer>().unwrap_err().to_string();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }
}
