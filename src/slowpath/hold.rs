//! Packets that wait for a next hop's link address: few for each, few in all, and not for long.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use millrace_dataplane::port::PortId;
use millrace_dataplane::table::NetworkId;

use super::onward::NextHop;

/// Packets that may wait for one next hop.
pub(super) const HELD_PER_NEXT_HOP: usize = 64;
/// Packets that may wait in all.
pub(super) const HELD_MAX: usize = 1024;
/// Of those, packets that came in at one port: a pod that talks to many who do not answer leaves room for others.
pub(super) const HELD_PER_PORT: usize = HELD_MAX / 4;
/// Next hops that are kept in mind, with packets or without.
const NEXT_HOPS_MAX: usize = 2 * HELD_MAX;
/// How long a packet waits.
pub(super) const HOLD_TIME: Duration = Duration::from_secs(3);
/// How long a next hop is not asked for again.
pub(super) const ASK_PAUSE: Duration = Duration::from_secs(1);

/// A packet that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// The worker it came from, which will send it on.
    pub(super) worker: usize,
    /// Where it came in.
    pub(super) ingress: PortId,
    /// The network that it came in.
    pub(super) network: NetworkId,
    /// Whom it is for, and in the tables of which network that is looked up.
    pub(super) towards: (NetworkId, IpAddr),
    /// The packet, Ethernet header first.
    pub(super) packet: Box<[u8]>,
}

/// What has to do with one next hop.
#[derive(Debug, Default)]
struct Queue {
    asked: Option<Instant>,
    /// With the instant at which each has waited long enough; the oldest is first.
    packets: VecDeque<(Instant, Held)>,
}

impl Queue {
    fn is_forgettable(&self, now: Instant) -> bool {
        self.packets.is_empty()
            && self
                .asked
                .is_none_or(|asked| now.duration_since(asked) >= ASK_PAUSE)
    }
}

/// All packets that wait.
#[derive(Debug, Default)]
pub(super) struct HoldTable {
    /// Sorted, so that packets leave in an order that does not change from run to run.
    queues: BTreeMap<NextHop, Queue>,
    held: usize,
    by_port: HashMap<PortId, usize>,
}

impl HoldTable {
    /// How many packets wait.
    pub(super) fn len(&self) -> usize {
        self.held
    }

    /// Whether the next hop is to be asked for now; if so, that is remembered. It is not while another request is
    /// fresh, or when too many next hops are in mind.
    pub(super) fn ask(&mut self, next_hop: NextHop, now: Instant) -> bool {
        if !self.make_room(next_hop, now) {
            return false;
        }
        let queue = self.queues.entry(next_hop).or_default();
        let is_fresh = queue
            .asked
            .is_some_and(|asked| now.duration_since(asked) < ASK_PAUSE);
        if !is_fresh {
            queue.asked = Some(now);
        }
        !is_fresh
    }

    /// Lets the next packet ask again: the last request has not got through.
    pub(super) fn unask(&mut self, next_hop: NextHop) {
        if let Some(queue) = self.queues.get_mut(&next_hop) {
            queue.asked = None;
        }
    }

    /// Keeps a packet until its next hop is known or [`HOLD_TIME`] is over; `false` if there is no room for it.
    pub(super) fn hold(&mut self, next_hop: NextHop, held: Held, now: Instant) -> bool {
        let from_port = self.by_port.get(&held.ingress).copied().unwrap_or(0);
        if self.held >= HELD_MAX || from_port >= HELD_PER_PORT || !self.make_room(next_hop, now) {
            return false;
        }
        let queue = self.queues.entry(next_hop).or_default();
        if queue.packets.len() >= HELD_PER_NEXT_HOP {
            return false;
        }
        self.held += 1;
        self.by_port.insert(held.ingress, from_port + 1);
        queue.packets.push_back((now + HOLD_TIME, held));
        true
    }

    /// Takes out every packet that `is_clear` says may go on.
    pub(super) fn release(&mut self, mut is_clear: impl FnMut(&Held) -> bool) -> Vec<Held> {
        self.take(|_, held| is_clear(held))
    }

    /// Takes out every packet that has waited long enough, and forgets next hops that nobody asks for any more.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Held> {
        let expired = self.take(|until, _| until <= now);
        self.queues.retain(|_, queue| !queue.is_forgettable(now));
        expired
    }

    /// Takes out what `is_due` says, in order.
    fn take(&mut self, mut is_due: impl FnMut(Instant, &Held) -> bool) -> Vec<Held> {
        let mut taken = Vec::new();
        for queue in self.queues.values_mut() {
            let (due, kept): (VecDeque<_>, _) = std::mem::take(&mut queue.packets)
                .into_iter()
                .partition(|(until, held)| is_due(*until, held));
            queue.packets = kept;
            taken.extend(due.into_iter().map(|(_, held)| held));
        }
        self.held -= taken.len();
        for held in &taken {
            if let Some(count) = self.by_port.get_mut(&held.ingress) {
                *count = count.saturating_sub(1);
            }
        }
        self.by_port.retain(|_, count| *count > 0);
        taken
    }

    /// Whether the next hop is in mind or may be taken there.
    fn make_room(&mut self, next_hop: NextHop, now: Instant) -> bool {
        if self.queues.contains_key(&next_hop) {
            return true;
        }
        if self.queues.len() >= NEXT_HOPS_MAX {
            self.queues.retain(|_, queue| !queue.is_forgettable(now));
        }
        self.queues.len() < NEXT_HOPS_MAX
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn port(number: u16) -> PortId {
        PortId::new(number).unwrap()
    }

    fn next_hop(number: usize) -> NextHop {
        let [.., high, low] = number.to_be_bytes();
        (port(0), IpAddr::from([192, 0, high, low]))
    }

    fn packet(ingress: u16, mark: u8) -> Held {
        Held {
            worker: 0,
            ingress: port(ingress),
            network: NetworkId::CLUSTER,
            towards: (NetworkId::CLUSTER, IpAddr::from([192, 0, 2, mark])),
            packet: Box::new([mark]),
        }
    }

    #[test]
    fn every_bound_holds_and_room_comes_back() {
        let now = Instant::now();
        let mut table = HoldTable::default();
        let full = (0..100)
            .filter(|mark| table.hold(next_hop(0), packet(1, *mark), now))
            .count();
        assert_eq!(full, HELD_PER_NEXT_HOP);
        let full = (1..1000)
            .filter(|hop| table.hold(next_hop(*hop), packet(1, 0), now))
            .count();
        assert_eq!(full, HELD_PER_PORT - HELD_PER_NEXT_HOP, "the port's share");
        let full = (0..2000_u16)
            .filter(|i| table.hold(next_hop((*i).into()), packet(2 + i % 50, 0), now))
            .count();
        assert_eq!(full, HELD_MAX - HELD_PER_PORT, "all there is");
        assert_eq!(table.len(), HELD_MAX);
        assert_eq!(table.release(|_| true).len(), HELD_MAX);
        assert_eq!(table.len(), 0);
        assert!(table.hold(next_hop(0), packet(1, 0), now));
        assert_eq!(table.by_port, HashMap::from([(port(1), 1)]));
    }

    #[test]
    fn packets_leave_in_the_order_they_came() {
        let start = Instant::now();
        let mut table = HoldTable::default();
        for mark in 0..4 {
            let later = start + Duration::from_millis(u64::from(mark) * 500);
            assert!(table.hold(next_hop(0), packet(1, mark), later));
        }
        let marks = |held: Vec<Held>| held.iter().map(|held| held.packet[0]).collect::<Vec<_>>();
        assert!(
            table
                .expire(start + HOLD_TIME - Duration::from_nanos(1))
                .is_empty()
        );
        assert_eq!(
            marks(table.expire(start + HOLD_TIME + Duration::from_millis(500))),
            [0, 1]
        );
        assert_eq!(marks(table.release(|held| held.packet[0] == 3)), [3]);
        assert_eq!(marks(table.release(|_| true)), [2]);
    }

    #[test]
    fn a_next_hop_is_asked_for_once_a_second() {
        let start = Instant::now();
        let mut table = HoldTable::default();
        let asked: Vec<_> = [0, 1, 999, 1000, 1500, 2000]
            .into_iter()
            .filter(|ms| table.ask(next_hop(0), start + Duration::from_millis(*ms)))
            .collect();
        assert_eq!(asked, [0, 1000, 2000]);
        assert!(
            table.ask(next_hop(1), start),
            "another one has a pause of its own"
        );
        table.unask(next_hop(0));
        assert!(table.ask(next_hop(0), start + Duration::from_millis(2001)));
        table.expire(start + Duration::from_secs(9));
        assert!(table.queues.is_empty());
    }

    #[test]
    fn next_hops_without_packets_are_bounded_too() {
        let start = Instant::now();
        let mut table = HoldTable::default();
        let asked = (0..3 * NEXT_HOPS_MAX)
            .filter(|hop| table.ask(next_hop(*hop), start))
            .count();
        assert_eq!(asked, NEXT_HOPS_MAX);
        assert!(!table.hold(next_hop(NEXT_HOPS_MAX), packet(1, 0), start));
        assert!(
            table.ask(next_hop(NEXT_HOPS_MAX), start + ASK_PAUSE),
            "the old ones may be forgotten"
        );
        assert_eq!(table.queues.len(), 1);
    }
}
