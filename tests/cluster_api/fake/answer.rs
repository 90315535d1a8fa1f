//! From a request to its answer.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};

use super::patch::{self, Kind};
use super::route::{Route, parameter};
use super::state::{Fault, Refusal, Seen, State, not_found, status};

type Body = StreamBody<BoxStream<'static, io::Result<Frame<Bytes>>>>;

/// A request, with what it is about.
struct Asked {
    verb: &'static str,
    route: Route,
    query: String,
    body: Vec<u8>,
    content_type: String,
}

impl Asked {
    fn parameter(&self, name: &str) -> Option<String> {
        parameter(&self.query, name)
    }
}

pub(super) async fn answer(
    state: Arc<Mutex<State>>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let content_type = parts
        .headers
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let authorization = parts
        .headers
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let authorization = authorization.unwrap_or_default().to_owned();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes().to_vec())
        .unwrap_or_default();
    let Some(route) = Route::of(parts.uri.path()) else {
        return Ok(refuse((404, "404 page not found".to_owned()), None));
    };
    let is_watch = parameter(&query, "watch").is_some_and(|value| value == "true" || value == "1");
    let verb = match (&parts.method, route.name.is_empty()) {
        (&Method::GET, true) if is_watch => "watch",
        (&Method::GET, true) => "list",
        (&Method::GET, false) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        _ => "delete",
    };
    let asked = Asked {
        verb,
        route,
        query,
        body,
        content_type,
    };
    let fault = {
        let mut state = state.lock().unwrap();
        state.seen.push(Seen {
            verb,
            path: parts.uri.path().to_owned(),
            query: asked.query.clone(),
            body: String::from_utf8_lossy(&asked.body).into_owned(),
            content_type: asked.content_type.clone(),
            authorization,
        });
        state.take_fault(verb, &asked.route.kind)
    };
    Ok(match fault {
        Some(Fault::Refuse(code, retry_after)) => {
            refuse((code, "as the test wants it".to_owned()), retry_after)
        }
        Some(Fault::Body(body)) => whole(200, body.as_bytes().to_vec()),
        Some(Fault::Slow(time)) => {
            tokio::time::sleep(time).await;
            honest(&state, &asked)
        }
        Some(Fault::Cut(bytes)) => cut(honest(&state, &asked), bytes).await,
        None => honest(&state, &asked),
    })
}

fn honest(state: &Mutex<State>, asked: &Asked) -> Response<Body> {
    let mut state = state.lock().unwrap();
    if !state.is_served(&asked.route.kind) {
        return refuse(
            (404, "the server could not find the requested resource".to_owned()),
            None,
        );
    }
    if asked.verb == "watch" {
        return match watch(&mut state, asked) {
            Ok(body) => Response::new(body),
            Err(refusal) => refuse(refusal, None),
        };
    }
    match change(&mut state, asked) {
        Ok((code, object)) => whole(code, object.to_string().into_bytes()),
        Err(refusal) => refuse(refusal, None),
    }
}

fn watch(state: &mut State, asked: &Asked) -> Result<Body, Refusal> {
    let from = asked
        .parameter("resourceVersion")
        .and_then(|version| version.parse().ok());
    let from = from.ok_or_else(|| (400, "resourceVersion must be given".to_owned()))?;
    let bookmarks = asked
        .parameter("allowWatchBookmarks")
        .is_some_and(|value| value == "true");
    let lines = state.watch((&asked.route.kind, &asked.route.namespace), from, bookmarks)?;
    let lines = stream::unfold(
        lines,
        |mut lines| async move { Some((lines.recv().await?, lines)) },
    );
    Ok(StreamBody::new(
        lines.map(|line| Ok(Frame::data(line.into()))).boxed(),
    ))
}

/// Reads or changes objects.
fn change(state: &mut State, asked: &Asked) -> Result<(u16, Value), Refusal> {
    let Route {
        kind,
        namespace,
        name,
        subresource,
    } = &asked.route;
    let parsed = || serde_json::from_slice(&asked.body).map_err(|error| (400, error.to_string()));
    let present = state.get(kind, namespace, name).cloned();
    let found = || present.clone().ok_or_else(|| not_found(name));
    Ok(match asked.verb {
        "list" => {
            let limit = asked.parameter("limit").and_then(|limit| limit.parse().ok());
            let place = asked.parameter("continue");
            (
                200,
                state.list(kind, namespace, limit.unwrap_or(usize::MAX), place.as_deref())?,
            )
        }
        "get" => (200, found()?),
        "create" => {
            let mut object: Value = parsed()?;
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            if state.get(kind, namespace, &name).is_some() {
                return Err((409, format!("\"{name}\" already exists")));
            }
            if !namespace.is_empty() {
                object["metadata"]["namespace"] = json!(namespace);
            }
            // What there is of it is not for whoever makes it to say.
            if kind.ends_with("/pods") || kind.ends_with("/services") {
                object.as_object_mut().unwrap().remove("status");
            }
            (201, state.put(kind, object))
        }
        "update" => {
            let object: Value = parsed()?;
            let before = found()?;
            let versions = [&object, &before].map(|object| object["metadata"]["resourceVersion"].clone());
            if !versions[0].is_null() && versions[0] != versions[1] {
                return Err((
                    409,
                    "the object has been modified; please apply your changes to the latest version"
                        .to_owned(),
                ));
            }
            (200, state.put(kind, part(before, object, subresource)))
        }
        "patch" => {
            let how = match asked.content_type.as_str() {
                "application/merge-patch+json" => Kind::Merge,
                "application/strategic-merge-patch+json" => Kind::Strategic,
                other => return Err((415, format!("no patch of the type {other:?}"))),
            };
            let before = found()?;
            let mut object = before.clone();
            patch::apply(how, &mut object, &parsed()?);
            (200, state.put(kind, part(before, object, subresource)))
        }
        _ => (200, state.delete(kind, namespace, name)?),
    })
}

/// The part of an object that may be changed by where it was sent: `status` with the metadata, or all but `status`.
fn part(before: Value, after: Value, subresource: &str) -> Value {
    let (mut result, other) = if subresource == "status" {
        (before, after.clone())
    } else {
        (after.clone(), before)
    };
    match other.get("status") {
        Some(status) => result["status"] = status.clone(),
        None => {
            result.as_object_mut().unwrap().remove("status");
        }
    }
    result["metadata"] = after["metadata"].clone();
    result
}

fn whole(code: u16, body: Vec<u8>) -> Response<Body> {
    let frame = stream::iter([Ok(Frame::data(body.into()))]);
    let body = StreamBody::new(frame.boxed());
    Response::builder()
        .status(code)
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}

fn refuse((code, words): Refusal, retry_after: Option<u64>) -> Response<Body> {
    let mut response = whole(code, status(code, &words).to_string().into_bytes());
    if let Some(seconds) = retry_after {
        response.headers_mut().insert("retry-after", seconds.into());
    }
    response
}

/// The same answer, that breaks off.
async fn cut(response: Response<Body>, after: usize) -> Response<Body> {
    let (parts, body) = response.into_parts();
    let mut left = after;
    let body = body.into_data_stream().map(move |piece| {
        let piece = piece?;
        let taken = piece.len().min(left);
        left -= taken;
        Ok(Frame::data(piece.slice(..taken)))
    });
    let cut = stream::iter([Err(io::Error::other("cut as the test wants it"))]);
    Response::from_parts(parts, StreamBody::new(body.chain(cut).boxed()))
}
