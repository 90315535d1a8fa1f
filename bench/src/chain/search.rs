//! The highest rates without loss and with little, and how long packets are under way below them: millrace-pktgen's search,
//! with a bed as what is tested.
//!
//! For the rates, what comes out is counted in the kernel, which costs least. For latency every packet is read, by the thread
//! that sends, in turns. On a veth the receiving end's copy is made by whoever sends, here the node under test: so less gets
//! through while packets are read, and a search of its own says what the shares are shares of.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use millrace_tools::lab::interrupt;
use millrace_tools::pktgen::search::{Criteria, Device, LATENCY_SHARES, Tried, search_rates};
use millrace_tools::pktgen::{PktgenError, Rate, Session, Trial};
use serde_json::{Map, Value, json};

use super::delays::Delays;
use super::highest::Highest;
use super::interruptions::Interruptions;
use super::positions::{Arms, Given, Position};
use crate::arms::{Bed, Direction, Turns};
use crate::statistics::rounded;

/// The loss that the PDR has at most.
const PARTIAL_LOSS: f64 = 0.005;
/// The interval that is narrow enough, as a share of its upper end.
const RESOLUTION: f64 = 0.05;
/// How long packets may be under way after a trial.
const DRAIN: Duration = Duration::from_millis(200);
/// Latency is measured in so many trials that are as many times shorter. What stops a core for milliseconds now and then, be it
/// the host of a virtual machine, then spoils the few trials that it falls into, not the hundredth of packets that a p99 is.
const LATENCY_PARTS: u32 = 8;
/// How long packets may be under way after one of those.
const LATENCY_DRAIN: Duration = Duration::from_millis(50);
/// The search with packets that are read has trials so many times shorter: it only says where to measure.
const READ_PARTS: u32 = 2;
/// Packets per second that no generator on one core reaches.
const MORE_THAN_GOES: f64 = 20e6;
/// The share of the kernel's PDR at which others are measured too.
const HALF: f64 = 0.5;

/// What was found of one arm, given something.
struct Searched {
    position: Position,
    name: String,
    ndr: Highest,
    pdr: Highest,
    trials: usize,
    /// The PDR while every packet is read.
    read_pdr: f64,
    /// At each share of that.
    delays: Vec<(f64, Delays)>,
    /// At half of the kernel's PDR, which makes them comparable.
    beside: Option<Delays>,
}

/// What was found of all arms.
pub(super) struct Searches {
    all: Vec<Searched>,
    /// Of the core of who is tested, between the measurements of latency.
    interruptions: Interruptions,
}

impl Searches {
    /// Searches with packets that go out, in `rounds`, interleaved; then measures latency in as many.
    ///
    /// # Errors
    /// When a trial cannot be held, and on an interrupt.
    pub(super) fn hold(arms: &mut Arms, rounds: u32, trial: Duration) -> anyhow::Result<Self> {
        let positions = arms.positions();
        let mut all = Vec::new();
        // With a share of a core its owner is stopped for milliseconds: nothing could be said of its latency.
        for position in positions
            .into_iter()
            .filter(|position| position.given != Given::Share)
        {
            let name = arms.name(position).to_owned();
            all.push(Searched::new(position, name, arms.enter(position)?, trial)?);
        }
        for _ in 0..rounds {
            for searched in &mut all {
                searched.search(arms.enter(searched.position)?, trial)?;
            }
        }
        let kernels_half = all
            .iter()
            .rfind(|searched| searched.position.given == Given::Both)
            .map(|searched| searched.read_pdr * HALF)
            .filter(|rate| *rate > 0.0);
        for searched in &mut all {
            searched.beside = kernels_half.map(Delays::at);
        }
        let mut interruptions = Interruptions::default();
        for _ in 0..rounds {
            for searched in &mut all {
                let bed = arms.enter(searched.position)?;
                searched.measure(bed, trial)?;
                // Only the kernel leaves its core alone when it has nothing to do.
                if !bed.is_limited() {
                    interruptions.watch(bed.core(), trial)?;
                }
            }
        }
        Ok(Self { all, interruptions })
    }

    /// Prints a table.
    pub(super) fn print(&self) {
        println!("{:<34}{:>12}{:>12}{}", "out", "NDR", "PDR", Delays::head());
        for searched in &self.all {
            searched.print();
        }
        println!("{}", self.interruptions.line());
    }

    /// For the summary: by what is given, and arm.
    pub(super) fn figures(&self) -> Value {
        let mut figures = Map::new();
        for searched in &self.all {
            let given = figures
                .entry(searched.position.given.name())
                .or_insert_with(|| json!({}));
            if let Some(given) = given.as_object_mut() {
                given.insert(searched.name.clone(), searched.figures());
            }
        }
        figures.insert("interruptions".to_owned(), self.interruptions.figures());
        Value::Object(figures)
    }
}

impl Searched {
    /// Finds out at which rates latency is to be measured: shares of the PDR while every packet is read.
    fn new(position: Position, name: String, bed: &Bed, trial: Duration) -> anyhow::Result<Self> {
        let trial = trial / READ_PARTS;
        let mut reading = Read {
            turns: bed.turns()?,
            core: bed.generator_core(),
            trial,
        };
        let read = search_rates(&mut reading, &criteria(trial))?;
        interrupt::check()?;
        let read_pdr = read.pdr.map_or(0.0, |found| found.rate);
        let shares = LATENCY_SHARES.into_iter().filter(|_| read_pdr > 0.0);
        Ok(Self {
            position,
            name,
            ndr: Highest::default(),
            pdr: Highest::default(),
            trials: read.trials.len(),
            read_pdr,
            delays: shares
                .map(|share| (share, Delays::at(read_pdr * share)))
                .collect(),
            beside: None,
        })
    }

    /// Searches for both rates once.
    fn search(&mut self, bed: &Bed, trial: Duration) -> anyhow::Result<()> {
        let mut device = Tested {
            session: bed.session(Direction::Out)?,
            trial,
        };
        let findings = search_rates(&mut device, &criteria(trial))?;
        interrupt::check()?;
        self.ndr.note(findings.ndr);
        self.pdr.note(findings.pdr);
        self.trials += findings.trials.len();
        Ok(())
    }

    /// Measures [`LATENCY_PARTS`] times at each rate.
    fn measure(&mut self, bed: &Bed, trial: Duration) -> anyhow::Result<()> {
        let mut turns = bed.turns()?;
        let window = (trial / LATENCY_PARTS, LATENCY_DRAIN);
        let shares = self.delays.iter_mut().map(|(_, delays)| delays);
        for delays in shares.chain(&mut self.beside) {
            for _ in 0..LATENCY_PARTS {
                delays.note(&turns.run(bed.generator_core(), delays.rate(), window)?);
                interrupt::check()?;
            }
        }
        Ok(())
    }

    fn print(&self) {
        let title = format!("{}, {}", self.name, self.position.given.name());
        println!("{title:<34}{:>12}{:>12}", self.ndr.cell(), self.pdr.cell());
        for (share, delays) in &self.delays {
            let load = format!("{:.0} % of {:.0}", share * 100.0, self.read_pdr);
            println!("{load:>58}{}", delays.row());
        }
        if let Some(delays) = &self.beside {
            println!("{:>58}{}", "half of the kernel's", delays.row());
        }
    }

    fn figures(&self) -> Value {
        let delays: Map<String, Value> = self
            .delays
            .iter()
            .map(|(share, delays)| (format!("{:.0}", share * 100.0), delays.figures()))
            .collect();
        json!({
            "ndr": self.ndr.figures(),
            "pdr": self.pdr.figures(),
            "trials": self.trials,
            "pdr_while_read": rounded(self.read_pdr, 0),
            "latency_at_percent_of_it": delays,
            "latency_at_half_of_the_kernels": self.beside.as_ref().map(Delays::figures),
        })
    }
}

fn criteria(trial: Duration) -> Criteria {
    Criteria {
        trial,
        warm_up: Duration::ZERO,
        drain: DRAIN,
        pause: Duration::ZERO,
        resolution: RESOLUTION,
        partial_loss: PARTIAL_LOSS,
        verifications: 1,
        most: None,
    }
}

/// An arm, tried with packets that are counted.
struct Tested {
    session: Session,
    trial: Duration,
}

impl Device for Tested {
    fn attempt(&mut self, rate: Option<f64>) -> Result<Tried, PktgenError> {
        let trial = Trial {
            rate: rate.map_or(Rate::Max, Rate::Packets),
            duration: self.trial,
            packets: None,
            drain: DRAIN,
        };
        let outcome = self.session.run(&trial, &AtomicBool::new(false), &mut |_| {})?;
        Ok(Tried::of(outcome))
    }

    fn is_stopped(&self) -> bool {
        interrupt::check().is_err()
    }
}

/// An arm, tried with packets that are read.
struct Read {
    turns: Turns,
    core: usize,
    trial: Duration,
}

impl Device for Read {
    fn attempt(&mut self, rate: Option<f64>) -> Result<Tried, PktgenError> {
        let rate = rate.unwrap_or(MORE_THAN_GOES);
        let tried = self.turns.run(self.core, rate, (self.trial, DRAIN));
        tried.map_err(|error| PktgenError::Settings(format!("{error:#}")))
    }

    fn is_stopped(&self) -> bool {
        interrupt::check().is_err()
    }
}
