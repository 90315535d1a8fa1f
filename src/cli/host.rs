//! Arguments of the commands about a host: looking at it, the container runtime's files, and taking everything away.

use std::path::{Path, PathBuf};

use clap::Args;

use super::output;
use crate::admin::client::Client;
use crate::admin::protocol::{Failure, HealthReport, Request};
use crate::doctor::{self, Question};
use crate::install::{self, Folders, PLUGIN, Wanted};
use crate::objects::NodeName;

/// Where container runtimes look for plugins.
const CNI_BIN_DIR: &str = "/opt/cni/bin";
/// Where they look for networks.
const CNI_CONF_DIR: &str = "/etc/cni/net.d";

pub(super) const DOCTOR_EXAMPLES: &str =
    "Examples:\n  millrace doctor\n  millrace doctor --config /etc/millrace/millrace.toml --json";
pub(super) const INSTALL_EXAMPLES: &str = "Examples:\n  millrace install\n  \
    millrace install --cni-bin-dir /host/opt/cni/bin --cni-conf-dir /host/etc/cni/net.d";
pub(super) const UNINSTALL_EXAMPLES: &str = "Examples:\n  millrace uninstall --config /etc/millrace/millrace.toml\n  \
    millrace uninstall --stop --config /etc/millrace/millrace.toml\n  millrace uninstall --cni";
pub(super) const HEALTH_EXAMPLES: &str = "Examples:\n  millrace health\n  millrace health --ready";

/// The container runtime's folders.
#[derive(Debug, Clone, Args)]
pub struct CniFolders {
    /// Where the container runtime looks for plugins
    #[arg(long, value_name = "DIR", default_value = CNI_BIN_DIR)]
    pub cni_bin_dir: PathBuf,
    /// Where the container runtime looks for networks
    #[arg(long, value_name = "DIR", default_value = CNI_CONF_DIR)]
    pub cni_conf_dir: PathBuf,
}

impl CniFolders {
    fn folders(&self) -> Folders {
        Folders {
            bin: self.cni_bin_dir.clone(),
            conf: self.cni_conf_dir.clone(),
        }
    }
}

/// Arguments of [`Command::Doctor`](super::Command::Doctor).
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// The node file (TOML); without one its defaults count
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The uplink, where there is no node file [default: the interface of the default route]
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    pub uplink: Option<String>,
    /// The container runtime's folders.
    #[command(flatten)]
    pub cni: CniFolders,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of [`Command::Install`](super::Command::Install).
#[derive(Debug, Args)]
pub struct InstallArguments {
    /// The container runtime's folders.
    #[command(flatten)]
    pub cni: CniFolders,
    /// The plugin's program [default: millrace-cni beside this one]
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// A network of your own [default: one with --socket as the daemon's]
    #[arg(long, value_name = "FILE")]
    pub conflist: Option<PathBuf>,
}

/// Arguments of [`Command::Uninstall`](super::Command::Uninstall).
#[derive(Debug, Args)]
pub struct UninstallArguments {
    /// The node file (TOML): remove what the switch left in the kernel
    #[arg(long, value_name = "FILE", required_unless_present = "cni_files")]
    pub config: Option<PathBuf>,
    /// Have a running daemon take its program off the uplink, close its sockets and end first
    #[arg(long, requires = "config")]
    pub stop: bool,
    /// Remove plugin and network of the container runtime, and put back the networks that were set aside
    #[arg(long = "cni")]
    pub cni_files: bool,
    /// The container runtime's folders.
    #[command(flatten)]
    pub cni: CniFolders,
}

/// Arguments of [`ClientCommand::Health`](super::ClientCommand::Health).
#[derive(Debug, Args)]
pub struct HealthArguments {
    /// Also whether packets find their ways: the uplink is attached and has its link
    #[arg(long)]
    pub ready: bool,
}

/// Looks at this host and says what is found.
///
/// # Errors
/// If the switch could not run here, or nothing could be looked at.
pub fn doctor(arguments: DoctorArguments, name: Option<&NodeName>) -> Result<(), Failure> {
    let question = Question {
        name: name.cloned(),
        config: arguments.config,
        uplink: arguments.uplink,
        cni_bin_dir: arguments.cni.cni_bin_dir,
        cni_conf_dir: arguments.cni.cni_conf_dir,
    };
    let report = doctor::examine(&question).map_err(|error| Failure::wrong(format!("{error:#}")))?;
    output::print(&if arguments.json {
        format!(
            "{:#}\n",
            serde_json::json!({ "good": report.is_good(), "findings": report.findings })
        )
    } else {
        report.to_string()
    })?;
    if report.is_good() {
        return Ok(());
    }
    let count = report.count(doctor::Level::Fail);
    Err(Failure::failed(format!(
        "{count} thing(s) to put right before Millrace can run here, named above"
    )))
}

/// Puts the container runtime's files in place; `socket` is the daemon's.
///
/// # Errors
/// When a file cannot be read or written; one line.
pub fn install(arguments: &InstallArguments, socket: &Path) -> Result<(), Failure> {
    let plugin = arguments.plugin.clone().map_or_else(beside_this_program, Ok)?;
    let done = Wanted::new(plugin, arguments.conflist.as_deref(), socket)
        .and_then(|wanted| install::install(&arguments.cni.folders(), &wanted))
        .map_err(|error| Failure::failed(error.to_string()))?;
    say(&done, "all of it was there\n")
}

fn beside_this_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()
        .map_err(|error| Failure::failed(format!("cannot find this program: {error}")))?;
    Ok(program.with_file_name(PLUGIN))
}

/// Takes the container runtime's files away.
///
/// # Errors
/// When a file cannot be removed or put back; one line.
pub fn uninstall_cni(arguments: &UninstallArguments) -> Result<(), Failure> {
    let done =
        install::uninstall(&arguments.cni.folders()).map_err(|error| Failure::failed(error.to_string()))?;
    say(&done, "nothing of the container runtime's was left here\n")
}

fn say(done: &[String], nothing: &str) -> Result<(), Failure> {
    if done.is_empty() {
        return output::print(nothing);
    }
    output::print(&done.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// Asks whether the switch is well.
pub(super) fn health(socket: &Path, arguments: &HealthArguments) -> Result<(), Failure> {
    let answer = Client::connect(socket)?.request(&Request::Health)?;
    let report: HealthReport = serde_json::from_value(answer)
        .map_err(|error| Failure::failed(format!("the daemon's answer is not understood: {error}")))?;
    let complaints = report.complaints(arguments.ready);
    if complaints.is_empty() {
        return output::print(if arguments.ready { "ready\n" } else { "alive\n" });
    }
    Err(Failure::failed(complaints.join("; ")))
}
