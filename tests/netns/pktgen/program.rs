//! The program as it is called.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::eventually;

fn pktgen(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace-pktgen"));
    command.args(arguments).env("LC_ALL", "C");
    command
}

/// Runs it; answers its exit status, and what it wrote.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = pktgen(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Namespaces of labs of this process.
fn namespaces(pid: u32) -> usize {
    let prefix = format!("mrlab-{pid}-");
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    names
        .filter(|name| name.file_name().to_string_lossy().starts_with(&prefix))
        .count()
}

#[test]
fn the_lab_runs_and_draws_without_a_nic() {
    let folder = tempfile::tempdir().unwrap();
    let (picture, config) = (folder.path().join("run.svg"), folder.path().join("run.toml"));
    fs::write(
        &config,
        "[packets]\nsize = 200\nflows = 100\n[run]\npackets = 1000\nrate = \"2kpps\"\n",
    )
    .unwrap();
    let (status, out, err) = run(&[
        "lab",
        "--between",
        "nothing",
        "--run",
        "--json",
        "--config",
        config.to_str().unwrap(),
        "--size",
        "300",
        "--svg",
        picture.to_str().unwrap(),
    ]);
    assert_eq!((status, err.as_str()), (0, ""));
    let outcome: Value = serde_json::from_str(&out).unwrap();
    let number = |path: &str| outcome.pointer(path).and_then(Value::as_u64);
    assert_eq!(
        (number("/sent/packets"), number("/lost")),
        (Some(1000), Some(0)),
        "{out}"
    );
    assert_eq!(
        number("/sent/bytes"),
        Some(300_000),
        "the line overrides the file"
    );
    assert!(number("/latency/p99.9").is_some());
    let svg = fs::read_to_string(picture).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("Latency") && !svg.contains("NaN"),
        "{svg}"
    );
}

#[test]
fn a_search_in_the_lab_finds_rates_and_latencies() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("search.svg");
    let (status, out, err) = run(&[
        "lab",
        "--json",
        "--progress",
        "--seconds",
        "0.2",
        "--warm-up",
        "0.1",
        "--drain",
        "0.2",
        "--pause",
        "0",
        "--resolution",
        "20",
        "--max-rate",
        "20kpps",
        "--svg",
        picture.to_str().unwrap(),
    ]);
    assert_eq!(status, 0, "{err}");
    let findings: Value = serde_json::from_str(&out).unwrap();
    let at = |path: &str| findings.pointer(path).and_then(Value::as_f64);
    let (ndr, pdr) = (at("/ndr/rate").unwrap(), at("/pdr/rate").unwrap());
    assert!(ndr <= pdr && pdr <= 20_000.0, "{out}");
    if pdr > 0.0 {
        assert_eq!(
            findings
                .pointer("/latency")
                .and_then(Value::as_array)
                .map(Vec::len),
            Some(3),
            "{out}"
        );
    }
    assert!(err.contains("packets/s sent"), "{err}");
    assert!(fs::read_to_string(picture).unwrap().contains("NDR"));
}

#[test]
fn an_interrupt_ends_it_with_what_there_is_and_nothing_is_left() {
    let child = pktgen(&[
        "lab",
        "--run",
        "--rate",
        "1000",
        "--seconds",
        "600",
        "--json",
        "--progress",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let pid = child.id();
    eventually("a lab", || namespaces(pid) == 3);
    // Until the first packets are on their way it may be interrupted as well; here it is in the middle.
    std::thread::sleep(Duration::from_secs(2));
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(outcome.pointer("/seconds").and_then(Value::as_f64).unwrap() < 500.0);
    assert!(outcome.pointer("/sent/packets").is_some());
    assert_eq!(namespaces(pid), 0);
}

#[test]
fn what_is_wrong_is_said_and_told_by_the_exit_status() {
    for (arguments, status, words) in [
        (&["run"][..], 2, "--send INTERFACE"),
        (&["run", "--send", "no-such-one"], 1, "no-such-one"),
        (&["run", "--send", "memory", "--size", "20"], 2, "60 to 1792"),
        (&["run", "--send", "memory", "--rate", "fast"], 2, "no rate"),
        (
            &["run", "--send", "memory", "--config", "/no/such.toml"],
            2,
            "/no/such.toml",
        ),
        (
            &["run", "--send", "memory", "--replay", "/no/such.pcap"],
            2,
            "/no/such.pcap",
        ),
        (&["search", "--send", "memory"], 2, "--receive"),
        (&["fly"], 2, "fly"),
    ] {
        let (found, _, err) = run(arguments);
        assert_eq!(found, status, "{arguments:?}: {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
    let (status, out, _) = run(&["completions", "bash"]);
    assert!(status == 0 && out.contains("millrace-pktgen"));
    let (status, out, _) = run(&["run", "--help"]);
    assert!(status == 0 && out.contains("--new-connections"));
}
