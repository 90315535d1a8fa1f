//! The kernel a virtual machine runs, as `tools/kernel.sh` unpacks it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::LabError;

/// The environment variable that names the folder of the kernel.
pub const KERNEL_VARIABLE: &str = "MILLRACE_KERNEL";

/// An unpacked kernel: `vmlinuz`, `release`, and `lib/modules/RELEASE` with its `modules.dep`.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    folder: PathBuf,
    modules: PathBuf,
    dependencies: BTreeMap<String, Vec<String>>,
}

impl Kernel {
    /// The kernel in the folder that [`KERNEL_VARIABLE`] names.
    pub(super) fn find() -> Result<Self, LabError> {
        let folder = std::env::var_os(KERNEL_VARIABLE).ok_or_else(|| LabError::NoKernel {
            tried: "no folder".to_owned(),
            variable: KERNEL_VARIABLE,
        })?;
        Self::open(&PathBuf::from(folder))
    }

    fn open(folder: &Path) -> Result<Self, LabError> {
        let release = fs::read_to_string(folder.join("release")).map_err(|_| LabError::NoKernel {
            tried: folder.display().to_string(),
            variable: KERNEL_VARIABLE,
        })?;
        let modules = folder.join("lib/modules").join(release.trim());
        let list = modules.join("modules.dep");
        let text = fs::read_to_string(&list).map_err(LabError::io(format!("read {}", list.display())))?;
        Ok(Self {
            folder: folder.to_owned(),
            modules,
            dependencies: parse_dependencies(&text),
        })
    }

    /// The kernel's image.
    pub(super) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The files of these modules and of all they depend on, each after those it needs.
    pub(super) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>, LabError> {
        let mut ordered = Vec::new();
        for name in names {
            let found = self
                .dependencies
                .keys()
                .find(|path| module_name(path) == *name)
                .ok_or_else(|| LabError::Unknown {
                    what: "kernel module",
                    name: (*name).to_owned(),
                })?;
            self.collect(found, &mut ordered);
        }
        Ok(ordered.iter().map(|path| self.modules.join(path)).collect())
    }

    /// Adds a module after what it needs. `modules.dep` names for each all that it needs, directly or not, so this goes
    /// as deep as modules stand on each other.
    fn collect(&self, path: &str, ordered: &mut Vec<String>) {
        if ordered.iter().any(|known| known == path) {
            return;
        }
        for needed in self.dependencies.get(path).into_iter().flatten() {
            self.collect(needed, ordered);
        }
        ordered.push(path.to_owned());
    }
}

/// Reads `modules.dep`: a line for each module, its path, a colon, and the paths of those it needs.
fn parse_dependencies(text: &str) -> BTreeMap<String, Vec<String>> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(path, needed)| {
            let needed = needed.split_whitespace().map(str::to_owned).collect();
            (path.to_owned(), needed)
        })
        .collect()
}

/// A module's name, from the path of its file, compressed or not.
fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").map_or(file, |(name, _)| name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A kernel's folder with these lines as its `modules.dep`.
    fn kernel(lines: &str) -> (tempfile::TempDir, Kernel) {
        let folder = tempfile::tempdir().unwrap();
        let modules = folder.path().join("lib/modules/7.0-test");
        fs::create_dir_all(&modules).unwrap();
        fs::write(folder.path().join("release"), "7.0-test\n").unwrap();
        fs::write(modules.join("modules.dep"), lines).unwrap();
        let kernel = Kernel::open(folder.path()).unwrap();
        (folder, kernel)
    }

    #[test]
    fn a_module_comes_after_all_it_needs_and_once() {
        let (_folder, kernel) = kernel(
            "net/virtio_net.ko.xz: net/net_failover.ko.xz net/failover.ko.xz\n\
             net/net_failover.ko.xz: net/failover.ko.xz\n\
             net/failover.ko.xz:\n\
             net/veth.ko:\n",
        );
        let files = kernel.modules(&["virtio_net", "veth", "failover"]).unwrap();
        let names: Vec<_> = files
            .iter()
            .map(|path| module_name(path.to_str().unwrap()))
            .collect();
        assert_eq!(names, ["failover", "net_failover", "virtio_net", "veth"]);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let (_folder, kernel) = kernel("net/veth.ko.xz:\n");
        let error = kernel.modules(&["vxlan"]).unwrap_err().to_string();
        assert!(error.contains("vxlan"), "{error}");
    }

    #[test]
    fn a_folder_without_a_kernel_says_how_to_get_one() {
        let folder = tempfile::tempdir().unwrap();
        let error = Kernel::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("tools/kernel.sh") && error.contains(KERNEL_VARIABLE),
            "{error}"
        );
    }
}
