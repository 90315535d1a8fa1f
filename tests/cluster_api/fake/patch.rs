//! Patches: RFC 7386, and what Kubernetes adds for sequences whose items have a key.

use serde_json::Value;

/// Sequences that a strategic merge patch merges item by item, and their keys
/// (`patchMergeKey` in Kubernetes' types).
const MERGE_KEYS: [(&str, &str); 2] = [("conditions", "type"), ("addresses", "type")];

/// How a patch is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Merge,
    Strategic,
}

pub(super) fn apply(kind: Kind, target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let fields = target.as_object_mut().unwrap();
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
            continue;
        }
        let field = fields.entry(name).or_insert(Value::Null);
        let key = MERGE_KEYS.iter().find(|(sequence, _)| sequence == name);
        match (kind, key, field.as_array_mut(), change.as_array()) {
            (Kind::Strategic, Some((_, key)), Some(items), Some(changes)) => {
                for change in changes {
                    match items.iter_mut().find(|item| item.get(key) == change.get(key)) {
                        Some(item) => apply(kind, item, change),
                        None => items.push(change.clone()),
                    }
                }
            }
            _ => apply(kind, field, change),
        }
    }
}
