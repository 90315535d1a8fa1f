use std::os::unix::fs::symlink;

use super::*;
use crate::objects::notice::Severity;

/// A folder of manifests for one test.
struct Bench {
    dir: tempfile::TempDir,
    folder: Folder,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path().join("manifests"));
        fs::create_dir(folder.path()).unwrap();
        Self { dir, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn store(&mut self) -> Store {
        self.folder.store(&"node-a".parse().unwrap(), &[])
    }

    /// Scans, and tells the nodes in force (with their CIDRs) and the notices, files by their names.
    fn look(&mut self) -> (String, Vec<String>) {
        self.folder.scan();
        let store = self.store();
        let cidrs = |node: &crate::objects::NodeRecord| {
            node.pod_cidrs()
                .map(|cidr| cidr.to_string())
                .collect::<Vec<_>>()
                .join("+")
        };
        let nodes: Vec<String> = store
            .nodes()
            .map(|node| format!("{}={}", node.name, cidrs(node)))
            .collect();
        let root = format!("{}/", self.dir.path().display());
        (
            nodes.join(" "),
            store
                .notices()
                .iter()
                .map(|notice| notice.to_string().replace(&root, ""))
                .collect(),
        )
    }
}

/// A Node that does not take part, so that nothing but its own form matters; its notice is taken out by
/// [`refusals`].
fn node(name: &str, cidr: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{cidr}]}}\n")
}

fn refusals(notices: &[String]) -> Vec<&str> {
    notices
        .iter()
        .map(String::as_str)
        .filter(|notice| !notice.contains(": skipped: Node "))
        .collect()
}

const KEPT: &str = "; the last good version stays in force";

#[test]
fn which_files_are_read() {
    let mut bench = Bench::new();
    bench.write("b.yaml", &node("node-b", "10.244.2.0/24"));
    bench.write("a.yml", &node("node-a", "10.244.1.0/24"));
    bench.write(
        "c.json",
        r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-c"}}"#,
    );
    bench.write("notes.txt", "not a manifest: [");
    bench.write(".hidden.yaml", "not: [");
    fs::create_dir(bench.path("sub")).unwrap();
    bench.write("sub/d.yaml", &node("node-d", "10.244.4.0/24"));
    fs::create_dir(bench.path("e.yaml")).unwrap();
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-a=10.244.1.0/24 node-b=10.244.2.0/24 node-c=");
    assert_eq!(
        refusals(&notices),
        ["manifests/e.yaml: skipped: it is not a regular file (folders are not searched for manifests)"]
    );
    assert_eq!(bench.folder.file_count(), 4);
}

#[test]
fn the_first_file_by_name_has_the_object() {
    let mut bench = Bench::new();
    bench.write("b.yaml", &node("node-b", "10.244.2.0/24"));
    bench.write(
        "c.yaml",
        &("# again\n".to_owned() + &node("node-b", "10.244.3.0/24")),
    );
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-b=10.244.2.0/24");
    assert_eq!(
        refusals(&notices),
        ["manifests/c.yaml:2 (document 1): refused: Node node-b: the same object stands at manifests/b.yaml:1 (document 1), which counts; remove one of the two"]
            .map(|text| text.replace(" at manifests/", &format!(" at {}/manifests/", bench.dir.path().display())).replace(&format!("{}/", bench.dir.path().display()), ""))
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
    );
    fs::remove_file(bench.path("b.yaml")).unwrap();
    assert_eq!(bench.look().0, "node-b=10.244.3.0/24");
}

#[test]
fn a_refused_document_leaves_its_last_good_version() {
    let mut bench = Bench::new();
    let good = [
        node("node-a", "10.244.1.0/24"),
        node("node-b", "10.244.2.0/24"),
        node("node-c", "10.244.3.0/24"),
    ];
    bench.write("x.yaml", &good.join("---\n"));
    assert_eq!(
        bench.look().0,
        "node-a=10.244.1.0/24 node-b=10.244.2.0/24 node-c=10.244.3.0/24"
    );

    // It names itself but makes no sense: its own last version stays, the others are as they stand now.
    let bad = [node("node-b", "nonsense"), node("node-c", "10.244.33.0/24")];
    bench.write("x.yaml", &bad.join("---\n"));
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-b=10.244.2.0/24 node-c=10.244.33.0/24");
    let said = "manifests/x.yaml:1 (document 1): refused: Node node-b: spec.podCIDRs[0]: `nonsense` is no CIDR, write it as in 10.244.1.0/24";
    assert_eq!(refusals(&notices), [format!("{said}{KEPT}")]);
    // And so it stays, however often it is looked at, also with a field of the wrong type.
    assert_eq!(bench.look(), (nodes, notices));
    bench.write("x.yaml", &node("node-b", "7"));
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-b=10.244.2.0/24");
    assert!(
        refusals(&notices)[0].contains("spec.podCIDRs[0]: invalid type: integer `7`, expected a string"),
        "{notices:?}"
    );
    assert!(refusals(&notices)[0].ends_with(KEPT));

    // One that was never good has nothing to leave.
    bench.write("y.yaml", &node("node-y", "nonsense"));
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-b=10.244.2.0/24");
    assert!(!refusals(&notices)[1].ends_with(KEPT), "{notices:?}");

    bench.write("x.yaml", &node("node-b", "10.244.22.0/24"));
    assert_eq!(bench.look().0, "node-b=10.244.22.0/24");
    bench.write("x.yaml", &node("node-b", "nonsense"));
    bench.look();
    fs::remove_file(bench.path("x.yaml")).unwrap();
    assert_eq!(bench.look().0, "");
}

#[test]
fn a_document_without_a_name_could_be_any() {
    let mut bench = Bench::new();
    let good = [node("node-a", "10.244.1.0/24"), node("node-b", "10.244.2.0/24")];
    bench.write("x.yaml", &good.join("---\n"));
    bench.write("y.yaml", &node("node-y", "10.244.7.0/24"));
    bench.look();
    bench.write(
        "x.yaml",
        &(node("node-a", "10.244.11.0/24") + "---\nmetadata: {name: node-b\n"),
    );
    let (nodes, notices) = bench.look();
    assert_eq!(
        nodes,
        "node-a=10.244.11.0/24 node-b=10.244.2.0/24 node-y=10.244.7.0/24"
    );
    assert_eq!(
        refusals(&notices),
        [format!(
            "manifests/x.yaml:6 (document 2): refused: it cannot be parsed: unclosed bracket '{{'{KEPT}"
        )]
    );
    // Where nothing had to be kept, nothing is said to be.
    bench.write(
        "y.yaml",
        &(node("node-y", "10.244.7.0/24") + "---\nmetadata: {name: z\n"),
    );
    let (_, notices) = bench.look();
    assert!(!refusals(&notices)[1].ends_with(KEPT), "{notices:?}");
    bench.write("y.yaml", &node("node-y", "10.244.7.0/24"));
    // The whole file is nonsense.
    bench.write("x.yaml", "\u{0}");
    assert_eq!(bench.look().0, nodes);
    bench.write("x.yaml", "");
    assert_eq!(bench.look().0, "node-y=10.244.7.0/24");
}

#[test]
fn a_kept_version_yields_to_a_good_one() {
    let mut bench = Bench::new();
    bench.write("x.yaml", &node("node-b", "10.244.2.0/24"));
    bench.look();
    bench.write("x.yaml", "nonsense: [");
    bench.write("y.yaml", &node("node-b", "10.244.22.0/24"));
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-b=10.244.22.0/24");
    assert_eq!(refusals(&notices).len(), 1, "{notices:?}");
    bench.write("y.yaml", &node("node-c", "10.244.2.0/25"));
    assert_eq!(bench.look().0, "node-c=10.244.2.0/25");
}

#[test]
fn a_file_that_cannot_be_read_leaves_all() {
    let mut bench = Bench::new();
    bench.write("x.yaml", &node("node-b", "10.244.2.0/24"));
    bench.look();
    fs::remove_file(bench.path("x.yaml")).unwrap();
    symlink("nowhere", bench.path("x.yaml")).unwrap();
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-b=10.244.2.0/24");
    assert_eq!(
        refusals(&notices),
        [format!(
            "manifests/x.yaml: refused: it cannot be read (No such file or directory (os error 2)){KEPT}"
        )]
    );
    let sparse = File::create(bench.path("large.yaml")).unwrap();
    sparse.set_len(FILE_MAX_BYTES + 1).unwrap();
    assert!(
        bench
            .look()
            .1
            .iter()
            .any(|notice| notice.contains("large.yaml: refused: it is larger than 33554432 bytes"))
    );
}

#[test]
fn a_folder_that_goes_away_leaves_all() {
    let mut bench = Bench::new();
    bench.write("x.yaml", &node("node-b", "10.244.2.0/24"));
    bench.look();
    let away = bench.dir.path().join("away");
    fs::rename(bench.folder.path(), &away).unwrap();
    assert!(bench.folder.scan());
    assert!(!bench.folder.scan(), "it is reported once");
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-b=10.244.2.0/24");
    let told = notices.iter().find(|notice| notice.contains("refused")).unwrap();
    assert!(
        told.contains("manifests: refused: the folder of manifests cannot be read (No such file"),
        "{told}"
    );
    fs::rename(&away, bench.folder.path()).unwrap();
    bench.write("x.yaml", &node("node-c", "10.244.3.0/24"));
    let (nodes, notices) = bench.look();
    assert_eq!(
        (nodes.as_str(), refusals(&notices).len()),
        ("node-c=10.244.3.0/24", 0)
    );
}

#[test]
fn only_what_changed_is_told() {
    let mut bench = Bench::new();
    bench.write("x.yaml", &node("node-b", "10.244.2.0/24"));
    assert!(bench.folder.scan());
    assert!(!bench.folder.scan());
    bench.write("x.yaml", &node("node-b", "10.244.2.0/24"));
    assert!(!bench.folder.scan(), "other bytes of the same meaning");
    bench.write("x.yaml", &node("node-b", "10.244.3.0/24"));
    assert!(
        bench.folder.scan(),
        "a change of equal length within one tick of the clock"
    );
    fs::remove_file(bench.path("x.yaml")).unwrap();
    assert!(bench.folder.scan());
    assert!(!bench.folder.scan());
}

#[test]
fn a_settled_file_is_not_read_again() {
    let mut bench = Bench::new();
    bench.write("x.yaml", &node("node-b", "10.244.2.0/24"));
    let later = SystemTime::now() + Duration::from_secs(60);
    assert!(bench.folder.scan_at(later));
    let stamp = |bench: &Bench| bench.folder.files[std::ffi::OsStr::new("x.yaml")].stamp;
    assert!(stamp(&bench).is_some());
    assert!(!bench.folder.scan_at(later));
    bench.write("x.yaml", &node("node-b", "10.244.22.0/24"));
    assert!(bench.folder.scan_at(later));
    // Too fresh to be trusted: looked into every time.
    bench.folder.scan_at(SystemTime::now());
    bench.write("x.yaml", &node("node-b", "10.244.23.0/24"));
    bench.folder.scan_at(SystemTime::now());
    assert!(stamp(&bench).is_none());
    assert_eq!(bench.look().0, "node-b=10.244.23.0/24");
}

#[test]
fn the_number_of_files_is_bounded() {
    let mut bench = Bench::new();
    for index in 0..FOLDER_MAX_FILES + 3 {
        bench.write(&format!("{index:06}.yaml"), "");
    }
    bench.write("000000.yaml", &node("node-a", "10.244.1.0/24"));
    bench.write("zzz.yaml", &node("node-z", "10.244.9.0/24"));
    let (nodes, notices) = bench.look();
    assert_eq!(nodes, "node-a=10.244.1.0/24");
    assert!(
        notices
            .iter()
            .any(|notice| notice.contains("refused: the folder holds more than 16384 manifests")),
        "{notices:?}"
    );
    assert_eq!(bench.folder.file_count(), FOLDER_MAX_FILES);
    assert_eq!(bench.store().notices()[0].severity, Severity::Refused);
}
