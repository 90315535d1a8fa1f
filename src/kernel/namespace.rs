//! Work in another network namespace.

use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use tokio::sync::oneshot;

use super::error::KernelError;
use super::request::Kernel;

/// The calling thread's own network namespace (proc(5)).
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// An open network namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) file: File,
    pub(super) path: PathBuf,
}

impl Namespace {
    /// Opens the namespace at a path such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    pub(super) fn open(path: &Path) -> Result<Self, KernelError> {
        let file = File::open(path).map_err(|source| {
            let hint = match source.kind() {
                io::ErrorKind::NotFound => {
                    "there is no such path: name one such as /run/netns/NAME or /proc/PID/ns/net"
                }
                io::ErrorKind::PermissionDenied => "the process may not open it; run it as root",
                _ => "it cannot be opened",
            };
            KernelError::Namespace {
                path: path.to_owned(),
                source,
                hint,
            }
        })?;
        Ok(Self {
            file,
            path: path.to_owned(),
        })
    }

    /// Whether it is the namespace that the calling thread is in.
    pub(super) fn is_own(&self) -> Result<bool, KernelError> {
        let fail = |source| KernelError::Namespace {
            path: self.path.clone(),
            source,
            hint: "it cannot be examined",
        };
        let theirs = self.file.metadata().map_err(fail)?;
        let own = std::fs::metadata(OWN_NAMESPACE).map_err(fail)?;
        Ok((theirs.dev(), theirs.ino()) == (own.dev(), own.ino()))
    }

    /// Moves the calling thread into the namespace. Only for a thread that ends afterwards.
    fn enter(&self) -> Result<(), KernelError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            let hint = match errno {
                Errno::EINVAL => {
                    "it is not a network namespace: name one such as /run/netns/NAME or /proc/PID/ns/net"
                }
                Errno::EPERM => "entering it needs CAP_SYS_ADMIN, for example by running as root",
                _ => "it cannot be entered",
            };
            KernelError::Namespace {
                path: self.path.clone(),
                source: errno.into(),
                hint,
            }
        })
    }

    /// Runs `work` inside the namespace, on a thread of its own that ends with it. The caller stays where it
    /// is.
    pub(super) async fn run<T, W, F>(&self, work: W) -> Result<T, KernelError>
    where
        W: FnOnce(Kernel) -> F + Send + 'static,
        F: Future<Output = Result<T, KernelError>>,
        T: Send + 'static,
    {
        let fail = |source| KernelError::Namespace {
            path: self.path.clone(),
            source,
            hint: "no thread to enter it with",
        };
        let inside = Self {
            file: self.file.try_clone().map_err(fail)?,
            path: self.path.clone(),
        };
        let (answer, answered) = oneshot::channel();
        thread::Builder::new()
            .name("millrace-netns".to_owned())
            .spawn(move || {
                // The caller may have gone away; then nobody wants the answer.
                let _ = answer.send(inside.run_on_this_thread(work));
            })
            .map_err(fail)?;
        answered
            .await
            .map_err(|_| fail(io::Error::other("the thread inside the namespace ended early")))?
    }

    fn run_on_this_thread<T, W, F>(&self, work: W) -> Result<T, KernelError>
    where
        W: FnOnce(Kernel) -> F,
        F: Future<Output = Result<T, KernelError>>,
    {
        self.enter()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| KernelError::Namespace {
                path: self.path.clone(),
                source,
                hint: "no runtime could be started inside it",
            })?;
        runtime
            .block_on(async { work(Kernel::open()?).await })
            .map_err(|source| KernelError::WithinNamespace {
                path: self.path.clone(),
                source: Box::new(source),
            })
    }
}

/// Runs `work` inside the network namespace at `path`, on a thread of its own that ends with the work. The
/// caller's thread never leaves its namespace. `work` gets a [`Kernel`] of that namespace, and
/// `/proc/sys/net` is that namespace's.
///
/// # Errors
/// [`KernelError::Namespace`] if it cannot be opened or entered, and `work`'s own error with the path.
pub async fn within_namespace<T, W, F>(path: &Path, work: W) -> Result<T, KernelError>
where
    W: FnOnce(Kernel) -> F + Send + 'static,
    F: Future<Output = Result<T, KernelError>>,
    T: Send + 'static,
{
    Namespace::open(path)?.run(work).await
}
