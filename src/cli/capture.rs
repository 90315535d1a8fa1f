//! `millrace capture`: filter, count, and write what the daemon copies.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pcap::{BpfProgram, Capture, Linktype};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::CaptureArguments;
use super::decode::describe;
use super::output::{cannot_write, one_line};
use super::pcapng::PcapngFile;
use crate::admin::client::{CaptureEvent, Client, ClientError};
use crate::admin::protocol::{CaptureDirection, CaptureLine, CapturedPacket, Failure};

/// The file that stands for standard output.
const STANDARD_OUTPUT: &str = "-";
/// Who may read a new file: it holds what pods say to each other.
const FILE_MODE: u32 = 0o600;
/// Exit status of a program that a second Ctrl-C ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Captures until there is enough, the daemon ends it, or Ctrl-C; then says on standard error how much.
///
/// # Errors
/// A filter that libpcap refuses, a file that cannot be written, or what the daemon says.
pub(super) fn run(socket: &Path, arguments: &CaptureArguments) -> Result<(), Failure> {
    let filter = arguments.filter.as_deref().map(compile).transpose()?;
    let to_standard_output = arguments.write.as_deref() == Some(Path::new(STANDARD_OUTPUT));
    if to_standard_output && io::stdout().is_terminal() {
        return Err(Failure::wrong(
            "-w - does not write pcapng to a terminal: give a file, or a pipe to tcpdump -r -",
        ));
    }
    let (begun, stream) = Client::connect(socket)?.capture(&arguments.port)?;
    let sink = open_sink(arguments, &begun)?;
    let stop =
        stop_on_signals().map_err(|error| Failure::failed(format!("cannot wait for Ctrl-C: {error}")))?;
    let deadline = arguments.seconds.and_then(|seconds| {
        // A time too far for the clock to tell is no deadline.
        Instant::now().checked_add(Duration::from_secs(seconds.get()))
    });
    let count = arguments.count.map_or(u64::MAX, |count| count.get());
    let mut take = Take {
        filter,
        sink,
        stop,
        deadline,
        count,
        captured: 0,
        lost: 0,
    };
    let outcome = take.all(stream);
    if !matches!(outcome, Ok(End::NobodyReads)) {
        let plural = |count: u64, one, many| if count == 1 { one } else { many };
        let (packets, copies) = (
            plural(take.captured, "packet", "packets"),
            plural(take.lost, "copy", "copies"),
        );
        eprintln!(
            "{} {packets} captured, {} {copies} lost",
            take.captured, take.lost
        );
    }
    match outcome? {
        End::Enough | End::NobodyReads => Ok(()),
        End::ByDaemon => {
            let port = &arguments.port;
            Err(Failure::failed(format!(
                "the daemon ended the capture: the port {port} is gone, or the daemon stops"
            )))
        }
    }
}

/// Compiles an expression of pcap-filter(7) for Ethernet.
fn compile(expression: &str) -> Result<BpfProgram, Failure> {
    let refused = |error: pcap::Error| {
        let reason = match error {
            pcap::Error::PcapError(reason) => reason,
            other => other.to_string(),
        };
        Failure::wrong(format!(
            "libpcap refuses the filter `{expression}`: {reason}; see pcap-filter(7)"
        ))
    };
    Capture::dead(Linktype::ETHERNET)
        .map_err(refused)?
        .compile(expression, true)
        .map_err(refused)
}

/// A flag that Ctrl-C and SIGTERM set; a second one ends the program at once, should a write be stuck.
fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset, and sets it.
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

type Out = BufWriter<Box<dyn Write>>;

/// Where packets go.
enum Sink {
    Pcapng(PcapngFile<Out>),
    Lines(Out),
}

impl Sink {
    fn put(&mut self, packet: &CapturedPacket, bytes: &[u8]) -> io::Result<()> {
        let time = Duration::from_nanos(packet.time_ns);
        match self {
            Self::Pcapng(file) => file.write(time, packet.direction, &packet.comment, bytes),
            Self::Lines(out) => writeln!(out, "{}", line(packet, bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Pcapng(file) => file.flush(),
            Self::Lines(out) => out.flush(),
        }
    }
}

/// Opens the file, once the daemon has agreed: nothing is overwritten for a capture that does not begin.
fn open_sink(arguments: &CaptureArguments, begun: &Value) -> Result<Sink, Failure> {
    let port = arguments.port.as_str();
    let interface = begun.get("interface").and_then(Value::as_str).unwrap_or(port);
    let standard_output: Box<dyn Write> = Box::new(io::stdout());
    let (out, name): (Box<dyn Write>, _) = match arguments.write.as_deref() {
        None => return Ok(Sink::Lines(BufWriter::new(standard_output))),
        Some(path) if path == Path::new(STANDARD_OUTPUT) => (standard_output, "standard output".to_owned()),
        Some(path) => {
            let name = path.display().to_string();
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(FILE_MODE)
                .open(path);
            (Box::new(file.map_err(|error| cannot_write(&name, &error))?), name)
        }
    };
    let file = PcapngFile::new(BufWriter::new(out), interface, port);
    Ok(Sink::Pcapng(file.map_err(|error| cannot_write(&name, &error))?))
}

/// Time of day (UTC), direction, the packet, and in brackets what the switch says of it.
fn line(packet: &CapturedPacket, bytes: &[u8]) -> String {
    let (seconds, micros) = (packet.time_ns / 1_000_000_000, packet.time_ns / 1000 % 1_000_000);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let direction = match packet.direction {
        CaptureDirection::Received => "in ",
        CaptureDirection::Sent => "out",
    };
    let (what, comment) = (describe(bytes), one_line(&packet.comment));
    format!(
        "{hour:02}:{minute:02}:{second:02}.{micros:06} {direction} {} [{comment}]",
        one_line(&what)
    )
}

/// Why a capture ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// So many packets, such a time, or Ctrl-C.
    Enough,
    /// The other end of the pipe is closed.
    NobodyReads,
    /// The daemon ended it.
    ByDaemon,
}

/// A capture being taken.
struct Take {
    filter: Option<BpfProgram>,
    sink: Sink,
    stop: Arc<AtomicBool>,
    deadline: Option<Instant>,
    count: u64,
    captured: u64,
    lost: u64,
}

impl Take {
    /// Takes packets to the end, and leaves the output whole.
    fn all(
        &mut self,
        stream: impl Iterator<Item = Result<CaptureEvent, ClientError>>,
    ) -> Result<End, Failure> {
        let taken = self.until_end(stream);
        let flushed = self.flush();
        let end = taken?;
        Ok(flushed?.unwrap_or(end))
    }

    fn until_end(
        &mut self,
        stream: impl Iterator<Item = Result<CaptureEvent, ClientError>>,
    ) -> Result<End, Failure> {
        for event in stream {
            let end = match event? {
                CaptureEvent::Line(CaptureLine::Packet(packet)) => self.take(&packet)?,
                CaptureEvent::Line(CaptureLine::Lost(lost)) => {
                    self.lost = lost;
                    None
                }
                CaptureEvent::Quiet => self.flush()?,
            };
            if let Some(end) = end {
                return Ok(end);
            }
            let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if late || self.stop.load(Ordering::Relaxed) {
                return Ok(End::Enough);
            }
        }
        Ok(End::ByDaemon)
    }

    /// Takes one packet if it matches; the end when it was the last.
    fn take(&mut self, packet: &CapturedPacket) -> Result<Option<End>, Failure> {
        let bytes = BASE64.decode(&packet.data).map_err(|error| {
            Failure::failed(format!(
                "the daemon sent a packet that is not base64 ({error}): is it of the same version?"
            ))
        })?;
        if self.filter.as_ref().is_some_and(|filter| !filter.filter(&bytes)) {
            return Ok(None);
        }
        if let Some(end) = written(self.sink.put(packet, &bytes))? {
            return Ok(Some(end));
        }
        self.captured += 1;
        Ok((self.captured >= self.count).then_some(End::Enough))
    }

    fn flush(&mut self) -> Result<Option<End>, Failure> {
        written(self.sink.flush())
    }
}

/// A pipe that nobody reads is an end, another error of writing a failure.
fn written(outcome: io::Result<()>) -> Result<Option<End>, Failure> {
    match outcome {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Some(End::NobodyReads)),
        Err(error) => Err(cannot_write("the capture's output", &error)),
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
