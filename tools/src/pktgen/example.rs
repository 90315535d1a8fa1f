//! Something to measure without a NIC: a generator's two ends in network namespaces, and a Linux node between them, or
//! nothing but a wire.
//!
//! ```text
//!   left                       node                      right
//!   out ------- veth ------- left     right ------- veth ------- in
//!   198.18.0.1          198.18.255.254  198.19.255.254          198.19.0.1
//! ```
//!
//! The addresses are those that RFC 2544 section 12 has for such measurements (198.18.0.0/15, RFC 6890).

use millrace_dataplane::wire::MacAddr;

use super::error::PktgenError;
use super::place::Place;
use super::settings::{Settings, Wrap};
use crate::lab::{Identity, LabError, Namespace};

/// What is between the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Between {
    /// A node whose kernel forwards
    Kernel,
    /// Nothing: the two ends are those of one veth pair
    Nothing,
}

/// The interface that sends.
pub const OUT: &str = "out";
/// The interface that receives.
pub const IN: &str = "in";
/// The node's interfaces.
pub const LEFT: &str = "left";
/// The other.
pub const RIGHT: &str = "right";

/// Queues of every interface.
const QUEUES: &str = "2";

/// Namespaces and wires. Dropping it takes them away.
#[derive(Debug)]
pub struct Stage {
    left: Namespace,
    right: Namespace,
    node: Option<Namespace>,
    /// Whom the sending end addresses.
    next_hop: MacAddr,
    _identity: Identity,
}

impl Stage {
    /// Makes the namespaces of a lab of this name.
    ///
    /// # Errors
    /// [`LabError`] without rights, or for a name that is none; nothing is left behind.
    pub fn bring_up(name: &str, between: Between) -> Result<Self, LabError> {
        let identity = Identity::claim(name)?;
        let make = |role: &str| identity.namespace(role);
        let (left, right) = (make("left")?, make("right")?);
        let node = match between {
            Between::Kernel => Some(make("node")?),
            Between::Nothing => None,
        };
        match &node {
            None => wire((&left, OUT), (&right, IN))?,
            Some(node) => {
                wire((&left, OUT), (node, LEFT))?;
                wire((&right, IN), (node, RIGHT))?;
                forward(node, mac(&right, IN)?)?;
            }
        }
        let next_hop = match &node {
            None => mac(&right, IN)?,
            Some(node) => mac(node, LEFT)?,
        };
        Ok(Self {
            left,
            right,
            node,
            next_hop,
            _identity: identity,
        })
    }

    /// Where the sending end is.
    #[must_use]
    pub fn left(&self) -> &Namespace {
        &self.left
    }

    /// Where the receiving end is.
    #[must_use]
    pub fn right(&self) -> &Namespace {
        &self.right
    }

    /// The node between them.
    #[must_use]
    pub fn node(&self) -> Option<&Namespace> {
        self.node.as_ref()
    }

    /// The settings for it: who sends to whom.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.send.interface = Some(OUT.to_owned());
        settings.send.netns = Some(self.left.name().to_owned());
        settings.receive.interface = Some(IN.to_owned());
        settings.receive.netns = Some(self.right.name().to_owned());
        settings.packets.destination_mac = Some(self.next_hop);
        settings.tunnel = Wrap::default();
        settings
    }
}

fn wire(
    (one, one_name): (&Namespace, &str),
    (other, other_name): (&Namespace, &str),
) -> Result<(), LabError> {
    let queues = ["numtxqueues", QUEUES, "numrxqueues", QUEUES];
    let near = ["link", "add", one_name];
    let far = ["peer", "name", other_name, "netns", other.name()];
    one.ip(&[&near[..], &queues, &["type", "veth"], &far, &queues].concat())?;
    for (namespace, name) in [(one, one_name), (other, other_name)] {
        // No router solicitations among the packets that are counted.
        namespace.set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
        namespace.ip(&["link", "set", name, "up"])?;
    }
    Ok(())
}

fn forward(node: &Namespace, receiver: MacAddr) -> Result<(), LabError> {
    node.set("ipv4/ip_forward", "1")?;
    node.ip(&["address", "add", "198.18.255.254/16", "dev", LEFT])?;
    node.ip(&["address", "add", "198.19.255.254/24", "dev", RIGHT])?;
    let receiver = receiver.to_string();
    // The receiving end answers nobody: the node must know it already.
    node.ip(&[
        "neighbour",
        "add",
        "198.19.255.1",
        "lladdr",
        &receiver,
        "dev",
        RIGHT,
        "nud",
        "permanent",
    ])?;
    node.ip(&["route", "add", "198.19.0.0/17", "via", "198.19.255.1"])?;
    Ok(())
}

fn mac(namespace: &Namespace, interface: &str) -> Result<MacAddr, LabError> {
    let place = Place::inside(interface, namespace.name());
    let failed =
        |error: PktgenError| LabError::io("look at an interface")(std::io::Error::other(error.to_string()));
    place.facts().map(|facts| facts.mac).map_err(failed)
}
