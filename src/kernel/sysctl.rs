//! Kernel settings under `/proc/sys` that netlink does not offer.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens the file, so these functions act on
//! the calling thread's namespace.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::KernelError;
use super::names::check_interface_name;

/// Where the settings are.
const ROOT: &str = "/proc/sys";
/// The environment's word for another folder of them: a container's own cannot be written, unless it is privileged.
const ROOT_VARIABLE: &str = "MILLRACE_PROC_SYS";

fn root() -> &'static Path {
    static ROOT_IN_FORCE: OnceLock<PathBuf> = OnceLock::new();
    ROOT_IN_FORCE
        .get_or_init(|| std::env::var_os(ROOT_VARIABLE).map_or_else(|| PathBuf::from(ROOT), PathBuf::from))
}

/// The family part of a setting's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `net/ipv4`
    V4,
    /// `net/ipv6`
    V6,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        })
    }
}

/// One setting, by its path below `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting(String);

impl Setting {
    /// A setting by its path below `/proc/sys`, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// [`KernelError::InvalidName`] if the path is absolute or climbs out of `/proc/sys`.
    pub fn new(path: &str) -> Result<Self, KernelError> {
        if path.is_empty()
            || path
                .split('/')
                .any(|part| part.is_empty() || part == "." || part == "..")
        {
            let reason = "a setting is named by its path below /proc/sys";
            return Err(KernelError::InvalidName {
                name: path.to_owned(),
                reason,
            });
        }
        Ok(Self(path.to_owned()))
    }

    /// A setting of one interface: `net/<family>/conf/<interface>/<name>`.
    ///
    /// # Errors
    /// [`KernelError::InvalidName`] for an impossible interface name.
    pub fn of_interface(family: Family, interface: &str, name: &str) -> Result<Self, KernelError> {
        check_interface_name(interface)?;
        Self::new(&format!("net/{family}/conf/{interface}/{name}"))
    }

    /// The setting's value, without the closing line end; `None` where the kernel has no such setting.
    ///
    /// # Errors
    /// [`KernelError::Sysctl`] if it cannot be read.
    pub fn read(&self) -> Result<Option<String>, KernelError> {
        match fs::read_to_string(self.path()) {
            Ok(text) => Ok(Some(text.trim_end().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.error("reading".to_owned(), source)),
        }
    }

    /// Writes a value unless it is there already, and returns the former one, so that it can be put back.
    ///
    /// # Errors
    /// [`KernelError::Sysctl`] if there is no such setting or it cannot be written.
    pub fn write(&self, value: &str) -> Result<Former, KernelError> {
        let former = self.read()?.ok_or_else(|| {
            let source = io::Error::new(io::ErrorKind::NotFound, "this kernel has no such setting");
            self.error(format!("writing {value}"), source)
        })?;
        if former != value {
            fs::write(self.path(), value).map_err(|source| self.error(format!("writing {value}"), source))?;
        }
        Ok(Former {
            setting: self.clone(),
            value: former,
        })
    }

    /// Like [`Self::write`], but where the kernel has no such setting (IPv6 is not there) nothing is done.
    ///
    /// # Errors
    /// [`KernelError::Sysctl`] if it is there and cannot be written.
    pub fn write_if_present(&self, value: &str) -> Result<Option<Former>, KernelError> {
        match self.read()? {
            Some(_) => self.write(value).map(Some),
            None => Ok(None),
        }
    }

    fn path(&self) -> PathBuf {
        root().join(&self.0)
    }

    fn error(&self, action: String, source: io::Error) -> KernelError {
        KernelError::Sysctl {
            key: self.0.clone(),
            action,
            source,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The value that a setting had before it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the former value is there to be put back"]
pub struct Former {
    /// The setting.
    pub setting: Setting,
    /// Its former value.
    pub value: String,
}

impl Former {
    /// Puts the former value back; a setting that is gone (with its interface) counts as put back.
    ///
    /// # Errors
    /// [`KernelError::Sysctl`] if it is there and cannot be written.
    pub fn restore(&self) -> Result<(), KernelError> {
        self.setting.write_if_present(&self.value).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn paths_stay_below_proc_sys() {
        for bad in ["", "/etc/passwd", "net/../../etc", "net//ipv4", "net/./x"] {
            assert!(Setting::new(bad).is_err(), "{bad:?}");
        }
        assert!(Setting::of_interface(Family::V6, "../all", "disable_ipv6").is_err());
        let setting = Setting::of_interface(Family::V6, "eth0.7", "disable_ipv6").unwrap();
        assert_eq!(setting.to_string(), "net/ipv6/conf/eth0.7/disable_ipv6");
    }

    #[test]
    fn a_missing_setting_reads_as_none_and_cannot_be_written() {
        let setting = Setting::new("net/ipv4/there_is_no_such_setting").unwrap();
        assert_eq!(setting.read().unwrap(), None);
        assert!(setting.write_if_present("1").unwrap().is_none());
        let error = setting.write("1").unwrap_err().to_string();
        assert!(
            error.contains("net/ipv4/there_is_no_such_setting") && error.contains("no such setting"),
            "{error}"
        );
    }
}
