//! What the slow path did: one counter per thing it can do with a packet.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_dataplane::stats::Counter;
use millrace_dataplane::verdict::Awaited;

/// The counters, as both the thread that writes them and those that read them hold them.
pub type SharedSlowPathStats = Arc<SlowPathStats>;

/// Declares the counters from one list, so that a counter's name and its field cannot drift apart.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// The slow path's counters: the slow-path thread writes them, anyone reads them at any time.
        ///
        /// Every packet from a worker counts once in `punts` and then in exactly one of the counters that say what
        /// became of it; a packet that was held counts again when it leaves, in `released` or `held_expired`.
        #[derive(Debug, Default)]
        pub struct SlowPathStats {
            $($(#[doc = $doc])+ pub(super) $name: Counter,)+
        }

        impl SlowPathStats {
            /// All counters by name. Names never change their meaning.
            #[must_use]
            pub fn read(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$((stringify!($name), self.$name.get()),)+])
            }
        }
    };
}

counters! {
    /// Packets that workers sent here.
    punts,
    /// ARP requests answered.
    arp_replies,
    /// ARP packets that want no answer: replies, announcements, requests for the asker's own addresses.
    arp_ignored,
    /// Neighbour solicitations answered.
    neighbour_advertisements,
    /// Neighbour solicitations that want no answer: for the asker's own addresses, or not as they must be.
    neighbour_ignored,
    /// Echo requests to the switch answered.
    echo_replies,
    /// ICMP time exceeded sent.
    time_exceeded_sent,
    /// ICMP fragmentation needed, or ICMPv6 packet too big, sent.
    too_big_sent,
    /// ICMP destination unreachable sent: no route, or nobody answers at the address. Those for packets that were
    /// held count here as well as in `held_expired`.
    unreachable_sent,
    /// ICMP port unreachable sent for a datagram to the switch itself.
    port_unreachable_sent,
    /// ICMP protocol unreachable, or ICMPv6 parameter problem, sent for a packet to the switch itself.
    protocol_unreachable_sent,
    /// TCP resets sent for a segment to the switch itself.
    resets_sent,
    /// Answers not sent because of the limit per second, for all senders or for this one.
    rate_limited,
    /// Packets that wait, or waited, for a next hop's link address.
    held,
    /// Packets sent on, at once or after they were held, because the next hop's link address is known.
    released,
    /// Packets forgotten because the next hop did not answer in time.
    held_expired,
    /// Packets forgotten because as many are held as may be.
    hold_full,
    /// Next hops that the control plane was asked to resolve.
    neighbour_requests,
    /// Next hops that the control plane had no room to be asked for; they are asked for again with later packets.
    neighbour_requests_lost,
    /// Packets that a worker had no room for, or that were for a worker that has ended.
    inject_failed,
    /// ICMP errors that would have wanted an ICMP error in return, which none may ever get.
    ignored_icmp_error,
    /// Fragments that want no answer: later ones, and any to the switch itself.
    ignored_fragment,
    /// Packets whose addresses allow no answer: to or from a group, or from nobody in particular.
    ignored_address,
    /// Packets to the switch that want no answer: resets, ICMP messages other than echo requests, and packets to
    /// an address that is no longer the switch's.
    ignored_to_switch,
    /// Packets whose headers contradict themselves.
    malformed,
    /// Packets to the switch whose checksum is wrong.
    bad_checksum,
    /// Answers not sent because the switch has no address of that family to send them from.
    no_source,
    /// Packets that came in at a port which has left since.
    port_gone,
    /// Echo requests for whose id the control plane was asked to have replies steered to the switch.
    echo_ids,
    /// Echo requests dropped because the control plane had no room for the question.
    echo_ids_lost,
    /// First packets of protocols without ports for which the control plane was asked to have answers steered to the
    /// switch.
    portless,
    /// Such packets dropped because the control plane had no room for the question.
    portless_lost,
    /// Stations of bridged networks learned.
    stations_learned,
    /// Stations of bridged networks that are somewhere else than before.
    stations_moved,
    /// Moves that did not take effect: of stations that went to and fro, or too many at once.
    moves_refused,
    /// Stations not learned because as many are as may be: behind the port, in the network, or in all.
    stations_no_room,
    /// Stations not learned because they were given another place, or have no station's address.
    stations_refused,
    /// Stations seen where nobody of the network is any more, or where nothing is learned.
    stations_stale,
    /// Stations forgotten because they were silent for too long.
    stations_aged,
    /// ARP requests and neighbour solicitations in bridged networks answered for whoever was asked for.
    discovery_suppressed,
    /// ARP and neighbour messages in bridged networks that went on.
    discovery_passed,
    /// Reports and queries about who listens to which group (IGMP, MLD) that were overheard in bridged networks.
    memberships,
}

/// Why a packet gets no answer: one counter each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Silence {
    /// See [`SlowPathStats::arp_ignored`].
    ArpIgnored,
    /// See [`SlowPathStats::neighbour_ignored`].
    NeighbourIgnored,
    /// See [`SlowPathStats::rate_limited`].
    RateLimited,
    /// See [`SlowPathStats::ignored_icmp_error`].
    IcmpError,
    /// See [`SlowPathStats::ignored_fragment`].
    Fragment,
    /// See [`SlowPathStats::ignored_address`].
    Address,
    /// See [`SlowPathStats::ignored_to_switch`].
    ToSwitch,
    /// See [`SlowPathStats::malformed`].
    Malformed,
    /// See [`SlowPathStats::bad_checksum`].
    BadChecksum,
    /// See [`SlowPathStats::no_source`].
    NoSource,
    /// See [`SlowPathStats::port_gone`].
    PortGone,
}

impl From<millrace_dataplane::wire::Malformed> for Silence {
    fn from(_: millrace_dataplane::wire::Malformed) -> Self {
        // The pipeline has counted every lie it found by name; what is left here is rare enough for one counter.
        Silence::Malformed
    }
}

impl SlowPathStats {
    /// The counters of packets whose answers are to be steered: of those that the control plane was asked about, and of
    /// those that were lost.
    pub(super) fn steering(&self, awaited: Awaited) -> (&Counter, &Counter) {
        match awaited {
            Awaited::Echo(_) => (&self.echo_ids, &self.echo_ids_lost),
            Awaited::Protocol(_) => (&self.portless, &self.portless_lost),
        }
    }

    /// Counts a packet that gets no answer.
    pub(super) fn silent(&self, silence: Silence) {
        let counter = match silence {
            Silence::ArpIgnored => &self.arp_ignored,
            Silence::NeighbourIgnored => &self.neighbour_ignored,
            Silence::RateLimited => &self.rate_limited,
            Silence::IcmpError => &self.ignored_icmp_error,
            Silence::Fragment => &self.ignored_fragment,
            Silence::Address => &self.ignored_address,
            Silence::ToSwitch => &self.ignored_to_switch,
            Silence::Malformed => &self.malformed,
            Silence::BadChecksum => &self.bad_checksum,
            Silence::NoSource => &self.no_source,
            Silence::PortGone => &self.port_gone,
        };
        counter.add(1);
    }
}
