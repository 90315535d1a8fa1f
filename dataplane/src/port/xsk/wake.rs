//! The system calls by which a socket's driver is called on.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Asks the kernel to send; answers its error number. (xsk-rs has this call too, but keeps most errors to itself.)
pub(super) fn wake_to_send(socket: BorrowedFd<'_>) -> Option<i32> {
    // SAFETY: no memory is passed; the descriptor is open as long as it is borrowed.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if sent < 0 {
        io::Error::last_os_error().raw_os_error()
    } else {
        None
    }
}

/// Asks the driver to look for packets and for frames to put them in. An error (its link is down) says nothing that the
/// next call would not say again.
pub(super) fn wake_to_receive(socket: BorrowedFd<'_>) {
    // SAFETY: no memory is passed; the descriptor is open as long as it is borrowed.
    unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        );
    }
}

/// Wakes the driver by looking at the socket, without waiting (`xsk_poll` in `net/xdp/xsk.c`).
pub(super) fn wake_by_poll(socket: BorrowedFd<'_>) {
    let mut look = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: the pointer is to one live structure; the descriptor is open as long as it is borrowed.
    unsafe {
        libc::poll(std::ptr::from_mut(&mut look), 1, 0);
    }
}
