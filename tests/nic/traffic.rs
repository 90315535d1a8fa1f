//! Traffic in one setting of the uplink: everything arrives, every queue has its part, and the machine's own connection
//! outlives the switch.

use std::collections::{BTreeMap, BTreeSet};

use millrace_tools::lab::plan::UPLINK;
use millrace_tools::lab::traffic::talk::Talk;
use serde_json::Value;

use crate::counters::Counters;
use crate::rig::Rig;

/// Many more flows than queues, so that each queue has several.
const TALK: Talk = Talk {
    flows: 32,
    bytes: 20_000,
    datagrams: 4,
};
/// Packets each queue has its part of at the least: 32 flows both ways and of both protocols are well over a thousand.
const PART: u64 = 20;
/// Answers that show that the machine's own connection lives.
const SOME: u64 = 20;

/// How the NIC hands over packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Copy,
    ZeroCopy,
}

impl Mode {
    /// The word for it in a node file, and in `show ports`.
    fn word(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::ZeroCopy => "zero-copy",
        }
    }
}

/// What the node file says of the uplink, and what is to come of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) mode: Mode,
    /// Where the steering program runs.
    pub(crate) xdp_mode: &'static str,
    /// Lines for `[uplink]`, besides these two.
    pub(crate) uplink: &'static str,
    /// Lines for `[workers]`.
    pub(crate) workers: &'static str,
    /// The queues the switch has.
    pub(crate) queues: &'static [u32],
}

impl Setting {
    /// Nothing but the mode, with these queues.
    pub(crate) const fn of(mode: Mode, queues: &'static [u32]) -> Self {
        Self {
            mode,
            xdp_mode: "native",
            uplink: "",
            workers: "",
            queues,
        }
    }

    fn title(&self) -> String {
        let lines = [self.uplink, self.workers].join("\n");
        let more: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
        let more = more.iter().map(|line| format!(", {line}"));
        format!(
            "{} {}{}",
            self.xdp_mode,
            self.mode.word(),
            more.collect::<String>()
        )
    }
}

/// Starts the switch in this setting, and has it carry traffic; it runs on.
pub(crate) fn carry(rig: &mut Rig, setting: &Setting) {
    rig.entitle(&setting.title());
    let uplink = format!("mode = \"{}\"\n{}", setting.mode.word(), setting.uplink);
    rig.start(
        setting.xdp_mode,
        &[("uplink", &uplink), ("workers", setting.workers)],
    );
    {
        let _step = rig.step("a socket on every queue, in the mode asked for");
        assert_bound(rig, setting.mode, setting.queues);
    }
    if rig.node.pods().is_empty() {
        rig.add_pods();
    }
    {
        let _step = rig.step("ping both ways");
        rig.await_reach();
    }
    talk(rig, setting.queues);
}

/// The packet memory of both workers is on the NIC's NUMA node, and the log names the worker that is on another.
pub(crate) fn assert_near_the_nic(rig: &Rig) {
    /// Pages of 4 KiB that the frames of a worker take.
    const PAGES: &str = "N1=8192";
    let _step = rig.step("packet memory at the NIC's NUMA node");
    rig.assert_said(&format!(
        "worker 0 runs on core 0 of NUMA node 0, but {UPLINK} is at node 1"
    ));
    let pid = rig.inside("busybox pidof millrace");
    let maps = rig.inside(&format!("cat /proc/{}/numa_maps", pid.trim()));
    let there = maps
        .lines()
        .filter(|line| line.split(' ').any(|word| word == PAGES));
    assert!(
        there.clone().count() == 2 && !there.clone().any(|line| line.contains("N0=")),
        "{maps}"
    );
}

/// Each of these queues, and no other, has a socket in this mode, by the switch's own word and by the kernel's; and the NIC
/// spreads over no other.
fn assert_bound(rig: &Rig, mode: Mode, queues: &[u32]) {
    let row = rig.uplink();
    assert_eq!(row["bind_mode"], mode.word(), "{row:#}");
    let shown = row["per_queue"].as_array().unwrap().iter();
    let served: Vec<_> = shown.filter(|queue| queue["kernel"] == false).collect();
    let expected =
        |(shown, queue): (&&Value, &u32)| shown["queue"] == *queue && shown["bind_mode"] == mode.word();
    assert!(
        served.len() == queues.len() && served.iter().zip(queues).all(expected),
        "{row:#}"
    );
    assert_eq!(sockets(rig), queues.iter().map(|queue| (*queue, mode)).collect());
    let spread = spread_over(rig);
    assert!(
        spread.iter().all(|queue| queues.contains(queue)),
        "the NIC spreads over {spread:?}"
    );
}

/// Which of these queues the kernel sends by.
fn sending(rig: &Rig, queues: &[u32]) -> Vec<bool> {
    let told = rig.inside(&format!("ls /sys/class/net/{UPLINK}/queues"));
    let sends = |queue: &u32| {
        let name = format!("tx-{queue}");
        told.split_whitespace().any(|entry| entry == name)
    };
    queues.iter().map(sends).collect()
}

/// The queues in the NIC's indirection table.
fn spread_over(rig: &Rig) -> BTreeSet<u32> {
    let told = rig.inside(&format!("ethtool -x {UPLINK}"));
    // Eight entries a line, after the number of the first; then comes the hash key.
    let table = told.lines().take_while(|line| !line.starts_with("RSS hash key"));
    let numbered = table.filter_map(|line| line.trim().split_once(':'));
    let rows = numbered.filter(|(number, _)| number.parse::<u32>().is_ok());
    let queues: BTreeSet<u32> = rows
        .flat_map(|(_, row)| row.split_whitespace())
        .map(|queue| queue.parse().unwrap())
        .collect();
    assert!(!queues.is_empty(), "{told}");
    queues
}

/// The AF_XDP sockets on the uplink by queue, as the kernel tells of them.
pub(crate) fn sockets(rig: &Rig) -> BTreeMap<u32, Mode> {
    let told = rig.inside("ss --xdp -a -e");
    // After each socket's line come those about its rings and its memory.
    let mut found = BTreeMap::new();
    let mut queue = None;
    for line in told.lines() {
        let words = || line.split_whitespace();
        if !line.starts_with(char::is_whitespace) {
            let name = words().find_map(|word| word.strip_prefix(UPLINK)?.strip_prefix(":q"));
            queue = name.map(|number| number.parse().unwrap());
        } else if let (Some(queue), Some((_, of_memory))) = (queue, line.split_once("umem(")) {
            let zero_copy = of_memory.contains("zc:1");
            found.insert(queue, if zero_copy { Mode::ZeroCopy } else { Mode::Copy });
        }
    }
    found
}

/// TCP and UDP on many flows, and every queue's part in it.
pub(crate) fn talk(rig: &Rig, queues: &[u32]) {
    let _step = rig.step("TCP and UDP both ways, every queue's part in it, sums and frames");
    let before = Counters::settled(&rig.node);
    rig.assert_talks(&TALK);
    let after = Counters::settled(&rig.node);
    let parts = after.uplink_growth(&before);
    let dropped = after.dropped();
    assert_eq!(parts.len(), queues.len(), "{parts:?}");
    assert!(
        parts
            .iter()
            .zip(sending(rig, queues))
            .all(|((received, sent), sends)| *received >= PART && sends == (*sent >= PART)),
        "(received, sent) of each queue: {parts:?}; dropped: {dropped:#}"
    );
}

/// SIGKILL, and a start again: the machine's own connection over the same NIC lives through both.
pub(crate) fn survive(rig: &mut Rig) {
    let session = rig.open_session();
    session.await_answers(rig, "while the switch runs", SOME);
    rig.end("KILL");
    {
        let _step = rig.step("the machine's own connection, the switch being dead");
        session.await_answers(rig, "while the switch is dead", SOME);
    }
    rig.restart("start again");
    let _step = rig.step("the machine's own connection and the pods after it");
    session.await_answers(rig, "after a new start", SOME);
    session.end();
    rig.await_reach();
    Counters::settled(&rig.node);
}
