//! `kill -9` between any two steps: of the plugin, at every system call that something depends on, and of the daemon, at
//! any moment of an ADD.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::runtime::{
    PLUGIN, Runtime, Sandbox, addresses, assert_reaches, daemon_mut, finish, lab, pod_ports, run,
};

/// What the plugin does to files, to the daemon and to the kernel.
const SYSTEM_CALLS: [&str; 12] = [
    "mkdir",
    "flock",
    "getdents64",
    "write",
    "fsync",
    "rename",
    "unlink",
    "connect",
    "sendto",
    "recvfrom",
    "socket",
    "setns",
];

/// The plugin under `strace` with these options.
fn traced(runtime: &Runtime, verb: &str, pod: &Sandbox, options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]).args(options).arg(PLUGIN);
    runtime.environment(&mut command, verb, Some(pod.container()));
    command
}

/// How often the plugin makes each of the system calls, when nothing stops it.
fn count(runtime: &Runtime, verb: &str, pod: &Sandbox, log: &str) -> Vec<(&'static str, usize)> {
    let config = runtime.config(&runtime.plugins[0], &json!({}), None);
    run(traced(runtime, verb, pod, &["-o", log]), &config).unwrap();
    let text = std::fs::read_to_string(log).unwrap();
    let count = |name: &str| {
        text.lines()
            .filter(|line| line.contains(&format!(" {name}(")))
            .count()
    };
    let counts: Vec<_> = SYSTEM_CALLS
        .iter()
        .map(|name| (*name, count(name)))
        .filter(|(_, count)| *count > 0)
        .collect();
    for (name, expected) in [
        ("flock", 1),
        ("connect", 1),
        ("unlink", usize::from(verb == "DEL")),
    ] {
        let found = counts
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(0, |(_, count)| *count);
        assert!(
            found >= expected,
            "{name} in {counts:?}: the plugin is not seen to do what it does"
        );
    }
    counts
}

/// Kills the plugin when it makes a system call for the n-th time; says whether it came so far.
fn kill_at(runtime: &Runtime, verb: &str, pod: &Sandbox, (name, n): (&str, usize)) -> bool {
    let inject = format!("inject={name}:signal=KILL:when={n}");
    let mut command = traced(runtime, verb, pod, &["-o", "/dev/null", "-e", &inject]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let config = runtime.config(&runtime.plugins[0], &json!({}), None).to_string();
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), config.as_bytes());
    // strace ends as what it traces has ended.
    !child.wait().unwrap().success()
}

#[test]
fn a_plugin_killed_at_any_step_leaves_nothing_that_del_does_not_take_away() {
    let lab = lab("cni-killed", 1);
    let runtime = Runtime::new(&lab, "node-a");
    let (pod, witness) = (Sandbox::new(&lab, "web"), Sandbox::new(&lab, "witness"));
    let at_witness = runtime.add(&witness).unwrap();
    let log = lab.folder().join("strace");
    let log = log.to_str().unwrap();
    let mut killed = 0;
    for verb in ["ADD", "DEL"] {
        if verb == "DEL" {
            runtime.add(&pod).unwrap();
        }
        let counts = count(&runtime, verb, &pod, log);
        runtime.del(&pod).unwrap();
        for (name, count) in counts {
            for n in 1..=count {
                if verb == "DEL" {
                    runtime.add(&pod).unwrap();
                }
                killed += usize::from(kill_at(&runtime, verb, &pod, (name, n)));
                let place = format!("{verb} killed at {name} {n}");
                // What is written down of both is never the same address.
                assert!(runtime.stored() <= 2, "{place}");
                if verb == "ADD" && n % 2 == 1 {
                    // A runtime may also ask again.
                    let added = runtime
                        .add(&pod)
                        .unwrap_or_else(|error| panic!("{place}: {error:?}"));
                    assert_ne!(addresses(&added), addresses(&at_witness), "{place}");
                    runtime
                        .check(&pod)
                        .unwrap_or_else(|error| panic!("{place}: {error:?}"));
                }
                runtime
                    .del(&pod)
                    .unwrap_or_else(|error| panic!("{place}: {error:?}"));
                assert_eq!((runtime.stored(), pod.interfaces()), (1, vec![]), "{place}");
                let ports: Vec<Value> = pod_ports(&lab, "node-a")
                    .iter()
                    .map(|port| port["pod"].clone())
                    .collect();
                assert_eq!(ports, ["lab/witness"], "{place}");
            }
        }
    }
    assert!(killed > 25, "only {killed} were killed");
    runtime.check(&witness).unwrap();
    let added = runtime.add(&pod).unwrap();
    assert_reaches(&witness, &added);
    runtime.del(&pod).unwrap();
    runtime.del(&witness).unwrap();
    finish(lab, &[&runtime], vec![pod, witness]);
}

#[test]
fn a_daemon_killed_in_the_middle_of_an_add_comes_back_to_something_whole() {
    /// How many times, at moments spread over what an ADD takes.
    const ROUNDS: u32 = 6;
    let mut lab = lab("cni-daemon-killed", 1);
    let runtime = Runtime::new(&lab, "node-a");
    let (pod, witness) = (Sandbox::new(&lab, "web"), Sandbox::new(&lab, "witness"));
    runtime.add(&witness).unwrap();
    let began = Instant::now();
    runtime.add(&pod).unwrap();
    let whole = began.elapsed();
    runtime.del(&pod).unwrap();
    for round in 0..ROUNDS {
        let outcome = thread::scope(|scope| {
            let adding = scope.spawn(|| runtime_add(&runtime, &pod));
            thread::sleep(whole * round / ROUNDS);
            daemon_mut(&mut lab, "node-a").kill().unwrap();
            adding.join().unwrap()
        });
        daemon_mut(&mut lab, "node-a").start().unwrap();
        match outcome {
            Some(code) => assert_eq!(code, 11, "round {round}"),
            None => runtime
                .check(&pod)
                .unwrap_or_else(|error| panic!("round {round}: {error:?}")),
        }
        runtime
            .check(&witness)
            .unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        let added = runtime
            .add(&pod)
            .unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        assert_reaches(&witness, &added);
        runtime.del(&pod).unwrap();
        assert_eq!((runtime.stored(), pod.interfaces()), (1, vec![]), "round {round}");
        assert_eq!(pod_ports(&lab, "node-a").len(), 1, "round {round}");
    }
    runtime.del(&witness).unwrap();
    finish(lab, &[&runtime], vec![pod, witness]);
}

/// The code of an ADD that failed.
fn runtime_add(runtime: &Runtime, pod: &Sandbox) -> Option<u64> {
    runtime.add(pod).err().map(|refused| refused.code)
}
