//! Attaching and detaching: which program may stand where, and what to do about one that already does.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use serde::Serialize;

use super::error::Hint;
use super::identity::LoadedProgram;
use super::link::{Change, Link, LinkError, change_program};
use super::{ProgramKind, XdpError};

/// How often an attach starts over because someone else changed the interface's program meanwhile.
const ATTEMPTS: u32 = 3;

/// The mode to attach in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum XdpMode {
    /// Native, and generic if the driver refuses.
    Auto,
    /// In the driver, before the kernel allocates anything for the packet.
    Native,
    /// In the kernel's stack, on any interface.
    Generic,
}

/// The mode a program is attached in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachedMode {
    /// In the driver (`XDP_ATTACHED_DRV`).
    Native,
    /// In the kernel's stack (`XDP_ATTACHED_SKB`).
    Generic,
    /// In the NIC (`XDP_ATTACHED_HW`); never one of ours.
    Hardware,
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Hardware => "hardware",
        })
    }
}

/// A program that is attached to an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttachedProgram {
    /// Id the kernel gave it.
    pub id: u32,
    /// Name, at most 15 bytes; empty if its loader gave none.
    pub name: String,
    /// First 8 bytes of the hash over its instructions: equal tags mean the same program.
    pub tag: [u8; 8],
    /// Where it runs.
    pub mode: AttachedMode,
}

impl AttachedProgram {
    /// Whether it is one of our steering programs, of whatever version.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        ProgramKind::ALL.iter().any(|kind| kind.name() == self.name)
    }
}

/// What an attach came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The mode the program runs in.
    pub mode: AttachedMode,
    /// Our own earlier program, whose place it took.
    pub replaced: Option<AttachedProgram>,
    /// Why the driver refused native mode, where generic is the fall-back.
    pub native_refusal: Option<String>,
}

/// Index of the interface with this name in the calling thread's network namespace.
///
/// # Errors
/// [`XdpError::NoSuchInterface`] or [`XdpError::Netlink`].
pub fn interface_index(name: &str) -> Result<u32, XdpError> {
    match Link::by_name(name) {
        Ok(link) => Ok(link.index),
        Err(error) if is_absent(&error) => Err(XdpError::NoSuchInterface {
            name: name.to_owned(),
        }),
        Err(error) => Err(netlink_error(name, "look up the interface", &error)),
    }
}

/// The program attached to an interface, if any.
///
/// # Errors
/// [`XdpError::NoSuchIndex`], [`XdpError::Netlink`], or [`XdpError::Identify`] if its name could not be read.
pub fn query(ifindex: u32) -> Result<Option<AttachedProgram>, XdpError> {
    let link = link(ifindex)?;
    Ok(current(&link)?.map(|(program, _)| program))
}

/// Detaches the program of an interface if it is one of ours; otherwise leaves everything as it is and
/// returns false.
///
/// # Errors
/// [`XdpError::NoSuchIndex`], [`XdpError::Netlink`], [`XdpError::Identify`], or [`XdpError::Contended`].
pub fn detach_ours(ifindex: u32) -> Result<bool, XdpError> {
    for _ in 0..ATTEMPTS {
        let link = link(ifindex)?;
        let Some((attached, loaded)) = current(&link)?.filter(|(attached, _)| attached.is_ours()) else {
            return Ok(false);
        };
        match change_program(ifindex, attached.mode, &Change::Detach(loaded.fd.as_fd())) {
            Ok(()) => return Ok(true),
            Err(error) if is_contention(&error) => {}
            Err(error) => return Err(netlink_error(&link.name, "detach our XDP program", &error)),
        }
    }
    Err(XdpError::Contended {
        interface: link(ifindex)?.name,
        attempts: ATTEMPTS,
    })
}

/// Attaches `program`, taking the place of our own earlier one in one step and never that of anyone else.
pub(super) fn attach(ifindex: u32, program: BorrowedFd<'_>, mode: XdpMode) -> Result<Attachment, XdpError> {
    for _ in 0..ATTEMPTS {
        let link = link(ifindex)?;
        let result = match current(&link)? {
            None => attach_new(&link, program, mode),
            Some((attached, loaded)) => replace(&link, program, mode, attached, &loaded),
        };
        if let Some(attachment) = result? {
            return Ok(attachment);
        }
    }
    Err(XdpError::Contended {
        interface: link(ifindex)?.name,
        attempts: ATTEMPTS,
    })
}

/// `None` if something else was attached meanwhile.
fn attach_new(link: &Link, program: BorrowedFd<'_>, mode: XdpMode) -> Result<Option<Attachment>, XdpError> {
    let change = Change::Attach(program);
    let first = if mode == XdpMode::Generic {
        AttachedMode::Generic
    } else {
        AttachedMode::Native
    };
    let refusal = match change_program(link.index, first, &change) {
        Ok(()) => {
            return Ok(Some(Attachment {
                mode: first,
                replaced: None,
                native_refusal: None,
            }));
        }
        Err(error) if is_contention(&error) => return Ok(None),
        Err(error) => error,
    };
    // A privilege that lacks in native mode lacks in generic mode too.
    if mode != XdpMode::Auto || matches!(refusal.number(), libc::EPERM | libc::EACCES) || is_absent(&refusal)
    {
        return Err(netlink_error(&link.name, attach_action(first), &refusal));
    }
    match change_program(link.index, AttachedMode::Generic, &change) {
        Ok(()) => Ok(Some(Attachment {
            mode: AttachedMode::Generic,
            replaced: None,
            native_refusal: Some(refusal.reason()),
        })),
        Err(error) if is_contention(&error) => Ok(None),
        Err(error) => Err(netlink_error(
            &link.name,
            attach_action(AttachedMode::Generic),
            &error,
        )),
    }
}

/// `None` if what was attached is no longer.
fn replace(
    link: &Link,
    program: BorrowedFd<'_>,
    mode: XdpMode,
    attached: AttachedProgram,
    loaded: &LoadedProgram,
) -> Result<Option<Attachment>, XdpError> {
    let interface = link.name.clone();
    if !attached.is_ours() {
        return Err(XdpError::ForeignProgram {
            interface,
            id: attached.id,
            name: attached.name,
        });
    }
    let wanted = match mode {
        XdpMode::Auto => attached.mode,
        XdpMode::Native => AttachedMode::Native,
        XdpMode::Generic => AttachedMode::Generic,
    };
    // The kernel has no step from one mode to the other, and in between a pod's packets would slip past every
    // policy.
    if wanted != attached.mode {
        return Err(XdpError::ModeConflict {
            interface,
            attached: attached.mode,
            wanted,
        });
    }
    match change_program(
        link.index,
        attached.mode,
        &Change::Replace {
            new: program,
            old: loaded.fd.as_fd(),
        },
    ) {
        Ok(()) => Ok(Some(Attachment {
            mode: attached.mode,
            replaced: Some(attached),
            native_refusal: None,
        })),
        Err(error) if is_contention(&error) => Ok(None),
        Err(error) => Err(netlink_error(&interface, "replace our XDP program", &error)),
    }
}

fn link(ifindex: u32) -> Result<Link, XdpError> {
    match Link::by_index(ifindex) {
        Ok(link) => Ok(link),
        Err(error) if is_absent(&error) => Err(XdpError::NoSuchIndex { ifindex }),
        Err(error) => Err(netlink_error(
            &format!("index {ifindex}"),
            "read the XDP state",
            &error,
        )),
    }
}

/// What is attached to `link`, and a hold on it. A program that has gone since `link` was read counts as
/// none.
fn current(link: &Link) -> Result<Option<(AttachedProgram, LoadedProgram)>, XdpError> {
    let Some((mode, id)) = link.program else {
        return Ok(None);
    };
    match LoadedProgram::by_id(id) {
        Ok(loaded) => {
            let attached = AttachedProgram {
                id,
                name: loaded.name.clone(),
                tag: loaded.tag,
                mode,
            };
            Ok(Some((attached, loaded)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => {
            let hint = Hint::of(&source);
            Err(XdpError::Identify {
                interface: link.name.clone(),
                id,
                source,
                hint,
            })
        }
    }
}

fn attach_action(mode: AttachedMode) -> &'static str {
    match mode {
        AttachedMode::Native => "attach in native XDP mode",
        AttachedMode::Generic => "attach in generic XDP mode",
        AttachedMode::Hardware => "attach in hardware XDP mode",
    }
}

/// The interface's program is not what the change supposed: look again.
fn is_contention(error: &LinkError) -> bool {
    matches!(error.number(), libc::EBUSY | libc::EEXIST)
}

fn is_absent(error: &LinkError) -> bool {
    error.number() == libc::ENODEV
}

fn netlink_error(interface: &str, action: &'static str, error: &LinkError) -> XdpError {
    let hint = match Hint::of(&error.error) {
        // Of an interface, these numbers speak of queues and of memory, not of a table or a limit.
        Hint::TableFull | Hint::LockedMemory => Hint::None,
        hint => hint,
    };
    XdpError::Netlink {
        interface: interface.to_owned(),
        action,
        reason: error.reason(),
        hint,
    }
}
