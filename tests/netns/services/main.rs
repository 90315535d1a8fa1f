//! The kernel as a judge of Services.
//!
//! Random sets of Services are programmed twice: as nftables rules into a stock node in flannel's shape, the way
//! kube-proxy's nftables mode does it, and as objects into a Millrace node of the same shape, for IPv4, IPv6 and both. The
//! same random connections of either family go through both: from pods, from the node, from a pod of another node, from outside. Compared are the endpoint that answered (the kernel
//! is led to the very same one, if it is among those that its rules would choose from), the source address that the server
//! saw, and what was refused or dropped and how.
//!
//! The judge is judged too: two kernels agree with each other, and each mistake planted in one of them is found.
//!
//! Needs root, `iproute2` and `nftables`. `MILLRACE_JUDGE_SEED` sets the first seed of the random sets, `MILLRACE_JUDGE_SETS` their number.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod asking;
mod calls;
mod chance;
mod family;
mod judge;
mod mistake;
mod objects;
mod places;
mod random;
mod rules;
mod server;
mod set;
mod stage;

use chance::Chance;
use judge::Judge;
use mistake::Mistake;
use rules::rules;
use stage::{Side, Stage};

/// Seeds whose sets were once judged wrong: one a line, `#` begins a comment. They are judged first.
const CASES: &str = include_str!("cases.txt");
/// The first seed of the random sets.
const FIRST_SEED: u64 = 1;
/// How many calls a set is asked at least, before and after it changes.
const CALLS: usize = 14;
/// How many sets may be tried to find a mistake that makes a difference to the rules of each.
const TRIES: u64 = 60;

/// A number from the environment.
fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text:?} is no whole number")),
        Err(_) => default,
    }
}

/// The seeds of the file.
fn cases() -> Vec<u64> {
    let words = CASES
        .lines()
        .map(|line| line.split('#').next().unwrap_or("").trim());
    words
        .filter(|word| !word.is_empty())
        .map(|word| word.parse().unwrap())
        .collect()
}

/// Judges kept cases and so many random sets, and fails with everything that was found.
fn hearing(judge: &mut Judge, sets: u64) {
    let first = number("MILLRACE_JUDGE_SEED", FIRST_SEED);
    let sets = number("MILLRACE_JUDGE_SETS", sets);
    let mut found = Vec::new();
    for seed in cases().into_iter().chain(first..first + sets) {
        let wrong = judge.case(seed, CALLS);
        if !wrong.is_empty() {
            found.push(format!(
                "{}\nTo keep it, add {seed} to cases.txt.",
                wrong.join("\n")
            ));
        }
    }
    println!("{:#?}", judge.tally);
    assert!(
        found.is_empty(),
        "{}\n{}",
        found.join("\n\n"),
        judge.judged.log_end()
    );
    // A machine under load delays a few; more than that is a finding of its own.
    assert!(judge.tally.late * 50 <= judge.tally.calls, "{:?}", judge.tally);
}

#[test]
fn two_kernels_agree() {
    let judged = Stage::set_up("kernel-one", Side::Kernel(None));
    let mut judge = Judge::new(judged, Stage::set_up("kernel-two", Side::Kernel(None)));
    hearing(&mut judge, 10);
    for ending in [
        "Tcp Answered",
        "Udp Answered",
        "Tcp Reset",
        // Port unreachable, in the words of either family.
        "Udp Unreachable(3)",
        "Udp Unreachable(4)",
        "Tcp Silence",
    ] {
        assert!(judge.tally.endings.contains_key(ending), "{:?}", judge.tally);
    }
    assert!(judge.tally.held > 0, "{:?}", judge.tally);
    judge.close();
}

#[test]
fn each_planted_mistake_is_found() {
    let judged = Stage::set_up("mistaken", Side::Kernel(None));
    let mut judge = Judge::new(judged, Stage::set_up("right", Side::Kernel(None)));
    for mistake in Mistake::ALL {
        judge.judged.side = Side::Kernel(Some(mistake));
        let matters = |seed: &u64| {
            let set = random::set(&mut Chance::of(*seed));
            rules(&set, true, &[], Some(mistake)) != rules(&set, true, &[], None)
        };
        let found = (1..=TRIES)
            .filter(matters)
            .find(|seed| !judge.case(*seed, 2 * CALLS).is_empty());
        println!("{mistake:?}: found by seed {found:?}");
        assert!(found.is_some(), "{mistake:?} was not found in {TRIES} sets");
    }
    judge.close();
}

#[test]
fn millrace_does_as_the_kernel_does() {
    let judged = Stage::set_up("millrace", Side::Millrace);
    let mut judge = Judge::new(judged, Stage::set_up("kernel", Side::Kernel(None)));
    hearing(&mut judge, 60);
    assert!(
        judge.tally.sets >= 50 && judge.tally.calls >= 1_000,
        "{:?}",
        judge.tally
    );
    judge.close();
}
