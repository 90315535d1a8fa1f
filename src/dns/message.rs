//! From a query's bytes to an answer's: what of the protocol is ours to decide. The format is hickory-proto's.

use std::sync::atomic::{AtomicU16, Ordering};

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinDecoder, BinEncodable as _, BinEncoder};

use super::stats::{Count, DnsStats};
use super::zone::{Answer, Zone};

/// Longest query that is read, in bytes; a name and options are far shorter.
pub(super) const QUERY_MAX_BYTES: usize = 4096;
/// Longest answer in a datagram, in bytes, so that none is cut into fragments on the way (DNS flag day 2020; RFC 9715).
pub(super) const DATAGRAM_MAX_BYTES: u16 = 1232;
/// Longest answer in a datagram to one who does not say what it takes (RFC 1035, section 4.2.1).
const DATAGRAM_PLAIN_BYTES: u16 = 512;

/// What a query came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What becomes of bytes that came.
#[derive(Debug)]
pub(super) enum Taken {
    /// They are not answered.
    Ignored,
    /// The answer.
    Answered(Vec<u8>),
    /// A name server has to be asked first.
    Ask(Box<Pending>),
}

/// A query, as far as the answer has to do with it.
#[derive(Debug, Clone)]
struct Asked {
    metadata: Metadata,
    query: Option<Query>,
    /// Whether it has EDNS's record, so that the answer has one; and whether that wants DNSSEC's records.
    edns: Option<bool>,
    limit: u16,
}

/// A query that waits for a name server.
#[derive(Debug)]
pub(super) struct Pending {
    asked: Asked,
    /// What is known already: names that lead to the one that has to be asked for.
    known: Option<Answer>,
    /// What to ask.
    pub(super) question: Query,
}

/// What is told of an upstream's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// There is none to ask.
    Nobody,
    /// None has answered, or too many are being asked.
    Failed,
}

/// Which of several addresses comes first, so that clients that take the first one spread.
static TURN: AtomicU16 = AtomicU16::new(0);

/// Answers a query, or says what is missing to do so.
pub(super) fn take(bytes: &[u8], transport: Transport, zone: &Zone, stats: &DnsStats) -> Taken {
    stats.count(match transport {
        Transport::Udp => Count::Udp,
        Transport::Tcp => Count::Tcp,
    });
    let Some(header) = header(bytes) else {
        stats.count(Count::Ignored);
        return Taken::Ignored;
    };
    let mut asked = Asked {
        metadata: header.metadata,
        query: None,
        edns: None,
        limit: match transport {
            Transport::Udp => DATAGRAM_PLAIN_BYTES,
            Transport::Tcp => u16::MAX,
        },
    };
    let refuse = |asked: &Asked, code| Taken::Answered(asked.respond(code, stats));
    if header.metadata.op_code != OpCode::Query {
        return refuse(&asked, ResponseCode::NotImp);
    }
    let message = message(&header, bytes);
    let question = message.as_ref().and_then(|message| message.queries.first());
    let (Some(message), Some(query)) = (&message, question) else {
        return refuse(&asked, ResponseCode::FormErr);
    };
    asked.query = Some(query.clone());
    if let Some(edns) = &message.edns {
        asked.edns = Some(edns.flags().dnssec_ok);
        if transport == Transport::Udp {
            asked.limit = edns.max_payload().clamp(DATAGRAM_PLAIN_BYTES, DATAGRAM_MAX_BYTES);
        }
        if edns.version() != 0 {
            return refuse(&asked, ResponseCode::BADVERS);
        }
    }
    let is_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if is_transfer || query.query_class() != DNSClass::IN {
        return refuse(&asked, ResponseCode::Refused);
    }
    asked.look_up(query, zone, stats)
}

/// The head of a query; `None` for what is none.
fn header(bytes: &[u8]) -> Option<Header> {
    let header = Header::read(&mut BinDecoder::new(bytes)).ok()?;
    (header.metadata.message_type == MessageType::Query).then_some(header)
}

/// A query with one question; how many there are is looked at before anything is made room for.
fn message(header: &Header, bytes: &[u8]) -> Option<Message> {
    let is_one_question = header.counts.queries == 1 && header.counts.answers == 0;
    is_one_question.then(|| Message::from_vec(bytes).ok()).flatten()
}

/// The name that a query is about.
pub(super) fn name_asked_for(bytes: &[u8]) -> Option<Name> {
    let message = message(&header(bytes)?, bytes)?;
    message.queries.first().map(|query| query.name().clone())
}

impl Asked {
    fn look_up(&self, query: &Query, zone: &Zone, stats: &DnsStats) -> Taken {
        let Some(answer) = zone.answer(query, TURN.fetch_add(1, Ordering::Relaxed)) else {
            return Taken::Ask(Box::new(Pending {
                asked: self.clone(),
                known: None,
                question: query.clone(),
            }));
        };
        let Some(outside) = answer.outside.clone() else {
            return Taken::Answered(self.answer(answer, stats));
        };
        let mut question = query.clone();
        question.set_name(outside);
        Taken::Ask(Box::new(Pending {
            asked: self.clone(),
            known: Some(answer),
            question,
        }))
    }

    /// The answer's head.
    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.metadata.id, self.metadata.op_code);
        message.metadata = Metadata::response_from_request(&self.metadata);
        message.metadata.response_code = code;
        message.queries.extend(self.query.clone());
        if let Some(dnssec_ok) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_MAX_BYTES).set_dnssec_ok(dnssec_ok);
            message.set_edns(edns);
        }
        message
    }

    /// An answer without records.
    fn respond(&self, code: ResponseCode, stats: &DnsStats) -> Vec<u8> {
        self.encode(&self.response(code), stats)
    }

    /// The answer of our own.
    fn answer(&self, answer: Answer, stats: &DnsStats) -> Vec<u8> {
        let mut message = self.response(answer.code);
        message.metadata.authoritative = true;
        message.answers = answer.answers;
        message.authorities = answer.authorities;
        message.additionals = answer.additionals;
        self.encode(&message, stats)
    }

    /// The bytes of an answer, no more than the client takes.
    fn encode(&self, message: &Message, stats: &DnsStats) -> Vec<u8> {
        stats.count(match message.metadata.response_code {
            ResponseCode::NoError if message.answers.is_empty() => Count::NoData,
            ResponseCode::NoError => Count::Answered,
            ResponseCode::NXDomain => Count::NoName,
            ResponseCode::Refused => Count::Refused,
            ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS => Count::Malformed,
            _ => Count::Failed,
        });
        if let Some(bytes) = write(message, self.limit) {
            return bytes;
        }
        stats.count(Count::Truncated);
        // What stands beside an answer is left out before any of the answer is.
        let mut bare = message.clone();
        bare.additionals.clear();
        let cut = || match self.limit {
            // As many as there is room for; there is nothing else that they could be asked by.
            u16::MAX => write_some(&bare, u16::MAX),
            _ => write(&message.truncate(), self.limit),
        };
        let bytes = write(&bare, self.limit).or_else(cut);
        // A head, a question and EDNS's record are shorter than any limit.
        bytes.unwrap_or_default()
    }
}

impl Pending {
    /// Whether the client wants records of DNSSEC's, if it says anything of that kind.
    pub(super) fn edns(&self) -> Option<bool> {
        self.asked.edns
    }

    /// What a name server is to be told of the client's wishes.
    pub(super) fn metadata(&self) -> &Metadata {
        &self.asked.metadata
    }

    /// The answer, with what a name server said.
    pub(super) fn finish(self, said: Result<Message, Unanswered>, stats: &DnsStats) -> Vec<u8> {
        let (asked, known) = (self.asked, self.known);
        let said = match (said, known) {
            (Ok(said), None) => {
                let mut message = asked.response(said.metadata.response_code);
                message.metadata.authentic_data = said.metadata.authentic_data;
                message.metadata.recursion_available = said.metadata.recursion_available;
                (message.answers, message.authorities) = (said.answers, said.authorities);
                message.additionals = said.additionals;
                message
            }
            (Ok(said), Some(known)) => {
                let mut message = asked.response(said.metadata.response_code);
                message.metadata.authoritative = true;
                message.metadata.recursion_available = said.metadata.recursion_available;
                message.answers = known.answers.into_iter().chain(said.answers).collect();
                message.authorities = said.authorities;
                message
            }
            (Err(Unanswered::Nobody), None) => asked.response(ResponseCode::Refused),
            // The name that it leads to is true by itself.
            (Err(Unanswered::Nobody), Some(known)) => return asked.answer(known, stats),
            (Err(Unanswered::Failed), _) => asked.response(ResponseCode::ServFail),
        };
        // What has no room in a message without EDNS.
        let has_high_code = u16::from(said.metadata.response_code) > 0xf && asked.edns.is_none();
        if has_high_code {
            return asked.respond(ResponseCode::ServFail, stats);
        }
        asked.encode(&said, stats)
    }
}

/// A message's bytes; `None` if they are more than `limit`.
fn write(message: &Message, limit: u16) -> Option<Vec<u8>> {
    message
        .to_vec()
        .ok()
        .filter(|bytes| bytes.len() <= usize::from(limit) && !is_cut(bytes, message))
}

/// A message's bytes with as many of its records as `limit` has room for; it says then that it was cut.
fn write_some(message: &Message, limit: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder).ok().map(|()| bytes)
}

/// Whether records were left out of a message as it was written.
fn is_cut(bytes: &[u8], message: &Message) -> bool {
    let header = Header::read(&mut BinDecoder::new(bytes));
    header.is_ok_and(|header| header.metadata.truncation && !message.metadata.truncation)
}
