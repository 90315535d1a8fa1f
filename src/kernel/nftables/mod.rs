//! The node's own connections to Services that it has at its own addresses.
//!
//! What the node sends to an address of its own never reaches a port of the switch: the kernel's local table comes
//! before every route. So such a connection is given the pods' gateway as its destination, the port kept, when it
//! begins; the gateway is reached over the host port, and the switch answers for it. The kernel's connection tracking
//! turns the replies back, so the program that called sees the address it called. It is done by a table of nftables of
//! our own with one chain in the output hook; the tables of others are not touched. 127.0.0.0/8 and ::1 are not served,
//! as they are not by kube-proxy's nftables mode.
//!
//! Such a connection thinks it stays within the machine, and would send and ask for segments as large as the loopback
//! interface has. What the kernel says about them when they do not fit the host port does not help it (seen on 6.18: it
//! stalls). So the largest segment is lowered to the host port's on TCP connections over it.
//!
//! The table is made anew with each change, in one transaction of the kernel
//! ([`nft(8)`](https://man7.org/linux/man-pages/man8/nft.8.html), "Ruleset"): every packet meets either the old or the
//! new one. Without anything to serve there is none, because a chain of type `nat` turns connection tracking on for the
//! whole node.

mod batch;
mod expression;
mod listing;
mod number;

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;

use self::batch::{Batch, Chain};
use self::expression::{Direction, Family, Lookup};
use super::error::KernelError;
use super::request::Kernel;

pub use self::listing::{ChainName, chains};

/// The name of our table, of the family `inet`.
pub const OUTPUT_TABLE: &str = "millrace";
/// Where connections are turned. Before those who translate destinations at the usual place (`NF_IP_PRI_NAT_DST`, -100):
/// who comes first decides, and a container engine may take whole addresses of the node.
const OUTPUT: Chain = Chain {
    name: "output",
    kind: "nat",
    hook: number::HOOK_LOCAL_OUT,
    priority: -110,
};
/// Where segments are made to fit: last before the interface, and first behind it (`NF_IP_PRI_MANGLE`).
const SENT: Chain = Chain {
    name: "sent",
    kind: "filter",
    hook: number::HOOK_POST_ROUTING,
    priority: -150,
};
const RECEIVED: Chain = Chain {
    name: "received",
    kind: "filter",
    hook: number::HOOK_LOCAL_IN,
    priority: -150,
};
/// Elements of a set in one message, whose length is a 16-bit number.
const ELEMENTS_PER_MESSAGE: usize = 1000;

/// A protocol's number and a port, host byte order.
pub type ProtocolPort = (u8, u16);

/// Services that are at this node's own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnServices {
    /// The kernel's end of the host port.
    pub interface: String,
    /// Its longest packet in bytes, without the Ethernet header.
    pub mtu: u16,
    /// The node's own addresses, at which node ports are served; loopback addresses are left out.
    pub addresses: Vec<IpAddr>,
    /// Ports served at each of those addresses.
    pub node_ports: Vec<ProtocolPort>,
    /// Ports served at single addresses.
    pub ports: Vec<(IpAddr, ProtocolPort)>,
    /// Whom connections are turned to, at most one per family; a family without is not served.
    pub gateways: Vec<IpAddr>,
}

impl OwnServices {
    /// Whether there is nothing to serve.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        Family::ALL.iter().all(|family| self.part(*family).is_none())
    }

    fn part(&self, family: Family) -> Option<Part> {
        let is_served = |address: &IpAddr| family.is_of(*address) && !address.is_loopback();
        let gateway = self
            .gateways
            .iter()
            .copied()
            .find(|gateway| family.is_of(*gateway))?;
        let addresses = self.addresses.iter().copied().filter(is_served);
        let ports = self
            .ports
            .iter()
            .copied()
            .filter(|(address, _)| is_served(address));
        let part = Part {
            family,
            gateway,
            addresses: addresses.collect(),
            ports: ports.collect(),
        };
        let has_node_ports = !part.addresses.is_empty() && !self.node_ports.is_empty();
        (has_node_ports || !part.ports.is_empty()).then_some(part)
    }
}

/// What is served of one family.
struct Part {
    family: Family,
    gateway: IpAddr,
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<(IpAddr, ProtocolPort)>,
}

impl Kernel {
    /// Sees that the node's own connections to these Services, and no others, are turned to the switch. What was turned
    /// before is replaced in one step. Acts in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`KernelError::Refused`] or [`KernelError::Socket`], with the step; a kernel without nf_tables or its `nat`
    /// chains is among the reasons. Everything is as it was then.
    pub fn set_own_services(&self, wanted: &OwnServices) -> Result<(), KernelError> {
        if wanted.is_empty() {
            return self.remove_own_services().map(|_| ());
        }
        let mut batch = Batch::new();
        // Made first, so that there is one to remove; both are no news if it was not there.
        batch.add_table(OUTPUT_TABLE);
        batch.remove_table(OUTPUT_TABLE);
        batch.add_table(OUTPUT_TABLE);
        for chain in [OUTPUT, SENT, RECEIVED] {
            batch.add_chain(OUTPUT_TABLE, &chain);
        }
        let node_ports: BTreeSet<ProtocolPort> = wanted.node_ports.iter().copied().collect();
        let keys = node_ports
            .iter()
            .map(|port| expression::port_key(*port))
            .collect();
        add_set(&mut batch, Lookup::NODE_PORTS, keys);
        for part in Family::ALL.iter().filter_map(|family| wanted.part(*family)) {
            add_part(&mut batch, &part);
            fit_segments(&mut batch, part.family, wanted);
        }
        batch.commit()
    }

    /// Turns none of the node's connections any more. Says whether any was.
    ///
    /// # Errors
    /// [`KernelError::Refused`] or [`KernelError::Socket`].
    pub fn remove_own_services(&self) -> Result<bool, KernelError> {
        let mut batch = Batch::new();
        batch.remove_table(OUTPUT_TABLE);
        match batch.commit() {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether our table is there; others may have cleared all tables.
    ///
    /// # Errors
    /// [`KernelError::Refused`] or [`KernelError::Socket`].
    pub fn has_own_services(&self) -> Result<bool, KernelError> {
        match batch::find_table(OUTPUT_TABLE) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// No such table, or a kernel that has no tables at all.
fn is_absent(error: &KernelError) -> bool {
    error.is(Errno::ENOENT) || error.is(Errno::EOPNOTSUPP) || error.is(Errno::EPROTONOSUPPORT)
}

fn add_part(batch: &mut Batch, part: &Part) {
    let family = part.family;
    let addresses = part
        .addresses
        .iter()
        .map(|address| expression::address_key(*address));
    add_set(batch, Lookup::addresses(family), addresses.collect());
    let ports = part.ports.iter();
    let keys = ports
        .map(|(address, port)| [expression::address_key(*address), expression::port_key(*port)].concat());
    add_set(batch, Lookup::services(family), keys.collect());
    let turn = expression::turn_to(family, part.gateway);
    let single = [
        expression::only(family),
        expression::in_services(family),
        turn.clone(),
    ]
    .concat();
    let every = [expression::only(family), expression::in_node_ports(family), turn].concat();
    batch.add_rule(OUTPUT_TABLE, OUTPUT.name, single);
    batch.add_rule(OUTPUT_TABLE, OUTPUT.name, every);
}

fn fit_segments(batch: &mut Batch, family: Family, wanted: &OwnServices) {
    for (chain, direction) in [(SENT, Direction::Sent), (RECEIVED, Direction::Received)] {
        let rule = [
            expression::only_by(direction, &wanted.interface),
            expression::only(family),
            expression::lower_segments(family, wanted.mtu),
        ];
        batch.add_rule(OUTPUT_TABLE, chain.name, rule.concat());
    }
}

fn add_set(batch: &mut Batch, set: Lookup, keys: Vec<Vec<u8>>) {
    batch.add_set(OUTPUT_TABLE, set.name, set.key_type, set.key_len);
    for some in keys.chunks(ELEMENTS_PER_MESSAGE) {
        batch.add_elements(OUTPUT_TABLE, set.name, some);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn what_cannot_be_served_needs_no_table() {
        let addresses: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let full = OwnServices {
            interface: "millrace0".to_owned(),
            mtu: 1450,
            addresses: addresses.clone(),
            node_ports: vec![(6, 30_080)],
            ports: vec![(addresses[0], (6, 80))],
            gateways: vec!["10.244.1.1".parse().unwrap()],
        };
        let v4 = full.part(Family::V4).unwrap();
        assert_eq!((v4.addresses.len(), v4.ports.len()), (1, 1));
        assert!(full.part(Family::V6).is_none(), "no gateway of its family");
        type Change = fn(&mut OwnServices);
        let rows: [(&str, bool, Change); 6] = [
            ("all", false, |_| {}),
            ("no gateway", true, |wanted| wanted.gateways.clear()),
            ("single ports", false, |wanted| wanted.node_ports.clear()),
            ("node ports", false, |wanted| wanted.ports.clear()),
            ("node ports of no address", true, |wanted| {
                wanted.ports.clear();
                wanted.addresses = vec!["127.0.0.1".parse().unwrap()];
            }),
            ("loopback", true, |wanted| {
                wanted.node_ports.clear();
                wanted.ports = vec![("127.0.0.2".parse().unwrap(), (6, 80))];
            }),
        ];
        for (name, is_empty, change) in rows {
            let mut wanted = full.clone();
            change(&mut wanted);
            assert_eq!(wanted.is_empty(), is_empty, "{name}");
        }
    }
}
