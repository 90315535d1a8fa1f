//! How much may pass a pod's port in a second, in the words of the annotations `kubernetes.io/ingress-bandwidth` and
//! `egress-bandwidth`: ingress is what the pod is sent, egress what it sends.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

/// The slowest rate, in bits per second, as Kubernetes takes it in the annotations.
pub(super) const RATE_MIN: u64 = 1_000;
/// The fastest.
pub(super) const RATE_MAX: u64 = 1_000_000_000_000_000;
/// The largest burst, in bits: bytes that 32 bits can tell, as the kernel's own qdiscs count them.
pub(super) const BURST_MAX: u64 = 0xffff_ffff * 8;

/// What a port is held to; a direction that is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bandwidth {
    /// What the pod is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<PortRate>,
    /// What the pod sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<PortRate>,
}

/// A rate of Ethernet frames, without their checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PortRate {
    /// Bits in a second.
    pub rate: NonZeroU64,
    /// Bits at once; the least that is used if it is absent, or less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU64>,
}

/// A limit in force, in [`PortRow`](super::PortRow).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitRow {
    /// ingress: what the pod is sent; egress: what it sends.
    pub direction: String,
    /// Bits in a second.
    pub rate: u64,
    /// Bits at once.
    pub burst: u64,
    /// Packets that were over it, since it is in force.
    pub dropped: u64,
}

impl std::fmt::Display for LimitRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rate, dropped) = (prefixed(self.rate), self.dropped);
        write!(f, "{} {rate}bit/s ({dropped} dropped)", self.direction)
    }
}

impl Bandwidth {
    /// Whether neither direction is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it.
    ///
    /// # Errors
    /// In words: which direction, what is there, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        for (name, rate) in [("ingress", self.ingress), ("egress", self.egress)] {
            let Some(PortRate { rate, burst }) = rate else {
                continue;
            };
            if !(RATE_MIN..=RATE_MAX).contains(&rate.get()) {
                return Err(format!(
                    "{name} rate {rate}: {RATE_MIN} to {RATE_MAX} bit/s would be right"
                ));
            }
            if let Some(burst) = burst.filter(|burst| burst.get() > BURST_MAX) {
                return Err(format!(
                    "{name} burst {burst}: {BURST_MAX} bits at most would be right"
                ));
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut is_first = true;
        for (name, rate) in [("ingress", self.ingress), ("egress", self.egress)] {
            let Some(rate) = rate else { continue };
            let comma = if std::mem::take(&mut is_first) { "" } else { ", " };
            write!(f, "{comma}{name} {}bit/s", prefixed(rate.rate.get()))?;
        }
        Ok(())
    }
}

/// A number with the largest decimal prefix that leaves it whole.
fn prefixed(number: u64) -> String {
    let prefixes = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    let fitting = prefixes
        .into_iter()
        .find(|(unit, _)| number.is_multiple_of(*unit));
    let (unit, prefix) = fitting.unwrap_or((1, ""));
    format!("{} {prefix}", number / unit)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rate(rate: u64, burst: u64) -> Option<PortRate> {
        NonZeroU64::new(rate).map(|rate| PortRate {
            rate,
            burst: NonZeroU64::new(burst),
        })
    }

    fn bandwidth(ingress: (u64, u64), egress: (u64, u64)) -> Bandwidth {
        Bandwidth {
            ingress: rate(ingress.0, ingress.1),
            egress: rate(egress.0, egress.1),
        }
    }

    #[test]
    fn it_reads_as_it_is_said() {
        for (bandwidth, words) in [
            (bandwidth((0, 0), (0, 0)), ""),
            (bandwidth((10_000_000, 7), (0, 0)), "ingress 10 Mbit/s"),
            (
                bandwidth((1_500, 0), (2_000_000_000, 0)),
                "ingress 1500 bit/s, egress 2 Gbit/s",
            ),
            (bandwidth((0, 0), (64_000, 0)), "egress 64 kbit/s"),
        ] {
            assert_eq!(bandwidth.to_string(), words);
            assert_eq!(bandwidth.is_unlimited(), words.is_empty());
            let text = serde_json::to_string(&bandwidth).unwrap();
            assert_eq!(serde_json::from_str::<Bandwidth>(&text).unwrap(), bandwidth);
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (bandwidth, wrong) in [
            (bandwidth((RATE_MIN, 1), (RATE_MAX, BURST_MAX)), None),
            (bandwidth((999, 0), (0, 0)), Some("ingress rate 999")),
            (bandwidth((0, 0), (RATE_MAX + 1, 0)), Some("egress rate")),
            (
                bandwidth((0, 0), (1_000_000, BURST_MAX + 1)),
                Some("egress burst"),
            ),
        ] {
            let found = bandwidth.check().err();
            assert_eq!(found.is_some(), wrong.is_some(), "{found:?}");
            assert!(found.unwrap_or_default().contains(wrong.unwrap_or_default()));
        }
        for text in [
            r#"{"ingress":{"rate":0}}"#,
            r#"{"egress":{"rate":5,"brust":1}}"#,
            r#"{"in":{}}"#,
        ] {
            assert!(serde_json::from_str::<Bandwidth>(text).is_err(), "{text}");
        }
    }
}
