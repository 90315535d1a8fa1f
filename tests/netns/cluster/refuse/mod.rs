//! Bad input and missing means: one line that says what, where, and what would be right, the right exit status, and
//! nothing changed.

mod request;
mod start;
mod users;

use std::time::Duration;

use millrace_tools::lab::{Daemon, Finished, Namespace, complete};

/// Longer than a start that fails takes.
const FAILING: Duration = Duration::from_secs(20);

/// Exit statuses, as `millrace --help` has them.
const FAILED: i32 = 1;
const WRONG: i32 = 2;

/// Checks that a command ended with this status and said one line with these words.
fn assert_refused(name: &str, ended: &Finished, status: i32, words: &[&str]) {
    assert_eq!(ended.status.code(), Some(status), "{name}: {ended:?}");
    let said: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.starts_with("millrace: "))
        .collect();
    assert_eq!(said.len(), 1, "{name}: one line is wanted\n{}", ended.stderr);
    assert!(
        ended.stderr.trim_end().ends_with(said[0]),
        "{name}: and nothing after it\n{}",
        ended.stderr
    );
    for word in words {
        assert!(said[0].contains(word), "{name}: {word:?} is not in {}", said[0]);
    }
    assert!(!ended.stderr.contains("panicked"), "{name}: {}", ended.stderr);
}

/// `millrace run` in the node's namespace, through another command's hands (`setpriv`) if given.
fn run(namespace: &Namespace, daemon: &Daemon, through: &[&str]) -> Finished {
    let program = env!("CARGO_BIN_EXE_millrace");
    let config = daemon.config();
    let words = [through, &[program, "run", "--config", config.to_str().unwrap()]].concat();
    let mut line = namespace.command(words[0]);
    line.args(&words[1..]);
    complete(line, FAILING).unwrap()
}
