//! The rules that one file at a time is held to. Each answers what it finds wrong, with the line.

use super::source::{self, Line, block_end, chars_from, find_outside_brackets, find_word, line_of};

/// Most lines of a function outside tests, from its signature to its closing brace.
pub(crate) const FUNCTION_MAX_LINES: usize = 70;
/// Most lines of a file before its tests begin.
pub(crate) const FILE_MAX_LINES_BEFORE_TESTS: usize = 400;
/// Most lines of a file, tests included.
pub(crate) const FILE_MAX_LINES: usize = 700;

/// The only files, and folders with a slash behind, in which the keyword may stand that lifts the compiler's guard.
pub(crate) const UNSAFE_HOMES: [&str; 14] = [
    "dataplane/src/frame.rs",
    "dataplane/src/frame/",
    "dataplane/src/port/xsk.rs",
    "dataplane/src/port/xsk/",
    "dataplane/src/port/own.rs",
    "dataplane/src/port/nic.rs",
    "dataplane/src/port/ring.rs",
    "dataplane/src/port/ring_tests.rs",
    "dataplane/src/port/tun.rs",
    "dataplane/src/port/umem.rs",
    "dataplane/src/xdp/",
    "dataplane/src/table/publish.rs",
    "dataplane/src/table/flow/store/memory.rs",
    "dataplane/src/clock.rs",
];

/// Names of files and folders under which anything at all could hide.
const CATCH_ALL_NAMES: [&str; 8] = [
    "util", "utils", "common", "helper", "helpers", "misc", "shared", "stuff",
];
/// Macros that stand for work left undone.
const UNDONE: [&str; 3] = ["todo", "unimplemented", "dbg"];
/// Paths in a pattern that tell that a `match` is about where a packet goes.
const EXIT_PATTERNS: [&str; 6] = [
    "Verdict::",
    "Exit::",
    "Self::Forward(",
    "Self::Drop(",
    "Self::Punt(",
    "Self::Replicate(",
];

/// What the code of a folder, its tests left out, does not touch: words that stand for it.
const ROOMS: [(&str, &[&str]); 3] = [
    // Bytes only: no table, clock, allocation or log.
    (
        "dataplane/src/wire/",
        &[
            "crate",
            "Vec",
            "vec",
            "Box",
            "String",
            "format",
            "println",
            "Instant",
            "SystemTime",
            "tracing",
        ],
    ),
    // Keys and values: no frame, no socket; time is an argument.
    (
        "dataplane/src/table/",
        &[
            "Frame",
            "Pool",
            "OwnedFd",
            "BorrowedFd",
            "Instant",
            "SystemTime",
            "println",
            "tracing",
        ],
    ),
    // No system calls, locks, channels, formatting or allocation.
    (
        "pipelines/src/",
        &[
            "Arc",
            "BTreeMap",
            "Box",
            "HashMap",
            "Instant",
            "Mutex",
            "Rc",
            "RwLock",
            "String",
            "SystemTime",
            "channel",
            "collect",
            "format",
            "libc",
            "println",
            "rustix",
            "thread",
            "to_owned",
            "to_string",
            "to_vec",
            "tracing",
            "vec",
            "with_capacity",
        ],
    ),
];

/// What a rule finds wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The file, from the root of the repository.
    pub(crate) path: String,
    /// The line, from 1.
    pub(crate) line: usize,
    /// What is wrong, and where it helps, what would be right.
    pub(crate) what: String,
}

/// A Rust file, read.
pub(crate) struct File {
    path: String,
    lines: Vec<Line>,
    code: String,
}

impl File {
    /// Reads `text`, the contents of the file `path`.
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut lines = source::lines(text);
        // The end of the last line begins no other.
        if lines.last().is_some_and(|line| *line == Line::default()) {
            lines.pop();
        }
        let code: Vec<_> = lines.iter().map(|line| line.code.as_str()).collect();
        Self {
            path: path.to_owned(),
            code: code.join("\n"),
            lines,
        }
    }

    fn fault(&self, line: usize, what: impl Into<String>) -> Fault {
        Fault {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    /// Whether the file is a module of tests, which another file declares.
    fn is_test_module(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        self.path.contains("/tests/") || name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// The number of the line on which the file's tests begin; one past the end if it has none.
    fn tests_begin(&self) -> usize {
        if self.is_test_module() || self.path.starts_with("tests/") {
            return 1;
        }
        let begins = |at: usize| {
            let rest = self.code.get(at..).unwrap_or_default();
            let attribute = rest.lines().next().unwrap_or_default();
            // Other attributes may stand between, then a module with a body here.
            let item = rest
                .lines()
                .map(str::trim)
                .find(|line| !line.is_empty() && !line.starts_with("#["));
            !find_word(attribute, "test").is_empty()
                && item.is_some_and(|item| item.starts_with("mod ") && item.ends_with('{'))
        };
        let found = self
            .code
            .match_indices("#[cfg(")
            .map(|(at, _)| at)
            .find(|&at| begins(at));
        found.map_or(self.lines.len() + 1, |at| line_of(&self.code, at))
    }

    /// Functions outside tests, and the file itself, are of a length that can be read.
    pub(crate) fn check_lengths(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let tests_begin = self.tests_begin();
        for (name, first, last) in self.functions() {
            let length = last - first + 1;
            if first < tests_begin && length > FUNCTION_MAX_LINES {
                let what = format!("`{name}` has {length} lines; {FUNCTION_MAX_LINES} is the most");
                faults.push(self.fault(first, what));
            }
        }
        let before = tests_begin - 1;
        if before > FILE_MAX_LINES_BEFORE_TESTS {
            let what = format!("{before} lines before the tests; {FILE_MAX_LINES_BEFORE_TESTS} is the most");
            faults.push(self.fault(1, what));
        }
        if self.lines.len() > FILE_MAX_LINES {
            let what = format!("{} lines; {FILE_MAX_LINES} is the most", self.lines.len());
            faults.push(self.fault(1, what));
        }
        faults
    }

    /// Name, first and last line of every function with a body.
    fn functions(&self) -> Vec<(String, usize, usize)> {
        let mut functions = Vec::new();
        for at in find_word(&self.code, "fn") {
            let rest = self.code.get(at + 2..).unwrap_or_default().trim_start();
            let name: String = rest
                .chars()
                .take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '#'))
                .collect();
            let body = find_outside_brackets(&self.code, at, &['{', ';']);
            let Some((open, '{')) = body.filter(|_| !name.is_empty()) else {
                continue; // a type, or a declaration
            };
            if let Some(end) = block_end(&self.code, open) {
                functions.push((name, line_of(&self.code, at), line_of(&self.code, end)));
            }
        }
        functions
    }

    /// `unsafe` stands in its homes only, and every block and `impl` says why it is sound.
    pub(crate) fn check_unsafe(&self) -> Vec<Fault> {
        let uses = find_word(&self.code, "unsafe");
        let lives_in = |home: &str| self.path == home || home.ends_with('/') && self.path.starts_with(home);
        if !UNSAFE_HOMES.iter().any(|home| lives_in(home)) {
            let stray = |at: &usize| self.fault(line_of(&self.code, *at), "`unsafe` away from its homes");
            return uses.iter().map(stray).collect();
        }
        let mut faults = Vec::new();
        for at in uses {
            let next = self
                .code
                .get(at + "unsafe".len()..)
                .unwrap_or_default()
                .trim_start();
            // A declaration only passes the duty on; its `# Safety` section is clippy's business.
            if ["fn", "trait", "extern"]
                .iter()
                .any(|word| find_word(next, word).first() == Some(&0))
            {
                continue;
            }
            let line = line_of(&self.code, at);
            if !self.is_called_safe(line) {
                faults.push(self.fault(line, "`unsafe` without a `SAFETY:` comment right above"));
            }
        }
        faults
    }

    /// Whether a `SAFETY:` comment stands on the line, or above the statement that it belongs to.
    fn is_called_safe(&self, line: usize) -> bool {
        let says_so = |line: &Line| line.comment.contains("SAFETY:");
        let Some((own, above)) = self.lines.get(..line).and_then(|lines| lines.split_last()) else {
            return false;
        };
        if says_so(own) {
            return true;
        }
        for line in above.iter().rev() {
            let code = line.code.trim();
            if says_so(line) {
                return true;
            }
            let blank = code.is_empty() && line.comment.trim().is_empty();
            let ends_statement = code.ends_with([';', '{', '}', ',']);
            if blank || ends_statement && !code.starts_with("#[") {
                return false;
            }
        }
        false
    }

    /// The file says at its top what it is; a module of tests is about what the module around it is about.
    pub(crate) fn check_head(&self) -> Vec<Fault> {
        match self.lines.first() {
            _ if self.is_test_module() => Vec::new(),
            Some(line) if line.comment.starts_with("//!") => Vec::new(),
            _ => vec![self.fault(1, "does not begin with a `//!` line that says what it is")],
        }
    }

    /// The code touches nothing that its room is to keep off.
    pub(crate) fn check_room(&self) -> Vec<Fault> {
        let Some((room, words)) = ROOMS.iter().find(|(room, _)| self.path.starts_with(room)) else {
            return Vec::new();
        };
        let tests_begin = self.tests_begin();
        let places = words.iter().flat_map(|word| {
            let lines = find_word(&self.code, word)
                .into_iter()
                .map(|at| line_of(&self.code, at));
            lines.map(move |line| (line, word))
        });
        let untested = places.filter(|(line, _)| *line < tests_begin);
        untested
            .map(|(line, word)| self.fault(line, format!("`{word}` has no place in {room}")))
            .collect()
    }

    /// Nothing is left undone.
    pub(crate) fn check_undone(&self) -> Vec<Fault> {
        let calls = |name: &'static str| {
            let is_call = move |at: &usize| {
                let rest = self.code.get(at + name.len()..).unwrap_or_default();
                rest.trim_start().starts_with('!')
            };
            let places = find_word(&self.code, name).into_iter().filter(is_call);
            places.map(move |at| self.fault(line_of(&self.code, at), format!("`{name}!`")))
        };
        UNDONE.into_iter().flat_map(calls).collect()
    }

    /// The file is not named after the absence of a name.
    pub(crate) fn check_name(&self) -> Vec<Fault> {
        let parts = self.path.split('/').map(|part| part.trim_end_matches(".rs"));
        let bad = parts.filter(|part| CATCH_ALL_NAMES.contains(part));
        bad.map(|part| self.fault(1, format!("`{part}` is no place; name what is in it")))
            .collect()
    }

    /// A `match` on where a packet goes lists every exit.
    pub(crate) fn check_exits(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for at in find_word(&self.code, "match") {
            let Some((open, '{')) = find_outside_brackets(&self.code, at, &['{', ';']) else {
                continue;
            };
            let patterns = self.patterns(open);
            let about_exits = |pattern: &str| EXIT_PATTERNS.iter().any(|path| names_path(pattern, path));
            if !patterns.iter().any(|(_, pattern)| about_exits(pattern)) {
                continue;
            }
            for (line, pattern) in patterns {
                if catches_all(&pattern) {
                    let what = format!("`{pattern} =>` in a match on exits; list them");
                    faults.push(self.fault(line, what));
                }
            }
        }
        faults
    }

    /// Line and pattern of each arm of the `match` whose brace stands at the byte `open`.
    fn patterns(&self, open: usize) -> Vec<(usize, String)> {
        let mut patterns = Vec::new();
        let mut at = open + 1;
        let end = block_end(&self.code, open).unwrap_or(self.code.len());
        while at < end {
            let Some(arrow) = find_arrow(&self.code, at, end) else {
                break;
            };
            let text = self.code.get(at..arrow).unwrap_or_default();
            let pattern = text.trim_matches(|c: char| c.is_whitespace() || c == ',');
            let words: Vec<_> = pattern.split_whitespace().collect();
            patterns.push((line_of(&self.code, arrow), words.join(" ")));
            at = arm_end(&self.code, arrow + 2, end);
        }
        patterns
    }
}

/// Whether `pattern` names `path`, and not another whose name only ends alike.
fn names_path(pattern: &str, path: &str) -> bool {
    let mut places = pattern.match_indices(path).map(|(at, _)| at);
    places.any(|at| {
        let before = pattern.get(..at).and_then(|text| text.chars().next_back());
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Whether `pattern` takes whatever comes: `_` or a name, perhaps with a condition.
fn catches_all(pattern: &str) -> bool {
    let bare = pattern.split(" if ").next().unwrap_or_default().trim();
    let first = bare.chars().next().unwrap_or('A');
    (first == '_' || first.is_lowercase())
        && bare.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !["true", "false"].contains(&bare)
}

/// Where the arrow of the arm stands whose pattern begins at the byte `from`.
fn find_arrow(code: &str, from: usize, end: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in chars_from(code, from) {
        match c {
            _ if at >= end => return None,
            '=' if depth == 0 && code.get(at..at + 2) == Some("=>") => return Some(at),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// Where the body of an arm ends that begins at the byte `from`.
fn arm_end(code: &str, from: usize, end: usize) -> usize {
    let body = code.get(from..end).unwrap_or_default();
    let begin = from + (body.len() - body.trim_start().len());
    if code.get(begin..).is_some_and(|rest| rest.starts_with('{')) {
        return block_end(code, begin).map_or(end, |close| close + 1);
    }
    let mut depth = 0_usize;
    for (at, c) in chars_from(code, begin) {
        match c {
            _ if at >= end => break,
            ',' if depth == 0 => return at + 1,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    end
}
