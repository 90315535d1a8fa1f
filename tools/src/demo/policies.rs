//! Policies: a pod is closed while a flow to it lives, and opened again; the switch says why.

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::time::Duration;

use super::services::millrace;
use crate::lab::traffic::UdpEcho;
use crate::lab::{Daemon, Lab, LabError, Pod, wait_until};

/// How long a policy may take to be in force.
const IN_FORCE: Duration = Duration::from_secs(10);
/// How long is waited for one answer.
const ANSWER: Duration = Duration::from_millis(200);
/// So many in a row have to stay away before a flow counts as denied: on a busy machine one may come late.
const UNANSWERED: usize = 3;
/// The file of the policies, in the manifests folder.
const FILE: &str = "policies.yaml";

/// A pod that is closed, the one that calls it, and the switch that is theirs.
pub(crate) struct Policies<'lab> {
    daemon: &'lab Daemon,
    node: String,
    server: &'lab Pod,
    client: &'lab Pod,
}

impl<'lab> Policies<'lab> {
    /// On the first Millrace node with two pods, if there is one.
    pub(crate) fn of(lab: &'lab Lab) -> Option<Self> {
        millrace(lab).find_map(|(node, daemon)| match node.pods() {
            [server, client, ..] => Some(Self {
                daemon,
                node: node.name(),
                server,
                client,
            }),
            _ => None,
        })
    }

    /// Closes the server while the client calls it, and opens it again; answers what there is to be read about it.
    ///
    /// # Errors
    /// What did not come about, and [`LabError::Interrupted`].
    pub(crate) fn show(&self) -> Result<String, LabError> {
        let server = UdpEcho::start(self.server.namespace(), self.server.address().into())?;
        let to = server.address();
        let socket = self
            .client
            .namespace()
            .within(|| {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(ANSWER))?;
                Ok(socket)
            })?
            .map_err(LabError::io(format!("call {to} from {}", self.client.name())))?;
        let calls = || {
            let mut answer = [0; 16];
            socket.send(b"live").is_ok() && socket.recv(&mut answer).is_ok()
        };
        let is_answered = || (0..UNANSWERED).any(|_| calls());
        let await_answers =
            |what: &str, are_wanted| wait_until(what, IN_FORCE, || Ok(is_answered() == are_wanted));
        let mut told = String::new();
        let flow = format!(
            "{} calls {} port {}",
            self.client.name(),
            self.server.name(),
            to.port()
        );
        await_answers(&format!("an answer while {flow}"), true)?;
        self.enforce(&[policy(
            "deny-all",
            "{podSelector: {}, policyTypes: [Ingress, Egress]}",
        )])?;
        await_answers("a denied flow to end", false)?;
        self.tell(&mut told, &format!("{flow}; then deny-all:"), to.port(), false)?;
        self.enforce(&[
            policy("deny-all", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
            policy("allow", "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}"),
        ])?;
        await_answers("an allowed flow to go on", true)?;
        self.tell(
            &mut told,
            "then allow beside it, and the same flow goes on:",
            to.port(),
            true,
        )?;
        self.daemon.remove_manifest(FILE)?;
        Ok(told)
    }

    fn enforce(&self, policies: &[String]) -> Result<(), LabError> {
        self.daemon.write_manifest(FILE, &policies.concat())
    }

    /// What `explain` says of the flow, which must be what became of it.
    fn tell(&self, told: &mut String, what: &str, port: u16, is_allowed: bool) -> Result<(), LabError> {
        let (from, to) = (
            self.client.reference(),
            format!("{}:{port}", self.server.reference()),
        );
        let question = ["explain", "--from", &from, "--to", &to, "--proto", "udp"];
        let said = self.daemon.ask(&question)?;
        // Writing to a string cannot fail.
        let _ = write!(
            told,
            "{what}\n{}# millrace {}\n{}",
            self.node,
            question.join(" "),
            said.stdout
        );
        if said.status.success() == is_allowed {
            return Ok(());
        }
        Err(LabError::Output {
            command: said.command,
            problem: format!("it says otherwise than what became of the flow: {}", said.stdout),
        })
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {}}}\nspec: {spec}\n",
        crate::lab::POD_NAMESPACE
    )
}
