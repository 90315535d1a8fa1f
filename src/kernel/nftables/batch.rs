//! Changes to nftables that the kernel makes all at once or not at all
//! ([kernel documentation](https://docs.kernel.org/networking/netlink_spec/nftables.html)).

use rtnetlink::packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt;

use super::expression::{data, number};
use super::number as n;
use crate::kernel::error::{KernelError, Refusal};
use crate::kernel::generic::{GenericMessage, nest, text};
use crate::kernel::request::extended_message;

/// Bytes of `struct nlmsghdr` and `struct nfgenmsg` before a message's attributes.
const HEADER_LEN: usize = 16 + 4;
/// Where the number of a message stands in `struct nlmsghdr`, which the kernel quotes in an error.
const SEQUENCE_AT: std::ops::Range<usize> = 8..12;
/// `EAGAIN` from a read: there is no further answer.
const NO_MORE: std::io::ErrorKind = std::io::ErrorKind::WouldBlock;

/// A chain, and where packets come to it.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: u32,
    pub(super) priority: i32,
}

/// Changes on their way to the kernel.
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What each message does, by its sequence number.
    actions: Vec<String>,
    /// How many sets it adds: each has to have a number of its own.
    sets: u32,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            actions: Vec::new(),
            sets: 0,
        };
        batch.push_edge(n::BATCH_BEGIN, "beginning a change of nftables");
        batch
    }

    pub(super) fn add_table(&mut self, table: &str) {
        let action = format!("adding the nftables table {table}");
        self.push(action, n::NEW_TABLE, NLM_F_CREATE, &[text(n::TABLE_NAME, table)]);
    }

    pub(super) fn remove_table(&mut self, table: &str) {
        let action = format!("removing the nftables table {table}");
        self.push(action, n::DELETE_TABLE, 0, &[text(n::TABLE_NAME, table)]);
    }

    /// Adds a chain of a type at a hook.
    pub(super) fn add_chain(&mut self, table: &str, chain: &Chain) {
        let hook = [
            number(n::CHAIN_HOOK_NUMBER, chain.hook),
            DefaultNla::new(n::CHAIN_HOOK_PRIORITY, chain.priority.to_be_bytes().to_vec()),
        ];
        let attributes = [
            text(n::CHAIN_TABLE, table),
            text(n::CHAIN_NAME, chain.name),
            nest(n::CHAIN_HOOK, &hook),
            text(n::CHAIN_TYPE, chain.kind),
        ];
        let action = format!("adding the nftables chain {} of type {}", chain.name, chain.kind);
        self.push(action, n::NEW_CHAIN, NLM_F_CREATE, &attributes);
    }

    pub(super) fn add_set(&mut self, table: &str, set: &str, key_type: u32, key_len: u32) {
        self.sets += 1;
        let attributes = [
            text(n::SET_TABLE, table),
            text(n::SET_NAME, set),
            number(n::SET_KEY_TYPE, key_type),
            number(n::SET_KEY_LEN, key_len),
            number(n::SET_ID, self.sets),
        ];
        self.push(
            format!("adding the nftables set {set}"),
            n::NEW_SET,
            NLM_F_CREATE,
            &attributes,
        );
    }

    pub(super) fn add_elements(&mut self, table: &str, set: &str, keys: &[Vec<u8>]) {
        let element = |key: &Vec<u8>| nest(n::LIST_ELEMENT, &[data(n::ELEMENT_KEY, key)]);
        let elements: Vec<DefaultNla> = keys.iter().map(element).collect();
        let attributes = [
            text(n::ELEMENTS_TABLE, table),
            text(n::ELEMENTS_SET, set),
            nest(n::ELEMENTS_LIST, &elements),
        ];
        let action = format!("filling the nftables set {set}");
        self.push(action, n::NEW_ELEMENTS, NLM_F_CREATE, &attributes);
    }

    pub(super) fn add_rule(&mut self, table: &str, chain: &str, expressions: Vec<DefaultNla>) {
        // The kernel puts a rule with neither flag before all others.
        const NLM_F_APPEND: u16 = 0x800;
        let attributes = [
            text(n::RULE_TABLE, table),
            text(n::RULE_CHAIN, chain),
            nest(n::RULE_EXPRESSIONS, &expressions),
        ];
        let action = format!("adding a rule to the nftables chain {chain}");
        self.push(action, n::NEW_RULE, NLM_F_CREATE | NLM_F_APPEND, &attributes);
    }

    /// Has the kernel make all changes.
    pub(super) fn commit(mut self) -> Result<(), KernelError> {
        self.push_edge(n::BATCH_END, "ending a change of nftables");
        exchange(&self.bytes, &self.actions)
    }

    fn push(&mut self, action: String, message: u16, flags: u16, attributes: &[DefaultNla]) {
        let kind = n::SUBSYSTEM << 8 | message;
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let header = [n::FAMILY_INET, 0, 0, 0];
        append(
            &mut self.bytes,
            kind,
            flags,
            self.actions.len(),
            header,
            attributes,
        );
        self.actions.push(action);
    }

    /// The message before all others, or behind them; its last field names the subsystem.
    fn push_edge(&mut self, kind: u16, action: &str) {
        let [high, low] = n::SUBSYSTEM.to_be_bytes();
        let header = [n::FAMILY_UNSPECIFIED, 0, high, low];
        append(
            &mut self.bytes,
            kind,
            NLM_F_REQUEST,
            self.actions.len(),
            header,
            &[],
        );
        self.actions.push(action.to_owned());
    }
}

/// Asks for a table; an error if there is none.
pub(super) fn find_table(table: &str) -> Result<(), KernelError> {
    let mut bytes = Vec::new();
    let kind = n::SUBSYSTEM << 8 | n::GET_TABLE;
    let header = [n::FAMILY_INET, 0, 0, 0];
    let attributes = [text(n::TABLE_NAME, table)];
    append(
        &mut bytes,
        kind,
        NLM_F_REQUEST | NLM_F_ACK,
        0,
        header,
        &attributes,
    );
    exchange(&bytes, &[format!("looking for the nftables table {table}")])
}

pub(super) fn append(
    bytes: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: usize,
    header: [u8; 4],
    attributes: &[DefaultNla],
) {
    let start = bytes.len();
    let len = HEADER_LEN + attributes.buffer_len();
    // INVARIANT: a message holds at most `ELEMENTS_PER_MESSAGE` keys, a batch some hundreds of messages.
    let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_ne_bytes();
    bytes.extend(word(len));
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(word(sequence));
    bytes.extend([0; 4]);
    bytes.extend(header);
    bytes.resize(start + len, 0);
    attributes.emit(bytes.get_mut(start + HEADER_LEN..).unwrap_or_default());
}

/// Sends messages in one piece, and reads the answers. The kernel has put them all into the socket by the time that
/// sending returns.
fn exchange(bytes: &[u8], actions: &[String]) -> Result<(), KernelError> {
    let whole = actions.first().map(String::as_str).unwrap_or_default();
    let fail = |source| KernelError::Socket {
        action: whole.to_owned(),
        source,
    };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(fail)?;
    socket.bind_auto().map_err(fail)?;
    socket.set_ext_ack(true).map_err(fail)?;
    socket.set_cap_ack(true).map_err(fail)?;
    socket.set_non_blocking(true).map_err(fail)?;
    // A batch is one datagram, and each of its messages is answered. Where the limit cannot be passed, the kernel says
    // so when it is sent.
    let room = bytes.len().saturating_add(1 << 16);
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, room);
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, room);
    socket.send_to(bytes, &SocketAddr::new(0, 0), 0).map_err(fail)?;
    let mut acknowledged = 0;
    loop {
        match socket.recv_from_full() {
            Ok((answer, _)) => acknowledged += read_answers(&answer, actions)?,
            Err(error) if error.kind() == NO_MORE => break,
            Err(error) => return Err(fail(error)),
        }
    }
    if acknowledged == 0 {
        return Err(KernelError::Protocol {
            action: whole.to_owned(),
            detail: "the kernel did not answer".to_owned(),
        });
    }
    Ok(())
}

/// The number of acknowledgements in a datagram, or the first refusal.
fn read_answers(mut bytes: &[u8], actions: &[String]) -> Result<usize, KernelError> {
    let mut acknowledged = 0;
    while !bytes.is_empty() {
        let unread = |detail: String| KernelError::Protocol {
            action: "reading an answer of nftables".to_owned(),
            detail,
        };
        let message = NetlinkMessage::<GenericMessage>::deserialize(bytes)
            .map_err(|error| unread(error.to_string()))?;
        let len = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        if let NetlinkPayload::Error(error) = message.payload {
            let Some(code) = error.code else {
                acknowledged += 1;
                bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
                continue;
            };
            let sequence = error
                .header
                .get(SEQUENCE_AT)
                .and_then(|number| number.try_into().ok());
            let sequence = sequence.map_or(0, u32::from_ne_bytes);
            let action = usize::try_from(sequence)
                .ok()
                .and_then(|number| actions.get(number));
            return Err(KernelError::Refused {
                action: action.cloned().unwrap_or_else(|| "changing nftables".to_owned()),
                refusal: Refusal {
                    errno: code.get().saturating_abs(),
                    message: extended_message(message.header, &error.header),
                },
            });
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(acknowledged)
}
