//! What a build leaves behind, and nobody tracks.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::rules::Fault;
use super::{assert_none, files_below, root};

/// The folder that cargo builds into.
const BUILT: &str = "target";
/// Endings of what compilers and linkers write.
const ENDINGS: [&str; 11] = [
    "o", "a", "so", "rlib", "rmeta", "d", "pdb", "exe", "dll", "class", "pyc",
];
/// How objects, programs and archives of objects begin: ELF, ar, WebAssembly, Mach-O of both byte orders.
const BEGINNINGS: [&[u8]; 5] = [
    b"\x7fELF",
    b"!<arch>\n",
    b"\0asm",
    b"\xcf\xfa\xed\xfe",
    b"\xfe\xed\xfa\xcf",
];

/// Why a file that begins like this looks like a build's product.
fn product(path: &str, content: &[u8]) -> Option<&'static str> {
    if path.split('/').any(|part| part == BUILT) {
        return Some("is in a folder that is built into");
    }
    let ending = path.rsplit('/').next().and_then(|name| name.rsplit_once('.'));
    if ending.is_some_and(|(name, ending)| !name.is_empty() && ENDINGS.contains(&ending)) {
        return Some("has the ending of what a compiler writes");
    }
    let begins = BEGINNINGS.iter().any(|beginning| content.starts_with(beginning));
    begins.then_some("is an object or a program")
}

/// Every tracked path; `None` where nothing is tracked, as in an archive of the sources.
fn tracked(root: &Path) -> Option<Vec<String>> {
    if !root.join(".git").exists() {
        return None;
    }
    let mut git = Command::new("git");
    // Whoever owns the folder, reading a list is harmless.
    git.args(["-c", "safe.directory=*", "ls-files", "-z"])
        .current_dir(root);
    let listed = git.output().expect("git, by which this folder is tracked");
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "git ls-files: {said}");
    let paths = listed.stdout.split(|byte| *byte == 0);
    let paths = paths.map(|path| String::from_utf8_lossy(path).into_owned());
    Some(paths.filter(|path| !path.is_empty()).collect())
}

#[test]
fn no_product_of_a_build_is_tracked() {
    let root = root();
    let paths = tracked(&root).unwrap_or_else(|| {
        let mut found = Vec::new();
        files_below(&root, &root, &mut found);
        found
    });
    assert!(
        paths.iter().any(|path| path == "tests/tidy.rs"),
        "{} paths",
        paths.len()
    );
    let faults = paths.into_iter().filter_map(|path| {
        // One that is deleted and tracked still has nothing to look at but its name.
        let content = fs::read(root.join(&path)).unwrap_or_default();
        let what = product(&path, &content)?.to_owned();
        Some(Fault { path, line: 1, what })
    });
    assert_none(&faults.collect::<Vec<_>>());
}

#[test]
fn a_product_of_a_build_is_found() {
    let rows: [(&str, &[u8], bool); 14] = [
        ("target/debug/build/x/output", b"text", true),
        ("tools/cni/target/CACHEDIR.TAG", b"Signature", true),
        ("src/target", b"", true),
        ("dataplane/src/xdp/uplink.bpf.o", b"", true),
        ("tools/libx.so", b"", true),
        ("bench/main.d", b"main.o: main.c", true),
        ("tools/bpftool", b"\x7fELF\x02\x01", true),
        ("tools/objects", b"!<arch>\nmain.o/", true),
        ("tests/fuzz/targets/wire.rs", b"fn main() {}", false),
        ("src/target.rs", b"//! Where it goes.", false),
        ("docs/o", b"o", false),
        (".d", b"", false),
        ("tests/fuzz/corpus/eth/a", b"\x7fEL", false),
        ("dataplane/src/xdp/uplink.bpf.c", b"int f;", false),
    ];
    for (path, content, is_one) in rows {
        let found = product(path, content);
        assert_eq!(found.is_some(), is_one, "{path}: {found:?}");
    }
}
