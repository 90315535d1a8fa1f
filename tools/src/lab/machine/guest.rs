//! The guest: what runs inside the virtual machine and does what the lab says over the control port.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::super::command::{Process, complete};
use super::super::manifest::write_whole;
use super::super::{LabError, interrupt};
use super::channel::{Answer, Order, PORT};

/// Where the kernel names its virtio serial ports.
const PORTS: &str = "/sys/class/virtio-ports";

/// Reads orders from the control port and answers them until the port ends; what was started then ends too.
///
/// # Errors
/// [`LabError::Unknown`] where there is no control port: this is no lab's virtual machine. [`LabError::Io`] if the port
/// fails.
pub fn serve() -> Result<(), LabError> {
    let path = find_port()?;
    let action = || format!("use {}", path.display());
    let port = File::options().read(true).write(true).open(&path);
    let port = port.map_err(LabError::io(action()))?;
    let mut writer = port.try_clone().map_err(LabError::io(action()))?;
    talk(port, &mut writer)
}

/// The control port's device.
fn find_port() -> Result<PathBuf, LabError> {
    let listing = fs::read_dir(PORTS).map_err(LabError::io(format!("list {PORTS}")))?;
    let found = listing
        .flatten()
        .find(|entry| fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT));
    let found = found.ok_or_else(|| LabError::Unknown {
        what: "virtio serial port",
        name: PORT.to_owned(),
    })?;
    Ok(Path::new("/dev").join(found.file_name()))
}

/// Answers orders, a line each, until there are no more.
fn talk(orders: impl Read, answers: &mut impl Write) -> Result<(), LabError> {
    let action = || LabError::io("use the control port");
    let mut running = Vec::new();
    say(answers, &Answer::Ready)?;
    for line in BufReader::new(orders).lines() {
        let line = line.map_err(action())?;
        let answer = match serde_json::from_str(&line) {
            Ok(order) => follow(order, &mut running).unwrap_or_else(|error| Answer::Failed {
                problem: error.to_string(),
            }),
            Err(error) => Answer::Failed {
                problem: format!("{line:?}: {error}"),
            },
        };
        say(answers, &answer)?;
        // What has ended in the meantime is reaped, so that its process id shows it gone.
        running.retain_mut(|process: &mut Process| matches!(process.status(), Ok(None)));
        interrupt::check()?;
    }
    Ok(())
}

fn say(answers: &mut impl Write, answer: &Answer) -> Result<(), LabError> {
    let mut line = serde_json::to_vec(answer).map_err(|error| LabError::Output {
        command: "millrace-guest".to_owned(),
        problem: error.to_string(),
    })?;
    line.push(b'\n');
    answers
        .write_all(&line)
        .map_err(LabError::io("answer over the control port"))
}

/// Does what an order says.
fn follow(order: Order, running: &mut Vec<Process>) -> Result<Answer, LabError> {
    match order {
        Order::Run { words, timeout_ms } => {
            let ended = complete(line_from(&words)?, Duration::from_millis(timeout_ms))?;
            Ok(Answer::Ended {
                status: ended.status.into_raw(),
                stdout: ended.stdout,
                stderr: ended.stderr,
            })
        }
        Order::Spawn { words, log } => {
            let process = Process::spawn(line_from(&words)?, Path::new(&log))?;
            let pid = process.pid();
            running.push(process);
            Ok(Answer::Started { pid })
        }
        Order::Read { path } => match fs::read(&path) {
            Ok(bytes) => Ok(Answer::Text {
                text: Some(String::from_utf8_lossy(&bytes).into_owned()),
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Answer::Text { text: None }),
            Err(error) => Err(LabError::io(format!("read {path}"))(error)),
        },
        Order::Write { path, text } => {
            let path = Path::new(&path);
            let (folder, name) = (path.parent(), path.file_name().and_then(|name| name.to_str()));
            let (Some(folder), Some(name)) = (folder, name) else {
                return Err(LabError::Unfit {
                    what: "file",
                    value: path.display().to_string(),
                    rule: "an absolute path with a name at its end",
                });
            };
            fs::create_dir_all(folder).map_err(LabError::io(format!("make {}", folder.display())))?;
            write_whole(folder, name, &text)?;
            Ok(Answer::Written)
        }
    }
}

fn line_from(words: &[String]) -> Result<Command, LabError> {
    let (program, arguments) = words.split_first().ok_or_else(|| LabError::Unfit {
        what: "command",
        value: String::new(),
        rule: "a program, then its arguments",
    })?;
    let mut line = Command::new(program);
    line.args(arguments);
    Ok(line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    /// What the guest answers to these lines.
    fn answers(orders: &[u8]) -> Vec<Answer> {
        let mut out = Vec::new();
        talk(orders, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn lines(orders: &[Order]) -> Vec<u8> {
        let lines = orders
            .iter()
            .map(|order| serde_json::to_string(order).unwrap() + "\n");
        lines.collect::<String>().into_bytes()
    }

    fn run(words: &[&str]) -> Order {
        Order::Run {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            timeout_ms: 10_000,
        }
    }

    #[test]
    fn a_program_is_run_and_its_end_told() {
        let told = answers(&lines(&[run(&["sh", "-c", "echo out; echo err >&2; exit 3"])]));
        let ended = Answer::Ended {
            status: 3 << 8,
            stdout: "out\n".to_owned(),
            stderr: "err\n".to_owned(),
        };
        assert_eq!(told, [Answer::Ready, ended]);
    }

    #[test]
    fn what_cannot_be_done_is_told_and_the_next_order_followed() {
        let mut orders = b"nonsense\n".to_vec();
        orders.extend(lines(&[run(&["/nonexistent/program"]), run(&[]), run(&["true"])]));
        let told = answers(&orders);
        assert_eq!(told.len(), 5);
        for answer in &told[1..4] {
            assert!(matches!(answer, Answer::Failed { .. }), "{answer:?}");
        }
        assert!(matches!(told[4], Answer::Ended { status: 0, .. }), "{told:?}");
    }

    #[test]
    fn files_are_written_and_read_and_what_was_started_ends_with_the_talk() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let told = answers(&lines(&[
            Order::Write {
                path: path("deep/script"),
                text: "exec sleep 60".to_owned(),
            },
            Order::Read {
                path: path("deep/script"),
            },
            Order::Read { path: path("absent") },
            Order::Spawn {
                words: vec!["sh".to_owned(), path("deep/script")],
                log: path("log"),
            },
        ]));
        let text = |text: Option<&str>| Answer::Text {
            text: text.map(str::to_owned),
        };
        assert_eq!(
            told[1..4],
            [Answer::Written, text(Some("exec sleep 60")), text(None)]
        );
        let Answer::Started { pid } = told[4] else {
            panic!("{told:?}")
        };
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
