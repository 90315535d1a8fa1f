//! Files that are there whole, the old or the new one, whatever is killed or loses power, when.
//!
//! The content is written beside the file, brought to the disk, and put in the file's place by a rename, which then is
//! brought to the disk itself, with the folder that it is a change of. What is left beside by a kill is begun anew.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a file that says no rights has, before the umask.
const RIGHTS: u32 = 0o666;

/// A step failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {source}", path.display())]
pub struct DurableError {
    /// What was tried.
    pub doing: &'static str,
    /// With what.
    pub path: PathBuf,
    /// The system's reason.
    pub source: io::Error,
}

impl DurableError {
    /// From the system's reason.
    pub(crate) fn at(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// Does single steps, each of which is done or not when the process is killed.
pub trait Steps {
    /// Comes before each step. Where a test has the process die, it says so.
    ///
    /// # Errors
    /// Then the step is not done.
    fn before(&self) -> io::Result<()> {
        Ok(())
    }

    /// One step: what is being done, and with what.
    ///
    /// # Errors
    /// The step's own.
    fn step<T>(
        &self,
        doing: &'static str,
        path: &Path,
        act: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, DurableError> {
        let done = self.before().and_then(|()| act());
        done.map_err(DurableError::at(doing, path))
    }
}

/// Steps that are just done.
#[derive(Debug, Clone, Copy)]
struct Just;

impl Steps for Just {}

/// Who may read and write a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Whoever the process' umask leaves them.
    Usual,
    /// These, whatever the umask.
    Exactly(u32),
}

/// Where a file is written before it takes the place of `path`: hidden, and with an ending that nobody looks for.
#[must_use]
pub fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.new"))
}

/// Puts a file in the place of the one at `path`, step by step; `fill` writes what it holds.
///
/// # Errors
/// [`DurableError`] names the step that failed. Unless it was the last one, the old file is what it was.
pub fn replace_by(
    steps: &impl Steps,
    path: &Path,
    rights: Rights,
    fill: impl FnOnce(&mut File, &Path) -> Result<(), DurableError>,
) -> Result<(), DurableError> {
    let beside = beside(path);
    let mode = match rights {
        Rights::Usual => RIGHTS,
        Rights::Exactly(mode) => mode,
    };
    let mut file = steps.step("make", &beside, || {
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true);
        options.mode(mode).open(&beside)
    })?;
    if let Rights::Exactly(mode) = rights {
        // The umask cuts them, and a file that was left has its own.
        steps.step("set the rights of", &beside, || {
            file.set_permissions(Permissions::from_mode(mode))
        })?;
    }
    fill(&mut file, &beside)?;
    steps.step("make durable", &beside, || file.sync_all())?;
    drop(file);
    rename_by(steps, &beside, path)
}

/// Gives a file another name in its folder.
///
/// # Errors
/// [`DurableError`] names the step that failed.
pub fn rename_by(steps: &impl Steps, from: &Path, to: &Path) -> Result<(), DurableError> {
    steps.step("rename", from, || fs::rename(from, to))?;
    settle_by(steps, to)
}

/// Makes the change of a name durable, which is a change of its folder.
///
/// # Errors
/// [`DurableError`] names the folder.
pub fn settle_by(steps: &impl Steps, changed: &Path) -> Result<(), DurableError> {
    let folder = folder_of(changed);
    steps.step("make durable", folder, || File::open(folder)?.sync_all())
}

/// Makes a folder, if it is not there.
///
/// # Errors
/// [`DurableError`] names the folder.
pub fn make_folder_by(steps: &impl Steps, path: &Path) -> Result<(), DurableError> {
    if path.is_dir() {
        return Ok(());
    }
    steps.step("make the folder", path, || fs::create_dir_all(path))?;
    settle_by(steps, path)
}

/// The folder that a name is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Path::new("."),
        Some(folder) => folder,
        None => Path::new("/"),
    }
}

/// Puts a file in the place of the one at `path`, and makes its folder if need be; `fill` writes what it holds.
///
/// # Errors
/// [`DurableError`] names the step that failed.
pub fn replace(
    path: &Path,
    rights: Rights,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), DurableError> {
    make_folder_by(&Just, folder_of(path))?;
    replace_by(&Just, path, rights, |file, beside| {
        Just.step("write", beside, || fill(file))
    })
}

/// The content of a file; nothing if there is none.
///
/// # Errors
/// [`DurableError`] names the file.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, DurableError> {
    Just.step("read", path, || match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    })
}

/// A file in which something is kept for the next start, as JSON.
#[derive(Debug, Clone, Copy)]
pub struct StateFile {
    /// Its name in its folder.
    pub name: &'static str,
    /// What it holds, in words.
    pub holds: &'static str,
    /// What to do about one that cannot be read.
    pub remedy: &'static str,
}

/// Why what is kept cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refused.
    #[error(transparent)]
    System(#[from] DurableError),
    /// The file does not say what it should.
    #[error("{} does not read as {holds} ({source}); {remedy}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        holds: &'static str,
        /// What to do about it.
        remedy: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl StateFile {
    /// What the last run left; the default if there was none.
    ///
    /// # Errors
    /// [`StateError`] names the file.
    pub fn load<T: DeserializeOwned + Default>(&self, folder: &Path) -> Result<T, StateError> {
        let path = folder.join(self.name);
        let Some(bytes) = read(&path)? else {
            return Ok(T::default());
        };
        serde_json::from_slice(&bytes).map_err(|source| StateError::Format {
            path,
            holds: self.holds,
            remedy: self.remedy,
            source,
        })
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`StateError`] names the file.
    pub fn store(&self, folder: &Path, state: &impl Serialize) -> Result<(), StateError> {
        let fill = |file: &mut File| file.write_all(&serde_json::to_vec_pretty(state)?);
        Ok(replace(&folder.join(self.name), Rights::Usual, fill)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// Dies after so many steps.
    struct Mortal(Cell<usize>);

    impl Steps for Mortal {
        fn before(&self) -> io::Result<()> {
            let left = self.0.get().checked_sub(1);
            self.0.set(left.unwrap_or_default());
            left.map(drop).ok_or_else(|| io::Error::other("killed"))
        }
    }

    /// Writes `text` in two steps, the first of which leaves half of it.
    fn write(steps: &Mortal, path: &Path, text: &str) -> Result<(), DurableError> {
        replace_by(steps, path, Rights::Exactly(0o640), |file, beside| {
            let (first, rest) = text.as_bytes().split_at(text.len() / 2);
            for part in [first, rest] {
                steps.step("write", beside, || file.write_all(part))?;
            }
            Ok(())
        })
    }

    #[test]
    fn a_kill_before_any_step_leaves_the_old_file_or_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut seen = Vec::new();
        for steps in 0.. {
            fs::write(&path, "old").unwrap();
            let is_done = write(&Mortal(Cell::new(steps)), &path, "the new one").is_ok();
            seen.push(fs::read_to_string(&path).unwrap());
            // Whoever comes next finds what was left, and is not disturbed by it.
            write(&Mortal(Cell::new(usize::MAX)), &path, "next").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "next");
            let left = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 1, "after {steps} steps");
            if is_done {
                break;
            }
        }
        // Make, rights, two writes, durable, rename, and the folder.
        let old = ["old"; 6].into_iter();
        assert_eq!(seen, old.chain(["the new one"; 2]).collect::<Vec<_>>());
    }

    #[test]
    fn rights_are_those_asked_for_whatever_was_left_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made").join("secret");
        replace(&path, Rights::Exactly(0o600), |file| file.write_all(b"a")).unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"a".to_vec()));
        // Left by a kill, and for everyone to read.
        fs::write(beside(&path), "half and more").unwrap();
        fs::set_permissions(beside(&path), Permissions::from_mode(0o666)).unwrap();
        replace(&path, Rights::Exactly(0o600), |file| {
            assert_eq!(mode(&beside(&path)), 0o600, "before there is anything to read");
            file.write_all(b"b")
        })
        .unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap()), (0o600, b"b".to_vec()));
        // Another file of the folder says what the umask is.
        let usual = folder.path().join("usual");
        fs::write(folder.path().join("plain"), "").unwrap();
        replace(&usual, Rights::Usual, |_| Ok(())).unwrap();
        assert_eq!(mode(&usual), mode(&folder.path().join("plain")));
    }

    #[test]
    fn what_failed_is_named_and_the_old_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs::write(&path, "old").unwrap();
        let full = |_: &mut File| Err(io::Error::other("the disk is full"));
        let error = replace(&path, Rights::Usual, full).unwrap_err().to_string();
        let beside = beside(&path);
        assert_eq!(
            error,
            format!("cannot write {}: the disk is full", beside.display())
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        fs::remove_file(&path).unwrap();
        assert_eq!(read(&path).unwrap(), None);
        fs::create_dir(&path).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot read {}: ", path.display())),
            "{error}"
        );
        let error = replace(&path, Rights::Usual, |_| Ok(())).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot rename {}: ", beside.display())),
            "{error}"
        );
    }

    #[test]
    fn state_is_kept_and_a_wrong_file_is_named() {
        const FILE: StateFile = StateFile {
            name: "numbers.json",
            holds: "a list of numbers",
            remedy: "remove it",
        };
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("made");
        assert_eq!(FILE.load::<Vec<u32>>(&folder).unwrap(), [0_u32; 0]);
        FILE.store(&folder, &vec![3, 4]).unwrap();
        assert_eq!(FILE.load::<Vec<u32>>(&folder).unwrap(), [3, 4]);
        // Cut off at any byte it is refused, and never half of it taken.
        let path = folder.join(FILE.name);
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).unwrap();
            let error = FILE.load::<Vec<u32>>(&folder).unwrap_err().to_string();
            let begin = format!("{} does not read as a list of numbers (", path.display());
            assert!(
                error.starts_with(&begin) && error.ends_with("); remove it"),
                "{error}"
            );
        }
    }
}
