//! Single steps with files, each of which is done or not when the process is killed.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::InstallError;

/// Does the steps; a test has it die before any one of them.
#[derive(Debug)]
pub(super) struct Hand {
    #[cfg(test)]
    steps_left: std::cell::Cell<usize>,
}

impl Hand {
    pub(super) fn new() -> Self {
        Self {
            #[cfg(test)]
            steps_left: std::cell::Cell::new(usize::MAX),
        }
    }

    /// One that dies after so many steps.
    #[cfg(test)]
    pub(super) fn that_dies_after(steps: usize) -> Self {
        Self {
            steps_left: std::cell::Cell::new(steps),
        }
    }

    /// One step, unless it dies first.
    fn step<T>(
        &self,
        doing: &'static str,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, InstallError> {
        let failed = |source| InstallError::System {
            doing,
            path: path.to_owned(),
            source,
        };
        #[cfg(test)]
        match self.steps_left.get().checked_sub(1) {
            Some(left) => self.steps_left.set(left),
            None => return Err(failed(io::Error::other("killed"))),
        }
        act().map_err(failed)
    }

    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, InstallError> {
        self.step("read", path, || fs::read(path))
    }

    pub(super) fn make_folder(&self, path: &Path) -> Result<(), InstallError> {
        if path.is_dir() {
            return Ok(());
        }
        self.step("make the folder", path, || fs::create_dir_all(path))?;
        self.settle(path)
    }

    /// Has the file hold these bytes, in one step for whoever reads it. Says whether it did not before.
    pub(super) fn put(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<bool, InstallError> {
        let is_there = fs::read(path).is_ok_and(|found| found == bytes)
            && fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o7777 == mode);
        if is_there {
            return Ok(false);
        }
        let beside = beside(path);
        // One that was left by a kill is begun anew.
        let mut file = self.step("make", &beside, || {
            fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(mode)
                .open(&beside)
        })?;
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        for part in [first, rest] {
            self.step("write", &beside, || file.write_all(part))?;
        }
        self.step("set the rights of", &beside, || {
            file.set_permissions(fs::Permissions::from_mode(mode))
        })?;
        self.step("make durable", &beside, || file.sync_all())?;
        drop(file);
        self.rename(&beside, path)?;
        Ok(true)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), InstallError> {
        self.step("rename", from, || fs::rename(from, to))?;
        self.settle(to)
    }

    /// Says whether it was there.
    pub(super) fn remove(&self, path: &Path) -> Result<bool, InstallError> {
        let removed = self.step("remove", path, || match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        })?;
        if removed {
            self.settle(path)?;
        }
        Ok(removed)
    }

    /// Makes a change of a folder's names durable.
    fn settle(&self, changed: &Path) -> Result<(), InstallError> {
        let folder = changed.parent().unwrap_or(Path::new("/"));
        self.step("make durable", folder, || fs::File::open(folder)?.sync_all())
    }
}

/// Where a file is written before it is renamed: hidden, and with an ending that no runtime reads.
pub(super) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}
