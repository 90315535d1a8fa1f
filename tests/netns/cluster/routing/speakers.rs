//! BGP speakers: BIRD and FRR, each in the namespace of its machine, with their files in a folder of their own.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use millrace_tools::lab::{Lab, Namespace, Process};

use crate::rig::await_that;

/// Everyone's autonomous system.
pub(super) const SYSTEM: u32 = 64512;

/// The environment variable that names the folder where `tools/frr.sh` left FRR 10.
const FRR_10_VARIABLE: &str = "MILLRACE_FRR";

/// A machine's folder, which FRR's own user may write to. It is not in the lab's, which that user cannot enter.
struct Folder(PathBuf);

impl Folder {
    fn make(lab: &Lab, name: &str) -> Self {
        Self::make_in(&std::env::temp_dir(), lab, name)
    }

    fn make_in(parent: &Path, lab: &Lab, name: &str) -> Self {
        let folder = parent.join(format!("{}-routing-{name}", lab.prefix()));
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

/// A machine with FRR 10, which Debian 12 has not: it runs in a file system of its own.
pub(super) struct Frr10 {
    // They end before their folder does.
    _processes: Vec<Process>,
    _folder: Folder,
}

impl Frr10 {
    /// Starts it with this configuration.
    pub(super) fn start(lab: &Lab, name: &str, namespace: &Namespace, text: &str) -> Self {
        let root = std::env::var_os(FRR_10_VARIABLE).unwrap_or_else(|| {
            panic!("{FRR_10_VARIABLE} names no folder with FRR 10: run `make test`, or tools/frr.sh FOLDER and set it")
        });
        let root = Path::new(&root).join("root");
        let folder = Folder::make_in(&root.join("tmp"), lab, name);
        fs::write(folder.join("frr.conf"), text).unwrap();
        let inside = Path::new("/").join(folder.0.strip_prefix(&root).unwrap());
        let start = |daemon: &str| {
            let mut line = namespace.command("chroot");
            line.arg(&root).arg(format!("/usr/lib/frr/{daemon}"));
            line.args(["-u", "frr", "-g", "frr", "-f"])
                .arg(inside.join("frr.conf"));
            line.arg("-z").arg(inside.join("zserv.api"));
            line.arg("--vty_socket").arg(&inside);
            line.arg("-i").arg(inside.join(format!("{daemon}.pid")));
            Process::spawn(line, &folder.join("log")).unwrap()
        };
        let zebra = start("zebra");
        await_that("zebra to listen", || folder.join("zserv.api").exists());
        let processes = vec![zebra, start("bgpd")];
        Self {
            _folder: folder,
            _processes: processes,
        }
    }
}

/// What a prompt answers. It is reached by a socket in the file system, which every namespace of the network has.
fn said(mut line: Command) -> String {
    let output = line.output().unwrap();
    assert!(output.status.success(), "{line:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}
