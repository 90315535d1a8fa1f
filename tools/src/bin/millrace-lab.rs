//! `millrace-lab`: Kubernetes nodes in network namespaces, to look at and to test with.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use millrace_tools::demo;
use millrace_tools::lab::plan::{Families, Network};
use millrace_tools::lab::{
    Api, Attachment, Lab, LabError, MillraceOptions, NodeKind, Offloads, Topology, Wire, clean_leftovers,
    interrupt,
};

/// Exit status after a signal, as a shell reports a command ended by Ctrl-C.
const INTERRUPTED: u8 = 130;
/// Exit status for a lab that cannot be built as asked; clap uses the same for a line it cannot read.
const WRONG_USAGE: u8 = 2;

/// Kubernetes nodes in network namespaces: Millrace's and stock Linux ones, in Calico's or flannel's shape, on one underlay.
///
/// Must run as root. Touches nothing outside the namespaces it makes, and removes them at the end, on Ctrl-C and after
/// a failure too.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring a lab up, try traffic between everyone in it, print what passed, and clean up
    Demo(LabOptions),
    /// Bring a lab up, say how to enter it, and keep it until Ctrl-C
    Up(LabOptions),
    /// Remove what labs left behind that were killed
    Clean,
}

/// What the lab consists of.
#[derive(Debug, Args)]
struct LabOptions {
    /// The nodes, in order: node-a, node-b, …
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "millrace,millrace,stock"
    )]
    nodes: Vec<NodeWord>,
    /// Pods on each node
    #[arg(long, value_name = "N", default_value_t = 2)]
    pods: usize,
    /// Queues of each underlay interface
    #[arg(long, value_name = "N", default_value_t = Wire::default().queues)]
    queues: u32,
    /// MTU of the underlay, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Wire::default().mtu)]
    mtu: u32,
    /// Leave checksum and segmentation offloads of the underlay on, as no real wire would
    #[arg(long)]
    underlay_offloads: bool,
    /// Cores for Millrace's workers [default: the first two]
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    cores: Vec<usize>,
    /// The families of the pods and the underlay
    #[arg(long, value_enum, default_value = "dual")]
    families: FamiliesWord,
    /// Whose objects describe the nodes: with Calico's, IPv4 pods of Millrace nodes reach each other over IPIP
    #[arg(long, value_enum, default_value = "calico")]
    network: NetworkWord,
    /// Take the nodes' objects from the API server that MILLRACE_TEST_API names, with MILLRACE_TEST_API_TOKEN and
    /// MILLRACE_TEST_API_CA; in flannel's network
    #[arg(long)]
    api: bool,
    /// How Millrace attaches to the uplink
    #[arg(long, value_name = "MODE", value_parser = ["auto", "native", "generic"], default_value = "auto")]
    xdp_mode: String,
}

/// A node on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum NodeWord {
    /// A node that runs Millrace
    Millrace,
    /// A stock Linux node, whose kernel's VXLAN devices carry its pods' packets
    Stock,
}

/// Families on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FamiliesWord {
    /// IPv4 alone
    V4,
    /// IPv4 and IPv6
    Dual,
}

/// A cluster network on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum NetworkWord {
    /// flannel's
    Flannel,
    /// Calico's
    Calico,
}

/// The CIDRs of Services' addresses in a lab of both families: kubeadm's, and one for IPv6.
const SERVICE_CIDRS: &str = "\n[services]\ncidrs = [\"10.96.0.0/12\", \"fd96::/108\"]\n";

impl LabOptions {
    fn topology(&self) -> Result<Topology, LabError> {
        let kind = |word: &NodeWord| match word {
            NodeWord::Millrace => NodeKind::Millrace,
            NodeWord::Stock => NodeKind::Stock,
        };
        let offloads = if self.underlay_offloads {
            Offloads::On
        } else {
            Offloads::Off
        };
        let mut millrace = MillraceOptions {
            xdp_mode: self.xdp_mode.clone(),
            ..MillraceOptions::default()
        };
        if !self.cores.is_empty() {
            millrace.cores.clone_from(&self.cores);
        }
        let families = match self.families {
            FamiliesWord::V4 => Families::V4,
            FamiliesWord::Dual => Families::Dual,
        };
        if families == Families::Dual {
            millrace.extra.push_str(SERVICE_CIDRS);
        }
        let network = match self.network {
            _ if self.api => Network::Flannel,
            NetworkWord::Flannel => Network::Flannel,
            NetworkWord::Calico => Network::Calico,
        };
        if self.api {
            millrace.api = Some(Arc::new(Api::of_environment()?));
        }
        Ok(Topology {
            nodes: self.nodes.iter().map(kind).collect(),
            pods_per_node: self.pods,
            wire: Wire {
                queues: self.queues,
                mtu: self.mtu,
                offloads,
            },
            millrace,
            families,
            network,
            attachment: Attachment::Plugin,
        })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ended = interrupt::heed_signals().and_then(|()| match &cli.command {
        Command::Demo(options) => demo::run(&options.topology()?, &mut io::stdout().lock()),
        Command::Up(options) => up(&options.topology()?).map(|()| true),
        Command::Clean => clean().map(|()| true),
    });
    let error = match ended {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => return ExitCode::FAILURE,
        Err(error) => error,
    };
    eprintln!("millrace-lab: {error}");
    match error {
        LabError::Interrupted => ExitCode::from(INTERRUPTED),
        LabError::Unfit { .. } => ExitCode::from(WRONG_USAGE),
        _ => ExitCode::FAILURE,
    }
}

/// Brings a lab up and keeps it until a signal comes.
fn up(topology: &Topology) -> Result<(), LabError> {
    clean_leftovers()?;
    let lab = Lab::bring_up("up", topology)?;
    print(&format!("{}\n\n{}", demo::describe(&lab), how_to_enter(&lab)))?;
    interrupt::wait();
    lab.close()?;
    print("\nThe lab is gone.")
}

/// Lines to copy into a shell.
fn how_to_enter(lab: &Lab) -> String {
    let mut lines = vec!["To enter:".to_owned()];
    for node in lab.nodes() {
        for namespace in
            std::iter::once(node.namespace()).chain(node.pods().iter().map(|pod| pod.namespace()))
        {
            lines.push(format!("  ip netns exec {} bash", namespace.name()));
        }
    }
    lines.push(format!(
        "  ip netns exec {} bash   # the switch of the rack",
        lab.switch().namespace().name()
    ));
    let daemons = lab
        .nodes()
        .iter()
        .filter_map(|node| Some((node.name(), node.daemon()?)));
    for (name, daemon) in daemons {
        lines.push(format!(
            "To ask {name}:\n  millrace --socket {} stats",
            daemon.socket().display()
        ));
        lines.push(format!(
            "Its files:\n  {}\n  {}",
            daemon.config().display(),
            daemon.manifests().display()
        ));
        lines.push(format!("  {}", daemon.log().display()));
    }
    lines.push("Ctrl-C takes everything down, and ends what still runs inside.".to_owned());
    lines.join("\n")
}

/// Removes leftovers and names them.
fn clean() -> Result<(), LabError> {
    let removed = clean_leftovers()?;
    if removed.is_empty() {
        return print("Nothing was left behind.");
    }
    removed
        .iter()
        .try_for_each(|name| print(&format!("removed {name}")))
}

/// Prints a line; a closed standard output is an error like any other, so that the lab is still taken down.
fn print(text: &str) -> Result<(), LabError> {
    let action = || "print".to_owned();
    writeln!(io::stdout(), "{text}").map_err(|source| LabError::Io {
        action: action(),
        source,
    })
}
