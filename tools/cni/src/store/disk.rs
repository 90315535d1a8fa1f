//! The few things that the store does with files, so that a test can break off between any two of them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The file whose lock is that of the folder.
const LOCK: &str = ".lock";

/// A folder of small files. None of it is durable before it is synced: a file's content by [`Self::sync_file`], what files
/// there are by [`Self::sync_folder`].
pub trait Disk {
    /// The names of all files.
    ///
    /// # Errors
    /// The system's.
    fn list(&self) -> io::Result<Vec<String>>;
    /// What is in a file; `None` if there is no such file.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Writes a new file, in the place of one of that name.
    ///
    /// # Errors
    /// The system's.
    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// The system's.
    fn sync_file(&mut self, name: &str) -> io::Result<()>;
    /// Gives a file another name, over a file of that name.
    ///
    /// # Errors
    /// The system's.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// The system's.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes it durable which files there are.
    ///
    /// # Errors
    /// The system's.
    fn sync_folder(&mut self) -> io::Result<()>;
    /// Where it is, for a person.
    fn place(&self) -> String;
}

/// A folder of the machine's, locked until this is dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Opens a folder, which is made if it is not there, and waits until nobody else has it.
    ///
    /// # Errors
    /// The system's.
    pub fn lock(path: &Path) -> io::Result<Self> {
        let lock = take(path, LOCK)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }
}

/// Waits until nobody else has a file's lock; the file, and its folder, are made if they are not there. The lock goes with
/// the process, however that ends.
///
/// # Errors
/// The system's.
pub fn take(folder: &Path, name: &str) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut options = OpenOptions::new();
    let options = options.create(true).truncate(false).write(true).mode(0o600);
    let lock = options.open(folder.join(name))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    Ok(lock)
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let options = options.create_new(true).write(true).mode(0o600);
        options.open(path)?.write_all(bytes)
    }

    fn sync_file(&mut self, name: &str) -> io::Result<()> {
        File::open(self.path.join(name))?.sync_all()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}
