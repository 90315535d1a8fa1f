//! What the server knows, and what is to go wrong.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// It is refused: the status code, and for how many seconds it is not to be made again.
    Refuse(u16, Option<u64>),
    /// The answer breaks off after so many bytes.
    Cut(usize),
    /// The answer comes late.
    Slow(Duration),
    /// The answer is this.
    Body(&'static str),
}

/// A request that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `list`, `watch`, `get`, `create`, `update`, `patch`, `delete`.
    pub(crate) verb: &'static str,
    pub(crate) path: String,
    /// The query.
    pub(crate) query: String,
    /// What was sent, byte by byte.
    pub(crate) body: String,
    pub(crate) content_type: String,
    pub(crate) authorization: String,
}

/// Why an answer is none: a status code with words.
pub(super) type Refusal = (u16, String);

/// What a watch is told; the end of the sender is a cut.
type Line = Vec<u8>;

struct Watch {
    path: String,
    namespace: String,
    wants_bookmarks: bool,
    lines: UnboundedSender<Line>,
}

/// A change as it is told.
struct Change {
    version: u64,
    path: String,
    kind: &'static str,
    object: Value,
}

/// Which object: path of its kind, namespace, name.
type Key = (String, String, String);

/// Everything.
pub(crate) struct State {
    served: BTreeSet<String>,
    version: u64,
    /// What came before it is forgotten.
    forgotten: u64,
    objects: BTreeMap<Key, Value>,
    changes: Vec<Change>,
    watches: Vec<Watch>,
    faults: VecDeque<(&'static str, String, Fault)>,
    pub(super) is_mute: bool,
    pub(super) seen: Vec<Seen>,
    made: u64,
}

impl State {
    pub(super) fn new(served: &[&str]) -> Self {
        Self {
            served: served.iter().map(|path| (*path).to_owned()).collect(),
            version: 100,
            forgotten: 0,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            watches: Vec::new(),
            faults: VecDeque::new(),
            is_mute: false,
            seen: Vec::new(),
            made: 0,
        }
    }

    pub(super) fn serve(&mut self, path: &str) {
        self.served.insert(path.to_owned());
    }

    pub(super) fn withdraw(&mut self, path: &str) {
        self.served.remove(path);
        self.objects.retain(|(kind, _, _), _| kind != path);
        self.watches.retain(|watch| watch.path != path);
    }

    pub(super) fn is_served(&self, path: &str) -> bool {
        self.served.contains(path)
    }

    pub(super) fn fail(&mut self, verb: &'static str, path: &str, fault: Fault) {
        self.faults.push_back((verb, path.to_owned(), fault));
    }

    pub(super) fn faults_left(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn take_fault(&mut self, verb: &str, path: &str) -> Option<Fault> {
        let is_meant = |(other, at, _): &(&'static str, String, Fault)| *other == verb && at == path;
        let place = self.faults.iter().position(is_meant)?;
        self.faults.remove(place).map(|(_, _, fault)| fault)
    }

    pub(super) fn cut_watches(&mut self) {
        self.watches.clear();
    }

    pub(super) fn watches(&self, path: &str) -> usize {
        let open = self.watches.iter().filter(|watch| !watch.lines.is_closed());
        open.filter(|watch| watch.path == path).count()
    }

    pub(super) fn expire(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
        self.changes.clear();
        let gone = json!({"type": "ERROR", "object": gone(self.forgotten)});
        for watch in self.watches.drain(..) {
            let _ = watch.lines.send(line(&gone));
        }
    }

    pub(super) fn bookmark(&mut self) {
        self.version += 1;
        let version = self.version.to_string();
        for watch in self.watches.iter().filter(|watch| watch.wants_bookmarks) {
            let bookmark = json!({"type": "BOOKMARK", "object": {"kind": "x", "apiVersion": "v1",
                "metadata": {"resourceVersion": version, "creationTimestamp": null}}});
            let _ = watch.lines.send(line(&bookmark));
        }
    }

    pub(super) fn tell(&mut self, path: &str, told: &Value) {
        for watch in self.watches.iter().filter(|watch| watch.path == path) {
            let _ = watch.lines.send(line(told));
        }
    }

    pub(super) fn set_back(&mut self) {
        self.version = 1;
        self.forgotten = 0;
        self.changes.clear();
        self.watches.clear();
        for object in self.objects.values_mut() {
            object["metadata"]["resourceVersion"] = json!("1");
        }
    }

    pub(super) fn get(&self, path: &str, namespace: &str, name: &str) -> Option<&Value> {
        self.objects
            .get(&(path.to_owned(), namespace.to_owned(), name.to_owned()))
    }

    pub(super) fn all(&self, path: &str) -> Vec<Value> {
        let here = self.objects.iter().filter(|((kind, _, _), _)| kind == path);
        here.map(|(_, object)| object.clone()).collect()
    }

    /// Makes or replaces an object, and tells the watches.
    pub(super) fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let text =
            |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        let key = (path.to_owned(), text(&object, "namespace"), text(&object, "name"));
        let before = self.objects.get(&key);
        let kept = |field: &str| before.map(|before| before["metadata"][field].clone());
        self.made += u64::from(before.is_none());
        let (uid, created) = (
            kept("uid").unwrap_or_else(|| json!(format!("00000000-0000-4000-8000-{:012}", self.made))),
            kept("creationTimestamp").unwrap_or_else(|| json!("2026-01-02T03:04:05Z")),
        );
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.insert("uid".to_owned(), uid);
        metadata.entry("creationTimestamp").or_insert(created);
        metadata.insert("resourceVersion".to_owned(), json!(self.version.to_string()));
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.objects.insert(key, object.clone());
        self.change(path, kind, object.clone());
        object
    }

    pub(super) fn delete(&mut self, path: &str, namespace: &str, name: &str) -> Result<Value, Refusal> {
        let key = (path.to_owned(), namespace.to_owned(), name.to_owned());
        let mut object = self.objects.remove(&key).ok_or_else(|| not_found(name))?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.change(path, "DELETED", object.clone());
        Ok(object)
    }

    fn change(&mut self, path: &str, kind: &'static str, object: Value) {
        if !self.is_mute {
            let told = line(&json!({"type": kind, "object": object}));
            for watch in self.watches.iter().filter(|watch| watch.path == path) {
                let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
                if watch.namespace.is_empty() || watch.namespace == namespace {
                    let _ = watch.lines.send(told.clone());
                }
            }
        }
        self.changes.push(Change {
            version: self.version,
            path: path.to_owned(),
            kind,
            object,
        });
    }

    /// A page of a list. A page's place is the version of the whole list and how many objects came before.
    pub(super) fn list(
        &self,
        path: &str,
        namespace: &str,
        limit: usize,
        place: Option<&str>,
    ) -> Result<Value, Refusal> {
        let (version, skip) = match place {
            None => (self.version, 0),
            Some(place) => {
                let parts = place
                    .split_once('/')
                    .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
                parts.ok_or_else(|| (400, "continue key is not valid".to_owned()))?
            }
        };
        if version < self.forgotten {
            return Err((410, "The provided continue parameter is too old".to_owned()));
        }
        let in_it = |(kind, of, _): &Key| kind == path && (namespace.is_empty() || of == namespace);
        let all: Vec<&Value> = self
            .objects
            .iter()
            .filter(|(key, _)| in_it(key))
            .map(|(_, object)| object)
            .collect();
        let mut items: Vec<Value> = all
            .iter()
            .skip(skip)
            .take(limit)
            .map(|object| (*object).clone())
            .collect();
        for fields in items.iter_mut().filter_map(Value::as_object_mut) {
            // The items of a list leave out what the list says.
            fields.remove("kind");
            fields.remove("apiVersion");
        }
        let next = skip + items.len();
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if next < all.len() {
            metadata["continue"] = json!(format!("{version}/{next}"));
            metadata["remainingItemCount"] = json!(all.len() - next);
        }
        Ok(json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }

    /// Opens a watch from a version on.
    pub(super) fn watch(
        &mut self,
        (path, namespace): (&str, &str),
        from: u64,
        wants_bookmarks: bool,
    ) -> Result<UnboundedReceiver<Line>, Refusal> {
        let (lines, receiver) = unbounded_channel();
        if from < self.forgotten {
            let _ = lines.send(line(&json!({"type": "ERROR", "object": gone(from)})));
            return Ok(receiver);
        }
        for change in self
            .changes
            .iter()
            .filter(|change| change.version > from && change.path == path)
        {
            let _ = lines.send(line(&json!({"type": change.kind, "object": change.object})));
        }
        self.watches.retain(|watch| !watch.lines.is_closed());
        self.watches.push(Watch {
            path: path.to_owned(),
            namespace: namespace.to_owned(),
            wants_bookmarks,
            lines,
        });
        Ok(receiver)
    }
}

fn line(told: &Value) -> Line {
    format!("{told}\n").into_bytes()
}

fn gone(version: u64) -> Value {
    status(410, &format!("too old resource version: {version}"))
}

pub(super) fn not_found(name: &str) -> Refusal {
    (404, format!("\"{name}\" not found"))
}

/// A `Status`.
pub(super) fn status(code: u16, message: &str) -> Value {
    let reason = match code {
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "Failure",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message})
}
