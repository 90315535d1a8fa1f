//! What a NIC is asked that netlink does not offer on every kernel: its driver, and over which queues it spreads what
//! comes in (`SIOCETHTOOL`, `linux/ethtool.h`; netlink can set the table from Linux 6.17 on only).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketType};

/// Commands of `linux/ethtool.h`.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRXFHINDIR: u32 = 0x38;
const ETHTOOL_SRXFHINDIR: u32 = 0x39;
/// `SIOCETHTOOL` of `linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// Most entries of an indirection table that are dealt with; the largest known have 2048.
const TABLE_MAX: usize = 8192;
/// Words before a table's entries: command and size.
const TABLE_HEAD: usize = 2;

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rom: [u8; 32],
    reserved: [u8; 12],
    counts: [u32; 5],
}

/// The name of an interface's driver.
///
/// # Errors
/// What the system said.
pub fn driver(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rom: [0; 32],
        reserved: [0; 12],
        counts: [0; 5],
    };
    // SAFETY: the structure has the kernel's layout for this command, which neither reads nor writes beyond it.
    unsafe { ethtool(interface, std::ptr::from_mut(&mut info).cast())? };
    let name = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The queue of each entry of an interface's indirection table: a packet's hash chooses the entry.
///
/// # Errors
/// What the system said; `EOPNOTSUPP` where the driver has no such table.
pub fn indirection(interface: &str) -> io::Result<Vec<u32>> {
    let mut ask = [ETHTOOL_GRXFHINDIR, 0];
    // SAFETY: a table of size 0 is two words long, and the kernel answers into these.
    unsafe { ethtool(interface, ask.as_mut_ptr().cast())? };
    let size = (ask[1] as usize).min(TABLE_MAX);
    let mut table = vec![0u32; TABLE_HEAD + size];
    table[0] = ETHTOOL_GRXFHINDIR;
    // INVARIANT: at most TABLE_MAX.
    table[1] = u32::try_from(size).unwrap_or(0);
    // SAFETY: the table has room for as many entries as it says, and the kernel writes no more.
    unsafe { ethtool(interface, table.as_mut_ptr().cast())? };
    Ok(table.split_off(TABLE_HEAD))
}

/// Sets the indirection table, as long as the one that was read; an empty one stands for the driver's own choice.
///
/// # Errors
/// What the system said.
pub fn set_indirection(interface: &str, queues: &[u32]) -> io::Result<()> {
    let size = u32::try_from(queues.len()).map_err(io::Error::other)?;
    let mut table = vec![ETHTOOL_SRXFHINDIR, size];
    table.extend_from_slice(queues);
    // SAFETY: the table has as many entries as it says, and the kernel reads no more.
    unsafe { ethtool(interface, table.as_mut_ptr().cast()) }
}

/// # Safety
/// `request` must point at what its command, its first word, has the kernel read and write.
unsafe fn ethtool(interface: &str, request: *mut libc::c_char) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut message = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: request },
    };
    let socket: OwnedFd = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: the structure is whole, and what it points at is the caller's promise.
    let answer = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, std::ptr::from_mut(&mut message)) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interface_does_not_have_is_an_error_of_the_system() {
        let absent = driver("no-such-one").unwrap_err();
        assert_eq!(absent.raw_os_error(), Some(libc::ENODEV));
        assert!(driver("a-name-that-is-too-long").is_err());
        let table = indirection("lo").unwrap_err();
        assert_eq!(
            table.raw_os_error(),
            Some(libc::EOPNOTSUPP),
            "loopback spreads nothing"
        );
    }
}
