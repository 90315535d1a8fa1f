//! Tun and tap devices (`tuntap.rst` of the kernel's documentation): interfaces whose other end is a program. Of a tun
//! device, whose packets are IP without a link's header, we are that program; of a tap device, with Ethernet frames, it is a
//! virtual machine's.
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
/// `_IOW('T', 204, int)` and `_IOW('T', 206, int)`.
const TUNSETOWNER: libc::Ioctl = 0x4004_54cc;
const TUNSETGROUP: libc::Ioctl = 0x4004_54ce;
/// IP packets, and nothing before them.
const FLAGS: i16 = 0x0001 | 0x1000;
/// Ethernet frames, and nothing before them. Whoever opens the device says anew whether a virtio-net header is.
const TAP_FLAGS: i16 = 0x0002 | 0x1000;
/// Before each frame a header that says which checksum is missing and how a frame that is too long is to be cut.
const VNET_HEADER: i16 = 0x4000;

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
        let file = open(name, FLAGS)?;
        set(&file, TUNSETPERSIST, 1)?;
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

/// Makes a tap device of one queue with this name in the calling thread's network namespace, for whoever opens it: a virtual
/// machine's program, which may run as this user or as one of this group where they are given. It outlives the process.
///
/// # Errors
/// What the system said, as [`Tun::hold`]; nothing is left then.
pub fn make_tap(name: &str, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
    let file = open(name, TAP_FLAGS)?;
    if let Some(user) = user {
        set(&file, TUNSETOWNER, user)?;
    }
    if let Some(group) = group {
        set(&file, TUNSETGROUP, group)?;
    }
    // Last: until then the device goes with the file.
    set(&file, TUNSETPERSIST, 1)
}

/// Takes a tap device of this name as a virtual machine's program does: what is written to the file comes in by the device,
/// and what goes out by it is read. With `header` a virtio-net header of ten bytes is before each frame.
///
/// # Errors
/// As [`make_tap`].
pub fn open_tap(name: &str, header: bool) -> io::Result<OwnedFd> {
    open(
        name,
        if header {
            TAP_FLAGS | VNET_HEADER
        } else {
            TAP_FLAGS
        },
    )
}

/// Takes the device of this name, or makes it; the caller holds it as long as the file is open.
fn open(name: &str, flags: i16) -> io::Result<OwnedFd> {
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
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags },
    };
    // SAFETY: the structure is whole, and the kernel reads and writes no more than it.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, std::ptr::from_mut(&mut request)) })?;
    Ok(file)
}

/// One of the requests that take a number, not a pointer.
fn set(file: &OwnedFd, request: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: the kernel takes the argument for the number that it is.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, libc::c_ulong::from(value)) })
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
        assert!(make_tap("lo", None, None).unwrap_err().raw_os_error().is_some());
    }
}
