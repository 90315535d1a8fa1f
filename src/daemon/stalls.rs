//! Queues of the uplink that have frames to send and do not send: each is said once, and said again when it goes on.
//!
//! They are not bound anew by themselves. All of the port would be, and its other queues lose what they have under way, for a
//! link partner that only pauses; and it takes a reset of the device's queue, which a device that stands still need not be up
//! to: QEMU 7.2 fails an assertion and ends (`flush_or_purge_queued_packets` in `hw/net/virtio-net.c`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use millrace_dataplane::port::QueueId;
use millrace_dataplane::table::Role;
use tracing::{info, warn};

use super::Daemon;

/// How long a queue stands still until that is said: longer than a link partner pauses it under load.
const SAY_AFTER: Duration = Duration::from_secs(3);

/// A queue that stood still when it was looked at.
#[derive(Debug)]
struct Stall {
    since: Instant,
    said: bool,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Stopped(QueueId, Duration),
    Resumed(QueueId, Duration),
}

/// The queues that stand still.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    queues: BTreeMap<QueueId, Stall>,
}

impl Stalls {
    /// Takes what is seen now: each queue, and whether it stands still.
    fn follow(&mut self, now: Instant, seen: &[(QueueId, bool)]) -> Vec<News> {
        let mut news = Vec::new();
        self.queues.retain(|queue, stall| {
            let stands = seen.contains(&(*queue, true));
            if !stands && stall.said {
                news.push(News::Resumed(*queue, now.duration_since(stall.since)));
            }
            stands
        });
        for (queue, _) in seen.iter().filter(|(_, stands)| *stands) {
            let (since, said) = (now, false);
            let stall = self.queues.entry(*queue).or_insert(Stall { since, said });
            let lasted = now.duration_since(stall.since);
            if !stall.said && lasted >= SAY_AFTER {
                stall.said = true;
                news.push(News::Stopped(*queue, lasted));
            }
        }
        news
    }
}

impl Daemon {
    /// Says which of the uplink's queues have stopped sending while it has its link, and which go on.
    pub(super) fn follow_stalls(&mut self) {
        let uplink = self.ports.of_role(Role::Uplink);
        // Without a link nothing is to be sent, and that is said already.
        let Some((_, port)) = uplink.filter(|_| self.uplink_is_up) else {
            self.stalls = Stalls::default();
            return;
        };
        let name = &port.interface;
        let counters: Vec<_> = port.attached.seats.iter().map(|seat| seat.stats.read()).collect();
        let seen: Vec<_> = counters
            .iter()
            .map(|counters| (counters.queue, counters.stalled_ms > 0))
            .collect();
        for news in self.stalls.follow(Instant::now(), &seen) {
            match news {
                News::Stopped(queue, lasted) => {
                    let found = counters.iter().find(|counters| counters.queue == queue);
                    let waiting = found.map_or(0, |counters| counters.tx_waiting);
                    let held = found.map_or(0, |counters| counters.tx_under_way.saturating_sub(waiting));
                    warn!(
                        "{name}: queue {queue} has sent nothing for {} s: {waiting} frames wait in its transmit ring, {held} \
                         are with the device, and what finds the ring full is dropped as transmit_ring_full. The device is \
                         called on every second, and all goes on with the first frame that it takes. What keeps it may be a \
                         link partner that pauses it (`ethtool -S {name}`), or its driver (the kernel's log): if neither \
                         lets go, a restart of millrace binds the queue anew",
                        lasted.as_secs()
                    );
                }
                News::Resumed(queue, lasted) => {
                    info!("{name}: queue {queue} sends again, after {} s", lasted.as_secs());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(1);

    /// What is to be said, second by second.
    fn run(stalls: &mut Stalls, start: Instant, seconds: std::ops::Range<u64>, stands: bool) -> Vec<News> {
        let seen = [(QueueId(0), false), (QUEUE, stands)];
        seconds
            .flat_map(|second| stalls.follow(start + Duration::from_secs(second), &seen))
            .collect()
    }

    #[test]
    fn a_stall_is_said_once_and_its_end_too() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        let seconds = Duration::from_secs;
        assert_eq!(run(&mut stalls, start, 0..3, true), []);
        assert_eq!(
            run(&mut stalls, start, 3..9, true),
            [News::Stopped(QUEUE, seconds(3))]
        );
        assert_eq!(
            run(&mut stalls, start, 9..20, false),
            [News::Resumed(QUEUE, seconds(9))]
        );
        assert_eq!(
            run(&mut stalls, start, 20..24, true),
            [News::Stopped(QUEUE, seconds(3))]
        );
    }

    #[test]
    fn a_short_stall_is_not_said() {
        let (mut stalls, start) = (Stalls::default(), Instant::now());
        assert_eq!(run(&mut stalls, start, 0..2, true), []);
        assert_eq!(run(&mut stalls, start, 2..3, false), []);
        assert_eq!(run(&mut stalls, start, 3..5, true), []);
    }
}
