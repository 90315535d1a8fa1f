#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use clap::Parser;

use super::*;
use crate::admin::lab::{Lab, packet};
use crate::admin::server::Limits;
use crate::cli::{Cli, ClientCommand};

/// Output that can be looked at, and that a closed pipe can be made of.
#[derive(Clone, Default)]
struct Page {
    text: Arc<Mutex<Vec<u8>>>,
    closed: bool,
}

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.text.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.text.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn take(page: &Page) -> Take {
    Take {
        filter: None,
        sink: Sink::Lines(BufWriter::new(Box::new(page.clone()))),
        stop: Arc::default(),
        deadline: None,
        count: u64::MAX,
        captured: 0,
        lost: 0,
    }
}

fn event(number: u16) -> Result<CaptureEvent, ClientError> {
    Ok(CaptureEvent::Line(CaptureLine::Packet(packet(
        number,
        CaptureDirection::Received,
        "drop no_route",
    ))))
}

fn arguments(line: &str) -> CaptureArguments {
    match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
        crate::cli::Command::Client(ClientCommand::Capture(arguments)) => arguments,
        other => panic!("{other:?}"),
    }
}

/// Captures into a file of its own, and gives what came of it.
fn capture_to_file(port: &str, more: &str) -> (Result<(), Failure>, PathBuf, tempfile::TempDir) {
    let lab = Lab::start(Limits::default());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.pcapng");
    let mut arguments = arguments(&format!(
        "millrace capture --port {port} -w {} {more}",
        file.display()
    ));
    // An expression has spaces.
    arguments.filter = arguments.filter.map(|filter| filter.replace('_', " "));
    (run(&lab.path(), &arguments), file, folder)
}

/// What tcpdump reads in a file.
fn tcpdump(file: &Path) -> Vec<String> {
    let output = Command::new("tcpdump")
        .args(["-n", "-tt", "--nano", "-r"])
        .arg(file)
        .output();
    let output = output.unwrap_or_else(|error| panic!("Debian's package tcpdump is needed: {error}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn lines_tell_time_direction_packet_and_comment() {
    let page = Page::default();
    let mut take = take(&page);
    let sent = packet(40_000, CaptureDirection::Sent, "from\ndefault/web-0");
    let lost = Ok(CaptureEvent::Line(CaptureLine::Lost(7)));
    let events = [
        event(1),
        Ok(CaptureEvent::Line(CaptureLine::Packet(sent))),
        lost,
        Ok(CaptureEvent::Quiet),
    ];
    assert_eq!(take.all(events.into_iter()), Ok(End::ByDaemon));
    assert_eq!((take.captured, take.lost), (2, 7));
    let expected = "\
22:13:20.123456 in  10.244.1.7:1 > 10.244.2.8:53 UDP length 5 [drop no_route]
22:13:20.123496 out 10.244.1.7:40000 > 10.244.2.8:53 UDP length 5 [from default/web-0]
";
    assert_eq!(page.text(), expected);
}

#[test]
fn packets_are_shown_as_soon_as_no_more_are_there() {
    let page = Page::default();
    let mut take = take(&page);
    let looked = page.clone();
    let events = [event(1), Ok(CaptureEvent::Quiet), event(2)]
        .into_iter()
        .enumerate()
        .map(|(i, event)| {
            assert_eq!(looked.text().lines().count(), usize::from(i == 2));
            event
        });
    assert_eq!(take.all(events), Ok(End::ByDaemon));
    assert_eq!(page.text().lines().count(), 2);
}

#[test]
fn count_deadline_signal_and_closed_pipe_end_a_capture() {
    let endless = || (1..).map(event);
    let page = Page::default();
    let mut by_count = Take {
        count: 3,
        ..take(&page)
    };
    assert_eq!(by_count.all(endless()), Ok(End::Enough));
    assert_eq!((by_count.captured, page.text().lines().count()), (3, 3));

    let deadline = Some(Instant::now() + Duration::from_millis(50));
    let mut by_deadline = Take {
        deadline,
        ..take(&Page::default())
    };
    let quiet = std::iter::repeat_with(|| Ok(CaptureEvent::Quiet));
    assert_eq!(by_deadline.all(quiet), Ok(End::Enough));

    let mut by_signal = take(&Page::default());
    let stop = Arc::clone(&by_signal.stop);
    let events = (1..)
        .inspect(|number| stop.store(*number == 5, Ordering::Relaxed))
        .map(event);
    assert_eq!(by_signal.all(events), Ok(End::Enough));
    assert_eq!(by_signal.captured, 5);

    let mut by_pipe = take(&Page {
        closed: true,
        ..Page::default()
    });
    assert_eq!(by_pipe.all(endless().take(60_000)), Ok(End::NobodyReads));
    let mut by_pipe_at_the_end = take(&Page {
        closed: true,
        ..Page::default()
    });
    assert_eq!(
        by_pipe_at_the_end.all([event(1)].into_iter()),
        Ok(End::NobodyReads)
    );
}

#[test]
fn filter_is_libpcap_s() {
    let rows = [
        ("udp", 4),
        ("udp src port 2 or udp src port 3", 2),
        ("tcp", 0),
        ("ip6", 0),
        ("", 4),
        ("less 20", 0),
    ];
    for (expression, count) in rows {
        let mut take = Take {
            filter: Some(compile(expression).unwrap()),
            ..take(&Page::default())
        };
        assert_eq!(take.all((1..=4).map(event)), Ok(End::ByDaemon));
        assert_eq!(take.captured, count, "{expression}");
    }
    for (expression, reason) in [
        ("udp port", "syntax error"),
        ("host 1.2.3.4.5", ""),
        ("ip and and", "syntax error"),
    ] {
        let failure = compile(expression).err().unwrap();
        assert_eq!(failure.status, 2);
        let quoted = failure
            .message
            .contains(&format!("refuses the filter `{expression}`"));
        assert!(quoted && failure.message.contains(reason), "{}", failure.message);
    }
    assert_eq!(compile("udp\0").err().unwrap().status, 2);
}

#[test]
fn packet_that_is_no_base64_is_an_error() {
    let mut broken = packet(1, CaptureDirection::Received, "");
    broken.data = "*".to_owned();
    let events = [event(1), Ok(CaptureEvent::Line(CaptureLine::Packet(broken)))];
    let page = Page::default();
    let failure = take(&page).all(events.into_iter()).unwrap_err();
    assert!(failure.message.contains("base64"), "{}", failure.message);
    assert_eq!(page.text().lines().count(), 1, "what was captured before is kept");
}

#[test]
fn file_is_read_by_tcpdump() {
    let (outcome, file, _folder) = capture_to_file("eth1", "--count 3");
    outcome.unwrap();
    let expected = [
        "1700000000.123456790 IP 10.244.1.7.1 > 10.244.2.8.53: ",
        "1700000000.123456791 IP 10.244.1.7.2 > 10.244.2.8.53: ",
        "1700000000.123456792 IP 10.244.1.7.3 > 10.244.2.8.53: ",
    ];
    let lines = tcpdump(&file);
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}");
    }
    let bytes = std::fs::read(&file).unwrap();
    for text in ["eth1", "drop no_route", "from default/web-0"] {
        assert!(
            bytes.windows(text.len()).any(|window| window == text.as_bytes()),
            "{text}"
        );
    }
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, FILE_MODE);
}

#[test]
fn file_is_whole_also_when_the_daemon_ends_the_capture() {
    let (outcome, file, _folder) = capture_to_file("eth1", "--filter udp_src_port_4");
    let failure = outcome.unwrap_err();
    assert_eq!(failure.status, 1);
    assert!(
        failure.message.contains("the daemon ended the capture"),
        "{}",
        failure.message
    );
    assert_eq!(tcpdump(&file).len(), 1);
}

#[test]
fn quiet_port_ends_by_time_with_an_empty_file() {
    let (outcome, file, _folder) = capture_to_file("quiet", "--seconds 1");
    outcome.unwrap();
    assert_eq!(tcpdump(&file), Vec::<String>::new());
}

#[test]
fn nothing_is_overwritten_for_a_capture_that_does_not_begin() {
    let lab = Lab::start(Limits::default());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("precious");
    std::fs::write(&file, "x").unwrap();
    let rows = [
        ("--port absent", "no port absent", 1),
        ("--port eth1 --filter (", "libpcap refuses", 2),
    ];
    for (line, complaint, status) in rows {
        let arguments = arguments(&format!("millrace capture {line} -w {}", file.display()));
        let failure = run(&lab.path(), &arguments).unwrap_err();
        assert_eq!(failure.status, status);
        assert!(failure.message.contains(complaint), "{}", failure.message);
        assert_eq!(std::fs::read(&file).unwrap(), b"x");
    }
    let arguments = arguments("millrace capture --port eth1 -w /proc/none/x");
    let failure = run(&lab.path(), &arguments).unwrap_err();
    assert!(
        failure.message.contains("cannot write to /proc/none/x"),
        "{}",
        failure.message
    );
}
