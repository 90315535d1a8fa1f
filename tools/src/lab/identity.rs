//! Names: what a lab is called, so that labs never meet and the leftovers of a dead one can be found.

use std::fs;
use std::io;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::namespace::{self, NAMESPACE_FOLDER};
use super::{LabError, Namespace};

/// Every namespace and folder of every lab starts with this, then the process id of its owner.
const FAMILY: &str = "mrlab-";
/// The longest name of a lab or of a namespace's role in it.
const NAME_LIMIT: usize = 24;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A lab's name and its folder for files. The folder goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Identity {
    prefix: String,
    folder: TempDir,
}

impl Identity {
    /// Claims a name no other lab has, of this process or another, and makes a folder only root can enter.
    pub(crate) fn claim(name: &str) -> Result<Self, LabError> {
        check_name("lab name", name)?;
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{FAMILY}{}-{serial}-{name}-", process::id());
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .tempdir()
            .map_err(LabError::io("make the lab's folder"))?;
        Ok(Self { prefix, folder })
    }

    /// What every namespace of this lab starts with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The lab's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a namespace of this lab for `role`.
    pub(crate) fn namespace(&self, role: &str) -> Result<Namespace, LabError> {
        check_name("namespace role", role)?;
        Namespace::create(format!("{}{role}", self.prefix))
    }
}

/// Lets through what is fit for a file name, an interface, a DNS label and a shell alike.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), LabError> {
    let fit = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if !name.is_empty() && name.len() <= NAME_LIMIT && name.chars().all(fit) {
        return Ok(());
    }
    let rule = "one to 24 of a-z, 0-9 and -";
    Err(LabError::Unfit {
        what,
        value: name.to_owned(),
        rule,
    })
}

/// The entries of a folder that start with `prefix`; a folder that does not exist has none.
fn entries(folder: &Path, prefix: &str) -> Result<Vec<String>, LabError> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(LabError::io(format!("list {}", folder.display())))?,
    };
    let names = listing
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    Ok(names)
}

/// The namespaces whose name starts with `prefix`.
pub(crate) fn namespaces(prefix: &str) -> Result<Vec<String>, LabError> {
    entries(Path::new(NAMESPACE_FOLDER), prefix)
}

/// The process that owns a lab's namespace or folder, from its name; nothing if the name is none of ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(FAMILY)?.split_once('-')?.0.parse().ok()
}

/// Whether a name belongs to a lab whose process is gone.
fn is_orphan(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Removes what labs left whose process is gone (killed with SIGKILL, say): what still runs in their namespaces, the
/// namespaces, and their folders. Returns the names of what was removed. Labs that are alive are not touched.
pub fn clean_leftovers() -> Result<Vec<String>, LabError> {
    let mut removed = Vec::new();
    for name in namespaces(FAMILY)?.into_iter().filter(|name| is_orphan(name)) {
        namespace::remove(&name)?;
        removed.push(name);
    }
    let temporary = std::env::temp_dir();
    for name in entries(&temporary, FAMILY)?
        .into_iter()
        .filter(|name| is_orphan(name))
    {
        let path = temporary.join(&name);
        match fs::remove_dir_all(&path) {
            // Someone else cleans up as well.
            Err(_) if !path.exists() => {}
            other => other.map_err(LabError::io(format!("remove {}", path.display())))?,
        }
        removed.push(path.display().to_string());
    }
    Ok(removed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        let rows = [
            ("mrlab-4242-0-demo-node-a", Some(4242)),
            ("mrlab-1-7-x-", Some(1)),
            ("mrlab--0-demo", None),
            ("mrlab-12", None),
            ("other-4242-0-demo", None),
        ];
        for (name, expected) in rows {
            assert_eq!(owner(name), expected, "{name}");
        }
        assert!(
            !is_orphan(&format!("{FAMILY}{}-0-x", process::id())),
            "the living are no orphans"
        );
    }

    #[test]
    fn only_plain_names_pass() {
        for good in ["a", "node-a", "pod-b12"] {
            check_name("name", good).unwrap();
        }
        for bad in ["", "A", "a/b", "a b", "-\n", "../x", "abcdefghijklmnopqrstuvwxyz"] {
            assert!(check_name("name", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn two_labs_of_one_name_have_different_prefixes() {
        let (first, second) = (Identity::claim("twin").unwrap(), Identity::claim("twin").unwrap());
        assert_ne!(first.prefix(), second.prefix());
        let path = first.folder().to_owned();
        assert!(path.exists());
        drop(first);
        assert!(!path.exists());
    }
}
