//! `tools/kernel.sh` against an apt that fails in the ways a network has: what it tries again, what it says when it gives up,
//! and that half a kernel is never taken for one.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const RELEASE: &str = "7.9.0-test";

/// Stand-ins for the programs the script runs. `faults` in their folder says how many more updates fail, and `calls` what
/// was run.
const APT_GET: &str = r#"
case "$*" in
    indextargets*) . /etc/os-release; echo "$VERSION_CODENAME main http://mirror/debian" ;;
    *update*)
        echo update >>"$here/calls"
        faults=$(cat "$here/faults")
        [ "$faults" -gt 0 ] || exit 0
        echo $((faults - 1)) >"$here/faults"
        echo "Reading lists"
        echo "W: Failed to fetch http://mirror: no route"
        echo "W: Some index files failed to download."
        exit 100 ;;
    *download*) touch kernel.deb ;;
esac
"#;
const APT_CACHE: &str = r#"echo "  Depends: x"; echo linux-binary-7.9.0-test-amd64"#;
const DPKG_DEB: &str = r#"
mkdir -p "$3/boot" "$3/usr/lib/modules/7.9.0-test/kernel"
echo image >"$3/boot/vmlinuz-7.9.0-test"
"#;
const DEPMOD: &str = r#"
echo depmod >>"$here/calls"
[ ! -e "$here/no-depmod" ] || exit 1
echo kernel/a.ko: >"$2/lib/modules/$3/modules.dep"
"#;
const SLEEP: &str = r#"echo "sleep $1" >>"$here/calls""#;

/// The script, its programs, and the folder it fills.
struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new(faults: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let programs = [
            ("apt-get", APT_GET),
            ("apt-cache", APT_CACHE),
            ("dpkg-deb", DPKG_DEB),
            ("depmod", DEPMOD),
            ("sleep", SLEEP),
        ];
        for (name, text) in programs {
            let path = folder.path().join(name);
            fs::write(
                &path,
                format!("#!/bin/sh\nhere={}\n{text}", folder.path().display()),
            )
            .unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(folder.path().join("faults"), faults.to_string()).unwrap();
        Self { folder }
    }

    fn kernel(&self) -> PathBuf {
        self.folder.path().join("cache/kernel")
    }

    fn run(&self) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel.sh");
        let path = format!(
            "{}:{}",
            self.folder.path().display(),
            std::env::var("PATH").unwrap()
        );
        let mut line = Command::new(script);
        line.arg(self.kernel()).env("PATH", path).env_remove("HOME");
        line.output().unwrap()
    }

    /// What was run since this was asked last.
    fn calls(&self) -> Vec<String> {
        let path = self.folder.path().join("calls");
        let text = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, "").unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The names in the kernel's folder.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.kernel()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn assert_whole(&self, output: &Output) {
        assert!(output.status.success(), "{output:?}");
        assert_eq!(self.names(), ["lib", "lock", "release", "vmlinuz"]);
        let release = fs::read_to_string(self.kernel().join("release")).unwrap();
        assert_eq!(release.trim(), RELEASE);
    }
}

#[test]
fn a_fault_that_passes_is_outlived_and_the_second_run_asks_nobody() {
    let fixture = Fixture::new(2);
    fixture.assert_whole(&fixture.run());
    assert_eq!(
        fixture.calls(),
        ["update", "sleep 5", "update", "sleep 10", "update", "depmod"]
    );
    fixture.assert_whole(&fixture.run());
    assert!(fixture.calls().is_empty());
}

#[test]
fn a_fault_that_stays_is_told_in_apts_first_words_with_all_it_said() {
    let fixture = Fixture::new(100);
    let output = fixture.run();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    let last = told.lines().last().unwrap();
    assert!(
        last.contains("(W: Failed to fetch http://mirror: no route)"),
        "{told}"
    );
    assert!(
        last.contains(fixture.kernel().to_str().unwrap()) && last.contains("trixie-backports sid"),
        "{told}"
    );
    assert!(
        told.contains("sid of http://mirror/debian, try 3\nReading lists"),
        "{told}"
    );
    let updates = fixture.calls().iter().filter(|call| *call == "update").count();
    assert_eq!(updates, 6, "three for each of two suites");
    assert_eq!(fixture.names(), ["lock"]);
}

#[test]
fn half_a_kernel_is_fetched_anew() {
    for lost in ["vmlinuz", "release", "lib/modules/7.9.0-test/modules.dep"] {
        let fixture = Fixture::new(0);
        fixture.assert_whole(&fixture.run());
        fs::remove_file(fixture.kernel().join(lost)).unwrap();
        fixture.calls();
        fixture.assert_whole(&fixture.run());
        assert_eq!(fixture.calls(), ["update", "depmod"], "without {lost}");
    }
    let fixture = Fixture::new(0);
    fixture.assert_whole(&fixture.run());
    fs::write(fixture.kernel().join("release"), "6.12.1-old\n").unwrap();
    fixture.assert_whole(&fixture.run());
}

#[test]
fn a_kernel_that_could_not_be_finished_is_none() {
    let fixture = Fixture::new(0);
    fs::write(fixture.folder.path().join("no-depmod"), "").unwrap();
    assert_eq!(fixture.run().status.code(), Some(1));
    assert!(!fixture.kernel().join("release").exists());
    fs::remove_file(fixture.folder.path().join("no-depmod")).unwrap();
    fixture.assert_whole(&fixture.run());
}
