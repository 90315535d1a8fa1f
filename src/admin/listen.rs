//! The admin socket's file: private from its first instant, never taken from a daemon that lives.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Who may speak to the daemon: its owner.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon listens there.
    #[error("another daemon answers at {}: stop it first, or give this one another [node] state-dir", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else stands there.
    #[error("{} is there and is no socket: move it away, or choose another [node] state-dir", .path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The operating system said no.
    #[error("cannot {doing} the admin socket {}: {source}", .path.display())]
    System {
        /// What was tried.
        doing: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// A listening socket and its file, which goes away with it.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    /// Device and inode, so that the file of a successor is left alone.
    identity: (u64, u64),
}

impl Listener {
    /// Listens at `path`, non-blocking; takes away a socket file there that nobody listens on any more.
    ///
    /// Two daemons that start at the very same time are kept apart by the lock of the state folder, not here.
    ///
    /// # Errors
    /// [`BindError`], with what stands in the way.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let system = |doing| {
            move |source: io::Error| BindError::System {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        make_way(path)?;
        let socket = bind_private(path).map_err(|errno| match errno {
            Errno::ADDRINUSE => BindError::InUse {
                path: path.to_owned(),
            },
            other => system("bind")(other.into()),
        })?;
        let file = fs::symlink_metadata(path).map_err(system("look at"))?;
        listen(&socket, BACKLOG).map_err(|errno| system("listen on")(errno.into()))?;
        Ok(Self {
            socket: socket.into(),
            path: path.to_owned(),
            identity: (file.dev(), file.ino()),
        })
    }

    /// The listening socket, as one more handle to it.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn socket(&self) -> io::Result<UnixListener> {
        self.socket.try_clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = |file: &fs::Metadata| (file.dev(), file.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(|file| ours(&file)) {
            // A file that stays is taken away by the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn stream_socket() -> rustix::io::Result<OwnedFd> {
    // Non-blocking, for tokio, and so that a daemon that is stuck with a full backlog does not stick us too.
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// A socket with its file at `path` that nobody can connect to before `listen`.
fn bind_private(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = stream_socket()?;
    // The kernel gives the file the mode that the socket itself has when it is bound (`unix_bind_bsd` in
    // net/unix/af_unix.c), less the umask: there is no moment at which others could open it, and no need to
    // change the umask of all threads.
    fchmod(&socket, MODE)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// Takes away a socket file that nobody listens on; anything else that is there is an error.
fn make_way(path: &Path) -> Result<(), BindError> {
    let system = |doing, source| BindError::System {
        doing,
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system("look at", error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(BindError::NotASocket {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let knock = || connect(stream_socket()?, &SocketAddrUnix::new(path)?);
    match knock() {
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| system("remove the stale file of", error))
        }
        // Gone between the two looks.
        Err(Errno::NOENT) => Ok(()),
        // A full backlog is a listener too.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::InUse {
            path: path.to_owned(),
        }),
        Err(errno) => Err(system("knock at", errno.into())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn file_is_private_before_anyone_can_connect() {
        let folder = folder();
        let path = folder.path().join("s");
        let _bound_only = bind_private(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        let error = std::os::unix::net::UnixStream::connect(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn stale_file_is_replaced_and_own_file_removed() {
        let folder = folder();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file behind");
        let listener = Listener::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn file_of_a_successor_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("s");
        let first = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = Listener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn living_daemon_and_foreign_file_are_refused() {
        let folder = folder();
        let path = folder.path().join("s");
        let _living = Listener::bind(&path).unwrap();
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
        assert!(path.exists());

        let file = folder.path().join("f");
        fs::write(&file, "precious").unwrap();
        let error = Listener::bind(&file).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }

    #[test]
    fn daemon_with_a_full_backlog_still_counts_as_living() {
        let folder = folder();
        let path = folder.path().join("s");
        let stuck = bind_private(&path).unwrap();
        listen(&stuck, 0).unwrap();
        let mut waiting = Vec::new();
        loop {
            let socket = stream_socket().unwrap();
            let outcome = connect(&socket, &SocketAddrUnix::new(&path).unwrap());
            waiting.push(socket);
            if outcome == Err(Errno::AGAIN) {
                break;
            }
            outcome.unwrap();
        }
        let error = Listener::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::InUse { .. }), "{error}");
    }

    #[test]
    fn no_folder_and_too_long_a_path_are_said() {
        let folder = folder();
        for path in [
            folder.path().join("absent/s"),
            folder.path().join("x".repeat(200)),
        ] {
            let error = Listener::bind(&path).unwrap_err().to_string();
            assert!(error.contains("cannot bind the admin socket"), "{error}");
        }
    }
}
