//! Single steps with files, each of which is done or not when the process is killed.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::durable::{self, DurableError, Rights, Steps};

/// Does the steps; a test has it die before any one of them.
#[derive(Debug)]
pub(super) struct Hand {
    #[cfg(test)]
    steps_left: std::cell::Cell<usize>,
}

impl Steps for Hand {
    #[cfg(test)]
    fn before(&self) -> io::Result<()> {
        let left = self.steps_left.get().checked_sub(1);
        self.steps_left.set(left.unwrap_or_default());
        left.map(drop).ok_or_else(|| io::Error::other("killed"))
    }
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

    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, DurableError> {
        self.step("read", path, || fs::read(path))
    }

    pub(super) fn make_folder(&self, path: &Path) -> Result<(), DurableError> {
        durable::make_folder_by(self, path)
    }

    /// Has the file hold these bytes, in one step for whoever reads it. Says whether it did not before.
    pub(super) fn put(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<bool, DurableError> {
        let is_there = fs::read(path).is_ok_and(|found| found == bytes)
            && fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o7777 == mode);
        if is_there {
            return Ok(false);
        }
        durable::replace_by(self, path, Rights::Exactly(mode), |file, beside| {
            let (first, rest) = bytes.split_at(bytes.len() / 2);
            for part in [first, rest] {
                self.step("write", beside, || file.write_all(part))?;
            }
            Ok(())
        })?;
        Ok(true)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), DurableError> {
        durable::rename_by(self, from, to)
    }

    /// Says whether it was there.
    pub(super) fn remove(&self, path: &Path) -> Result<bool, DurableError> {
        let removed = self.step("remove", path, || match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        })?;
        if removed {
            durable::settle_by(self, path)?;
        }
        Ok(removed)
    }
}
