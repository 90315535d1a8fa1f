//! The highest rate at which nothing is lost (NDR), and at which little is (PDR), in the manner of RFC 2544 section 26.1.
//!
//! A first trial as fast as it goes bounds the search from above; then the interval between the highest rate known to pass
//! and the lowest known to fail is halved until it is as narrow as asked for. What one search learns, the other uses. The
//! rate that is found is tried again: unless it passes every time, the search goes on below it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::PktgenError;
use super::latency::Latency;
use super::outcome::Outcome;
use super::rate::Rate;
use super::session::{Session, Trial, Watch};

/// Shares of the PDR at which latency is measured.
pub const LATENCY_SHARES: [f64; 3] = [0.1, 0.5, 0.9];
/// Trials of one search at most, whatever the resolution.
const TRIALS_MAX: usize = 64;
/// How long a pause goes on before it looks whether it is to stop.
const BEAT: Duration = Duration::from_millis(50);

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Criteria {
    /// How long a trial takes. RFC 2544 section 24 wants 60 s of the last one.
    pub trial: Duration,
    /// How long packets flow, and are not counted, before the first trial.
    pub warm_up: Duration,
    /// How long packets may be under way after a trial (RFC 2544 section 23: 2 s).
    pub drain: Duration,
    /// How long nothing is sent between two trials (RFC 2544 section 23: 5 s).
    pub pause: Duration,
    /// The interval that is narrow enough, as a share of its upper end.
    pub resolution: f64,
    /// The loss at which the PDR still passes, as a share of what was sent.
    pub partial_loss: f64,
    /// How often the rate that was found has to pass again.
    pub verifications: u32,
    /// Packets per second that are not exceeded; none for as many as go.
    pub most: Option<f64>,
}

/// One trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// What was asked for; none for as fast as it goes.
    pub asked_per_second: Option<f64>,
    /// What was sent.
    pub sent_per_second: f64,
    /// What arrived.
    pub received_per_second: f64,
    /// The share that was lost or damaged.
    pub loss: f64,
    /// Whether the generator sent as fast as it was asked.
    pub is_reached: bool,
    /// What the receiving socket had no room for: then the generator is the limit, and not what is tested.
    pub overrun: u64,
    /// How long packets were under way.
    #[serde(skip)]
    pub latency: Option<Latency>,
}

/// A rate that was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    /// The loss that passes.
    pub loss_allowed: f64,
    /// Packets per second; 0 if the lowest rate tried did not pass.
    pub rate: f64,
    /// The loss at that rate.
    pub loss: f64,
    /// Whether it passed as fast as the generator goes: what is tested may do more.
    pub is_generators_limit: bool,
    /// Times it was tried again, and passed.
    pub verified: u32,
}

/// Latency at a share of the PDR.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AtShare {
    /// The share.
    pub share: f64,
    /// Packets per second.
    pub rate: f64,
    /// The trial's loss.
    pub loss: f64,
    /// How long packets were under way; none if none arrived.
    pub latency: Option<Latency>,
}

/// Everything that was found out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Findings {
    /// The mean length of a frame, in bytes without frame check sequence.
    pub mean_frame_len: f64,
    /// The highest rate without loss; none if it was stopped before.
    pub ndr: Option<Found>,
    /// The highest rate with little loss.
    pub pdr: Option<Found>,
    /// Latency at shares of it.
    pub latency: Vec<AtShare>,
    /// All trials, in their order.
    pub trials: Vec<Tried>,
    /// Whether it was stopped before its end.
    pub is_stopped: bool,
}

/// Something that can be tried at a rate.
pub trait Device {
    /// Tries a rate, in packets per second, or as fast as it goes.
    ///
    /// # Errors
    /// When a trial cannot be held at all.
    fn attempt(&mut self, rate: Option<f64>) -> Result<Tried, PktgenError>;

    /// Whether somebody wants it to end.
    fn is_stopped(&self) -> bool;
}

/// What one search knows.
struct Bounds {
    allowed: f64,
    /// The highest rate that passed, with its loss.
    passed: Option<(f64, f64)>,
    /// The lowest rate that failed.
    failed: Option<f64>,
}

impl Bounds {
    /// What the trials so far say: the lowest failure counts, and the highest pass below it.
    fn of(trials: &[Tried], allowed: f64) -> Self {
        let passes = |tried: &&Tried| tried.loss <= allowed && tried.sent_per_second > 0.0;
        let failed = trials
            .iter()
            .filter(|tried| !passes(tried))
            .map(|tried| tried.sent_per_second)
            .min_by(f64::total_cmp);
        let passed = trials
            .iter()
            .filter(passes)
            .filter(|tried| failed.is_none_or(|failed| tried.sent_per_second < failed))
            .max_by(|one, other| one.sent_per_second.total_cmp(&other.sent_per_second))
            .map(|tried| (tried.sent_per_second, tried.loss));
        Self {
            allowed,
            passed,
            failed,
        }
    }

    /// The rate to try next; none when the interval is narrow enough.
    fn next(&self, resolution: f64) -> Option<f64> {
        let failed = self.failed?;
        let passed = self.passed.map_or(0.0, |(rate, _)| rate);
        (failed - passed > resolution * failed && failed >= 1.0).then(|| f64::midpoint(passed, failed))
    }

    fn found(&self, verified: u32) -> Found {
        let (rate, loss) = self.passed.unwrap_or((0.0, 0.0));
        Found {
            loss_allowed: self.allowed,
            rate,
            loss,
            is_generators_limit: self.failed.is_none() && self.passed.is_some(),
            verified,
        }
    }
}

/// Looks for the highest rate whose loss is at most `allowed`; `None` if it was stopped.
fn find(
    device: &mut dyn Device,
    criteria: &Criteria,
    allowed: f64,
    trials: &mut Vec<Tried>,
) -> Result<Option<Found>, PktgenError> {
    let (mut count, mut verified) = (0, 0);
    loop {
        if device.is_stopped() {
            return Ok(None);
        }
        let bounds = Bounds::of(trials, allowed);
        let next = match (bounds.next(criteria.resolution), bounds.passed) {
            (Some(rate), _) if count < TRIALS_MAX => {
                verified = 0;
                rate
            }
            (_, Some((rate, _))) if verified < criteria.verifications => rate,
            _ => return Ok(Some(bounds.found(verified))),
        };
        let is_again = bounds
            .passed
            .is_some_and(|(rate, _)| rate.total_cmp(&next).is_eq());
        let mut tried = device.attempt(Some(next))?;
        if device.is_stopped() {
            return Ok(None);
        }
        if is_again {
            // The same rate, whatever the clock made of it: it passes again, or the search goes on below it.
            tried.sent_per_second = next;
            verified = if tried.loss <= allowed { verified + 1 } else { 0 };
        } else if tried.is_reached {
            tried.sent_per_second = next;
        }
        trials.push(tried);
        count += 1;
    }
}

/// Looks for both rates, and for the latency below.
///
/// # Errors
/// When a trial cannot be held.
pub fn search_device(
    device: &mut dyn Device,
    criteria: &Criteria,
    mean_frame_len: f64,
) -> Result<Findings, PktgenError> {
    let mut findings = Findings {
        mean_frame_len,
        ..search_rates(device, criteria)?
    };
    let pdr = findings.pdr.as_ref().map_or(0.0, |found| found.rate);
    for share in LATENCY_SHARES {
        if device.is_stopped() || pdr <= 0.0 {
            break;
        }
        let tried = device.attempt(Some(pdr * share))?;
        findings.latency.push(AtShare {
            share,
            rate: pdr * share,
            loss: tried.loss,
            latency: tried.latency,
        });
    }
    findings.is_stopped = device.is_stopped();
    Ok(findings)
}

/// Looks for both rates only. The length of the frames is left open.
///
/// # Errors
/// When a trial cannot be held.
pub fn search_rates(device: &mut dyn Device, criteria: &Criteria) -> Result<Findings, PktgenError> {
    let mut findings = Findings {
        mean_frame_len: 0.0,
        ndr: None,
        pdr: None,
        latency: Vec::new(),
        trials: Vec::new(),
        is_stopped: false,
    };
    findings.trials.push(device.attempt(criteria.most)?);
    if !device.is_stopped() {
        findings.pdr = find(device, criteria, criteria.partial_loss, &mut findings.trials)?;
        findings.ndr = find(device, criteria, 0.0, &mut findings.trials)?;
    }
    findings.is_stopped = device.is_stopped();
    Ok(findings)
}

/// A generator, tried.
struct Bench<'a> {
    session: &'a mut Session,
    criteria: Criteria,
    stop: &'a AtomicBool,
    watch: Watch<'a>,
    told: &'a mut dyn FnMut(&Tried),
}

impl Device for Bench<'_> {
    fn attempt(&mut self, rate: Option<f64>) -> Result<Tried, PktgenError> {
        let trial = Trial {
            rate: rate.map_or(Rate::Max, Rate::Packets),
            duration: self.criteria.trial,
            packets: None,
            drain: self.criteria.drain,
        };
        let outcome = self.session.run(&trial, self.stop, self.watch)?;
        let tried = Tried::of(outcome);
        (self.told)(&tried);
        let until = Instant::now() + self.criteria.pause;
        while Instant::now() < until && !self.is_stopped() {
            thread::sleep(BEAT.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(tried)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Tried {
    /// What came of a run.
    #[must_use]
    pub fn of(outcome: Outcome) -> Self {
        let sent = outcome.sent_per_second.unwrap_or(0.0);
        Self {
            asked_per_second: outcome.asked_per_second,
            // A packet more or less at either end of a short trial makes no higher rate.
            sent_per_second: outcome.asked_per_second.map_or(sent, |asked| sent.min(asked)),
            received_per_second: outcome.received_per_second.unwrap_or(0.0),
            loss: outcome.loss.unwrap_or(1.0),
            is_reached: outcome.is_reached.unwrap_or(true),
            overrun: outcome.received.map_or(0, |received| received.overrun),
            latency: outcome.latency,
        }
    }
}

/// Searches with a generator that sends and receives. `told` hears of each trial, `watch` how it is going.
///
/// # Errors
/// When a trial cannot be held.
pub fn search(
    session: &mut Session,
    criteria: &Criteria,
    stop: &AtomicBool,
    watch: Watch<'_>,
    told: &mut dyn FnMut(&Tried),
) -> Result<Findings, PktgenError> {
    let mean_len = session.mean_len();
    if !criteria.warm_up.is_zero() {
        let trial = Trial {
            rate: criteria.most.map_or(Rate::Max, Rate::Packets),
            duration: criteria.warm_up,
            packets: None,
            drain: criteria.drain,
        };
        session.run(&trial, stop, &mut |_| {})?;
    }
    let mut bench = Bench {
        session,
        criteria: *criteria,
        stop,
        watch,
        told,
    };
    search_device(&mut bench, criteria, mean_len)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Forwards up to a limit and loses what is beyond it; a generator that has one too.
    struct Model {
        limit: f64,
        generator: f64,
        /// Trials that lose a packet whatever the rate, counted from 0.
        unlucky: Vec<usize>,
        trials: usize,
        stops_after: usize,
    }

    impl Model {
        fn new(limit: f64, generator: f64) -> Self {
            Self {
                limit,
                generator,
                unlucky: Vec::new(),
                trials: 0,
                stops_after: usize::MAX,
            }
        }
    }

    impl Device for Model {
        fn attempt(&mut self, rate: Option<f64>) -> Result<Tried, PktgenError> {
            let sent = rate.unwrap_or(f64::INFINITY).min(self.generator);
            let mut loss = (1.0 - self.limit / sent).max(0.0);
            if self.unlucky.contains(&self.trials) {
                loss += 1e-6;
            }
            self.trials += 1;
            Ok(Tried {
                asked_per_second: rate,
                sent_per_second: sent,
                received_per_second: sent.min(self.limit),
                loss,
                is_reached: rate.is_none_or(|rate| sent >= 0.99 * rate),
                overrun: 0,
                latency: None,
            })
        }

        fn is_stopped(&self) -> bool {
            self.trials >= self.stops_after
        }
    }

    fn criteria() -> Criteria {
        Criteria {
            trial: Duration::from_secs(1),
            warm_up: Duration::ZERO,
            drain: Duration::ZERO,
            pause: Duration::ZERO,
            resolution: 0.001,
            partial_loss: 0.005,
            verifications: 1,
            most: None,
        }
    }

    fn run(model: &mut Model) -> Findings {
        search_device(model, &criteria(), 60.0).unwrap()
    }

    #[test]
    fn a_devices_limit_is_found_within_the_resolution() {
        for limit in [1_000.0, 123_456.0, 9_999_999.0] {
            let mut model = Model::new(limit, 2e7);
            let findings = run(&mut model);
            let (ndr, pdr) = (findings.ndr.unwrap(), findings.pdr.unwrap());
            assert!(
                ndr.rate <= limit && ndr.rate >= limit * 0.998,
                "{ndr:?} for {limit}"
            );
            let partial = limit / (1.0 - 0.005);
            assert!(
                pdr.rate <= partial * 1.000_001 && pdr.rate >= partial * 0.998,
                "{pdr:?} for {limit}"
            );
            assert_eq!((ndr.verified, ndr.loss), (1, 0.0));
            assert!(!ndr.is_generators_limit);
            let shares: Vec<_> = findings.latency.iter().map(|at| at.rate / pdr.rate).collect();
            assert_eq!(shares, LATENCY_SHARES);
            assert!(model.trials < 40, "{} trials", model.trials);
        }
    }

    #[test]
    fn a_generator_that_is_the_limit_is_said_to_be() {
        let findings = run(&mut Model::new(1e9, 5e6));
        let ndr = findings.ndr.unwrap();
        assert_eq!((ndr.rate, ndr.is_generators_limit), (5e6, true));
    }

    #[test]
    fn a_rate_that_does_not_pass_again_is_not_the_answer() {
        let mut lucky = Model::new(100_000.0, 1e6);
        let trials = run(&mut lucky).trials.len();
        // The last trial of the search, which verified the NDR, now fails.
        let mut model = Model::new(100_000.0, 1e6);
        model.unlucky = vec![trials - 1];
        let (before, after) = (run(&mut lucky).ndr.unwrap(), run(&mut model).ndr.unwrap());
        assert!(
            after.rate < before.rate,
            "{} is below {}",
            after.rate,
            before.rate
        );
        assert!(after.rate > 0.0 && after.verified == 1);
    }

    #[test]
    fn a_device_that_always_loses_has_no_rate_without_loss() {
        let mut model = Model::new(0.0, 1e6);
        let findings = run(&mut model);
        assert_eq!(findings.ndr.unwrap().rate, 0.0);
        assert!(findings.latency.is_empty());
    }

    #[test]
    fn what_was_found_before_a_stop_is_told() {
        let mut model = Model::new(100_000.0, 1e6);
        model.stops_after = 5;
        let findings = run(&mut model);
        assert!(findings.is_stopped && findings.ndr.is_none());
        assert_eq!(
            findings.trials.len() + 1,
            5,
            "the trial that was cut short says nothing"
        );
    }

    #[test]
    fn most_is_not_exceeded() {
        let mut model = Model::new(1e9, 1e9);
        let limited = Criteria {
            most: Some(50_000.0),
            ..criteria()
        };
        let findings = search_device(&mut model, &limited, 60.0).unwrap();
        assert!(
            findings
                .trials
                .iter()
                .all(|tried| tried.sent_per_second <= 50_000.0)
        );
        assert_eq!(findings.pdr.unwrap().rate, 50_000.0);
    }
}
