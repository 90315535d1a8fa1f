//! Values that are one of a few words.

use std::str::FromStr;

use clap::ValueEnum;
use serde::Deserialize;

/// How packets get between a device and packet memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bind {
    /// The kernel copies
    Copy,
    /// The device reads and writes packet memory itself
    ZeroCopy,
    /// Zero-copy where the driver can
    Auto,
}

/// How arriving packets are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Count {
    /// Look into each: whose it is, its checksums, its order, its age
    Verify,
    /// Count and drop them in the kernel, whatever they are; much cheaper
    Drop,
}

/// How the XDP program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Native, and generic where the driver refuses
    Auto,
    /// In the driver
    Native,
    /// In the kernel's stack
    Generic,
}

/// The protocol above IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// UDP
    Udp,
    /// TCP: segments as in the middle of a connection; with SYN for new connections
    Tcp,
    /// ICMP or ICMPv6 echo requests
    Icmp,
}

/// In which order flows come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sequence {
    /// One after the other
    RoundRobin,
    /// Each packet's drawn at random, all alike
    Uniform,
    /// Each packet's drawn at random by Zipf's law: few flows have most packets
    Zipf,
}

/// Which tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TunnelKind {
    /// VXLAN over IPv4
    Vxlan,
    /// IPv4 in IPv4
    Ipip,
}

/// How long frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// All the same, in bytes.
    Bytes(usize),
    /// The simple IMIX.
    Imix,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "imix" => Ok(Self::Imix),
            number => number
                .parse()
                .map(Self::Bytes)
                .map_err(|_| format!("{number:?} is no size: a number of bytes, or `imix`, would be right")),
        }
    }
}
