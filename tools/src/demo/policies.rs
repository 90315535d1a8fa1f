//! Policies: a pod is closed while a flow to it lives, and opened again; the switch says why.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::flows::addresses;
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

/// A flow: a server, and who calls it.
struct Call {
    server: UdpEcho,
    socket: UdpSocket,
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

    /// Closes the server while the client calls it, by each of its addresses, and opens it again; answers what there is to be
    /// read about it.
    ///
    /// # Errors
    /// What did not come about, and [`LabError::Interrupted`].
    pub(crate) fn show(&self) -> Result<String, LabError> {
        let calls = addresses(self.server)
            .into_iter()
            .map(|address| self.call(address));
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        let await_answers = |what: &str, are_wanted| {
            calls.iter().try_for_each(|call| {
                let what = format!("{what}, {}", call.server.address());
                wait_until(&what, IN_FORCE, || Ok(call.is_answered() == are_wanted))
            })
        };
        let mut told = String::new();
        let flow = format!("{} calls {}", self.client.name(), self.server.name());
        await_answers(&format!("an answer while {flow}"), true)?;
        self.enforce(&[policy(
            "deny-all",
            "{podSelector: {}, policyTypes: [Ingress, Egress]}",
        )])?;
        await_answers("a denied flow to end", false)?;
        self.tell(&mut told, &format!("{flow}; then deny-all:"), &calls, false)?;
        self.enforce(&[
            policy("deny-all", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
            policy("allow", "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}"),
        ])?;
        await_answers("an allowed flow to go on", true)?;
        let what = "then allow beside it, and the same flows go on:";
        self.tell(&mut told, what, &calls, true)?;
        self.daemon.remove_manifest(FILE)?;
        Ok(told)
    }

    /// A server at an address of the pod, and the client's socket.
    fn call(&self, address: IpAddr) -> Result<Call, LabError> {
        let server = UdpEcho::start(self.server.namespace(), address)?;
        let to = server.address();
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = self
            .client
            .namespace()
            .within(|| {
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(ANSWER))?;
                Ok(socket)
            })?
            .map_err(LabError::io(format!("call {to} from {}", self.client.name())))?;
        Ok(Call { server, socket })
    }

    fn enforce(&self, policies: &[String]) -> Result<(), LabError> {
        self.daemon.write_manifest(FILE, &policies.concat())
    }

    /// What `explain` says of the flows, which must be what became of them.
    fn tell(&self, told: &mut String, what: &str, calls: &[Call], is_allowed: bool) -> Result<(), LabError> {
        // Writing to a string cannot fail.
        let _ = writeln!(told, "{what}");
        for call in calls {
            let (from, to) = (self.client.reference(), call.server.address());
            // By the pod's name as long as that tells the address.
            let to = match to {
                SocketAddr::V4(to) => format!("{}:{}", self.server.reference(), to.port()),
                SocketAddr::V6(to) => to.to_string(),
            };
            let question = ["explain", "--from", &from, "--to", &to, "--proto", "udp"];
            let said = self.daemon.ask(&question)?;
            let question = question.join(" ");
            let _ = write!(told, "{}# millrace {question}\n{}", self.node, said.stdout);
            if said.status.success() != is_allowed {
                return Err(LabError::Output {
                    command: said.command,
                    problem: format!("it says otherwise than what became of the flow: {}", said.stdout),
                });
            }
        }
        Ok(())
    }
}

impl Call {
    /// Whether one of a few is answered.
    fn is_answered(&self) -> bool {
        let mut answer = [0; 16];
        (0..UNANSWERED).any(|_| self.socket.send(b"live").is_ok() && self.socket.recv(&mut answer).is_ok())
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {}}}\nspec: {spec}\n",
        crate::lab::POD_NAMESPACE
    )
}
