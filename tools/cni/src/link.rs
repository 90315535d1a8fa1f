//! Taking a container's interface away where the daemon cannot.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// This thread's own network namespace (proc(5)).
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";
/// How long the kernel may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than an acknowledgement.
const ANSWER_MAX_BYTES: usize = 8192;

/// Removes an interface in a container's network namespace, and with it its other end. One that is not there is no error,
/// nor is a namespace that is not there any more: its interfaces went with it.
///
/// # Errors
/// The system's.
pub(crate) fn remove_within(netns: &Path, interface: &str) -> io::Result<()> {
    let namespace = match File::open(netns) {
        Ok(namespace) => namespace,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let (theirs, own) = (namespace.metadata()?, fs::metadata(OWN_NAMESPACE)?);
    if (theirs.dev(), theirs.ino()) == (own.dev(), own.ino()) {
        return Ok(());
    }
    let inside = std::thread::scope(|scope| {
        // On a thread of its own, which never comes back out.
        let work = || match move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)) {
            Ok(()) => remove(interface),
            // A file on which a namespace was once mounted.
            Err(Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        };
        scope.spawn(work).join()
    });
    inside.map_err(|_| io::Error::other("the thread inside the namespace ended early"))?
}

fn remove(interface: &str) -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // Number 0 is NETLINK_ROUTE.
        None,
    )?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(interface.to_owned()));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::DelLink(link)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    sendto(&socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    match acknowledged(&socket)? {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits for the kernel's word; the inner error is what it says.
fn acknowledged(socket: &OwnedFd) -> io::Result<io::Result<()>> {
    let mut bytes = vec![0; ANSWER_MAX_BYTES];
    let (_, count) = recv(socket, bytes.as_mut_slice(), RecvFlags::empty())?;
    bytes.truncate(count);
    let nonsense =
        |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    NetlinkBuffer::new_checked(&bytes).map_err(|error| nonsense(&error))?;
    let message =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).map_err(|error| nonsense(&error))?;
    match message.payload {
        NetlinkPayload::Error(answer) => Ok(match answer.code {
            None => Ok(()),
            Some(_) => Err(answer.to_io()),
        }),
        _ => Err(nonsense(&"the kernel answered something else")),
    }
}
