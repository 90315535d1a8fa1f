//! The API server goes and comes back, where there is one: what is in force stays so, and what changes then is followed.

use std::time::{Duration, Instant};

use super::checks::{Protocol, try_all};
use super::policies::Policies;
use super::services::millrace;
use super::{flows, table};
use crate::lab::{Api, Lab, LabError, wait_until};

/// How long the nodes may take to notice.
const NOTICED: Duration = Duration::from_secs(120);

/// Has the server go, tries every flow, has it come back, and changes policies; nothing where there is none.
///
/// # Errors
/// What did not come about, and [`LabError::Interrupted`].
pub(crate) fn show(lab: &Lab) -> Result<Option<String>, LabError> {
    let Some(api) = lab.api() else { return Ok(None) };
    api.go()?;
    await_all(lab, false)?;
    let tried = without(lab);
    // Whatever came of it, what follows and the end need the server.
    let started = Instant::now();
    come_back(lab, api)?;
    let (tried, took) = (tried?, started.elapsed().as_secs_f64());
    if let Some(policies) = Policies::of(lab) {
        policies.show()?;
    }
    Ok(Some(format!(
        "The API server is stopped: {tried} flows passed. Started again, all nodes have heard of it after {took:.1} s, and the same policies are followed."
    )))
}

/// Tries every flow, and answers how many there were.
fn without(lab: &Lab) -> Result<usize, LabError> {
    let outcomes = try_all(Protocol::Udp, &flows::all(lab))?;
    let failures = table::failures(&outcomes);
    if failures.is_empty() {
        return Ok(outcomes.len());
    }
    Err(LabError::Output {
        command: "traffic without the API server".to_owned(),
        problem: failures,
    })
}

fn come_back(lab: &Lab, api: &Api) -> Result<(), LabError> {
    api.come_back()?;
    await_all(lab, true)
}

/// Waits until all nodes say that the server answers, or that it does not.
fn await_all(lab: &Lab, is_there: bool) -> Result<(), LabError> {
    for (node, daemon) in millrace(lab) {
        let what = format!(
            "{} to say that the API server is {}",
            node.name(),
            if is_there { "there" } else { "away" }
        );
        wait_until(&what, NOTICED, || {
            Ok(daemon.json(&["stats"])?["source"]["reachable"] == is_there)
        })?;
    }
    Ok(())
}
