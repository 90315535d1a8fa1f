//! Why the uplink's device cannot be as the node file wants it.

use std::io;

use super::driver;
use crate::durable::StateError;
use crate::kernel::KernelError;

/// Why the device cannot be as the node file wants it.
#[derive(Debug, thiserror::Error)]
pub(in crate::daemon) enum NicError {
    /// More queues than it can have.
    #[error(
        "[uplink] queues = {wanted}: {interface} (driver {driver}) has at most {most}; at most that would be right"
    )]
    Queues {
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What was asked for.
        wanted: u32,
        /// What there can be.
        most: u32,
    },
    /// More descriptors than it can have.
    #[error(
        "[uplink] {key} = {wanted}: {interface} (driver {driver}) has at most {most} descriptors a queue; at most that \
         would be right"
    )]
    Ring {
        /// `rx-ring` or `tx-ring`.
        key: &'static str,
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What was asked for.
        wanted: u32,
        /// What there can be.
        most: u32,
    },
    /// The driver does not do as it is told.
    #[error("[uplink] {key}: {interface} (driver {driver}): {source}")]
    Driver {
        /// The key of the node file.
        key: &'static str,
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What was said.
        source: Box<KernelError>,
    },
    /// The former value could not be written down, so nothing was changed.
    #[error(transparent)]
    Saved(#[from] StateError),
    /// Packets cannot be kept away from queues that have no socket.
    #[error(
        "[uplink] kernel-queues: the spreading of {interface} (driver {driver}) cannot be set ({source}), so packets to \
         pods would come in by those queues too, and be lost; no kernel-queues would be right"
    )]
    Spreading {
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What was said.
        source: io::Error,
    },
    /// The switch would not see of which VLAN a packet is.
    #[error(
        "[uplink] interface: the VLAN's packets come by {interface} (driver {driver}), which takes their tags off and cannot be \
         kept from it ({source}); a NIC that `ethtool -K {interface} rxvlan off` works on would be right"
    )]
    Tags {
        /// The interface.
        interface: String,
        /// Its driver.
        driver: String,
        /// What was said.
        source: Box<KernelError>,
    },
}

impl NicError {
    pub(super) fn driver(key: &'static str, interface: &str, source: KernelError) -> Self {
        Self::Driver {
            key,
            interface: interface.to_owned(),
            driver: driver(interface),
            source: Box::new(source),
        }
    }
}
