//! Manifests: the text of one file to the objects in it.
//!
//! YAML files may hold many documents, JSON files many values in a row; a list (`kind: List`, `NodeList`,
//! ...) counts as its items. A YAML file is first cut at its document markers, as `kubectl` does, and each
//! document is parsed alone, so that one that does not parse takes none of its neighbours along. A JSON file
//! that breaks off is lost from there on, since nothing marks the next value.
//!
//! Everything goes through an untyped tree first: it names the object even if a field is wrong, and it keeps
//! Kubernetes' own strictness (`"true"` is text, `true` is not). What a YAML alias can multiply, how deep a
//! tree may be and how much one file may hold is bounded.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use super::fault::Fault;
use super::notice::Origin;
use super::object::{Object, ObjectFault, Tree, is_list};

/// Largest manifest file that is read, in bytes.
pub const FILE_MAX_BYTES: u64 = 32 << 20;
/// Most objects that are read from one file.
pub const FILE_MAX_OBJECTS: usize = 65_536;
/// Most events (scalars, beginnings and ends of collections) of one YAML document: more than
/// [`FILE_MAX_BYTES`] of Kubernetes objects have.
const YAML_MAX_EVENTS: usize = 16_000_000;
/// Deepest nesting of a YAML document. Pods reach about 15, the schemas of custom resources about 40. Without
/// optimisation the parser takes some 24 KiB of stack a level (measured), so this is what a thread's usual 2
/// MiB bear.
const YAML_MAX_DEPTH: usize = 64;

/// How the text of a file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// `*.yaml`, `*.yml`.
    Yaml,
    /// `*.json`.
    Json,
}

impl Syntax {
    /// Tells the syntax by the file's name; `None` for a file that is no manifest. Names that begin with `.`
    /// are none: editors and mounted ConfigMaps keep their own things there.
    #[must_use]
    pub fn of(file: &Path) -> Option<Self> {
        if file.file_name()?.as_encoded_bytes().starts_with(b".") {
            return None;
        }
        match file.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// One object, or what kept it from being one, with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Where it stands.
    pub origin: Origin,
    /// The object.
    pub object: Result<Object, Box<ObjectFault>>,
}

/// A document before it is parsed.
struct Piece<'a> {
    text: &'a str,
    /// Number of the document, from 1.
    document: usize,
    /// Line of its first byte, from 1.
    line: u64,
}

/// Reads every object of a file. Never fails as a whole: what is wrong stands in its place in the answer.
#[must_use]
pub fn read(file: &Path, syntax: Syntax, bytes: &[u8]) -> Vec<Found> {
    let whole = |reason| {
        let origin = Origin::File {
            file: file.to_owned(),
        };
        vec![Found {
            origin,
            object: Err(nameless(reason)),
        }]
    };
    if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_MAX_BYTES) {
        return whole(Fault::TooLarge {
            limit: FILE_MAX_BYTES,
        });
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            return whole(Fault::NotUtf8 {
                offset: error.valid_up_to(),
            });
        }
    };
    let mut reader = Reader {
        file: file.to_owned(),
        syntax,
        found: Vec::new(),
    };
    match syntax {
        Syntax::Yaml => reader.read_yaml(text),
        Syntax::Json => reader.read_json(text),
    }
    if reader.found.len() > FILE_MAX_OBJECTS {
        reader.found.truncate(FILE_MAX_OBJECTS);
        reader.found.extend(whole(Fault::TooManyObjects {
            limit: FILE_MAX_OBJECTS,
        }));
    }
    reader.found
}

/// A fault of something whose name is not known.
fn nameless(reason: Fault) -> Box<ObjectFault> {
    Box::new(ObjectFault { object: None, reason })
}

/// The reading of one file.
struct Reader {
    file: PathBuf,
    syntax: Syntax,
    found: Vec<Found>,
}

impl Reader {
    /// Whether the bound on objects is passed, so that the rest need not be read.
    fn is_full(&self) -> bool {
        self.found.len() > FILE_MAX_OBJECTS
    }

    fn push(
        &mut self,
        piece: &Piece<'_>,
        item: Option<usize>,
        line: u64,
        object: Result<Object, Box<ObjectFault>>,
    ) {
        let origin = Origin::Document {
            file: self.file.clone(),
            document: piece.document,
            item,
            line,
        };
        self.found.push(Found { origin, object });
    }

    fn refuse(&mut self, piece: &Piece<'_>, line: u64, reason: Fault) {
        self.push(piece, None, line, Err(nameless(reason)));
    }

    fn read_yaml(&mut self, text: &str) {
        let mut document = 0;
        for (text, line) in split_documents(text) {
            if self.is_full() {
                return;
            }
            if is_blank(text) {
                continue;
            }
            document += 1;
            let piece = Piece { text, document, line };
            match parse_yaml::<Value>(text) {
                Ok(Value::Null) => document -= 1,
                Ok(tree) => self.read_tree(&piece, tree),
                Err((reason, line_in_piece)) => {
                    let line = piece.line + line_in_piece.unwrap_or(1).saturating_sub(1);
                    self.refuse(&piece, line, Fault::Syntax(reason));
                }
            }
        }
    }

    fn read_json(&mut self, text: &str) {
        let values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
        let mut document = 0;
        for value in values {
            if self.is_full() {
                return;
            }
            document += 1;
            match value {
                Ok(raw) => {
                    let piece = Piece {
                        text: raw.get(),
                        document,
                        line: line_of(text, raw.get()),
                    };
                    match serde_json::from_str(raw.get()) {
                        Ok(Value::Null) => document -= 1,
                        Ok(tree) => self.read_tree(&piece, tree),
                        Err(error) => self.refuse(
                            &piece,
                            piece.line,
                            Fault::Syntax(without_position(&error.to_string())),
                        ),
                    }
                }
                Err(error) => {
                    let piece = Piece {
                        text: "",
                        document,
                        line: u64::try_from(error.line()).unwrap_or(1).max(1),
                    };
                    self.refuse(
                        &piece,
                        piece.line,
                        Fault::Syntax(without_position(&error.to_string())),
                    );
                    return;
                }
            }
        }
    }

    fn read_tree(&mut self, piece: &Piece<'_>, tree: Value) {
        let items = match Tree::new(tree) {
            Ok(Tree::One(tree)) => {
                let line = piece.line + first_content_line(piece.text);
                return self.push(piece, None, line, Object::from_tree(tree));
            }
            Ok(Tree::List(items)) => items,
            Err(reason) => return self.refuse(piece, piece.line, reason),
        };
        let mut lines = self.item_lines(piece).into_iter();
        for (index, tree) in items.into_iter().enumerate() {
            let line = lines.next().unwrap_or(piece.line);
            if self.is_full() {
                return;
            }
            let object = if is_list(&tree) {
                Err(nameless(Fault::NestedList))
            } else {
                Object::from_tree(tree)
            };
            self.push(piece, Some(index + 1), line, object);
        }
    }

    /// Lines of the file at which the items of a list begin; empty if that cannot be told.
    fn item_lines(&self, piece: &Piece<'_>) -> Vec<u64> {
        #[derive(Deserialize)]
        struct YamlItems {
            items: Vec<serde_saphyr::Spanned<IgnoredAny>>,
        }
        #[derive(Deserialize)]
        struct JsonItems<'a> {
            #[serde(borrow)]
            items: Vec<&'a RawValue>,
        }
        match self.syntax {
            Syntax::Yaml => parse_yaml::<YamlItems>(piece.text).map_or_else(
                |_| Vec::new(),
                |list| {
                    list.items
                        .iter()
                        .map(|item| piece.line + item.referenced.line().saturating_sub(1))
                        .collect()
                },
            ),
            Syntax::Json => serde_json::from_str::<JsonItems<'_>>(piece.text)
                .map_or_else(|_| Vec::new(), |list| lines_of(piece, &list.items)),
        }
    }
}

/// Lines at which slices of a piece begin, in one pass; the slices are in the order of the text.
fn lines_of(piece: &Piece<'_>, items: &[&RawValue]) -> Vec<u64> {
    let (mut line, mut rest) = (piece.line, piece.text);
    let mut lines = Vec::with_capacity(items.len());
    for item in items {
        let skipped = offset_in(rest, item.get()).unwrap_or(0);
        let (before, after) = rest.split_at_checked(skipped).unwrap_or(("", rest));
        line += count_lines(before);
        rest = after;
        lines.push(line);
    }
    lines
}

/// Line, from 1, at which `slice` begins in `text`, of which it is a part.
fn line_of(text: &str, slice: &str) -> u64 {
    let before = offset_in(text, slice)
        .and_then(|offset| text.get(..offset))
        .unwrap_or_default();
    1 + count_lines(before)
}

/// Offset of `slice` in `text`, of which it is a part.
fn offset_in(text: &str, slice: &str) -> Option<usize> {
    slice
        .as_ptr()
        .addr()
        .checked_sub(text.as_ptr().addr())
        .filter(|offset| *offset <= text.len())
}

fn count_lines(text: &str) -> u64 {
    text.bytes()
        .filter(|byte| *byte == b'\n')
        .fold(0, |lines, _| lines + 1)
}

/// Parses one YAML document; an error carries the parser's words on one line and the line in `text`, from 1.
fn parse_yaml<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, (String, Option<u64>)> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_events: YAML_MAX_EVENTS,
            max_nodes: YAML_MAX_EVENTS,
            max_depth: YAML_MAX_DEPTH,
            max_documents: 1,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error
            .location()
            .map(|location| location.line())
            .filter(|line| *line > 0);
        let words = error
            .without_snippet()
            .render_with_formatter(&serde_saphyr::UserMessageFormatter);
        (without_position(&words), line)
    })
}

/// A parser's words on one line and without their position, which is reported apart (as a line of the file).
fn without_position(words: &str) -> String {
    let words = words.split_once(" at line ").map_or(words, |(words, _)| words);
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a line is the marker `marker` (`---` or `...`): it stands at the line's beginning, alone or before
/// white space (YAML 1.2.2 section 9.1.2).
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Cuts a YAML stream into documents, each with the line of its beginning, from 1. A marker cannot stand
/// inside a scalar, so a look at each line's beginning is enough.
fn split_documents(text: &str) -> Vec<(&str, u64)> {
    let mut documents = Vec::new();
    let (mut begin, mut begin_line) = (0, 1);
    let (mut offset, mut line) = (0, 1);
    for text_line in text.split_inclusive('\n') {
        let end = offset + text_line.len();
        let is_end = is_marker(text_line, "...");
        if is_end || is_marker(text_line, "---") {
            documents.push((text.get(begin..offset).unwrap_or_default(), begin_line));
            (begin, begin_line) = if is_end { (end, line + 1) } else { (offset, line) };
        }
        offset = end;
        line += 1;
    }
    documents.push((text.get(begin..).unwrap_or_default(), begin_line));
    documents
}

/// Whether a line holds no content: blank, a comment, a directive, or a bare document marker.
fn is_blank_line(line: &str) -> bool {
    let bare = line
        .strip_prefix("---")
        .filter(|_| is_marker(line, "---"))
        .unwrap_or(line)
        .trim();
    bare.is_empty() || bare.starts_with('#') || line.starts_with('%')
}

/// Whether a document holds nothing.
fn is_blank(text: &str) -> bool {
    text.lines().all(is_blank_line)
}

/// How many lines of a document come before its first content.
fn first_content_line(text: &str) -> u64 {
    text.lines()
        .take_while(|line| is_blank_line(line))
        .fold(0, |lines, _| lines + 1)
}

#[cfg(test)]
mod tests;
