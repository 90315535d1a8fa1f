//! A tun device: an interface whose packets, IP without a link's header, a program reads (`tuntap.rst` of the kernel's
//! documentation).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Where such devices are made.
const CLONE_DEVICE: &str = "/dev/net/tun";
/// `_IOW('T', 202, int)` and `_IOW('T', 203, int)` of `linux/if_tun.h`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNSETPERSIST: libc::Ioctl = 0x4004_54cb;
/// IP packets, and nothing before them.
const FLAGS: i16 = 0x0001 | 0x1000;

/// A tun device that this process holds: it has a carrier as long as it does.
#[derive(Debug)]
pub struct Tun {
    file: OwnedFd,
}

impl Tun {
    /// Takes the tun device of this name in the calling thread's network namespace, or makes it. It outlives the process.
    ///
    /// # Errors
    /// What the system said: `EBUSY` while another program holds it, `EINVAL` where an interface of another kind has the
    /// name, `ENOENT` or `ENODEV` where the kernel has no such devices.
    pub fn hold(name: &str) -> io::Result<Self> {
        let mut interface = [0; libc::IFNAMSIZ];
        if name.len() >= interface.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in interface.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let file = rustix::fs::open(CLONE_DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let mut request = libc::ifreq {
            ifr_name: interface,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: FLAGS },
        };
        // SAFETY: the structure is whole, and the kernel reads and writes no more than it.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, std::ptr::from_mut(&mut request)) })?;
        let on: libc::c_ulong = 1;
        // SAFETY: this request takes a number, not a pointer.
        check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETPERSIST, on) })?;
        Ok(Self { file })
    }

    /// Waits for a packet and reads it; one longer than the buffer is cut off. Answers its length in bytes;
    /// `None` once the device is gone.
    ///
    /// # Errors
    /// What the system said: `EIO` while it is down.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.file, buffer) {
            Ok(len) => Ok(Some(len)),
            Err(Errno::BADFD) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_another_interface_is_an_error_of_the_system() {
        assert!(Tun::hold("a-name-that-is-too-long").is_err());
        let taken = Tun::hold("lo").unwrap_err();
        assert!(taken.raw_os_error().is_some(), "{taken}");
    }
}
