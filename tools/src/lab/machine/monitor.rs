//! What only the machine's maker can do to it: QEMU's monitor protocol (QEMU, `docs/interop/qmp-spec.rst`), a line of JSON each
//! way over a socket.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

/// The NIC's name in the machine.
pub(super) const NIC: &str = "uplink";
/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Plugs the NIC's cable in, or pulls it.
pub(super) fn set_cable(socket: &Path, plugged: bool) -> io::Result<()> {
    let arguments = json!({ "name": NIC, "up": plugged });
    give(
        socket,
        &[json!({ "execute": "set_link", "arguments": arguments })],
    )
}

/// Halts the machine and has it go on.
pub(super) fn pause(socket: &Path) -> io::Result<()> {
    give(
        socket,
        &[json!({ "execute": "stop" }), json!({ "execute": "cont" })],
    )
}

/// Gives these commands, one after the other.
fn give(socket: &Path, commands: &[Value]) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut monitor = BufReader::new(stream);
    // Commands are taken once the capabilities that the greeting offers are settled.
    execute(&mut monitor, &json!({ "execute": "qmp_capabilities" }))?;
    commands
        .iter()
        .try_for_each(|command| execute(&mut monitor, command))
}

/// Gives a command and waits for its answer, among greeting and events.
fn execute(monitor: &mut BufReader<UnixStream>, command: &Value) -> io::Result<()> {
    monitor.get_mut().write_all(format!("{command}\n").as_bytes())?;
    loop {
        let mut line = String::new();
        if monitor.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let told: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
        if let Some(error) = told.get("error") {
            return Err(io::Error::other(format!("{command}: {error}")));
        }
        if told.get("return").is_some() {
            return Ok(());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Pulls the cable of a machine whose monitor says these lines: one to begin with, then some for each command.
    fn against(answers: [&'static str; 2]) -> (io::Result<()>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("monitor");
        let listener = UnixListener::bind(&socket).unwrap();
        let heard = thread::spawn(move || {
            let mut lines = BufReader::new(listener.accept().unwrap().0);
            lines.get_mut().write_all(b"{\"QMP\":{}}\n").unwrap();
            let mut heard = Vec::new();
            for answer in answers {
                let mut line = String::new();
                lines.read_line(&mut line).unwrap();
                heard.push(line);
                lines.get_mut().write_all(answer.as_bytes()).unwrap();
            }
            heard
        });
        let result = set_cable(&socket, false);
        (result, heard.join().unwrap())
    }

    #[test]
    fn answers_are_found_among_events_and_refusals_are_errors() {
        let (result, heard) = against([
            "{\"return\":{}}\n",
            "{\"event\":\"NIC_RX_FILTER_CHANGED\"}\n{\"return\":{}}\n",
        ]);
        result.unwrap();
        let command: Value = serde_json::from_str(&heard[1]).unwrap();
        assert_eq!(command["execute"], "set_link");
        assert_eq!(command["arguments"], json!({ "name": "uplink", "up": false }));

        let refusal = "{\"error\":{\"class\":\"DeviceNotFound\",\"desc\":\"no uplink\"}}\n";
        let (result, _) = against(["{\"return\":{}}\n", refusal]);
        assert!(result.unwrap_err().to_string().contains("no uplink"));
    }
}
