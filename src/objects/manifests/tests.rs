use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::objects::store::Entry;

/// What a file comes to, a line for each object: `LINE DOCUMENT[.ITEM] ID` or `LINE DOCUMENT[.ITEM] ID:
/// REASON`.
fn summary(name: &str, text: &str) -> Vec<String> {
    let path = Path::new(name);
    let found = read(path, Syntax::of(path).unwrap(), text.as_bytes());
    found
        .iter()
        .map(|found| {
            let place = match &found.origin {
                Origin::Document {
                    document,
                    item: None,
                    line,
                    ..
                } => format!("{line} {document}"),
                Origin::Document {
                    document,
                    item: Some(item),
                    line,
                    ..
                } => format!("{line} {document}.{item}"),
                Origin::File { .. } => "file".to_owned(),
                Origin::Folder { .. } | Origin::Api => panic!("only files are read here"),
            };
            match &found.object {
                Ok(object) => format!("{place} {}", object.id().unwrap()),
                Err(fault) => match &fault.object {
                    Some(id) => format!("{place} {id}: {}", fault.reason),
                    None => format!("{place}: {}", fault.reason),
                },
            }
        })
        .collect()
}

/// What it is, the text, and its summary.
const YAML_FILES: &[(&str, &str, &[&str])] = &[
    ("nothing", "", &[]),
    ("only comments and markers", "# a\n---\n# b\n---\n\n...\n", &[]),
    (
        "null documents do not count",
        "~\n---\nnull\n---\nkind: x\n",
        &["5 1: it is no Kubernetes object: apiVersion is missing or no text"],
    ),
    (
        "one object",
        "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n",
        &["1 1 Node a"],
    ),
    (
        "byte order mark",
        "\u{feff}apiVersion: v1\nkind: Node\nmetadata: {name: a}\n",
        &["1 1 Node a"],
    ),
    (
        "carriage returns",
        "apiVersion: v1\r\nkind: Node\r\nmetadata:\r\n  name: a\r\n---\r\n{}\r\n",
        &[
            "1 1 Node a",
            "6 2: it is no Kubernetes object: apiVersion is missing or no text",
        ],
    ),
    (
        "default namespace",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
        &["1 1 Pod default/a"],
    ),
    (
        "several, with comments, a directive and an end marker",
        "# head\n%YAML 1.2\n---\n# first\napiVersion: v1\nkind: Node\nmetadata: {name: a}\n...\n\n--- # second\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: c}\n",
        &["5 1 Node a", "11 2 Pod c/b"],
    ),
    (
        "content beside the marker",
        "--- {apiVersion: v1, kind: Node, metadata: {name: a}}\n--- x\n",
        &[
            "1 1 Node a",
            "2 2: it is no Kubernetes object: it is not a mapping",
        ],
    ),
    (
        "an end marker alone divides too",
        "- a\n...\n- b\n",
        &[
            "1 1: it is no Kubernetes object: it is not a mapping",
            "3 2: it is no Kubernetes object: it is not a mapping",
        ],
    ),
    (
        "no marker: dashes in the middle of text",
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n  annotations:\n    x: |\n      a\n      ---\n      b\n    ---y: z\n",
        &["1 1 Node a"],
    ),
    (
        "a broken document takes no neighbour along",
        "apiVersion: v1\nkind: Node\nmetadata: {name: a}\n---\nkind: [\n---\napiVersion: v1\nkind: Node\nmetadata: {name: c}\n",
        &[
            "1 1 Node a",
            "5 2: it cannot be parsed: unclosed bracket '['",
            "7 3 Node c",
        ],
    ),
    (
        "tab",
        "apiVersion: v1\nkind: Node\nmetadata:\n\tname: a\n",
        &["4 1: it cannot be parsed: tabs disallowed within this context (block indentation)"],
    ),
    (
        "key twice",
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: a\n  name: b\n",
        &["5 1: it cannot be parsed: duplicate mapping key `name` is not allowed here"],
    ),
    (
        "text where text must be quoted",
        "apiVersion: v1\nkind: Node\nmetadata: {name: a, annotations: {x: true}}\n",
        &["1 1 Node a: metadata.annotations.x: invalid type: boolean `true`, expected a string"],
    ),
    (
        "wrong type deep inside",
        "apiVersion: v1\nkind: Node\nmetadata: {name: a}\nspec: {podCIDRs: [x, 1]}\n",
        &["1 1 Node a: spec.podCIDRs[1]: invalid type: integer `1`, expected a string"],
    ),
    (
        "bad time",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, creationTimestamp: soon}\n",
        &["1 1 Pod default/a: metadata.creationTimestamp: failed to parse four digit integer"],
    ),
    (
        "null time, as generators write it",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, creationTimestamp: null}\n",
        &["1 1 Pod default/a"],
    ),
    (
        "not used yet",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: b}\n",
        &["1 1 ConfigMap b/a: v1 ConfigMap is not used by this version"],
    ),
    (
        "another version of a known kind",
        "apiVersion: v2\nkind: Node\nmetadata: {name: a}\n",
        &["1 1 Node a: v2 Node is not used by this version"],
    ),
    (
        "list",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Node\n  metadata: {name: a}\n\n# b\n\
         - apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n- {kind: Pod}\n- {apiVersion: v1, kind: List, items: []}\n",
        &[
            "4 1.1 Node a",
            "9 1.2 Pod default/b",
            "12 1.3: it is no Kubernetes object: apiVersion is missing or no text",
            "13 1.4: a list within a list is not read",
        ],
    ),
    (
        "typed list, whose items have no kind",
        "apiVersion: v1\nkind: NodeList\nitems:\n- metadata: {name: a}\n- 1\n",
        &[
            "4 1.1 Node a",
            "5 1.2: it is no Kubernetes object: it is not a mapping",
        ],
    ),
    (
        "empty lists",
        "apiVersion: v1\nkind: List\n---\napiVersion: v1\nkind: List\nitems:\n",
        &[],
    ),
    (
        "list of something else",
        "apiVersion: v1\nkind: List\nitems: 3\n",
        &["1 1: items: it must be a sequence"],
    ),
    (
        "a kind that ends like a list",
        "apiVersion: x/v1\nkind: AllowList\nmetadata: {name: a}\n",
        &["1 1 AllowList a: x/v1 AllowList is not used by this version"],
    ),
    (
        "anchor",
        "apiVersion: v1\nkind: &k Node\nmetadata: {name: a, labels: {x: *k}}\n",
        &["1 1 Node a"],
    ),
    (
        "anchor that is not there",
        "apiVersion: *v\n",
        &["1 1: it cannot be parsed: reference to unknown value"],
    ),
];

#[test]
fn yaml_files() {
    for (what, text, expected) in YAML_FILES {
        let found = summary("x.yaml", text);
        assert_eq!(found.len(), expected.len(), "{what}: {found:?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(
                found.starts_with(expected),
                "{what}:\n found    {found}\n expected {expected}"
            );
            assert_eq!(found.lines().count(), 1, "{what}: one line");
        }
    }
}

#[test]
fn json_files() {
    let rows: &[(&str, &str, &[&str])] = &[
        ("nothing", " \n", &[]),
        (
            "one",
            "\n{\"apiVersion\":\"v1\",\"kind\":\"Node\",\n\"metadata\":{\"name\":\"a\"}}",
            &["2 1 Node a"],
        ),
        (
            "several in a row, then a broken one",
            "{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"a\"}}\nnull\n\n[1]\n{,}\n{}",
            &[
                "1 1 Node a",
                "4 2: it is no Kubernetes object: it is not a mapping",
                "5 3: it cannot be parsed: key must be a string",
            ],
        ),
        (
            "list",
            "{\"apiVersion\":\"v1\",\"kind\":\"List\",\n \"items\":[{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"metadata\":{\"name\":\"a\"}},\n\n  7]}",
            &[
                "2 1.1 Node a",
                "4 1.2: it is no Kubernetes object: it is not a mapping",
            ],
        ),
        (
            "yaml is not json",
            "apiVersion: v1",
            &["1 1: it cannot be parsed: expected value"],
        ),
    ];
    for (what, text, expected) in rows {
        let found = summary("x.json", text);
        assert_eq!(found.len(), expected.len(), "{what}: {found:?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(
                found.starts_with(expected),
                "{what}:\n found    {found}\n expected {expected}"
            );
        }
    }
}

#[test]
fn names_of_manifests() {
    let rows = [
        ("a.yaml", Some(Syntax::Yaml)),
        ("a.yml", Some(Syntax::Yaml)),
        ("a.b.json", Some(Syntax::Json)),
        (".a.yaml", None),
        ("..data", None),
        (".#a.yaml", None),
        ("a.yaml~", None),
        ("a.yaml.swp", None),
        ("yaml", None),
        ("a.YAML", None),
    ];
    for (name, syntax) in rows {
        assert_eq!(
            Syntax::of(Path::new("dir").join(name).as_path()),
            syntax,
            "{name}"
        );
    }
}

#[test]
fn bounds_hold() {
    assert_eq!(summary_of_bytes(b"a: \xff"), ["it is not UTF-8 text (byte 3)"]);
    let large = vec![b' '; usize::try_from(FILE_MAX_BYTES).unwrap() + 1];
    assert_eq!(
        summary_of_bytes(&large),
        ["it is larger than 33554432 bytes; split it"]
    );
    let many = "---\nx\n".repeat(FILE_MAX_OBJECTS + 10);
    let found = read(Path::new("x.yaml"), Syntax::Yaml, many.as_bytes());
    assert_eq!(found.len(), FILE_MAX_OBJECTS + 1);
    let reason = &found.last().unwrap().object.as_ref().unwrap_err().reason;
    assert_eq!(
        *reason,
        Fault::TooManyObjects {
            limit: FILE_MAX_OBJECTS
        }
    );
}

fn summary_of_bytes(bytes: &[u8]) -> Vec<String> {
    let found = read(Path::new("x.yaml"), Syntax::Yaml, bytes);
    found
        .into_iter()
        .map(|found| found.object.unwrap_err().reason.to_string())
        .collect()
}

/// Nesting, and aliases that multiply, are cut off before they take the stack or the memory. On the stack
/// that a thread usually has.
#[test]
fn deep_and_multiplying_documents_are_refused() {
    let block_maps: String = (0..5_000)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for level in 1..10 {
        let before = format!("*a{},", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    let deep = [
        "- ".repeat(50_000),
        "[".repeat(50_000),
        "{a: ".repeat(50_000),
        "? ".repeat(5_000),
        block_maps,
        bomb,
    ];
    for text in &deep {
        let head: String = text.chars().take(20).collect();
        for (name, syntax) in [("x.yaml", Syntax::Yaml), ("x.json", Syntax::Json)] {
            let found = read(Path::new(name), syntax, text.as_bytes());
            assert_eq!(found.len(), 1, "{head}");
            let fault = found.into_iter().next().unwrap().object.unwrap_err();
            assert!(
                matches!(fault.reason, Fault::Syntax(_)),
                "{head}: {}",
                fault.reason
            );
        }
    }
    // What is within the bound is read.
    let nested = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: a}}\nx: {}1{}\n",
        "[".repeat(60),
        "]".repeat(60)
    );
    assert_eq!(summary("x.yaml", &nested), ["1 1 Node a"]);
}

/// A manifest with all that is read, to be damaged.
const GOOD: &str = "\
apiVersion: v1
kind: Node
metadata:
  name: node-a
  creationTimestamp: 2026-01-02T03:04:05Z
  annotations:
    flannel.alpha.coreos.com/kube-subnet-manager: \"true\"
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/public-ip: 192.0.2.1
    flannel.alpha.coreos.com/backend-data: '{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:01:01\"}'
spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:10:244:1::/64']}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: web, namespace: shop}
  spec: {nodeName: node-a, hostNetwork: false, containers: []}
  status: {phase: Running, podIP: 10.244.1.5, podIPs: [{ip: 10.244.1.5}, {ip: 'fd00:10:244:1::5'}]}
";

/// Reads bytes as far as they can be read, up to a store.
fn read_through(syntax: Syntax, bytes: &[u8]) {
    let path = Path::new("x");
    let found = read(path, syntax, bytes);
    let entries = found
        .into_iter()
        .filter_map(|found| Entry::read(found.origin, &found.object.ok()?).ok());
    let entries = entries.map(|(entry, _)| entry).collect();
    let own = "node-a".parse().unwrap();
    let store = crate::objects::Store::build(&own, entries, Vec::new());
    let _ = store.notices().iter().map(ToString::to_string).count();
}

#[test]
fn the_manifest_to_be_damaged_is_good() {
    assert_eq!(
        summary("x.yaml", GOOD),
        ["1 1 Node node-a", "17 2.1 Pod shop/web"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512), json: bool) {
        read_through(if json { Syntax::Json } else { Syntax::Yaml }, &bytes);
    }

    #[test]
    fn random_yaml_signs_never_panic(text in "[-:?,{}\\[\\]&*!|>'\"%@#. \\n\\ta-c0-9~<]{0,200}") {
        read_through(Syntax::Yaml, text.as_bytes());
    }

    #[test]
    fn damaged_manifests_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..4), 1..8)
    ) {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (at, byte, kind) in edits {
            // Each edit leaves something to damage.
            if bytes.len() < 2 {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        read_through(Syntax::Yaml, &bytes);
    }

    /// Values in the place of values: each is a value that makes sense somewhere.
    #[test]
    fn wrong_values_never_panic(
        field in 0_usize..12,
        value in prop_oneof![
            Just("~"), Just("true"), Just("-1"), Just("1e999"), Just("''"), Just("[]"), Just("{}"), Just("[~]"), Just("0.0.0.0/0"),
            Just("'::/0'"), Just("10.244.1.0/33"), Just("'::ffff:10.0.0.1'"), Just("'{}'"), Just("'null'"), Just("\"\\0\""), Just("\"\\u2028\""),
        ],
    ) {
        let fields = [
            "2026-01-02T03:04:05Z", "\"true\"", "vxlan", "'{\"VNI\":1,\"VtepMAC\":\"02:00:00:00:01:01\"}'", "[10.244.1.0/24, 'fd00:10:244:1::/64']",
            "InternalIP", "node-a, hostNetwork", "Running", "[{ip: 10.244.1.5}, {ip: 'fd00:10:244:1::5'}]", "web", "shop", "192.0.2.1",
        ];
        prop_assert!(GOOD.contains(fields[field]));
        read_through(Syntax::Yaml, GOOD.replace(fields[field], value).as_bytes());
    }

    /// However documents are put together, each is found as it is alone, at its own line.
    #[test]
    fn documents_are_found_one_by_one(kinds in proptest::collection::vec(0_usize..4, 0..8)) {
        let parts = ["apiVersion: v1\nkind: Node\nmetadata: {name: a}\n", "kind: [\n", "# c\n\n", "- x\n"];
        let mut text = String::new();
        let mut expected = Vec::new();
        for kind in kinds {
            text.push_str("---\n");
            let line = text.lines().count() + 1;
            text.push_str(parts[kind]);
            if kind != 2 {
                expected.push((line, kind == 0));
            }
        }
        let found = read(Path::new("x.yaml"), Syntax::Yaml, text.as_bytes());
        let found: Vec<(usize, bool)> = found.iter().map(|found| match &found.origin {
            Origin::Document { line, .. } => (usize::try_from(*line).unwrap(), found.object.is_ok()),
            other => panic!("{other}"),
        }).collect();
        prop_assert_eq!(found, expected);
    }
}
