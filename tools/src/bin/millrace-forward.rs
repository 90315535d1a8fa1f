//! `millrace-forward`: the bare AF_XDP forwarder, the ceiling that the switch is measured against.
//!
//! It moves every packet from one interface to the other with the same sockets, batches, flushes and sleeps as a
//! worker of the switch, writes the Ethernet addresses it is given, and does nothing else: no parsing, no tables, no
//! counters but a total. What the switch does on top is the difference.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, ValueEnum};
use millrace_dataplane::clock::{self, Clock};
use millrace_dataplane::frame::{Frame, Holder, Pool};
use millrace_dataplane::port::umem::Umem;
use millrace_dataplane::port::xsk::{FillPolicy, XskPort};
use millrace_dataplane::port::{Port, QueueId};
use millrace_dataplane::wire::{EthernetMut, MacAddr};
use millrace_dataplane::worker::BATCH_MAX;
use millrace_dataplane::xdp::XdpMode;
use millrace_tools::pktgen::{PktgenError, Place, Steering, check_core, pin};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// As a worker's: how long it looks for packets before it sleeps.
const PATIENCE_US: u64 = 50;
/// As a worker's: how long it sleeps at most.
const BEAT: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};
/// As a worker's: turns between two looks at interfaces that had nothing to do.
const SETTLE_ALL_TURNS: u64 = 256;

/// Forwards every packet between two interfaces over AF_XDP, and nothing else.
///
/// Both interfaces get an XDP program for the time of the run. Runs until SIGINT or SIGTERM, and prints what it did as
/// one line of JSON then and on SIGUSR1. Must run as root.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    /// One interface
    #[arg(long, value_name = "INTERFACE")]
    left: String,
    /// The other
    #[arg(long, value_name = "INTERFACE")]
    right: String,
    /// Destination MAC address of packets that leave by the left interface; the source is then the interface's own
    /// [default: packets leave as they came]
    #[arg(long, value_name = "MAC")]
    left_peer: Option<MacAddr>,
    /// The same for the right interface
    #[arg(long, value_name = "MAC")]
    right_peer: Option<MacAddr>,
    /// Core to run on
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    core: usize,
    /// Frames of packet memory
    #[arg(long, value_name = "N", default_value_t = 16384)]
    frames: u32,
    /// Packets per batch
    #[arg(long, value_name = "N", default_value_t = BATCH_MAX)]
    batch: usize,
    /// What to do when there is nothing to do
    #[arg(long, value_enum, default_value_t = Idle::Sleep)]
    idle: Idle,
    /// Empty frames that the left interface holds to receive into
    #[arg(long, value_enum, default_value_t = Fill::Wide)]
    left_fill: Fill,
    /// The same for the right interface
    #[arg(long, value_enum, default_value_t = Fill::Wide)]
    right_fill: Fill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Idle {
    /// Look for a while, then sleep until there is a packet
    Sleep,
    /// Look again at once
    Poll,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fill {
    /// As many as the switch gives its uplink
    Wide,
    /// As many as the switch gives a pod's port
    Pod,
}

impl From<Fill> for FillPolicy {
    fn from(fill: Fill) -> Self {
        match fill {
            Fill::Wide => Self::WIDE,
            Fill::Pod => Self::POD,
        }
    }
}

/// What it did.
#[derive(Debug, Default, Serialize)]
struct Totals {
    /// Packets taken from either interface.
    received: u64,
    /// Packets put into a transmit ring.
    forwarded: u64,
    /// Packets for which no transmit ring had room.
    dropped: u64,
    /// Packets the kernel had for it while its rings were full.
    overrun: u64,
    /// Times it went to sleep.
    sleeps: u64,
    /// Rounds over both interfaces, and those that found nothing.
    turns: u64,
    idle_turns: u64,
}

/// One interface.
struct Side {
    port: XskPort,
    /// Ethernet source and destination to write, if any.
    link: Option<(MacAddr, MacAddr)>,
    dirty: bool,
    stirred: bool,
}

/// The loop's world.
struct Forwarder {
    pool: Pool,
    sides: [Side; 2],
    frames: Vec<Frame>,
    batch: usize,
    idle: Idle,
    totals: Totals,
}

impl Forwarder {
    /// Forwards until it is told to stop.
    fn run(&mut self, signals: &Signals) -> io::Result<()> {
        let patience = Clock::calibrated().from_us(PATIENCE_US);
        let mut last_work = clock::cycles();
        while !signals.stop.load(Ordering::Relaxed) {
            self.totals.turns += 1;
            let settle_all = self.totals.turns.is_multiple_of(SETTLE_ALL_TURNS);
            if self.turn(settle_all) > 0 {
                last_work = clock::cycles();
            } else {
                self.totals.idle_turns += 1;
                if self.idle == Idle::Sleep && clock::cycles().wrapping_sub(last_work) > patience {
                    self.sleep();
                    last_work = clock::cycles();
                }
            }
            if signals.report.load(Ordering::Relaxed) {
                signals.report.store(false, Ordering::Relaxed);
                self.report()?;
            }
        }
        self.report()
    }

    /// Prints what it did so far.
    fn report(&mut self) -> io::Result<()> {
        let overrun = |side: &Side| {
            side.port
                .device_statistics()
                .map_or(0, |kernel| kernel.rx_dropped + kernel.rx_ring_full)
        };
        self.totals.overrun = self.sides.iter().map(overrun).sum();
        let line = serde_json::to_string(&self.totals)? + "\n";
        let mut out = io::stdout().lock();
        out.write_all(line.as_bytes())?;
        out.flush()
    }

    /// One round: a batch from each side to the other, then one flush and one settling each.
    fn turn(&mut self, settle_all: bool) -> usize {
        let [left, right] = &mut self.sides;
        let (frames, pool, totals) = (&mut self.frames, &mut self.pool, &mut self.totals);
        let mut count = carry(left, right, frames, pool, totals, self.batch);
        count += carry(right, left, frames, pool, totals, self.batch);
        for side in &mut self.sides {
            if side.dirty {
                side.port.flush();
                side.dirty = false;
            }
            if side.stirred || settle_all {
                side.port.settle(&mut self.pool);
                side.stirred = false;
            }
        }
        count
    }

    fn sleep(&mut self) {
        for side in &mut self.sides {
            side.port.settle(&mut self.pool);
        }
        self.totals.sleeps += 1;
        let [left, right] = &self.sides;
        let mut events =
            [left, right].map(|side| PollFd::from_borrowed_fd(side.port.socket(), PollFlags::IN));
        // A signal or an error only shortens the sleep: the loop looks into its rings itself.
        let _ = poll(&mut events, Some(&BEAT));
    }
}

/// Takes a batch from one side to the other.
fn carry(
    from: &mut Side,
    to: &mut Side,
    frames: &mut Vec<Frame>,
    pool: &mut Pool,
    totals: &mut Totals,
    batch: usize,
) -> usize {
    let count = from.port.receive(pool, frames, batch);
    if count == 0 {
        return 0;
    }
    from.stirred = true;
    totals.received += count as u64;
    for mut frame in frames.drain(..) {
        if let (Some((source, destination)), Ok(mut ethernet)) =
            (to.link, EthernetMut::parse(frame.bytes_mut()))
        {
            ethernet.set_source(source);
            ethernet.set_destination(destination);
        }
        let sent = to.port.send(pool, frame).or_else(|frame| {
            // A full ring is often only not yet flushed.
            to.port.flush();
            to.port.settle(pool);
            to.port.send(pool, frame)
        });
        match sent {
            Ok(()) => totals.forwarded += 1,
            Err(frame) => {
                pool.give(frame);
                totals.dropped += 1;
            }
        }
    }
    to.dirty = true;
    to.stirred = true;
    count
}

/// Binds both sides to one memory and puts the programs on.
fn set_up(cli: &Cli) -> Result<(Forwarder, [Steering; 2]), PktgenError> {
    check_core(cli.core)?;
    let (umem, mut pool) = Umem::new(cli.frames)?;
    let mut bind = |interface: &str, slot: u16, fill: Fill, peer: Option<MacAddr>| {
        let place = Place::here(interface);
        let facts = place.facts()?;
        let mut port = XskPort::bind(&umem, interface, QueueId(0), Holder::port(slot), fill.into())?;
        port.settle(&mut pool);
        let steering = Steering::attach(&place, facts, XdpMode::Auto, &[port.socket()])?;
        let link = peer.map(|peer| (facts.mac, peer));
        Ok::<_, PktgenError>((
            Side {
                port,
                link,
                dirty: false,
                stirred: true,
            },
            steering,
        ))
    };
    let (left, left_steering) = bind(&cli.left, 0, cli.left_fill, cli.left_peer)?;
    let (right, right_steering) = bind(&cli.right, 1, cli.right_fill, cli.right_peer)?;
    let forwarder = Forwarder {
        pool,
        sides: [left, right],
        frames: Vec::with_capacity(BATCH_MAX),
        batch: cli.batch.clamp(1, BATCH_MAX),
        idle: cli.idle,
        totals: Totals::default(),
    };
    Ok((forwarder, [left_steering, right_steering]))
}

/// Flags that signals raise.
struct Signals {
    stop: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
}

impl Signals {
    fn heed() -> io::Result<Self> {
        let signals = Self {
            stop: Arc::new(AtomicBool::new(false)),
            report: Arc::new(AtomicBool::new(false)),
        };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&signals.stop))?;
        }
        signal_hook::flag::register(SIGUSR1, Arc::clone(&signals.report))?;
        Ok(signals)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let failed = |error: &dyn std::fmt::Display| {
        eprintln!("millrace-forward: {error}");
        ExitCode::FAILURE
    };
    let signals = match Signals::heed() {
        Ok(signals) => signals,
        Err(error) => return failed(&format_args!("cannot heed signals: {error}")),
    };
    let (mut forwarder, steering) = match set_up(&cli) {
        Ok(ready) => ready,
        Err(error) => return failed(&error),
    };
    eprintln!("millrace-forward: ready");
    pin(Some(cli.core));
    let ended = forwarder.run(&signals);
    drop(steering);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format_args!("cannot print the totals: {error}")),
    }
}
