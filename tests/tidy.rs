//! Keeps the house tidy: the arrows between the crates, the homes of `unsafe`, lengths, names, and what no tracked
//! file may say. Every rule has a sample here that breaks it, so that it is known to bite.
#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::panic, reason = "a test that fails may panic")]

#[path = "tidy/products.rs"]
mod products;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rules::{FILE_MAX_LINES, FILE_MAX_LINES_BEFORE_TESTS, FUNCTION_MAX_LINES, Fault, File};
use toml::{Table, Value};

/// Which of the project's crates each may name, and what for. Nothing points up.
const ARROWS: [(&str, Arrows); 8] = [
    (
        "millrace-dataplane",
        Arrows {
            always: &[],
            tests: &[],
        },
    ),
    (
        "millrace-pipelines",
        Arrows {
            always: &["millrace-dataplane"],
            tests: &[],
        },
    ),
    (
        "millrace-tools",
        Arrows {
            always: &["millrace-dataplane"],
            tests: &[],
        },
    ),
    // It knows the daemon by its admin socket alone.
    (
        "millrace-cni",
        Arrows {
            always: &[],
            tests: &["millrace-tools"],
        },
    ),
    (
        "millrace",
        Arrows {
            always: &["millrace-dataplane", "millrace-pipelines"],
            tests: &["millrace-tools"],
        },
    ),
    (
        "millrace-bench",
        Arrows {
            always: ALL,
            tests: &[],
        },
    ),
    (
        "millrace-fuzz",
        Arrows {
            always: ALL,
            tests: &[],
        },
    ),
    // It takes in single files, which are built for loom.
    (
        "millrace-loom",
        Arrows {
            always: &[],
            tests: &[],
        },
    ),
];
const ALL: &[&str] = &[
    "millrace",
    "millrace-cni",
    "millrace-dataplane",
    "millrace-pipelines",
    "millrace-tools",
];

/// What a crate may name of the project's others.
struct Arrows {
    /// As a dependency of any kind.
    always: &'static [&'static str],
    /// For its tests only.
    tests: &'static [&'static str],
}

/// Folders that hold nothing of the project's own writing.
const SKIPPED_FOLDERS: [&str; 4] = ["target", ".git", "corpus", "artifacts"];
/// The largest file that is read as prose, in bytes.
const PROSE_MAX_BYTES: u64 = 4 << 20;

/// First parts of absolute paths that exist on somebody's machine only.
const MACHINE_FOLDERS: [&str; 5] = ["home", "root", "work", "Users", "mnt"];
/// Hosts that a reader may be sent to; what is fetched by a build is named by package, never by host.
const HOSTS: [&str; 15] = [
    "github.com",
    "docs.kernel.org",
    "www.kernel.org",
    "man7.org",
    "kubernetes.io",
    "www.rfc-editor.org",
    "datatracker.ietf.org",
    "www.iana.org",
    "www.apache.org",
    "keepachangelog.com",
    "semver.org",
    "docs.rs",
    "doc.rust-lang.org",
    "www.tcpdump.org",
    // In the name of SVG's XML namespace.
    "www.w3.org",
];
/// Last parts of the names of package registries' hosts, without the dots, so that they do not stand here either.
const REGISTRIES: [&[&str]; 6] = [
    &["static", "crates", "io"],
    &["index", "crates", "io"],
    &["debian", "org"],
    &["npmjs", "org"],
    &["pypi", "org"],
    &["pythonhosted", "org"],
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder`, as paths from `root`.
fn files_below(root: &Path, folder: &Path, found: &mut Vec<String>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let (path, kind) = (entry.path(), entry.file_type().expect("a kind of file"));
        let skipped = entry
            .file_name()
            .to_str()
            .is_none_or(|name| SKIPPED_FOLDERS.contains(&name));
        if kind.is_dir() && !skipped {
            files_below(root, &path, found);
        } else if kind.is_file() {
            let relative = path.strip_prefix(root).expect("a path below the root");
            found.push(relative.to_string_lossy().into_owned());
        }
    }
}

/// Every file of the project with its text, save what is no text or very large. Read once for all tests.
fn texts() -> &'static [(String, String)] {
    static TEXTS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    TEXTS.get_or_init(read_texts)
}

fn read_texts() -> Vec<(String, String)> {
    let root = root();
    let mut paths = Vec::new();
    files_below(&root, &root, &mut paths);
    paths.sort();
    let read = |path: String| {
        let whole = root.join(&path);
        let small = fs::metadata(&whole).is_ok_and(|metadata| metadata.len() <= PROSE_MAX_BYTES);
        let text = fs::read(whole)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok());
        text.filter(|_| small).map(|text| (path, text))
    };
    paths.into_iter().filter_map(read).collect()
}

/// Every Rust file of the project.
fn rust_files() -> Vec<File> {
    let files: Vec<_> = texts()
        .iter()
        .filter(|(path, _)| path.ends_with(".rs"))
        .map(|(path, text)| File::new(path, text))
        .collect();
    assert!(
        !files.is_empty(),
        "there are no Rust files below {}",
        root().display()
    );
    files
}

fn assert_none(faults: &[Fault]) {
    let lines: Vec<_> = faults
        .iter()
        .map(|fault| format!("{}:{}: {}", fault.path, fault.line, fault.what))
        .collect();
    assert!(faults.is_empty(), "{} found:\n{}", faults.len(), lines.join("\n"));
}

/// Holds every Rust file to `rule`.
fn assert_tidy(rule: fn(&File) -> Vec<Fault>) {
    let faults: Vec<_> = rust_files().iter().flat_map(rule).collect();
    assert_none(&faults);
}

/// The lines that `rule` finds wrong in `text`, the file `path`.
fn lines_found(rule: fn(&File) -> Vec<Fault>, path: &str, text: &str) -> Vec<usize> {
    rule(&File::new(path, text))
        .iter()
        .map(|fault| fault.line)
        .collect()
}

// The arrows between the crates.

/// The packages that a table of dependencies names, renamed ones by their own name.
fn packages(dependencies: Option<&Value>, workspace: &Table) -> Vec<String> {
    let package = |key: &String, value: &Value| {
        let renamed = |value: &Value| value.get("package").and_then(Value::as_str).map(str::to_owned);
        let inherited = value.get("workspace").and(workspace.get(key)).and_then(renamed);
        renamed(value).or(inherited).unwrap_or_else(|| key.clone())
    };
    let table = dependencies.and_then(Value::as_table);
    table
        .into_iter()
        .flatten()
        .map(|(key, value)| package(key, value))
        .collect()
}

/// The project's crates that a manifest names against the arrows.
fn wrong_arrows(manifest: &Table, workspace: &Table) -> Vec<String> {
    let name = manifest
        .get("package")
        .and_then(|package| package.get("name"))
        .and_then(Value::as_str);
    let Some(name) = name else { return Vec::new() };
    let Some((_, arrows)) = ARROWS.iter().find(|(from, _)| *from == name) else {
        return vec![format!(
            "{name} has no arrows yet: say in ARROWS what it may depend on"
        )];
    };
    let targets = manifest.get("target").and_then(Value::as_table);
    let places = targets
        .into_iter()
        .flatten()
        .filter_map(|(_, target)| target.as_table());
    let mut wrong = Vec::new();
    for place in std::iter::once(manifest).chain(places) {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let named = packages(place.get(kind), workspace);
            let allowed = |package: &&String| {
                let package = package.as_str();
                let for_tests = kind == "dev-dependencies" && arrows.tests.contains(&package);
                !package.starts_with("millrace") || arrows.always.contains(&package) || for_tests
            };
            let bad = named.iter().filter(|package| !allowed(package));
            wrong.extend(bad.map(|package| format!("{name} -> {package} in [{kind}]")));
        }
    }
    wrong
}

fn parse_manifest(path: &str, text: &str) -> Table {
    text.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn arrows_run_one_way() {
    let manifests: Vec<_> = texts()
        .iter()
        .filter(|(path, _)| path.rsplit('/').next() == Some("Cargo.toml"))
        .map(|(path, text)| (path, parse_manifest(path, text)))
        .collect();
    let root = manifests
        .iter()
        .find(|(path, _)| *path == "Cargo.toml")
        .expect("the root's manifest");
    let workspace = root
        .1
        .get("workspace")
        .and_then(|it| it.get("dependencies"))
        .and_then(Value::as_table);
    let workspace = workspace.cloned().unwrap_or_default();
    let wrong = manifests.iter().flat_map(|(path, manifest)| {
        let wrong = wrong_arrows(manifest, &workspace).into_iter();
        wrong.map(|what| Fault {
            path: (*path).clone(),
            line: 1,
            what,
        })
    });
    assert_none(&wrong.collect::<Vec<_>>());
    assert!(
        manifests.len() >= 4,
        "the root, dataplane, pipelines and tools have manifests"
    );
}

#[test]
fn an_arrow_that_points_up_is_found() {
    let workspace = parse_manifest(
        "",
        "machine = { path = '..', package = 'millrace-tools' }\nother = '1'",
    );
    let rows = [
        (
            "millrace-dataplane",
            "[dependencies]\nmillrace-pipelines.workspace = true",
            1,
        ),
        (
            "millrace-dataplane",
            "[dev-dependencies]\nmillrace = { path = '..' }",
            1,
        ),
        (
            "millrace-pipelines",
            "[dependencies]\nmillrace-dataplane.workspace = true",
            0,
        ),
        (
            "millrace-pipelines",
            "[build-dependencies]\nmillrace-tools.workspace = true",
            1,
        ),
        (
            "millrace-pipelines",
            "[target.'cfg(loom)'.dependencies]\nmillrace-tools.workspace = true",
            1,
        ),
        (
            "millrace-pipelines",
            "[dependencies]\nmachine = { path = '..', package = 'millrace' }",
            1,
        ),
        (
            "millrace-pipelines",
            "[dependencies]\nmachine.workspace = true\nother.workspace = true",
            1,
        ),
        (
            "millrace-tools",
            "[dependencies]\nmillrace-dataplane = '1'\nserde = '1'",
            0,
        ),
        ("millrace-tools", "[dependencies]\nmillrace-pipelines = '1'", 1),
        ("millrace", "[dev-dependencies]\nmillrace-tools = '1'", 0),
        ("millrace", "[dependencies]\nmillrace-tools = '1'", 1),
        ("millrace", "[dev-dependencies]\nmillrace-bench = '1'", 1),
        (
            "millrace-bench",
            "[dependencies]\nmillrace = '1'\nmillrace-tools = '1'",
            0,
        ),
        ("millrace-new", "[dependencies]\nserde = '1'", 1),
    ];
    for (name, dependencies, count) in rows {
        let manifest = parse_manifest(name, &format!("[package]\nname = '{name}'\n{dependencies}"));
        let wrong = wrong_arrows(&manifest, &workspace);
        assert_eq!(wrong.len(), count, "{name}, {dependencies}: {wrong:?}");
    }
}

// The homes of `unsafe`.

#[test]
fn unsafe_stays_in_its_homes_and_says_why() {
    assert_tidy(File::check_unsafe);
}

#[test]
fn unsafe_away_from_home_or_without_a_reason_is_found() {
    let rows: [(&str, &str, &[usize]); 14] = [
        ("src/main.rs", "fn f() {\n    unsafe { g() }\n}", &[2]),
        ("src/main.rs", "// SAFETY: fine.\nunsafe impl Send for T {}", &[2]),
        (
            "src/main.rs",
            "#![forbid(unsafe_code)]\n// unsafe\nlet s = \"unsafe\";",
            &[],
        ),
        ("dataplane/src/wire/eth.rs", "pub unsafe fn f() {}", &[1]),
        ("dataplane/src/frame.rs", "fn f() {\n    unsafe { g() }\n}", &[2]),
        ("dataplane/src/frame.rs", "// SAFETY: fine.\nunsafe { g() }", &[]),
        ("dataplane/src/frame.rs", "unsafe { g() } // SAFETY: fine.", &[]),
        (
            "dataplane/src/frame.rs",
            "// SAFETY: fine,\n// very.\n#[inline]\nunsafe impl Send for T {}",
            &[],
        ),
        (
            "dataplane/src/xdp/link.rs",
            "// SAFETY: fine.\nlet a =\n    unsafe { g() };",
            &[],
        ),
        (
            "dataplane/src/xdp/link.rs",
            "// SAFETY: fine.\nlet a = 1;\nlet b = unsafe { g() };",
            &[3],
        ),
        (
            "dataplane/src/xdp/link.rs",
            "// SAFETY: fine.\n\nunsafe impl Send for T {}",
            &[3],
        ),
        (
            "dataplane/src/clock.rs",
            "/// # Safety\n/// None.\nunsafe fn f() {}",
            &[],
        ),
        (
            "dataplane/src/clocks.rs",
            "// SAFETY: fine.\nunsafe { g() }",
            &[2],
        ),
        ("dataplane/src/clock.rs", "#[unsafe(no_mangle)]\nfn f() {}", &[1]),
    ];
    for (path, text, lines) in rows {
        assert_eq!(
            lines_found(File::check_unsafe, path, text),
            lines,
            "{path}: {text}"
        );
    }
}

// Lengths.

#[test]
fn functions_and_files_are_short() {
    assert_tidy(File::check_lengths);
}

/// A function of `lines` lines, first and last included.
fn function(lines: usize) -> String {
    format!(
        "fn f(a: [u8; 2]) -> u8 {{\n{}}}\n",
        "    g();\n".repeat(lines - 2)
    )
}

#[test]
fn what_is_too_long_is_found() {
    let check = |path: &str, text: &str| lines_found(File::check_lengths, path, text);
    let tests = |text: &str| format!("#[cfg(test)]\n#[allow(clippy::panic)]\nmod tests {{\n{text}}}\n");
    let longest = function(FUNCTION_MAX_LINES);
    let too_long = function(FUNCTION_MAX_LINES + 1);
    assert_eq!(check("src/a.rs", &longest), []);
    assert_eq!(check("src/a.rs", &format!("//! A.\n{too_long}")), [2]);
    assert_eq!(check("src/a.rs", &format!("//! A.\n{}", tests(&too_long))), []);
    assert_eq!(check("src/a/tests.rs", &too_long), []);
    assert_eq!(check("src/a_tests.rs", &too_long), []);
    assert_eq!(check("tests/a.rs", &too_long), []);
    // A module of tests in a file of its own ends nothing.
    assert_eq!(
        check("src/a.rs", &format!("#[cfg(test)]\nmod tests;\n{too_long}")),
        [3]
    );
    let inside = format!("trait T {{\n    fn a(&self) -> [u8; 2];\n    {too_long}}}");
    assert_eq!(
        check("src/a.rs", &inside),
        [3],
        "one function, not the declaration before it"
    );

    let most = "// line\n".repeat(FILE_MAX_LINES_BEFORE_TESTS);
    assert_eq!(check("src/a.rs", &most), []);
    assert_eq!(check("src/a.rs", &format!("{most}{}", tests("fn g() {}\n"))), []);
    assert_eq!(check("src/a.rs", &format!("{most}// line\n")), [1]);
    assert_eq!(check("tests/a.rs", &format!("{most}// line\n")), []);
    assert_eq!(check("tests/a.rs", &"// line\n".repeat(FILE_MAX_LINES)), []);
    assert_eq!(check("tests/a.rs", &"// line\n".repeat(FILE_MAX_LINES + 1)), [1]);
}

// Names, heads, and what is left undone.

#[test]
fn every_file_says_what_it_is() {
    assert_tidy(File::check_head);
}

#[test]
fn nothing_is_left_undone() {
    assert_tidy(File::check_undone);
}

#[test]
fn nothing_is_called_by_no_name() {
    assert_tidy(File::check_name);
}

#[test]
fn a_missing_head_a_rest_of_work_and_a_catch_all_name_are_found() {
    for (text, lines) in [
        ("//! A.\n", &[][..]),
        ("// A.\n", &[1]),
        ("\n//! A.\n", &[1]),
        ("", &[1]),
    ] {
        assert_eq!(lines_found(File::check_head, "src/a.rs", text), lines, "{text}");
    }
    let undone =
        "// todo!()\nlet a = \"dbg!(1)\";\ntodo!();\nlet todo = 1;\nlet b = dbg!(2);\nunimplemented!(\"b\")";
    assert_eq!(lines_found(File::check_undone, "src/a.rs", undone), [3, 6, 5]);
    assert_eq!(
        lines_found(File::check_head, "src/a/tests.rs", "use super::*;\n"),
        [],
        "a module of tests"
    );
    for (path, lines) in [
        ("src/util.rs", &[1][..]),
        ("tests/common/mod.rs", &[1]),
        ("src/helpers.rs", &[1]),
        ("src/commonly.rs", &[]),
        ("src/objects/address.rs", &[]),
    ] {
        assert_eq!(lines_found(File::check_name, path, "//! A.\n"), lines, "{path}");
    }
}

// What a line of code may touch.

#[test]
fn every_room_keeps_off_what_is_not_its_business() {
    assert_tidy(File::check_room);
}

#[test]
fn a_room_that_touches_what_it_must_not_is_found() {
    let rows: [(&str, &str, &[usize]); 7] = [
        (
            "dataplane/src/wire/eth.rs",
            "//! A Vec.\nuse crate::table::Lpm;",
            &[2],
        ),
        ("dataplane/src/wire/tests/link.rs", "use crate::table::Lpm;", &[]),
        ("dataplane/src/table/port.rs", "fn f(frame: &Frame) {}", &[1]),
        (
            "pipelines/src/route.rs",
            "let a = 1;\nlet b = format!(\"{a}\");",
            &[2],
        ),
        (
            "pipelines/src/route.rs",
            "#[cfg(test)]\nmod tests {\n    use std::sync::Mutex;\n}",
            &[],
        ),
        (
            "pipelines/src/node.rs",
            "fn f(verdicts: &mut Vec<Verdict>) {}",
            &[],
        ),
        ("src/main.rs", "println!(\"the daemon may\");", &[]),
    ];
    for (path, text, lines) in rows {
        assert_eq!(lines_found(File::check_room, path, text), lines, "{path}: {text}");
    }
}

// Exits.

#[test]
fn a_match_on_exits_lists_them() {
    assert_tidy(File::check_exits);
}

#[test]
fn a_catch_all_among_exits_is_found() {
    let rows: [(&str, &[usize]); 10] = [
        ("match v {\n    Verdict::Forward(_) => 1,\n    _ => 2,\n}", &[3]),
        (
            "match v {\n    Verdict::Drop(_) => { f(); }\n    other => g(other),\n}",
            &[3],
        ),
        (
            "match f(v) {\n    Exit::Drop(r) if r > 1 => 1,\n    _ if a => 2,\n    Exit::Punt(..) => 3,\n}",
            &[3],
        ),
        (
            "match self {\n    Self::Forward(p) => match p { 1 => 1, _ => 2 },\n    Self::Drop(_) => 1,\n}",
            &[],
        ),
        (
            "match p {\n    1 => match v {\n        Verdict::Drop(_) => 1,\n        _ => 2,\n    },\n    _ => 3,\n}",
            &[4],
        ),
        (
            "match v {\n    Verdict::Forward(port) => f(port, |a| { a }),\n    Verdict::Drop(_) | Verdict::Punt(..) => 2,\n}",
            &[],
        ),
        ("match code {\n    ExitCode::SUCCESS => 1,\n    _ => 2,\n}", &[]),
        (
            "match (v, w) {\n    (Verdict::Drop(_), _) => 1,\n    (_, Some(_)) => 2,\n}",
            &[],
        ),
        (
            "match v {\n    // _ => 1\n    Verdict::Drop(_) => \"_ => 1\",\n}",
            &[],
        ),
        (
            "match v {\n    Some(Verdict::Drop(_)) => 1,\n    Some(Verdict::Forward(_)) => 2,\n    None => 3,\n}",
            &[],
        ),
    ];
    for (text, lines) in rows {
        assert_eq!(lines_found(File::check_exits, "src/a.rs", text), lines, "{text}");
    }
}

// Prose.

/// What of `text` holds on one machine only, or names where packages come from.
fn private_words(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let ends = |c: char| c.is_whitespace() || "\"'`()<>[]{},;|".contains(c);
        for word in line.split(ends) {
            let path = word.find('/').and_then(|at| word.get(at..)).unwrap_or_default();
            let before = word.strip_suffix(path).unwrap_or_default();
            let absolute = before.is_empty() || before.ends_with(['=', ':', '@']);
            let top = path.split('/').nth(1).unwrap_or_default();
            if absolute && MACHINE_FOLDERS.contains(&top) && path.matches('/').count() > 1 {
                found.push((number, format!("the path {path} is of one machine")));
            }
            let host = word
                .split_once("://")
                .map(|(_, rest)| rest.split(['/', ':', '#', '?']).next());
            if let Some(host) = host
                .flatten()
                .filter(|host| host.contains('.') && !HOSTS.contains(host) && !is_nobodys(host))
            {
                found.push((number, format!("{host} is not among the hosts that may be named")));
            }
            let names: Vec<_> = word
                .split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_')
                .collect();
            if REGISTRIES
                .iter()
                .any(|host| names.windows(host.len()).any(|part| part == *host))
            {
                found.push((number, format!("{word} names a registry's host")));
            }
        }
    }
    found
}

/// Addresses that are for documentation and for oneself (RFC 5737, RFC 1122 section 3.2.1.3).
fn is_nobodys(host: &str) -> bool {
    ["192.0.2.", "198.51.100.", "203.0.113.", "127."]
        .iter()
        .any(|net| host.starts_with(net))
}

#[test]
fn no_file_tells_of_the_machine_it_was_written_on() {
    let faults: Vec<_> = texts()
        .iter()
        .flat_map(|(path, text)| {
            let found = private_words(text).into_iter();
            found.map(|(line, what)| Fault {
                path: path.clone(),
                line,
                what,
            })
        })
        .collect();
    assert_none(&faults);
}

#[test]
fn a_private_path_or_host_is_found() {
    let rows = [
        (format!("see /{}/main/src", "work"), 1),
        (format!("PATH=/{}/someone/bin", "home"), 1),
        (format!("(`/{}/.cache/x`)", "root"), 1),
        (
            "the network/root/child and /etc/millrace, /run/millrace/a, /usr/include".to_owned(),
            0,
        ),
        (
            "https://github.com/a/b, http://docs.kernel.org/networking/af_xdp.html".to_owned(),
            0,
        ),
        (format!("https://{}.example/simple", "mirror"), 1),
        (["index", "crates", "io"].join("."), 1),
        (["http://deb", "debian", "org/debian"].join("."), 2),
        ("the crates.io index, and Debian's packages".to_owned(), 0),
        ("http://[::1]:80/ and http://localhost/".to_owned(), 0),
        ("https://192.0.2.1:6443/ and http://127.0.0.1:80".to_owned(), 0),
        (["https://10", "0", "0", "1/"].join("."), 1),
    ];
    for (text, count) in rows {
        let found = private_words(&format!("first\n{text}\n"));
        assert_eq!(found.len(), count, "{text}: {found:?}");
        assert!(found.iter().all(|(line, _)| *line == 2));
    }
}
