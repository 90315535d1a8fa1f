//! How many packets a second each arm delivers, both ways, interleaved.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::positions::{Arms, Given, Position, WARM_UP};
use crate::arms::{Direction, Measured, Window};
use crate::statistics::rounded;

/// What was measured of an arm, given something, one way.
struct One {
    position: Position,
    direction: Direction,
    measured: Measured,
}

/// What was measured.
pub(super) struct Rates {
    all: Vec<One>,
}

/// What compares two arms.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ratio {
    /// By packets a second.
    pub(super) rate: f64,
    /// By packets per second of processor time.
    pub(super) per_core_second: f64,
}

impl Rates {
    /// Measures every position in every round.
    ///
    /// # Errors
    /// When an arm fails, and on an interrupt.
    pub(super) fn measure(arms: &mut Arms, rounds: u32, duration: Duration) -> anyhow::Result<Self> {
        let mut all = Vec::new();
        for direction in Direction::BOTH {
            for position in arms.positions() {
                let measured = Measured::of(arms.name(position), arms.bed(position)?);
                all.push(One {
                    position,
                    direction,
                    measured,
                });
            }
        }
        for _ in 0..rounds {
            for one in &mut all {
                let bed = arms.enter(one.position)?;
                let window = Window::measure(bed, one.direction, WARM_UP, duration)?;
                one.measured.windows.push(window);
            }
        }
        Ok(Self { all })
    }

    fn of(&self, given: Given, name: &str, direction: Direction) -> anyhow::Result<&Measured> {
        let found = self.all.iter().find(|one| {
            one.position.given == given && one.measured.name == name && one.direction == direction
        });
        found
            .map(|one| &one.measured)
            .with_context(|| format!("{name} was not measured"))
    }

    /// How one arm compares with another, each given something.
    ///
    /// # Errors
    /// When one was not measured so.
    pub(super) fn ratio(
        &self,
        direction: Direction,
        (given, name): (Given, &str),
        (other_given, other): (Given, &str),
    ) -> anyhow::Result<Ratio> {
        let one = self.of(given, name, direction)?;
        let other = self.of(other_given, other, direction)?;
        Ok(Ratio {
            rate: one.rate() / other.rate(),
            per_core_second: one.efficiency() / other.efficiency(),
        })
    }

    /// Those that were not the bottleneck though they were given only what was to make them so.
    pub(super) fn unsaturated(&self) -> Vec<String> {
        self.all
            .iter()
            .filter(|one| one.position.given == Given::Share && !one.measured.is_saturated())
            .map(|one| format!("{} {}", one.measured.name, one.direction.name()))
            .collect()
    }

    /// Prints a table for each way and each thing that is given.
    pub(super) fn print(&self) {
        for direction in Direction::BOTH {
            for given in Given::ALL {
                let title = format!("{}, {}", direction.name(), given.name());
                println!(
                    "{}",
                    Measured::head().replacen(&" ".repeat(title.len()), &title, 1)
                );
                let some = self
                    .all
                    .iter()
                    .filter(|one| one.direction == direction && one.position.given == given);
                for one in some {
                    println!("{}", one.measured.row());
                }
            }
        }
    }

    /// For the summary: by what is given, arm and direction.
    pub(super) fn figures(&self) -> Value {
        let mut figures = Map::new();
        for given in Given::ALL {
            let mut arms = Map::new();
            for one in self.all.iter().filter(|one| one.position.given == given) {
                let arm = arms.entry(one.measured.name.clone()).or_insert_with(|| json!({}));
                if let Some(arm) = arm.as_object_mut() {
                    arm.insert(one.direction.name().to_owned(), one.measured.figures());
                }
            }
            figures.insert(given.name().to_owned(), Value::Object(arms));
        }
        Value::Object(figures)
    }
}

impl Ratio {
    /// For the summary.
    pub(super) fn figures(self) -> Value {
        json!({
            "packets": rounded(self.rate, 4),
            "per_core_second": rounded(self.per_core_second, 4),
        })
    }
}
