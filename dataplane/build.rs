//! Compiles the steering programs (C for the BPF target, the project's only C) with clang.
//!
//! The objects land in `OUT_DIR` and are embedded by `src/xdp/program.rs`. `CLANG` names another compiler.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Where the C sources live, relative to the crate.
const SOURCE_DIR: &str = "src/xdp";
/// The sources that become one BPF object each.
const PROGRAMS: [&str; 2] = ["uplink.bpf.c", "port.bpf.c"];
/// What is put before an object's extension, and defined, where it is the kind of program that sees packets in pieces.
const KINDS: [(&str, Option<&str>); 2] = [("", None), ("pieces.", Some("MILLRACE_PIECES"))];
/// Headers the sources include.
const HEADERS: [&str; 3] = ["steering.bpf.h", "packet.bpf.h", "uplink_tables.bpf.h"];

fn main() -> ExitCode {
    match compile_all() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn compile_all() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CLANG");
    for file in PROGRAMS.iter().chain(&HEADERS) {
        println!("cargo::rerun-if-changed={SOURCE_DIR}/{file}");
    }
    let crate_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    // Map values are shared with this process, so the object has the byte order of the machine it will run
    // on.
    let bpf_target = match variable("CARGO_CFG_TARGET_ENDIAN")?.as_str() {
        "big" => "bpfeb",
        _ => "bpfel",
    };
    for program in PROGRAMS {
        for (word, define) in KINDS {
            let object = out_dir.join(program).with_extension(format!("{word}o"));
            let source = crate_dir.join(SOURCE_DIR).join(program);
            compile((&clang, bpf_target), &crate_dir, (&source, &object), define)?;
        }
    }
    Ok(())
}

fn compile(
    (clang, bpf_target): (&str, &str),
    crate_dir: &Path,
    (source, object): (&Path, &Path),
    define: Option<&str>,
) -> Result<(), String> {
    let mut command = Command::new(clang);
    command.args([
        "-target",
        bpf_target,
        "-std=gnu11",
        "-O2",
        "-g",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]);
    // The debug information names sources; keep the build folder's path out of it, so builds are
    // reproducible.
    command.arg(format!("-ffile-prefix-map={}=.", crate_dir.display()));
    if let Some(folder) = multiarch_include_dir() {
        command.arg("-idirafter").arg(folder);
    }
    if let Some(word) = define {
        command.arg(format!("-D{word}"));
    }
    command.arg("-c").arg(source).arg("-o").arg(object);
    let status = command.status().map_err(|error| {
        format!(
            "cannot run `{clang}` to compile {} ({error}): install the Debian package `clang`, \
             or name another clang in the environment variable CLANG",
            source.display()
        )
    })?;
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "`{clang}` could not compile {} ({status}); kernel headers come from the Debian package `linux-libc-dev`",
        source.display()
    ))
}

/// Debian keeps `asm/` in a folder per architecture that clang does not search for the BPF target.
/// `None` where there is no such folder.
fn multiarch_include_dir() -> Option<PathBuf> {
    let output = Command::new("gcc").arg("-print-multiarch").output().ok()?;
    let triplet = String::from_utf8(output.stdout).ok()?;
    let folder = Path::new("/usr/include").join(triplet.trim());
    folder.join("asm").is_dir().then_some(folder)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo did not set {name}: {error}"))
}
