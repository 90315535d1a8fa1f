//! The command line: what can be said, and those commands that ask a running daemon.
//!
//! `run`, `check` and `uninstall` are only taken apart here; [`execute`] does what a daemon is asked, [`doctor`],
//! [`install`] and [`uninstall_cni`] what is about the host.

mod attach;
mod capture;
mod completions;
mod decode;
mod dns;
mod host;
mod load_balancers;
mod networks;
mod output;
mod pcapng;
mod policies;
mod services;
mod show;
mod stations;
mod stats;
mod value;

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::admin::client::Client;
use crate::admin::protocol::{self, Failure, Request};
use crate::objects::NodeName;

pub use attach::{AttachArguments, DetachArguments};
pub use completions::{Shell, print_completions};
pub use host::{
    CniFolders, DoctorArguments, HealthArguments, InstallArguments, UninstallArguments, doctor, install,
    uninstall_cni,
};
pub use output::print;

/// Where the daemon's admin socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/millrace/millrace.sock";

const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  the operation failed
  2  wrong usage or configuration";

/// The packet switch of a bare-metal Kubernetes node, in userspace over AF_XDP
#[derive(Debug, Parser)]
#[command(name = "millrace", version, propagate_version = true, max_term_width = 100, after_help = EXIT_STATUS)]
pub struct Cli {
    /// Admin socket of the daemon to ask
    #[arg(long, global = true, env = "MILLRACE_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// This node's name, whatever the node file says: one file may be many nodes'
    #[arg(long, global = true, env = "MILLRACE_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<NodeName>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Everything that can be asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the switch of this node, in the foreground
    ///
    /// Prints `ready` on standard error once everything is attached. SIGTERM or SIGINT stops it cleanly and
    /// leaves the XDP programs and the host port in place for the next start; until then pods are cut off and
    /// the node's own traffic goes on.
    #[command(after_help = "Examples:\n  millrace run --config /etc/millrace/millrace.toml")]
    Run(ConfigArgument),
    /// Check a node file and its manifests without starting anything
    ///
    /// Names each object that would be refused, and why. Exits with 2 if anything is wrong.
    #[command(after_help = "Examples:\n  millrace check /etc/millrace/millrace.toml")]
    Check(CheckArguments),
    /// What a running daemon is asked.
    #[command(flatten)]
    Client(ClientCommand),
    /// Look at this host, and say what keeps Millrace from running on it and what to do
    ///
    /// Changes nothing, and works without privileges as far as it can. Exits with 1 if something has to be put right.
    #[command(after_help = host::DOCTOR_EXAMPLES)]
    Doctor(DoctorArguments),
    /// Put the CNI plugin and its network where the container runtime finds them
    ///
    /// A network that the runtime would take before it (flannel's, Calico's) is set aside, as NAME.millrace-saved.
    #[command(after_help = host::INSTALL_EXAMPLES)]
    Install(InstallArguments),
    /// Remove what the switch left on this node, or what `install` did
    ///
    /// With --config, while the daemon is stopped: XDP programs, host port, pod ports, routes, changed settings of the
    /// uplink. With --cni: the container runtime's plugin and network. With both: both, the network first.
    #[command(after_help = host::UNINSTALL_EXAMPLES)]
    Uninstall(UninstallArguments),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  millrace completions bash > /etc/bash_completion.d/millrace\n  \
        millrace completions zsh > \"${fpath[1]}/_millrace\"\n  \
        millrace completions fish > ~/.config/fish/completions/millrace.fish"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// The commands that ask a running daemon.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Show counters: totals, drops and punts by reason, workers, ports, steering
    #[command(
        after_help = "Examples:\n  millrace stats\n  millrace stats --json | jq .totals.dropped\n  \
        millrace stats --openmetrics > /var/lib/node_exporter/millrace.prom"
    )]
    Stats {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Print OpenMetrics, as Prometheus reads it
        #[arg(long, conflicts_with = "json")]
        openmetrics: bool,
    },
    /// Say whether the switch is well: control and workers answer
    #[command(after_help = host::HEALTH_EXAMPLES)]
    Health(HealthArguments),
    /// Show what the switch works with
    #[command(
        after_help = "Examples:\n  millrace show ports\n  millrace show routes --json\n  \
        millrace show services --address 10.96.0.10\n  \
        millrace show flows --pod default/web-0 --state established\n  \
        millrace show fdb --network shop/blue"
    )]
    Show {
        /// What to show
        what: Subject,
        /// Which rows
        #[command(flatten)]
        filter: FilterArguments,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what would become of a connection, or of a bridged network's frame, and why, without sending a packet
    ///
    /// Exits with 0 if it would be allowed, or forwarded, and with 1 if not.
    #[command(
        after_help = "Examples:\n  millrace explain --from shop/web --to shop/db:5432\n  \
        millrace explain --from shop/web --to 10.96.0.10:53 --proto udp\n  \
        millrace explain --from shop/web --to shop/db:5432 --manifests ./new\n  \
        millrace explain --network shop/blue --from 02:00:00:00:00:01 --to 02:00:00:00:00:07"
    )]
    Explain(ExplainArguments),
    /// Show what policies deny
    #[command(after_help = "Examples:\n  millrace denied\n  millrace denied --follow --json | jq .by")]
    Denied {
        /// Go on until Ctrl-C
        #[arg(long, short)]
        follow: bool,
        /// Print JSON, one line for each kind of packet
        #[arg(long)]
        json: bool,
    },
    /// Make a port: for a pod, a veth into its network namespace, configured; for a virtual machine, a tap device
    ///
    /// Without --address the pod gets the addresses of its Pod object. With --network it is an interface beside the pod's first.
    #[command(after_help = attach::EXAMPLES)]
    Attach(AttachArguments),
    /// Take a pod's port away, or a virtual machine's
    #[command(after_help = attach::DETACH_EXAMPLES)]
    Detach(DetachArguments),
    /// Copy what passes a port, with what became of each packet
    ///
    /// tcpdump sees nothing of what the switch carries; this does. Copies that are not taken fast enough are
    /// lost and counted, the traffic never waits. Each packet is shown as the switch received it, with its
    /// verdict and reason, or as it sent it. Ctrl-C ends it, with a whole file.
    #[command(
        after_help = "Examples:\n  millrace capture --port uplink --filter 'udp port 8472' --count 10\n  \
        millrace capture --port default/web-0 -w web-0.pcapng\n  \
        millrace capture --port eth1 -w - | tcpdump -n -r -"
    )]
    Capture(CaptureArguments),
}

/// `--config FILE`.
#[derive(Debug, Args)]
pub struct ConfigArgument {
    /// The node file (TOML)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Arguments of [`Command::Check`].
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// The node file (TOML)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Which rows of [`ClientCommand::Show`]: those to which all that is given applies.
#[derive(Debug, Clone, Default, Args)]
pub struct FilterArguments {
    /// Only what has to do with this pod
    #[arg(long, value_name = "NAMESPACE/POD", value_parser = value::pod)]
    pub pod: Option<String>,
    /// Only what has this address
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Only what has this port
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Only what is in this state
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only flows or stations of this network
    #[arg(long, value_name = "NAMESPACE/NETWORK", value_parser = value::network)]
    pub network: Option<String>,
    /// So many flows or stations at most [default: 1000]
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
}

impl From<FilterArguments> for protocol::ShowFilter {
    fn from(arguments: FilterArguments) -> Self {
        Self {
            pod: arguments.pod,
            address: arguments.address,
            port: arguments.port,
            state: arguments.state,
            network: arguments.network,
            limit: arguments.limit,
        }
    }
}

/// What [`ClientCommand::Show`] can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Interfaces the switch is attached to
    Ports,
    /// Routes the workers use
    Routes,
    /// Neighbours the workers use
    Neighbours,
    /// The other nodes
    Peers,
    /// Workers, their load and their frames
    Workers,
    /// Services, what leads to them and where they lead
    Services,
    /// Load balancers' addresses, and who announces them
    LoadBalancers,
    /// Connections
    Flows,
    /// Policies, and how often each of their rules decided
    Policies,
    /// The node's own resolver
    Dns,
    /// Networks beside the cluster's own, with their ports and where their frames go
    Networks,
    /// Stations of bridged networks, and where they are
    Fdb,
}

/// Arguments of [`ClientCommand::Explain`].
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The network: a bridged one, of a frame between two of its stations, or a routed one, of a packet from one of its addresses
    #[arg(long, value_name = "NAMESPACE/NETWORK", value_parser = value::network, conflicts_with = "manifests")]
    pub network: Option<String>,
    /// The pod that would open the connection; in a --network the MAC address or the IP address that would send
    #[arg(long, value_name = "NAMESPACE/POD", value_parser = value::pod_or_station)]
    pub from: String,
    /// To whom: NAMESPACE/POD:PORT, NAMESPACE/SERVICE:PORT or IP:PORT; in a --network a MAC address, IP or IP:PORT
    #[arg(long, value_name = "WHERE")]
    pub to: String,
    /// The protocol [default: tcp]
    #[arg(long, value_name = "PROTOCOL", value_parser = ["tcp", "udp", "sctp", "icmp"])]
    pub proto: Option<String>,
    /// Ask what would be with the manifests in this folder applied to the objects in force; where no switch runs, with
    /// them alone
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The protocol of a connection that is asked about.
fn default_protocol() -> String {
    "tcp".to_owned()
}

/// Arguments of [`ClientCommand::Capture`].
#[derive(Debug, Args)]
pub struct CaptureArguments {
    /// The port: an interface's name, NAMESPACE/POD, `uplink` or `host`
    #[arg(long, short = 'i', value_name = "PORT")]
    pub port: String,
    /// Only packets that match, in tcpdump's language (pcap-filter(7))
    #[arg(long, short, value_name = "EXPR")]
    pub filter: Option<String>,
    /// End after so many packets
    #[arg(long, short, value_name = "N")]
    pub count: Option<NonZeroU64>,
    /// End after so many seconds
    #[arg(long, value_name = "N")]
    pub seconds: Option<NonZeroU64>,
    /// Write pcapng to this file, or to standard output (`-`), in place of a line per packet
    #[arg(short, long = "write", value_name = "FILE")]
    pub write: Option<PathBuf>,
}

/// Does what a running daemon is needed for; `socket` is the daemon's admin socket.
///
/// # Errors
/// One line for the user, and the exit status.
pub fn execute(socket: &Path, command: ClientCommand) -> Result<(), Failure> {
    let ask = |request: &Request| Client::connect(socket)?.request(request);
    match command {
        ClientCommand::Stats { json, openmetrics } => {
            let answer = ask(&Request::Stats)?;
            output::print(&match (json, openmetrics) {
                (true, _) => output::json(&answer)?,
                (_, true) => stats::openmetrics(answer)?,
                _ => stats::render(answer)?,
            })
        }
        ClientCommand::Health(arguments) => host::health(socket, &arguments),
        ClientCommand::Show { what, filter, json } => {
            let answer = ask(&show::request(what, filter.into())?)?;
            output::print(&if json {
                output::json(&answer)?
            } else {
                show::render(what, answer)?
            })
        }
        ClientCommand::Explain(mut arguments) => {
            if let Some(network) = arguments.network.take() {
                return stations::explain(socket, network, &arguments);
            }
            value::pod(&arguments.from).map_err(Failure::wrong)?;
            let ask = protocol::Explain {
                from: arguments.from,
                to: arguments.to,
                protocol: arguments.proto.unwrap_or_else(default_protocol),
                // The daemon has a folder of its own to start from.
                manifests: arguments
                    .manifests
                    .map(|path| std::path::absolute(&path).unwrap_or(path)),
            };
            policies::explain(socket, ask, arguments.json)
        }
        ClientCommand::Denied { follow, json } => policies::denied(socket, follow, json),
        ClientCommand::Attach(arguments) => attach::attach(socket, arguments),
        ClientCommand::Detach(arguments) => attach::detach(socket, arguments),
        ClientCommand::Capture(arguments) => capture::run(socket, &arguments),
    }
}

/// Says on standard error why a command failed, in one line, and gives its exit status.
#[must_use]
pub fn exit_code(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("millrace: {}", output::one_line(&failure.message));
            ExitCode::from(failure.status)
        }
    }
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
