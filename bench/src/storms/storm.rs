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

/// What comes in at other ports meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storm {
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
}

impl Storm {
    /// All that is measured, in the order of the table.
    pub(super) const ALL: [Self; 7] = [
        Self::None,
        Self::Ordinary(1),
        Self::Ordinary(2),
        Self::MacFlood,
        Self::MacFloodUnknown,
        Self::Moves,
        Self::Broadcasts,
    ];

    /// Its name in the summary.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Ordinary(1) => "ordinary",
            Self::Ordinary(_) => "ordinary-2",
            Self::MacFlood => "mac-flood",
            Self::MacFloodUnknown => "mac-flood-unknown",
            Self::Moves => "moves",
            Self::Broadcasts => "broadcasts",
        }
    }

    /// The ordinary traffic by as many ports, that its frames' cost is set beside.
    pub(super) fn beside(self) -> Option<Self> {
        match self {
            Self::None | Self::Ordinary(_) => None,
            Self::MacFlood | Self::MacFloodUnknown | Self::Broadcasts => Some(Self::Ordinary(1)),
            Self::Moves => Some(Self::Ordinary(2)),
        }
    }

    /// The ports it comes in at.
    fn ports(self) -> &'static [u16] {
        match self {
            Self::None => &[],
            Self::Ordinary(1) | Self::MacFlood | Self::MacFloodUnknown | Self::Broadcasts => &[PORT_C],
            Self::Ordinary(_) | Self::Moves => &[PORT_C, PORT_D],
        }
    }

    /// The ports of its own whose stations are known from the start.
    pub(super) fn known(self) -> impl Iterator<Item = u16> {
        let are_known = matches!(self, Self::Ordinary(_) | Self::Broadcasts);
        self.ports().iter().copied().filter(move |_| are_known)
    }

    /// What comes in at a port, and how much of it.
    pub(super) fn traffic(self, port: u16, established: Offer) -> (Frames, Offer) {
        if port == PORT_A {
            return (frames_between(PORT_A, PORT_B), established);
        }
        if !self.ports().contains(&port) {
            return (frames_between(port, PORT_A), Offer::Silent);
        }
        let frames = match self {
            Self::None | Self::Ordinary(_) => frames_between(port, PORT_SINK),
            Self::MacFlood => strangers(true),
            Self::MacFloodUnknown => strangers(false),
            Self::Moves => movers(),
            Self::Broadcasts => broadcasts(port),
        };
        (frames, Offer::Endless)
    }

    /// Makes sure that the storm was one, that it was held where it has to be, and that nothing grew beyond its bound.
    pub(super) fn check(self, window: &Window) -> anyhow::Result<()> {
        let slow_path = |name: &str| window.slow_path.get(name).copied().unwrap_or_default();
        let dropped = |name: &str| window.worker.dropped.get(name).copied().unwrap_or_default();
        let known = 3 + u32::try_from(self.known().count())?;
        let from_start = u32::from(STATIONS) * known;
        let grown = window.entries - from_start;
        match self {
            Self::None | Self::Ordinary(_) => ensure!(
                grown == 0 && window.worker.lessons == 0 && window.worker.dropped.is_empty(),
                "{} teaches or loses: {window:?}",
                self.name()
            ),
            Self::MacFlood | Self::MacFloodUnknown => {
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
