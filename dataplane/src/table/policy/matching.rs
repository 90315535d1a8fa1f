//! Which rules match one connection: rows laid over one another, and how the rows are found.

use super::rows::{RowId, Rows};
use crate::wire::IpProtocol;

/// The row of a key in a sorted list.
#[inline]
pub(super) fn find<K: Ord>(sorted: &[(K, RowId)], key: &K) -> RowId {
    let place = sorted.binary_search_by(|(known, _)| known.cmp(key));
    place
        .ok()
        .and_then(|place| sorted.get(place))
        .map_or(Rows::EMPTY, |(_, row)| *row)
}

/// The rules that match one connection, as rows to be laid over one another.
pub(super) struct Matching<'r> {
    pub(super) everyone: &'r [u64],
    pub(super) address: &'r [u64],
    pub(super) identity: &'r [u64],
    pub(super) port: &'r [u64],
    pub(super) identity_port: &'r [u64],
}

impl Matching<'_> {
    /// The place of the first rule that matches, from `from` on.
    #[inline]
    pub(super) fn first(&self, from: usize) -> Option<usize> {
        let peers = self.everyone.iter().zip(self.address).zip(self.identity);
        let ports = self.port.iter().zip(self.identity_port);
        let words = peers.zip(ports).enumerate().skip(from / 64);
        for (at, (((everyone, address), identity), (port, identity_port))) in words {
            let mut word = (everyone | address | identity) & (port | identity_port);
            if at == from / 64 {
                word &= u64::MAX << (from % 64);
            }
            if word != 0 {
                return Some(at * 64 + word.trailing_zeros() as usize);
            }
        }
        None
    }
}

/// Ports of all protocols in one order. What has no ports comes last, as one.
#[inline]
pub(super) fn port_key(protocol: IpProtocol, port: u16) -> u32 {
    const TCP: u32 = 0;
    const UDP: u32 = 1;
    const SCTP: u32 = 2;
    const OTHER: u32 = 3;
    let (protocol, port) = match protocol {
        IpProtocol::TCP => (TCP, port),
        IpProtocol::UDP => (UDP, port),
        IpProtocol::SCTP => (SCTP, port),
        _ => (OTHER, 0),
    };
    protocol << 16 | u32::from(port)
}
