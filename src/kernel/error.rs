//! What can go wrong between the daemon and the kernel, said so that a reader knows what to do about it.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use ipnet::IpNet;

/// The kernel's answer to a request that it did not carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number, positive (`errno(3)`).
    pub errno: i32,
    /// The kernel's own words, when it gave any (`NLMSGERR_ATTR_MSG`).
    pub message: Option<String>,
}

impl Refusal {
    /// What would make the request succeed, where the error number says that much.
    fn hint(&self) -> Option<&'static str> {
        use nix::errno::Errno;
        match Errno::from_raw(self.errno) {
            Errno::EPERM | Errno::EACCES => {
                Some("the process needs CAP_NET_ADMIN, for example by running as root")
            }
            Errno::ENODEV => Some("no such interface in this network namespace"),
            Errno::EEXIST => Some("it exists already"),
            Errno::ENETUNREACH | Errno::EHOSTUNREACH => {
                Some("the gateway must be reachable on the interface, and the interface must be up")
            }
            Errno::ENETDOWN => Some("set the interface up first"),
            Errno::EOPNOTSUPP => Some("this kernel or driver does not offer it"),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(message) = &self.message {
            write!(f, ": {message}")?;
        }
        if let Some(hint) = self.hint() {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

/// An error of this module: what was being done, to which interface or namespace, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused a netlink request.
    #[error("{action}: {refusal}")]
    Refused {
        /// What was being done, and to what.
        action: String,
        /// The kernel's answer.
        refusal: Refusal,
    },
    /// A netlink socket could not be opened, read or written.
    #[error("{action}: {source}")]
    Socket {
        /// What was being done.
        action: String,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel did not answer, or its answer could not be understood.
    #[error("{action}: {detail}")]
    Protocol {
        /// What was being done, and to what.
        action: String,
        /// What was wrong with the answer.
        detail: String,
    },
    /// An interface that has to exist does not.
    #[error("no interface named {name} in this network namespace")]
    NoInterface {
        /// The interface's name.
        name: String,
    },
    /// An interface of this name is there already.
    #[error("interface {name} already exists in {place}; remove it or choose another name")]
    InterfaceExists {
        /// The interface's name.
        name: String,
        /// Where it exists, in words.
        place: String,
    },
    /// An interface has the wanted name but is not what it would have to be.
    #[error("interface {name} is {found}, but it has to be {wanted}; remove it or choose another name")]
    WrongInterface {
        /// The interface's name.
        name: String,
        /// What it is.
        found: String,
        /// What it has to be.
        wanted: String,
    },
    /// A text that cannot be an interface's name.
    #[error("{name:?} cannot be an interface name: {reason}")]
    InvalidName {
        /// The text.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A specification that contradicts itself.
    #[error("{subject}: {reason}")]
    InvalidSpec {
        /// What was specified.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A network namespace could not be opened or entered.
    #[error("network namespace {}: {source}; {hint}", path.display())]
    Namespace {
        /// The namespace's path.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
        /// What would be right.
        hint: &'static str,
    },
    /// Something went wrong inside a network namespace.
    #[error("in network namespace {}: {source}", path.display())]
    WithinNamespace {
        /// The namespace's path.
        path: PathBuf,
        /// What went wrong there.
        source: Box<KernelError>,
    },
    /// A step of a larger undertaking failed; what the undertaking had made is removed again.
    #[error("{undertaking}: {source}")]
    Step {
        /// The undertaking, with the interfaces and namespace it is about.
        undertaking: String,
        /// The step that failed.
        source: Box<KernelError>,
    },
    /// Device features that were asked to change have not changed.
    #[error(
        "interface {interface}: cannot turn {} {}; its driver keeps them",
        if *.on { "on" } else { "off" },
        .features.join(", ")
    )]
    FeaturesStuck {
        /// The interface's name.
        interface: String,
        /// The features, by their `ethtool -k` names.
        features: Vec<String>,
        /// The value that was asked for.
        on: bool,
    },
    /// The interface's driver does not know a device feature.
    #[error("interface {interface}: its driver knows no feature named {feature}")]
    NoFeature {
        /// The interface's name.
        interface: String,
        /// The feature, by its `ethtool -k` name.
        feature: String,
    },
    /// A route to the same prefix that is not ours stands in the way.
    #[error(
        "route to {prefix} via {wanted}: another program's route to it ({found}) is in the main table; \
         remove that one"
    )]
    RouteTaken {
        /// The route's destination.
        prefix: IpNet,
        /// The interface our route would use.
        wanted: String,
        /// The route that is there, in words.
        found: String,
    },
    /// The kernel gives ports to its own connections that source NAT is to have to itself.
    #[error(
        "ports {}-{} are to be source NAT's ([services] snat-ports), but the kernel gives out {}-{} \
         (sysctl net.ipv4.ip_local_port_range): ranges that have no port in common would be right",
        wanted.start(), wanted.end(), given_out.start(), given_out.end()
    )]
    PortsGivenOut {
        /// The ports that source NAT is to have.
        wanted: RangeInclusive<u16>,
        /// The ports that the kernel gives out.
        given_out: RangeInclusive<u16>,
    },
    /// What sysfs says of a device could not be read or written.
    #[error("{}: {source}", path.display())]
    Sysfs {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A kernel setting under `/proc/sys` could not be read or written.
    #[error("kernel setting {key}: {action}: {source}")]
    Sysctl {
        /// The setting's path below `/proc/sys`.
        key: String,
        /// "reading" or "writing ..." with the value.
        action: String,
        /// The system's error.
        source: io::Error,
    },
}

impl KernelError {
    /// Whether the kernel has no such thing at all.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        use nix::errno::Errno;
        // A message for a subsystem of netfilter that is not there is an invalid one (`nfnetlink_rcv_msg`).
        [
            Errno::EOPNOTSUPP,
            Errno::EPROTONOSUPPORT,
            Errno::EAFNOSUPPORT,
            Errno::EINVAL,
        ]
        .into_iter()
        .any(|errno| self.is(errno))
    }

    /// The error number of a refused request, looking through the steps it was part of.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal.errno),
            Self::WithinNamespace { source, .. } | Self::Step { source, .. } => source.errno(),
            Self::Socket { source, .. }
            | Self::Namespace { source, .. }
            | Self::Sysctl { source, .. }
            | Self::Sysfs { source, .. } => source.raw_os_error(),
            Self::Protocol { .. }
            | Self::NoInterface { .. }
            | Self::InterfaceExists { .. }
            | Self::WrongInterface { .. }
            | Self::InvalidName { .. }
            | Self::InvalidSpec { .. }
            | Self::FeaturesStuck { .. }
            | Self::NoFeature { .. }
            | Self::RouteTaken { .. }
            | Self::PortsGivenOut { .. } => None,
        }
    }

    /// What went wrong, without the namespace it went wrong in: for an undertaking that names it already.
    pub(super) fn without_namespace(self) -> Self {
        match self {
            Self::WithinNamespace { source, .. } => *source,
            other => other,
        }
    }

    /// Whether the kernel refused with this error number.
    pub(super) fn is(&self, errno: nix::errno::Errno) -> bool {
        self.errno() == Some(errno as i32)
    }
}
