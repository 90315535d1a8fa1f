//! The file system a virtual machine starts with: BusyBox, the programs under test with their shared libraries, and the
//! kernel's modules.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::{LabError, command, find_program};
use super::archive::Archive;
use super::kernel::Kernel;

/// What the first process runs.
const INIT: &str = include_str!("init.sh");
/// BusyBox, linked statically: it is there before any library.
const BUSYBOX: &str = "busybox";
/// The guest's program, built beside this one's.
const GUEST: &str = "millrace-guest";
/// The load generator.
const GENERATOR: &str = "millrace-pktgen";
/// Who root is, for programs that ask: tcpdump.
const USERS: &str = "root:x:0:0:root:/:/bin/sh\n";
/// What the machine's own setting up and the tests run inside.
const PROGRAMS: [&str; 6] = ["ip", "bridge", "ss", "ethtool", "ping", "tcpdump"];
/// Where programs are looked for: root's search path need not have the second half.
const SEARCH_PATH: [&str; 6] = [
    "/usr/local/sbin",
    "/usr/local/bin",
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
];
/// The modules: the NIC, the pods' veths, what tells `ss` of AF_XDP sockets, the kernel's own tunnels, and VLANs. All else is
/// part of Debian's kernel.
const MODULES: [&str; 7] = [
    "virtio_net",
    "veth",
    "xsk_diag",
    "pktgen",
    "ipip",
    "vxlan",
    "8021q",
];
/// The device numbers of `/dev/console` (Linux, `Documentation/admin-guide/devices.txt`).
const CONSOLE: (u32, u32) = (5, 1);

/// Writes the archive for a machine with this kernel to `path`; `folder` is for drafts.
pub(super) fn build(kernel: &Kernel, folder: &Path, path: &Path) -> Result<(), LabError> {
    let packing = || LabError::io(format!("write {}", path.display()));
    let file = File::create(path).map_err(packing())?;
    let mut archive = Archive::new(BufWriter::new(file));
    archive.device("/dev/console", CONSOLE).map_err(packing())?;
    for empty in ["/proc", "/sys", "/run", "/tmp", "/etc", "/var/log"] {
        archive.folder(empty).map_err(packing())?;
    }
    archive.file("/init", INIT.as_bytes()).map_err(packing())?;
    archive.file("/etc/passwd", USERS.as_bytes()).map_err(packing())?;
    let millrace = find_program()?;
    let beside = [GUEST, GENERATOR].map(|name| millrace.with_file_name(name));
    let mut libraries = BTreeSet::new();
    for program in [millrace].into_iter().chain(beside) {
        libraries.extend(libraries_of(&program)?);
        let lean = strip(&program, folder)?;
        pack(&mut archive, &program_path(&program), &lean).map_err(packing())?;
    }
    for name in PROGRAMS.into_iter().chain([BUSYBOX]) {
        let program = search(name)?;
        libraries.extend(libraries_of(&program)?);
        pack(&mut archive, &program_path(&program), &program).map_err(packing())?;
    }
    for library in &libraries {
        pack(&mut archive, &library.to_string_lossy(), library).map_err(packing())?;
    }
    for (place, module) in kernel.modules(&MODULES)?.iter().enumerate() {
        let name = module.file_stem().unwrap_or_default().to_string_lossy();
        let name = name.trim_end_matches(".ko");
        let contents = unpacked(module)?;
        archive
            .file(&format!("/modules/{place:02}-{name}.ko"), &contents)
            .map_err(packing())?;
    }
    archive.finish().map_err(packing())
}

/// Where a program is inside.
fn program_path(program: &Path) -> String {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    format!("/bin/{name}")
}

fn pack<W: std::io::Write>(archive: &mut Archive<W>, path: &str, source: &Path) -> std::io::Result<()> {
    archive.file(path, &fs::read(source)?)
}

/// Finds an installed program.
fn search(name: &str) -> Result<PathBuf, LabError> {
    let mut places = SEARCH_PATH.iter().map(|folder| Path::new(folder).join(name));
    places
        .find(|place| place.is_file())
        .ok_or_else(|| LabError::Unknown {
            what: "installed program (tools/install-deps.sh nic)",
            name: name.to_owned(),
        })
}

/// A copy without what only a debugger reads: it would be most of the archive.
fn strip(program: &Path, folder: &Path) -> Result<PathBuf, LabError> {
    let lean = folder.join(program.file_name().unwrap_or_default());
    let mut line = Command::new("strip");
    line.arg("--strip-debug")
        .arg("-o")
        .args([&lean, &program.to_owned()]);
    command::admin(line)?;
    Ok(lean)
}

/// The shared libraries a program is started with, the loader included; none for a static one.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, LabError> {
    let mut line = Command::new("ldd");
    line.arg(program);
    let told = command::complete(line, command::ADMIN_TIMEOUT)?;
    if !told.status.success() {
        // ldd fails for a static program, and says so.
        let is_static = told.stderr.contains("not a dynamic executable");
        return if is_static {
            Ok(Vec::new())
        } else {
            told.success().map(|_| Vec::new())
        };
    }
    parse_libraries(&told.stdout).map_err(|problem| LabError::Output {
        command: told.command,
        problem,
    })
}

/// Reads what `ldd` says: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader; the kernel's own has no path.
fn parse_libraries(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            return Err(line.trim().to_owned());
        }
        let path = line.split_whitespace().find(|word| word.starts_with('/'));
        found.extend(path.map(PathBuf::from));
    }
    Ok(found)
}

/// A module's contents, unpacked: the kernel takes a packed one only if it was built so.
fn unpacked(module: &Path) -> Result<Vec<u8>, LabError> {
    let program = match module.extension().and_then(OsStr::to_str) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(module).map_err(LabError::io(format!("read {}", module.display()))),
    };
    let mut line = Command::new(program);
    line.arg("-dc").arg(module);
    let action = format!("unpack {} with {program}", module.display());
    let told = line.output().map_err(LabError::io(action.clone()))?;
    if !told.status.success() {
        return Err(LabError::Failed {
            command: command::line_of(&line),
            status: told.status,
            stderr: String::from_utf8_lossy(&told.stderr).trim().to_owned(),
        });
    }
    Ok(told.stdout)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_and_the_kernels_own_left_out() {
        let text = "\tlinux-vdso.so.1 (0x00007ff)\n\
                    \tlibelf.so.1 => /lib/x86_64-linux-gnu/libelf.so.1 (0x00007ff)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007ff)\n";
        let found = parse_libraries(text).unwrap();
        let expected = ["/lib/x86_64-linux-gnu/libelf.so.1", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, expected.map(PathBuf::from));
    }

    #[test]
    fn a_missing_library_is_an_error() {
        let error = parse_libraries("\tlibpcap.so.0.8 => not found\n").unwrap_err();
        assert!(error.contains("libpcap"), "{error}");
    }
}
