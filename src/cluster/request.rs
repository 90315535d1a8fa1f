//! Requests of the API server whose answers may be large or long: lists and watches.
//!
//! kube-rs sees to addresses, certificates and tokens, and makes the requests; the answers are read here, piece by piece, so
//! that a list's page is never there as anything but its text, a watch's silence is noticed, and a server's wish to be left
//! alone for a while is heard.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::RETRY_AFTER;
use hyper::{Request, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{ListParams, WatchParams};
use kube::client::Body;

use super::contact::Contact;
use super::pace::Pace;

/// Objects in a page of a list.
const PAGE_OBJECTS: u32 = 500;
/// Largest page that is read, in bytes: an object has at most 1.5 MiB, as etcd has it.
const PAGE_MAX_BYTES: usize = 256 << 20;
/// Longest line of a watch, in bytes.
const LINE_MAX_BYTES: usize = 16 << 20;
/// Longest answer of a server that refuses, in bytes.
const REFUSAL_MAX_BYTES: usize = 64 << 10;
/// Most characters of what a server says.
const WORDS_MAX_CHARS: usize = 240;

/// Why a request was of no use.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There was no answer.
    NoAnswer(String),
    /// The answer was that it cannot be.
    Refused {
        /// HTTP's status code.
        code: u16,
        /// What the server said.
        words: String,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The answer makes no sense.
    Garbled(String),
}

impl Trouble {
    /// Whether the server is away, as far as can be told.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self, Self::NoAnswer(_))
    }

    /// Whether a watch may go on from where it was once the trouble is over.
    pub(super) fn keeps_place(&self) -> bool {
        match self {
            Self::NoAnswer(_) => true,
            Self::Refused { code, .. } => matches!(code, 429 | 500..),
            Self::Garbled(_) => false,
        }
    }

    /// HTTP's status code of a refusal.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::NoAnswer(_) | Self::Garbled(_) => None,
        }
    }

    /// How long the server asked to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::NoAnswer(_) | Self::Garbled(_) => None,
        }
    }

    /// Takes what kube-rs reports.
    pub(super) fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused {
                code: status.code,
                words: shortened(&status.message),
                retry_after: None,
            },
            other => Self::NoAnswer(with_sources(other)),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer(words) => f.write_str(words),
            Self::Refused { code, words, .. } => {
                write!(f, "{code} {words}")?;
                match code {
                    401 => f.write_str(" (the token is not accepted)"),
                    403 => f.write_str(" (the service account's ClusterRole must allow it)"),
                    _ => Ok(()),
                }
            }
            Self::Garbled(words) => write!(f, "the answer makes no sense: {words}"),
        }
    }
}

/// An error with what is behind it, on one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        source = error.source();
    }
    shortened(&words)
}

/// The beginning of what somebody else says, on one line.
fn shortened(words: &str) -> String {
    let plain = words.split_whitespace().collect::<Vec<_>>().join(" ");
    plain
        .chars()
        .filter(|c| !c.is_control())
        .take(WORDS_MAX_CHARS)
        .collect()
}

/// The API server.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) client: kube::Client,
    pub(super) contact: Arc<Contact>,
    pub(super) pace: Pace,
}

impl Api {
    /// A page of the list of all objects at a path: its text.
    pub(super) async fn page(&self, path: &str, continue_token: Option<&str>) -> Result<Bytes, Trouble> {
        let params = ListParams {
            limit: Some(PAGE_OBJECTS),
            continue_token: continue_token.map(str::to_owned),
            ..ListParams::default()
        };
        let request = kube::core::Request::new(path).list(&params);
        let answer = async {
            let response = self.send(request).await?;
            self.whole(response).await
        };
        let in_time = tokio::time::timeout(self.pace.answer_max, answer).await;
        in_time.unwrap_or_else(|_| Err(late(self.pace.answer_max)))
    }

    /// Begins to watch all objects at a path, from a version on.
    pub(super) async fn watch(&self, path: &str, version: &str) -> Result<Lines, Trouble> {
        let params = WatchParams {
            timeout: u32::try_from(self.pace.watch_max.as_secs()).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = kube::core::Request::new(path).watch(&params, version);
        let begun = tokio::time::timeout(self.pace.answer_max, self.send(request)).await;
        let response = begun.unwrap_or_else(|_| Err(late(self.pace.answer_max)))?;
        Ok(Lines {
            body: response.into_body(),
            contact: Arc::clone(&self.contact),
            silence_max: self.pace.silence_max,
            buffer: Vec::new(),
            searched: 0,
        })
    }

    async fn send(
        &self,
        request: Result<Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Response<Body>, Trouble> {
        let request = request.map_err(|error| Trouble::Garbled(with_sources(&error)))?;
        let response = self.client.send(request.map(Body::from)).await;
        let response = response.map_err(|error| Trouble::of(&error))?;
        self.contact.heard();
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let seconds = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let retry_after = seconds
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs);
        let body = Limited::new(response.into_body(), REFUSAL_MAX_BYTES)
            .collect()
            .await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Err(refusal(code, &body, retry_after))
    }

    async fn whole(&self, response: Response<Body>) -> Result<Bytes, Trouble> {
        let body = Limited::new(response.into_body(), PAGE_MAX_BYTES).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => Trouble::Garbled(format!("a page of more than {PAGE_MAX_BYTES} bytes")),
            None => Trouble::NoAnswer(with_sources(&*error)),
        })?;
        self.contact.heard();
        Ok(body.to_bytes())
    }
}

pub(super) fn late(after: Duration) -> Trouble {
    Trouble::NoAnswer(format!("no answer within {} s", after.as_secs()))
}

/// A refusal, in the words of the server: a `Status`, or what stands in the place of one.
pub(super) fn refusal(code: u16, body: &[u8], retry_after: Option<Duration>) -> Trouble {
    let status: Option<Status> = serde_json::from_slice(body).ok();
    let status = status.unwrap_or_default();
    let said = status
        .message
        .unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let details = status.details.and_then(|details| details.retry_after_seconds);
    let asked = details
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0);
    Trouble::Refused {
        code: status
            .code
            .and_then(|code| u16::try_from(code).ok())
            .unwrap_or(code),
        words: shortened(&said),
        retry_after: retry_after.or(asked.map(Duration::from_secs)),
    }
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Body,
    contact: Arc<Contact>,
    silence_max: Duration,
    buffer: Vec<u8>,
    /// How much of the buffer has no line's end in it.
    searched: usize,
}

impl Lines {
    /// The next line; `None` at the end. What stands before an end without a line's end is no line.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Trouble> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(Trouble::Garbled(format!(
                    "a line of more than {LINE_MAX_BYTES} bytes"
                )));
            }
            let frame = tokio::time::timeout(self.silence_max, self.body.frame()).await;
            let frame = frame.map_err(|_| late(self.silence_max))?;
            match frame.transpose() {
                Ok(Some(frame)) => {
                    self.contact.heard();
                    self.buffer
                        .extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                }
                Ok(None) => return Ok(None),
                // A connection that ends is how a server that goes, or a proxy, ends a watch.
                Err(_) => return Ok(None),
            }
        }
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let new = self.buffer.get(self.searched..)?;
        let Some(end) = new.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let rest = self.buffer.split_off(self.searched + end + 1);
        self.searched = 0;
        Some(std::mem::replace(&mut self.buffer, rest))
    }
}
