//! An API server that a lab's objects are in, in the place of folders of manifests.
//!
//! It may be anywhere that this machine reaches. The lab has it stand on its underlay: a gate there passes connections on to
//! the server, so the nodes reach it as they would a control plane's machine, and the lab can have it go away.

mod gate;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gate::Gate;
use serde_json::{Value, json};

use super::command::{ADMIN_TIMEOUT, complete, fed};
use super::pod::POD_NAMESPACE;
use super::{LabError, Namespace};

/// Its address, as tests/cluster_api has it.
pub const ADDRESS_VARIABLE: &str = "MILLRACE_TEST_API";
/// A token that may do everything there.
pub const TOKEN_VARIABLE: &str = "MILLRACE_TEST_API_TOKEN";
/// The file of the certificates that vouch for it.
pub const CA_VARIABLE: &str = "MILLRACE_TEST_API_CA";
/// The folder of `tools/api-server.sh`, if it is that one's to be stopped and started again.
pub const FOLDER_VARIABLE: &str = "MILLRACE_TEST_API_FOLDER";
/// The program that stops and starts it, from the folder where `make` runs.
const SCRIPT: &str = "tools/api-server.sh";
/// How long the server may take to stop or to start.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(150);
/// The port of the gate on the underlay.
const PORT: u16 = 6443;
/// How long the nodes' token is good for, in seconds.
const TOKEN_SECONDS: u32 = 7200;
/// What gives the daemon its account and its rights; the kinds of it that are for the server alone.
const DEPLOYED: &str = include_str!("../../../deploy/millrace.yaml");
const RIGHTS: [&str; 4] = ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding"];
/// The account.
const ACCOUNT: &str = "/api/v1/namespaces/millrace-system/serviceaccounts/millrace";

/// The server.
#[derive(Debug)]
pub struct Api {
    server: String,
    /// Which one it says that it is.
    version: String,
    host: String,
    target: SocketAddr,
    ca: PathBuf,
    folder: Option<PathBuf>,
    /// Has the administrator's token, and the nodes'.
    secrets: tempfile::TempDir,
    gate: Mutex<Option<(Gate, SocketAddr)>>,
    /// What was written, by the name of the manifest that it would be in a folder.
    written: Mutex<BTreeMap<String, Written>>,
}

#[derive(Debug, Default)]
struct Written {
    text: String,
    /// Paths of the objects.
    paths: Vec<String>,
}

fn unfit(what: &'static str, value: &str, rule: &'static str) -> LabError {
    LabError::Unfit {
        what,
        value: value.to_owned(),
        rule,
    }
}

impl Api {
    /// The server that the environment names, with the daemon's account and rights as `deploy/` has them.
    ///
    /// # Errors
    /// [`LabError::Unfit`] where the environment says too little, and what the server said.
    pub fn of_environment() -> Result<Self, LabError> {
        let variable = |name: &'static str| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty());
            value.ok_or_else(|| {
                unfit(
                    name,
                    "",
                    "it says how the API server is reached; see tools/api-server.sh",
                )
            })
        };
        let server = variable(ADDRESS_VARIABLE)?;
        let rule = "it is https://HOST:PORT";
        let place = server
            .strip_prefix("https://")
            .map(|rest| rest.trim_end_matches('/'));
        let place = place.ok_or_else(|| unfit(ADDRESS_VARIABLE, &server, rule))?;
        let target = place.to_socket_addrs().ok().and_then(|mut found| found.next());
        let (host, _) = place.rsplit_once(':').unwrap_or((place, ""));
        let secrets = tempfile::tempdir().map_err(LabError::io("make a folder for tokens"))?;
        let mut api = Self {
            version: String::new(),
            host: host.trim_matches(['[', ']']).to_owned(),
            target: target.ok_or_else(|| unfit(ADDRESS_VARIABLE, &server, rule))?,
            server: server.trim_end_matches('/').to_owned(),
            ca: variable(CA_VARIABLE)?.into(),
            folder: std::env::var_os(FOLDER_VARIABLE).map(Into::into),
            secrets,
            gate: Mutex::default(),
            written: Mutex::default(),
        };
        api.keep_secret(
            "administrator",
            &format!("Authorization: Bearer {}", variable(TOKEN_VARIABLE)?),
        )?;
        let version = api.ask("GET", "/version", "application/json", &json!({}))?;
        api.version = version["gitVersion"]
            .as_str()
            .unwrap_or("of no version")
            .to_owned();
        api.deploy()?;
        Ok(api)
    }

    fn keep_secret(&self, name: &str, text: &str) -> Result<(), LabError> {
        let path = self.secrets.path().join(name);
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))
    }

    /// Makes the daemon's account with its rights and the pods' namespace, and asks for a token.
    fn deploy(&self) -> Result<(), LabError> {
        let mut objects = parse(DEPLOYED)?;
        objects.retain(|object| RIGHTS.iter().any(|kind| object["kind"] == **kind));
        objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": POD_NAMESPACE}}));
        for object in &objects {
            self.apply(object)?;
        }
        let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": TOKEN_SECONDS}});
        let given = self.ask("POST", &format!("{ACCOUNT}/token"), "application/json", &wanted)?;
        self.keep_secret("token", given["status"]["token"].as_str().unwrap_or_default())
    }

    /// Asks the server, as its administrator.
    fn ask(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Result<Value, LabError> {
        let mut line = Command::new("curl");
        line.args([
            // What is wrong the server says, in the body.
            "--silent",
            "--fail-with-body",
            "--request",
            method,
        ])
        .args([
            "--data-binary",
            "@-",
            "--header",
            &format!("Content-Type: {content_type}"),
        ])
        .arg("--header")
        .arg(format!(
            "@{}",
            self.secrets.path().join("administrator").display()
        ))
        .arg("--cacert")
        .arg(&self.ca)
        .arg(format!("{}{path}", self.server));
        let answer = fed(line, body.to_string().as_bytes(), ADMIN_TIMEOUT)?.success()?;
        serde_json::from_str(&answer).map_err(|error| LabError::Output {
            command: format!("{method} {path}"),
            problem: error.to_string(),
        })
    }

    /// Has an object be as it says, its status too. (Not by server-side apply, to which a Node has one InternalIP.)
    fn apply(&self, object: &Value) -> Result<(), LabError> {
        const MERGE: &str = "application/merge-patch+json";
        let path = path_of(object)?;
        match self.ask("PATCH", &path, MERGE, object) {
            Err(error) if is_absent(&error) => {
                let (all, _) = path.rsplit_once('/').unwrap_or((&path, ""));
                self.ask("POST", all, "application/json", object)?;
            }
            answer => drop(answer?),
        }
        if let Some(status) = object.get("status") {
            self.ask(
                "PATCH",
                &format!("{path}/status"),
                MERGE,
                &json!({"status": status}),
            )?;
        }
        Ok(())
    }

    fn delete(&self, path: &str) -> Result<(), LabError> {
        let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        match self.ask("DELETE", path, "application/json", &now) {
            Err(error) if is_absent(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Has the objects of a manifest be as it says, and those that it had before and has no more be gone. All nodes write the
    /// same: only the first one's word makes work.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), LabError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let before = written.entry(name.to_owned()).or_default();
        if before.text == text {
            return Ok(());
        }
        let objects = parse(text)?;
        let paths = objects.iter().map(path_of).collect::<Result<Vec<_>, _>>()?;
        // First what is new: a Service whose endpoints are all others now is never without.
        for object in &objects {
            self.apply(object)?;
        }
        for gone in before.paths.iter().filter(|path| !paths.contains(path)) {
            self.delete(gone)?;
        }
        *before = Written {
            text: text.to_owned(),
            paths,
        };
        Ok(())
    }

    /// Has the objects of a manifest be gone.
    pub(crate) fn remove(&self, name: &str) -> Result<(), LabError> {
        let removed = self
            .written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        removed
            .unwrap_or_default()
            .paths
            .iter()
            .try_for_each(|path| self.delete(path))
    }

    /// Has the server be reached at an address of a namespace on the underlay.
    pub(crate) fn stand_in(&self, namespace: &Namespace, address: Ipv4Addr) -> Result<(), LabError> {
        let at = SocketAddr::new(address.into(), PORT);
        let gate = Gate::open(namespace, at, self.target)?;
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = Some((gate, at));
        Ok(())
    }

    /// Closes the gate, where there is one.
    pub(crate) fn leave(&self) {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// What a node's daemon reaches it by.
    pub(crate) fn kubeconfig(&self) -> String {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let server = gate
            .as_ref()
            .map_or_else(|| self.server.clone(), |(_, at)| format!("https://{at}"));
        json!({"apiVersion": "v1", "kind": "Config", "current-context": "lab",
            // The certificate is for where the server is, not for where the lab has it stand.
            "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": self.ca, "tls-server-name": self.host}}],
            "users": [{"name": "lab", "user": {"tokenFile": self.secrets.path().join("token")}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}]})
        .to_string()
    }

    /// Where it is, and what it says that it is.
    pub(crate) fn describe(&self) -> String {
        let gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let at = gate
            .as_ref()
            .map_or_else(String::new, |(_, at)| format!(", at {at} on the underlay"));
        format!(
            "Objects: those of the API server {} ({}){at}, as the ServiceAccount of deploy/.",
            self.server, self.version
        )
    }

    /// Has it go: stopped, if that may be done, and else out of reach.
    pub(crate) fn go(&self) -> Result<(), LabError> {
        if let Some((gate, _)) = &*self.gate.lock().unwrap_or_else(PoisonError::into_inner) {
            gate.set_shut(true);
        }
        self.script("stop")
    }

    /// Has it come back.
    pub(crate) fn come_back(&self) -> Result<(), LabError> {
        self.script("again")?;
        if let Some((gate, _)) = &*self.gate.lock().unwrap_or_else(PoisonError::into_inner) {
            gate.set_shut(false);
        }
        Ok(())
    }

    fn script(&self, command: &str) -> Result<(), LabError> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut line = Command::new(SCRIPT);
        line.arg(command).arg(folder);
        complete(line, SCRIPT_TIMEOUT)?.success().map(drop)
    }
}

/// Whether the server said that there is no such object.
fn is_absent(error: &LabError) -> bool {
    matches!(error, LabError::Failed { stderr, .. } if stderr.contains("NotFound"))
}

/// The objects of a manifest.
fn parse(text: &str) -> Result<Vec<Value>, LabError> {
    let documents = text.split("---\n").filter(|document| !document.trim().is_empty());
    documents
        .map(|document| {
            serde_saphyr::from_str(document).map_err(|error| LabError::Output {
                command: "a manifest".to_owned(),
                problem: error.to_string(),
            })
        })
        .collect()
}

/// Where an object is on the server.
fn path_of(object: &Value) -> Result<String, LabError> {
    let word = |value: &Value| value.as_str().map(str::to_owned);
    let metadata = &object["metadata"];
    let words = (
        word(&object["apiVersion"]),
        word(&object["kind"]),
        word(&metadata["name"]),
    );
    let (Some(version), Some(kind), Some(name)) = words else {
        let value = object.to_string();
        return Err(unfit(
            "object",
            &value,
            "it has apiVersion, kind and metadata.name",
        ));
    };
    let root = if version.contains('/') { "apis" } else { "api" };
    let kind = kind.to_lowercase();
    let plural = kind
        .strip_suffix('y')
        .map_or_else(|| format!("{kind}s"), |stem| format!("{stem}ies"));
    let place =
        word(&metadata["namespace"]).map_or_else(String::new, |namespace| format!("namespaces/{namespace}/"));
    Ok(format!("/{root}/{version}/{place}{plural}/{name}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_where_the_api_has_them() {
        let text = "apiVersion: v1\nkind: Node\nmetadata: {name: node-a}\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: lab}\n";
        let paths: Vec<_> = parse(text)
            .unwrap()
            .iter()
            .map(|object| path_of(object).unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "/api/v1/nodes/node-a",
                "/apis/networking.k8s.io/v1/namespaces/lab/networkpolicies/closed"
            ]
        );
        assert!(path_of(&json!({"kind": "Node", "metadata": {"name": "a"}})).is_err());
        let deployed = parse(DEPLOYED).unwrap();
        for kind in RIGHTS {
            assert!(deployed.iter().any(|object| object["kind"] == kind), "{kind}");
        }
    }
}
