//! The three rtnetlink requests that attaching takes: an interface by name, its XDP state, and a change of
//! it.
//!
//! A socket per request: it belongs to the namespace of the calling thread at that moment, and attaching is
//! rare.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::AttachedMode;

/// `XDP_FLAGS_UPDATE_IF_NOEXIST` of `linux/if_link.h`: attach only where nothing is attached.
const FLAG_IF_NONE: u32 = 1 << 0;
/// `XDP_FLAGS_SKB_MODE`: generic mode.
const FLAG_GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`: native mode.
const FLAG_NATIVE: u32 = 1 << 2;
/// `XDP_FLAGS_HW_MODE`: offloaded to the NIC.
const FLAG_HARDWARE: u32 = 1 << 3;
/// `XDP_FLAGS_REPLACE`: only if the attached program is the one of `IFLA_XDP_EXPECTED_FD`.
const FLAG_REPLACE: u32 = 1 << 4;
/// In place of a program's descriptor: detach.
const NO_PROGRAM: RawFd = -1;
/// `NLMSGERR_ATTR_MSG` of `linux/netlink.h`: the kernel's own words on an error.
const EXTENDED_ACK_MESSAGE: u16 = 1;
/// Bytes of the request's header that an error repeats before its extended attributes.
const ECHOED_HEADER_LEN: usize = 16;

/// A failed request.
#[derive(Debug)]
pub(super) struct LinkError {
    /// The system's error.
    pub error: io::Error,
    /// The kernel's own words, if it had any.
    pub words: Option<String>,
}

impl LinkError {
    /// The error's number, zero if it has none.
    pub(super) fn number(&self) -> i32 {
        self.error.raw_os_error().unwrap_or_default()
    }

    /// One line: the kernel's own words first, since they say more.
    pub(super) fn reason(&self) -> String {
        match &self.words {
            Some(words) => format!("{words} ({})", self.error),
            None => self.error.to_string(),
        }
    }
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self { error, words: None }
    }
}

/// An interface as far as steering cares.
#[derive(Debug)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    /// What is attached: the mode, and the program's id. Several modes at once: the first of native, generic,
    /// hardware.
    pub program: Option<(AttachedMode, u32)>,
}

impl Link {
    /// The interface with this index.
    pub(super) fn by_index(index: u32) -> Result<Self, LinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        get(message)
    }

    /// The interface with this name.
    pub(super) fn by_name(name: &str) -> Result<Self, LinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        get(message)
    }

    fn of(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            program: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Xdp(xdp) => link.program = attached(xdp),
                _ => {}
            }
        }
        link
    }
}

/// What may stand in an interface's one place for a program before and after a change.
pub(super) enum Change<'a> {
    /// Attach where nothing is attached.
    Attach(BorrowedFd<'a>),
    /// Put `new` in the place of `old`, if it is still there.
    Replace {
        /// The program to be attached.
        new: BorrowedFd<'a>,
        /// The one that is attached.
        old: BorrowedFd<'a>,
    },
    /// Detach this program, if it is still there.
    Detach(BorrowedFd<'a>),
}

/// Changes the program of an interface in one step, or leaves it as it is.
///
/// # Errors `EBUSY` or `EEXIST` if what is attached is not what the change supposes; anything else is the
/// driver's or the kernel's refusal.
pub(super) fn change_program(index: u32, mode: AttachedMode, change: &Change<'_>) -> Result<(), LinkError> {
    let mode_flag = match mode {
        AttachedMode::Native => FLAG_NATIVE,
        AttachedMode::Generic => FLAG_GENERIC,
        AttachedMode::Hardware => FLAG_HARDWARE,
    };
    let (new, change_flag, expected) = match change {
        Change::Attach(new) => (new.as_raw_fd(), FLAG_IF_NONE, None),
        Change::Replace { new, old } => (new.as_raw_fd(), FLAG_REPLACE, Some(old)),
        Change::Detach(old) => (NO_PROGRAM, FLAG_REPLACE, Some(old)),
    };
    let mut xdp = vec![LinkXdp::Fd(new), LinkXdp::Flags(mode_flag | change_flag)];
    if let Some(expected) = expected {
        // A descriptor is never negative.
        xdp.push(LinkXdp::ExpectedFd(expected.as_raw_fd().unsigned_abs()));
    }
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::Xdp(xdp));
    request(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

fn get(message: LinkMessage) -> Result<Link, LinkError> {
    match request(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)? {
        Some(RouteNetlinkMessage::NewLink(message)) => Ok(Link::of(&message)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel answered with another message",
        )
        .into()),
    }
}

fn attached(attributes: &[LinkXdp]) -> Option<(AttachedMode, u32)> {
    let mut mode = None;
    let (mut any, mut native, mut generic, mut hardware) = (None, None, None, None);
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(attached) => mode = Some(*attached),
            LinkXdp::ProgId(id) => any = Some(*id),
            LinkXdp::DrvProgId(id) => native = Some(*id),
            LinkXdp::SkbProgId(id) => generic = Some(*id),
            LinkXdp::HwProgId(id) => hardware = Some(*id),
            _ => {}
        }
    }
    // Several modes at once come without a common id, and a kernel older than the ids per mode with nothing
    // else.
    match mode? {
        XdpAttached::None => None,
        XdpAttached::Driver => Some((AttachedMode::Native, native.or(any)?)),
        XdpAttached::SocketBuffer => Some((AttachedMode::Generic, generic.or(any)?)),
        XdpAttached::Hardware => Some((AttachedMode::Hardware, hardware.or(any)?)),
        _ => native
            .map(|id| (AttachedMode::Native, id))
            .or(generic.map(|id| (AttachedMode::Generic, id)))
            .or(hardware.map(|id| (AttachedMode::Hardware, id))),
    }
}

/// Sends one request and waits for its answer; `None` is an acknowledgement.
fn request(message: RouteNetlinkMessage, flags: u16) -> Result<Option<RouteNetlinkMessage>, LinkError> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_ext_ack(true)?;
    // With it, an error repeats only the header of the request, so the extended attributes have a fixed
    // place.
    socket.set_cap_ack(true)?;

    let mut packet = NetlinkMessage::from(message);
    packet.header.flags = flags;
    packet.header.sequence_number = 1;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(None),
        NetlinkPayload::Error(error) => Err(LinkError {
            error: error.to_io(),
            words: kernel_words(&error),
        }),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the kernel answered with no link and no error",
        )
        .into()),
    }
}

/// The text of an extended acknowledgement (kernel `Documentation/userspace-api/netlink/intro.rst`, "Ext
/// ACK").
fn kernel_words(error: &ErrorMessage) -> Option<String> {
    let attributes = error.header.get(ECHOED_HEADER_LEN..)?;
    let message = NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == EXTENDED_ACK_MESSAGE)?;
    let text = String::from_utf8_lossy(message.value())
        .trim_end_matches('\0')
        .trim()
        .to_owned();
    (!text.is_empty()).then_some(text)
}
