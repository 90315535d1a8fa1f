//! BGP speakers: BIRD and FRR, each in the namespace of its machine, with their files in a folder of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use millrace_tools::lab::{Lab, Namespace, Process};

use crate::rig::await_that;

/// Everyone's autonomous system.
pub(super) const SYSTEM: u32 = 64512;

/// A machine's folder, which FRR's own user may write to. It is not in the lab's, which that user cannot enter.
struct Folder(PathBuf);

impl Folder {
    fn make(lab: &Lab, name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("{}-routing-{name}", lab.prefix()));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
        Self(folder)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A machine with BIRD.
pub(super) struct Bird {
    // Ends before its folder does.
    _process: Process,
    folder: Folder,
}

impl Bird {
    /// Starts it with this configuration.
    pub(super) fn start(lab: &Lab, name: &str, namespace: &Namespace, text: &str) -> Self {
        let folder = Folder::make(lab, name);
        let (config, socket) = (folder.join("bird.conf"), folder.join("bird.ctl"));
        fs::write(&config, text).unwrap();
        let mut line = namespace.command("bird");
        line.arg("-f").arg("-c").arg(&config).arg("-s").arg(&socket);
        let process = Process::spawn(line, &folder.join("log")).unwrap();
        Self {
            folder,
            _process: process,
        }
    }

    /// Tells it something, as at its own prompt.
    pub(super) fn tell(&self, words: &str) -> String {
        let socket = self.folder.join("bird.ctl").display().to_string();
        let mut line = Command::new("birdc");
        line.args(["-s", &socket]).args(words.split(' '));
        said(line)
    }
}

/// A machine with FRR: zebra, which alone talks with the kernel, and the daemons that it listens to.
pub(super) struct Frr {
    // They end before their folder does.
    _processes: Vec<Process>,
    folder: Folder,
}

impl Frr {
    /// Starts it with this configuration.
    pub(super) fn start(lab: &Lab, name: &str, namespace: &Namespace, text: &str) -> Self {
        let folder = Folder::make(lab, name);
        let config = folder.join("frr.conf");
        fs::write(&config, text).unwrap();
        let start = |daemon: &str| {
            let mut line = namespace.command(format!("/usr/lib/frr/{daemon}"));
            line.args(["-u", "frr", "-g", "frr", "-f"]).arg(&config);
            line.arg("-z").arg(folder.join("zserv.api"));
            line.arg("--vty_socket").arg(&folder.0);
            line.arg("-i").arg(folder.join(&format!("{daemon}.pid")));
            Process::spawn(line, &folder.join("log")).unwrap()
        };
        let zebra = start("zebra");
        // Whoever does not find it looks again only ten seconds later.
        await_that("zebra to listen", || folder.join("zserv.api").exists());
        let processes = vec![zebra, start("staticd"), start("bgpd")];
        Self {
            folder,
            _processes: processes,
        }
    }

    /// Tells it something, line by line, as at its own prompt.
    pub(super) fn tell(&self, lines: &[&str]) -> String {
        let folder = self.folder.0.display().to_string();
        let mut line = Command::new("vtysh");
        line.args(["--vty_socket", &folder]);
        line.args(lines.iter().flat_map(|line| ["-c", line]));
        said(line)
    }
}

/// What a prompt answers. It is reached by a socket in the file system, which every namespace of the network has.
fn said(mut line: Command) -> String {
    let output = line.output().unwrap();
    assert!(output.status.success(), "{line:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
