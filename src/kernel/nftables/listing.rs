//! The names of all chains of nftables, whoever made them: iptables' own, as it is with nftables beneath, among them.

use std::io::ErrorKind;

use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::net::sockopt;

use super::batch::append;
use super::number as n;
use crate::kernel::error::{KernelError, Refusal};
use crate::kernel::generic::{GenericMessage, kind_of, read_text, value_of};
use crate::kernel::request::extended_message;

/// What is being done, for errors.
const ACTION: &str = "listing the chains of nftables";
/// Room for answers, in bytes; the kernel waits until they are read.
const ROOM: usize = 1 << 20;

/// A chain, by its names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// The table's.
    pub table: String,
    /// Its own.
    pub chain: String,
}

/// All chains of all families, in the calling thread's network namespace.
///
/// # Errors
/// [`KernelError::Refused`] or [`KernelError::Socket`]; a kernel without nf_tables is among the reasons
/// ([`KernelError::is_unsupported`]).
pub fn chains() -> Result<Vec<ChainName>, KernelError> {
    let fail = |source| KernelError::Socket {
        action: ACTION.to_owned(),
        source,
    };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(fail)?;
    socket.bind_auto().map_err(fail)?;
    socket.set_non_blocking(true).map_err(fail)?;
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, ROOM);
    let mut request = Vec::new();
    let kind = n::SUBSYSTEM << 8 | n::GET_CHAIN;
    let header = [n::FAMILY_UNSPECIFIED, 0, 0, 0];
    append(&mut request, kind, NLM_F_REQUEST | NLM_F_DUMP, 0, header, &[]);
    socket
        .send_to(&request, &SocketAddr::new(0, 0), 0)
        .map_err(fail)?;
    let mut chains = Vec::new();
    loop {
        match socket.recv_from_full() {
            Ok((bytes, _)) => {
                if read(&bytes, &mut chains)? {
                    return Ok(chains);
                }
            }
            // Each part is in the socket by the time the one before it is read.
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(cut_short()),
            Err(error) => return Err(fail(error)),
        }
    }
}

fn cut_short() -> KernelError {
    KernelError::Protocol {
        action: ACTION.to_owned(),
        detail: "the kernel's answer has no end".to_owned(),
    }
}

/// Takes the chains out of a datagram; says whether it was the last.
fn read(mut bytes: &[u8], chains: &mut Vec<ChainName>) -> Result<bool, KernelError> {
    while !bytes.is_empty() {
        let message =
            NetlinkMessage::<GenericMessage>::deserialize(bytes).map_err(|error| KernelError::Protocol {
                action: ACTION.to_owned(),
                detail: error.to_string(),
            })?;
        let len = usize::try_from(message.header.length).unwrap_or(usize::MAX);
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => {
                let Some(code) = error.code else {
                    return Ok(true);
                };
                return Err(KernelError::Refused {
                    action: ACTION.to_owned(),
                    refusal: Refusal {
                        errno: code.get().saturating_abs(),
                        message: extended_message(message.header, &error.header),
                    },
                });
            }
            NetlinkPayload::InnerMessage(chain) => {
                let named = |kind| {
                    let nla = chain.attributes.iter().find(|nla| kind_of(nla) == kind);
                    nla.map(|nla| read_text(&value_of(nla))).unwrap_or_default()
                };
                chains.push(ChainName {
                    table: named(n::CHAIN_TABLE),
                    chain: named(n::CHAIN_NAME),
                });
            }
            _ => {}
        }
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}
