//! `millrace install` and `millrace uninstall --cni`: the files by which a container runtime finds the CNI plugin.
//!
//! The order of the steps is what makes them safe: the plugin is there before the network that names it, and the network
//! before another one is set aside; on the way back the other one is there again before ours goes. Each file appears whole or
//! not at all (written beside, made durable, renamed), so whoever is killed in between leaves a node with a network, and the
//! next run finishes the work.

mod hand;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::durable::{DurableError, beside};
use hand::Hand;

/// The plugin's name, in the runtime's folder of plugins and as `type` in a network.
pub const PLUGIN: &str = "millrace-cni";
/// Our network, in the runtime's folder of networks.
pub const CONFLIST: &str = "10-millrace.conflist";
/// What a network that was set aside has after its name.
pub const SAVED_SUFFIX: &str = ".millrace-saved";
/// Endings of networks' names; the runtime reads nothing else, and takes the first by name.
const NETWORK_ENDINGS: [&str; 3] = ["conf", "conflist", "json"];
/// The network as it is without an operator's own.
const TEMPLATE: &str = include_str!("../../examples/10-millrace.conflist");
/// Where the plugin writes down who has which address, unless the network says otherwise.
const DATA_DIR: &str = "/var/lib/millrace/ipam";
/// The number of this boot of the machine.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";
/// Rights of the plugin, and of the network.
const PROGRAM_MODE: u32 = 0o755;
const FILE_MODE: u32 = 0o644;

/// The runtime's folders.
#[derive(Debug, Clone)]
pub struct Folders {
    /// Of plugins: `/opt/cni/bin`.
    pub bin: PathBuf,
    /// Of networks: `/etc/cni/net.d`.
    pub conf: PathBuf,
}

/// Why the files are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The system refused.
    #[error(transparent)]
    System(#[from] DurableError),
    /// The network that is to be installed is none.
    #[error("{}: {reason}", path.display())]
    Network {
        /// Its file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

/// What is to be installed.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The plugin's program.
    pub plugin: PathBuf,
    /// The text of the network.
    pub network: String,
}

impl Wanted {
    /// The plugin, and the network of an operator's own file, or the usual one with the daemon's socket.
    ///
    /// # Errors
    /// [`InstallError`] when the file cannot be read, or names no such plugin.
    pub fn new(plugin: PathBuf, network: Option<&Path>, socket: &Path) -> Result<Self, InstallError> {
        let network = match network {
            Some(path) => own_network(path)?,
            None => usual_network(socket),
        };
        Ok(Self { plugin, network })
    }
}

fn own_network(path: &Path) -> Result<String, InstallError> {
    let text = fs::read_to_string(path).map_err(DurableError::at("read", path))?;
    let wrong = |reason: String| InstallError::Network {
        path: path.to_owned(),
        reason,
    };
    let network: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let plugins = network.get("plugins").and_then(Value::as_array);
    let has_ours = plugins.is_some_and(|plugins| plugins.iter().any(|plugin| plugin["type"] == PLUGIN));
    if network.get("name").and_then(Value::as_str).is_none() || !has_ours {
        return Err(wrong(format!(
            "a network has a `name`, and a list of `plugins` with one of type {PLUGIN}"
        )));
    }
    Ok(text)
}

fn usual_network(socket: &Path) -> String {
    let mut network: Value = serde_json::from_str(TEMPLATE).unwrap_or_default();
    if let Some(plugin) = network.pointer_mut("/plugins/0") {
        plugin["socket"] = socket.display().to_string().into();
    }
    format!("{network:#}\n")
}

/// The names of networks in a folder, in the order in which the runtime takes them; none where there is no folder.
///
/// # Errors
/// The system's.
pub fn networks(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let ending = Path::new(&name).extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| NETWORK_ENDINGS.contains(&ending)) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What our network says under a key of the plugin's, if it is there.
fn said_by(conflist: &Path, key: &str) -> Option<PathBuf> {
    let network: Value = serde_json::from_str(&fs::read_to_string(conflist).ok()?).ok()?;
    let plugins = network.get("plugins")?.as_array()?;
    let ours = plugins.iter().find(|plugin| plugin["type"] == PLUGIN)?;
    ours.get(key)?.as_str().map(PathBuf::from)
}

/// The daemon's socket, as a network names it.
#[must_use]
pub fn socket_of(conflist: &Path) -> Option<PathBuf> {
    said_by(conflist, "socket")
}

/// Puts plugin and network in place, and sets aside every network that the runtime would take before it. Says what was done;
/// nothing where all is there.
///
/// # Errors
/// [`InstallError`]; what was done stays, and the next call goes on.
pub fn install(folders: &Folders, wanted: &Wanted) -> Result<Vec<String>, InstallError> {
    install_by(&Hand::new(), folders, wanted)
}

fn install_by(hand: &Hand, folders: &Folders, wanted: &Wanted) -> Result<Vec<String>, InstallError> {
    let mut done = Vec::new();
    hand.make_folder(&folders.bin)?;
    hand.make_folder(&folders.conf)?;
    let plugin = hand.read(&wanted.plugin)?;
    for (path, bytes, mode) in [
        (folders.bin.join(PLUGIN), plugin.as_slice(), PROGRAM_MODE),
        (folders.conf.join(CONFLIST), wanted.network.as_bytes(), FILE_MODE),
    ] {
        if hand.put(&path, bytes, mode)? {
            done.push(format!("installed: {}", path.display()));
        }
    }
    for name in listed(&folders.conf)?
        .iter()
        .take_while(|name| name.as_str() < CONFLIST)
    {
        let (from, to) = (
            folders.conf.join(name),
            folders.conf.join(format!("{name}{SAVED_SUFFIX}")),
        );
        hand.rename(&from, &to)?;
        done.push(format!("set aside: {} as {}", from.display(), to.display()));
    }
    Ok(done)
}

fn listed(folder: &Path) -> Result<Vec<String>, InstallError> {
    Ok(networks(folder).map_err(DurableError::at("list", folder))?)
}

/// Puts networks back that were set aside, and takes ours away; the plugin too, unless pods still need it to be taken down.
/// Says what was done; nothing where nothing of it is there.
///
/// # Errors
/// [`InstallError`]; what was done stays, and the next call goes on.
pub fn uninstall(folders: &Folders) -> Result<Vec<String>, InstallError> {
    uninstall_by(&Hand::new(), folders)
}

fn uninstall_by(hand: &Hand, folders: &Folders) -> Result<Vec<String>, InstallError> {
    let mut done = Vec::new();
    let conflist = folders.conf.join(CONFLIST);
    // Asked before the network goes, which says where.
    let data_dir = said_by(&conflist, "dataDir").unwrap_or_else(|| PathBuf::from(DATA_DIR));
    for name in saved(&folders.conf)? {
        let (from, to) = (
            folders.conf.join(format!("{name}{SAVED_SUFFIX}")),
            folders.conf.join(&name),
        );
        if to.exists() {
            // Whoever it belongs to has written a newer one.
            hand.remove(&from)?;
            done.push(format!(
                "removed: {}, since {} is there",
                from.display(),
                to.display()
            ));
        } else {
            hand.rename(&from, &to)?;
            done.push(format!("put back: {}", to.display()));
        }
    }
    if hand.remove(&conflist)? {
        done.push(format!("removed: {}", conflist.display()));
    }
    let plugin = folders.bin.join(PLUGIN);
    // Of an install that was killed.
    for path in [&conflist, &plugin] {
        hand.remove(&beside(path))?;
    }
    let pods = attachments(&data_dir);
    if pods > 0 && plugin.exists() {
        done.push(format!(
            "left: {}, by which {pods} interface(s) of pods are taken down; say it again once these are gone",
            plugin.display()
        ));
    } else if hand.remove(&plugin)? {
        done.push(format!("removed: {}", plugin.display()));
    }
    Ok(done)
}

/// Names of networks that were set aside.
fn saved(folder: &Path) -> Result<Vec<String>, InstallError> {
    let failed = DurableError::at("list", folder);
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(SAVED_SUFFIX).map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}

/// How many interfaces of pods the plugin has made since this boot and has not taken down.
fn attachments(data_dir: &Path) -> usize {
    let boot = fs::read_to_string(BOOT).unwrap_or_default();
    let Ok(entries) = fs::read_dir(data_dir) else {
        return 0;
    };
    let is_of_this_boot = |path: PathBuf| {
        let record: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        (record.get("boot")?.as_str()? == boot.trim()).then_some(())
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter_map(is_of_this_boot).count()
}
