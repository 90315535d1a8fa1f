//! `millrace-pktgen`: sends packets from one interface and counts what arrives at another.
#![forbid(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};
use millrace_dataplane::port::QueueId;
use millrace_dataplane::wire::{MacAddr, Vni, vxlan};
use millrace_dataplane::xdp::XdpMode;
use millrace_tools::pktgen::run::{Counting, Plan, run};
use millrace_tools::pktgen::{
    AddressRange, FlowSpace, Flows, Link, Order, Outer, PktgenError, Place, PortRange, ReceiverOptions,
    SenderOptions, Shape, Template, Tunnel,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Exit status for packets that cannot be built as asked; clap uses the same for a line it cannot read.
const WRONG_USAGE: u8 = 2;

/// Sends UDP packets from one interface as fast as it takes them, or at a rate, and counts what arrives at another.
///
/// Must run as root. A counting interface gets an XDP program for the time of the run and is deaf to everything else
/// meanwhile.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    ends: Ends,
    #[command(flatten)]
    packet: PacketOptions,
    #[command(flatten)]
    tunnel: TunnelOptions,
    /// Packets per second [default: as many as go]
    #[arg(long, value_name = "PPS", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Packets in all [default: as many as go in the time]
    #[arg(long, value_name = "N")]
    packets: Option<u64>,
    /// How long rates are measured, in seconds
    #[arg(long, value_name = "S", default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// How long the run goes before rates are measured, in seconds
    #[arg(long, value_name = "S", default_value_t = 0.0, value_parser = seconds)]
    warm_up: f64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// The two ends of the run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Interfaces")]
struct Ends {
    /// Interface to send from
    #[arg(long, value_name = "INTERFACE", required_unless_present = "receive")]
    send: Option<String>,
    /// Network namespace of it, a name or a file [default: this one]
    #[arg(long, value_name = "NAMESPACE", requires = "send")]
    send_netns: Option<String>,
    /// Queue of it
    #[arg(long, value_name = "N", default_value_t = 0)]
    send_queue: u32,
    /// Core the sending thread is pinned to [default: none]
    #[arg(long, value_name = "CORE")]
    send_core: Option<usize>,
    /// Packets handed to the kernel at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Interface to count at
    #[arg(long, value_name = "INTERFACE")]
    receive: Option<String>,
    /// Network namespace of it, a name or a file [default: this one]
    #[arg(long, value_name = "NAMESPACE", requires = "receive")]
    receive_netns: Option<String>,
    /// Core the receiving thread is pinned to [default: none]
    #[arg(long, value_name = "CORE")]
    receive_core: Option<usize>,
    /// How arriving packets are counted
    #[arg(long, value_enum, default_value_t = Count::Verify)]
    count: Count,
    /// How the XDP program is attached to the counting interface
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    xdp_mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Count {
    /// Look into each: whose it is, its checksums, its order
    Verify,
    /// Count and drop them in the kernel, whatever they are; much cheaper
    Drop,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Native, and generic where the driver refuses
    Auto,
    /// In the driver
    Native,
    /// In the kernel's stack
    Generic,
}

impl From<Mode> for XdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

/// What is sent. A range is FIRST-LAST.
#[derive(Debug, Args)]
#[command(next_help_heading = "Packets")]
struct PacketOptions {
    /// Source MAC address [default: the sending interface's]
    #[arg(long, value_name = "MAC")]
    source_mac: Option<MacAddr>,
    /// Destination MAC address
    #[arg(long, value_name = "MAC", default_value_t = MacAddr::BROADCAST)]
    destination_mac: MacAddr,
    /// Source address, or a range
    #[arg(long, value_name = "ADDRESS", default_value = "198.18.0.1")]
    source: AddressRange,
    /// Destination address, or a range
    #[arg(long, value_name = "ADDRESS", default_value = "198.19.0.1")]
    destination: AddressRange,
    /// UDP source port, or a range
    #[arg(long, value_name = "PORT", default_value = "1024-65535")]
    source_port: PortRange,
    /// UDP destination port, or a range
    #[arg(long, value_name = "PORT", default_value = "9")]
    destination_port: PortRange,
    /// How many flows: combinations of the addresses and ports, destination addresses first
    #[arg(long, value_name = "N", default_value_t = 1)]
    flows: u32,
    /// Draw each packet's flow at random, instead of one after the other
    #[arg(long)]
    random: bool,
    /// Length in bytes, from the (inner) Ethernet header to the end, without the frame check sequence
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    size: usize,
}

/// The tunnel packets are put in, to play another node.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tunnel")]
struct TunnelOptions {
    /// Put each packet into a tunnel
    #[arg(long, value_enum, requires_all = ["outer_source", "outer_destination"])]
    tunnel: Option<TunnelKind>,
    /// Outer source address
    #[arg(long, value_name = "ADDRESS")]
    outer_source: Option<Ipv4Addr>,
    /// Outer destination address
    #[arg(long, value_name = "ADDRESS")]
    outer_destination: Option<Ipv4Addr>,
    /// VXLAN network identifier
    #[arg(long, value_name = "VNI", default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..1 << 24))]
    vni: u32,
    /// Outer UDP destination port
    #[arg(long, value_name = "PORT", default_value_t = vxlan::LINUX_PORT)]
    outer_port: u16,
    /// Inner source MAC address of VXLAN
    #[arg(long, value_name = "MAC", default_value_t = MacAddr::ZERO)]
    inner_source_mac: MacAddr,
    /// Inner destination MAC address of VXLAN
    #[arg(long, value_name = "MAC", default_value_t = MacAddr::ZERO)]
    inner_destination_mac: MacAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TunnelKind {
    /// VXLAN over IPv4
    Vxlan,
    /// IPv4 in IPv4
    Ipip,
}

/// Reads a time that makes sense for a run.
fn seconds(text: &str) -> Result<f64, String> {
    /// Longer than anyone waits.
    const LONGEST: f64 = 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=LONGEST).contains(&seconds) => Ok(seconds),
        _ => Err(format!("a number of seconds, 0 to {LONGEST}, would be right")),
    }
}

fn place(interface: &str, namespace: Option<&String>) -> Place {
    namespace.map_or_else(
        || Place::here(interface),
        |namespace| Place::inside(interface, namespace),
    )
}

impl TunnelOptions {
    fn outer(&self) -> Option<Outer> {
        let (kind, source, destination) = (self.tunnel?, self.outer_source?, self.outer_destination?);
        let tunnel = match kind {
            TunnelKind::Ipip => Tunnel::Ipip,
            TunnelKind::Vxlan => Tunnel::Vxlan {
                inner: Link {
                    source: self.inner_source_mac,
                    destination: self.inner_destination_mac,
                },
                // clap has checked the range.
                vni: Vni::try_from(self.vni).ok()?,
                port: self.outer_port,
            },
        };
        Some(Outer {
            source,
            destination,
            tunnel,
        })
    }
}

impl Cli {
    fn plan(&self) -> Result<Plan, PktgenError> {
        let run = fresh_run();
        let send = match &self.ends.send {
            None => None,
            Some(interface) => {
                let place = place(interface, self.ends.send_netns.as_ref());
                Some((self.template(&place, run)?, self.sender(place)))
            }
        };
        let receive = self.ends.receive.as_ref().map(|interface| {
            let options = ReceiverOptions {
                place: place(interface, self.ends.receive_netns.as_ref()),
                core: self.ends.receive_core,
                mode: self.ends.xdp_mode.into(),
                // Who only receives cannot know the run.
                run: send.as_ref().map(|_| run),
            };
            match self.ends.count {
                Count::Verify => Counting::Verified(options),
                Count::Drop => Counting::Steered(options),
            }
        });
        let time = Duration::from_secs_f64;
        Ok(Plan {
            send,
            receive,
            warm_up: time(self.warm_up),
            duration: time(self.seconds),
        })
    }

    fn template(&self, place: &Place, run: u16) -> Result<Template, PktgenError> {
        let packet = &self.packet;
        let source = match packet.source_mac {
            Some(mac) => mac,
            None => place.facts()?.mac,
        };
        let space = FlowSpace {
            sources: packet.source,
            destinations: packet.destination,
            source_ports: packet.source_port,
            destination_ports: packet.destination_port,
        };
        let shape = Shape {
            link: Link {
                source,
                destination: packet.destination_mac,
            },
            outer: self.tunnel.outer(),
            flows: Flows::new(space, packet.flows)?,
            frame_len: packet.size,
            run,
        };
        Ok(Template::new(&shape)?)
    }

    fn sender(&self, place: Place) -> SenderOptions {
        SenderOptions {
            place,
            queue: QueueId(self.ends.send_queue),
            core: self.ends.send_core,
            batch: usize::from(self.ends.batch),
            rate: self.rate,
            packets: self.packets,
            order: if self.packet.random {
                Order::Random
            } else {
                Order::RoundRobin
            },
        }
    }
}

/// A number for this run that the last one most likely had not.
fn fresh_run() -> u16 {
    // INVARIANT: masked to 16 bits.
    #[allow(clippy::cast_possible_truncation)]
    let run = (millrace_dataplane::clock::cycles() >> 16 & 0xffff) as u16;
    run
}

/// A flag that the signals which end a program raise.
fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let stop = match stop_flag() {
        Ok(stop) => stop,
        Err(error) => {
            eprintln!("millrace-pktgen: cannot heed signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    match cli.plan().and_then(|plan| run(plan, &stop)) {
        Ok(report) if cli.json => match serde_json::to_string(&report) {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("millrace-pktgen: cannot write the report: {error}");
                return ExitCode::FAILURE;
            }
        },
        Ok(report) => println!("{report}"),
        Err(error) => {
            eprintln!("millrace-pktgen: {error}");
            return match error {
                PktgenError::Template(_) | PktgenError::Flows(_) | PktgenError::Core { .. } => {
                    ExitCode::from(WRONG_USAGE)
                }
                _ => ExitCode::FAILURE,
            };
        }
    }
    ExitCode::SUCCESS
}
