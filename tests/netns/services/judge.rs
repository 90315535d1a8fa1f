//! Two stages, asked the same, and compared.

use std::collections::BTreeMap;

use crate::asking::{Ending, Held, Outcome, PATIENT, QUIET, ask, ask_again};
use crate::calls::{Asker, Call};
use crate::chance::Chance;
use crate::places::{Caller, GATEWAY_A, TUNNEL_A, is_pod};
use crate::random;
use crate::rules::Pick;
use crate::set::Set;
use crate::stage::Stage;

/// How often a call is repeated of which one side alone was silent: a busy machine may lose or delay a packet.
const REPEATS: usize = 2;
/// As [`REPEATS`], of a call from node-b: what a kernel leads back there is lost unheard, so nobody can tell the other side which
/// endpoint was chosen, and of three endpoints two may be there.
const REPEATS_FROM_AFAR: usize = 7;

/// A stage that is judged, and one of stock Linux that judges it.
pub(crate) struct Judge {
    pub(crate) judged: Stage,
    kernel: Stage,
    asker: Asker,
    pub(crate) tally: Tally,
}

/// What was asked so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) sets: usize,
    pub(crate) calls: usize,
    /// How the kernel had them end.
    pub(crate) endings: BTreeMap<String, usize>,
    /// Connections that were held over a change of their Service.
    pub(crate) held: usize,
    /// Calls whose answer came only when they were repeated.
    pub(crate) late: usize,
}

impl Judge {
    pub(crate) fn new(judged: Stage, kernel: Stage) -> Self {
        Self {
            judged,
            kernel,
            asker: Asker::new(),
            tally: Tally::default(),
        }
    }

    /// Judges the set of a seed, asked so many calls before its endpoints change and so many afterwards. Returns what was
    /// found wrong, in words.
    pub(crate) fn case(&mut self, seed: u64, calls: usize) -> Vec<String> {
        let mut chance = Chance::of(seed);
        let set = random::set(&mut chance);
        self.asker.turn_page();
        self.tally.sets += 1;
        let mut picks = Vec::new();
        let (mut held, mut kernel_held) = (Held::new(), Held::new());
        let asked = self.asker.calls(&mut chance, &set, calls);
        self.judged.program(&set, true, &[]);
        let mut found = self.ask(&set, &asked, true, &mut picks, (&mut held, &mut kernel_held));

        let changed = random::changed(&mut chance, &set);
        let asked = self.asker.calls(&mut chance, &changed, calls);
        self.judged.program(&changed, false, &[]);
        let mut again = (Held::new(), Held::new());
        found.extend(self.ask(&changed, &asked, false, &mut picks, (&mut again.0, &mut again.1)));
        found.extend(self.compare_held(held, kernel_held));
        if found.is_empty() {
            return found;
        }
        let heading = format!("seed {seed}: {set:?}\nthen {changed:?}");
        std::iter::once(heading).chain(found).collect()
    }

    /// Asks both sides, the one to be judged first: the kernel is then led to the same endpoints, as far as its own rules
    /// could have chosen them.
    fn ask(
        &mut self,
        set: &Set,
        calls: &[Call],
        anew: bool,
        picks: &mut Vec<Pick>,
        (held, kernel_held): (&mut Held, &mut Held),
    ) -> Vec<String> {
        let judged = ask(&self.judged, calls, held, QUIET);
        picks.extend(picks_of(calls, &judged));
        self.kernel.program(set, anew, picks);
        let kernel = ask(&self.kernel, calls, kernel_held, QUIET);
        let mut found = Vec::new();
        for (call, (one, other)) in calls.iter().zip(judged.into_iter().zip(kernel)) {
            self.tally.calls += 1;
            *self
                .tally
                .endings
                .entry(format!("{:?} {:?}", call.protocol, other.ending))
                .or_default() += 1;
            if !agree(call, &one, &other) {
                // One that is wrong is enough: of more it is not asked whether they were late.
                let repeats = match (found.is_empty(), call.caller.is_on("node-b")) {
                    (false, _) => 0,
                    (true, false) => REPEATS,
                    (true, true) => REPEATS_FROM_AFAR,
                };
                found.extend(self.look_again(set, call, (one, other), (picks, repeats)));
            }
        }
        found
    }

    /// Repeats a call on which the sides differ, if the reason may be that a packet was late.
    fn look_again(
        &mut self,
        set: &Set,
        call: &Call,
        first: (Outcome, Outcome),
        (picks, repeats): (&mut Vec<Pick>, usize),
    ) -> Option<String> {
        let (mut one, mut other) = first;
        for _ in 0..repeats {
            let silent = [one.ending, other.ending].contains(&Ending::Silence);
            if !silent || one.ending == other.ending {
                break;
            }
            let call = self.asker.again(call);
            let calls = std::slice::from_ref(&call);
            let judged = ask(&self.judged, calls, &mut Held::new(), PATIENT);
            picks.extend(picks_of(calls, &judged));
            // Anew: where the judged side was late, the kernel chose by itself, and an affinity would hold it to that.
            self.kernel.program(set, true, picks);
            let kernel = ask(&self.kernel, calls, &mut Held::new(), PATIENT);
            (one, other) = (judged[0], kernel[0]);
            if agree(&call, &one, &other) {
                self.tally.late += 1;
                return None;
            }
        }
        Some(format!("{call:?}\n  judged: {one}\n  kernel: {other}"))
    }

    /// Connections that lived before a change live on after it, with the same server.
    fn compare_held(&mut self, held: Held, kernel_held: Held) -> Vec<String> {
        let calls: BTreeMap<u16, Call> = held
            .iter()
            .map(|(port, (call, _))| (*port, call.clone()))
            .collect();
        let judged = ask_again(&self.judged, held);
        let kernel = ask_again(&self.kernel, kernel_held);
        let mut found = Vec::new();
        for (port, call) in calls {
            let Some(other) = kernel.get(&port) else { continue };
            self.tally.held += 1;
            let one = judged[&port];
            if !agree(&call, &one, other) {
                found.push(format!("held: {call:?}\n  judged: {one}\n  kernel: {other}"));
            }
        }
        found
    }

    /// Takes both stages down.
    pub(crate) fn close(self) {
        self.judged.close();
        self.kernel.close();
    }
}

/// Where the judged side led each call that reached a server. One that was late is led where another of the same client
/// went, so that an affinity does not begin in two ways.
fn picks_of(calls: &[Call], outcomes: &[Outcome]) -> Vec<Pick> {
    let asked = || calls.iter().zip(outcomes);
    let alike = |call: &Call| {
        let mut same = asked().filter(|(other, _)| {
            (other.caller, other.protocol, other.family, other.to)
                == (call.caller, call.protocol, call.family, call.to)
        });
        same.find_map(|(_, outcome)| outcome.heard)
    };
    let led = asked().filter_map(|(call, outcome)| Some((call, outcome.heard.or_else(|| alike(call))?)));
    led.map(|(call, heard)| Pick {
        protocol: call.protocol,
        source_port: call.source_port,
        to: (heard.at, heard.port),
    })
    .collect()
}

/// Whether both sides did the same with a call: how it ended, which server heard of it, and from which address. The port
/// that a masquerade gives is anyone's choice; a source that is kept, is kept with its port.
fn agree(call: &Call, one: &Outcome, other: &Outcome) -> bool {
    let seen = |outcome: &Outcome| {
        outcome
            .heard
            .map(|heard| (heard.at, heard.port, heard.source.ip()))
    };
    let kept = one.heard.is_none_or(|heard| {
        heard.source.ip() != call.family.of(call.caller.binds()) || heard.source.port() == call.source_port
    });
    (one.ending == other.ending && seen(one) == seen(other) && kept) || departs(call, one, other)
}

/// Where Millrace does more than kube-proxy, or does it in another way, on purpose.
fn departs(call: &Call, one: &Outcome, other: &Outcome) -> bool {
    let Some(heard) = one.heard.filter(|_| one.ending == Ending::Answered) else {
        return false;
    };
    let same_place = other
        .heard
        .is_none_or(|kernel| (kernel.at, kernel.port) == (heard.at, heard.port));
    let [tunnel, gateway] = [TUNNEL_A, GATEWAY_A].map(|address| call.family.of(address));
    // What comes out of the tunnel and goes back into it is masqueraded, so that the reply comes back this way; with kube-proxy
    // it goes past the node that could translate it, and is lost.
    let there_and_back = call.caller.is_on("node-b")
        && other.ending == Ending::Silence
        && heard.source.ip() == tunnel
        && heard.at.starts_with("pod-b");
    // A server in the node's own network answers the pods' gateway, wherever a reply to the client itself would not come
    // back to the switch; netfilter sees that reply in any case.
    let own_network =
        heard.at == "node-a" && other.ending == Ending::Answered && heard.source.ip() == gateway;
    // The node calls its own pods from its address in the overlay, and not from their gateway's.
    let own_source = call.caller == Caller::OwnNode && heard.source.ip() == tunnel && is_pod(*call.to.ip());
    same_place && (there_and_back || own_network || own_source)
}
