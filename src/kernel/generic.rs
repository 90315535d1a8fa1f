//! Generic netlink: messages whose numbers are given out at run time, and the connection that carries them
//! ([kernel documentation](https://docs.kernel.org/userspace-api/netlink/intro.html#generic-netlink)).

use rtnetlink::packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, Nla, NlasIterator,
};
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::{AsyncSocket, SocketAddr, protocols::NETLINK_GENERIC};

use super::error::KernelError;
use super::request::{closed, collect};

/// Numbers of `linux/genetlink.h`: the controller, its one request used here, and that one's attributes.
mod control {
    pub(super) const FAMILY: u16 = 0x10;
    pub(super) const VERSION: u8 = 2;
    pub(super) const GET_FAMILY: u8 = 3;
    pub(super) const ATTR_FAMILY_ID: u16 = 1;
    pub(super) const ATTR_FAMILY_NAME: u16 = 2;
}

/// Bytes of a generic-netlink header (`struct genlmsghdr`).
const GENERIC_HEADER_BYTES: usize = 4;

/// A generic-netlink message with its attributes.
#[derive(Debug, Clone)]
pub(super) struct GenericMessage {
    pub(super) family: u16,
    pub(super) command: u8,
    pub(super) version: u8,
    pub(super) attributes: Vec<DefaultNla>,
}

impl NetlinkSerializable for GenericMessage {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        GENERIC_HEADER_BYTES + self.attributes.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        // INVARIANT: the caller hands a buffer of `buffer_len()` bytes (`NetlinkMessage::serialize`).
        if let Some((header, attributes)) = buffer.split_first_chunk_mut::<GENERIC_HEADER_BYTES>() {
            *header = [self.command, self.version, 0, 0];
            self.attributes.as_slice().emit(attributes);
        }
    }
}

impl NetlinkDeserializable for GenericMessage {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        let Some(([command, version, _, _], attributes)) =
            payload.split_first_chunk::<GENERIC_HEADER_BYTES>()
        else {
            return Err(DecodeError::buffer_too_small(payload.len(), GENERIC_HEADER_BYTES));
        };
        Ok(Self {
            family: header.message_type,
            command: *command,
            version: *version,
            attributes: nested(attributes).collect(),
        })
    }
}

/// The attributes in a piece of a message; what cannot be read ends them.
pub(super) fn nested(bytes: &[u8]) -> impl Iterator<Item = DefaultNla> {
    NlasIterator::new(bytes)
        .map_while(Result::ok)
        .map(|nla| DefaultNla::new(nla.kind(), nla.value().to_vec()))
}

pub(super) fn value_of(nla: &DefaultNla) -> Vec<u8> {
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    value
}

pub(super) fn kind_of(nla: &DefaultNla) -> u16 {
    nla.kind()
}

pub(super) fn nest(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut value = vec![0; attributes.buffer_len()];
    attributes.emit(&mut value);
    DefaultNla::new(kind | NLA_F_NESTED, value)
}

pub(super) fn text(kind: u16, text: &str) -> DefaultNla {
    let mut value = text.as_bytes().to_vec();
    value.push(0);
    DefaultNla::new(kind, value)
}

pub(super) fn read_text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

pub(super) fn read_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// A connection to the generic-netlink families of one network namespace.
#[derive(Debug, Clone)]
pub(super) struct GenericConnection(ConnectionHandle<GenericMessage>);

impl GenericConnection {
    /// Opens the connection in the calling thread's network namespace; its work is done on `runtime`.
    pub(super) fn open(runtime: &tokio::runtime::Handle) -> Result<Self, KernelError> {
        let fail = |source| KernelError::Socket {
            action: "opening a generic netlink socket".into(),
            source,
        };
        let (mut connection, handle, _) =
            rtnetlink::proto::new_connection::<GenericMessage>(NETLINK_GENERIC).map_err(fail)?;
        connection.set_forward_ack(true);
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true).map_err(fail)?;
        socket.set_cap_ack(true).map_err(fail)?;
        runtime.spawn(connection);
        Ok(Self(handle))
    }

    /// Sends a request and returns the answers that came before its acknowledgement.
    pub(super) async fn request(
        &self,
        action: &str,
        message: GenericMessage,
    ) -> Result<Vec<GenericMessage>, KernelError> {
        let mut request =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let answers = self
            .0
            .request(request, SocketAddr::new(0, 0))
            .map_err(|_| closed(action))?;
        Ok(collect(action, answers, true).await?.messages)
    }

    /// The number that this kernel gave to a family.
    pub(super) async fn family_number(&self, name: &str) -> Result<u16, KernelError> {
        let action = format!("looking up the kernel's {name} netlink family");
        let request = GenericMessage {
            family: control::FAMILY,
            command: control::GET_FAMILY,
            version: control::VERSION,
            attributes: vec![text(control::ATTR_FAMILY_NAME, name)],
        };
        let answers = self.request(&action, request).await?;
        let id = answers
            .iter()
            .flat_map(|answer| &answer.attributes)
            .find(|nla| kind_of(nla) == control::ATTR_FAMILY_ID)
            .and_then(|nla| value_of(nla).try_into().ok().map(u16::from_ne_bytes));
        id.ok_or(KernelError::Protocol {
            action,
            detail: "the kernel's answer holds no number".to_owned(),
        })
    }
}
