//! Which addresses are announced, what is heard about them, and what is said: without a socket or a clock.
//!
//! An address that nobody is known to have had is probed for first (RFC 5227 section 2.1, RFC 4862 section 5.4). Whoever
//! answers, or probes too, keeps it: it is not announced, and probed for again after a while. One that is free, or
//! that another node of the cluster announced before, is announced several times (RFC 5227 section 2.3) and answered for
//! from then on. Whoever else claims it then is answered by an announcement, at most one in ten seconds (section
//! 2.4, the third of its ways: a Service's clients are not given up to a guess).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use millrace_dataplane::table::HashKey;
use millrace_dataplane::wire::MacAddr;

use super::frames::{self, Frame, Heard, What};
use crate::slowpath::Limiter;

/// How often an address is probed for, and the time after each probe in which an answer has to come. RFC 5227 waits
/// longer (section 1.1), for links that have just come up; an uplink that carries a node's traffic has.
const PROBES: u8 = 3;
/// As [`PROBES`].
const PROBE_PAUSE: Duration = Duration::from_millis(500);
/// How often an address is announced, and how far apart: ARP has no acknowledgement, and a link may lose some.
const ANNOUNCEMENTS: u8 = 5;
/// As [`ANNOUNCEMENTS`].
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(1);
/// How often an address is announced after that, so that what switches and hosts know stays right.
const REFRESH: Duration = Duration::from_secs(60);
/// After how long an address that somebody has is probed for again.
const RETRY: Duration = Duration::from_secs(30);
/// The least time between two announcements against the same claim (RFC 5227's DEFEND_INTERVAL).
const DEFEND_PAUSE: Duration = Duration::from_secs(10);
/// For how long a conflict is shown after it was last seen.
const CONFLICT_SHOWN: Duration = Duration::from_secs(60);
/// Answers in a second, to everyone together; one asker gets a quarter of them.
const ANSWERS_PER_SECOND: usize = 1000;
/// Most frames that are due by the clock and sent in one turn.
const SENT_AT_ONCE: usize = 64;

/// How an address begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// It may be somebody's: it is probed for.
    Probe,
    /// Another node of the cluster had it, or this one before it was started anew.
    TakeOver,
}

/// What is to be announced, and what has to be known for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Task {
    /// The addresses.
    pub addresses: BTreeMap<IpAddr, Begin>,
    /// The other nodes' link addresses: what they claim is a change of hands, not a conflict.
    pub peers: BTreeSet<[u8; 6]>,
    /// Whether this node hears nothing of who is elected: then it leaves an address to a node that announces it.
    pub is_cut_off: bool,
}

/// How an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is being probed for.
    Probing,
    /// It is announced and answered for.
    Announced,
    /// Somebody else has it.
    Refused,
    /// Another node of the cluster announces it while this one cannot hear who is elected.
    Yielded,
}

/// How an address stands, since when, and who else claims it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// How it stands.
    pub standing: Standing,
    /// Since when.
    pub since: Instant,
    /// Who else claims it, if that was heard a short time ago.
    pub claimed_by: Option<MacAddr>,
}

/// What was heard and said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Counts {
    /// Requests and solicitations that were answered.
    pub answered: u64,
    /// Those that were not, because there were too many.
    pub rate_limited: u64,
    /// Probes sent.
    pub probes_sent: u64,
    /// Announcements sent.
    pub announcements_sent: u64,
    /// Claims of others to an address of ours.
    pub conflicts: u64,
    /// Frames that were neither, or not as they should be.
    pub ignored: u64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    standing: Standing,
    since: Instant,
    /// Probes or announcements sent in this standing.
    sent: u8,
    /// When the next one is due.
    next: Instant,
    conflict: Option<(MacAddr, Instant)>,
    defended: Option<Instant>,
}

/// The machine.
#[derive(Debug)]
pub struct Speaker {
    own: MacAddr,
    held: BTreeMap<IpAddr, Held>,
    task: Task,
    limiter: Limiter,
    counts: Counts,
}

impl Speaker {
    /// At a link address, with nothing to announce.
    #[must_use]
    pub fn new(own: MacAddr, key: HashKey) -> Self {
        Self {
            own,
            held: BTreeMap::new(),
            task: Task::default(),
            limiter: Limiter::new(ANSWERS_PER_SECOND, key),
            counts: Counts::default(),
        }
    }

    /// Announces these and no others from now on. Those that it has go on as they are.
    pub fn set(&mut self, task: Task, now: Instant) {
        self.held
            .retain(|address, _| task.addresses.contains_key(address));
        for (address, begin) in &task.addresses {
            let standing = match begin {
                Begin::Probe => Standing::Probing,
                Begin::TakeOver => Standing::Announced,
            };
            let held = self.held.entry(*address);
            let held = held.or_insert_with(|| Held::begin(standing, now));
            // Who is elected is heard again: what was left to another is this node's, or would not be in the task.
            if held.standing == Standing::Yielded && !task.is_cut_off {
                *held = Held::begin(Standing::Announced, now);
            }
        }
        self.task = task;
    }

    /// Changes the link address: everything is announced anew.
    pub fn set_link(&mut self, own: MacAddr, now: Instant) {
        if self.own != own {
            self.own = own;
            for held in self.held.values_mut() {
                (held.sent, held.next) = (0, now);
            }
        }
    }

    /// How each address stands.
    pub fn statuses(&self, now: Instant) -> BTreeMap<IpAddr, Status> {
        let status = |held: &Held| {
            let recent = |seen: Instant| now.saturating_duration_since(seen) < CONFLICT_SHOWN;
            Status {
                standing: held.standing,
                since: held.since,
                claimed_by: held
                    .conflict
                    .filter(|(_, seen)| recent(*seen))
                    .map(|(mac, _)| mac),
            }
        };
        self.held
            .iter()
            .map(|(address, held)| (*address, status(held)))
            .collect()
    }

    /// Whether there is nothing to announce.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.held.is_empty()
    }

    /// What was heard and said.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes a frame from the link, and puts what is to be said to it behind `out`.
    pub fn hear(&mut self, frame: &[u8], now: Instant, out: &mut Vec<Frame>) {
        let heard = frames::read(frame);
        if heard == [None, None] {
            self.counts.ignored += 1;
        }
        let own = self.own;
        for heard in heard.into_iter().flatten().filter(|heard| heard.from != own) {
            let Some(held) = self.held.get_mut(&heard.address) else {
                continue;
            };
            let is_peer = self.task.peers.contains(&heard.from.octets());
            match (heard.what, held.standing) {
                (What::Asks { .. } | What::Probes, Standing::Announced) => self.answer(&heard, now, out),
                (What::Claims, Standing::Announced) if is_peer && self.task.is_cut_off => {
                    *held = Held::begin(Standing::Yielded, now);
                }
                (What::Claims, Standing::Announced) if !is_peer => self.defend(&heard, now, out),
                (What::Claims | What::Probes, Standing::Probing) if !is_peer => {
                    self.counts.conflicts += 1;
                    *held = Held::begin(Standing::Refused, now);
                    held.next = now + RETRY;
                    held.conflict = Some((heard.from, now));
                }
                (What::Claims, Standing::Refused) => held.conflict = Some((heard.from, now)),
                (What::Asks { .. } | What::Probes | What::Claims, _) => {}
            }
        }
    }

    fn answer(&mut self, heard: &Heard, now: Instant, out: &mut Vec<Frame>) {
        let asker = match heard.what {
            What::Asks { asker } => asker,
            What::Probes | What::Claims => heard.address,
        };
        if !self.limiter.take(asker, now) {
            self.counts.rate_limited += 1;
            return;
        }
        self.counts.answered += 1;
        out.extend(frames::answer(self.own, heard));
    }

    fn defend(&mut self, heard: &Heard, now: Instant, out: &mut Vec<Frame>) {
        let Some(held) = self.held.get_mut(&heard.address) else {
            return;
        };
        self.counts.conflicts += 1;
        held.conflict = Some((heard.from, now));
        let is_due = |at: Instant| now.saturating_duration_since(at) >= DEFEND_PAUSE;
        if held.defended.is_none_or(is_due) {
            held.defended = Some(now);
            self.counts.announcements_sent += 1;
            out.extend(frames::announcement(self.own, heard.address));
        }
    }

    /// When something is due by the clock.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.held.values().map(|held| held.next).min()
    }

    /// Does what is due by the clock.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Frame>) {
        let due = self.held.iter_mut().filter(|(_, held)| held.next <= now);
        for (address, held) in due.take(SENT_AT_ONCE) {
            match held.standing {
                Standing::Probing if held.sent < PROBES => {
                    held.sent += 1;
                    held.next = now + PROBE_PAUSE;
                    self.counts.probes_sent += 1;
                    out.extend(frames::probe(self.own, *address));
                    continue;
                }
                Standing::Probing => *held = Held::begin(Standing::Announced, now),
                Standing::Refused => {
                    let conflict = held.conflict;
                    *held = Held::begin(Standing::Probing, now);
                    held.conflict = conflict;
                    continue;
                }
                Standing::Yielded => {
                    held.next = now + REFRESH;
                    continue;
                }
                Standing::Announced => {}
            }
            held.sent = held.sent.saturating_add(1);
            let is_new = held.sent < ANNOUNCEMENTS;
            held.next = now + if is_new { ANNOUNCE_PAUSE } else { REFRESH };
            self.counts.announcements_sent += 1;
            out.extend(frames::announcement(self.own, *address));
        }
    }
}

impl Held {
    fn begin(standing: Standing, now: Instant) -> Self {
        Self {
            standing,
            since: now,
            sent: 0,
            next: now,
            conflict: None,
            defended: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const ADDRESSES: [&str; 2] = ["192.0.2.7", "2001:db8::7"];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn task(begin: Begin) -> Task {
        Task {
            addresses: ADDRESSES.iter().map(|address| (ip(address), begin)).collect(),
            ..Task::default()
        }
    }

    /// A speaker on a link whose clock only goes where a test says.
    struct Bench {
        speaker: Speaker,
        now: Instant,
    }

    impl Bench {
        fn new(task: Task) -> Self {
            let now = Instant::now();
            let mut speaker = Speaker::new(OWN, HashKey::from_words([1, 2, 3]));
            speaker.set(task, now);
            Self { speaker, now }
        }

        /// What is said by the clock in so much time, in steps of 100 ms.
        fn pass(&mut self, ms: u64) -> Vec<Heard> {
            let mut out = Vec::new();
            for _ in 0..ms / 100 {
                self.speaker.tick(self.now, &mut out);
                self.now += Duration::from_millis(100);
            }
            said(&out)
        }

        fn hear(&mut self, frame: Option<Frame>) -> Vec<Heard> {
            let mut out = Vec::new();
            self.speaker.hear(&frame.unwrap(), self.now, &mut out);
            said(&out)
        }

        fn standings(&self) -> Vec<Standing> {
            let statuses = self.speaker.statuses(self.now);
            statuses.values().map(|status| status.standing).collect()
        }
    }

    fn said(frames: &[Frame]) -> Vec<Heard> {
        frames
            .iter()
            .map(|frame| frames::read(frame)[0].expect("what is said can be heard"))
            .collect()
    }

    fn asks(address: &str) -> Option<Frame> {
        // An answer's way back is a question's way there.
        let asker = match ip(address) {
            IpAddr::V4(_) => arp_question(address),
            IpAddr::V6(_) => question(address),
        };
        Some(asker)
    }

    fn arp_question(address: &str) -> Frame {
        let mut frame = frames::probe(OTHER, ip(address)).unwrap();
        frame[28..32].copy_from_slice(&[192, 0, 2, 200]);
        frame
    }

    fn question(address: &str) -> Frame {
        use etherparse::{IpNumber, Ipv6FlowLabel, Ipv6Header};
        let IpAddr::V6(target) = ip(address) else {
            panic!("{address}")
        };
        let source: std::net::Ipv6Addr = "fe80::200".parse().unwrap();
        let group = frames::solicited_node(target);
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        message.extend([1, 1]);
        message.extend(OTHER.octets());
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: 32,
            next_header: IpNumber::IPV6_ICMP,
            hop_limit: 255,
            source: source.octets(),
            destination: group.octets(),
        };
        let sum = etherparse::checksum::Sum16BitWords::new()
            .add_16bytes(source.octets())
            .add_16bytes(group.octets())
            .add_2bytes([0, 58])
            .add_2bytes([0, 32])
            .add_slice(&message)
            .ones_complement()
            .to_be();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = frames::probe(OTHER, ip(address)).unwrap()[..14].to_vec();
        header.write(&mut frame).unwrap();
        frame.extend(message);
        frame
    }

    #[test]
    fn a_free_address_is_probed_for_and_then_announced() {
        let mut bench = Bench::new(task(Begin::Probe));
        let probes = bench.pass(1500);
        assert_eq!(probes.len(), 6);
        assert!(
            probes
                .iter()
                .all(|said| said.what == What::Probes && said.from == OWN)
        );
        assert_eq!(bench.standings(), [Standing::Probing; 2]);
        for address in ADDRESSES {
            assert_eq!(
                bench.hear(asks(address)),
                [],
                "an address that is not announced yet"
            );
        }
        let announced = bench.pass(10_000);
        assert_eq!(announced.len(), 10);
        assert!(announced.iter().all(|said| said.what == What::Claims));
        assert_eq!(bench.standings(), [Standing::Announced; 2]);
        assert_eq!(bench.pass(60_000).len(), 2, "and once in a while from then on");
        for address in ADDRESSES {
            let answers = bench.hear(asks(address));
            assert_eq!(answers.len(), 1, "{address}");
            assert_eq!((answers[0].address, answers[0].from), (ip(address), OWN));
        }
        let counts = bench.speaker.counts();
        assert_eq!((counts.answered, counts.probes_sent, counts.conflicts), (2, 6, 0));
    }

    #[test]
    fn what_another_node_had_is_announced_at_once() {
        let mut bench = Bench::new(task(Begin::TakeOver));
        let said = bench.pass(100);
        assert_eq!(said.len(), 2);
        assert!(said.iter().all(|said| said.what == What::Claims));
    }

    #[test]
    fn only_what_is_announced_is_answered_for() {
        let mut bench = Bench::new(task(Begin::TakeOver));
        bench.pass(100);
        for address in ["192.0.2.8", "2001:db8::8"] {
            assert_eq!(bench.hear(asks(address)), []);
        }
        let begun = bench.now;
        bench.speaker.set(Task::default(), begun);
        for address in ADDRESSES {
            assert_eq!(bench.hear(asks(address)), [], "an address that was given up");
        }
        assert_eq!(bench.pass(5_000), []);
    }

    #[test]
    fn what_somebody_has_is_not_announced() {
        type Say = fn(MacAddr, IpAddr) -> Option<Frame>;
        // It says so, or it is about to take it.
        for say in [frames::announcement as Say, frames::probe as Say] {
            let mut bench = Bench::new(task(Begin::Probe));
            bench.pass(700);
            for address in ADDRESSES {
                bench.hear(say(OTHER, ip(address)));
            }
            assert_eq!(bench.standings(), [Standing::Refused; 2]);
            assert_eq!(bench.pass(29_900), [], "nothing is said for a while");
            let statuses = bench.speaker.statuses(bench.now);
            assert!(statuses.values().all(|status| status.claimed_by == Some(OTHER)));
            let again = bench.pass(1_600);
            assert!(
                again.iter().any(|said| said.what == What::Probes),
                "and then tried again: {again:?}"
            );
            bench.pass(2_000);
            assert_eq!(bench.standings(), [Standing::Announced; 2], "it has become free");
            assert_eq!(bench.speaker.counts().conflicts, 2);
        }
    }

    #[test]
    fn a_claim_is_answered_once_in_ten_seconds() {
        let mut bench = Bench::new(task(Begin::TakeOver));
        bench.pass(10_000);
        let claim = || frames::announcement(OTHER, ip("192.0.2.7"));
        assert_eq!(bench.hear(claim()).len(), 1);
        assert_eq!(bench.hear(claim()), []);
        bench.pass(10_000);
        assert_eq!(bench.hear(claim()).len(), 1);
        assert_eq!(bench.standings(), [Standing::Announced; 2]);
        let status = bench.speaker.statuses(bench.now)[&ip("192.0.2.7")];
        assert_eq!(status.claimed_by, Some(OTHER));
        bench.pass(60_000);
        assert_eq!(
            bench.speaker.statuses(bench.now)[&ip("192.0.2.7")].claimed_by,
            None
        );
        assert_eq!(bench.speaker.counts().conflicts, 3);
    }

    #[test]
    fn another_nodes_claim_is_no_conflict() {
        let with_peer = |begin, is_cut_off| Task {
            peers: BTreeSet::from([OTHER.octets()]),
            is_cut_off,
            ..task(begin)
        };
        let claim = || frames::announcement(OTHER, ip("192.0.2.7"));
        for (begin, expected) in [
            (Begin::Probe, Standing::Probing),
            (Begin::TakeOver, Standing::Announced),
        ] {
            let mut bench = Bench::new(with_peer(begin, false));
            bench.pass(300);
            assert_eq!(bench.hear(claim()), []);
            assert_eq!(bench.standings()[0], expected);
            assert_eq!(bench.speaker.counts().conflicts, 0);
        }
        // Who does not hear who is elected leaves it to whoever seems to be.
        let mut bench = Bench::new(with_peer(Begin::TakeOver, true));
        bench.pass(300);
        bench.hear(claim());
        assert_eq!(bench.standings(), [Standing::Yielded, Standing::Announced]);
        assert_eq!(bench.hear(asks("192.0.2.7")), []);
        let now = bench.now;
        bench.speaker.set(with_peer(Begin::TakeOver, false), now);
        assert_eq!(
            bench.standings(),
            [Standing::Announced; 2],
            "it is elected after all"
        );
    }

    #[test]
    fn what_it_says_itself_is_not_heard() {
        let mut bench = Bench::new(task(Begin::Probe));
        bench.pass(300);
        for address in ADDRESSES {
            bench.hear(frames::announcement(OWN, ip(address)));
            bench.hear(frames::probe(OWN, ip(address)));
        }
        assert_eq!(bench.standings(), [Standing::Probing; 2]);
        assert_eq!(bench.speaker.counts().conflicts, 0);
    }

    #[test]
    fn answers_are_limited() {
        let mut bench = Bench::new(task(Begin::TakeOver));
        let answers: usize = (0..1000).map(|_| bench.hear(asks("192.0.2.7")).len()).sum();
        assert!((1..=50).contains(&answers), "{answers} answers at once");
        let counts = bench.speaker.counts();
        assert_eq!(counts.answered + counts.rate_limited, 1000);
    }

    #[test]
    fn a_thousand_addresses_are_announced_in_turns() {
        let addresses =
            (0..1000_u32).map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), Begin::TakeOver));
        let mut bench = Bench::new(Task {
            addresses: addresses.collect(),
            ..Task::default()
        });
        assert_eq!(bench.pass(100).len(), SENT_AT_ONCE);
        let said: BTreeSet<IpAddr> = bench.pass(30_000).iter().map(|said| said.address).collect();
        assert!(said.len() > 1000 - SENT_AT_ONCE, "{}", said.len());
    }

    #[test]
    fn another_link_address_is_announced() {
        let mut bench = Bench::new(task(Begin::TakeOver));
        bench.pass(10_000);
        let now = bench.now;
        bench.speaker.set_link(OTHER, now);
        let said = bench.pass(100);
        assert_eq!(said.len(), 2);
        assert!(said.iter().all(|said| said.from == OTHER));
    }
}
