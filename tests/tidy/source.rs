//! Rust source as the checks read it: code and comments apart, line by line.

/// One line of a source file; what is blanked out keeps its width.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// The code, with comments and the contents of literals blanked out.
    pub(crate) code: String,
    /// The comments, markers included, with everything else blanked out.
    pub(crate) comment: String,
}

/// What the reader is inside of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Code,
    LineComment,
    /// How many block comments deep; they nest.
    BlockComment(usize),
    /// A string that a backslash escapes in.
    Text,
    /// A raw string with so many hashes.
    RawText(usize),
}

/// Takes `text` apart. It need not be a whole file, nor one that compiles.
pub(crate) fn lines(text: &str) -> Vec<Line> {
    let mut reader = Reader {
        chars: text.chars().collect(),
        at: 0,
        inside: Inside::Code,
        lines: vec![Line::default()],
    };
    while reader.at < reader.chars.len() {
        reader.step();
    }
    reader.lines
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    inside: Inside,
    lines: Vec<Line>,
}

impl Reader {
    /// Reads one token, as far as these checks know tokens.
    fn step(&mut self) {
        match self.inside {
            Inside::Code => self.step_code(),
            Inside::LineComment if self.peek(0) == Some('\n') => {
                self.inside = Inside::Code;
                self.take(1);
            }
            Inside::LineComment => self.take(1),
            Inside::BlockComment(depth) => self.step_block_comment(depth),
            Inside::Text if self.peek(0) == Some('\\') => self.take(2),
            Inside::Text if self.peek(0) == Some('"') => self.end(1),
            Inside::RawText(hashes) if self.peek(0) == Some('"') && self.hashes(1) >= hashes => {
                self.end(1 + hashes);
            }
            Inside::Text | Inside::RawText(_) => self.take(1),
        }
    }

    fn step_code(&mut self) {
        match (self.peek(0), self.peek(1)) {
            (Some('/'), Some('/')) => self.begin(Inside::LineComment, 2),
            (Some('/'), Some('*')) => self.begin(Inside::BlockComment(1), 2),
            (Some('"'), _) => self.begin(Inside::Text, 1),
            (Some('r'), Some('"' | '#')) if self.raw_may_begin() => {
                let hashes = self.hashes(1);
                if self.peek(1 + hashes) == Some('"') {
                    self.begin(Inside::RawText(hashes), 2 + hashes);
                } else {
                    self.take(1); // a raw identifier
                }
            }
            (Some('\''), _) => self.step_quote(),
            _ => self.take(1),
        }
    }

    /// A character literal, whose contents are blanked out, or the tick of a lifetime.
    fn step_quote(&mut self) {
        let width = match (self.peek(1), self.peek(2)) {
            (Some('\\'), _) => (3..12).find(|&ahead| self.peek(ahead) == Some('\'')),
            (Some(_), Some('\'')) => Some(2),
            _ => None,
        };
        match width {
            Some(width) => {
                self.inside = Inside::Text;
                self.take(width);
                self.end(1);
            }
            None => self.take(1),
        }
    }

    fn step_block_comment(&mut self, depth: usize) {
        match (self.peek(0), self.peek(1)) {
            (Some('/'), Some('*')) => {
                self.inside = Inside::BlockComment(depth + 1);
                self.take(2);
            }
            (Some('*'), Some('/')) => {
                self.take(2);
                self.inside = match depth {
                    0 | 1 => Inside::Code,
                    deeper => Inside::BlockComment(deeper - 1),
                };
            }
            _ => self.take(1),
        }
    }

    fn begin(&mut self, inside: Inside, marker: usize) {
        self.inside = inside;
        self.take(marker);
    }

    fn end(&mut self, marker: usize) {
        self.take(marker);
        self.inside = Inside::Code;
    }

    /// Whether an `r` here is not the end of a name; the prefixes `br` and `cr` are.
    fn raw_may_begin(&self) -> bool {
        let before = |back: usize| {
            self.at
                .checked_sub(back)
                .and_then(|at| self.chars.get(at).copied())
        };
        let free = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        free(before(1)) || matches!(before(1), Some('b' | 'c')) && free(before(2))
    }

    fn hashes(&self, ahead: usize) -> usize {
        let rest = self.chars.get(self.at + ahead..).unwrap_or_default();
        rest.iter().take_while(|&&c| c == '#').count()
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    /// Moves `count` characters to the line, each to the side that it belongs to.
    fn take(&mut self, count: usize) {
        for _ in 0..count {
            let Some(c) = self.peek(0) else { return };
            self.at += 1;
            if c == '\n' {
                self.lines.push(Line::default());
                continue;
            }
            let (code, comment) = match self.inside {
                Inside::Code => (c, ' '),
                Inside::LineComment | Inside::BlockComment(_) => (' ', c),
                Inside::Text | Inside::RawText(_) => (' ', ' '),
            };
            if let Some(line) = self.lines.last_mut() {
                line.code.push(code);
                line.comment.push(comment);
            }
        }
    }
}

/// Where `word` stands in `code` as a whole word, in bytes.
pub(crate) fn find_word(code: &str, word: &str) -> Vec<usize> {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    let stands_alone = |at: usize| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(part_of_name) && !after.is_some_and(part_of_name)
    };
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(|&at| stands_alone(at))
        .collect()
}

/// The number of the line, from 1, on which the byte `at` of `code` stands.
pub(crate) fn line_of(code: &str, at: usize) -> usize {
    1 + code.bytes().take(at).filter(|&byte| byte == b'\n').count()
}

/// The characters of `code` from byte `from` on, each with where it stands in the whole.
pub(crate) fn chars_from(code: &str, from: usize) -> impl Iterator<Item = (usize, char)> {
    let rest = code.get(from..).unwrap_or_default();
    rest.char_indices().map(move |(at, c)| (from + at, c))
}

/// Where the block ends that the brace at byte `open` of `code` begins, in bytes; `None` if it does not.
pub(crate) fn block_end(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in chars_from(code, open) {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return Some(at),
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// The first of `wanted` in `code` from byte `from` on that stands in no parentheses or brackets.
pub(crate) fn find_outside_brackets(code: &str, from: usize, wanted: &[char]) -> Option<(usize, char)> {
    let mut depth = 0_usize;
    for (at, c) in chars_from(code, from) {
        match c {
            _ if depth == 0 && wanted.contains(&c) => return Some((at, c)),
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

#[test]
fn code_and_comments_come_apart() {
    let rows: [(&str, &str, &str); 11] = [
        ("a // b", "a", "// b"),
        ("a /* b /* c */ d */ e", "a e", "/* b /* c */ d */"),
        (r#"f("// no") // yes"#, "f( )", "// yes"),
        (r#"f("\"unsafe") g"#, "f( ) g", ""),
        (r##"f(r#"a " b"#) g"##, "f( ) g", ""),
        (r#"f(br"\") g"#, "f(b ) g", ""),
        ("'\"' a '\\'' b '\\u{41}' c", "a b c", ""),
        ("fn f<'a>(x: &'a u8) {}", "fn f<'a>(x: &'a u8) {}", ""),
        ("let r#type = bar\"x\";", "let r#type = bar ;", ""),
        ("/// doc's \"quote\nb", "b", "/// doc's \"quote"),
        ("'label: loop { }", "'label: loop { }", ""),
    ];
    for (text, code, comment) in rows {
        let squeeze = |side: fn(&Line) -> &str| {
            let words: Vec<_> = lines(text)
                .iter()
                .flat_map(|line| {
                    side(line)
                        .split_whitespace()
                        .map(str::to_owned)
                        .collect::<Vec<_>>()
                })
                .collect();
            words.join(" ")
        };
        assert_eq!(squeeze(|line| &line.code), code, "{text}");
        assert_eq!(squeeze(|line| &line.comment), comment, "{text}");
    }
}

#[test]
fn a_literal_over_several_lines_keeps_the_count_of_lines() {
    let text = "let a = \"one\ntwo\nthree\";\nlet b;";
    let code: Vec<_> = lines(text).into_iter().map(|line| line.code).collect();
    assert_eq!(code.len(), 4);
    assert_eq!(code.last().map(String::as_str), Some("let b;"));
}
