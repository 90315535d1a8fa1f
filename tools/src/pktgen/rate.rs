//! How fast packets are sent: packets or bits a second, as fast as they go, or as they were recorded.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Bytes of the frame check sequence, which no frame here contains.
pub const FCS_LEN: usize = 4;
/// Bytes that a frame takes on the wire besides itself and its frame check sequence: preamble and start delimiter, 8, and
/// the gap before the next frame, 12 (IEEE 802.3 clause 4).
pub const PREAMBLE_AND_GAP_LEN: usize = 20;

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rate {
    /// As fast as it goes.
    Max,
    /// Packets per second.
    Packets(f64),
    /// Bits per second of frames with their frame check sequence.
    BitsL2(f64),
    /// Bits per second on the wire: preamble and gap as well.
    BitsL1(f64),
    /// At so many times the speed of a recording.
    Recorded(f64),
}

/// A rate that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no rate: a number of packets per second (`250000`, `1.2Mpps`), of bits (`3Gbit` of frames, `10Gbit-l1` on \
     the wire), `max`, or `recorded` (`recorded*2`) for a recording's own would be right"
)]
pub struct InvalidRate(String);

impl Rate {
    /// Packets per second, of frames of `mean_len` bytes on average; none for the other rates.
    #[must_use]
    pub fn packets_per_second(self, mean_len: f64) -> Option<f64> {
        #[allow(clippy::cast_precision_loss)] // INVARIANT: small constants.
        let (fcs, more) = (FCS_LEN as f64, PREAMBLE_AND_GAP_LEN as f64);
        match self {
            Self::Max | Self::Recorded(_) => None,
            Self::Packets(rate) => Some(rate),
            Self::BitsL2(bits) => Some(bits / (8.0 * (mean_len + fcs))),
            Self::BitsL1(bits) => Some(bits / (8.0 * (mean_len + fcs + more))),
        }
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let invalid = || InvalidRate(text.to_owned());
        let number = |text: &str, units: [(&str, f64); 4]| {
            let found = units.into_iter().find_map(|(unit, factor)| {
                let text = text.strip_suffix(unit)?;
                text.trim().parse::<f64>().ok().map(|number| number * factor)
            });
            found
                .filter(|rate| rate.is_finite() && *rate > 0.0)
                .ok_or_else(invalid)
        };
        const BITS: [(&str, f64); 4] = [("Gbit", 1e9), ("Mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
        const PACKETS: [(&str, f64); 4] = [("Mpps", 1e6), ("kpps", 1e3), ("pps", 1.0), ("", 1.0)];
        match text.trim() {
            "max" => Ok(Self::Max),
            "recorded" => Ok(Self::Recorded(1.0)),
            text if text.starts_with("recorded*") => {
                let speed = text.trim_start_matches("recorded*");
                Ok(Self::Recorded(number(speed, [("", 1.0); 4])?))
            }
            text if text.ends_with("bit-l1") => Ok(Self::BitsL1(number(text.trim_end_matches("-l1"), BITS)?)),
            text if text.ends_with("bit-l2") => Ok(Self::BitsL2(number(text.trim_end_matches("-l2"), BITS)?)),
            text if text.ends_with("bit") => Ok(Self::BitsL2(number(text, BITS)?)),
            text => Ok(Self::Packets(number(text, PACKETS)?)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Packets(rate) => write!(f, "{rate}"),
            Self::BitsL2(rate) => write!(f, "{rate}bit"),
            Self::BitsL1(rate) => write!(f, "{rate}bit-l1"),
            Self::Recorded(speed) => write!(f, "recorded*{speed}"),
        }
    }
}

/// The wait from which on a generator sleeps (half of it at a time) instead of looking again: a shorter sleep would
/// often end too late, since the kernel's timers have a slack of 50 us.
const SLEEP_FROM_NS: u64 = 200_000;

/// When each packet is due.
#[derive(Debug, Clone)]
pub(crate) enum Pace {
    /// At any time.
    Any,
    /// One after so many nanoseconds.
    Every(f64),
    /// At these times after the start, in nanoseconds, and again after the last.
    Times {
        at: Arc<[u64]>,
        /// From the first of one round to the first of the next.
        round: u64,
    },
}

/// What to do until the next packet is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Spin,
    Sleep { ns: u64 },
}

impl Pace {
    pub(crate) fn of(packets_per_second: Option<f64>) -> Self {
        packets_per_second.map_or(Self::Any, |rate| Self::Every(1e9 / rate.max(f64::MIN_POSITIVE)))
    }

    /// When packet `number` is due, in nanoseconds after the start; none for at once.
    ///
    /// A generator that was held up sends what it missed as fast as it can, so that the rate holds over the run; what it
    /// missed is still stamped with the time it was due, or the delay would not show in any latency ("coordinated
    /// omission").
    #[inline]
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // INVARIANT: days of nanoseconds are far below 2^52.
    pub(crate) fn due_ns(&self, number: u64) -> Option<u64> {
        match self {
            Self::Any => None,
            Self::Every(ns) => Some((number as f64 * ns) as u64),
            Self::Times { at, round } => {
                let count = at.len() as u64;
                let place = at.get((number % count.max(1)) as usize).copied().unwrap_or(0);
                Some(
                    (number / count.max(1))
                        .saturating_mul(*round)
                        .saturating_add(place),
                )
            }
        }
    }

    /// How to wait for something that is due in so many nanoseconds.
    pub(crate) fn rest(wait_ns: u64) -> Rest {
        if wait_ns < SLEEP_FROM_NS {
            Rest::Spin
        } else {
            // Bounded, so that a stop is heeded.
            Rest::Sleep {
                ns: (wait_ns / 2).min(20_000_000),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_written() {
        for (text, rate) in [
            ("max", Rate::Max),
            ("250000", Rate::Packets(250_000.0)),
            ("1.5Mpps", Rate::Packets(1.5e6)),
            ("20kpps", Rate::Packets(2e4)),
            ("7pps", Rate::Packets(7.0)),
            ("10Gbit", Rate::BitsL2(1e10)),
            ("10Gbit-l2", Rate::BitsL2(1e10)),
            ("10Gbit-l1", Rate::BitsL1(1e10)),
            ("64kbit", Rate::BitsL2(64e3)),
            ("recorded", Rate::Recorded(1.0)),
            ("recorded*0.5", Rate::Recorded(0.5)),
        ] {
            assert_eq!(text.parse(), Ok(rate), "{text}");
            assert_eq!(rate.to_string().parse(), Ok(rate), "{rate}");
        }
        for text in [
            "",
            "0",
            "-1",
            "fast",
            "1Tbit",
            "inf",
            "NaN",
            "recorded*0",
            "1Mpps-l1",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ten_gigabits_on_the_wire_are_14_88_million_of_the_smallest_frames() {
        let rate = Rate::BitsL1(1e10).packets_per_second(60.0).unwrap();
        assert!((rate - 14_880_952.38).abs() < 0.01, "{rate}");
        let rate = Rate::BitsL2(1e10).packets_per_second(60.0).unwrap();
        assert!((rate - 19_531_250.0).abs() < 0.01, "{rate}");
        assert_eq!(Rate::Max.packets_per_second(60.0), None);
    }

    #[test]
    fn packets_are_due_one_after_the_other_however_late_it_is() {
        let pace = Pace::of(Some(1_000_000.0));
        assert_eq!(
            [0, 1, 1_000_000].map(|number| pace.due_ns(number)),
            [Some(0), Some(1000), Some(1_000_000_000)]
        );
        assert_eq!(Pace::of(None).due_ns(9), None);
        assert_eq!(Pace::rest(SLEEP_FROM_NS - 1), Rest::Spin);
        assert_eq!(
            Pace::rest(SLEEP_FROM_NS),
            Rest::Sleep {
                ns: SLEEP_FROM_NS / 2
            }
        );
    }

    #[test]
    fn a_recording_goes_round() {
        let pace = Pace::Times {
            at: Arc::from([0, 10, 25]),
            round: 30,
        };
        let due: Vec<_> = (0..5).filter_map(|number| pace.due_ns(number)).collect();
        assert_eq!(due, [0, 10, 25, 30, 40]);
    }
}
