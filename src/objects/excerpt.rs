//! The beginnings of what manifests hold and parsers say, fit for a terminal.

/// Most characters of a value that is quoted.
const VALUE_MAX_CHARS: usize = 80;

/// Most characters of the words of a parser.
pub(super) const REASON_MAX_CHARS: usize = 240;

/// The beginning of a text, with control characters spelled out: what a manifest holds may be long, and may be
/// meant for the terminal of whoever reads about it.
pub(super) fn excerpt(text: &str, max_chars: usize) -> String {
    let mut short: String = text
        .chars()
        .take(max_chars)
        .flat_map(|c| {
            if c.is_control() {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect();
    if text.chars().nth(max_chars).is_some() {
        short.push_str("...");
    }
    short
}

/// The beginning of a quoted value.
pub(super) fn value_excerpt(text: &str) -> String {
    excerpt(text, VALUE_MAX_CHARS)
}
