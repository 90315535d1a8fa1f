//! What a container may send and be sent in a second: the capability `bandwidth` of a runtime, and the same keys in the
//! network's own configuration, as the reference plugin of that name reads them.
//!
//! Rates are in bits per second and bursts in bits; ingress is what the container is sent, egress what it sends. 0 is no limit.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::CniError;

/// Bursts that runtimes write because there has to be one, where the pod's annotations name none. containerd: the largest
/// number of 32 bits, earlier that of 31, of which it is said that no burst was meant; CRI-O: as many bytes as the reference
/// plugin takes at most.
const NO_BURSTS: [u64; 3] = [0x7fff_ffff, 0xffff_ffff, 0xffff_ffff * 8 - 1];
/// Who knows the networks that are to be limited alone, or not.
const SUBNETS: [&str; 2] = ["shapedSubnets", "unshapedSubnets"];

/// The keys as they are written.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawBandwidth {
    #[serde(default)]
    ingress_rate: Option<u64>,
    #[serde(default)]
    ingress_burst: Option<u64>,
    #[serde(default)]
    egress_rate: Option<u64>,
    #[serde(default)]
    egress_burst: Option<u64>,
}

/// What a container is held to; the daemon reads it as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Bandwidth {
    /// What it is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Rate>,
    /// What it sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Rate>,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rate {
    /// Bits in a second.
    pub rate: NonZeroU64,
    /// Bits at once; the daemon's own choice if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<NonZeroU64>,
}

impl Bandwidth {
    /// What the network's own configuration says holds; where it says nothing of a direction, what the runtime passes on.
    ///
    /// # Errors
    /// [`CniError`], with the key.
    pub(crate) fn read(own: &RawBandwidth, passed: Option<Map<String, Value>>) -> Result<Self, CniError> {
        let passed = match passed {
            Some(mut passed) => {
                let known = take_known(&mut passed)?;
                refuse_rest(&passed)?;
                known
            }
            None => RawBandwidth::default(),
        };
        let runtimes = |burst: Option<u64>| burst.filter(|burst| !NO_BURSTS.contains(burst));
        let prefix = "runtimeConfig.bandwidth.";
        let own_ingress = rate(("", "ingress"), own.ingress_rate, own.ingress_burst)?;
        let own_egress = rate(("", "egress"), own.egress_rate, own.egress_burst)?;
        let (in_burst, out_burst) = (runtimes(passed.ingress_burst), runtimes(passed.egress_burst));
        let ingress = rate((prefix, "ingress"), passed.ingress_rate, in_burst)?;
        let egress = rate((prefix, "egress"), passed.egress_rate, out_burst)?;
        Ok(Self {
            ingress: own_ingress.or(ingress),
            egress: own_egress.or(egress),
        })
    }
}

fn take_known(passed: &mut Map<String, Value>) -> Result<RawBandwidth, CniError> {
    let mut number = |key: &str| match passed.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| {
            let why = "a whole number of bits would be right";
            CniError::field(&format!("runtimeConfig.bandwidth.{key}"), &value, why)
        }),
    };
    Ok(RawBandwidth {
        ingress_rate: number("ingressRate")?,
        ingress_burst: number("ingressBurst")?,
        egress_rate: number("egressRate")?,
        egress_burst: number("egressBurst")?,
    })
}

/// What is not known, unless it says nothing.
fn refuse_rest(rest: &Map<String, Value>) -> Result<(), CniError> {
    let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
    let Some((key, value)) = rest.iter().find(|(_, value)| !is_empty(value)) else {
        return Ok(());
    };
    let why = if SUBNETS.contains(&key.as_str()) {
        "a limit is for all that the container sends or is sent"
    } else {
        "there is no such key"
    };
    Err(CniError::field(
        &format!("runtimeConfig.bandwidth.{key}"),
        value,
        why,
    ))
}

fn rate(
    (prefix, direction): (&str, &str),
    rate: Option<u64>,
    burst: Option<u64>,
) -> Result<Option<Rate>, CniError> {
    let burst = burst.and_then(NonZeroU64::new);
    match (rate.and_then(NonZeroU64::new), burst) {
        (Some(rate), burst) => Ok(Some(Rate { rate, burst })),
        (None, None) => Ok(None),
        (None, Some(burst)) => {
            let why = format!("a burst needs a rate, {direction}Rate");
            Err(CniError::field(&format!("{prefix}{direction}Burst"), burst, &why))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(own: Value, passed: Value) -> Result<Value, CniError> {
        let own: RawBandwidth = serde_json::from_value(own).unwrap();
        let passed = passed.as_object().cloned();
        Bandwidth::read(&own, passed).map(|bandwidth| json!(bandwidth))
    }

    #[test]
    fn what_runtimes_pass_on_is_what_the_annotations_say() {
        for (passed, wanted) in [
            (Value::Null, json!({})),
            (json!({}), json!({})),
            // libcni, where the annotations name neither.
            (
                json!({"ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": null}),
                json!({}),
            ),
            // containerd.
            (
                json!({"ingressRate": 10_000_000, "ingressBurst": 4_294_967_295_u64}),
                json!({"ingress": {"rate": 10_000_000}}),
            ),
            (
                json!({"egressRate": 5_000_000, "egressBurst": 2_147_483_647}),
                json!({"egress": {"rate": 5_000_000}}),
            ),
            // CRI-O.
            (
                json!({"ingressRate": 1_000_000_000_000_u64, "ingressBurst": 34_359_738_359_u64,
                       "egressRate": 1000, "egressBurst": 34_359_738_359_u64}),
                json!({"ingress": {"rate": 1_000_000_000_000_u64}, "egress": {"rate": 1000}}),
            ),
            // Whoever means a burst.
            (
                json!({"egressRate": 5_000_000, "egressBurst": 8_000_000, "shapedSubnets": [], "unshapedSubnets": null}),
                json!({"egress": {"rate": 5_000_000, "burst": 8_000_000}}),
            ),
        ] {
            assert_eq!(read(json!({}), passed.clone()).unwrap(), wanted, "{passed}");
        }
    }

    #[test]
    fn a_networks_own_rates_hold_for_each_direction_that_has_one() {
        let passed = json!({"ingressRate": 7000, "egressRate": 8000, "egressBurst": 9000});
        let both = read(
            json!({"ingressRate": 1000, "ingressBurst": 4_294_967_295_u64}),
            passed.clone(),
        );
        assert_eq!(
            both.unwrap(),
            json!({"ingress": {"rate": 1000, "burst": 4_294_967_295_u64}, "egress": {"rate": 8000, "burst": 9000}})
        );
        let alone = read(json!({"ingressRate": 1000, "egressRate": 2000}), passed);
        assert_eq!(
            alone.unwrap(),
            json!({"ingress": {"rate": 1000}, "egress": {"rate": 2000}})
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (own, passed, words) in [
            (
                json!({}),
                json!({"ingressBurst": 9}),
                "runtimeConfig.bandwidth.ingressBurst = 9",
            ),
            (json!({"egressBurst": 9}), json!({}), "egressBurst = 9"),
            (
                json!({}),
                json!({"egressRate": "10M"}),
                "runtimeConfig.bandwidth.egressRate = \"10M\"",
            ),
            (
                json!({}),
                json!({"egressRate": -1}),
                "runtimeConfig.bandwidth.egressRate = -1",
            ),
            (
                json!({}),
                json!({"egressRate": 1000, "shapedSubnets": ["10.0.0.0/8"]}),
                "all that the container sends",
            ),
            (json!({}), json!({"rate": 1000}), "there is no such key"),
        ] {
            let error = read(own, passed.clone()).unwrap_err();
            assert!(error.msg.contains(words), "{passed}: {error}");
        }
    }
}
