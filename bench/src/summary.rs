//! The file that all figures are written to: one JSON object, one key per case.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// Puts `figures` into the file at `path`: keys of theirs that were there are replaced, all others stay. The file is
/// written whole or not at all.
///
/// # Errors
/// When the file cannot be read or written, or holds something else than a JSON object.
pub(crate) fn merge(path: &Path, figures: Map<String, Value>) -> anyhow::Result<()> {
    let mut all = read(path)?;
    all.extend(figures);
    let shown = path.display();
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make the folder of {shown}"))?;
    }
    let draft = path.with_extension("json.draft");
    let text = serde_json::to_string_pretty(&Value::Object(all))? + "\n";
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("cannot write {shown}"))
}

/// What is in the file; nothing if there is none.
///
/// # Errors
/// When the file cannot be read, or holds something else than a JSON object.
pub(crate) fn read(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok(map),
        _ => bail!(
            "{} holds no JSON object: remove it, or name another file with --output",
            path.display()
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn figures_of_other_runs_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/summary.json");
        merge(&path, object(json!({"a": 1, "b": 2}))).unwrap();
        merge(&path, object(json!({"b": 3, "c": 4}))).unwrap();
        assert_eq!(read(&path).unwrap(), object(json!({"a": 1, "b": 3, "c": 4})));
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no draft is left"
        );
    }

    #[test]
    fn what_is_no_summary_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("summary.json");
        for text in ["[1]", "not json"] {
            fs::write(&path, text).unwrap();
            assert!(merge(&path, Map::new()).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
