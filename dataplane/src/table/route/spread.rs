//! Several ways to one destination, and which of them a flow takes.

use std::net::IpAddr;

use super::Target;
use crate::table::HashKey;

/// One of several ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hop {
    /// Where it leads; never to several ways again.
    pub target: Target,
    /// The next hop's address, by which the way is known among the others: its flows are its own as long as it has
    /// it, whatever numbers are given anew.
    pub address: IpAddr,
    /// Its share of the flows among the others', at least 1.
    pub weight: u16,
}

/// Several ways to one destination, each with its share of the flows.
///
/// A flow falls on one of 256 places by its hash, and each place belongs to the way that draws the highest lot for it
/// (rendezvous hashing, Thaler and Ravishankar 1998, with weights). So a way that goes gives its places to the
/// others and moves no other flow, and one that comes takes its share and moves none but those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    hops: Box<[Hop]>,
    places: Box<[u8; PLACES]>,
}

/// How many shares there are: 256 keep each of two even ways within 40 % and 60 % of the flows, nearly always.
const PLACES: usize = 256;

/// What draws lots. The same on every node and in every process: after a restart every flow keeps its way. Nothing of it
/// is a secret: who chooses flows that all take one way burdens that way and nothing of this node's.
const LOTS: HashKey = HashKey::from_words([
    0x243f_6a88_85a3_08d3,
    0x1319_8a2e_0370_7344,
    0xa409_3822_299f_31d0,
]);

impl Spread {
    /// Most ways that are used.
    pub const HOPS_MAX: usize = 64;
    /// What flows are hashed with.
    pub const KEY: HashKey = HashKey::from_words([
        0x082e_fa98_ec4e_6c89,
        0x4528_21e6_38d0_1377,
        0xbe54_66cf_34e9_0c6c,
    ]);

    /// Shares the flows out; ways beyond [`Self::HOPS_MAX`] get none. `None` without a way.
    #[must_use]
    pub fn new(hops: &[Hop]) -> Option<Self> {
        let hops = hops.get(..Self::HOPS_MAX).unwrap_or(hops);
        if hops.is_empty() {
            return None;
        }
        let keys: Vec<(u64, f64)> = hops
            .iter()
            .map(|hop| (LOTS.hash(words(hop)), f64::from(hop.weight.max(1))))
            .collect();
        let mut places = Box::new([0; PLACES]);
        for (place, owner) in (0_u64..).zip(places.iter_mut()) {
            let lot = |(key, weight): &(u64, f64)| weight / -unit(LOTS.hash([*key, place])).ln();
            let best = keys
                .iter()
                .enumerate()
                .max_by(|(_, one), (_, other)| lot(one).total_cmp(&lot(other)));
            // INVARIANT: there are fewer ways than a byte counts.
            *owner = best.and_then(|(way, _)| u8::try_from(way).ok()).unwrap_or(0);
        }
        Some(Self {
            hops: hops.into(),
            places,
        })
    }

    /// The ways.
    #[must_use]
    pub fn hops(&self) -> &[Hop] {
        &self.hops
    }

    /// Where the flow with this hash goes.
    #[inline]
    #[must_use]
    pub fn choose(&self, hash: u64) -> Option<Target> {
        let way = self.places[usize::from(hash.to_be_bytes()[0])];
        self.hops.get(usize::from(way)).map(|hop| hop.target)
    }
}

/// What a way draws lots by.
fn words(hop: &Hop) -> [u64; 3] {
    // INVARIANT: both are halves of 128 bits.
    #[allow(clippy::cast_possible_truncation)]
    let halves = |bits: u128| [(bits >> 64) as u64, bits as u64];
    let (family, [high, low]) = match hop.address {
        IpAddr::V4(address) => (4, [0, u64::from(address.to_bits())]),
        IpAddr::V6(address) => (6, halves(address.to_bits())),
    };
    let kind = match hop.target {
        Target::Port(port) | Target::Via { port, .. } | Target::OnLink { port } => port.index() as u64,
        Target::Tunnel(_) => 1 << 32,
        Target::Spread(_) | Target::Switch | Target::Network(_) | Target::Blackhole | Target::Unreachable => {
            1 << 33
        }
    };
    [kind << 8 | family, high, low]
}

/// A number above 0 and below 1, by 52 bits of a hash.
fn unit(hash: u64) -> f64 {
    // INVARIANT: 52 bits fit.
    #[allow(clippy::cast_precision_loss)]
    let fraction = (hash >> 12) as f64;
    (fraction + 0.5) / (1_u64 << 52) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::port::PortId;
    use crate::table::PeerId;

    fn hop(last: u8, weight: u16) -> Hop {
        let address = IpAddr::from([192, 0, 2, last]);
        Hop {
            target: Target::Via {
                port: PortId::new(1).unwrap(),
                next_hop: address,
            },
            address,
            weight,
        }
    }

    fn shares(spread: &Spread) -> Vec<usize> {
        let of = |way: &Hop| {
            let places =
                (0..=u8::MAX).filter(|place| spread.choose(u64::from(*place) << 56) == Some(way.target));
            places.count()
        };
        spread.hops().iter().map(of).collect()
    }

    #[test]
    fn ways_share_by_weight() {
        let even = Spread::new(&[hop(1, 1), hop(2, 1)]).unwrap();
        assert!(
            shares(&even).iter().all(|share| (102..=154).contains(share)),
            "{:?}",
            shares(&even)
        );
        let uneven = Spread::new(&[hop(1, 1), hop(2, 3)]).unwrap();
        assert!((40..=88).contains(&shares(&uneven)[0]), "{:?}", shares(&uneven));
        assert_eq!(shares(&Spread::new(&[hop(1, 0)]).unwrap()), [256]);
        assert!(Spread::new(&[]).is_none());
    }

    #[test]
    fn a_way_that_goes_moves_only_its_own_flows() {
        let all: Vec<Hop> = (1..=5).map(|last| hop(last, 1 + u16::from(last % 2))).collect();
        let before = Spread::new(&all).unwrap();
        for gone in 0..all.len() {
            let mut rest = all.clone();
            let gone = rest.remove(gone);
            let after = Spread::new(&rest).unwrap();
            for hash in (0..=u8::MAX).map(|place| u64::from(place) << 56) {
                let (was, is) = (before.choose(hash).unwrap(), after.choose(hash).unwrap());
                assert!(was == is || was == gone.target, "{was:?} -> {is:?}");
                assert_ne!(is, gone.target);
            }
        }
    }

    #[test]
    fn numbers_of_peers_and_the_order_of_ways_decide_nothing() {
        let peer = |last, id| Hop {
            target: Target::Tunnel(PeerId::new(id)),
            ..hop(last, 1)
        };
        let one = Spread::new(&[peer(1, 0), peer(2, 1)]).unwrap();
        let other = Spread::new(&[peer(2, 7), peer(1, 9)]).unwrap();
        for hash in (0..=u8::MAX).map(|place| u64::from(place) << 56) {
            let is_first = |spread: &Spread, id| spread.choose(hash) == Some(Target::Tunnel(PeerId::new(id)));
            assert_eq!(is_first(&one, 0), is_first(&other, 9));
        }
    }
}
