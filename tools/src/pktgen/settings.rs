//! What can be set, in a TOML file and on the command line alike. What stands on the line overrides the file.

use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use millrace_dataplane::wire::MacAddr;
use serde::{Deserialize, Deserializer, de};

use super::error::PktgenError;
use super::flows::{AddressRange, PortRange};
use super::rate::Rate;

mod choice;
mod resolve;

pub use choice::{Bind, Count, Kind, Mode, Sequence, Size, TunnelKind};
pub use resolve::{Resolved, criteria, setup, trial};

/// What stands for the wire in memory where an interface is named.
pub const MEMORY: &str = "memory";

/// Reads a value from a TOML string, number or boolean, as it would be read from the command line.
fn text<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(from: D) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Scalar {
        Integer(i64),
        Float(f64),
        Text(String),
    }
    let text = match Scalar::deserialize(from)? {
        Scalar::Integer(number) => number.to_string(),
        Scalar::Float(number) => number.to_string(),
        Scalar::Text(text) => text,
    };
    text.parse().map(Some).map_err(de::Error::custom)
}

/// Makes `over(self, under)`: every value of `self`, or the other's where there is none.
macro_rules! layered {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $name {
            fn over(self, under: Self) -> Self {
                Self { $($field: self.$field.or(under.$field)),+ }
            }
        }
    };
}

/// The sending end.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[command(next_help_heading = "Sending")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Send {
    /// Interface to send from, or `memory`
    #[arg(id = "send", long = "send", value_name = "INTERFACE")]
    pub interface: Option<String>,
    /// Network namespace of it, a name or a file [default: this one]
    #[arg(id = "send-netns", long = "send-netns", value_name = "NAMESPACE")]
    pub netns: Option<String>,
    /// Queues of it, a thread for each [default: 0]
    #[arg(
        id = "send-queue",
        long = "send-queue",
        value_name = "N,...",
        value_delimiter = ','
    )]
    pub queues: Option<Vec<u32>>,
    /// Cores that the threads are pinned to, one after the other [default: none]
    #[arg(
        id = "send-core",
        long = "send-core",
        value_name = "CORE,...",
        value_delimiter = ','
    )]
    pub cores: Option<Vec<usize>>,
    /// Threads that send into memory [default: 1]
    #[arg(id = "send-threads", long = "send-threads", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub threads: Option<u32>,
    /// Packets handed to a queue at once [default: 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: Option<u16>,
    /// How packets get to the device [default: copy]
    #[arg(id = "send-bind", long = "send-bind", value_enum, value_name = "HOW")]
    pub bind: Option<Bind>,
}
layered!(Send {
    interface,
    netns,
    queues,
    cores,
    threads,
    batch,
    bind
});

/// The receiving end.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[command(next_help_heading = "Receiving")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Receive {
    /// Interface to count at, or `memory`
    #[arg(id = "receive", long = "receive", value_name = "INTERFACE")]
    pub interface: Option<String>,
    /// Network namespace of it, a name or a file [default: this one]
    #[arg(id = "receive-netns", long = "receive-netns", value_name = "NAMESPACE")]
    pub netns: Option<String>,
    /// Queues of it that are looked into; what comes by others is counted as lost [default: all]
    #[arg(
        id = "receive-queue",
        long = "receive-queue",
        value_name = "N,...",
        value_delimiter = ','
    )]
    pub queues: Option<Vec<u32>>,
    /// Cores, a thread on each, that share the queues [default: one thread, anywhere]
    #[arg(
        id = "receive-core",
        long = "receive-core",
        value_name = "CORE,...",
        value_delimiter = ','
    )]
    pub cores: Option<Vec<usize>>,
    /// How packets get from the device [default: copy]
    #[arg(id = "receive-bind", long = "receive-bind", value_enum, value_name = "HOW")]
    pub bind: Option<Bind>,
    /// How arriving packets are counted [default: verify]
    #[arg(long, value_enum, value_name = "HOW")]
    pub count: Option<Count>,
    /// How the XDP program is attached [default: auto]
    #[arg(long, value_enum, value_name = "MODE")]
    pub xdp_mode: Option<Mode>,
    /// Take frames for any address meanwhile [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub promiscuous: Option<bool>,
}
layered!(Receive {
    interface,
    netns,
    queues,
    cores,
    bind,
    count,
    xdp_mode,
    promiscuous
});

/// What is sent. A range is FIRST-LAST.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[command(next_help_heading = "Packets (a range is FIRST-LAST)")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Packets {
    /// Source MAC address [default: the sending interface's]
    #[arg(long, value_name = "MAC")]
    pub source_mac: Option<MacAddr>,
    /// Destination MAC address [default: ff:ff:ff:ff:ff:ff]
    #[arg(long, value_name = "MAC")]
    pub destination_mac: Option<MacAddr>,
    /// Source addresses, IPv4 or IPv6 [default: 198.18.0.1]
    #[arg(long, value_name = "ADDRESSES")]
    #[serde(deserialize_with = "text")]
    pub source: Option<AddressRange>,
    /// Destination addresses [default: 198.19.0.1]
    #[arg(long, value_name = "ADDRESSES")]
    #[serde(deserialize_with = "text")]
    pub destination: Option<AddressRange>,
    /// Source ports, or ICMP identifiers [default: 1024-65535]
    #[arg(long, value_name = "PORTS")]
    #[serde(deserialize_with = "text")]
    pub source_port: Option<PortRange>,
    /// Destination ports, or ICMP sequence numbers [default: 9]
    #[arg(long, value_name = "PORTS")]
    #[serde(deserialize_with = "text")]
    pub destination_port: Option<PortRange>,
    /// Protocol above IP [default: udp]
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub protocol: Option<Kind>,
    /// Bytes from the (inner) Ethernet header to the end, without the frame check sequence of 4 bytes; or `imix`, 7:4:1 of 60,
    /// 590 and 1514 [default: 64, or the shortest that the protocol has]
    #[arg(long, value_name = "BYTES|imix")]
    #[serde(deserialize_with = "text")]
    pub size: Option<Size>,
    /// How many flows: combinations of the addresses and ports, destination addresses first [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub flows: Option<u32>,
    /// In which order they come [default: round-robin]
    #[arg(long, value_enum, value_name = "ORDER")]
    pub order: Option<Sequence>,
    /// Exponent of Zipf's law, above 0 [default: 1]
    #[arg(long, value_name = "S")]
    pub zipf_exponent: Option<f64>,
    /// Every packet begins a connection (TCP with SYN, UDP and ICMP with a flow's first packet): none comes again before
    /// all combinations of the ranges have [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub new_connections: Option<bool>,
    /// Send the packets of this pcap or pcapng file instead, round and round
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,
    /// Leave recorded payloads as they are: nobody can tell then whether they arrive [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub replay_as_is: Option<bool>,
}
layered!(Packets {
    source_mac,
    destination_mac,
    source,
    destination,
    source_port,
    destination_port,
    protocol,
    size,
    flows,
    order,
    zipf_exponent,
    new_connections,
    replay,
    replay_as_is,
});

/// The tunnel packets are put in, to play another node.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[command(next_help_heading = "Tunnel")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wrap {
    /// Put each packet into a tunnel
    #[arg(id = "tunnel", long = "tunnel", value_enum, value_name = "KIND")]
    pub kind: Option<TunnelKind>,
    /// Outer source address
    #[arg(long, value_name = "ADDRESS")]
    pub outer_source: Option<Ipv4Addr>,
    /// Outer destination address
    #[arg(long, value_name = "ADDRESS")]
    pub outer_destination: Option<Ipv4Addr>,
    /// VXLAN network identifier [default: 1]
    #[arg(long, value_name = "VNI", value_parser = clap::value_parser!(u32).range(0..1 << 24))]
    pub vni: Option<u32>,
    /// Outer UDP destination port [default: 8472]
    #[arg(long, value_name = "PORT")]
    pub outer_port: Option<u16>,
    /// Inner source MAC address of VXLAN [default: 00:00:00:00:00:00]
    #[arg(long, value_name = "MAC")]
    pub inner_source_mac: Option<MacAddr>,
    /// Inner destination MAC address of VXLAN [default: 00:00:00:00:00:00]
    #[arg(long, value_name = "MAC")]
    pub inner_destination_mac: Option<MacAddr>,
}
layered!(Wrap {
    kind,
    outer_source,
    outer_destination,
    vni,
    outer_port,
    inner_source_mac,
    inner_destination_mac
});

/// Times.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[command(next_help_heading = "Time")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Times {
    /// How long a run, or a trial of a search, takes, in seconds [default: 10]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// How long packets flow before anything is counted, in seconds [default: 0; searching: 1]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub warm_up: Option<f64>,
    /// How long packets may be under way after the last was sent, in seconds [default: 0.5; searching: 2]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub drain: Option<f64>,
}
layered!(Times {
    seconds,
    warm_up,
    drain
});

/// How fast a run goes.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[command(next_help_heading = "Rate")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Speed {
    /// Packets per second (`250000`, `1.2Mpps`), bits per second of frames (`3Gbit`) or on the wire (`10Gbit-l1`), `max`, or
    /// `recorded` [default: max]
    #[arg(long, value_name = "RATE")]
    #[serde(deserialize_with = "text")]
    pub rate: Option<Rate>,
    /// Packets in all [default: as many as go in the time]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub packets: Option<u64>,
}
layered!(Speed { rate, packets });

/// How rates are searched for.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[command(next_help_heading = "Search")]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Search {
    /// The interval that is narrow enough, in per cent of the rate [default: 1]
    #[arg(long, value_name = "PERCENT")]
    pub resolution: Option<f64>,
    /// Loss at which the PDR still passes, in per cent [default: 0.5]
    #[arg(long, value_name = "PERCENT")]
    pub partial_loss: Option<f64>,
    /// How often the rate that was found has to pass again [default: 1]
    #[arg(long, value_name = "N")]
    pub verifications: Option<u32>,
    /// Seconds without packets between two trials [default: 0.5]
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub pause: Option<f64>,
    /// Packets or bits per second that are not exceeded [default: max]
    #[arg(long, value_name = "RATE")]
    #[serde(deserialize_with = "text")]
    pub max_rate: Option<Rate>,
}
layered!(Search {
    resolution,
    partial_loss,
    verifications,
    pause,
    max_rate
});

/// Everything.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The sending end.
    pub send: Send,
    /// The receiving end.
    pub receive: Receive,
    /// What is sent.
    pub packets: Packets,
    /// What it is put in.
    pub tunnel: Wrap,
    /// Times.
    pub time: Times,
    /// How fast a run goes.
    pub run: Speed,
    /// How rates are searched for.
    pub search: Search,
}

impl Settings {
    /// These settings, and where there are none, others.
    #[must_use]
    pub fn over(self, under: Self) -> Self {
        Self {
            send: self.send.over(under.send),
            receive: self.receive.over(under.receive),
            packets: self.packets.over(under.packets),
            tunnel: self.tunnel.over(under.tunnel),
            time: self.time.over(under.time),
            run: self.run.over(under.run),
            search: self.search.over(under.search),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`PktgenError::Settings`] with the place in the file and what is wrong there.
    pub fn read(path: &Path) -> Result<Self, PktgenError> {
        let failed = |what: &dyn fmt::Display| PktgenError::Settings(format!("{}: {what}", path.display()));
        let text = fs::read_to_string(path).map_err(|e| failed(&e))?;
        toml::from_str(&text).map_err(|e| failed(&e.to_string().trim_end()))
    }
}

/// Reads a time that makes sense for a run.
fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=LONGEST).contains(&seconds) => Ok(seconds),
        _ => Err(format!("a number of seconds, 0 to {LONGEST}, would be right")),
    }
}

/// Longer than anyone waits, in seconds.
const LONGEST: f64 = 86_400.0;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_line_overrides_the_file() {
        let file: Settings = toml::from_str(
            "[send]\ninterface = \"a\"\nqueues = [0, 1]\n[packets]\nsize = \"imix\"\nsource = \"10.0.0.1-10.0.0.9\"\n\
             destination-port = 53\n[run]\nrate = \"1Mpps\"\n",
        )
        .unwrap();
        let mut line = Settings::default();
        line.send.interface = Some("b".to_owned());
        line.run.rate = Some(Rate::Max);
        let both = line.over(file);
        assert_eq!(both.send.interface.as_deref(), Some("b"));
        assert_eq!(both.send.queues, Some(vec![0, 1]));
        assert_eq!(both.packets.size, Some(Size::Imix));
        assert_eq!(both.packets.destination_port, Some(PortRange::one(53)));
        assert_eq!(both.run.rate, Some(Rate::Max));
    }

    #[test]
    fn the_example_has_every_key_and_runs() {
        use clap::CommandFactory;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            send: Send,
            #[command(flatten)]
            receive: Receive,
            #[command(flatten)]
            packets: Packets,
            #[command(flatten)]
            tunnel: Wrap,
            #[command(flatten)]
            time: Times,
            #[command(flatten)]
            run: Speed,
            #[command(flatten)]
            search: Search,
        }
        const EXAMPLE: &str = include_str!("../../../examples/pktgen.toml");
        let settings: Settings = toml::from_str(EXAMPLE).unwrap();
        setup(&settings).unwrap();
        assert!(trial(&settings).unwrap().1.is_none());
        criteria(&settings, 64.0).unwrap();
        for argument in Line::command().get_arguments() {
            let Some(long) = argument.get_long().filter(|long| *long != "help") else {
                continue;
            };
            assert!(EXAMPLE.contains(&format!(" --{long}\n")), "--{long}");
        }
        // What is commented out is right too.
        let all: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        toml::from_str::<Settings>(&all).unwrap();
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        for (text, problem) in [
            ("[send]\nintreface = \"a\"", "intreface"),
            ("[packets]\nsource = \"10.0.0\"", "10.0.0"),
            ("[packets]\nsize = \"big\"", "imix"),
            ("[run]\nrate = \"fast\"", "packets per second"),
            ("[tunnel]\nkind = \"gre\"", "ipip"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), text).unwrap();
            let error = Settings::read(file.path()).unwrap_err().to_string();
            assert!(
                error.contains(problem) && error.contains("line 2"),
                "{text}: {error}"
            );
        }
        let error = Settings::read(Path::new("/no/such/file.toml"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("/no/such/file.toml"), "{error}");
    }
}
