//! What the resolver counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Queries that came by UDP.
    Udp,
    /// Queries that came by TCP.
    Tcp,
    /// Answers with what was asked for.
    Answered,
    /// Answers that there is such a name, but nothing of the kind that was asked for.
    NoData,
    /// Answers that there is no such name.
    NoName,
    /// Answers that a name server did not come up with one, or none was asked since too many are being asked.
    Failed,
    /// Answers that this is not answered here: no name server to ask, a zone transfer, another class.
    Refused,
    /// Queries that make no sense, and are told so.
    Malformed,
    /// What is no query, and not answered.
    Ignored,
    /// Answers that did not fit a datagram: the client asks again by TCP.
    Truncated,
    /// Queries that were passed on to a name server.
    Forwarded,
    /// Queries that were not passed on, since too many were waiting.
    Crowded,
    /// Queries that were not answered, since the client had asked for too much in that second.
    OverRate,
    /// TCP connections that were closed at once, since there were too many, of this client or of all.
    TurnedAway,
    /// Name servers that were found to ask the resolver itself.
    Loops,
}

impl Count {
    const ALL: [(Self, &'static str); 15] = [
        (Self::Udp, "queries_udp"),
        (Self::Tcp, "queries_tcp"),
        (Self::Answered, "answered"),
        (Self::NoData, "no_data"),
        (Self::NoName, "no_such_name"),
        (Self::Failed, "failed"),
        (Self::Refused, "refused"),
        (Self::Malformed, "malformed"),
        (Self::Ignored, "ignored"),
        (Self::Truncated, "truncated"),
        (Self::Forwarded, "forwarded"),
        (Self::Crowded, "crowded"),
        (Self::OverRate, "over_rate"),
        (Self::TurnedAway, "tcp_turned_away"),
        (Self::Loops, "upstream_loops"),
    ];
}

/// The resolver's counters.
#[derive(Debug, Default)]
pub struct DnsStats {
    counts: [AtomicU64; Count::ALL.len()],
}

impl DnsStats {
    /// Counts one more.
    pub(super) fn count(&self, what: Count) {
        if let Some(counter) = self.counts.get(what as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them, by name.
    #[must_use]
    pub fn read(&self) -> BTreeMap<String, u64> {
        let read = self.counts.iter().zip(Count::ALL);
        read.map(|(counter, (_, name))| (name.to_owned(), counter.load(Ordering::Relaxed)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_its_own_name() {
        for (place, (count, name)) in Count::ALL.into_iter().enumerate() {
            assert_eq!(count as usize, place, "{name}");
        }
        let stats = DnsStats::default();
        stats.count(Count::Loops);
        let read = stats.read();
        assert_eq!(
            (read.len(), read["upstream_loops"], read["queries_udp"]),
            (15, 1, 0)
        );
    }
}
