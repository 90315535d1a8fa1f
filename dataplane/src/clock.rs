//! Time for a worker: the processor's time-stamp counter.
//!
//! Reading it costs a few nanoseconds and no system call, so a worker can time every batch. On the processors
//! Millrace runs on the counter is constant (`constant_tsc`, `nonstop_tsc`): it ticks at one rate whatever the
//! core's frequency is doing. Source: Intel SDM volume 3, 18.17 "Time-Stamp Counter".
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::table::Tick;

/// How long [`Clock::calibrated`] compares the counter with the system's monotonic clock.
const CALIBRATION: Duration = Duration::from_millis(20);

/// Reads the time-stamp counter, in cycles. Only differences between two readings mean anything.
#[cfg(target_arch = "x86_64")]
#[inline]
#[must_use]
pub fn cycles() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads the virtual counter (`CNTVCT_EL0`), in ticks. Only differences between two readings mean anything.
#[cfg(target_arch = "aarch64")]
#[inline]
#[must_use]
pub fn cycles() -> u64 {
    let ticks: u64;
    // SAFETY: CNTVCT_EL0 is readable from user space on Linux and the instruction touches no memory.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

/// The moment, for tables: a second since the machine started, the same for every process on it.
#[inline]
#[must_use]
pub fn now() -> Tick {
    let seconds = clock_gettime(ClockId::Boottime).tv_sec;
    // INVARIANT: cut off after 136 years, as a tick is.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Tick::from_seconds(seconds as u32)
}

/// How old a tick may be that is not asked for anew.
const TICK_AGE_US: u64 = 1000;

/// The tick, for who asks every few microseconds: the system is asked once a millisecond.
#[derive(Debug)]
pub struct TickWatch {
    tick: Tick,
    read_at: u64,
    lasts: u64,
}

impl TickWatch {
    /// Asks the system the first time.
    #[must_use]
    pub fn new(clock: &Clock) -> Self {
        Self {
            tick: now(),
            read_at: cycles(),
            lasts: clock.from_us(TICK_AGE_US),
        }
    }

    /// The tick, a millisecond old at most.
    #[inline]
    pub fn now(&mut self) -> Tick {
        let cycles = cycles();
        if cycles.wrapping_sub(self.read_at) > self.lasts {
            (self.tick, self.read_at) = (now(), cycles);
        }
        self.tick
    }
}

/// Converts cycles of the counter to nanoseconds, with a rate measured once per process.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    cycles_per_second: u64,
}

impl Clock {
    /// The clock of this machine; the first call measures the counter's rate (about 20 ms), later ones are free.
    #[must_use]
    pub fn calibrated() -> Self {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        *CLOCK.get_or_init(|| {
            let (wall, start) = (Instant::now(), cycles());
            std::thread::sleep(CALIBRATION);
            let ticks = u128::from(cycles().wrapping_sub(start));
            let elapsed_ns = wall.elapsed().as_nanos().max(1);
            let rate = ticks * 1_000_000_000 / elapsed_ns;
            Clock {
                cycles_per_second: u64::try_from(rate).unwrap_or(u64::MAX).max(1),
            }
        })
    }

    /// The counter's rate, in cycles per second.
    #[must_use]
    pub fn cycles_per_second(&self) -> u64 {
        self.cycles_per_second
    }

    /// `cycles` as nanoseconds.
    #[inline]
    #[must_use]
    pub fn to_ns(&self, cycles: u64) -> u64 {
        let ns = u128::from(cycles) * 1_000_000_000 / u128::from(self.cycles_per_second);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// `duration_us` microseconds as cycles.
    #[must_use]
    pub fn from_us(&self, duration_us: u64) -> u64 {
        let cycles = u128::from(duration_us) * u128::from(self.cycles_per_second) / 1_000_000;
        u64::try_from(cycles).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_agrees_with_the_system_clock() {
        let clock = Clock::calibrated();
        let (wall, start) = (Instant::now(), cycles());
        std::thread::sleep(Duration::from_millis(30));
        let measured = clock.to_ns(cycles() - start) as f64;
        let ratio = measured / wall.elapsed().as_nanos() as f64;
        assert!(
            (0.9..1.1).contains(&ratio),
            "counter and clock disagree by a factor of {ratio}"
        );
    }

    #[test]
    fn conversions_are_inverse() {
        let clock = Clock {
            cycles_per_second: 2_600_000_000,
        };
        assert_eq!(clock.from_us(10), 26_000);
        assert_eq!(clock.to_ns(26_000), 10_000);
    }
}
