//! The demo: a lab, live traffic between everyone in it, and a table of what passed.

mod away;
mod checks;
mod flows;
mod plugin;
mod policies;
mod second;
mod services;
mod table;
mod wire;

use std::io::Write;
use std::time::Instant;

use checks::{Outcome, Protocol, try_all};

use crate::lab::plan::{PREFIX_LENGTH, PREFIX_LENGTH_V6, Tunnel};
use crate::lab::{Api, Lab, LabError, Node, NodeKind, Topology, clean_leftovers};

/// What the demo asks the first Millrace node of at the end.
const QUESTIONS: [&[&str]; 2] = [&["stats"], &["show", "peers"]];

/// The machine outside of the cluster.
const CLIENT: &str = "client";

/// Where the demo prints.
struct Printer<'a>(&'a mut dyn Write);

impl Printer<'_> {
    fn say(&mut self, text: &str) -> Result<(), LabError> {
        let written = self
            .0
            .write_all(text.as_bytes())
            .and_then(|()| self.0.write_all(b"\n"));
        written
            .and_then(|()| self.0.flush())
            .map_err(LabError::io("print"))
    }
}

/// Runs the demo, and returns whether everything passed. The lab is gone when it returns, whichever way.
///
/// # Errors
/// What kept the lab from being set up or taken down, and [`LabError::Interrupted`].
pub fn run(topology: &Topology, out: &mut dyn Write) -> Result<bool, LabError> {
    let mut printer = Printer(out);
    let started = Instant::now();
    for leftover in clean_leftovers()? {
        printer.say(&format!("removed {leftover}, left by a lab that was killed"))?;
    }
    let mut lab = Lab::bring_up("demo", topology)?;
    let client = lab.add_guest(CLIENT)?;
    let outside = both(
        format!("{}/{PREFIX_LENGTH}", client.address()),
        client.address_v6().map(|v6| format!("{v6}/{PREFIX_LENGTH_V6}")),
    );
    printer.say(&describe(&lab))?;
    printer.say(&format!("  a client outside of the cluster  {outside}"))?;
    printer.say(&format!(
        "Up after {:.1} s. Now the traffic:",
        started.elapsed().as_secs_f64()
    ))?;
    let outcomes = try_everything(&lab, &mut printer)?;
    printer.say(&format!("\n{}", table::table(&outcomes)))?;
    let seen = show(wire::show(&lab), &mut printer)?;
    // A machine takes its time to start: what is shown meanwhile measures nothing.
    let second = second::begin(&lab);
    let obeyed = show_policies(&lab, &mut printer)?;
    let followed = show(away::show(&lab), &mut printer)?;
    let answered = ask_the_switch(&lab, &mut printer)?;
    let second = second.and_then(|second| second.map(|second| second.show(&mut lab)).transpose());
    let is_apart = show(second, &mut printer)?;
    let released = show(plugin::show(&mut lab), &mut printer)?;
    let failures = table::failures(&outcomes);
    if !failures.is_empty() {
        printer.say(&failures)?;
        show_logs(&lab, &mut printer)?;
    }
    lab.close()?;
    let passed = seen && obeyed && followed && answered && is_apart && released && failures.is_empty();
    let verdict = if passed {
        "Everything passed"
    } else {
        "Something failed, see above"
    };
    printer.say(&format!(
        "{verdict}; cleaned up, {:.0} s in all.",
        started.elapsed().as_secs_f64()
    ))?;
    Ok(passed)
}

/// Says what a lab consists of.
#[must_use]
pub fn describe(lab: &Lab) -> String {
    let wire = lab.switch().wire();
    let mut lines = vec![
        format!(
            "{} nodes on one underlay: veth pairs to a bridge, MTU {},",
            lab.nodes().len(),
            wire.mtu
        ),
        format!("{} queues each.", wire.queues),
    ];
    for node in lab.nodes() {
        let pods: Vec<String> = node
            .pods()
            .iter()
            .map(|pod| {
                let v6 = pod.address_v6().map(|v6| v6.to_string());
                format!("{} {}", pod.name(), both(pod.address().to_string(), v6))
            })
            .collect();
        let plan = node.plan();
        let underlay = both(
            format!("{}/{PREFIX_LENGTH}", plan.underlay_address()),
            plan.v6()
                .map(|v6| format!("{}/{PREFIX_LENGTH_V6}", v6.underlay_address())),
        );
        let works = match node.kind() {
            NodeKind::Millrace => "runs millrace",
            NodeKind::Stock => "stock Linux  ",
        };
        lines.push(format!(
            "  {} {works}  {underlay}  {}",
            node.name(),
            pods.join(", ")
        ));
    }
    lines.extend(overlay(lab));
    lines.extend(lab.api().map(Api::describe));
    lines.extend(plugin::describe(lab));
    lines.join("\n")
}

/// An address and the one of IPv6 beside it, if there is one.
fn both(v4: String, v6: Option<String>) -> String {
    v6.map_or(v4.clone(), |v6| format!("{v4} {v6}"))
}

/// Says in what packets to the pods travel.
fn overlay(lab: &Lab) -> Option<String> {
    let plan = lab.nodes().first()?.plan();
    let over_ipip: Vec<String> = lab
        .nodes()
        .iter()
        .filter(|node| node.plan().tunnel() == Tunnel::Ipip)
        .map(Node::name)
        .collect();
    let vxlan = format!(
        "VXLAN, VNI {}, UDP port {}",
        plan.network().vni(),
        plan.network().vxlan_port()
    );
    Some(if over_ipip.is_empty() {
        format!("Overlay: {vxlan}.")
    } else {
        format!(
            "Overlay, by Calico's pools: IPIP between the IPv4 pods of {}; all else {vxlan}.",
            over_ipip.join(" and ")
        )
    })
}

/// Tries every flow with every protocol.
fn try_everything(lab: &Lab, printer: &mut Printer<'_>) -> Result<Vec<Outcome>, LabError> {
    let flows = flows::all(lab);
    let mut outcomes = Vec::new();
    for protocol in Protocol::ALL {
        let (started, name) = (Instant::now(), protocol.name());
        let tried = try_all(protocol, &flows)?;
        let passed = tried.iter().filter(|outcome| outcome.result.is_ok()).count();
        let took = started.elapsed().as_secs_f64();
        printer.say(&format!(
            "  {name:4}  {passed} of {} passed in {took:.1} s",
            tried.len()
        ))?;
        outcomes.extend(tried);
    }
    outcomes.extend(try_services(lab, printer)?);
    Ok(outcomes)
}

/// Calls a Service from everywhere, where there is a node that knows of Services.
fn try_services(lab: &Lab, printer: &mut Printer<'_>) -> Result<Vec<Outcome>, LabError> {
    if services::millrace(lab).next().is_none() {
        return Ok(Vec::new());
    }
    let started = Instant::now();
    let Some(client) = lab.guests().first() else {
        return Ok(Vec::new());
    };
    let tried = services::Services::set_up(lab, client)?.try_all()?;
    let passed = tried.iter().filter(|outcome| outcome.result.is_ok()).count();
    let took = started.elapsed().as_secs_f64();
    printer.say(&format!(
        "  Services  {passed} of {} passed in {took:.1} s",
        tried.len()
    ))?;
    Ok(tried)
}

/// Shows a pod closed and opened again by policies, and returns whether it was.
fn show_policies(lab: &Lab, printer: &mut Printer<'_>) -> Result<bool, LabError> {
    let Some(policies) = policies::Policies::of(lab) else {
        return Ok(true);
    };
    show(policies.show().map(Some), printer)
}

/// Prints what a step has to tell, if it had anything to do, and returns whether it came about.
fn show(told: Result<Option<String>, LabError>, printer: &mut Printer<'_>) -> Result<bool, LabError> {
    match told {
        Ok(told) => told.map_or(Ok(()), |told| printer.say(&told)).map(|()| true),
        Err(LabError::Interrupted) => Err(LabError::Interrupted),
        Err(error) => printer.say(&format!("FAILED {error}")).map(|()| false),
    }
}

/// Shows what the first Millrace node says of itself, and returns whether it answered.
fn ask_the_switch(lab: &Lab, printer: &mut Printer<'_>) -> Result<bool, LabError> {
    let asked = lab
        .nodes()
        .iter()
        .find_map(|node| Some((node.name(), node.daemon()?)));
    let Some((name, daemon)) = asked else {
        return Ok(true);
    };
    let mut answered = true;
    for question in QUESTIONS {
        printer.say(&format!("{name}# millrace {}", question.join(" ")))?;
        match daemon.client_output(question) {
            Ok(answer) => printer.say(&answer)?,
            Err(LabError::Interrupted) => return Err(LabError::Interrupted),
            Err(error) => {
                answered = false;
                printer.say(&format!("FAILED {error}"))?;
            }
        }
    }
    Ok(answered)
}

/// Shows how each Millrace node's log ends.
fn show_logs(lab: &Lab, printer: &mut Printer<'_>) -> Result<(), LabError> {
    for (name, daemon) in lab
        .nodes()
        .iter()
        .filter_map(|node: &Node| Some((node.name(), node.daemon()?)))
    {
        printer.say(&format!("The log of {name} ends:\n{}", daemon.log_end()))?;
    }
    Ok(())
}
