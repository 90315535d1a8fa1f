//! What is set beside the established traffic, and what must have come of it.

use anyhow::ensure;

use super::frames::{
    Frames, PORT_A, PORT_B, PORT_C, PORT_D, PORT_SINK, STATIONS, broadcasts, frames_between, movers,
    strangers,
};
use super::port::Offer;
use super::stand::{STATIONS_PER_PORT, STORM_BURST, STORM_LIMIT, Window};

/// Ports that a broadcast is copied to.
const COPIES: u64 = 4;
/// As many moves of a station as take effect in ten seconds, and how many stations move.
const MOVES: u64 = 5 * 8;

/// The part of what the worker forwards alone that the established traffic is offered at.
const OFFERED: f64 = 0.25;
/// Frames of a trickle in a second: seldom enough that who learns of them sleeps in between.
const TRICKLE: f64 = 50_000.0;

/// What comes in at other ports meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storm {
    /// Nothing, and the established traffic is as much as is taken.
    Alone,
    /// Nothing.
    None,
    /// As much as is taken of frames between stations that are known, at one port or at two.
    Ordinary(u16),
    /// As much as is taken, each frame from a MAC address that nobody has seen, to a station that is known.
    MacFlood,
    /// The same, to a station that is not known.
    MacFloodUnknown,
    /// As much as is taken at two ports, from the same few stations.
    Moves,
    /// As much as is taken of broadcasts, above the storm's limit.
    Broadcasts,
    /// A few frames between stations that are known, beside as much established traffic as is taken.
    Trickle,
    /// The same of frames from MAC addresses that nobody has seen: who is to learn them sleeps in between.
    MacTrickle,
}

impl Storm {
    /// All that is measured, in the order of the table.
    pub(super) const ALL: [Self; 10] = [
        Self::Alone,
        Self::None,
        Self::Ordinary(1),
        Self::Ordinary(2),
        Self::MacFlood,
        Self::MacFloodUnknown,
        Self::Moves,
        Self::Broadcasts,
        Self::Trickle,
        Self::MacTrickle,
    ];

    /// Its name in the summary.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::None => "none",
            Self::Ordinary(1) => "ordinary",
            Self::Ordinary(_) => "ordinary-2",
            Self::MacFlood => "mac-flood",
            Self::MacFloodUnknown => "mac-flood-unknown",
            Self::Moves => "moves",
            Self::Broadcasts => "broadcasts",
            Self::Trickle => "trickle",
            Self::MacTrickle => "mac-trickle",
        }
    }

    /// What it is set beside: the established traffic's rate, where that is as much as is taken; else the rate of the storm's frames,
    /// which ordinary ones come at by as many ports.
    pub(super) fn beside(self) -> Option<Self> {
        match self {
            Self::Alone | Self::None | Self::Ordinary(_) | Self::Trickle => None,
            Self::MacTrickle => Some(Self::Trickle),
            Self::MacFlood | Self::MacFloodUnknown | Self::Broadcasts => Some(Self::Ordinary(1)),
            Self::Moves => Some(Self::Ordinary(2)),
        }
    }

    /// The ports it comes in at.
    fn ports(self) -> &'static [u16] {
        match self {
            Self::Alone | Self::None => &[],
            Self::Ordinary(1)
            | Self::MacFlood
            | Self::MacFloodUnknown
            | Self::Broadcasts
            | Self::Trickle
            | Self::MacTrickle => &[PORT_C],
            Self::Ordinary(_) | Self::Moves => &[PORT_C, PORT_D],
        }
    }

    /// The ports of its own whose stations are known from the start.
    pub(super) fn known(self) -> impl Iterator<Item = u16> {
        let are_known = matches!(self, Self::Ordinary(_) | Self::Broadcasts | Self::Trickle);
        self.ports().iter().copied().filter(move |_| are_known)
    }

    /// Whether the established traffic is as much as is taken.
    pub(super) fn is_filled(self) -> bool {
        matches!(self, Self::Alone | Self::Trickle | Self::MacTrickle)
    }

    /// What comes in at a port, and how much of it, where the worker forwards so many frames a second alone.
    pub(super) fn traffic(self, port: u16, alone: f64) -> (Frames, Offer) {
        if port == PORT_A {
            let offer = if self.is_filled() {
                Offer::Endless
            } else {
                Offer::Paced(alone * OFFERED)
            };
            return (frames_between(PORT_A, PORT_B), offer);
        }
        if !self.ports().contains(&port) {
            return (frames_between(port, PORT_A), Offer::Silent);
        }
        match self {
            Self::Alone | Self::None | Self::Ordinary(_) => (frames_between(port, PORT_SINK), Offer::Endless),
            Self::MacFlood => (strangers(true), Offer::Endless),
            Self::MacFloodUnknown => (strangers(false), Offer::Endless),
            Self::Moves => (movers(), Offer::Endless),
            Self::Broadcasts => (broadcasts(port), Offer::Endless),
            Self::Trickle => (frames_between(port, PORT_SINK), Offer::Paced(TRICKLE)),
            Self::MacTrickle => (strangers(true), Offer::Paced(TRICKLE)),
        }
    }

    /// Makes sure that the storm was one, that it was held where it has to be, and that nothing grew beyond its bound.
    pub(super) fn check(self, window: &Window) -> anyhow::Result<()> {
        let slow_path = |name: &str| window.slow_path.get(name).copied().unwrap_or_default();
        let dropped = |name: &str| window.worker.dropped.get(name).copied().unwrap_or_default();
        let known = 3 + u32::try_from(self.known().count())?;
        let from_start = u32::from(STATIONS) * known;
        let grown = window.entries - from_start;
        match self {
            Self::Alone | Self::None | Self::Ordinary(_) | Self::Trickle => ensure!(
                grown == 0 && window.worker.lessons == 0 && window.worker.dropped.is_empty(),
                "{} teaches or loses: {window:?}",
                self.name()
            ),
            Self::MacFlood | Self::MacFloodUnknown | Self::MacTrickle => {
                ensure!(
                    grown == STATIONS_PER_PORT && window.learned == [STATIONS_PER_PORT, 0],
                    "{STATIONS_PER_PORT} stations are a port's: {window:?}"
                );
                ensure!(slow_path("stations_no_room") > 0, "no flood: {window:?}");
            }
            Self::Moves => {
                ensure!(slow_path("moves_refused") > 0, "no storm: {window:?}");
                // Another ten seconds would let them move again.
                ensure!(
                    window.seconds > 10.0 || slow_path("stations_moved") <= MOVES,
                    "more moves than may be: {window:?}"
                );
            }
            Self::Broadcasts => ensure!(dropped("bridge_storm") > 0, "no storm: {window:?}"),
        }
        // INVARIANT: far below 2^52, and not negative.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let passed = (window.seconds.ceil() as u64) * u64::from(STORM_LIMIT) + u64::from(STORM_BURST);
        ensure!(
            window.worker.replicated <= passed * COPIES,
            "copied beyond the limit: {window:?}"
        );
        Ok(())
    }
}
