//! What the slow path says: answers for addresses of the switch's own, and ICMP errors, each in the network of the packet that it
//! is about.

use std::net::IpAddr;
use std::time::Instant;

use millrace_dataplane::stats::Counter;
use millrace_dataplane::table::{NetworkId, NodeTables};
use millrace_dataplane::worker::{Injection, Origin, Way};

use super::SlowPath;
use super::complaint::{self, Complaint};
use super::original::Original;
use super::stats::Silence;
use super::to_switch::Answer;

impl SlowPath {
    /// Sends what a host at the packet's destination would answer.
    pub(super) fn speak(
        &mut self,
        answer: Answer,
        (original, network): (&Original<'_>, NetworkId),
        now: Instant,
    ) -> Result<Injection, Silence> {
        let packet = match answer {
            Answer::Echo(packet) => {
                self.stats.echo_replies.add(1);
                packet
            }
            Answer::Reset(packet) => {
                self.check_rate((original, network), now)?;
                self.stats.resets_sent.add(1);
                packet
            }
            Answer::Complain(complaint) => {
                return self.complain_from(original.destination, (original, network), complaint, now);
            }
        };
        Ok(Injection {
            way: Way::Walk(Origin::Switch(network)),
            packet,
        })
    }

    /// Makes an ICMP error about a packet that goes through the switch.
    pub(super) fn complain(
        &mut self,
        original: &Original<'_>,
        complaint: Complaint,
        tables: &NodeTables,
        now: Instant,
    ) -> Result<Injection, Silence> {
        original.check_error_allowed()?;
        if tables.local.gateways.contains(&original.source) {
            // It would come back here.
            return Err(Silence::Address);
        }
        let source = complaint::source(tables, original.source)?;
        self.complain_from(source, (original, tables.network), complaint, now)
    }

    /// Makes an ICMP error from a given address, if there have not been too many.
    fn complain_from(
        &mut self,
        source: IpAddr,
        (original, network): (&Original<'_>, NetworkId),
        complaint: Complaint,
        now: Instant,
    ) -> Result<Injection, Silence> {
        self.check_rate((original, network), now)?;
        let id = self.next_id();
        let packet = complaint
            .compose(original, source, id)
            .ok_or(Silence::Malformed)?;
        self.sent(complaint).add(1);
        Ok(Injection {
            way: Way::Walk(Origin::Switch(network)),
            packet,
        })
    }

    fn check_rate(
        &mut self,
        (original, network): (&Original<'_>, NetworkId),
        now: Instant,
    ) -> Result<(), Silence> {
        if self.limiter.take_in(network, original.source, now) {
            Ok(())
        } else {
            Err(Silence::RateLimited)
        }
    }

    /// The counter of a complaint that is sent.
    fn sent(&self, complaint: Complaint) -> &Counter {
        match complaint {
            Complaint::TimeExceeded => &self.stats.time_exceeded_sent,
            Complaint::TooBig { .. } => &self.stats.too_big_sent,
            Complaint::NoRoute | Complaint::HostUnreachable => &self.stats.unreachable_sent,
            Complaint::PortUnreachable => &self.stats.port_unreachable_sent,
            Complaint::ProtocolUnreachable => &self.stats.protocol_unreachable_sent,
        }
    }

    pub(super) fn next_id(&mut self) -> u16 {
        self.id = self.id.wrapping_add(1);
        self.id
    }
}
