//! From settings to a generator: defaults, and what does not go together.

use std::time::Duration;

use millrace_dataplane::port::QueueId;
use millrace_dataplane::wire::{MacAddr, Vni, vxlan};
use millrace_dataplane::xdp::XdpMode;

use super::super::error::PktgenError;
use super::super::flows::{AddressRange, FlowSpace, Flows, PortRange};
use super::super::link::Binding;
use super::super::order::Order;
use super::super::place::Place;
use super::super::protocol::Protocol;
use super::super::rate::Rate;
use super::super::receiver::Listening;
use super::super::replay::Replay;
use super::super::search::Criteria;
use super::super::session::Trial;
use super::super::setup::{Entry, Exit, Sending, Setup};
use super::super::template::{Link, Outer, Shape, Template, Tunnel, shortest};
use super::super::traffic::{Mix, Traffic};
use super::{
    Bind, Count, Kind, LONGEST, MEMORY, Mode, Packets, Receive, Send, Sequence, Settings, Size, TunnelKind,
    Wrap,
};

/// Length of a frame, where none is set, in bytes; or the shortest that can be, if that is longer.
const FRAME_LEN: usize = 64;
/// Packets handed to a queue at once.
const BATCH: u16 = 64;
/// The address of what is sent from memory.
const MEMORY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// What settings come to.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// Both ends.
    pub setup: Setup,
    /// Packets of a recording that are not sent.
    pub skipped: usize,
}

fn wrong(what: impl Into<String>) -> PktgenError {
    PktgenError::Settings(what.into())
}

/// The two ends.
///
/// # Errors
/// [`PktgenError`] for what does not go together, or is not there.
pub fn setup(settings: &Settings) -> Result<Resolved, PktgenError> {
    if settings.send.interface.is_none() && settings.receive.interface.is_none() {
        return Err(wrong(
            "nothing to do: `--send INTERFACE`, `--receive INTERFACE` or both would be right",
        ));
    }
    let (mut send, mut skipped) = (None, 0);
    if let Some(name) = &settings.send.interface {
        let (sending, left_out) = sending(settings, name)?;
        (send, skipped) = (Some(sending), left_out);
    }
    let receive = settings.receive.interface.as_ref();
    Ok(Resolved {
        setup: Setup {
            send,
            receive: receive.map(|name| entry(&settings.receive, name)),
            memory_core: settings
                .receive
                .cores
                .as_ref()
                .and_then(|cores| cores.first().copied()),
            is_promiscuous: settings.receive.promiscuous.unwrap_or(false),
        },
        skipped,
    })
}

fn place(interface: &str, namespace: Option<&String>) -> Place {
    namespace.map_or_else(
        || Place::here(interface),
        |namespace| Place::inside(interface, namespace),
    )
}

fn binding(bind: Option<Bind>) -> Binding {
    match bind {
        None | Some(Bind::Copy) => Binding::Copy,
        Some(Bind::ZeroCopy) => Binding::ZeroCopy,
        Some(Bind::Auto) => Binding::Auto,
    }
}

fn entry(receive: &Receive, name: &str) -> Entry {
    if name == MEMORY {
        return Entry::Memory;
    }
    let place = place(name, receive.netns.as_ref());
    let mode = match receive.xdp_mode.unwrap_or(Mode::Auto) {
        Mode::Auto => XdpMode::Auto,
        Mode::Native => XdpMode::Native,
        Mode::Generic => XdpMode::Generic,
    };
    match receive.count.unwrap_or(Count::Verify) {
        Count::Drop => Entry::Drop(place, mode),
        Count::Verify => Entry::Interface(Listening {
            place,
            queues: receive.queues.iter().flatten().copied().map(QueueId).collect(),
            cores: receive.cores.clone().unwrap_or_default(),
            mode,
            binding: binding(receive.bind),
        }),
    }
}

fn sending(settings: &Settings, name: &str) -> Result<(Sending, usize), PktgenError> {
    let Send {
        netns,
        queues,
        cores,
        threads,
        batch,
        bind,
        ..
    } = &settings.send;
    let (exit, own_mac) = if name == MEMORY {
        let threads = threads.unwrap_or(1);
        (Exit::Memory { threads }, MEMORY_MAC)
    } else {
        let place = place(name, netns.as_ref());
        let own_mac = match settings.packets.source_mac {
            Some(mac) => mac,
            None => place.facts()?.mac,
        };
        let queues: Vec<_> = queues.clone().unwrap_or_else(|| vec![0]);
        if threads.is_some() {
            return Err(wrong(
                "`--send-threads` is for memory: `--send-queue 0,1` would be right",
            ));
        }
        if let Some(twice) = queues
            .iter()
            .enumerate()
            .find(|(at, queue)| queues.iter().take(*at).any(|q| q == *queue))
        {
            return Err(wrong(format!(
                "queue {} is named twice: each once would be right",
                twice.1
            )));
        }
        let exit = Exit::Interface {
            place,
            queues: queues.into_iter().map(QueueId).collect(),
            binding: binding(*bind),
        };
        (exit, own_mac)
    };
    let (traffic, order, skipped) = traffic(&settings.packets, &settings.tunnel, own_mac)?;
    let sending = Sending {
        exit,
        cores: cores.clone().unwrap_or_default(),
        batch: usize::from(batch.unwrap_or(BATCH).max(1)),
        traffic,
        order,
    };
    Ok((sending, skipped))
}

fn traffic(
    packets: &Packets,
    tunnel: &Wrap,
    own_mac: MacAddr,
) -> Result<(Traffic, Order, usize), PktgenError> {
    if let Some(path) = &packets.replay {
        let replay = Replay::read(path, !packets.replay_as_is.unwrap_or(false))?;
        let skipped = replay.skipped();
        return Ok((Traffic::Replay(replay), Order::RoundRobin, skipped));
    }
    let is_new = packets.new_connections.unwrap_or(false);
    let protocol = match (packets.protocol.unwrap_or(Kind::Udp), is_new) {
        (Kind::Udp, _) => Protocol::Udp,
        (Kind::Tcp, false) => Protocol::Tcp,
        (Kind::Tcp, true) => Protocol::TcpSyn,
        (Kind::Icmp, _) => Protocol::Icmp,
    };
    let flows = flows(packets, is_new)?;
    let size = packets
        .size
        .unwrap_or_else(|| Size::Bytes(FRAME_LEN.max(shortest(&flows, protocol))));
    let shape = Shape {
        link: Link {
            source: packets.source_mac.unwrap_or(own_mac),
            destination: packets.destination_mac.unwrap_or(MacAddr::BROADCAST),
        },
        outer: outer(tunnel)?,
        flows,
        frame_len: match size {
            Size::Bytes(len) => len,
            Size::Imix => 0,
        },
        run: 0,
    };
    let mix = match size {
        Size::Bytes(_) => Mix::one(Template::of(&shape, protocol)?),
        Size::Imix => Mix::imix(&shape, protocol)?,
    };
    Ok((Traffic::Mix(mix), order(packets, is_new)?, 0))
}

fn flows(packets: &Packets, is_new: bool) -> Result<Flows, PktgenError> {
    let address = |range: Option<AddressRange>, default: [u8; 4]| {
        range.unwrap_or_else(|| AddressRange::one(std::net::Ipv4Addr::from(default)))
    };
    let space = FlowSpace {
        sources: address(packets.source, [198, 18, 0, 1]),
        destinations: address(packets.destination, [198, 19, 0, 1]),
        // INVARIANT: the first is below the last.
        source_ports: packets
            .source_port
            .or_else(|| PortRange::new(1024, u16::MAX))
            .unwrap_or(PortRange::one(u16::MAX)),
        destination_ports: packets.destination_port.unwrap_or(PortRange::one(9)),
    };
    match (is_new, packets.flows) {
        (true, Some(_)) => Err(wrong(
            "new connections take every combination of the ranges: narrower ranges, and no `flows`, would be right",
        )),
        (true, None) => Ok(Flows::all(space)?),
        (false, flows) => Ok(Flows::new(space, flows.unwrap_or(1))?),
    }
}

fn order(packets: &Packets, is_new: bool) -> Result<Order, PktgenError> {
    let exponent = packets.zipf_exponent.unwrap_or(1.0);
    if !(exponent > 0.0 && exponent <= 20.0) {
        return Err(wrong(format!(
            "a Zipf exponent of {exponent}: above 0, and 20 at most, would be right"
        )));
    }
    match packets.order {
        Some(Sequence::Uniform | Sequence::Zipf) if is_new => Err(wrong(
            "new connections come one after the other: no `order` would be right",
        )),
        None | Some(Sequence::RoundRobin) => Ok(Order::RoundRobin),
        Some(Sequence::Uniform) => Ok(Order::Random),
        Some(Sequence::Zipf) => Ok(Order::Zipf { exponent }),
    }
}

fn outer(tunnel: &Wrap) -> Result<Option<Outer>, PktgenError> {
    let Some(kind) = tunnel.kind else {
        return Ok(None);
    };
    let (Some(source), Some(destination)) = (tunnel.outer_source, tunnel.outer_destination) else {
        return Err(wrong(
            "a tunnel needs both ends: `--outer-source` and `--outer-destination` would be right",
        ));
    };
    let vni = tunnel.vni.unwrap_or(1);
    let tunnel = match kind {
        TunnelKind::Ipip => Tunnel::Ipip,
        TunnelKind::Vxlan => Tunnel::Vxlan {
            inner: Link {
                source: tunnel.inner_source_mac.unwrap_or(MacAddr::ZERO),
                destination: tunnel.inner_destination_mac.unwrap_or(MacAddr::ZERO),
            },
            vni: Vni::try_from(vni).map_err(|e| wrong(e.to_string()))?,
            port: tunnel.outer_port.unwrap_or(vxlan::LINUX_PORT),
        },
    };
    Ok(Some(Outer {
        source,
        destination,
        tunnel,
    }))
}

fn time(name: &str, seconds: Option<f64>, default: f64) -> Result<Duration, PktgenError> {
    let seconds = seconds.unwrap_or(default);
    if (0.0..=LONGEST).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(wrong(format!(
        "{name} = {seconds}: a number of seconds, 0 to {LONGEST}, would be right"
    )))
}

/// A run, and the one that warms up for it.
///
/// # Errors
/// [`PktgenError::Settings`] for a time that is none, or a recording's rate without a recording.
pub fn trial(settings: &Settings) -> Result<(Trial, Option<Trial>), PktgenError> {
    let rate = settings.run.rate.unwrap_or(Rate::Max);
    if matches!(rate, Rate::Recorded(_)) && settings.packets.replay.is_none() {
        return Err(wrong(
            "a rate as recorded, but no recording: `--replay FILE` would be right",
        ));
    }
    let times = &settings.time;
    let trial = Trial {
        rate,
        duration: time("seconds", times.seconds, 10.0)?,
        packets: settings.run.packets,
        drain: time("drain", times.drain, 0.5)?,
    };
    let warm_up = time("warm-up", times.warm_up, 0.0)?;
    let before = (!warm_up.is_zero()).then_some(Trial {
        duration: warm_up,
        packets: None,
        ..trial
    });
    Ok((trial, before))
}

/// How to search. `mean_len` is the mean length of a frame, in bytes.
///
/// # Errors
/// [`PktgenError::Settings`] for what no search can do.
pub fn criteria(settings: &Settings, mean_len: f64) -> Result<Criteria, PktgenError> {
    let (times, search) = (&settings.time, &settings.search);
    if settings.send.interface.is_none() || settings.receive.interface.is_none() {
        return Err(wrong(
            "a search sends and receives: `--send` and `--receive` would be right",
        ));
    }
    if settings.packets.replay.is_some() && settings.packets.replay_as_is == Some(true) {
        return Err(wrong(
            "a search counts what it sends: a replay with marks would be right",
        ));
    }
    let percent = |name: &str, value: Option<f64>, default: f64, least: f64| {
        let value = value.unwrap_or(default);
        if value >= least && value <= 50.0 {
            return Ok(value / 100.0);
        }
        Err(wrong(format!(
            "{name} = {value}: a number of per cent, {least} to 50, would be right"
        )))
    };
    let max_rate = search.max_rate.unwrap_or(Rate::Max);
    if matches!(max_rate, Rate::Recorded(_)) {
        return Err(wrong(
            "max-rate as recorded: packets or bits a second, or `max`, would be right",
        ));
    }
    Ok(Criteria {
        trial: time("seconds", times.seconds, 10.0)?,
        warm_up: time("warm-up", times.warm_up, 1.0)?,
        drain: time("drain", times.drain, 2.0)?,
        pause: time("pause", search.pause, 0.5)?,
        resolution: percent("resolution", search.resolution, 1.0, 0.01)?,
        partial_loss: percent("partial-loss", search.partial_loss, 0.5, 0.0)?,
        verifications: search.verifications.unwrap_or(1),
        most: max_rate.packets_per_second(mean_len),
    })
}
