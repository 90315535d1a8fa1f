//! The groups in which solicitations for addresses of ours are heard.
//!
//! Being in a group makes the NIC take its frames and tells switches that snoop where to send them (RFC 4861 section
//! 7.2.1, RFC 4541 section 3). A socket that nothing is read from is enough for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with, sockopt};

use super::frames::solicited_node;

/// Most groups of one socket: the kernel keeps them in the socket's option memory, which is small.
const GROUPS_PER_SOCKET: usize = 32;

/// The groups that are joined on one interface.
#[derive(Debug)]
pub(super) struct Groups {
    ifindex: u32,
    sockets: Vec<OwnedFd>,
    /// By which socket each is joined.
    joined: BTreeMap<Ipv6Addr, usize>,
}

impl Groups {
    pub(super) fn new(ifindex: u32) -> Self {
        Self {
            ifindex,
            sockets: Vec::new(),
            joined: BTreeMap::new(),
        }
    }

    /// Joins and leaves so that solicitations for these addresses are heard, and no others by our doing.
    pub(super) fn follow<'a>(&mut self, addresses: impl Iterator<Item = &'a IpAddr>) -> Result<(), Errno> {
        let groups: BTreeSet<Ipv6Addr> = addresses
            .filter_map(|address| match address {
                IpAddr::V6(address) => Some(solicited_node(*address)),
                IpAddr::V4(_) => None,
            })
            .collect();
        let left: Vec<_> = self
            .joined
            .extract_if(.., |group, _| !groups.contains(group))
            .collect();
        for (group, place) in left {
            if let Some(socket) = self.sockets.get(place) {
                // It goes with the interface or the socket at the latest.
                let _ = sockopt::set_ipv6_drop_membership(socket, &group, self.ifindex);
            }
        }
        for group in groups {
            if !self.joined.contains_key(&group) {
                self.join(group)?;
            }
        }
        Ok(())
    }

    fn join(&mut self, group: Ipv6Addr) -> Result<(), Errno> {
        let members = |place: usize| self.joined.values().filter(|joined| **joined == place).count();
        let place = (0..self.sockets.len())
            .find(|place| members(*place) < GROUPS_PER_SOCKET)
            .unwrap_or(self.sockets.len());
        if place == self.sockets.len() {
            let flags = SocketFlags::CLOEXEC;
            self.sockets
                .push(socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?);
        }
        let socket = self.sockets.get(place).ok_or(Errno::INVAL)?;
        sockopt::set_ipv6_add_membership(socket, &group, self.ifindex)?;
        self.joined.insert(group, place);
        Ok(())
    }
}
