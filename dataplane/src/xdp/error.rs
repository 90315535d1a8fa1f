//! What can go wrong with steering, said in one line each.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::IpAddr;

use aya::EbpfError;
use aya::programs::ProgramError;

/// An error of the steering programs: what was being done, to what, and what would help.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// There is no interface of this name in the calling thread's network namespace.
    #[error("no interface {name} in this network namespace")]
    NoSuchInterface {
        /// The name asked for.
        name: String,
    },
    /// There is no interface of this index in the calling thread's network namespace.
    #[error("no interface with index {ifindex} in this network namespace")]
    NoSuchIndex {
        /// The index asked for.
        ifindex: u32,
    },
    /// The kernel did not take a program or its maps.
    #[error("cannot load the steering program {program}: {reason}{hint}")]
    Load {
        /// Name of the program.
        program: &'static str,
        /// What the kernel or the loader said, one line.
        reason: String,
        /// What would help, if known.
        hint: Hint,
        /// What the kernel's verifier wrote; many lines, empty unless it refused the program.
        verifier_log: String,
    },
    /// A program was asked for with no queue at all.
    #[error("cannot load the steering program {program} for 0 queues: an interface has at least 1")]
    NoQueues {
        /// Name of the program.
        program: &'static str,
    },
    /// A request about an interface failed.
    #[error("cannot {action} on {interface}: {reason}{hint}")]
    Netlink {
        /// Name of the interface, or `index N` while the name is not known.
        interface: String,
        /// What was being done.
        action: &'static str,
        /// The kernel's own words where it gave any, and the error number's text.
        reason: String,
        /// What would help, if known.
        hint: Hint,
    },
    /// An XDP program that is not ours is attached. It was not touched.
    #[error(
        "{interface} already has an XDP program of someone else, {name:?} (id {id}): \
         detach it first, or choose another interface"
    )]
    ForeignProgram {
        /// Name of the interface.
        interface: String,
        /// Id the kernel gave that program.
        id: u32,
        /// Its name; empty if its loader gave none.
        name: String,
    },
    /// Our own program is attached in the other mode, and cannot change it without a moment with no program
    /// at all.
    #[error(
        "{interface} already runs our program in {attached} mode, {wanted} mode was asked: detach it first"
    )]
    ModeConflict {
        /// Name of the interface.
        interface: String,
        /// The mode it runs in.
        attached: super::AttachedMode,
        /// The mode asked for.
        wanted: super::AttachedMode,
    },
    /// Someone else kept attaching and detaching programs while we tried.
    #[error("cannot attach to {interface}: its XDP program changed {attempts} times meanwhile")]
    Contended {
        /// Name of the interface.
        interface: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// The attached program could not be looked up, so it is not known whose it is.
    #[error("cannot look up XDP program {id} of {interface}: {source}{hint}")]
    Identify {
        /// Name of the interface.
        interface: String,
        /// Id of the program.
        id: u32,
        /// The system's error.
        source: io::Error,
        /// What would help, if known.
        hint: Hint,
    },
    /// The queue does not exist on the interface the program was loaded for.
    #[error("no queue {queue} in the socket map of {program}: it was loaded for {queues} queues")]
    NoSuchQueue {
        /// Name of the program.
        program: &'static str,
        /// The queue asked for.
        queue: u32,
        /// How many queues there are.
        queues: u32,
    },
    /// The program is of a kind that has no such table.
    #[error("{program} has no table {map}: only the uplink's program decides by tables")]
    NoSuchTable {
        /// Name of the program.
        program: &'static str,
        /// Name of the table.
        map: &'static str,
    },
    /// A frame could not be run through a program.
    #[error("cannot run a frame of {frame_len} bytes through {program}: {reason}{hint}")]
    DryRun {
        /// Name of the program.
        program: &'static str,
        /// Length of the frame, in bytes.
        frame_len: usize,
        /// What the kernel said, one line.
        reason: String,
        /// What would help, if known.
        hint: Hint,
    },
    /// A map could not be read or written.
    #[error("cannot {action} map {map} of {program}: {reason}{hint}")]
    Map {
        /// Name of the program.
        program: &'static str,
        /// Name of the map.
        map: &'static str,
        /// What was being done, with the key if there is one.
        action: String,
        /// What the kernel or the loader said, one line.
        reason: String,
        /// What would help, if known.
        hint: Hint,
    },
    /// A prefix that is not one, or that would take every packet from the node.
    #[error("{address}/{length} cannot be handed to the switch: a prefix's length has to be 1 to {longest}")]
    BadPrefix {
        /// The address.
        address: IpAddr,
        /// The length, in bits.
        length: u8,
        /// The longest there is in its family, in bits.
        longest: u8,
    },
}

/// What would help against an error; empty where nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Nothing is known.
    None,
    /// The process lacks a privilege.
    Privilege,
    /// The process may lock too little memory (kernels before 5.11 count maps against the limit).
    LockedMemory,
    /// The table's fixed capacity is used up.
    TableFull,
    /// The kernel may know no programs for packets in several buffers.
    Pieces,
}

impl Hint {
    /// The hint for a failed system call.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Privilege,
            Some(libc::ENOMEM) => Self::LockedMemory,
            Some(libc::E2BIG | libc::ENOSPC) => Self::TableFull,
            _ => Self::None,
        }
    }

    /// The hint for an error with a failed system call somewhere among its causes.
    fn of_causes(error: &(dyn Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return Self::of(error);
            }
            cause = error.source();
        }
        Self::None
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "",
            Self::Privilege => "; needs root, or CAP_NET_ADMIN, CAP_BPF and CAP_SYS_ADMIN",
            Self::LockedMemory => "; raise the limit of locked memory (ulimit -l), or give CAP_IPC_LOCK",
            Self::TableFull => "; the table is full",
            Self::Pieces => {
                "; packets longer than a frame take Linux 6.6: an uplink MTU that fits a frame, or [workers] jumbo = \"off\", \
                 would do"
            }
        })
    }
}

/// The error of loading `program`'s object and maps.
pub(super) fn load_error(program: &'static str, error: &EbpfError) -> XdpError {
    XdpError::Load {
        program,
        reason: one_line(error),
        hint: without_table_full(Hint::of_causes(error)),
        verifier_log: String::new(),
    }
}

/// The same for a program that sees packets in pieces: a kernel that knows no such programs says that a flag is invalid.
pub(super) fn pieces_error(program: &'static str, error: &ProgramError) -> XdpError {
    let mut told = program_error(program, error);
    if let (XdpError::Load { hint, .. }, ProgramError::LoadError { io_error, .. }) = (&mut told, error)
        && io_error.raw_os_error() == Some(libc::EINVAL)
    {
        *hint = Hint::Pieces;
    }
    told
}

/// The error of loading `program` itself; keeps what the verifier wrote out of the one line.
pub(super) fn program_error(program: &'static str, error: &ProgramError) -> XdpError {
    let (reason, verifier_log) = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            (
                format!("the kernel refused it: {io_error}{}", last_words(&log)),
                log,
            )
        }
        other => (one_line(other), String::new()),
    };
    XdpError::Load {
        program,
        reason,
        hint: without_table_full(Hint::of_causes(error)),
        verifier_log,
    }
}

/// The error of running a frame through `program`.
pub(super) fn dry_run_error(program: &'static str, frame_len: usize, error: &ProgramError) -> XdpError {
    let hint = without_table_full(Hint::of_causes(error));
    XdpError::DryRun {
        program,
        frame_len,
        reason: one_line(error),
        hint,
    }
}

/// The error of doing `action` to `map` of `program`.
pub(super) fn map_error(
    program: &'static str,
    map: &'static str,
    action: impl Into<String>,
    error: &(dyn Error + 'static),
) -> XdpError {
    let hint = Hint::of_causes(error);
    XdpError::Map {
        program,
        map,
        action: action.into(),
        reason: one_line(error),
        hint,
    }
}

/// Only a table can be full: E2BIG and ENOSPC mean other things of a program.
fn without_table_full(hint: Hint) -> Hint {
    if hint == Hint::TableFull { Hint::None } else { hint }
}

/// How the verifier's closing lines begin. They only count; what it objects to stands above them.
const VERIFIER_STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];

/// The verifier's objection, ready to be appended; empty if it wrote none.
fn last_words(log: &str) -> String {
    let is_statistic = |line: &str| VERIFIER_STATISTICS.iter().any(|start| line.starts_with(start));
    let objection = log
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !is_statistic(line));
    objection.map(|line| format!(": {line}")).unwrap_or_default()
}

/// An error with its causes, without repeating a cause that the error already names.
fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifier_log_is_shortened_to_the_objection() {
        let rows = [
            ("", ""),
            (
                "0: (b7) r0 = 1\nR1 invalid mem access\nprocessed 3 insns (limit 1000000)\n",
                ": R1 invalid mem access",
            ),
            (
                "R1 invalid mem access\nverification time 9 usec\nstack depth 88\nprocessed 3 insns\n",
                ": R1 invalid mem access",
            ),
            ("processed 3 insns (limit 1000000)\n\n", ""),
        ];
        for (log, expected) in rows {
            assert_eq!(last_words(log), expected, "{log:?}");
        }
    }

    #[test]
    fn hints_follow_the_error_number() {
        let rows = [
            (libc::EPERM, Hint::Privilege),
            (libc::EACCES, Hint::Privilege),
            (libc::ENOMEM, Hint::LockedMemory),
            (libc::E2BIG, Hint::TableFull),
            (libc::EINVAL, Hint::None),
        ];
        for (number, expected) in rows {
            assert_eq!(
                Hint::of(&io::Error::from_raw_os_error(number)),
                expected,
                "errno {number}"
            );
        }
    }

    #[test]
    fn messages_are_one_line() {
        let error = program_error(
            "millrace_port",
            &ProgramError::SyscallError(aya::sys::SyscallError {
                call: "bpf_prog_load",
                io_error: io::Error::from_raw_os_error(libc::EPERM),
            }),
        );
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        assert!(text.contains("CAP_BPF"), "{text}");
        assert!(text.contains("millrace_port"), "{text}");
    }
}
