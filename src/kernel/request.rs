//! The connections to the kernel, and one way to ask: every request gets its answer, an error or a time-out.

use std::future::Future;
use std::io;
use std::time::Duration;

use futures::StreamExt;
use rtnetlink::Handle;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_ALIGNTO,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;

use super::error::{KernelError, Refusal};
use super::ethtool::Ethtool;

/// How long an answer of the kernel may take. Netlink answers within the request; a longer wait means a lost
/// message.
const ANSWER_TIMEOUT_MS: u64 = 10_000;

/// How often a table is read again that changed while it was read (`NLM_F_DUMP_INTR`), before what was read
/// counts.
const DUMP_ATTEMPTS: usize = 5;

/// Bytes of a netlink message header (`struct nlmsghdr`).
const NETLINK_HEADER_BYTES: usize = 16;

/// The extended-acknowledgement attribute that holds the kernel's words (`NLMSGERR_ATTR_MSG`).
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A way to change the network configuration of one namespace: the one the opening thread was in.
///
/// Clones share the connections, which end when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Kernel {
    rtnetlink: Handle,
    pub(super) ethtool: Ethtool,
}

impl Kernel {
    /// Opens the connections in the calling thread's network namespace. Their work is done by tasks of the
    /// current tokio runtime, which needs its I/O and time drivers.
    ///
    /// # Errors
    /// [`KernelError::Socket`] outside a tokio runtime, or if the sockets cannot be opened.
    pub fn open() -> Result<Self, KernelError> {
        let fail = |source| KernelError::Socket {
            action: "opening an rtnetlink socket".into(),
            source,
        };
        let runtime = tokio::runtime::Handle::try_current().map_err(|error| fail(io::Error::other(error)))?;
        let (mut connection, rtnetlink, _) = rtnetlink::new_connection_with_strict_check().map_err(fail)?;
        connection.set_forward_ack(true);
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true).map_err(fail)?;
        socket.set_cap_ack(true).map_err(fail)?;
        runtime.spawn(connection);
        let ethtool = Ethtool::open(&runtime)?;
        Ok(Self { rtnetlink, ethtool })
    }

    /// Asks for a change and waits for the kernel's acknowledgement. `flags` are added to `NLM_F_REQUEST |
    /// NLM_F_ACK`.
    pub(super) async fn change(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), KernelError> {
        self.ask(action, message, flags).await.map(|_| ())
    }

    /// Asks for single objects and returns those that came before the acknowledgement.
    pub(super) async fn ask(
        &self,
        action: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut handle = self.rtnetlink.clone();
        let answers = handle.request(request).map_err(|_| closed(action))?;
        let collected = collect(action, answers, true).await?;
        Ok(collected.messages)
    }

    /// Reads a whole table. One that changed meanwhile is read again, a bounded number of times.
    pub(super) async fn dump(
        &self,
        action: &str,
        message: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, KernelError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut request = NetlinkMessage::from(message.clone());
            request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            let mut handle = self.rtnetlink.clone();
            let answers = handle.request(request).map_err(|_| closed(action))?;
            let collected = collect(action, answers, false).await?;
            if !collected.interrupted || attempts == DUMP_ATTEMPTS {
                return Ok(collected.messages);
            }
        }
    }
}

/// The answers to one request.
pub(super) struct Collected<T> {
    /// The messages, in the kernel's order.
    pub(super) messages: Vec<T>,
    /// Whether the table changed while it was read.
    interrupted: bool,
}

/// Collects the answers to one request until the stream ends, with a time-out. With `wants_ack`, a stream
/// that ends without an acknowledgement is an error: the connection is gone.
pub(super) async fn collect<T>(
    action: &str,
    mut answers: impl futures::Stream<Item = NetlinkMessage<T>> + Unpin,
    wants_ack: bool,
) -> Result<Collected<T>, KernelError> {
    let mut collected = Collected {
        messages: Vec::new(),
        interrupted: false,
    };
    let mut acknowledged = !wants_ack;
    let gather = async {
        while let Some(answer) = answers.next().await {
            collected.interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => collected.messages.push(message),
                NetlinkPayload::Error(error) => match error.code {
                    Some(code) => {
                        let message = extended_message(answer.header, &error.header);
                        let refusal = Refusal {
                            errno: code.get().saturating_abs(),
                            message,
                        };
                        return Err(KernelError::Refused {
                            action: action.to_owned(),
                            refusal,
                        });
                    }
                    None => acknowledged = true,
                },
                NetlinkPayload::Overrun(_) => {
                    let detail = "the kernel dropped part of its answer".to_owned();
                    return Err(KernelError::Protocol {
                        action: action.to_owned(),
                        detail,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    };
    within_timeout(action, gather).await??;
    if !acknowledged {
        return Err(closed(action));
    }
    Ok(collected)
}

async fn within_timeout<T>(action: &str, work: impl Future<Output = T>) -> Result<T, KernelError> {
    let timeout = Duration::from_millis(ANSWER_TIMEOUT_MS);
    tokio::time::timeout(timeout, work)
        .await
        .map_err(|_| KernelError::Protocol {
            action: action.to_owned(),
            detail: format!("no answer from the kernel within {} s", timeout.as_secs()),
        })
}

/// The error of a request whose connection has ended.
pub(super) fn closed(action: &str) -> KernelError {
    KernelError::Protocol {
        action: action.to_owned(),
        detail: "the netlink connection is closed".to_owned(),
    }
}

/// The kernel's words in an error message: attributes after the header of the request, which the kernel
/// quotes whole unless it says that it capped it (netlink(7), `NETLINK_EXT_ACK`).
pub(super) fn extended_message(header: NetlinkHeader, quoted: &[u8]) -> Option<String> {
    if header.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let skip = if header.flags & NLM_F_CAPPED != 0 {
        NETLINK_HEADER_BYTES
    } else {
        let length = quoted
            .first_chunk::<4>()
            .map(|bytes| u32::from_ne_bytes(*bytes))?;
        usize::try_from(length)
            .ok()?
            .next_multiple_of(usize::from(NLMSG_ALIGNTO))
    };
    let attributes = quoted.get(skip..)?;
    NlasIterator::new(attributes)
        .filter_map(Result::ok)
        .find(|nla| nla.kind() == NLMSGERR_ATTR_MSG)
        .map(|nla| {
            let text = nla.value();
            String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text)).into_owned()
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    /// An attribute with the kernel's words, as it follows the quoted request.
    fn words(text: &str) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + text.len() + 1).unwrap().to_ne_bytes().to_vec();
        bytes.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn the_kernels_words_are_found_behind_the_quoted_request() {
        let text = "Nexthop has invalid gateway";
        let request_bytes: usize = 30;
        let mut request = vec![0xa5; request_bytes.next_multiple_of(4)];
        request[..4].copy_from_slice(&u32::try_from(request_bytes).unwrap().to_ne_bytes());
        let capped = [&request[..NETLINK_HEADER_BYTES], &words(text)].concat();
        let whole = [request.as_slice(), &words(text)].concat();
        let rows = [
            (NLM_F_ACK_TLVS | NLM_F_CAPPED, capped.as_slice(), Some(text)),
            (NLM_F_ACK_TLVS, whole.as_slice(), Some(text)),
            (NLM_F_CAPPED, capped.as_slice(), None),
            (
                NLM_F_ACK_TLVS | NLM_F_CAPPED,
                &capped[..NETLINK_HEADER_BYTES],
                None,
            ),
            (NLM_F_ACK_TLVS, &whole[..3], None),
            (NLM_F_ACK_TLVS, &[], None),
        ];
        for (flags, quoted, wanted) in rows {
            let mut header = NetlinkHeader::default();
            header.flags = flags;
            assert_eq!(
                extended_message(header, quoted).as_deref(),
                wanted,
                "flags {flags:#x}"
            );
        }
    }
}
