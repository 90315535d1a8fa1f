//! The truth table: what stands in `cases/`, compared.

use std::collections::BTreeSet;

use serde_json::Value;

use super::oracle::{Sent, is_allowed};
use super::switch::Switches;
use super::table::{FILES, cases};
use super::wire::{Sending, Wire};
use super::world::{Placement, SENT, ends, objects};

/// The least number of cases that there have to be.
const CASES_MIN: usize = 120;

/// Compares the whole matrix, and what the case claims.
fn check(case: &str, objects: &[Value], claims: &[String], switches: &Switches, fresh: &Switches) {
    for is_v6 in [false, true] {
        let ends = ends(objects, is_v6);
        for (from_name, from) in &ends {
            for (to_name, to) in &ends {
                for sent in SENT {
                    let expected = is_allowed(objects, *from, *to, sent);
                    for (switches, made) in [(switches, "changed"), (fresh, "made anew")] {
                        assert_eq!(
                            switches.is_allowed(from.address, to.address, sent),
                            expected,
                            "{case}: {from_name} -> {to_name} {sent:?}, tables {made}: {:?}",
                            switches.judge(from.address, to.address, sent)
                        );
                    }
                }
            }
        }
        let end = |name: &str| {
            ends.iter()
                .find(|(known, _)| known == name)
                .unwrap_or_else(|| panic!("{case}: no {name}"))
                .1
        };
        for claim in claims {
            let words: Vec<&str> = claim.split_whitespace().collect();
            let [sign, from, "->", to, protocol, port] = words[..] else {
                panic!("{case}: no claim: {claim}")
            };
            let sent = Sent {
                protocol,
                port: port.parse().unwrap(),
            };
            assert!(SENT.contains(&sent), "{case}: nobody sends {sent:?}");
            assert_eq!(
                is_allowed(objects, end(from), end(to), sent),
                sign == "+",
                "{case}: the oracle says otherwise: {claim}"
            );
        }
    }
}

/// Sends everything from everyone to everyone, each time in the connection that was begun the first time.
fn send(case: &str, objects: &[Value], wire: &mut Wire) {
    for is_v6 in [false, true] {
        let ends = ends(objects, is_v6);
        let mut sendings = Vec::new();
        for (from_name, from) in &ends {
            for (to_name, to) in &ends {
                for sent in SENT {
                    let sending = Sending {
                        from: *from,
                        to: *to,
                        sent,
                    };
                    if sending.is_for_a_switch() {
                        sendings.push((format!("{from_name} -> {to_name} {sent:?}"), sending));
                    }
                }
            }
        }
        let passed = wire.send(case, &sendings);
        for ((name, sending), passed) in sendings.iter().zip(passed) {
            let expected = is_allowed(objects, sending.from, sending.to, sending.sent);
            assert_eq!(passed, expected, "{case}: {name}, on the wire");
        }
    }
}

fn run(file: &str) {
    for case in cases()
        .iter()
        .filter(|case| case.name.starts_with(&format!("{file}: ")))
    {
        for placement in [Placement::Spread, Placement::Together] {
            let mut cluster = objects(placement);
            let mut switches = Switches::new();
            switches.update(&cluster);
            let mut wire = Wire::new(&cluster);
            for (number, moment) in case.moments.iter().enumerate() {
                let name = format!("{}, moment {number}, {placement:?}", case.name);
                assert!(!moment.claims.is_empty(), "{name}: nothing is claimed");
                moment.begin(&mut cluster);
                switches.update(&cluster);
                let mut fresh = Switches::new();
                fresh.update(&cluster);
                check(&name, &cluster, &moment.claims, &switches, &fresh);
                wire.update(&mut switches);
                send(&name, &cluster, &mut wire);
            }
        }
    }
}

#[test]
fn isolation() {
    run("isolation");
}

#[test]
fn peers() {
    run("peers");
}

#[test]
fn ports() {
    run("ports");
}

#[test]
fn blocks() {
    run("blocks");
}

#[test]
fn combined() {
    run("combined");
}

#[test]
fn changes() {
    run("changes");
}

#[test]
fn cluster() {
    run("cluster");
}

#[test]
fn the_table_is_as_long_as_it_has_to_be() {
    let cases = cases();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases of one name");
    assert!(cases.len() >= CASES_MIN, "{} cases", cases.len());
    for (file, _) in FILES {
        assert!(
            names.iter().any(|name| name.starts_with(file)),
            "no case in {file}"
        );
    }
}
