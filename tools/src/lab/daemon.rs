//! A Millrace node's daemon: its files, its life, and the clients that talk to it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::command::{self, Finished, Process, wait_until};
use super::manifest::{KUBECONFIG, MillraceOptions, node_file, write_whole};
use super::plan::NodePlan;
use super::{Api, LabError, Namespace};

/// The environment variable that names the `millrace` program.
pub const PROGRAM_VARIABLE: &str = "MILLRACE_BIN";
/// How long a start may take until the admin socket answers.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a clean stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client command may take.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The daemon of one Millrace node. Dropping it stops it.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Process>,
    program: PathBuf,
    node: String,
    namespace: String,
    folder: PathBuf,
    /// Where objects are written, if not into a folder.
    api: Option<Arc<Api>>,
}

/// Finds the `millrace` program: the one named by [`PROGRAM_VARIABLE`], else the one built beside this program.
pub fn find_program() -> Result<PathBuf, LabError> {
    find("millrace", PROGRAM_VARIABLE)
}

/// Finds a program of Millrace's: the one named by an environment variable, else the one built beside this program.
pub(crate) fn find(program: &'static str, variable: &'static str) -> Result<PathBuf, LabError> {
    let place = match std::env::var_os(variable) {
        Some(named) => PathBuf::from(named),
        None => beside_this_program()?.join(program),
    };
    if place.is_file() {
        return std::path::absolute(&place).map_err(LabError::io(format!("find {}", place.display())));
    }
    Err(LabError::NoProgram {
        program,
        tried: place.display().to_string(),
        variable,
    })
}

/// Where Cargo puts programs: this program's folder, or the one above for a test, which runs from `deps`.
fn beside_this_program() -> Result<PathBuf, LabError> {
    let own = std::env::current_exe().map_err(LabError::io("find this program"))?;
    let folder = own.parent().unwrap_or(Path::new("/"));
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.to_owned())
}

impl Daemon {
    /// Writes the node's files into `folder`, and starts nothing yet.
    pub(crate) fn prepare(
        plan: NodePlan,
        namespace: &Namespace,
        folder: PathBuf,
        options: &MillraceOptions,
    ) -> Result<Self, LabError> {
        let daemon = Self {
            process: None,
            program: find_program()?,
            node: plan.name(),
            namespace: namespace.name().to_owned(),
            folder,
            api: options.api.clone(),
        };
        for needed in [daemon.manifests(), daemon.state()] {
            fs::create_dir_all(&needed).map_err(LabError::io(format!("make {}", needed.display())))?;
        }
        if let Some(api) = &daemon.api {
            write_whole(&daemon.folder, KUBECONFIG, &api.kubeconfig())?;
        }
        daemon.write_config(&node_file(plan, &daemon.manifests(), &daemon.state(), options))?;
        Ok(daemon)
    }

    /// The node file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.folder.join("millrace.toml")
    }

    /// The folder of Kubernetes objects.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    /// The daemon's state folder.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// The admin socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.state().join("millrace.sock")
    }

    /// The file every start of the daemon appends its log to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.folder.join("millrace.log")
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_end(&self) -> String {
        command::log_end(&self.log())
    }

    /// Writes the node file anew; the next start reads it.
    pub fn write_config(&self, text: &str) -> Result<(), LabError> {
        write_whole(&self.folder, "millrace.toml", text)
    }

    /// Writes a manifest in one step, as the watcher should see it; or its objects to the API server.
    pub fn write_manifest(&self, name: &str, text: &str) -> Result<(), LabError> {
        if let Some(api) = &self.api {
            return api.write(name, text);
        }
        write_whole(&self.manifests(), name, text)
    }

    /// Removes a manifest; one that is not there is no error.
    pub fn remove_manifest(&self, name: &str) -> Result<(), LabError> {
        if let Some(api) = &self.api {
            return api.remove(name);
        }
        let path = self.manifests().join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(LabError::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Starts the daemon and waits until its admin socket answers. One that runs already is left alone.
    ///
    /// # Errors
    /// [`LabError::Ended`] with the end of the log if it ends before that, [`LabError::TimedOut`] if it never answers; in
    /// both cases nothing is left running.
    pub fn start(&mut self) -> Result<(), LabError> {
        if self.is_running()? {
            return Ok(());
        }
        let mut line = self.inside();
        line.arg("run").arg("--config").arg(self.config());
        let mut process = Process::spawn(line, &self.log())?;
        let what = format!("an answer from millrace on {}", self.node);
        let answered = wait_until(&what, START_TIMEOUT, || {
            process.check_running()?;
            // Connecting first spares a client process for each look.
            Ok(UnixStream::connect(self.socket()).is_ok() && self.ask(&["stats"])?.status.success())
        });
        answered?;
        self.process = Some(process);
        Ok(())
    }

    /// Whether the daemon runs.
    pub fn is_running(&mut self) -> Result<bool, LabError> {
        match &mut self.process {
            Some(process) => Ok(process.status()?.is_none()),
            None => Ok(false),
        }
    }

    /// The daemon's process id, while it was started and not stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Stops the daemon with SIGTERM, and returns how it ended.
    ///
    /// # Errors
    /// [`LabError::TimedOut`] if it did not go and had to be killed.
    pub fn stop(&mut self) -> Result<ExitStatus, LabError> {
        self.take()?.terminate(STOP_TIMEOUT)
    }

    /// Kills the daemon with SIGKILL: it gets no chance to leave anything in order.
    pub fn kill(&mut self) -> Result<ExitStatus, LabError> {
        self.take()?.kill()
    }

    /// Sends the daemon a signal, SIGSTOP say.
    pub fn signal(&mut self, signal: Signal) -> Result<(), LabError> {
        match &mut self.process {
            Some(process) => process.signal(signal),
            None => Err(self.not_started()),
        }
    }

    /// Runs `millrace ARGUMENTS` in the node's namespace with the daemon's socket, and returns how it ended.
    pub fn ask(&self, arguments: &[&str]) -> Result<Finished, LabError> {
        command::complete(self.client(arguments), CLIENT_TIMEOUT)
    }

    /// Like [`ask`](Self::ask), but a failure is an error, and standard output the answer.
    pub fn client_output(&self, arguments: &[&str]) -> Result<String, LabError> {
        self.ask(arguments)?.success()
    }

    /// Like [`client_output`](Self::client_output), with `--json` added and the answer parsed.
    pub fn json(&self, arguments: &[&str]) -> Result<Value, LabError> {
        let mut line = arguments.to_vec();
        line.push("--json");
        let text = self.client_output(&line)?;
        serde_json::from_str(&text).map_err(|error| LabError::Output {
            command: command::line_of(&self.client(&line)),
            problem: error.to_string(),
        })
    }

    /// The command line of a client, for those who want it to run on (`millrace capture`).
    #[must_use]
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut line = self.inside();
        line.arg("--socket").arg(self.socket()).args(arguments);
        line
    }

    fn inside(&self) -> Command {
        let mut line = Command::new("ip");
        line.args(["netns", "exec", &self.namespace]).arg(&self.program);
        line
    }

    fn take(&mut self) -> Result<Process, LabError> {
        self.process.take().ok_or_else(|| self.not_started())
    }

    fn not_started(&self) -> LabError {
        LabError::Unknown {
            what: "running millrace",
            name: self.node.clone(),
        }
    }
}
