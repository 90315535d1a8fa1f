//! What only sysfs tells of a device: its NUMA node, and how its interrupts are put off.
//!
//! sysfs shows the network namespace in which it was mounted, which need not be this one. So an interface is taken for
//! the wanted one only if number and address agree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::KernelError;
use super::names::check_interface_name;
use super::state::Link;

const INTERFACES: &str = "/sys/class/net";
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// How a device puts off its interrupts while it is polled (kernel documentation, `networking/napi`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InterruptDelay {
    /// `napi_defer_hard_irqs`: how many times in a row.
    pub defer_hard_irqs: u64,
    /// `gro_flush_timeout`: for how long each, in nanoseconds.
    pub gro_flush_timeout_ns: u64,
}

/// An interface's folder in sysfs.
#[derive(Debug)]
pub struct Device(PathBuf);

impl Device {
    /// The folder of this interface.
    ///
    /// # Errors
    /// [`KernelError::Sysfs`] if it is not there, or is that of another interface of the same name.
    pub fn of(link: &Link) -> Result<Self, KernelError> {
        check_interface_name(&link.name)?;
        let device = Self(Path::new(INTERFACES).join(&link.name));
        let address = link
            .mac
            .map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
        let same = device.read("ifindex")? == link.ifindex.to_string()
            && address.is_none_or(|address| device.read("address").is_ok_and(|read| read == address));
        if same {
            return Ok(device);
        }
        let reason = "it shows another interface of this name: mount the sysfs of this network namespace";
        Err(device.error("looking for", io::Error::other(reason)))
    }

    /// The NUMA node that the device is at; `None` if there is but one, or it is a virtual device.
    #[must_use]
    pub fn numa_node(&self) -> Option<u32> {
        self.read("device/numa_node").ok()?.parse().ok()
    }

    /// How interrupts are put off now.
    ///
    /// # Errors
    /// [`KernelError::Sysfs`] if that cannot be read.
    pub fn interrupt_delay(&self) -> Result<InterruptDelay, KernelError> {
        let number = |name| {
            let text = self.read(name)?;
            text.parse()
                .map_err(|error| self.error(name, io::Error::other(format!("{text:?}: {error}"))))
        };
        Ok(InterruptDelay {
            defer_hard_irqs: number("napi_defer_hard_irqs")?,
            gro_flush_timeout_ns: number("gro_flush_timeout")?,
        })
    }

    /// Sets how interrupts are put off.
    ///
    /// # Errors
    /// [`KernelError::Sysfs`] if that cannot be written.
    pub fn set_interrupt_delay(&self, wanted: InterruptDelay) -> Result<(), KernelError> {
        let values = [
            ("napi_defer_hard_irqs", wanted.defer_hard_irqs),
            ("gro_flush_timeout", wanted.gro_flush_timeout_ns),
        ];
        for (name, value) in values {
            fs::write(self.0.join(name), value.to_string()).map_err(|error| self.error(name, error))?;
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<String, KernelError> {
        let text = fs::read_to_string(self.0.join(name)).map_err(|error| self.error(name, error))?;
        Ok(text.trim_end().to_owned())
    }

    fn error(&self, name: &str, source: io::Error) -> KernelError {
        KernelError::Sysfs {
            path: self.0.join(name),
            source,
        }
    }
}

/// The NUMA node of a core; `None` where the kernel tells none.
#[must_use]
pub fn numa_node_of_core(core: usize) -> Option<u32> {
    let folder = fs::read_dir(Path::new(PROCESSORS).join(format!("cpu{core}"))).ok()?;
    folder.filter_map(Result::ok).find_map(|entry| {
        let name = entry.file_name();
        name.to_str()?.strip_prefix("node")?.parse().ok()
    })
}
