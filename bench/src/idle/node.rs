//! A node with two pods, whose workers rest in one way or the other.

use std::net::{IpAddr, UdpSocket};

use anyhow::Context;
use millrace_tools::lab::{Lab, MillraceOptions, NodeKind, Signal, Topology};
use serde_json::Value;

use crate::arms::NODE;

/// To whom the pod sends: another of the one node.
pub(super) const TO: &str = "pod-a2";

/// What the node's workers do when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Idle {
    /// Look for a while, then sleep: the default.
    Sleep,
    /// Look again at once, for ever.
    Poll,
}

impl Idle {
    /// As the node file has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Sleep => "sleep",
            Self::Poll => "poll",
        }
    }
}

/// The node, in a lab of its own.
pub(super) struct Node {
    lab: Lab,
    idle: Idle,
}

impl Node {
    /// A node that is up, both pods attached.
    ///
    /// # Errors
    /// When the lab cannot be made.
    pub(super) fn bring_up(name: &str, idle: Idle, cores: Vec<usize>) -> anyhow::Result<Self> {
        let mut topology = Topology::of(&[NodeKind::Millrace]);
        topology.millrace = MillraceOptions {
            cores,
            idle: idle.word().to_owned(),
            ..MillraceOptions::default()
        };
        let lab = Lab::bring_up(&format!("bench-{name}"), &topology)
            .with_context(|| format!("cannot set up the node `{name}`"))?;
        Ok(Self { lab, idle })
    }

    pub(super) fn lab(&self) -> &Lab {
        &self.lab
    }

    pub(super) fn idle(&self) -> Idle {
        self.idle
    }

    /// The daemon's process.
    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        let daemon = self.lab.node(NODE)?.daemon().context("the node runs no daemon")?;
        daemon.pid().context("the daemon does not run")
    }

    /// What `millrace stats` says.
    pub(super) fn stats(&self) -> anyhow::Result<Value> {
        let daemon = self.lab.node(NODE)?.daemon().context("the node runs no daemon")?;
        Ok(daemon.json(&["stats"])?)
    }

    /// Stops the daemon's processor time; its sockets stay.
    pub(super) fn halt(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it run again.
    pub(super) fn go_on(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        let daemon = self
            .lab
            .node_mut(NODE)?
            .daemon_mut()
            .context("the node runs no daemon")?;
        Ok(daemon.signal(signal)?)
    }

    /// A socket of a pod, on a port of the kernel's choice.
    pub(super) fn socket(&self, pod: &str) -> anyhow::Result<UdpSocket> {
        let pod = self.lab.pod(pod)?;
        let address = IpAddr::V4(pod.address());
        let bound = pod.namespace().within(|| UdpSocket::bind((address, 0)))?;
        bound.with_context(|| format!("cannot bind a socket in {}", pod.name()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // One that is halted would not hear that it is to end.
        let _ = self.go_on();
    }
}
